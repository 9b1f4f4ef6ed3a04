"""Masks that somebody drew: what the values of a class folder mean is read off all of its files.

- Two values, of which one is 0: the other is inside.
- 0, 1 and 255, with 1 and 255 in one file: inside is 1, and 255 is ignored, as VOC, nnU-Net's tools
  and our own exports write.
- Grey edges between 0 and 255, smoothed or of a JPEG file: inside is above 127.
- Drawn on glass (transparency), or in one colour on white or black: inside is what is drawn.
- A palette whose first colour is black: its indices are the values.

Anything else, several labels in one file above all, is refused with the values that were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.data.images import IGNORE, load_image
from dollkit.data.masks import Mask, check_grid

U8 = npt.NDArray[np.uint8]
CURE = "save it as grey, 255 inside and 0 outside, one file for each class"
GREY = "in grey"
FEW = 16
"""Values up to which a picture has labels or steps; a smoothed edge has more."""
LONE = 0.3
"""Share of the greys between that may lie beside no darker or no lighter one on a smooth edge."""
SAME_COLOUR = 64  # of 255, in each channel


@dataclass(frozen=True)
class DrawnMask(Mask):
    """A mask file, drawn as all of its class are: inside is the value `inside`, or above 127 if
    that is None; with `ignore`, 255 is ignored."""

    path: Path
    drawn: str = GREY
    inside: int | None = None
    ignore: bool = False

    @property
    def ignores(self) -> bool:
        return self.ignore

    def load(self, height: int, width: int) -> U8:
        drawn, values = _values(self.path)
        check_grid(self.path, values.shape, (height, width), own_grid=False)
        if drawn != self.drawn:  # a page without a stroke
            return np.zeros_like(values)
        if self.inside is None:
            return np.asarray(values > 127, np.uint8)
        mask: U8 = (values == self.inside).astype(np.uint8)
        known = (mask == 1) | (values == 0)
        if self.ignore:
            mask[values == IGNORE] = IGNORE
            known |= values == IGNORE
        if not known.all():
            raise InputError(f"{self.path}: mask value {values[~known][0]} is new: read it again")
        return mask


@dataclass(frozen=True)
class _Look:
    """What one file holds: how it is drawn, its values, and whether some of them are labels."""

    path: Path
    drawn: str
    values: frozenset[int]
    labels: bool

    @property
    def blank(self) -> bool:
        return len(self.values) == 1


def drawn_masks(files: Sequence[Path | None]) -> list[DrawnMask | None]:
    """The masks of one class, file by file; None for None.

    A file that cannot be read changes nothing here: whoever loads it is told.
    """
    with ThreadPoolExecutor(cores()) as pool:
        looks = [look for look in pool.map(_look, filter(None, files)) if look is not None]
    strokes = [look for look in looks if not look.blank]
    drawn = strokes[0].drawn if strokes else looks[0].drawn if looks else GREY
    for look in looks:
        page = {"in colour on white": {255}, "in colour on black": {0}}.get(drawn, set())
        if look.drawn != drawn and not (look.blank and look.values <= page):
            other = strokes[0].path if strokes else looks[0].path
            raise InputError(
                f"{look.path}: mask drawn {look.drawn}, {other} {drawn}: draw all masks of a class "
                "in one way"
            )
    alike = [look for look in looks if look.drawn == drawn]
    inside, ignore = _meaning(alike) if drawn == GREY else (None, False)
    return [DrawnMask(file, drawn, inside, ignore) if file else None for file in files]


def _meaning(looks: Sequence[_Look]) -> tuple[int | None, bool]:
    """Value that is inside (None: all above 127), and whether 255 is ignored."""
    values = sorted(frozenset().union(*(look.values for look in looks)))
    if (len(values) == 2 and values[0] == 0) or values in ([1], [IGNORE]):
        return values[-1], False
    if values in ([], [0]):
        return IGNORE, False
    if len(values) == 1:
        raise InputError(
            f"{looks[0].path}: every mask of the class is {values[0]} throughout: {CURE}"
        )
    both = [look.path for look in looks if {1, IGNORE} <= look.values]
    if values == [0, 1, IGNORE]:
        if both:
            return 1, True
        one, other = (next(look for look in looks if v in look.values) for v in (1, IGNORE))
        raise InputError(
            f"{one.path}: inside is 1, and 255 in {other.path}: use one value for all of a class"
        )
    if values[0] > 127:
        raise InputError(f"{looks[0].path}: no mask has a pixel outside (below 128): {CURE}")
    labelled = [look for look in looks if look.labels]
    if labelled or values[-1] <= 127:
        worst = (labelled or looks)[0]
        seen = sorted(worst.values)
        shown = ", ".join(map(str, seen[:5])) + (", ..." if len(seen) > 5 else "")
        raise InputError(
            f"{worst.path}: mask of values {shown}: several labels in one file are not read; {CURE}"
        )
    return None, False


def _look(path: Path) -> _Look | None:
    try:
        drawn, values = _values(path)
    except InputError:
        return None
    seen = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return _Look(path, drawn, frozenset(seen), _has_labels(values, seen))


def _has_labels(values: U8, seen: Sequence[int]) -> bool:
    """Whether the greys between are labels: those of an edge lie between a darker and a lighter."""
    middle = [v for v in seen if 32 < v <= 222]
    if 0 < len(middle) < 3 and len(seen) > 2:  # too few for an edge; 127 may be what is ignored
        return True
    lone = (maximum_filter(values, 3) == values) | (minimum_filter(values, 3) == values)
    if len(seen) > FEW:
        between = np.isin(values, middle)
        return bool(lone[between].sum() > LONE * between.sum())
    labels = [v for v in seen[1:-1] if not (v > 222 and seen[-1] - v <= 3)]
    return any(lone[values == v].mean() > LONE for v in labels)


def _values(path: Path) -> tuple[str, U8]:
    """How a mask is drawn, and its values on that ground: 0 is outside, 255 wholly inside."""
    grey = load_image(path, depths=(8,))
    with Image.open(path) as picture:
        if picture.mode in ("1", "L") and not picture.has_transparency_data:
            return GREY, grey
        rgba = np.asarray(picture.convert("RGBA"))
        index = np.asarray(picture) if picture.mode == "P" else None
        palette = picture.getpalette() or [0]
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min() < 255:
        _check_one_colour(path, rgb[alpha > 127], "with transparency")
        return "on glass", alpha
    if (rgb == rgb[..., :1]).all():
        return GREY, np.ascontiguousarray(rgb[..., 0])
    if index is not None and not any(palette[:3]):
        return GREY, index
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    colours, counts = np.unique(edge, axis=0, return_counts=True)
    page = colours[counts.argmax()]
    if not (page.max() <= 32 or page.min() > 222):
        raise InputError(f"{path}: mask in colour, not on white or black: {CURE}")
    distance = np.abs(rgb.astype(np.int16) - page).max(2)
    most = max(int(distance.max()), 1)
    _check_one_colour(path, rgb[distance > most / 2], "in colour")
    on = "white" if page.min() > 222 else "black"
    return f"in colour on {on}", (distance * (255 / most)).astype(np.uint8)


def _check_one_colour(path: Path, drawn: U8, what: str) -> None:
    if len(drawn) and np.ptp(drawn.astype(np.int16), axis=0).max() > SAME_COLOUR:
        raise InputError(f"{path}: mask {what}, of several colours: {CURE}")
