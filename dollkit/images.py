"""One radiograph or mask from disk, and its way onto the square grid and back.

Films are 8-bit grey. Aspect is kept: a film is scaled until its longer side is S and padded with
black on both ends of the shorter one.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dollkit.errors import InputError

MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own threshold); a 4020 x 4892 film has 19.7 million."""

FORMATS = ("PNG", "JPEG", "GIF")
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


def load_image(path: Path | str) -> U8:
    """One radiograph as 8-bit grey, (H, W) uint8.

    - Colour and palette images: ITU-R 601 luma. Alpha is ignored, not blended: the RGBA films in
      circulation are opaque, and what lies under transparency is still film.
    - 16-bit grey: divided by the full range of the smallest of 8, 10, 12, 14, 16 bits that holds
      its maximum, because detectors store 10 to 14 bits in 16 and 65535 would make those
      nearly black. No other windowing.

    Raises:
        InputError: missing, empty, cut off, corrupt, not an image, of a kind that is no film
            (floating point), or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    image = _decode(path)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _to_8_bit(np.asarray(image), path)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "RGBA":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"), dtype=np.uint8)


def load_mask(path: Path | str, height: int, width: int) -> U8:
    """One mask on the grid of its image, (H, W) uint8 in {0, 1}.

    Inside is grey above 127, or, in a file that holds only 0 and 1, the 1.

    Raises:
        InputError: as for `load_image`, or the mask's size is not the image's.
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


def fit_mask(mask: U8, size: int) -> U8:
    """A mask (H, W) in {0, 1} on the square grid: inside where it covers half the pixel's area."""
    f = frame(mask.shape[0], mask.shape[1], size)
    area = _resize(mask.astype(np.float32), f.rows, f.cols, Image.Resampling.BOX)
    return _pad((area >= 0.5).astype(np.uint8), f)


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


def _decode(path: Path) -> Image.Image:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such image: check the path in its table") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise InputError(f"{path}: empty file: fetch it again or use skip_bad")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as probe:
            if probe.width * probe.height > MAX_PIXELS:
                raise _bomb(path, f"{probe.width}x{probe.height} pixels")
            # Checksums: load() alone takes a PNG with flipped bytes.
            probe.verify()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _bomb(path, "too many pixels") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not a PNG, JPEG or GIF image: fetch it again or use skip_bad"
        ) from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error, struct.error) as e:
        raise InputError(
            f"{path}: corrupt or cut off ({e or type(e).__name__}): fetch it again or use skip_bad"
        ) from None
    return image


def _bomb(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}, more than {MAX_PIXELS}: not a radiograph; leave it out")


def _to_8_bit(values: npt.NDArray[Any], path: Path) -> U8:
    if values.dtype.kind == "f":
        raise InputError(f"{path}: floating-point image: convert it to 8 or 16-bit grey")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"{path}: grey values {low}..{high}: convert it to 8 or 16-bit grey")
    top = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return np.asarray(np.rint(values.astype(np.float64) * (255.0 / top)), dtype=np.uint8)
