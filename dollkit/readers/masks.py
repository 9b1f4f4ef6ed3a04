"""Where one mask comes from: a grey file, several joined, a crop; `readers.outlines` has others.

A mask is read when the store is built, film by film; making one of these reads nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dollkit.errors import InputError
from dollkit.images import IGNORE, load_image

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
