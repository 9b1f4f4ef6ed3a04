"""What every reader returns: films in the store's columns, and where their pictures are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, POSITIVE, indices
from dollkit.data.csvfile import BadRows
from dollkit.data.films import COLUMNS, check_films, states_of
from dollkit.data.masks import Mask

BOX_COLUMNS: tuple[str, ...] = ("image_id", "finding", "x", "y", "w", "h")


def _no_boxes() -> pd.DataFrame:
    return pd.DataFrame(columns=list(BOX_COLUMNS))


@dataclass(frozen=True)
class FilmTable:
    """A data set as read, before any pixel is.

    Attributes:
        source: short name of the data set.
        films: the columns of `dollkit.data.films.COLUMNS` (width and height may be 0: unknown until
            decoded) plus ``path`` (of the image) and ``where`` (file and row that named it).
            Rows of CSV files are counted as a spreadsheet shows them: the header is row 1.
        masks: one column per mask class, one row per film: a `Mask`, or None where the film has
            no such mask (unknown, not empty).
        boxes: `BOX_COLUMNS`, boxes in pixels of the image file; rasterised into the mask class
            ``finding``, valid only on films with a box of that finding.
        root: folder of the data set; no file that it names may lie outside, links followed.
        depths: bits per grey value that its films may have.
        any_ending: whether films are read as what they are, whatever their ending says.
        others: files that the data set lists or brings and the reader leaves out.
        side: glob patterns, relative to `root`, of files that belong to the data set and are
            never read.
        facts: counts found, by the names under which they are documented.
        bad: rows left out because they are wrong.
        beside: files that the reader itself found outside `root`.
    """

    source: str
    films: pd.DataFrame
    root: Path
    masks: pd.DataFrame = field(default_factory=pd.DataFrame)
    boxes: pd.DataFrame = field(default_factory=_no_boxes)
    depths: tuple[int, ...] = (8, 16)
    any_ending: bool = False
    others: tuple[Path, ...] = ()
    side: tuple[str, ...] = ()
    facts: Mapping[str, int] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)
    beside: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for column in ("path", "where"):
            if column not in self.films.columns:
                raise ValueError(f"films table of {self.source} lacks {column!r}")
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

    def masks_of(self, film: int) -> Iterator[tuple[int, Mask]]:
        """Masks that a film has, with the channel of each."""
        if len(self.masks.columns):
            for channel, mask in enumerate(self.masks.iloc[film]):
                if mask is not None:
                    yield channel, mask

    def ignoring(self) -> bool:
        """Whether any mask may hold pixels to ignore."""
        return any(m is not None and m.ignores for name in self.masks for m in self.masks[name])


def lost_files(table: FilmTable) -> pd.DataFrame:
    """Images and masks that are not there, or not the data set's own.

    Returns:
        columns file, row (what named it), reason (whole message), film (index).
    """
    look = Lookup(table.root)
    lost = []
    for i, (path, where) in enumerate(zip(table.films["path"], table.films["where"], strict=True)):
        files = dict.fromkeys([Path(path), *(f for _, m in table.masks_of(i) for f in m.files)])
        for file in files:
            reason = "" if file in table.beside else look.fault(file)
            if reason:
                lost.append(
                    {"file": str(file), "row": where, "reason": f"{where}: {reason}", "film": i}
                )
    return pd.DataFrame(lost, columns=["file", "row", "reason", "film"])


def check_files(table: FilmTable) -> None:
    """Raise `InputError` for the first image or mask that is not there or leads elsewhere."""
    lost = lost_files(table)
    if len(lost):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"{lost.iloc[0]['reason']}{more}: fetch it, mend the row or use skip_bad")


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
        self._folders: dict[Path, bool] = {}
        self._names: dict[Path, dict[str, str]] = {}

    def fault(self, file: Path) -> str:
        """What is wrong with a file's place, one phrase; "" if nothing."""
        try:
            return self._fault(file)
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"

    def _fault(self, file: Path) -> str:
        if not self._inside(file):
            return f"{file} leads out of {self._root} (a link): put the file itself there"
        if file.is_file():
            return ""
        if file.is_dir():
            return f"{file} is a folder, not a file"
        alike = self._listing(file.parent).get(file.name.lower())
        if alike:
            return f"no such file {file}, but {alike!r} is there: letters differ in case"
        return f"no such file {file}"

    def _inside(self, file: Path) -> bool:
        if file.is_symlink():
            return self._root in Path(os.path.realpath(file)).parents
        folder = file.parent
        if folder not in self._folders:
            real = Path(os.path.realpath(folder))
            self._folders[folder] = real == self._root or self._root in real.parents
        return self._folders[folder]

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            names = [f.name for f in folder.iterdir()] if folder.is_dir() else []
            self._names[folder] = {n.lower(): n for n in names}
        return self._names[folder]


def require_positives(
    films: pd.DataFrame, findings: Sequence[str], split: str | None = None
) -> None:
    """Check that each of some findings has a positive film.

    Args:
        films: a films table.
        findings: names among the 14.
        split: look only there.
    """
    channels = indices(findings)
    part = films if split is None else films[films["split"] == split]
    positive = (states_of(part) == POSITIVE).sum(axis=0) if len(part) else np.zeros(len(FINDINGS))
    for finding, channel in zip(findings, channels, strict=True):
        if positive[channel] == 0:
            where = f"split {split!r}" if split else "the films"
            raise InputError(
                f"parameter 'findings': {finding!r} has no positive film in {where} "
                f"({len(part)} films): leave it out or add films that show it"
            )


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
