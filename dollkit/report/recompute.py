"""Every table, and the data of every figure, that follows from the stored rows of a profile."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.labels import summary
from dollkit.report import (
    agreement,
    claims,
    claims_figure,
    contrasts,
    figures,
    label_efficiency,
    label_tables,
    page,
    robustness,
    tables,
)
from dollkit.report import rows as cases
from dollkit.report.stored_rows import Lacking, Rows, rounded_otherwise
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
        tables.write_numbered(
            1, frame, folder, profile=rows.profile, notes=rows.edge_notes, reference=rows.published
        )

    note = "" if rows.has("selection.csv") else "its notes need selection.csv, which is not stored"
    return Derived(tables.table1(rows.cases, rows.runs, rows.not_run), write, True, note=note)


def _table2(rows: Rows) -> Derived:
    def write(frame: pd.DataFrame, folder: Path) -> None:
        tables.write_numbered(2, frame, folder, profile=rows.profile, notes=rows.edge_notes)

    older = ("memory_mb",) if rows.lacks("runs.csv", "memory_mb") else ()

    def made(curves: pd.DataFrame) -> pd.DataFrame:
        return tables.table2(rows.cases, rows.runs, curves).drop(columns=list(older))

    return Derived(made(rows.curves), write, redo=lambda: _redone(rows, made), older=older)


def _redone(rows: Rows, made: Callable[[pd.DataFrame], pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for curves in rounded_otherwise(rows.curves, ("val_miou", "seconds")):
        yield made(curves)


def _table3(rows: Rows) -> Derived:
    def write(frame: pd.DataFrame, folder: Path) -> None:
        tables.write_numbered(3, frame, folder, profile=rows.profile)

    return Derived(tables.table3(rows.label_cases, rows.ablation), write)


def _table3_arms(rows: Rows) -> Derived:
    taught = rows.read("pretraining.csv", label_tables.COLUMNS)
    return Derived(
        label_tables.table(taught, rows.cases),
        lambda frame, folder: label_tables.write(frame, folder, profile=rows.profile),
    )


def _sizes(rows: Rows) -> Derived:
    return Derived(
        label_efficiency.table_sizes(rows.cases),
        lambda frame, folder: label_efficiency.write(frame, folder, profile=rows.profile),
        exact=True,
    )


def _robustness(rows: Rows) -> Derived:
    return Derived(
        robustness.table(rows.robust, rows.cases),
        lambda frame, folder: robustness.write(frame, folder, profile=rows.profile),
        exact=True,
    )


def _labels(rows: Rows) -> Derived:
    rows.read("label_cases.csv.gz", ("factor", "energy", "area"))
    frame = summary.summarise(rows.label_cases)
    return Derived(frame, lambda f, folder: cases.write_csv(f, folder / "labels.csv"))


def _goals(rows: Rows) -> Derived:
    return Derived(
        summary.goals(rows.label_cases, rows.classifiers),
        lambda frame, folder: label_tables.write_goals(frame, folder, profile=rows.profile),
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
        lambda f, folder: label_tables.write_losses(f, folder, profile=rows.profile),
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
    return claims_figure.figure_s5(found, profile=rows.profile)


def _index(rows: Rows) -> Derived:
    """The page follows from the files beside it, which are checked on their own."""

    def write(frame: pd.DataFrame, folder: Path) -> None:
        (folder / "index.md").write_text(page.page(rows.folder), encoding="utf-8", newline="\n")

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
    "figure5": _drawn(
        "figure5", lambda r: label_efficiency.figure5(r.cases, profile=r.profile), exact=True
    ),
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
        lambda r: robustness.figure_s4(r.robust, r.cases, profile=r.profile),
        exact=True,
    ),
    "figure_s5": _drawn("figure_s5", _figure_s5, exact=True),
    "index": _index,
}
"""Artefact (name of its files without suffix) to what makes it anew."""


# Stored tables against tables made anew from the stored rows: what differs, where, by how much.
#
# Rows are stored with six significant digits. What is made of whole numbers alone (pixel counts)
# must agree to the last printed digit. All else may differ by what that rounding can do: half a
# unit
# of the fifth significant digit, or 1e-6, the most by which it can move a mean of differences of
# numbers below one. Steps at which a flat curve reaches a target move by more; how much more is
# measured, with curves that were rounded otherwise.
#
# Text must agree letter by letter with the text made from the rows, or, in the cells that differ by
# rounding, with that of the stored CSV.


SLACK = 1e-6
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass
class Outcome:
    """What became of one artefact.

    Attributes:
        differences: where and by how much it differs, one line each; empty: it is the same.
        files: names of the stored files that were compared.
        largest: largest difference of a number that the rounding of rows explains.
    """

    differences: list[str]
    files: list[str]
    largest: float = 0.0


def check(name: str, rows: Rows, made: Derived) -> Outcome:
    """Compare the stored files of an artefact with the same made anew.

    Args:
        name: artefact, such as "table1".
        rows: the profile's stored rows, whose folder holds the artefact.
        made: the artefact as it follows from them.
    """
    with tempfile.TemporaryDirectory() as temporary:
        anew, again = Path(temporary) / "anew", Path(temporary) / "again"
        for folder in (anew, again):
            folder.mkdir()
        made.write(made.frame, anew)
        files = sorted(p.name for p in anew.iterdir() if rows.has(p.name))
        differences: list[str] = []
        largest = 0.0
        frame = made.frame
        if f"{name}.csv" in files:
            differences, largest, frame = _numbers(name, rows, made, _cells(anew / f"{name}.csv"))
        made.write(frame, again)
        for file in files:
            if file == f"{name}.csv":
                continue
            if file.endswith(".csv"):  # published numbers, which are only copied
                if rows.text(file) != (anew / file).read_text(encoding="utf-8"):
                    differences.append(f"{file}: not as in data/reference")
                continue
            texts = [(f / file).read_text(encoding="utf-8").splitlines() for f in (anew, again)]
            differences += _texts(file, rows.text(file).splitlines(), texts, bool(made.older))
    return Outcome(differences, files, largest)


def _cells(path: Path) -> pd.DataFrame:
    """A CSV as text, cell by cell."""
    return pd.read_csv(path, dtype="str", keep_default_na=False)


def _numbers(
    name: str, rows: Rows, made: Derived, anew: pd.DataFrame
) -> tuple[list[str], float, pd.DataFrame]:
    """Differences of the CSV, the largest that rounding explains, and the frame as it is stored."""
    stored = _cells(rows.folder / f"{name}.csv")
    if list(stored.columns) != list(anew.columns):
        strange = sorted(set(stored.columns) ^ set(anew.columns)) or ["their order"]
        return [f"{name}.csv: columns differ: {', '.join(strange)}"], 0.0, made.frame
    if len(stored) != len(anew):
        return [f"{name}.csv: {len(stored)} rows, made anew {len(anew)}"], 0.0, made.frame
    if made.key:
        places = {key: i for i, key in enumerate(_keys(anew, made.key))}
        keys = _keys(stored, made.key)
        if set(keys) != set(places) or len(set(keys)) < len(keys):
            odd = sorted(set(keys) ^ set(places)) or sorted(k for k in keys if keys.count(k) > 1)
            return [f"{name}.csv: rows differ: {', '.join(odd[0])}"], 0.0, made.frame
        back = np.argsort([places[k] for k in keys])
        lines = back + 2
        stored = stored.iloc[back].reset_index(drop=True)
    else:
        lines = np.arange(len(stored)) + 2
    return _compare(name, made, anew, stored, lines)


def _keys(frame: pd.DataFrame, key: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(str(v) for v in row) for row in frame[list(key)].to_numpy().tolist()]


def _compare(
    name: str, made: Derived, anew: pd.DataFrame, stored: pd.DataFrame, lines: npt.NDArray[np.int_]
) -> tuple[list[str], float, pd.DataFrame]:
    frame = made.frame.reset_index(drop=True).copy()
    none = np.zeros(len(frame))
    found: list[str] = []
    largest = 0.0
    for i, column in zip(*np.nonzero((anew != stored).to_numpy()), strict=True):
        label = str(anew.columns[column])
        ours, theirs = str(anew.iat[i, column]), str(stored.iat[i, column])
        where = f"{name}.csv, line {lines[i]}, {label}: {theirs or 'blank'}"
        try:
            a, b = float(ours), float(theirs)
        except ValueError:
            found.append(f"{where}, made anew {ours or 'blank'}")
            continue
        if made.exact:
            near = a == b
        else:
            near = abs(a - b) <= _slack(b)
            if not near and made.redo is not None:
                near = abs(a - b) <= _slack(b) + made.allowed.get(label, none)[i]
        if near:
            largest = max(largest, abs(a - b))
            frame[label] = _put(frame[label], int(i), b)
        else:
            found.append(f"{where}, made anew {ours} (difference {b - a:+.3g})")
    return found, largest, frame


def _put(column: pd.Series, at: int, value: float) -> pd.Series:
    out = column.copy()
    out.iloc[at] = value if out.dtype.kind == "f" else int(value)
    return out


def _slack(value: float) -> float:
    """By how much rounding of rows may move a number; the last part absorbs float error."""
    if not np.isfinite(value):
        return 0.0
    unit = 10.0 ** (np.floor(np.log10(abs(value))) - 4) if value else 0.0
    return max(0.5 * unit, SLACK) * (1 + 1e-9)


def _texts(
    file: str, stored: Sequence[str], texts: Sequence[Sequence[str]], older: bool
) -> list[str]:
    """Differences of a text, line by line, from both ways of making it."""
    found = []
    for number, lines in enumerate(itertools.zip_longest(stored, *texts), start=1):
        line, *ours = lines
        if line in ours:
            continue
        if older and line is not None and any(o and _alike(file, number, line, o) for o in ours):
            continue
        found.append(f"{file}, line {number}: {_part(line, ours[0])}")
    return found


def _alike(file: str, number: int, line: str, ours: str) -> bool:
    """Whether an older version's line says the same: other decimals, and captions other words."""
    caption = (file.endswith(".md") and number == 1) or line.startswith("\\caption")
    if not caption and NUMBER.split(line) != NUMBER.split(ours):
        return False
    theirs, mine = NUMBER.findall(line), NUMBER.findall(ours)
    return len(theirs) == len(mine) and all(map(_rounds_to, theirs, mine))


def _rounds_to(theirs: str, ours: str) -> bool:
    """Whether two printed numbers may be one number, rounded to the decimals of each."""
    half = sum(0.5 * 10.0 ** -len(n.partition(".")[2]) for n in (theirs, ours))
    short = len(theirs.partition(".")[2]) != len(ours.partition(".")[2])
    return theirs == ours or (short and abs(float(theirs) - float(ours)) <= half)


def _part(line: str | None, ours: str | None, span: int = 24) -> str:
    """Where two lines part, with some letters around it."""
    if line is None or ours is None:
        return "is missing" if line is None else "has no counterpart"
    at = next((i for i, (a, b) in enumerate(zip(line, ours, strict=False)) if a != b), 0)
    if line[: len(ours)] == ours or ours[: len(line)] == line:
        at = min(len(line), len(ours))
    start = max(0, at - span // 2)
    return f"...{line[start : at + span]}..., made anew ...{ours[start : at + span]}..."
