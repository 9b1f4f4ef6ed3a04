"""What a label store holds, in numbers: one row per finding, and how the labels were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import FINDINGS
from dollkit.labels.store import LabelStore

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
