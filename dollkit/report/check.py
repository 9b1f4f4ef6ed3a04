"""Stored tables against tables made anew from the stored rows: what differs, where, by how much.

Rows are stored with six significant digits. What is made of whole numbers alone (pixel counts)
must agree to the last printed digit. All else may differ by what that rounding can do: half a unit
of the fifth significant digit, or 1e-6, the most by which it can move a mean of differences of
numbers below one. Steps at which a flat curve reaches a target move by more; how much more is
measured, with curves that were rounded otherwise.

Text must agree letter by letter with the text made from the rows, or, in the cells that differ by
rounding, with that of the stored CSV.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.report.committed import Rows
from dollkit.report.derive import Derived

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
