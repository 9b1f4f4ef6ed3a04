"""Labels in numbers: their quality from per-case rows, what is lost where, what a store holds.

Which step loses what is told by *oracles*: labels that are given one thing that no label maker can
know (the finding's area, the film's best threshold, which classifier to ask, the place), all else
unchanged. What they gain is the most that a better way of finding this one thing could bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import binary_dilation, find_objects

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.common.statistics import bootstrap_interval, patient_values, seen_enough
from dollkit.labels.store import LabelStore
from dollkit.training import metrics

SUMMARY_COLUMNS = [
    "finding", "explainer", "n_classifiers", "iou_matched", "iou_matched_lo", "iou_matched_hi",
    "iou_label", "iou_label_lo", "iou_label_hi", "iou_chance", "iou_prior", "precision", "recall",
    "hit_rate", "hit_lo", "hit_hi", "energy", "area", "n",
]  # fmt: skip
ABLATION_COLUMNS = [
    "factor", "value", "iou_matched", "iou_lo", "iou_hi", "hit_rate", "iou_label", "precision",
    "recall", "n", "delta", "delta_lo", "delta_hi",
]  # fmt: skip
CASE = ["image_id", "finding"]

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
LOSS_COLUMNS = [
    "finding", *STEPS, *(f"iou_{g}" for g in GROUPS), "n", *(f"n_{g}" for g in GROUPS)
]  # fmt: skip
MARGIN = 0.03
"""By how much the place oracles are wider than the truth: a share of the side, at least a pixel."""

Arrays = Mapping[str, npt.NDArray[Any]]


def mean_interval(part: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over findings of means over films, with a 95 % bootstrap interval over patients."""
    if part.empty:
        return np.nan, np.nan, np.nan
    _, units = patient_values(part[value], part["patient_id"], part["finding"])
    return (float(units.mean()), *bootstrap_interval(units))


def judged(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases of findings that enough patients have, which alone enter means; all, if none has."""
    enough = seen_enough(cases["patient_id"], cases["finding"])
    return cases[enough] if enough.any() else cases


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """Label quality per finding, explainer and number of classifiers, with `SUMMARY_COLUMNS`.

    The shipped labels, the same with fewer classifiers (mean over all subsets of that size) and the
    other explainers; row ``mean`` averages the findings that are `judged`. iou_matched, iou_chance
    and iou_prior are at the truth's own area, iou_label, precision and recall at the label's own
    threshold; energy is the share of the map inside the truth, by chance its share of the film.
    """
    chosen = cases[cases["factor"].isin(["shipped", "classifiers", "explainer"])]
    rows: list[dict[str, object]] = []
    for (explainer, count), setting in chosen.groupby(["explainer", "n_classifiers"]):
        for finding in (*PATHOLOGIES, "mean"):
            part = judged(setting) if finding == "mean" else setting[setting["finding"] == finding]
            if part.empty:
                continue
            row: dict[str, object] = {
                "finding": finding, "explainer": explainer, "n_classifiers": count,
                "n": len(part[CASE].drop_duplicates()),
            }  # fmt: skip
            for value in ("iou_matched", "iou_label"):
                row[value], row[f"{value}_lo"], row[f"{value}_hi"] = mean_interval(part, value)
            row["hit_rate"], row["hit_lo"], row["hit_hi"] = mean_interval(part, "hit")
            per_finding = part.groupby("finding")
            names = ("iou_chance", "iou_prior", "precision", "recall", "energy", "area")
            row |= {k: float(per_finding[k].mean().mean()) for k in names}
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def ablation(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, with the columns `ABLATION_COLUMNS`.

    `delta` is iou_matched (see `summarise`) minus that of the shipped labels on the cases that both
    have, with a paired 95 % bootstrap interval over patients.
    """
    shipped = cases.loc[cases["factor"] == "shipped", [*CASE, "iou_matched"]]
    rows = []
    for (factor, value), every in cases.groupby(["factor", "value"], sort=False):
        part = judged(every)
        per_finding = part.groupby("finding")[["hit", "iou_label", "precision", "recall"]].mean()
        means = per_finding.mean().rename({"hit": "hit_rate"}).to_dict()
        row = {"factor": factor, "value": value, "n": len(part), **means}
        row["iou_matched"], row["iou_lo"], row["iou_hi"] = mean_interval(part, "iou_matched")
        both = part.merge(shipped, on=CASE, suffixes=("", "_shipped"))
        both["gap"] = both["iou_matched"] - both["iou_matched_shipped"]
        row["delta"], row["delta_lo"], row["delta_hi"] = mean_interval(both, "gap")
        rows.append(row)
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def losses(arrays: Arrays) -> pd.DataFrame:
    """Which step loses what, per finding and then their ``mean``, with `LOSS_COLUMNS`.

    IoU of pairs (arrays of ``labels/examples.npz``) that have a truth: iou_label, of the label;
    iou_area, of the map's top pixels, as many as the truth has; and of `STEPS`, of which box and
    form are `MARGIN` wider than the truth. Groups, by iou_area: films to which the classifiers give
    the finding a mean probability of at least (called) or below (missed) one half; the third of
    each finding's films with the smallest and largest truth (three films at least).
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
    table = pd.DataFrame(rows, columns=LOSS_COLUMNS)
    values = [c for c in LOSS_COLUMNS if c.startswith("iou_")]
    counts = [c for c in LOSS_COLUMNS if c.startswith("n")]
    mean = {"finding": "mean"} | table[values].mean().to_dict() | table[counts].sum().to_dict()
    return pd.concat([table, pd.DataFrame([mean])], ignore_index=True)


def per_case(arrays: Arrays) -> pd.DataFrame:
    """One row per pair: finding, the columns `STEPS`, and a bool for each of `GROUPS`."""
    for name in ARRAYS:
        if name not in arrays or len(arrays[name]) != len(arrays["finding"]):
            raise InputError(f"array {name!r} of the labels is missing or cut off: run them again")
    seen = np.flatnonzero(arrays["truth"].any((1, 2)))
    if not seen.size:
        raise InputError("no label has a truth to be judged by; there is no loss to tell")
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
        classifier = metrics.iou_matched(single, np.broadcast_to(t, single.shape)).max()
        box = np.zeros(t.shape, bool)
        box[find_objects((t > 0).astype(int))[0]] = True
        places = binary_dilation(box, np.ones((3, 3)), margin), binary_dilation(t, None, margin)
        # At matched area, of a map that cannot leave a place.
        within = metrics.iou_matched(np.where(places, m, np.float32(-1)), np.stack([t, t]))
        oracles.append((best_threshold(m, t), max(area, classifier), *within))
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
    overlap: npt.NDArray[np.float64] = inside / (called + inside[-1] - inside)
    return float(overlap[last].max())


def write(
    folder: Path, cases: pd.DataFrame, summary: pd.DataFrame, table: pd.DataFrame, examples: Arrays
) -> None:
    """Write label_cases.csv.gz, labels.csv, ablation.csv and examples.npz into the artefact."""
    frames = {"label_cases.csv.gz": cases, "labels.csv": summary, "ablation.csv": table}
    for name, frame in frames.items():
        # No time stamp inside: the same rows are the same bytes.
        frame.to_csv(folder / name, index=False, compression={"method": "infer", "mtime": 0})
    arrays: dict[str, Any] = dict(examples)
    np.savez_compressed(folder / "examples.npz", **arrays)


def by_finding(store: LabelStore) -> pd.DataFrame:
    """One row per finding that has labels, then ``all``: their number, shares that are unclear
    (all ignored), empty, uncalled (mean probability below one half) and unsettled, and means.
    """
    pairs = pd.concat([store.pairs, store.pairs.assign(finding="all")], ignore_index=True)
    pairs["unclear"] = pairs["ignored"] == 1
    pairs["empty"] = (pairs["area"] == 0) & ~pairs["unclear"]
    pairs["uncalled"] = pairs["probability"] < 0.5
    pairs["unsettled"] = ~pairs["settled"].astype(bool)
    shown = ["unclear", "empty", "uncalled", "unsettled", "area", "ignored", "error"]
    groups = pairs.groupby("finding")
    table = groups[shown].mean()
    table.insert(0, "labels", groups.size())
    return table.loc[[f for f in (*FINDINGS, "all") if f in table.index]]


def lines(store: LabelStore) -> list[str]:
    """What ``python -m dollkit labels show`` prints."""
    size = sum(f.stat().st_size for f in store.path.glob("*.npy")) / len(store)
    made_by = {name: value for name, value in store.meta.items() if name not in ("sha256", "code")}
    return [
        f"{store.path}: {len(store):,} labels on {len(store.rows):,} films, "
        f"{store.size} x {store.size} px, {size:,.0f} bytes a label; made by",
        json.dumps(made_by, indent=1, sort_keys=True),
        by_finding(store).round(3).to_string(),
    ]
