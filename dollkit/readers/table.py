"""What every reader returns: films in the store's columns, and where their pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.films import COLUMNS, check_films, states_of
from dollkit.findings import FINDINGS, POSITIVE, indices

BOX_COLUMNS: tuple[str, ...] = ("image_id", "finding", "x", "y", "w", "h")


def _no_boxes() -> pd.DataFrame:
    return pd.DataFrame(columns=list(BOX_COLUMNS))


@dataclass(frozen=True)
class FilmTable:
    """A data set as read, before any pixel is.

    Attributes:
        source: short name of the data set.
        films: the columns of `dollkit.films.COLUMNS` (width and height may be 0: unknown until
            decoded) plus ``path`` (of the image) and ``where`` (file and row that named it).
            Rows of CSV files are counted as a spreadsheet shows them: the header is row 1.
        masks: one column per mask class read from a file, one row per film: a path, or "" where
            the film has no such mask.
        boxes: `BOX_COLUMNS`, boxes in pixels of the image file; rasterised into the mask class
            ``finding``, valid only on films with a box of that finding.
        root: folder of the data set.
    """

    source: str
    films: pd.DataFrame
    root: Path
    masks: pd.DataFrame = field(default_factory=pd.DataFrame)
    boxes: pd.DataFrame = field(default_factory=_no_boxes)

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


def missing_files(table: FilmTable) -> pd.DataFrame:
    """Images and masks that are not there: columns file, row (what named it), reason."""
    lost = []
    for i, (path, where) in enumerate(zip(table.films["path"], table.films["where"], strict=True)):
        named = [path, *(p for p in (table.masks.iloc[i] if len(table.masks.columns) else ()) if p)]
        lost += [
            {"file": str(p), "row": where, "reason": "no such file", "film": i}
            for p in named
            if not Path(p).is_file()
        ]
    return pd.DataFrame(lost, columns=["file", "row", "reason", "film"])


def check_files(table: FilmTable) -> None:
    """Raise `InputError` for the first image or mask that is not there."""
    lost = missing_files(table)
    if len(lost):
        first = lost.iloc[0]
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(
            f"{first['row']}: no such file {first['file']}{more}: "
            "fetch it, mend the row or use skip_bad"
        )


def require_positives(
    films: pd.DataFrame, findings: Sequence[str], split: str | None = None
) -> None:
    """Check that each of some findings has a positive film.

    Args:
        films: a films table.
        findings: names among the 14.
        split: look only there.

    Raises:
        InputError: an unknown finding, or the first without a positive.
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
