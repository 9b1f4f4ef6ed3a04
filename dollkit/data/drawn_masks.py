"""Masks that somebody drew: what the values of a class folder mean is read off all of its files.

- Two values, of which one is 0: the other is inside.
- 0, 1 and 255, with 1 and 255 in one file: inside is 1, and 255 is ignored, as VOC, nnU-Net's tools
  and our own exports write; these say so (`OURS`), since a file may hold 0 and 255 alone.
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
from typing import Any

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
OURS = "dollkit: 0 outside, 1 inside, 255 ignored"
"""Comment of a PNG mask that `labels export` writes."""
ONE_VALUE = "use one value for all of a class"
GREY = "in grey"
FEW = 16
"""Values up to which a picture has labels or steps; a smoothed edge has more, and flat tails."""
FLAT = 0.1
"""Share of a grey's pixels in flat places above which it is a label and no edge."""
RIDGE = 0.1
"""Share of the middle greys that may be brighter than all around them: thin labels are."""
MOST_BETWEEN = 0.75
"""Share of the greys of what is not dark that may lie between; of a film they all do."""
SAME_COLOUR = 64  # of 255, in each channel
SPECKS = 1e-3  # share of a picture
DARK, LIGHT = 32, 222
"""Greys up to which a pixel is outside, and above which it is inside, whatever the edges are."""


@dataclass(frozen=True)
class DrawnMask(Mask):
    """A mask file, drawn as all of its class are: inside is the value `inside`, or above 127 if
    that is None; with `ignore`, 255 is ignored."""

    path: Path
    drawn: str = GREY
    inside: int | None = None
    ignore: bool = False
    fault: str = ""

    def load(self, height: int, width: int) -> U8:
        """(h, w) uint8 as `Mask.load`; a page without a stroke is empty."""
        if self.fault:
            raise InputError(self.fault)
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
    """What one file holds: how it is drawn, its values, if some are labels, if it is `OURS`."""

    path: Path
    drawn: str
    values: frozenset[int]
    labels: bool
    ours: bool

    @property
    def blank(self) -> bool:
        return len(self.values) == 1


def drawn_masks(files: Sequence[Path | None], skip_bad: bool = False) -> list[DrawnMask | None]:
    """The masks of one class, file by file; None for None.

    A file that cannot be read or, with `skip_bad`, holds labels changes nothing until it is loaded.
    """
    with ThreadPoolExecutor(cores()) as pool:
        looks = [look for look in pool.map(_look, filter(None, files)) if look is not None]
    faults = {look.path: _labels_fault(look) for look in looks if look.labels and skip_bad}
    looks = [look for look in looks if look.path not in faults]
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
    inside, ignore = None, False
    if drawn == GREY:
        inside, ignore = _meaning(alike)
    else:
        _check_labels(alike)
    return [
        DrawnMask(file, drawn, inside, ignore, faults.get(file, "")) if file else None
        for file in files
    ]


def _check_labels(looks: Sequence[_Look]) -> None:
    for look in looks:
        if look.labels:
            raise InputError(_labels_fault(look))


def _labels_fault(look: _Look) -> str:
    seen = sorted(look.values)
    shown = ", ".join(map(str, seen[:5])) + (", ..." if len(seen) > 5 else "")
    fault = f"mask of values {shown}: several labels in one file, or no mask"
    return f"{look.path}: {fault}; {CURE}"


def _meaning(looks: Sequence[_Look]) -> tuple[int | None, bool]:
    """Value that is inside (None: all above 127), and whether 255 is ignored."""
    values = sorted(frozenset().union(*(look.values for look in looks)))
    # 255 without 1 is what is ignored in our exports; in others it may be inside.
    alone = [look for look in looks if IGNORE in look.values and 1 not in look.values]
    alone = [look for look in alone if not look.ours]
    ours = any(look.ours for look in looks)
    if values == [0, 1, IGNORE] or (ours and set(values) <= {0, 1, IGNORE}):
        if not alone:
            return 1, True
        other, *_ = (look for look in looks if look.ours or 1 in look.values)
        raise InputError(f"{alone[0].path}: mask of 255, {other.path} of 1: {ONE_VALUE}")
    if (len(values) == 2 and values[0] == 0) or values in ([1], [IGNORE]):
        return values[-1], False
    if values in ([], [0]):
        return IGNORE, False
    if len(values) == 1:
        raise InputError(
            f"{looks[0].path}: every mask of the class is {values[0]} throughout: {CURE}"
        )
    _check_labels(looks)
    if values[0] > 127:
        raise InputError(f"{looks[0].path}: no mask has a pixel outside (below 128): {CURE}")
    ground = {values[0]} if values[0] <= DARK and values[-1] > LIGHT else set()
    for look in looks:
        if 0 < max(look.values) <= LIGHT and not look.values <= ground:
            fault = f"mask of values up to {max(look.values)}, of a class with {values[-1]}"
            raise InputError(f"{look.path}: {fault}: {ONE_VALUE}")
    return None, False


def _look(path: Path) -> _Look | None:
    try:
        drawn, values = _values(path)
    except InputError:
        return None
    with Image.open(path) as picture:
        ours = picture.info.get("Comment") == OURS
    counts = np.bincount(values.ravel(), minlength=256)
    seen = frozenset(np.flatnonzero(counts).tolist())
    return _Look(path, drawn, seen, _has_labels(values, counts), ours)


def _has_labels(values: U8, counts: npt.NDArray[np.int64]) -> bool:
    """Whether greys between are labels: those of an edge have a darker and a lighter beside them.

    A single one may be an edge's only step, or a contour that is to be ignored: refused, too.
    `counts` are the (256,) pixels of each grey.
    """
    seen = np.flatnonzero(counts).tolist()
    middle = [v for v in seen if DARK < v <= LIGHT]
    if len(seen) <= 2 or set(seen) <= {0, 1, IGNORE}:
        return False
    if len(middle) == 1:
        return True
    most, least = maximum_filter(values, 3), minimum_filter(values, 3)
    between = [v for v in seen[1:] if not (v > LIGHT and seen[-1] - v <= 3)]
    if len(seen) > FEW:  # tails of a smooth edge are flat
        between = [v for v in between if 8 <= v <= 247]
    # A step of a few greys that is flat is a label of any size; of many, specks do not count.
    fewest = 8 if len(seen) <= FEW else max(8, SPECKS * values.size)
    flat = np.bincount(values[most == least], minlength=256)
    if any(flat[v] > FLAT * counts[v] and flat[v] > fewest for v in between):
        return True
    grey = (values > 63) & (values <= 200)
    ridge = grey & (most == values) & (values - least >= DARK)
    if ridge.sum() > RIDGE * grey.sum() and ridge.sum() > fewest:
        return True
    return bool(counts[middle].sum() > MOST_BETWEEN * counts[DARK + 1 :].sum())


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
    clear = alpha < 128
    if clear.mean() > SPECKS:
        if _edge(clear).mean() <= 0.5:
            raise InputError(f"{path}: mask on a page with transparent parts: {CURE}")
        if not alpha.any() and np.ptp(rgb.reshape(-1, 3), axis=0).any():
            raise InputError(f"{path}: mask that is transparent throughout: {CURE}")
        strongest = int(alpha.max()) if alpha.max() > DARK else 255
        _check_one_colour(path, rgb[alpha > strongest / 2], "with transparency")
        return "on glass", (alpha * (255 / strongest)).astype(np.uint8)
    if (rgb == rgb[..., :1]).all():
        return GREY, np.ascontiguousarray(rgb[..., 0])
    if index is not None and not any(palette[:3]):
        return GREY, index
    colours, counts = np.unique(_edge(rgb), axis=0, return_counts=True)
    page = colours[counts.argmax()].astype(float)
    if not (page.max() <= DARK or page.min() > LIGHT):
        raise InputError(f"{path}: mask in colour, not on white or black: {CURE}")
    away = rgb - page
    distance = np.abs(away).max(2)
    distance[distance <= min(DARK, distance.max() / 2)] = 0
    if distance.max() <= DARK:  # noise, no drawing
        distance[:] = 0
    most = max(float(distance.max()), 1.0)
    drawn = distance > most / 2
    # Of a pixel that the drawing covers in part: the colour if it covered all.
    _check_one_colour(path, page + away[drawn] * (most / distance[drawn])[:, None], "in colour")
    on = "white" if page.min() > LIGHT else "black"
    return f"in colour on {on}", (distance * (255 / most)).astype(np.uint8)


def _edge(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The four sides of a picture, on which its page shows."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _check_one_colour(path: Path, drawn: npt.NDArray[Any], what: str) -> None:
    if len(drawn):
        low, high = np.percentile(drawn.astype(float), (1, 99), axis=0)
        if (high - low).max() > SAME_COLOUR:
            raise InputError(f"{path}: mask {what}, of several colours: {CURE}")
