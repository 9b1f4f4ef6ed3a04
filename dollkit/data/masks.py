"""Where one mask comes from: a grey file, several joined, a crop, boxes, an entry of a JSON file.

A mask is read when the store is built, film by film; making one of these reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dollkit.common.errors import InputError
from dollkit.data.images import (
    AGAIN,
    IGNORE,
    MAX_PIXELS,
    fit_box,
    fit_mask,
    load_image,
    same_aspect,
)

U8 = npt.NDArray[np.uint8]


class Mask:
    """One mask of one class of one film; a dataclass of plain values."""

    path: Path
    ignore: tuple[int, ...] | bool = False
    """Whether it may hold pixels to ignore, or their values."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files on disk that it is read from."""
        return (self.path,)

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 in {0, 1, 255 = ignore}, of a film of `height` x `width`."""
        raise NotImplementedError

    def fit(self, size: int, height: int, width: int) -> U8:
        """The mask on the square grid, (size, size) uint8, see `fit_mask`."""
        return fit_mask(self.load(height, width), size, height, width)


@dataclass(frozen=True)
class MaskFile(Mask):
    """A grey picture whose values mean inside, outside or ignore.

    Any other is an error, because a mask that was resized with smoothing or saved as JPEG is no
    longer the mask that was drawn. With `own_grid` it may have another size than its film, of the
    same aspect within 1 %. What somebody drew without saying how is a `drawn_masks.DrawnMask`.
    """

    path: Path
    inside: tuple[int, ...] = (255,)
    outside: tuple[int, ...] = (0,)
    ignore: tuple[int, ...] = ()
    own_grid: bool = False

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 as `Mask.load`, on the mask's own grid if it may have one."""
        grey = load_image(self.path, depths=(8,))
        check_grid(self.path, grey.shape, (height, width), self.own_grid)
        meaning = np.full(256, 2, np.uint8)
        for values, code in ((self.outside, 0), (self.inside, 1), (self.ignore, IGNORE)):
            meaning[list(values)] = code
        mask: U8 = meaning[grey]
        if (mask == 2).any():
            known = ", ".join(map(str, sorted((*self.outside, *self.inside, *self.ignore))))
            raise InputError(
                f"{self.path}: mask value {grey[mask == 2][0]}: use only {known}; fetch the mask "
                "as it was released, not resized or saved as JPEG"
            )
        return mask


@dataclass(frozen=True)
class Union(Mask):
    """Several masks without pixels to ignore as one: inside where any is."""

    parts: tuple[Mask, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of all parts."""
        return tuple(f for part in self.parts for f in part.files)

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 in {0, 1}: the largest value of any part."""
        loaded = [part.load(height, width) for part in self.parts]
        if len(shapes := {m.shape for m in loaded}) > 1:
            sizes = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
            raise InputError(f"{self.files[0]}: masks of one film differ in size ({sizes})")
        return np.asarray(np.maximum.reduce(loaded), np.uint8)


@dataclass(frozen=True)
class Crop(Mask):
    """A picture of the mask's bounding box alone: any colour is inside, black is outside.

    `film` is the (height, width) that the box counts in: on another grid it would land elsewhere.
    """

    path: Path
    top: int
    left: int
    height: int
    width: int
    film: tuple[int, int]

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 in {0, 1}: the crop at its place, zeros around it."""
        if (height, width) != self.film:
            raise InputError(
                f"{self.path}: its row is for a film of {self.film[1]}x{self.film[0]}, the image "
                f"is {width}x{height}: use the image as released, not resized"
            )
        box = load_image(self.path, depths=(8,))
        if box.shape != (self.height, self.width):
            raise InputError(
                f"{self.path}: crop is {box.shape[1]}x{box.shape[0]}, its row says "
                f"{self.width}x{self.height}: {AGAIN}"
            )
        out = np.zeros((height, width), np.uint8)
        out[self.top : self.top + self.height, self.left : self.left + self.width] = box > 0
        return out


@dataclass(frozen=True)
class Boxes(Mask):
    """Boxes x, y, w, h in pixels of the film's file, as one mask; see `fit_box`."""

    boxes: tuple[tuple[float, float, float, float], ...]
    files = ()

    def fit(self, size: int, height: int, width: int) -> U8:
        """The boxes on the square grid, (size, size) uint8 in {0, 1}."""
        drawn = [fit_box(box, height, width, size) for box in self.boxes]
        return np.asarray(np.maximum.reduce(drawn), np.uint8)


def check_grid(
    name: Path | str, have: tuple[int, ...], want: tuple[int, int], own_grid: bool
) -> None:
    """`InputError` unless a mask lies on its film's grid, or on one of the same aspect."""
    if have != want and not (own_grid and same_aspect(have[0], have[1], *want)):
        raise InputError(
            f"{name}: mask is {have[1]}x{have[0]}, its image is {want[1]}x{want[0]}: "
            "put the mask on the grid of the image"
        )


@dataclass(frozen=True)
class Runs(Mask):
    """COCO run lengths (compressed text) of a JSON file: zeros and ones in turn, by columns."""

    path: Path
    where: str
    size: tuple[int, int]  # height and width of the grid that they are on
    counts: str

    def check(self) -> list[int]:
        """The run lengths; `InputError` unless they fill a grid that a film may have."""
        size: Any = self.size
        good = isinstance(size, list | tuple) and [type(v) for v in size] == [int, int]
        if not good or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"{self.path}, {self.where}: size {size!r} is no (height, width)")
        runs = _run_lengths(self.counts)
        if sum(runs) != size[0] * size[1]:
            raise InputError(
                f"{self.path}, {self.where}: run lengths do not fill {size[1]}x{size[0]} pixels: "
                f"{AGAIN}"
            )
        return runs

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 in {0, 1}, on the grid of the run lengths."""
        runs = self.check()
        check_grid(f"{self.path}, {self.where}", self.size, (height, width), True)
        values = (np.arange(len(runs)) % 2).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(values, runs).reshape(self.size[::-1]).T)


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
