"""Which step loses what: the shipped labels beside labels that are told one thing by the truth.

Each *oracle* is given one thing that no label maker can know (the area of the finding, the best
threshold of the film, which classifier to ask, the place), all else unchanged. What it gains is
the most that a better way of finding this one thing could bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import binary_dilation

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.training import metrics

ARRAYS = ("finding", "map", "maps", "probability", "label", "truth", "iou")
"""What is needed of the arrays in ``labels/examples.npz``."""

STEPS = {
    "iou_label": "label as shipped",
    "iou_area": "area known",
    "iou_threshold": "best threshold of each film",
    "iou_classifier": "area and best map known",
    "iou_place": "area and place (box) known",
    "iou_form": "area, place and form known",
}
"""Columns of `losses` that are labels and oracles, and how they are called in print."""

GROUPS = ("called", "missed", "smallest", "largest")
COLUMNS = [
    "finding", *STEPS, *(f"iou_{g}" for g in GROUPS), "n", *(f"n_{g}" for g in GROUPS)
]  # fmt: skip
MARGIN = 0.03
"""By how much the place oracles are wider than the truth: a share of the side, at least a pixel."""

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]


def losses(arrays: Arrays) -> pd.DataFrame:
    """Which step loses what, for each finding and on average.

    Args:
        arrays: those of ``labels/examples.npz``; pairs with an empty truth are left out.

    Returns:
        One row per finding, then ``mean`` (mean over the findings that have a value). IoU:

        - iou_label: of the label, at its own threshold;
        - iou_area: of the map's top pixels, as many as the truth has;
        - iou_threshold: of the map at the threshold that is best for this film;
        - iou_classifier: as iou_area, of the best of the single classifiers' maps and the
          consensus;
        - iou_place: as iou_area, of the map inside a box around the truth (`MARGIN` wider);
        - iou_form: the same inside the truth itself, `MARGIN` wider along its contour;
        - iou_called, iou_missed: iou_area on films to which the classifiers give the finding a
          mean probability of at least, or below, one half;
        - iou_smallest, iou_largest: iou_area on the third of each finding's films with the
          smallest and largest truth; NaN for findings with fewer than three.

        n: pairs of film and finding; n_called and so on: of each group.
    """
    cases = per_case(arrays)
    rows: list[dict[str, object]] = []
    for finding in PATHOLOGIES:
        part = cases[cases["finding"] == finding]
        if part.empty:
            continue
        row = {"finding": finding, "n": len(part), **part[list(STEPS)].mean()}
        for group in GROUPS:
            iou = part.loc[part[group], "iou_area"]
            row |= {f"iou_{group}": iou.mean(), f"n_{group}": len(iou)}
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    values = [c for c in COLUMNS if c.startswith("iou_")]
    counts = [c for c in COLUMNS if c.startswith("n")]
    mean = {"finding": "mean"} | table[values].mean().to_dict() | table[counts].sum().to_dict()
    return pd.concat([table, pd.DataFrame([mean])], ignore_index=True)


def per_case(arrays: Arrays) -> pd.DataFrame:
    """One row per pair: finding, the columns `STEPS`, and a bool for each of `GROUPS`."""
    seen = _checked(arrays)
    finding, truth = arrays["finding"][seen].astype(str), arrays["truth"][seen]
    label = (arrays["label"][seen] == 1).astype(np.uint8)
    margin = max(1, round(MARGIN * truth.shape[-1]))
    table = pd.DataFrame({"finding": finding, "iou_label": metrics.iou_of_masks(label, truth)})
    table["iou_area"] = arrays["iou"][seen].astype(np.float64)
    oracles = []
    for at, area, t in zip(seen, table["iou_area"], truth, strict=True):
        # One case at a time: maps of all classifiers at once may not fit into memory.
        m = arrays["map"][at].astype(np.float32)
        single = arrays["maps"][at].astype(np.float32)
        every = metrics.iou_matched(single, np.broadcast_to(t, single.shape))
        box, outline = _box(t, margin), binary_dilation(t, iterations=margin)
        classifier = max(area, every.max())
        oracles.append(
            (best_threshold(m, t), classifier, _within(m, t, box), _within(m, t, outline))
        )
    table[["iou_threshold", "iou_classifier", "iou_place", "iou_form"]] = np.array(oracles)
    table["called"] = arrays["probability"][seen].astype(np.float64).mean(1) >= 0.5
    table["missed"] = ~table["called"]
    size = pd.Series(truth.astype(bool).sum((1, 2)))
    of_finding = size.groupby(finding)
    enough = of_finding.transform("size") >= 3
    table["smallest"] = enough & (size <= of_finding.transform("quantile", 1 / 3))
    table["largest"] = enough & (size >= of_finding.transform("quantile", 2 / 3))
    return table


def best_threshold(m: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> float:
    """Highest IoU that any threshold on a map (S, S) reaches."""
    order = np.argsort(-m, axis=None, kind="stable")
    values = m.reshape(-1)[order]
    inside = np.cumsum(truth.reshape(-1)[order].astype(bool))
    # Equal values fall on the same side of any threshold.
    last = np.append(values[1:] != values[:-1], True)
    called = np.arange(1, len(values) + 1)
    overlap: Floats = inside / (called + inside[-1] - inside)
    return float(overlap[last].max())


def _checked(arrays: Arrays) -> npt.NDArray[np.intp]:
    """Places of the pairs with a truth."""
    again = "run the labels' stage again"
    for name in ARRAYS:
        if name not in arrays:
            raise InputError(f"array {name!r} of the labels is missing; {again}")
        n, rows = len(arrays["finding"]), len(arrays[name])
        if rows != n:
            raise InputError(
                f"array {name!r} of the labels has {rows} rows, 'finding' {n}; {again}"
            )
    seen = np.flatnonzero(arrays["truth"].any((1, 2)))
    if not seen.size:
        raise InputError("no label has a truth to be judged by; there is no loss to tell")
    return seen


def _box(truth: npt.NDArray[np.uint8], margin: int) -> npt.NDArray[np.bool_]:
    """Inside the box around a mask, `margin` wider on each side."""
    sides = [np.flatnonzero(truth.any(axis)) for axis in (1, 0)]
    box = tuple(slice(max(0, at[0] - margin), at[-1] + margin + 1) for at in sides)
    inside = np.zeros(truth.shape, bool)
    inside[box] = True
    return inside


def _within(
    m: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], place: npt.NDArray[np.bool_]
) -> float:
    """IoU at matched area of a map that cannot leave a place."""
    kept = np.where(place, m, -1).astype(np.float32)
    return float(metrics.iou_matched(kept[None], truth[None])[0])
