"""PNG, JPEG, GIF and TIFF into 8-bit grey, through Pillow."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from dollkit.decode.imagefile import AGAIN, check_depth, check_pixels, mending, quiet
from dollkit.errors import InputError

U8 = npt.NDArray[np.uint8]

PNG = b"\x89PNG\r\n\x1a\n"

# Opened by class, not by Image.open, which warns of many pixels before it can be asked.
_PLUGINS: dict[str, Callable[[BinaryIO], Any]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "I"}
_ORIENTATION = 0x0112


def load_picture(path: Path, kind: str, data: bytes, depths: Sequence[int]) -> U8:
    """Pixels of a picture of the format `kind`, (H, W) uint8; see `load_image`."""
    with quiet():
        image = _open(path, kind, io.BytesIO(data), depths)
        if kind == "PNG":
            _check_sums(path, data)
        if kind == "GIF":
            _check_pages(path, kind, image)
        with mending(path):
            image.load()
        return _grey(path, image)


def picture_size(path: Path, kind: str, file: BinaryIO, depths: Sequence[int]) -> tuple[int, int]:
    """(height, width) of a picture, from its header; see `dollkit.decode.probe`."""
    image = _open(path, kind, file, depths)
    return image.height, image.width


def _open(path: Path, kind: str, file: BinaryIO, depths: Sequence[int]) -> Any:
    """The picture with its header read and checked, its pixels not yet decoded."""
    head = file.read(26)
    file.seek(0)
    with mending(path):
        image = _PLUGINS[kind](file)
        bits, refused = 8, ""
        if kind == "PNG":
            bits, refused = _png_depth(head)
        elif kind == "TIFF":
            bits, refused = _tiff_depth(image.tag_v2)
    check_pixels(path, image.height, image.width)
    if not refused and image.mode not in _MODES and not image.mode.startswith("I;16"):
        refused = f"{image.mode} colour"
    if refused:
        raise InputError(f"{path}: {refused}: convert it to 8 or 16-bit grey")
    check_depth(path, bits, depths)
    if kind in ("PNG", "TIFF"):
        _check_pages(path, kind, image)
    return image


def _png_depth(head: bytes) -> tuple[int, str]:
    """Bits per grey value, and why the picture is refused ("" if it is not)."""
    if head[12:16] != b"IHDR":
        raise ValueError("no header")
    # Pillow would keep the upper byte of each: near black where a detector stores 12 bits.
    return head[24], "16-bit colour or alpha" if head[24] == 16 and head[25] else ""


def _tiff_depth(tags: Any) -> tuple[int, str]:
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    refused = ""
    if 3 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)):
        refused = "floating-point image"
    elif bits > 16:
        refused = f"{bits}-bit image"
    elif bits > 8 and samples > 1:
        refused = "16-bit colour or alpha"
    elif zero is None:
        refused = "TIFF that does not say whether zero is black"
    elif zero == 0 and bits > 8:
        # Pillow turns only 8 bits or fewer round: black and white would change places.
        refused = "16-bit TIFF with white at zero"
    elif tags.get(_ORIENTATION, 1) != 1:
        refused = "TIFF that asks to be turned"
    return bits, refused


def _check_pages(path: Path, kind: str, image: Any) -> None:
    with mending(path):
        pages = int(getattr(image, "n_frames", 1))
    if pages > 1:
        raise InputError(f"{path}: {kind} of {pages} pages: keep the film alone in a file")


def _check_sums(path: Path, data: bytes) -> None:
    """Checksum of every chunk: Pillow's decoder takes flipped bytes without a word."""
    view, at = memoryview(data), len(PNG)
    while True:
        length = int.from_bytes(view[at : at + 4], "big")
        chunk = view[at + 4 : at + 8 + length]
        stored = view[at + 8 + length : at + 12 + length]
        if len(stored) != 4:
            raise InputError(f"{path}: corrupt or cut off (its end is missing): {AGAIN}")
        if zlib.crc32(chunk) != int.from_bytes(stored, "big"):
            raise InputError(f"{path}: corrupt or cut off (checksum): {AGAIN}")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + length


def _grey(path: Path, image: Image.Image) -> U8:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _to_8_bit(path, np.asarray(image))
    if image.mode in ("P", "PA"):
        see_through = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if see_through else "RGB")
    # convert() copies even where there is nothing to convert.
    return np.asarray(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def _to_8_bit(path: Path, values: npt.NDArray[Any]) -> U8:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"{path}: grey values {low}..{high}: convert it to 8 or 16-bit grey")
    top = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    table = np.rint(np.arange(top + 1) * (255.0 / top)).astype(np.uint8)
    return np.asarray(table[values], dtype=np.uint8)
