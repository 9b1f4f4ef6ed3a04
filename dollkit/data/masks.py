"""Where one mask comes from: a grey file, several joined, a crop; `readers.outlines` has others.

A mask is read when the store is built, film by film; making one of these reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

from dollkit.common.errors import InputError
from dollkit.data.decode import MAX_PIXELS, load_image
from dollkit.data.images import IGNORE

U8 = npt.NDArray[np.uint8]


class Mask(Protocol):
    """One mask of one class of one film."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files on disk that it is read from."""
        ...

    @property
    def own_grid(self) -> bool:
        """Whether it may have another size than its film, of the same aspect within 1 %."""
        ...

    @property
    def ignores(self) -> bool:
        """Whether it may hold pixels to ignore."""
        ...

    def load(self, height: int, width: int) -> U8:
        """The mask of a film of `height` x `width`.

        Returns:
            (h, w) uint8 in {0, 1, 255 = ignore}; h, w are the film's unless `own_grid`.
        """
        ...


@dataclass(frozen=True)
class MaskFile:
    """A grey picture whose values mean something.

    Attributes:
        path: of the file.
        inside, outside, ignore: grey values of each; any other is an error, because a mask that
            was resized with smoothing or saved as JPEG is no longer the mask that was drawn.
        threshold: take any grey instead: inside is the one value beside 0, or else all above 127.
        own_grid: see `Mask`.
    """

    path: Path
    inside: tuple[int, ...] = (255,)
    outside: tuple[int, ...] = (0,)
    ignore: tuple[int, ...] = ()
    threshold: bool = False
    own_grid: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def ignores(self) -> bool:
        return bool(self.ignore)

    def load(self, height: int, width: int) -> U8:
        grey = load_image(self.path, depths=(8,))
        check_grid(self.path, grey.shape, (height, width), self.own_grid)
        if self.threshold:
            return _inside(self.path, grey)
        meaning = np.full(256, 2, np.uint8)
        for values, code in ((self.outside, 0), (self.inside, 1), (self.ignore, IGNORE)):
            meaning[list(values)] = code
        mask: U8 = meaning[grey]
        if (mask == 2).any():
            odd = int(grey[mask == 2][0])
            known = ", ".join(map(str, sorted((*self.outside, *self.inside, *self.ignore))))
            raise InputError(
                f"{self.path}: mask value {odd}: use only {known}; fetch the mask as it was "
                "released, not resized or saved as JPEG"
            )
        return mask


def _inside(path: Path, grey: U8) -> U8:
    """Pixels inside of a mask drawn anyhow: the one value beside 0, or else all above 127."""
    values = np.unique(grey)
    if len(values) == 1 and values[0] and _varies_in_alpha(path):
        raise InputError(
            f"{path}: mask that stands in the transparency alone: save it as grey, 255 inside"
        )
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return (grey > 0).astype(np.uint8)
    if values[0] > 127:
        raise InputError(f"{path}: mask without a pixel outside (none below 128): use 0 outside")
    if values.max() <= 127:
        shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        raise InputError(
            f"{path}: mask of values {shown}: several labels in one file are not read; write a "
            "file for each class, 255 (or 1) inside and 0 outside"
        )
    return (grey > 127).astype(np.uint8)


def _varies_in_alpha(path: Path) -> bool:
    with suppress(OSError), Image.open(path) as picture:
        if "A" in picture.getbands():
            lo, hi = picture.getchannel("A").getextrema()
            return lo != hi
    return False


@dataclass(frozen=True)
class Union:
    """Several masks as one: inside where any is, ignored where any ignores and none is inside."""

    parts: tuple[Mask, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(f for part in self.parts for f in part.files)

    @property
    def own_grid(self) -> bool:
        return all(part.own_grid for part in self.parts)

    @property
    def ignores(self) -> bool:
        return any(part.ignores for part in self.parts)

    def load(self, height: int, width: int) -> U8:
        loaded = [part.load(height, width) for part in self.parts]
        shapes = {m.shape for m in loaded}
        if len(shapes) > 1:
            sizes = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
            raise InputError(f"{self.files[0]}: masks of one film differ in size ({sizes})")
        stack = np.stack(loaded)
        out: U8 = (stack == 1).any(0).astype(np.uint8)
        out[(out == 0) & (stack == IGNORE).any(0)] = IGNORE
        return out


@dataclass(frozen=True)
class Crop:
    """A picture of the mask's bounding box alone: any colour is inside, black is outside."""

    path: Path
    top: int
    left: int
    height: int
    width: int
    own_grid = False
    ignores = False

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def load(self, height: int, width: int) -> U8:
        box = load_image(self.path, depths=(8,))
        if box.shape != (self.height, self.width):
            raise InputError(
                f"{self.path}: crop is {box.shape[1]}x{box.shape[0]}, its row says "
                f"{self.width}x{self.height}: fetch it again"
            )
        bottom, right = self.top + self.height, self.left + self.width
        if min(self.top, self.left) < 0 or bottom > height or right > width:
            raise InputError(
                f"{self.path}: crop {self.left},{self.top} to {right},{bottom} leaves its "
                f"{width}x{height} film: mend its row"
            )
        out = np.zeros((height, width), np.uint8)
        out[self.top : bottom, self.left : right] = box > 0
        return out


def check_grid(
    name: Path | str, have: tuple[int, ...], want: tuple[int, int], own_grid: bool
) -> None:
    """`InputError` unless a mask lies on its film's grid, or on one of the same aspect."""
    if have == want:
        return
    # One pixel of rounding is no other aspect.
    skew = abs(have[0] * want[1] - have[1] * want[0]) / max(have[0] * want[1], 1)
    if own_grid and skew <= max(0.01, 1 / min(*have, *want)):
        return
    raise InputError(
        f"{name}: mask is {have[1]}x{have[0]}, its image is {want[1]}x{want[0]}: "
        "put the mask on the grid of the image"
    )


# Masks that stand as run lengths or contours in a JSON file, as those of CheXlocalize do.


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
