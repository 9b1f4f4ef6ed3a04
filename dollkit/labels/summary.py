"""Label quality summed up from per-case rows: per finding, and per changed factor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
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


def _mean(part: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over findings of means over films, with a 95 % bootstrap interval over patients."""
    _, units = patient_values(part[value], part["patient_id"], part["finding"])
    return (float(units.mean()), *bootstrap_interval(units))


def judged(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases of the findings that enter a mean over findings.

    Those that at least `stats.FEWEST` patients have; all, where no finding has so many.
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
        found = [f for f in PATHOLOGIES if (setting["finding"] == f).any()]
        for finding in (*found, "mean"):
            part = judged(setting) if finding == "mean" else setting[setting["finding"] == finding]
            row: dict[str, object] = {"finding": finding, "explainer": explainer}
            row["n_classifiers"] = count
            for name, column, stem in (
                ("iou_matched", "iou_matched", "iou_matched"),
                ("iou_label", "iou_label", "iou_label"),
                ("hit_rate", "hit", "hit"),
            ):
                row[name], row[f"{stem}_lo"], row[f"{stem}_hi"] = _mean(part, column)
            per_finding = part.groupby("finding")
            names = ("iou_chance", "iou_prior", "precision", "recall", "energy", "area")
            row |= {k: float(per_finding[k].mean().mean()) for k in names}
            row["n"] = len(part[["image_id", "finding"]].drop_duplicates())
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _gap(part: pd.DataFrame, other: pd.DataFrame) -> tuple[tuple[float, float, float], int]:
    """Mean IoU at matched area minus that of other labels of the same cases, and their number."""
    both = judged(part).merge(other[[*CASE, "iou_matched"]], on=CASE, suffixes=("", "_other"))
    if both.empty:
        return (np.nan, np.nan, np.nan), 0
    return _mean(both.assign(gap=both["iou_matched"] - both["iou_matched_other"]), "gap"), len(both)


def ablation(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, with the columns `ABLATION_COLUMNS`.

    `iou_matched` and its interval are those of the variant alone, at the truth's own area;
    `iou_label`, `precision` and `recall` are those of the label at its own threshold. `delta` is
    iou_matched minus that of the shipped labels on the cases that both have, with a paired 95 %
    bootstrap interval over patients; zero in the row of the shipped labels.
    """
    shipped = cases[cases["factor"] == "shipped"]
    rows: list[dict[str, object]] = []
    for (factor, value), every in cases.groupby(["factor", "value"], sort=False):
        part = judged(every)
        mean, lo, hi = _mean(part, "iou_matched")
        per_finding = part.groupby("finding")[["hit", "iou_label", "precision", "recall"]].mean()
        means = per_finding.mean()
        (delta, delta_lo, delta_hi), _ = _gap(part, shipped)
        rows.append(
            {"factor": factor, "value": value, "iou_matched": mean, "iou_lo": lo, "iou_hi": hi,
             "hit_rate": means["hit"], "iou_label": means["iou_label"],
             "precision": means["precision"], "recall": means["recall"], "n": len(part),
             "delta": delta, "delta_lo": delta_lo, "delta_hi": delta_hi}
        )  # fmt: skip
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
    # A finding of few patients tells nothing of others, see `stats.seen_enough`.
    shown_enough = shipped[seen_enough(shipped["patient_id"], shipped["finding"])]
    part = shown_enough[shown_enough["finding"].isin(good)]
    value = _mean(part, "hit") if len(part) else (np.nan,) * 3
    shown = part["finding"].nunique()
    text = f"hit rate at least {hit_rate:g}, {shown} findings with AUROC above {auroc:g}"
    rows = [(text, *value, _verdict(value[0] >= hit_rate, value[0]), len(part))]
    for finding in MOBILE:
        known = shown_enough["iou_prior"].notna()
        part = shown_enough[(shown_enough["finding"] == finding) & known]
        gap = part.assign(gap=part["iou_matched"] - part["iou_prior"])
        value = _mean(gap, "gap") if len(gap) else (np.nan,) * 3
        text = f"IoU above that of the mean-mask prior: {finding}"
        rows.append((text, *value, _verdict(value[1] > 0, value[1]), len(part)))
    rows.append(_committee(cases, shipped))
    return pd.DataFrame(rows, columns=GOAL_COLUMNS)


def _committee(
    cases: pd.DataFrame, shipped: pd.DataFrame
) -> tuple[str, float, float, float, str, int]:
    """Goal 3 of `goals`."""
    alone = cases["variant"].astype(str).str.startswith("classifiers=")
    singles = cases[alone & (cases["n_classifiers"] == 1)]
    if singles.empty or shipped.empty:
        text = "IoU of all classifiers above that of the best single one"
        return text, np.nan, np.nan, np.nan, _verdict(False, np.nan), 0
    means = {str(k): _mean(judged(p), "iou_matched")[0] for k, p in singles.groupby("classifiers")}
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


# What a label store holds, in numbers: one row per finding, and how the labels were made.


LARGE = 0.4
"""Share of the film from which a label counts as very large: no finding but the two lungs."""

POOR = 0.1
"""Completeness error above which an explanation is poor, where its settings name none."""

QUANTILES = (0.5, 0.9, 0.99)


def by_finding(store: LabelStore, findings: Sequence[str] = FINDINGS) -> pd.DataFrame:
    """One row per finding that has labels, in the order of the 14, and ``all`` at the end.

    Columns: ``labels``; shares of the labels that are ``unclear`` (all ignored), ``empty`` (no
    pixel of finding, not all ignored), ``large`` (above `LARGE`), ``uncalled`` (mean probability
    below one half), ``poor`` (error above `poor_from`, or not finite) and ``unsettled`` (steps
    ran out first); ``area`` and ``ignored``, median shares of the film, of labels that are not
    all ignored; ``error50``, ``error90``, ``error99``, quantiles of the completeness error. NaN
    where an explainer has no such number.
    """
    pairs = store.pairs
    for column in ("area", "ignored"):
        if column not in pairs:
            raise InputError(f"{store.path}/pairs.csv: no column {column!r}: make the labels again")
    pairs = pairs[pairs["finding"].isin(findings)]
    groups = [(f, pairs[pairs["finding"] == f]) for f in FINDINGS]
    top = poor_from(store)
    rows = {name: _row(part, top) for name, part in (*groups, ("all", pairs)) if len(part)}
    return pd.DataFrame.from_dict(rows, orient="index")


def poor_from(store: LabelStore) -> float:
    """Completeness error above which the explainer's own settings call a map unsettled."""
    return float(store.meta.get("explain", {}).get("max_error", POOR))


def _row(part: pd.DataFrame, poor: float) -> dict[str, float]:
    error = part["error"].astype("float64")
    known = error.notna().any()
    settled = part["settled"].astype("float64").mean() if "settled" in part else np.nan
    clear = part[part["ignored"] < 1]
    return {
        "labels": len(part),
        "area": clear["area"].median(),
        "ignored": clear["ignored"].median(),
        "empty": ((part["area"] == 0) & (part["ignored"] < 1)).mean(),
        "large": (part["area"] > LARGE).mean(),
        "unclear": (part["ignored"] == 1).mean(),
        "uncalled": (part["probability"] < 0.5).mean(),
        "poor": (~(error <= poor)).mean() if known else np.nan,
        "unsettled": 1 - settled,
        **{f"error{round(100 * q)}": float(error.quantile(q)) for q in QUANTILES},
    }


def percent(value: float) -> str:
    """A share for people; "-" for an unknown one, and never 0 % for what is not zero."""
    if np.isnan(value):
        return "-"
    return "< 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def number(value: float) -> str:
    """An error for people; "-" for an unknown one."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def facts(store: LabelStore) -> Iterator[tuple[str, str]]:
    """How the labels were made, as (what, value), from ``labels.json`` alone."""
    meta = store.meta
    yield "films", f"{len(store.rows):,} labelled, {store.size} x {store.size} px"
    yield "film store", str(meta.get("films", "unknown"))
    if "source" in meta:
        yield "source of the films", str(meta["source"])
    if "positives" in meta:
        yield "positives", str(meta["positives"])
    for name, digest in sorted(meta.get("classifiers", {}).items()):
        yield f"classifier {name}", str(digest)
    for part, name in (("explain", "explanations"), ("distil", "distilling")):
        if part in meta:
            yield name, settings(meta[part])


def settings(values: Mapping[str, Any]) -> str:
    """Settings as ``name=value`` in one line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def lines(store: LabelStore) -> list[str]:
    """What ``python -m dollkit.labels show`` prints."""
    table = by_finding(store)
    out = [str(store.path)]
    out += [f"  {what}: {value}" for what, value in facts(store)]
    size = sum(f.stat().st_size for f in store.path.glob("*.npy")) / max(len(store), 1)
    out += [f"  on disk: {size:,.0f} bytes a label", ""]
    wide = max(len(str(name)) for name in table.index)
    heads = ("labels", "unclear", "area", "ignored", "empty", "large", "error 50%", "90%", "99%")
    out.append(" " * wide + "".join(f"{head:>11}" for head in heads))
    for name, row in table.iterrows():
        cells = [f"{int(row['labels']):,}"]
        cells += [percent(float(row[c])) for c in ("unclear", "area", "ignored", "empty", "large")]
        cells += [number(float(row[c])) for c in ("error50", "error90", "error99")]
        out.append(f"{name:<{wide}}" + "".join(f"{cell:>11}" for cell in cells))
    return out
