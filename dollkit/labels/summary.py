"""Labels in numbers: their quality from per-case rows, and what a label store holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.findings import FINDINGS, MOBILE, PATHOLOGIES
from dollkit.common.statistics import bootstrap_interval, patient_values, seen_enough
from dollkit.labels.store import LabelStore

SUMMARY_COLUMNS = [
    "finding", "explainer", "n_classifiers", "iou_matched", "iou_matched_lo", "iou_matched_hi",
    "iou_label", "iou_label_lo", "iou_label_hi", "iou_chance", "iou_prior", "precision", "recall",
    "hit_rate", "hit_lo", "hit_hi", "energy", "area", "n",
]  # fmt: skip
ABLATION_COLUMNS = [
    "factor", "value", "iou_matched", "iou_lo", "iou_hi", "hit_rate", "iou_label", "precision",
    "recall", "n", "delta", "delta_lo", "delta_hi",
]  # fmt: skip
GOAL_COLUMNS = ["goal", "value", "lo", "hi", "met", "n"]
CASE = ["image_id", "finding"]
LARGE = 0.4
"""Share of the film from which a label counts as very large: no finding but the two lungs."""


def mean_interval(part: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over findings of means over films, with a 95 % bootstrap interval over patients."""
    _, units = patient_values(part[value], part["patient_id"], part["finding"])
    return (float(units.mean()), *bootstrap_interval(units))


def judged(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases of the findings that enter a mean over findings: those that enough patients have.

    All, where no finding has so many.
    """
    enough = seen_enough(cases["patient_id"], cases["finding"])
    return cases[enough] if enough.any() else cases


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """Label quality per finding, explainer and number of classifiers.

    The shipped labels, the same with fewer classifiers (mean over all subsets of that size) and
    the other explainers; row ``mean`` averages the findings that are `judged`.

    Returns:
        `SUMMARY_COLUMNS`: iou_matched at the truth's own area, iou_label at the label's own
        threshold, both and the hit rate with 95 % bootstrap intervals over patients; iou_chance
        and iou_prior at matched area; precision and recall of the label; energy, the share of the
        map inside the truth, which chance would have equal to area, the truth's share of the film.
    """
    chosen = cases[cases["factor"].isin(["shipped", "classifiers", "explainer"])]
    rows: list[dict[str, object]] = []
    for (explainer, count), setting in chosen.groupby(["explainer", "n_classifiers"]):
        for finding in (*PATHOLOGIES, "mean"):
            part = judged(setting) if finding == "mean" else setting[setting["finding"] == finding]
            if part.empty:
                continue
            row: dict[str, object] = {
                "finding": finding,
                "explainer": explainer,
                "n_classifiers": count,
                "n": len(part[CASE].drop_duplicates()),
            }
            for value in ("iou_matched", "iou_label"):
                row[value], row[f"{value}_lo"], row[f"{value}_hi"] = mean_interval(part, value)
            row["hit_rate"], row["hit_lo"], row["hit_hi"] = mean_interval(part, "hit")
            per_finding = part.groupby("finding")
            names = ("iou_chance", "iou_prior", "precision", "recall", "energy", "area")
            row |= {k: float(per_finding[k].mean().mean()) for k in names}
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _gap(part: pd.DataFrame, other: pd.DataFrame) -> tuple[tuple[float, float, float], int]:
    """Mean IoU at matched area minus that of other labels of the same cases, and their number."""
    both = judged(part).merge(other[[*CASE, "iou_matched"]], on=CASE, suffixes=("", "_other"))
    if both.empty:
        return (np.nan, np.nan, np.nan), 0
    return mean_interval(
        both.assign(gap=both["iou_matched"] - both["iou_matched_other"]), "gap"
    ), len(both)


def ablation(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, with the columns `ABLATION_COLUMNS`.

    `iou_matched` and its interval are those of the variant alone, at the truth's own area;
    `iou_label`, `precision` and `recall` are those of the label at its own threshold. `delta` is
    iou_matched minus that of the shipped labels on the cases that both have, with a paired 95 %
    bootstrap interval over patients; zero in the row of the shipped labels.
    """
    shipped = cases[cases["factor"] == "shipped"]
    rows = []
    for (factor, value), every in cases.groupby(["factor", "value"], sort=False):
        part = judged(every)
        per_finding = part.groupby("finding")[["hit", "iou_label", "precision", "recall"]].mean()
        means = per_finding.mean().rename({"hit": "hit_rate"}).to_dict()
        row = {"factor": factor, "value": value, "n": len(part), **means}
        row["iou_matched"], row["iou_lo"], row["iou_hi"] = mean_interval(part, "iou_matched")
        (row["delta"], row["delta_lo"], row["delta_hi"]), _ = _gap(part, shipped)
        rows.append(row)
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def goals(
    cases: pd.DataFrame, classifiers: pd.DataFrame, *, auroc: float = 0.9, hit_rate: float = 0.8
) -> pd.DataFrame:
    """Quality goals of the labels, each with what was measured.

    1. Hit rate, mean over the findings whose AUROC (mean over classifiers) exceeds `auroc`: at
       least `hit_rate`.
    2. IoU at matched area minus that of the mean-mask prior, for each mobile finding: interval
       above zero.
    3. IoU at matched area of all classifiers minus that of the best single one: interval above
       zero. The best single one is chosen on the same cases, which is in its favour.

    Args:
        cases: per-case rows of `dollkit.labels.judge.judge` (``label_cases.csv.gz``).
        classifiers: columns classifier, finding, auroc (``classifiers/*/metrics.csv``).

    Returns:
        `GOAL_COLUMNS`: value with a 95 % bootstrap interval over patients (paired in 2 and 3, not
        corrected for the number of goals), met (yes, no, not judged), n (cases).
    """
    shipped = cases[cases["variant"] == "shipped"]
    able = classifiers.groupby("finding")["auroc"].mean()
    good = [f for f in PATHOLOGIES if able.get(f, 0) > auroc]
    # A finding of few patients tells nothing of others.
    shown_enough = shipped[seen_enough(shipped["patient_id"], shipped["finding"])]
    part = shown_enough[shown_enough["finding"].isin(good)]
    value = mean_interval(part, "hit") if len(part) else (np.nan,) * 3
    shown = part["finding"].nunique()
    text = f"hit rate at least {hit_rate:g}, {shown} findings with AUROC above {auroc:g}"
    rows = [(text, *value, _verdict(value[0] >= hit_rate, value[0]), len(part))]
    for finding in MOBILE:
        known = shown_enough["iou_prior"].notna()
        part = shown_enough[(shown_enough["finding"] == finding) & known]
        gap = part.assign(gap=part["iou_matched"] - part["iou_prior"])
        value = mean_interval(gap, "gap") if len(gap) else (np.nan,) * 3
        text = f"IoU above that of the mean-mask prior: {finding}"
        rows.append((text, *value, _verdict(value[1] > 0, value[1]), len(part)))
    rows.append(_committee(cases, shipped))
    return pd.DataFrame(rows, columns=GOAL_COLUMNS)


def _committee(
    cases: pd.DataFrame, shipped: pd.DataFrame
) -> tuple[str, float, float, float, str, int]:
    """Goal 3 of `goals`: all classifiers against the best single one."""
    alone = cases["variant"].astype(str).str.startswith("classifiers=")
    singles = cases[alone & (cases["n_classifiers"] == 1)]
    if singles.empty or shipped.empty:
        text = "IoU of all classifiers above that of the best single one"
        return text, np.nan, np.nan, np.nan, _verdict(False, np.nan), 0
    means = {
        str(k): mean_interval(judged(p), "iou_matched")[0]
        for k, p in singles.groupby("classifiers")
    }
    best = max(means, key=means.__getitem__)
    gap, n = _gap(shipped, singles[singles["classifiers"] == best])
    text = (
        f"IoU of {shipped['n_classifiers'].iloc[0]} classifiers above that of the best single one "
        f"({best}, chosen on the same cases, in its favour)"
    )
    return text, *gap, _verdict(gap[1] > 0, gap[1]), n


def _verdict(met: bool, value: float) -> str:
    return "not judged" if np.isnan(value) else "yes" if met else "no"


def write(
    folder: Path,
    cases: pd.DataFrame,
    summary: pd.DataFrame,
    table: pd.DataFrame,
    examples: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Write label_cases.csv.gz, labels.csv, ablation.csv and examples.npz into the artefact."""
    # No time stamp inside: the same rows are the same bytes.
    how = {"method": "gzip", "mtime": 0}
    cases.to_csv(folder / "label_cases.csv.gz", index=False, compression=how)
    summary.to_csv(folder / "labels.csv", index=False)
    table.to_csv(folder / "ablation.csv", index=False)
    arrays: dict[str, Any] = dict(examples)
    np.savez_compressed(folder / "examples.npz", **arrays)


def by_finding(store: LabelStore) -> pd.DataFrame:
    """One row per finding that has labels, in the order of the 14, and ``all`` at the end.

    Columns: labels; shares of them that are unclear (all ignored), empty (no pixel of finding, not
    all ignored), large (above `LARGE`), uncalled (mean probability below one half) and unsettled;
    area and ignored, median shares of the film, of labels that are not all ignored; error 50%,
    error 90%, error 99%, quantiles of the completeness error.
    """
    pairs = pd.concat([store.pairs, store.pairs.assign(finding="all")], ignore_index=True)
    clear = pairs["ignored"] < 1
    shares = {
        "unclear": ~clear,
        "empty": (pairs["area"] == 0) & clear,
        "large": pairs["area"] > LARGE,
        "uncalled": pairs["probability"] < 0.5,
        "unsettled": ~pairs["settled"].astype(bool),
    }
    groups = pairs.groupby("finding")
    table = pd.DataFrame(shares).groupby(pairs["finding"]).mean()
    table.insert(0, "labels", groups.size())
    table[["area", "ignored"]] = pairs[clear].groupby("finding")[["area", "ignored"]].median()
    for percent in (50, 90, 99):
        table[f"error {percent}%"] = groups["error"].quantile(percent / 100)
    return table.loc[[f for f in (*FINDINGS, "all") if f in table.index]]


def lines(store: LabelStore) -> list[str]:
    """What ``python -m dollkit.labels show`` prints."""
    size = sum(f.stat().st_size for f in store.path.glob("*.npy")) / len(store)
    made_by = {name: value for name, value in store.meta.items() if name not in ("sha256", "code")}
    return [
        f"{store.path}: {len(store):,} labels on {len(store.rows):,} films, "
        f"{store.size} x {store.size} px, {size:,.0f} bytes a label; made by",
        json.dumps(made_by, indent=1, sort_keys=True),
        by_finding(store).round(3).to_string(),
    ]
