"""The rows that are stored beside a profile's tables: all that these can be made from again.

A table of an older version of the code may lack a file or a column that today's code wants. What
needs it cannot be made from the rows, and `Lacking` says why; a file that is there but damaged is
an `InputError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.labels import summary
from dollkit.report import label_tables, robustness, tables
from dollkit.report import rows as cases

DIGITS = 6
"""Significant digits of stored rows (`dollkit.report.rows.write_csv`)."""

WORDS = ("perturbation", "status")
"""Columns of text that `dollkit.report.rows.read_table` does not know."""

NOT_RUN = "not run: "
_EDGE = "Chosen rate is "


class Lacking(Exception):
    """A file or column that an artefact is made from is not stored."""


@dataclass
class Rows:
    """Stored rows of one profile, read when they are first asked for.

    Attributes:
        folder: ``figures/<profile>``.
    """

    folder: Path

    @property
    def profile(self) -> str:
        return self.folder.name

    def read(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """One stored file with at least these columns; `Lacking` if it, or one of them, is not."""
        if not (self.folder / name).is_file():
            raise Lacking(f"{name} is not stored")
        frame = cases.read_table(self.folder / name, ())
        gone = [c for c in columns if c not in frame]
        if gone:
            raise Lacking(f"{name} has no column {gone[0]!r}")
        return cases.read_table(self.folder / name, [c for c in columns if c not in WORDS])

    def lacks(self, name: str, column: str) -> bool:
        """Whether a stored file is without a column, as those of older versions are."""
        return column not in self.read(name, ())

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Per-case rows, IoU and Dice to full precision from their pixel counts."""
        rows = self.read("cases.csv.gz", cases.CASE_COLUMNS)
        return cases.check_cases(_from_counts(rows, "cases.csv.gz"), "cases.csv.gz")

    @cached_property
    def robust(self) -> pd.DataFrame:
        """Per-case rows of perturbed films, as `cases`."""
        return _from_counts(self.read("robust.csv.gz", robustness.COLUMNS), "robust.csv.gz")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per trained network; `memory_mb` and `n_valid` are blank in older ones."""
        late = ("memory_mb", "n_valid")
        frame = self.read("runs.csv", [c for c in cases.RUN_COLUMNS if c not in late])
        return frame.assign(**{c: np.nan for c in late if c not in frame})

    @cached_property
    def curves(self) -> pd.DataFrame:
        return self.read("curves.csv.gz", cases.CURVE_COLUMNS)

    @cached_property
    def label_cases(self) -> pd.DataFrame:
        """Per-case rows of the labels, in the order that `cases.load_label_cases` gives them."""
        frame = self.read("label_cases.csv.gz", cases.LABEL_CASE_COLUMNS)
        key = ["explainer", "classifiers", "variant", "finding", "image_id"]
        return frame.sort_values(key, kind="stable", ignore_index=True)

    @cached_property
    def ablation(self) -> pd.DataFrame:
        self.read("label_cases.csv.gz", ("factor", "value"))
        return summary.ablation(self.label_cases)

    @cached_property
    def labels(self) -> pd.DataFrame:
        return self.read("labels.csv", cases.LABEL_COLUMNS)

    @cached_property
    def classifiers(self) -> pd.DataFrame:
        return self.read("classifiers.csv", cases.CLASSIFIER_COLUMNS)

    @cached_property
    def edge_notes(self) -> list[str]:
        """Notes about chosen rates; without selection.csv those that Table 1 prints itself."""
        if self.has("selection.csv"):
            return cases.at_the_edge(self.read("selection.csv", cases.SELECTION_COLUMNS))
        lines = self.text("table1.md").splitlines()
        return [line[2:] for line in lines if line.startswith(f"- {_EDGE}")]

    @cached_property
    def not_run(self) -> dict[str, str]:
        """Arm to the reason why it was not run, which Table 1 alone tells."""
        if not self.has("table1.csv"):
            return {}
        frame = self.read("table1.csv", ("arm", "status"))
        pairs = zip(frame["arm"], frame["status"].astype(str), strict=True)
        return {str(a): s.removeprefix(NOT_RUN) for a, s in pairs if s.startswith(NOT_RUN)}

    @cached_property
    def population(self) -> str:
        """Whose films these are: a phrase that claims.md alone tells."""
        start = "Population: "
        found = [x for x in self.text("claims.md").splitlines() if x.startswith(start)]
        return found[0].removeprefix(start).partition(". Seeds per")[0] if found else ""

    @cached_property
    def repeats(self) -> int:
        """Pre-training runs of each arm."""
        if not self.has("pretraining.csv"):
            return 0
        return label_tables.repeats(self.read("pretraining.csv", label_tables.COLUMNS))

    @cached_property
    def published(self) -> pd.DataFrame | None:
        """Published numbers, if the run printed them beside Table 1."""
        if not self.has("table1_reference.csv"):
            return None
        return tables.load_reference(sorted(self.cases["task"].unique()))

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def text(self, name: str) -> str:
        """Text of a stored file; empty without one."""
        return (self.folder / name).read_text(encoding="utf-8") if self.has(name) else ""


def _from_counts(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows with IoU and Dice from tp, fp and fn; a stored value that is another is an error."""
    tp, fp, fn = (rows[c].astype(np.float64) for c in ("tp", "fp", "fn"))
    own = {"iou": tp / (tp + fp + fn), "dice": 2 * tp / (2 * tp + fp + fn)}
    for column, values in own.items():
        printed = values.map(lambda v: "" if np.isnan(v) else f"{v:.{DIGITS}g}")
        stored = rows[column].map(lambda v: "" if np.isnan(v) else f"{v:.{DIGITS}g}")
        wrong = np.flatnonzero(printed != stored)
        if wrong.size:
            at = int(wrong[0])
            raise InputError(
                f"{name}: row {at + 2}: {column} is {stored.iloc[at] or 'blank'}, its counts give "
                f"{printed.iloc[at] or 'blank'}"
            )
    return rows.assign(**own)


def rounded_otherwise(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Endless copies of rows as they may have been before they were rounded to be stored.

    Args:
        columns: numbers that were rounded to `DIGITS` significant digits.
    """
    draw = np.random.default_rng(0)
    values = frame[list(columns)].to_numpy(np.float64)
    size = np.abs(np.where(values == 0, 1, values))
    unit = np.where(values == 0, 0, 10.0 ** (np.floor(np.log10(size)) - DIGITS + 1))
    while True:
        moved = values + unit * draw.uniform(-0.5, 0.5, values.shape)
        yield frame.assign(**{c: moved[:, i] for i, c in enumerate(columns)})
