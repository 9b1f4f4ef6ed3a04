"""Masks that stand as run lengths or contours in a JSON file, as those of CheXlocalize do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from dollkit.errors import InputError
from dollkit.images import MAX_PIXELS
from dollkit.readers.masks import U8, check_grid


@dataclass(frozen=True)
class Runs:
    """COCO run lengths (compressed text) out of a JSON file.

    Attributes:
        file: the JSON file; where: its entry, for messages.
        size: (height, width) of the grid they count on; counts: the text.
    """

    file: Path
    where: str
    size: tuple[int, int]
    counts: str
    own_grid = True
    ignores = False

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def check(self) -> tuple[int, int]:
        """Size of the grid; `InputError` unless the run lengths are sound and fill it."""
        h, w = _grid(self.file, self.where, self.size)
        if sum(_run_lengths(self.counts)) != h * w:
            fault = f"run lengths do not fill {w}x{h} pixels: fetch the file again"
            raise InputError(f"{self.file}, {self.where}: {fault}")
        return h, w

    def load(self, height: int, width: int) -> U8:
        shape = self.check()
        check_grid(f"{self.file}, {self.where}", shape, (height, width), True)
        return _filled(self.counts, shape)


@dataclass(frozen=True)
class Polygons:
    """Contours out of a JSON file, each a list of (x, y) in pixels; a pixel is inside by COCO."""

    file: Path
    where: str
    size: tuple[int, int]
    contours: Sequence[Sequence[Sequence[float]]]
    own_grid = True
    ignores = False

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def check(self) -> tuple[int, int]:
        """Size of the grid; `InputError` unless every contour is a list of (x, y)."""
        self._points()
        return _grid(self.file, self.where, self.size)

    def load(self, height: int, width: int) -> U8:
        h, w = self.check()
        check_grid(f"{self.file}, {self.where}", (h, w), (height, width), True)
        # A dot or a line has no inside.
        flat = [np.clip(p, 0, (w, h)).ravel().tolist() for p in self._points() if len(p) >= 3]
        if not flat:
            return np.zeros((h, w), np.uint8)
        runs: Any = coco.merge(coco.frPyObjects(flat, h, w))
        return _filled(runs["counts"].decode("ascii"), (h, w))

    def _points(self) -> list[npt.NDArray[np.float64]]:
        out = []
        for contour in self.contours:
            try:
                points = np.asarray(contour, np.float64)
            except (TypeError, ValueError):
                points = np.zeros(0)
            if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
                raise InputError(f"{self.file}, {self.where}: a contour is no list of (x, y)")
            out.append(points)
        return out


def _grid(file: Path, where: str, size: Sequence[int]) -> tuple[int, int]:
    good = isinstance(size, list | tuple) and [type(v) for v in size] == [int, int]
    if not good or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{file}, {where}: size {size!r} is no (height, width) of a film")
    return size[0], size[1]


def _filled(counts: str, shape: tuple[int, int]) -> U8:
    """Mask of sound run lengths: zeros and ones in turn, column by column."""
    runs = _run_lengths(counts)
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(shape[::-1]).T)


def _run_lengths(counts: str) -> list[int]:
    """Run lengths that a text stands for; none if it is no such text.

    Each count is a little endian group of 5 bits a character (bit 5: more follow; last bit 4:
    sign), and from the fourth on a difference to the one two before. Decoded here because
    pycocotools (``rleFrString``) reads past the end of a bad text.
    """
    if not isinstance(counts, str) or not counts.isascii():
        return []
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        # Six groups hold every count of a film.
        if not 0 <= code < 64 or shift > 25:
            return []
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return []
        runs.append(value)
        value = shift = 0
    return [] if shift else runs
