"""Label quality summed up from per-case rows: per finding, and per changed factor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.findings import PATHOLOGIES
from dollkit.stats import bootstrap_interval, patient_values

SUMMARY_COLUMNS = [
    "finding", "explainer", "n_classifiers", "iou_matched", "iou_matched_lo", "iou_matched_hi",
    "iou_label", "iou_chance", "iou_prior", "precision", "recall", "hit_rate", "n",
]  # fmt: skip
ABLATION_COLUMNS = [
    "factor", "value", "iou_matched", "iou_lo", "iou_hi", "hit_rate", "iou_label", "precision",
    "recall", "n",
]  # fmt: skip


def _mean(part: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over findings of means over films, with a 95 % bootstrap interval over patients."""
    _, units = patient_values(part[value], part["patient_id"], part["finding"])
    return (float(units.mean()), *bootstrap_interval(units))


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """Label quality per finding, explainer and number of classifiers.

    The shipped labels, the same with fewer classifiers (mean over all subsets of that size) and
    the other explainers; row ``mean`` averages the findings.

    Returns:
        Columns finding, explainer, n_classifiers, iou_matched, iou_matched_lo, iou_matched_hi,
        iou_label, iou_chance, iou_prior, precision, recall, hit_rate, n.
    """
    chosen = cases[cases["factor"].isin(["shipped", "classifiers", "explainer"])]
    rows: list[dict[str, object]] = []
    for (explainer, count), setting in chosen.groupby(["explainer", "n_classifiers"]):
        found = [f for f in PATHOLOGIES if (setting["finding"] == f).any()]
        for finding in (*found, "mean"):
            part = setting if finding == "mean" else setting[setting["finding"] == finding]
            value, lo, hi = _mean(part, "iou_matched")
            row: dict[str, object] = {"finding": finding, "explainer": explainer}
            row |= {"n_classifiers": count, "iou_matched": value}
            row |= {"iou_matched_lo": lo, "iou_matched_hi": hi}
            per_finding = part.groupby("finding")
            names = ("iou_label", "iou_chance", "iou_prior", "precision", "recall")
            row |= {k: float(per_finding[k].mean().mean()) for k in names}
            row["hit_rate"] = float(per_finding["hit"].mean().mean())
            row["n"] = len(part[["image_id", "finding"]].drop_duplicates())
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def ablation(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, with the columns `ABLATION_COLUMNS`.

    `iou_label`, `precision` and `recall` are those of the label at its own threshold.
    """
    rows: list[dict[str, object]] = []
    for (factor, value), part in cases.groupby(["factor", "value"], sort=False):
        mean, lo, hi = _mean(part, "iou_matched")
        per_finding = part.groupby("finding")[["hit", "iou_label", "precision", "recall"]].mean()
        means = per_finding.mean()
        rows.append(
            {"factor": factor, "value": value, "iou_matched": mean, "iou_lo": lo, "iou_hi": hi,
             "hit_rate": means["hit"], "iou_label": means["iou_label"],
             "precision": means["precision"], "recall": means["recall"], "n": len(part)}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


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
