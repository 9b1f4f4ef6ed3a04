"""Score trained classifiers' maps against finding masks on the films' own grid (CheXlocalize)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit import compute, localisation
from dollkit.classifiers import Classifier, load_classifiers
from dollkit.decode import load_image
from dollkit.errors import InputError
from dollkit.explaining import Explain, explain_all
from dollkit.findings import FINDINGS, PATHOLOGIES
from dollkit.images import fit
from dollkit.labels.making import find_classifiers
from dollkit.labels.rules import OTHER
from dollkit.labels.steps import Distil
from dollkit.labels.steps import distil as label
from dollkit.readers import datasets
from dollkit.readers.table import FilmTable, check_files
from dollkit.storewriter import unwritable

BATCH = 8
CUTOFF = 0.5


def score(
    folder: Path,
    classifiers: Sequence[Path],
    out: Path,
    *,
    dataset: str = "chexlocalize",
    split: str = "test",
    size: int = 224,
    how: Explain | None = None,
    distil: Distil | None = None,
    cutoff: float = CUTOFF,
    limit: int | None = None,
) -> pd.DataFrame:
    """Localise findings and judge by CheXlocalize's protocol, see `dollkit.localisation`.

    Args:
        folder: holds the data set.
        classifiers: folders, see `making.find_classifiers`.
        out: CSV file of the table; the cases go beside it, as ``NAME.cases.csv``.
        dataset: name of any data set whose reader gives masks of findings.
        split: ``test``, ``valid`` or ``train``.
        size: side in pixels that the classifiers learnt at.
        how, distil: settings; None: the defaults, which cut by Otsu's threshold.
        cutoff: mean probability from which a finding is called; below it, its mask is empty.
        limit: only the first films with a mask.

    Returns:
        Table of `localisation.table`, 1,000 bootstraps over patients.
    """
    if not 0 <= cutoff < 1:
        raise InputError(f"parameter 'cutoff' is {cutoff}: it must lie in [0, 1)")
    folders = find_classifiers(classifiers)
    one = datasets.named(dataset)
    table = one.read(one.locate(folder)).get("films")
    known = [] if table is None else [c for c in table.mask_classes if c in PATHOLOGIES]
    if table is None or not known:
        raise InputError(f"{folder}: {dataset} has no masks of findings to judge by")
    rows = _rows(table, split, known)[:limit]
    if not rows:
        raise InputError(f"{folder}: no film of split {split!r} has a mask of a finding")
    check_files(_part(table, rows))
    models = load_classifiers(folders, compute.device())
    how, distil = how or Explain(), distil or Distil()
    parts = []
    bar = tqdm(total=len(rows), desc="score", unit="film", disable=None)
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        parts.append(_judge(table, some, known, models, size, how, distil, cutoff))
        bar.update(len(some))
    bar.close()
    cases = pd.concat(parts, ignore_index=True)
    made = localisation.table(cases)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        cases.to_csv(out.with_suffix(".cases.csv"), index=False, lineterminator="\n")
        made.to_csv(out, index=False, lineterminator="\n")
    except OSError as error:
        raise unwritable(out.parent, error) from None
    return made


def _rows(table: FilmTable, split: str, known: Sequence[str]) -> list[int]:
    own = table.films["split"].to_numpy() == split
    has = table.masks[list(known)].notna().any(axis=1).to_numpy()
    return [int(i) for i in np.flatnonzero(own & has)]


def _part(table: FilmTable, rows: Sequence[int]) -> FilmTable:
    films, masks = (t.iloc[list(rows)].reset_index(drop=True) for t in (table.films, table.masks))
    return replace(table, films=films, masks=masks)


def _judge(
    table: FilmTable, rows: Sequence[int], known: Sequence[str], models: Mapping[str, Classifier],
    size: int, how: Explain, distil: Distil, cutoff: float,
) -> pd.DataFrame:  # fmt: skip
    """Cases of some films."""
    where = next(iter(models.values())).head.weight.device
    films = table.films.iloc[list(rows)]
    native = [load_image(p, table.depths, table.any_ending) for p in films["path"]]
    images = np.stack([fit(image, size) for image in native])
    x = compute.to_input(images, where)
    with torch.inference_mode():
        p = torch.stack([torch.sigmoid(m(x).float()) for m in models.values()]).mean(0)
    called = p.cpu().numpy() >= cutoff
    ids = films["image_id"].astype(str).to_list()
    truth: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}
    targets: list[list[int]] = []
    for i, row in enumerate(rows):
        masks = {f: table.masks[f].iloc[row] for f in known}
        own = {f: m for f, m in masks.items() if m is not None}
        h, w = native[i].shape
        truth |= {(ids[i], f): (m.load(h, w) == 1).astype(np.uint8) for f, m in own.items()}
        targets.append([FINDINGS.index(f) for f in own if called[i, FINDINGS.index(f)]])
    pairs = [(i, FINDINGS[t]) for i, wanted in enumerate(targets) for t in wanted]
    maps: dict[tuple[str, str], npt.NDArray[np.floating]] = {}
    if pairs:
        made = explain_all(models, x, targets, how)
        names, of = [f for _, f in pairs], [i for i, _ in pairs]
        boosted, _, _ = label(made.maps, made.probability, distil, names, images[of])
        maps = {(ids[i], f): m for (i, f), m in zip(pairs, boosted, strict=True)}
    rules = {f: str(distil.rule(f)) for f in (*known, OTHER)}
    patients = dict(zip(ids, films["patient_id"].astype(str), strict=True))
    return localisation.cases(maps, truth, patients, rules)
