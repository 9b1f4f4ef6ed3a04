"""Threshold rules of single findings, and the small CSV file that holds a tuned set of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from skimage.filters import threshold_otsu

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import read_csv

RULES = ("otsu", "peak", "quantile")
OTHER = "other"
"""Entry for the findings that have none of their own."""
ENTRIES = (*FINDINGS, OTHER)

PHANTOM = Path(__file__).with_name("phantom_thresholds.csv")
"""Rules tuned on validation films of the phantom: the laptop profile with ``n_tune: 240``."""

COLUMNS = ["finding", "rule", "smooth", "iou", "iou_otsu", "n"]
_FORM = "use a share of the maximum in (0, 1), 'otsu', 'peak 0.5' or 'quantile 0.02'"


@dataclass(frozen=True)
class Rule:
    """How a map's threshold is found: kind in `RULES`, value in (0, 1) except for otsu."""

    kind: str
    value: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "otsu" else f"{self.kind} {self.value:g}"

    def level(self, m: npt.NDArray[np.float32]) -> float:
        """Threshold of one map (S, S) that is not constant."""
        if self.kind == "otsu":
            return float(threshold_otsu(m))
        if self.kind == "peak":
            return self.value * float(m.max())
        return float(np.quantile(m, 1 - self.value))


def parse(text: float | str, what: str = "threshold rule") -> Rule:
    """A number is a share of the maximum; else ``otsu``, ``peak 0.5`` or ``quantile 0.02``."""
    kind, _, value = text.strip().partition(" ") if isinstance(text, str) else ("peak", "", text)
    if kind == "otsu" and value == "":
        return Rule("otsu")
    if kind not in ("peak", "quantile"):
        # A file saved by other programs may hold plain numbers.
        kind, value = "peak", text
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 < number < 1:
        raise InputError(f"{what} is {text!r}: {_FORM}")
    return Rule(kind, number)


def settings(text: str) -> dict[str, str | float]:
    """What `LabelSettings` takes, of ``otsu``, ``peak 0.5``, ``quantile 0.02``, ``tuned``, a file.

    ``tuned`` are the phantom's rules; a file's path starts at the root of the repository.
    """
    if text == "tuned" or text.endswith(".csv"):
        file = "" if text == "tuned" else str(paths.ROOT / text)
        return {"threshold": "tuned", "thresholds": file}
    rule = parse(text, "parameter 'threshold'")
    value = {"peak": "level", "quantile": "area"}.get(rule.kind)
    return {"threshold": rule.kind} | ({} if value is None else {value: rule.value})


def check(thresholds: Mapping[str, float | str], smooths: Mapping[str, float]) -> None:
    """Raise `InputError` for an unknown finding, a bad rule, or a sigma outside [0, 0.5]."""
    for name, values in (("thresholds", thresholds), ("smooths", smooths)):
        for finding in values:
            if finding not in ENTRIES:
                names = ", ".join(ENTRIES[1:])
                raise InputError(f"parameter {name!r}: unknown finding {finding!r}: use {names}")
    for finding, text in thresholds.items():
        parse(text, f"parameter 'thresholds', {finding}:")
    for finding, sigma in smooths.items():
        if not 0 <= sigma <= 0.5:
            raise InputError(
                f"parameter 'smooths', {finding}: {sigma} must lie in [0, 0.5], a share of the side"
            )


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table of `judge.tune`, whole or not at all: parts of a stage write the same one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    table[COLUMNS].round(4).to_csv(part, index=False, lineterminator="\n")
    part.replace(path)


def read(path: Path) -> dict[str, Any]:
    """``thresholds`` and ``smooths`` of a CSV file, as `LabelSettings` takes them.

    Columns finding and rule, and perhaps smooth (share of the side; blank: the setting of the run).
    """
    table = read_csv(path, ("finding", "rule"), hint="give a CSV file with both columns")
    findings = table.frame["finding"]
    known = findings.isin(ENTRIES) & ~findings.duplicated()
    table.require(known, "finding", f"each of {', '.join(ENTRIES[1:])} once")
    rules = zip(findings, table.frame["rule"], table.where(), strict=True)
    thresholds = {f: str(parse(r, f"{place}, column 'rule':")) for f, r, place in rules}
    smooths: dict[str, float] = {}
    if "smooth" in table.frame:
        sigmas = table.numbers("smooth")
        table.require(sigmas.isna() | sigmas.between(0, 0.5), "smooth", "0 to 0.5, or blank")
        smooths = dict(zip(findings, sigmas.tolist(), strict=True))
    return {
        "thresholds": thresholds,
        "smooths": {f: v for f, v in smooths.items() if not np.isnan(v)},
    }
