"""Data sets, and what the reader of each returns: films in the store's columns, and their files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN
from dollkit.data.csvfile import BadRows
from dollkit.data.masks import Mask

COLUMNS: tuple[str, ...] = (
    *("image_id", "patient_id", "study_id", "view", "sex", "age", "split", "fold", "source"),
    *("width", "height", *FINDINGS),
)
"""Columns of ``films.csv``, in this order."""

TEXT: tuple[str, ...] = (*("image_id", "patient_id", "study_id", "view", "sex", "split", "source"),)
"""Those of them that hold text, "" for unknown; ages and findings are float, NaN for unknown."""

SPLITS: tuple[str, ...] = ("train", "valid", "test")
STORES: tuple[str, ...] = ("films", "lungs", "infection", "organs")
"""Stores of a run: films with findings, and one per downstream task."""


def states_of(films: pd.DataFrame) -> npt.NDArray[np.int8]:
    """Label states (n, 14) int8 of a films table; blank becomes ``NOT_MENTIONED`` (-2)."""
    values = films[list(FINDINGS)].to_numpy(np.float64, na_value=np.nan)
    blank = np.isnan(values)
    for row, column in np.argwhere(~(blank | np.isin(values, (POSITIVE, NEGATIVE, UNCERTAIN)))):
        raise InputError(
            f"films table, row {row}, column {FINDINGS[column]!r}: label value "
            f"{values[row, column]}: use 1, 0, -1 or blank"
        )
    return np.where(blank, NOT_MENTIONED, values).astype(np.int8)


def check_films(films: pd.DataFrame, name: str = "films table") -> None:
    """Check a films table: unique ids, known splits and labels, no patient in two of them."""
    for image_id in films["image_id"][films["image_id"].duplicated()]:
        raise InputError(f"{name}: image_id {image_id!r} stands there twice")
    for split in films["split"][~films["split"].isin(SPLITS)]:
        raise InputError(f"{name}: split {split!r}: use one of {', '.join(SPLITS)}")
    for column in ("split", "fold"):
        pairs = films[["patient_id", column]].drop_duplicates()
        for patient in pairs["patient_id"][pairs["patient_id"].duplicated()]:
            parts = sorted(pairs[column][pairs["patient_id"] == patient].astype(str))
            raise InputError(
                f"{name}: patient {patient!r} stands in two {column}s ({' and '.join(parts)}): "
                f"give all films of a patient the same {column}"
            )
    states_of(films)


def read_films(path: Path) -> pd.DataFrame:
    """Read a ``films.csv``, with the types of `blank_films`."""
    films = pd.read_csv(
        path,
        dtype=dict.fromkeys(TEXT, str),
        na_values={name: [""] for name in COLUMNS if name not in TEXT},
        keep_default_na=False,
    )
    return films.astype(dict.fromkeys(("age", *FINDINGS), "float64"))


def blank_films(n: int) -> pd.DataFrame:
    """A films table of `n` rows with every column unknown: a reader fills in what it has."""
    values = dict.fromkeys(COLUMNS, np.nan) | dict.fromkeys(TEXT, "")
    return pd.DataFrame(values | {"fold": -1, "width": 0, "height": 0}, index=range(n))


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
    depths: tuple[int, ...] = (8, 16)
    """Bits per grey value that its films may have."""
    any_ending: bool = False
    """Whether films are read as what they are, whatever their ending says."""
    others: tuple[Path, ...] = ()
    """Files that the data set lists or brings, whether they are read or not."""
    side: tuple[str, ...] = ()
    """Glob patterns, relative to `root`, of files that are never read."""
    facts: Mapping[str, int] = field(default_factory=dict)
    """Counts, by the names under which they are documented."""
    bad: BadRows = field(default_factory=BadRows)
    """Rows left out because they are wrong."""
    beside: tuple[Path, ...] = ()
    """Files that the reader itself found outside `root`."""
    folders: tuple[Path, ...] = ()
    """Folders of its files, where `root` holds other data sets too."""

    def __post_init__(self) -> None:
        if len(self.masks.columns) and len(self.masks) != len(self.films):
            raise ValueError("one row of masks per film")
        check_films(self.films, str(self.root))

    def __len__(self) -> int:
        return len(self.films)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Mask channels."""
        return tuple(map(str, self.masks.columns))

    @cached_property
    def masks_of(self) -> list[list[tuple[int, Mask]]]:
        """Of each film the masks that it has, with the channel of each."""
        # As lists: pandas would give one row slowly.
        rows = self.masks.to_numpy(object).tolist() if len(self.masks.columns) else [[]] * len(self)
        return [[(c, mask) for c, mask in enumerate(row) if mask is not None] for row in rows]

    def files(self) -> Iterator[list[Path]]:
        """Of each film its image, then the files of its masks."""
        for path, masks in zip(self.films["path"], self.masks_of, strict=True):
            yield [Path(path), *(file for _, mask in masks for file in mask.files)]

    @property
    def ignoring(self) -> bool:
        """Whether any mask may hold pixels to ignore."""
        return any(mask.ignore for row in self.masks_of for _, mask in row)


class Fault(NamedTuple):
    """Why a film cannot be read: its number, the file at fault, and a whole message."""

    film: int
    file: str
    reason: str


def lost_files(table: FilmTable) -> list[Fault]:
    """Images and masks that are not there, or not the data set's own."""
    fault_of = placing(table.root)
    return [
        Fault(i, str(file), f"{where}: {fault}")
        for i, (where, files) in enumerate(zip(table.films["where"], table.files(), strict=True))
        for file in dict.fromkeys(files)
        if file not in table.beside and (fault := fault_of(file))
    ]


CURE = "put it there, mend the row or use skip_bad"


def check_files(table: FilmTable, skip_bad: bool = False, cure: str = CURE) -> list[Fault]:
    """`lost_files`; without `skip_bad` the first of them is an error."""
    lost = lost_files(table)
    if lost and not skip_bad:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"{lost[0].reason}{more}: {cure}")
    return lost


def placing(root: Path) -> Callable[[Path], str]:
    """Tells what is wrong with a file's place, one phrase; "" if it lies in the folder `root`."""
    top = Path(os.path.realpath(root))
    inside = cache(lambda path: Path(os.path.realpath(path)).is_relative_to(top))

    def fault(file: Path) -> str:
        try:
            if not inside(file if file.is_symlink() else file.parent):
                return f"{file} leads out of {top} (a link): put the file itself there"
            if file.is_file():
                return ""
            if file.is_dir():
                return f"{file} is a folder, not a file"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        return f"no such file {file}"

    return fault


@cache
def catalogue() -> dict[str, Any]:
    """What each data set is, for people, by name: ``catalogue.yaml``."""
    return dict(yaml.safe_load(paths.CATALOGUE.read_text("utf-8")))


@dataclass(frozen=True)
class DataSet:
    """One data set that can be read in its original layout."""

    name: str
    title: str
    """Its name for people."""
    stores: tuple[str, ...]
    """Which of `STORES` it can give."""
    find: Callable[[Path], Path | None]
    """Its root at or just below a folder, by a cheap look; None if it is not there."""
    read: Callable[..., dict[str, FilmTable]]
    """``read(root, bad, **options)`` -> table by store name; wrong rows go to ``bad``."""
    documented: Mapping[str, int]
    """Counts that its authors state, by the names that `FilmTable.facts` uses."""
    options: Mapping[str, tuple[str, ...]]
    """Option -> allowed values, the default first."""
    tree: str
    """What marks its folder, for the message when it is not found."""
    licence: str
    cite: str
    size: str = ""

    def place(self, folder: Path) -> Path | None:
        """Its root in a folder or else in one of the sub-folders; None if it is not there."""
        if (root := self.find(folder)) is not None:
            return root
        below = sorted(path for path in folder.iterdir() if path.is_dir())
        roots = {root.resolve(): root for path in below if (root := self.find(path))}
        if len(roots) > 1:
            one, other = list(roots.values())[:2]
            raise InputError(
                f"{folder}: {self.title} lies there twice ({one} and {other}): name one of them "
                "as the folder"
            )
        return next(iter(roots.values()), None)

    def locate(self, folder: Path) -> Path:
        """As `place`; `InputError` if it is not there."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give the folder of the {self.title} data")
        root = self.place(folder)
        if root is None:
            raise InputError(
                f"{folder}: no {self.title} here: expected {self.tree}; data/README.md shows the "
                "tree"
            )
        return root

    def tables(
        self, folder: Path, options: Mapping[str, str] | None = None, skip_bad: bool = False,
        valid_fraction: float = 0.1,
    ) -> dict[str, FilmTable]:  # fmt: skip
        """Tables of the data set at or below `folder`, by store name.

        With `skip_bad`, wrong rows are noted in the tables' ``bad``; else the first is an error.
        `valid_fraction` is for readers that draw the validation patients themselves.
        """
        settings: dict[str, Any] = dict(options or {})
        for option, value in settings.items():
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"data set {self.name} has no option {option!r}; it has: {known}")
            if value not in self.options[option]:
                known = ", ".join(self.options[option])
                raise InputError(f"option {self.name}.{option} is {value!r}: use one of {known}")
        if "valid_fraction" in inspect.signature(self.read).parameters:
            settings["valid_fraction"] = valid_fraction
        return self.read(self.locate(folder), BadRows(skip_bad), **settings)
