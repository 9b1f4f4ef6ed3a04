"""Every table, and the data of every figure, that follows from the stored rows of a profile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit import labelquality
from dollkit.report import (
    agreement,
    cases,
    claims,
    claimsfigure,
    contrasts,
    evidence,
    figures,
    index,
    labelarms,
    labeltables,
    robust,
    robustfigure,
    sizes,
    tables,
)
from dollkit.report.committed import Lacking, Rows, rounded_otherwise
from dollkit.report.style import Drawn

DRAWS = 8
SPREADS = 2
"""The allowance is so many times the largest move of `DRAWS` other roundings."""

SEEN = ("iou_label", "iou_area", "n")
"""Columns of label_losses that the per-case rows of the labels hold; the others need the maps."""

UNDERIVED = {
    "figure1": "it shows films and maps, of which no array is stored",
    "figure2": "it shows films and labels, of which no array is stored",
    "figure3": "it shows films and predictions, of which no array is stored",
    "figure_s2": "it shows films and maps, of which no array is stored",
    "difficulty": "it is measured on the films, which are not stored",
    "provenance": "it is the record of the run",
}
ROWS = (
    "cases.csv.gz", "curves.csv.gz", "runs.csv", "selection.csv", "robust.csv.gz",
    "classifiers.csv", "label_cases.csv.gz", "pretraining.csv",
)  # fmt: skip
"""Stored rows, from which all else is made."""


@dataclass
class Derived:
    """One artefact as it follows from the rows.

    Attributes:
        frame: content of its CSV.
        write: writes a frame as the artefact's CSV, Markdown, LaTeX or caption to a folder.
        exact: made from whole numbers alone, so that all printed digits must agree.
        key: columns that name a row, where the order of rows does not follow; else none.
        redo: the same frame from curves that were rounded otherwise, without end; None: the
            rounding of curves does not matter.
        older: columns that its stored rows do not have yet.
        note: what was taken for granted.
    """

    frame: pd.DataFrame
    write: Callable[[pd.DataFrame, Path], object]
    exact: bool = False
    key: Sequence[str] = ()
    redo: Callable[[], Iterator[pd.DataFrame]] | None = None
    older: Sequence[str] = ()
    note: str = ""

    @cached_property
    def allowed(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per column of floats (n,) by how much the rounding of curves may move each number."""
        floats = [str(c) for c in self.frame if self.frame[c].dtype.kind == "f"]
        base = self.frame[floats].to_numpy(np.float64)
        moved = np.zeros_like(base)
        for frame in itertools.islice(self.redo() if self.redo else (), DRAWS):
            gap = np.abs(frame[floats].to_numpy(np.float64) - base)
            moved = np.fmax(moved, gap)
        return {column: SPREADS * moved[:, k] for k, column in enumerate(floats)}


def _table1(rows: Rows) -> Derived:
    def write(frame: pd.DataFrame, folder: Path) -> None:
        evidence.write_numbered(
            1, frame, folder, profile=rows.profile, notes=rows.edge_notes, reference=rows.published
        )

    note = "" if rows.has("selection.csv") else "its notes need selection.csv, which is not stored"
    return Derived(tables.table1(rows.cases, rows.runs, rows.not_run), write, True, note=note)


def _table2(rows: Rows) -> Derived:
    def write(frame: pd.DataFrame, folder: Path) -> None:
        evidence.write_numbered(2, frame, folder, profile=rows.profile, notes=rows.edge_notes)

    older = ("memory_mb",) if rows.lacks("runs.csv", "memory_mb") else ()

    def made(curves: pd.DataFrame) -> pd.DataFrame:
        return tables.table2(rows.cases, rows.runs, curves).drop(columns=list(older))

    return Derived(made(rows.curves), write, redo=lambda: _redone(rows, made), older=older)


def _redone(rows: Rows, made: Callable[[pd.DataFrame], pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for curves in rounded_otherwise(rows.curves, ("val_miou", "seconds")):
        yield made(curves)


def _table3(rows: Rows) -> Derived:
    def write(frame: pd.DataFrame, folder: Path) -> None:
        evidence.write_numbered(3, frame, folder, profile=rows.profile)

    return Derived(tables.table3(rows.label_cases, rows.ablation), write)


def _table3_arms(rows: Rows) -> Derived:
    taught = rows.read("pretraining.csv", labelarms.COLUMNS)
    return Derived(
        labelarms.table(taught, rows.cases),
        lambda frame, folder: labelarms.write(frame, folder, profile=rows.profile),
    )


def _sizes(rows: Rows) -> Derived:
    return Derived(
        sizes.table_sizes(rows.cases),
        lambda frame, folder: sizes.write(frame, folder, profile=rows.profile),
        exact=True,
    )


def _robustness(rows: Rows) -> Derived:
    return Derived(
        robust.table(rows.robust, rows.cases),
        lambda frame, folder: robust.write(frame, folder, profile=rows.profile),
        exact=True,
    )


def _labels(rows: Rows) -> Derived:
    rows.read("label_cases.csv.gz", ("factor", "energy", "area"))
    frame = labelquality.summarise(rows.label_cases)
    return Derived(frame, lambda f, folder: cases.write_csv(f, folder / "labels.csv"))


def _goals(rows: Rows) -> Derived:
    return Derived(
        labelquality.goals(rows.label_cases, rows.classifiers),
        lambda frame, folder: labeltables.write_goals(frame, folder, profile=rows.profile),
    )


def _stored_losses(rows: Rows) -> pd.DataFrame:
    return rows.read("label_losses.csv", ("finding", *SEEN)).astype({"n": np.int64})


def _losses(rows: Rows) -> Derived:
    """The stored table with the columns `SEEN` made anew, where the same films were kept."""
    frame = _stored_losses(rows)
    shipped = rows.label_cases[rows.label_cases["variant"] == "shipped"]
    shipped = shipped[shipped["n_classifiers"] == shipped["n_classifiers"].max()]
    taught = shipped[shipped["explainer"] == cases.explainer_of(shipped)]
    own = taught.groupby("finding").agg(
        iou_label=("iou_label", "mean"), iou_area=("iou_matched", "mean"), n=("hit", "size")
    )  # fmt: skip
    single = frame["finding"] != "mean"
    named = frame.loc[single, "finding"]
    if (
        set(named) != set(own.index)
        or own["n"].reindex(named).tolist() != frame.loc[single, "n"].tolist()
    ):
        raise Lacking("its films are not all of those in label_cases.csv.gz, and no map is stored")
    own = own.reindex(named)
    own.loc["mean"] = [own["iou_label"].mean(), own["iou_area"].mean(), own["n"].sum()]
    for column in SEEN:
        frame[column] = own[column].reindex(frame["finding"]).to_numpy()
    return Derived(
        frame.astype({"n": np.int64}),
        lambda f, folder: labeltables.write_losses(f, folder, profile=rows.profile),
        note=f"{', '.join(SEEN)} alone: the other columns need the maps, which are not stored",
    )


def _claims(rows: Rows) -> Derived:
    labels = rows.label_cases if rows.has("label_cases.csv.gz") else None
    frame = claims.evaluate(labels, rows.cases, rows.curves, rows.runs, rows.not_run)

    def made(curves: pd.DataFrame) -> pd.DataFrame:
        """Only contrasts of networks see the curves, and Holm's correction sees all."""
        trained = frame["claim"].isin(["C2", "C3", "C4"])
        found = contrasts.segmentation_rows(rows.cases, curves, rows.runs, rows.not_run)
        again = pd.DataFrame(found).sort_values("claim", kind="stable")
        out = frame.copy()
        numbers = ["effect", "lo", "hi", "p", "mde"]
        out.loc[trained, numbers] = again[numbers].to_numpy(np.float64)
        return claims.judge(out)

    return Derived(
        frame,
        lambda made, folder: claims.write_claims(
            made, folder, profile=rows.profile, population=rows.population, repeats=rows.repeats
        ),
        redo=lambda: _redone(rows, made),
    )


def _drawn(
    name: str, draw: Callable[[Rows], Drawn], exact: bool = False, key: Sequence[str] = ()
) -> Maker:
    def make(rows: Rows) -> Derived:
        drawn = draw(rows)

        def write(frame: pd.DataFrame, folder: Path) -> None:
            cases.write_csv(frame, folder / f"{name}.csv")
            (folder / f"{name}.txt").write_text(drawn.caption + "\n", encoding="utf-8")

        return Derived(drawn.data, write, exact, key)

    return make


def _figure_s3(rows: Rows) -> Drawn:
    return figures.figure_s3(rows.ablation, _stored_losses(rows), profile=rows.profile)


def _figure_s5(rows: Rows) -> Drawn:
    """From the stored contrasts, which are an artefact of their own and checked as such."""
    numbers = ("effect", "lo", "hi", "relevance", "decides", "n_patients", "n_seeds")
    found = rows.read("claims.csv", numbers)
    return claimsfigure.figure_s5(found, profile=rows.profile)


def _index(rows: Rows) -> Derived:
    """The page follows from the files beside it, which are checked on their own."""

    def write(frame: pd.DataFrame, folder: Path) -> None:
        (folder / "index.md").write_text(index.page(rows.folder), encoding="utf-8", newline="\n")

    return Derived(pd.DataFrame(), write)


Maker = Callable[[Rows], Derived]
MAKERS: dict[str, Maker] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table3_arms": _table3_arms,
    "table_sizes": _sizes,
    "robustness": _robustness,
    "labels": _labels,
    "label_goals": _goals,
    "label_losses": _losses,
    "claims": _claims,
    "figure4": _drawn("figure4", lambda r: figures.figure4(r.curves, profile=r.profile)),
    "figure5": _drawn("figure5", lambda r: sizes.figure5(r.cases, profile=r.profile), exact=True),
    "figure6": _drawn(
        "figure6",
        lambda r: agreement.figure6(r.classifiers, r.labels, profile=r.profile),
    ),
    "figure_s1": _drawn(
        "figure_s1",
        lambda r: figures.figure_s1(r.classifiers, r.labels, profile=r.profile),
        exact=True,
    ),
    "figure_s3": _drawn("figure_s3", _figure_s3, key=("panel", "row")),
    "figure_s4": _drawn(
        "figure_s4",
        lambda r: robustfigure.figure_s4(r.robust, r.cases, profile=r.profile),
        exact=True,
    ),
    "figure_s5": _drawn("figure_s5", _figure_s5, exact=True),
    "index": _index,
}
"""Artefact (name of its files without suffix) to what makes it anew."""
