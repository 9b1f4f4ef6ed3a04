"""What every reader returns: films in the store's columns, and where their pictures are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN
from dollkit.data.csvfile import BadRows
from dollkit.data.masks import Mask

COLUMNS: tuple[str, ...] = (
    *("image_id", "patient_id", "study_id", "view", "sex", "age", "split", "fold", "source"),
    *("width", "height", *FINDINGS),
)
"""Columns of ``films.csv``, in this order."""

SPLITS: tuple[str, ...] = ("train", "valid", "test")


def states_of(films: pd.DataFrame) -> npt.NDArray[np.int8]:
    """Label states (n, 14) int8 of a films table; blank becomes ``NOT_MENTIONED`` (-2)."""
    values = films[list(FINDINGS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    blank = films[list(FINDINGS)].isna().to_numpy()
    states = np.where(blank, float(NOT_MENTIONED), values)
    bad = ~(blank | np.isin(states, (POSITIVE, NEGATIVE, UNCERTAIN)))
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        raise InputError(
            f"films table, row {row}, column {FINDINGS[column]!r}: label value "
            f"{films.iloc[row][FINDINGS[column]]!r}: use 1, 0, -1 or blank"
        )
    return states.astype(np.int8)


def check_films(films: pd.DataFrame, name: str = "films table") -> None:
    """Check a films table: unique ids, known splits and labels, no patient in two of them."""
    for image_id in films["image_id"][films["image_id"].duplicated()]:
        raise InputError(f"{name}: image_id {image_id!r} stands there twice")
    for split in films["split"][~films["split"].isin(SPLITS)]:
        raise InputError(f"{name}: split {split!r}: use one of {', '.join(SPLITS)}")
    for column in ("split", "fold"):
        check_patients(films, column, name)
    states_of(films)


def check_patients(films: pd.DataFrame, column: str = "split", name: str = "films table") -> None:
    """Raise `InputError`, naming the patient, if one stands under two values of `column`."""
    pairs = films[["patient_id", column]].drop_duplicates()
    for patient in pairs["patient_id"][pairs["patient_id"].duplicated()]:
        found = sorted(str(v) for v in pairs[column][pairs["patient_id"] == patient])
        raise InputError(
            f"{name}: patient {patient!r} stands in two {column}s ({' and '.join(found)}): "
            f"give all films of a patient the same {column}"
        )


def read_films(path: Path) -> pd.DataFrame:
    """Read a ``films.csv``: text columns as str with "" for unknown, findings and age as float."""
    text = ["image_id", "patient_id", "study_id", "view", "sex", "split", "source"]
    films = pd.read_csv(
        path,
        dtype=dict.fromkeys(text, str),
        na_values={name: [""] for name in COLUMNS if name not in text},
        keep_default_na=False,
    )
    for name in ("age", *FINDINGS):
        films[name] = films[name].astype("float64")
    return films


BOX_COLUMNS: tuple[str, ...] = ("image_id", "finding", "x", "y", "w", "h")


@dataclass(frozen=True)
class FilmTable:
    """A data set as read, before any pixel is."""

    source: str
    """Short name of the data set."""
    films: pd.DataFrame
    """`COLUMNS` (width and height may be 0: unknown until decoded) plus ``path`` (of the image) and
    ``where`` (file and row that named it, the header being row 1)."""
    root: Path
    """Folder of the data set; no file that it names may lie outside, links followed."""
    masks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One column per mask class, one row per film: a `Mask`, or None where the film has no such
    mask (unknown, not empty)."""
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(BOX_COLUMNS)))
    """`BOX_COLUMNS` in pixels of the image file; rasterised into the mask class ``finding``, valid
    only on films with a box of that finding."""
    depths: tuple[int, ...] = (8, 16)
    """Bits per grey value that its films may have."""
    any_ending: bool = False
    """Whether films are read as what they are, whatever their ending says."""
    others: tuple[Path, ...] = ()
    """Files that the data set lists or brings and the reader leaves out."""
    side: tuple[str, ...] = ()
    """Glob patterns, relative to `root`, of files that are never read."""
    facts: Mapping[str, int] = field(default_factory=dict)
    """Counts, by the names under which they are documented."""
    bad: BadRows = field(default_factory=BadRows)
    """Rows left out because they are wrong."""
    beside: tuple[Path, ...] = ()
    """Files that the reader itself found outside `root`."""

    def __post_init__(self) -> None:
        if len(self.masks.columns) and len(self.masks) != len(self.films):
            raise ValueError("one row of masks per film")
        check_films(self.films, str(self.root))

    def __len__(self) -> int:
        return len(self.films)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Mask channels: those with files, then the boxed findings in CheXpert's order."""
        boxed = set(self.boxes["finding"])
        return (*map(str, self.masks.columns), *(f for f in FINDINGS if f in boxed))

    @cached_property
    def _masks(self) -> list[list[Mask | None]]:
        rows: list[list[Mask | None]] = self.masks.to_numpy(object).tolist()
        return rows  # of which pandas would give one slowly

    def masks_of(self, film: int) -> Iterator[tuple[int, Mask]]:
        """Masks that a film has, with the channel of each."""
        if len(self.masks.columns):
            yield from ((c, mask) for c, mask in enumerate(self._masks[film]) if mask is not None)

    def ignoring(self) -> bool:
        """Whether any mask may hold pixels to ignore."""
        return any(mask is not None and mask.ignores for row in self._masks for mask in row)


def lost_files(table: FilmTable) -> pd.DataFrame:
    """Images and masks that are not there, or not the data set's own.

    Columns file, row (what named it), reason (whole message), film (index).
    """
    look = Lookup(table.root)
    lost = []
    for i, (path, where) in enumerate(zip(table.films["path"], table.films["where"], strict=True)):
        files = dict.fromkeys([Path(path), *(f for _, m in table.masks_of(i) for f in m.files)])
        for file in files:
            if file not in table.beside and (fault := look.fault(file)):
                lost.append((str(file), where, f"{where}: {fault}", i))
    return pd.DataFrame(lost, columns=["file", "row", "reason", "film"])


def check_files(table: FilmTable, cure: str = "fetch it, mend the row or use skip_bad") -> None:
    """Raise `InputError` for the first image or mask that is not there or leads elsewhere."""
    lost = lost_files(table)
    if len(lost):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"{lost.iloc[0]['reason']}{more}: {cure}")


def is_there(path: Path) -> bool:
    """Whether there is such a file; where nobody may look, `Lookup` tells why."""
    try:
        return path.is_file()
    except OSError:
        return False


class Lookup:
    """Looks files of one data set up, each folder resolved once."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._inside = cache(self._is_inside)

    def fault(self, file: Path) -> str:
        """What is wrong with a file's place, one phrase; "" if nothing."""
        try:
            if not (self._is_inside(file) if file.is_symlink() else self._inside(file.parent)):
                return f"{file} leads out of {self._root} (a link): put the file itself there"
            if file.is_file():
                return ""
            if file.is_dir():
                return f"{file} is a folder, not a file"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        return f"no such file {file}"

    def _is_inside(self, path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return real == self._root or self._root in real.parents


def blank_films(n: int) -> pd.DataFrame:
    """A films table of `n` rows with every column unknown: a reader fills in what it has."""
    films = pd.DataFrame(index=range(n), columns=list(COLUMNS))
    for column in ("image_id", "patient_id", "study_id", "view", "sex", "split", "source"):
        films[column] = ""
    films["fold"] = -1
    films[["width", "height"]] = 0
    films["age"] = np.nan
    films[list(FINDINGS)] = np.nan
    return films.infer_objects()
