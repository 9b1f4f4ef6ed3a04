"""What an export takes from a label store: which pairs, with or without film pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from dollkit.errors import InputError
from dollkit.findings import FINDINGS, index
from dollkit.labels.store import LabelStore
from dollkit.store import Store

U8 = npt.NDArray[np.uint8]


@dataclass
class Selection:
    """Part of a label store.

    Attributes:
        store: the label store.
        findings: which findings, in the order of the 14.
        films: the film store, if film pixels are to go along.
        negatives: whether films without a finding go along as all background (nnU-Net).
        names: `image_id` -> name that every file system takes.
    """

    store: LabelStore
    findings: tuple[str, ...] = FINDINGS
    films: Store | None = None
    negatives: bool = False
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        chosen = {index(f) for f in self.findings}
        self.findings = tuple(f for c, f in enumerate(FINDINGS) if c in chosen)
        if self.films is not None:
            self.store.check_films(self.films)
        if not len(self.pairs):
            raise InputError(
                f"{self.store.path}: no label of {', '.join(self.findings)}: see "
                "python -m dollkit.labels show"
            )
        self.names = file_names(self.store.pairs["image_id"].unique().tolist())

    @property
    def pairs(self) -> npt.NDArray[np.int64]:
        """Rows of the store's table, ascending."""
        return np.flatnonzero(self.store.pairs["finding"].isin(self.findings))

    def images(self) -> Iterator[tuple[int, str, npt.NDArray[np.int64]]]:
        """Films in the order of their first label: row, image_id, pairs."""
        table = self.store.pairs.iloc[self.pairs]
        at = self.pairs
        for image_id, inside in table.groupby("image_id", sort=False).indices.items():
            yield int(table["row"].iloc[inside[0]]), str(image_id), at[inside]

    def write_film(self, row: int, path: Path) -> None:
        """A film as a PNG file."""
        assert self.films is not None
        write_png(self.films.images[row], path)


def write_png(pixels: U8, path: Path | IO[bytes]) -> None:
    """An (S, S) uint8 array as a grey PNG file or stream."""
    Image.fromarray(pixels).save(path, format="PNG")


def file_names(image_ids: Sequence[str]) -> dict[str, str]:
    """A file name without ending for each film: letters, digits, ``.``, ``_`` and ``-`` only."""
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for image_id in image_ids:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".-") or "_"
        # Some file systems do not tell letters by case.
        other = taken.setdefault(name.lower(), image_id)
        if other != image_id:
            raise InputError(
                f"films {other!r} and {image_id!r} would both be written as {name!r}: rename one"
            )
        out[image_id] = name
    return out
