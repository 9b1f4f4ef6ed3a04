"""One radiograph or mask from disk, and its way onto the square grid and back.

Films are 8-bit grey. Aspect is kept: a film is scaled until its longer side is S and padded with
black on both ends of the shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.decode import FORMATS, MAX_PIXELS, load_image, probe

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "Frame",
    "fit",
    "fit_box",
    "fit_mask",
    "frame",
    "load_image",
    "load_mask",
    "probe",
    "same_aspect",
    "unfit",
    "unfit_mask",
]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

IGNORE = 255
"""Mask value of pixels that count for nothing: neither inside nor outside."""


def load_mask(path: Path | str, height: int, width: int) -> U8:
    """One mask on the grid of its image, (H, W) uint8 in {0, 1}.

    Inside is grey above 127, or, in a file that holds only 0 and 1, the 1.
    """
    grey = load_image(path)
    if grey.shape != (height, width):
        raise InputError(
            f"{path}: mask is {grey.shape[1]}x{grey.shape[0]}, its image is {width}x{height}: "
            "put the mask on the grid of the image"
        )
    threshold = 0 if grey.max(initial=0) <= 1 else 127
    return (grey > threshold).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """Where a film of `height` x `width` lies on a grid of `size` x `size`.

    `top`, `left`, `rows`, `cols` bound the film on the grid; the rest is padding.
    """

    height: int
    width: int
    size: int
    top: int
    left: int
    rows: int
    cols: int


def frame(height: int, width: int, size: int) -> Frame:
    """Placement of a film: longer side scaled to `size`, centred, at least one pixel each way."""
    scale = size / max(height, width)
    rows, cols = max(1, round(height * scale)), max(1, round(width * scale))
    return Frame(height, width, size, (size - rows) // 2, (size - cols) // 2, rows, cols)


def fit(image: U8, size: int) -> U8:
    """A film (H, W) uint8 on the square grid, (size, size) uint8; antialiased bilinear."""
    f = frame(image.shape[0], image.shape[1], size)
    small = Image.fromarray(image).resize((f.cols, f.rows), Image.Resampling.BILINEAR)
    return _pad(np.asarray(small), f)


def fit_mask(mask: U8, size: int, height: int | None = None, width: int | None = None) -> U8:
    """A mask on the square grid, (size, size) uint8 in {0, 1, 255 = ignore}.

    A pixel is inside where inside covers at least half of its area, else outside where outside
    does, else ignored. A mask pixel counts whole, in the pixel that its centre lies in. Padding
    is outside.

    Args:
        mask: (h, w) uint8 in {0, 1, 255 = ignore}.
        size: of the grid.
        height, width: of the film whose frame it lies on; None: the mask's own. A mask of another
            size is stretched over the whole film.

    Raises:
        ValueError: the mask has not its film's aspect (see `same_aspect`), or other values.
    """
    height = mask.shape[0] if height is None else height
    width = mask.shape[1] if width is None else width
    if not same_aspect(mask.shape[0], mask.shape[1], height, width):
        raise ValueError(f"mask of {mask.shape} cannot lie on a film of {(height, width)}")
    if ((mask > 1) & (mask != IGNORE)).any():
        raise ValueError("mask values are 0, 1 and 255")
    f = frame(height, width, size)
    ignored = mask == IGNORE
    inside = _resize((mask == 1).astype(np.float32), f.rows, f.cols, Image.Resampling.BOX)
    out = (inside >= 0.5).astype(np.uint8)
    if ignored.any():
        ignore = _resize(ignored.astype(np.float32), f.rows, f.cols, Image.Resampling.BOX)
        # Rounding: areas that leave the outside exactly a half may sum to a little more.
        out[(out == 0) & (inside + ignore > 0.5 + 5e-7)] = IGNORE
    return _pad(out, f)


def same_aspect(h: int, w: int, height: int, width: int) -> bool:
    """Whether a mask of h x w can lie on a film of height x width: 1 % apart, or one pixel."""
    if (h, w) == (height, width):
        return True
    skew = abs(h * width - w * height) / max(h * width, 1)
    return skew <= max(0.01, 1 / max(min(h, w, height, width), 1))


def unfit(values: npt.NDArray[Any], height: int, width: int) -> F32:
    """A map (S, S) from the square grid back on the film's own, (height, width) float32."""
    f = frame(height, width, values.shape[0])
    inner = values[f.top : f.top + f.rows, f.left : f.left + f.cols].astype(np.float32)
    return _resize(inner, height, width, Image.Resampling.BILINEAR)


def unfit_mask(mask: U8, height: int, width: int) -> U8:
    """A mask (S, S) in {0, 1} back on the film's own grid, (height, width) uint8 in {0, 1}."""
    return (unfit(mask, height, width) >= 0.5).astype(np.uint8)


def fit_box(box: tuple[float, float, float, float], height: int, width: int, size: int) -> U8:
    """Rasterise a box on the square grid, (size, size) uint8 in {0, 1}.

    Args:
        box: x, y, w, h in pixels of the film's own grid, x to the right, y down.
        height, width: of that grid.

    A pixel is inside if its centre is; a box thinner than a pixel keeps the one under its middle.
    """
    f = frame(height, width, size)
    mask = np.zeros((size, size), np.uint8)
    x, y, w, h = box
    columns = _span(x, w, f.cols / width, f.cols)
    rows = _span(y, h, f.rows / height, f.rows)
    mask[f.top + rows[0] : f.top + rows[1], f.left + columns[0] : f.left + columns[1]] = 1
    return mask


def _span(start: float, length: float, scale: float, limit: int) -> tuple[int, int]:
    first = int(np.ceil(start * scale - 0.5))
    last = int(np.ceil((start + length) * scale - 0.5))
    if last <= first:
        first = int((start + length / 2) * scale)
        last = first + 1
    first = min(max(first, 0), limit - 1)
    return first, min(max(last, first + 1), limit)


def _pad(inner: U8, f: Frame) -> U8:
    grid = np.zeros((f.size, f.size), np.uint8)
    grid[f.top : f.top + f.rows, f.left : f.left + f.cols] = inner
    return grid


def _resize(values: F32, rows: int, cols: int, how: Image.Resampling) -> F32:
    return np.asarray(Image.fromarray(values).resize((cols, rows), how), dtype=np.float32)
