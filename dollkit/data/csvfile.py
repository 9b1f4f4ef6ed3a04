"""CSV files of data sets: every cell as text, row numbers kept, wrong rows told one by one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError

AGAIN = "mend it, or put an intact copy there"


class BadRows(list[tuple[str, str, str]]):
    """Rows that a reader leaves out: file, row and reason of each, as ``skip_bad`` reports them."""

    def __init__(self, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip

    def reject(self, file: Path | str, where: str, reason: str) -> None:
        """Note one wrong row or file, or raise "`where`: `reason`"."""
        if not self.skip:
            raise InputError(f"{where}: {reason}")
        self.append((str(file), where, f"{where}: {reason}"))


STRICT = BadRows(skip=False)


class CsvTable:
    """Rows of a CSV file as text: a frame of str columns, blank as "", and ``row`` (int).

    A row counts as in a spreadsheet, the header being row 1. Wrong rows go to `bad`.
    """

    def __init__(self, path: Path, frame: pd.DataFrame, bad: BadRows) -> None:
        self.path, self.frame, self.bad = path, frame, bad

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> pd.Series[str]:
        """One column without surrounding blanks."""
        return self.frame[name].str.strip()

    def part(self, rows: npt.ArrayLike) -> CsvTable:
        """A table of some of the rows, (n,) bool."""
        kept = self.frame[np.asarray(rows, bool)].reset_index(drop=True)
        return CsvTable(self.path, kept, self.bad)

    def require(self, good: npt.ArrayLike, column: str, allowed: str) -> None:
        """Keep the rows that are `good` (n,) bool; others are an error, or noted and dropped."""
        wrong = self.frame[~np.asarray(good, bool)]
        for row, value in zip(wrong["row"], wrong[column], strict=True):
            where = f"{self.path}, row {row}, column {column!r}"
            self.bad.reject(self.path, where, f"value {value!r}: use {allowed}")
        if len(wrong):
            self.frame = self.part(good).frame

    def among(self, column: str, allowed: Sequence[str]) -> None:
        """As `require`: stripped values are among those `allowed`."""
        *others, last = (value or "blank" for value in allowed)
        known = f"{', '.join(others)} or {last}"
        self.require(self.column(column).isin(list(allowed)), column, known)

    def files(self, column: str, root: Path) -> list[Path]:
        """Paths that a column names, inside `root`; rows that lead elsewhere are wrong rows.

        Backslashes count as slashes: tables made on Windows have them.
        """
        self.require([is_inside(v) for v in self.frame[column]], column, INSIDE)
        return [root / clean(v) for v in self.frame[column]]

    def where(self) -> list[str]:
        """Name of each row in messages."""
        return [f"{self.path}, row {row}" for row in self.frame["row"]]

    def states(self, column: str) -> pd.Series[float]:
        """Label states of a column: 1.0, 0.0, -1.0, or NaN for blank; anything else is wrong."""
        values = {"1": 1.0, "0": 0.0, "-1": -1.0, "": np.nan}
        # By distinct cell: CheXpert has 14 such columns of 223,414 rows, and few distinct cells.
        short = {
            cell: re.sub(r"(?<=\d)\.0+$", "", cell.strip()) for cell in self.frame[column].unique()
        }
        known = {cell: values[text] for cell, text in short.items() if text in values}
        self.require(self.frame[column].isin(list(known)), column, "1, 0, -1 or blank")
        return self.frame[column].map(known).astype("float64")

    def numbers(self, column: str, blank: bool = True) -> pd.Series[float]:
        """Finite numbers of a column, NaN for blank (if allowed); anything else is wrong."""
        cells = pd.Series(self.frame[column].unique(), dtype=str)
        parsed = pd.to_numeric(cells.str.strip(), errors="coerce").astype("float64")
        good = cells[np.isfinite(parsed) | ((cells.str.strip() == "") & blank)]
        allowed = "a number or blank" if blank else "a number"
        self.require(self.frame[column].isin(good), column, allowed)
        known = dict(zip(cells, parsed, strict=True))
        return self.frame[column].map(known).astype("float64")


INSIDE = "a relative path inside the data set's folder, without '..'"


def words(name: str) -> str:
    """A name of a column, class or folder in small letters, with single blanks, ``_`` as such."""
    return " ".join(name.lower().replace("_", " ").split())


def clean(text: str) -> PurePosixPath:
    """A path as a table gives it, with slashes."""
    return PurePosixPath(text.strip().replace("\\", "/"))


def is_inside(text: str) -> bool:
    """Whether a table's path is relative, not empty, and never goes up."""
    path = clean(text)
    if "\0" in text or re.match(r"^[A-Za-z]:", str(path)) or path.is_absolute():
        return False
    return bool(path.parts) and ".." not in path.parts


def read_csv(
    path: Path, needed: Iterable[str] = (), bad: BadRows = STRICT, *, hint: str = AGAIN,
    names: Sequence[str] | None = None, optional: Iterable[str] = (),
) -> CsvTable:  # fmt: skip
    """Read a CSV file as text, UTF-8 with or without a byte-order mark.

    The columns `needed` must be there; `hint` says what to do about a missing file or column.
    `optional` ones are blank where they are not. `names` stand in for a first line that lies.
    """
    text = read_text(path, hint)
    if "\0" in text:
        raise InputError(f"{path}: holds NUL bytes, so it is no CSV file: {hint}")
    if names is None and _separated_otherwise(text):
        raise InputError(f"{path}: not separated by commas: {hint}")
    try:
        # newline="": the csv module itself knows all line ends, also inside quotes.
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        # Blank lines count as rows and are left out. Tuples: the garbage collector skips them.
        records = [(i, tuple(cells)) for i, cells in enumerate(lines, 1) if "".join(cells).strip()]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error}): {hint}") from None
    if not records or records[0][0] != 1:
        raise InputError(f"{path}: not a CSV file (no header in its first line): {hint}")
    header = list(names) if names is not None else [cell.strip() for cell in records[0][1]]
    # "row" is this table's own; columns without a name are left behind by spreadsheets.
    header = ["row " if c == "row" else c for c in header]
    for column in header:
        if column and header.count(column) > 1:
            raise InputError(f"{path}: column {column!r} stands there twice: {hint}")
    for column in needed:
        if column not in header:
            near = [c for c in header if c.lower() == column.lower()]
            instead = f" ({near[0]!r} is there)" if near else ""
            raise InputError(f"{path}: column {column!r} is missing{instead}: {hint}")
    kept: list[tuple[str | int, ...]] = []
    for row, cells in records[1:]:
        if len(cells) != len(header):
            reason = f"{len(cells)} cells under {len(header)} columns: mend the row"
            bad.reject(path, f"{path}, row {row}", reason)
        else:
            kept.append((*cells, row))
    blank = dict.fromkeys(set(optional) - set(header), "")
    return CsvTable(path, pd.DataFrame(kept, columns=[*header, "row"]).assign(**blank), bad)


def read_text(path: Path, hint: str = AGAIN, errors: str = "strict") -> str:
    """A text file in UTF-8, without its byte-order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: {hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}): {hint}") from None


def _separated_otherwise(text: str) -> bool:
    """Whether semicolons or tabs part the header's names; commas may stand in cells (``63,5``)."""
    found = re.match(r"[^,;\t\r\n]*([;\t])[^\r\n]*", text)
    return found is not None and found[0].count(found[1]) > found[0].count(",")
