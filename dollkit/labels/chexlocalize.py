"""CheXlocalize's protocol (Saporta et al. 2022): heat maps against masks on the films' own grid.

A map is upsampled bilinearly to its film's size, scaled to [0, 1] by its minimum and maximum, and
cut by Otsu's threshold or by one tuned per finding. Where no map is made (the finding was not
called), the prediction is empty. IoU counts either where both masks are non-empty (the published
default) or wherever one of them is; the hit rate asks whether the map's maximum lies in the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.classifiers.model import Classifier, load_classifiers
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data import named
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.images import fit, load_image, unfit
from dollkit.data.store_writer import unwritable
from dollkit.explanations.ensemble import Explain, explain_all
from dollkit.labels.make import find_classifiers
from dollkit.labels.steps import Distil
from dollkit.labels.steps import distil as label
from dollkit.labels.threshold_rules import OTHER, Rule, rule_of

COLUMNS = [
    "finding", "iou", "iou_lo", "iou_hi", "n", "iou_all", "iou_all_lo", "iou_all_hi", "n_all",
    "hit_rate", "hit_lo", "hit_hi", "n_hit",
]  # fmt: skip
OTSU: Mapping[str, float | str] = {}


def segment(
    heat: npt.NDArray[np.floating], height: int, width: int, rule: Rule
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A map on its film's grid, and its mask.

    Args:
        heat: (S, S) map on the square grid.
        height, width: of the film.
        rule: threshold of the map in [0, 1]; ``peak 0.4`` is the threshold 0.4.

    Returns:
        (height, width) float32 in [0, 1], and uint8 in {0, 1}; a constant map is zero and empty.
    """
    m = unfit(heat, height, width)
    low, high = float(m.min()), float(m.max())
    if not high > low:
        return np.zeros_like(m), np.zeros(m.shape, np.uint8)
    m = (m - low) / (high - low)
    return m, (m >= rule.level(m)).astype(np.uint8)


def case(
    heat: npt.NDArray[np.floating] | None, truth: npt.NDArray[np.uint8], rule: Rule
) -> dict[str, float]:
    """Scores of one finding on one film.

    Args:
        heat: (S, S) map; None: the finding was not called.
        truth: (height, width) mask in {0, 1} on the film's own grid; empty: it is not there.

    Returns:
        ``iou``: NaN unless both masks are non-empty; ``iou_all``: NaN only if both are empty;
        ``hit``: 1 or 0, NaN without a mask or a map.
    """
    inside = truth.astype(bool)
    called = np.zeros_like(inside)
    hit = np.nan
    if heat is not None:
        m, cut = segment(heat, truth.shape[0], truth.shape[1], rule)
        called = cut.astype(bool)
        if inside.any():
            hit = float(inside.flat[int(m.argmax())]) if called.any() else 0.0
    union = int((inside | called).sum())
    overlap = int((inside & called).sum()) / union if union else np.nan
    both = inside.any() and called.any()
    return {"iou": overlap if both else np.nan, "iou_all": overlap, "hit": hit}


def cases(
    maps: Mapping[tuple[str, str], npt.NDArray[np.floating]],
    truth: Mapping[tuple[str, str], npt.NDArray[np.uint8]],
    patients: Mapping[str, str],
    thresholds: Mapping[str, float | str] = OTSU,
) -> pd.DataFrame:
    """Scores of every film and finding with a known mask.

    Args:
        maps: (film, finding) -> (S, S); missing: not called.
        truth: (film, finding) -> (height, width) mask, empty where the finding is not there.
        patients: film -> patient.
        thresholds: finding -> rule, see `dollkit.labels.threshold_rules`; Otsu's for those not
        listed.

    Returns:
        Columns image_id, patient_id, finding, iou, iou_all, hit.
    """
    stray = [key for key in maps if key not in truth]
    if stray:
        film, finding = stray[0]
        raise InputError(
            f"film {film}: a map of {finding} but no mask to judge it by: leave it out"
        )
    rows = [
        {"image_id": film, "patient_id": patients[film], "finding": finding}
        | case(maps.get((film, finding)), mask, rule_of(finding, thresholds))
        for (film, finding), mask in truth.items()
    ]
    columns = ["image_id", "patient_id", "finding", "iou", "iou_all", "hit"]
    return pd.DataFrame(rows, columns=columns)


def localisation_table(scores: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means per finding with 95 % percentile intervals of a bootstrap over patients.

    Args:
        scores: rows of `cases`.
        draws: resamples; patients are drawn once for all findings.

    Returns:
        `COLUMNS`; one row per finding, then ``mean``, the mean over findings. n, n_all and n_hit
        count the films behind iou, iou_all and hit_rate.
    """
    names, who = np.unique(scores["patient_id"].to_numpy().astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / max(1, len(names))), size=draws
    )
    found = [f for f in FINDINGS if (scores["finding"] == f).any()]
    rows: list[dict[str, object]] = []
    spread: dict[str, list[npt.NDArray[np.float64]]] = {}
    stems = {"iou": "iou", "iou_all": "iou_all", "hit": "hit_rate"}
    counts = {"iou": "n", "iou_all": "n_all", "hit": "n_hit"}
    for finding in found:
        row: dict[str, object] = {"finding": finding}
        own = (scores["finding"] == finding).to_numpy()
        for column, stem in stems.items():
            values = scores[column].to_numpy(dtype=float)
            ok = own & np.isfinite(values)
            row[stem] = float(values[ok].mean()) if ok.any() else np.nan
            row[counts[column]] = int(ok.sum())
            weight = drawn[:, who[ok]].astype(np.float64)
            with np.errstate(invalid="ignore"):
                means = (weight @ values[ok]) / weight.sum(1)
            spread.setdefault(column, []).append(means)
            row[f"{column}_lo"], row[f"{column}_hi"] = _interval(means)
        rows.append(row)
    if rows:
        mean: dict[str, object] = {"finding": "mean"}
        for column, stem in stems.items():
            every = np.stack(spread[column])
            values = np.array([r[stem] for r in rows], dtype=float)
            known = np.isfinite(values)
            mean[stem] = float(values[known].mean()) if known.any() else np.nan
            part = every[known]
            ok = np.isfinite(part)
            with np.errstate(invalid="ignore"):
                means = np.where(ok, part, 0).sum(0) / ok.sum(0)
            mean[f"{column}_lo"], mean[f"{column}_hi"] = _interval(means)
        for count in counts.values():
            mean[count] = sum(int(str(r[count])) for r in rows)
        rows.append(mean)
    return pd.DataFrame(rows, columns=COLUMNS)


def _interval(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    known = means[np.isfinite(means)]
    if len(known) < 2:
        return float("nan"), float("nan")
    lo, hi = np.percentile(known, [2.5, 97.5])
    return float(lo), float(hi)


# Score trained classifiers' maps against finding masks on the films' own grid (CheXlocalize).


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
    """Localise findings and judge by CheXlocalize's protocol, see `dollkit.labels.chexlocalize`.

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
    one = named(dataset)
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
    made = localisation_table(cases)
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
    return cases(maps, truth, patients, rules)
