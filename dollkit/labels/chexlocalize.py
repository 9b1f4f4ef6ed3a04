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
from tqdm.auto import tqdm

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data import named
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.images import fit, load_image, unfit
from dollkit.data.store_writer import writing
from dollkit.explanations.ensemble import ExplainerSettings, explain_all
from dollkit.labels.make import device_of, find_classifiers, mean_probability
from dollkit.labels.maps_to_labels import LabelSettings, Rule, maps_to_labels
from dollkit.labels.summary import mean_interval
from dollkit.training.classifiers import Classifier, load_classifiers

COLUMNS = [
    "finding", "iou", "iou_lo", "iou_hi", "n", "iou_all", "iou_all_lo", "iou_all_hi", "n_all",
    "hit_rate", "hit_lo", "hit_hi", "n_hit",
]  # fmt: skip
CASE_COLUMNS = ["image_id", "patient_id", "finding", "iou", "iou_all", "hit"]
SCORES = (("iou", "iou", "n"), ("iou_all", "iou_all", "n_all"), ("hit", "hit_rate", "n_hit"))
"""Score of a case, its mean in the table, and the number of films behind it."""
BATCH = 8


def score_case(
    heat: npt.NDArray[np.floating] | None, truth: npt.NDArray[np.uint8], rule: Rule
) -> dict[str, float]:
    """Scores of one finding on one film, of a (height, width) mask on the film's own grid.

    `heat` is (S, S), None where the finding was not called; a constant map calls nothing. ``iou``
    is NaN unless both masks are non-empty, ``iou_all`` only if both are empty; ``hit`` is 1 or 0,
    NaN without a mask or a map.
    """
    inside, hit = truth.astype(bool), np.nan
    called = np.zeros_like(inside)
    if heat is not None:
        m = unfit(heat, *truth.shape)
        low, high = float(m.min()), float(m.max())
        if high > low:
            m = (m - low) / (high - low)
            called = m >= rule.level(m)
        if inside.any():
            hit = float(inside.flat[int(m.argmax())]) if called.any() else 0.0
    union = int((inside | called).sum())
    overlap = int((inside & called).sum()) / union if union else np.nan
    both = inside.any() and called.any()
    return {"iou": overlap if both else np.nan, "iou_all": overlap, "hit": hit}


def localisation_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Means per finding, then their ``mean``, with 95 % bootstrap intervals over patients."""
    rows = []
    for finding in (*FINDINGS, "mean"):
        part = scores if finding == "mean" else scores[scores["finding"] == finding]
        if len(part):
            row: dict[str, object] = {"finding": finding}
            for column, mean, count in SCORES:
                row[mean], row[f"{column}_lo"], row[f"{column}_hi"] = mean_interval(part, column)
                row[count] = int(part[column].notna().sum())
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def score(
    folder: Path, classifiers: Sequence[Path], out: Path, *,
    split: str = "test", size: int = 224, cutoff: float = 0.5,
) -> pd.DataFrame:  # fmt: skip
    """`localisation_table` of trained classifiers (see `find_classifiers`) on a data set's masks.

    The CSV file `out` gets the table, ``NAME.cases.csv`` beside it the cases. `size` is the side
    that the classifiers learnt at. A finding of a mean probability below `cutoff` is not called.
    """
    if not 0 <= cutoff < 1:
        raise InputError(f"parameter 'cutoff' is {cutoff}: it must lie in [0, 1)")
    folders = find_classifiers(classifiers)
    table = named("chexlocalize").tables(folder)["films"]
    known = [c for c in table.mask_classes if c in PATHOLOGIES]
    rows = (table.films["split"] == split) & table.masks[known].notna().any(axis=1)
    if not rows.any():
        raise InputError(f"{folder}: no film of split {split!r} has a mask of a finding")
    films, masks = (t[rows].reset_index(drop=True) for t in (table.films, table.masks))
    table = replace(table, films=films, masks=masks)
    check_files(table)
    models = load_classifiers(folders, compute.device())
    starts = tqdm(range(0, len(table.films), BATCH), desc="score", disable=None)
    parts = [_score_films(table, i, known, models, size, cutoff) for i in starts]
    scores = pd.concat(parts, ignore_index=True)
    result = localisation_table(scores)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        scores.to_csv(out.with_suffix(".cases.csv"), index=False, lineterminator="\n")
        result.to_csv(out, index=False, lineterminator="\n")
    return result


def _score_films(
    table: FilmTable, start: int, known: Sequence[str], models: Mapping[str, Classifier],
    size: int, cutoff: float,
) -> pd.DataFrame:  # fmt: skip
    """Cases of `BATCH` films from `start` on, with the columns `CASE_COLUMNS`."""
    films = table.films.iloc[start : start + BATCH]
    native = [load_image(p, table.depths, table.any_ending) for p in films["path"]]
    images = np.stack([fit(image, size) for image in native])
    x = compute.to_input(images, device_of(models))
    called = mean_probability(models, x) >= cutoff
    masks = [
        {f: m for f in known if (m := table.masks[f].iloc[start + i]) is not None}
        for i in range(len(films))
    ]
    targets = [
        [c for c in map(FINDINGS.index, of_film) if calls[c]]
        for of_film, calls in zip(masks, called, strict=True)
    ]
    settings, maps = LabelSettings(), {}
    if any(targets):
        explained = explain_all(models, x, targets, ExplainerSettings())
        pairs = [(i, FINDINGS[c]) for i, channels in enumerate(targets) for c in channels]
        film, names = zip(*pairs, strict=True)
        signed = explained.maps, explained.probability
        refined, _, _ = maps_to_labels(*signed, settings, names, images[[*film]])
        maps = dict(zip(pairs, refined, strict=True))
    rows = []
    for i, of_film in enumerate(masks):
        about = {c: str(films[c].iloc[i]) for c in ("image_id", "patient_id")}
        for f, mask in of_film.items():
            truth = (mask.load(*native[i].shape) == 1).astype(np.uint8)
            values = score_case(maps.get((i, f)), truth, settings.rule(f))
            rows.append(about | {"finding": f} | values)
    return pd.DataFrame(rows, columns=CASE_COLUMNS)
