"""One image file into 8-bit grey, and its way onto the square grid and back.

A film is read whole or refused: PNG, JPEG, GIF, TIFF, raw JSRT, DICOM. What a file is follows from
its bytes; its ending has to agree. On the grid aspect is kept: a film is scaled until its longer
side is S and padded with black on both ends of the shorter one.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from dollkit.common.errors import InputError

# What matters about a file is an error of ours; theirs may quote a DICOM file.
warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

IGNORE = 255
"""Mask value of pixels that count for nothing: neither inside nor outside."""

RAW = "raw JSRT"
ENDINGS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
    ".dcm": "DICOM", ".dicom": "DICOM", ".img": RAW,
}  # fmt: skip
"""Format of each known ending, in small letters."""

RAW_SIDE = 2048
RAW_BYTES = 2 * RAW_SIDE**2
RAW_TOP = 4095

MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own threshold); a 4020 x 4892 film has 19.7 million."""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file opened: the largest image without compression, and room for its header."""

AGAIN = "put an intact copy there, or leave it out (skip_bad)"

_MARKS = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
}  # fmt: skip
_KINDS = (b"UL", b"UI", b"OB", b"CS", b"DA", b"TM", b"SH", b"LO", b"ST", b"DT")
_FORMATS = ("PNG", "JPEG", "GIF", "TIFF")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 0x0102, 0x0106, 0x0112, 0x0153


def load_image(path: Path | str, depths: Sequence[int] = (8, 16), any_ending: bool = False) -> U8:
    """One radiograph as 8-bit grey, (H, W) uint8.

    - Colour and palette images: ITU-R 601 luma. Alpha is ignored, not blended: the RGBA films in
      circulation are opaque, and what lies under transparency is still film. CMYK, Lab and
      16-bit colour are refused. 1, 2 and 4-bit grey is stretched to 0..255.
    - 16-bit grey: divided by the full range of the smallest of 8, 10, 12, 14, 16 bits that holds
      its maximum, because detectors store 10 to 14 bits in 16. No other windowing.
    - ``.img``: a JSRT film; no header, 2048 x 2048 big-endian 16-bit, 12 bits used, white at
      zero: grey = 255 * (1 - raw / 4095).
    - A picture that asks to be turned (EXIF) is refused: viewers would turn it, and with it masks
      that are drawn there. Of a JPEG with further pictures in it (MPO) the first is read.

    Only PNG has checksums, and they are checked. In the other formats a flipped byte among the
    pixels can pass unseen: compare the checksums that a data set publishes.

    `depths`: bits per grey value that the data set has; 8 stands for up to 8, 16 for 9 to 16. With
    `any_ending`, or no known ending (`ENDINGS`), the content alone says what the file is.
    """
    path = Path(path)
    with _opened(path) as file:
        kind = _kind(path, file, any_ending)
        if kind == RAW:
            _check_raw(path, file, depths)
            return _raw_grey(path, file.read())
        if kind == "DICOM":
            from dollkit.data.dicom import load_dicom  # few need it, and it imports slowly

            return load_dicom(path, file, depths)
        if kind == "PNG":  # the decoder takes flipped bytes without a word
            _picture(path, file, depths).verify()
        image = _picture(path, file, depths)
        if kind != "JPEG" and (pages := getattr(image, "n_frames", 1)) > 1:
            raise InputError(f"{path}: {kind} of {pages} pages: keep the film alone in a file")
        # Before its pixels are there: Pillow turns a TIFF itself.
        if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
            raise InputError(f"{path}: {kind} that asks to be turned: save it upright")
        image.load()
        return _grey(image)


def probe(path: Path | str, depths: Sequence[int] = (8, 16)) -> tuple[int, int]:
    """(height, width) in pixels of what `load_image` would give, from the header alone."""
    path = Path(path)
    with _opened(path) as file:
        kind = _kind(path, file)
        if kind == RAW:
            _check_raw(path, file, depths)
            return RAW_SIDE, RAW_SIDE
        if kind == "DICOM":
            from dollkit.data.dicom import dicom_size

            return dicom_size(path, file, depths)
        image = _picture(path, file, depths)
        return image.height, image.width


def range_note(path: Path, image: U8) -> str:
    """What looks wrong with the greys of a film: there is one, or less than an eighth of the range.

    "" if nothing does; a line with the file, and the elements of a DICOM film that are likely.
    """
    low, high = int(image.min()), int(image.max())
    if high - low >= 256 / 8:
        return ""
    greys = f"one grey ({low})" if low == high else f"greys {low} to {high} of 0 to 255 alone"
    likely = "its pixels"
    if is_dicom(path):
        from dollkit.data.dicom import range_element

        likely = range_element(path)
    return f"{path}: the film has {greys}: look at {likely}"


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM, with or without preamble."""
    if not path.is_file():  # to open a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            return _content(path, file) == "DICOM"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; what Pillow and pydicom raise over a damaged one becomes a line without quotes."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: cannot be read (not a file): name an image file")
        if not size:
            raise InputError(f"{path}: empty file: {AGAIN}")
        if size > MAX_BYTES:
            fault = f"{size} bytes, more than {MAX_BYTES}"
            raise InputError(f"{path}: {fault}: not a radiograph; leave it out")
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image: check the path in its table") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    with file:
        try:
            yield file
        except InputError:
            raise
        except Exception as error:  # a plug-in may raise anything over damaged bytes
            fault = f"corrupt or cut off ({type(error).__name__})"
            raise InputError(f"{path}: {fault}: {AGAIN}") from None


def _kind(path: Path, file: BinaryIO, any_ending: bool = False) -> str:
    """Format of a file by its first bytes; its ending has to agree."""
    named, content = ENDINGS.get(path.suffix.lower()), _content(path, file)
    if content is None:
        raise InputError(f"{path}: not a PNG, JPEG, GIF, TIFF or DICOM image: {AGAIN}")
    if named not in (None, content) and not any_ending:
        raise InputError(
            f"{path}: {content} content under the ending {path.suffix} ({named}): "
            "rename it, or put an intact copy there"
        )
    return content


def _content(path: Path, file: BinaryIO) -> str | None:
    head = file.read(256)
    file.seek(0)
    if head[128:132] == b"DICM":  # first: a preamble may look like a TIFF
        return "DICOM"
    for mark, kind in _MARKS.items():
        if head.startswith(mark):
            return kind
    if ENDINGS.get(path.suffix.lower()) == RAW:  # has no mark; its first pixels may be anything
        return RAW
    # DICOM without preamble opens with an element of group 2 or 8, of a short value or known kind.
    for order in ("little", "big"):
        group, element, length = (int.from_bytes(head[i : i + 2], order) for i in (0, 2, 4))
        likely = head[4:6] in _KINDS or (order == "little" and length <= 128)
        if group in (2, 8) and element <= 0x100 and likely and len(head) >= 16:
            return "DICOM"
    return None


def _check_raw(path: Path, file: BinaryIO, depths: Sequence[int]) -> None:
    size = file.seek(0, io.SEEK_END)
    if size != RAW_BYTES:
        raise InputError(f"{path}: {size} bytes where a raw JSRT film has {RAW_BYTES}: {AGAIN}")
    file.seek(0)
    check_depth(path, 16, depths)


def _raw_grey(path: Path, data: bytes) -> U8:
    values = np.frombuffer(data, ">u2").reshape(RAW_SIDE, RAW_SIDE)
    if (high := int(values.max())) > RAW_TOP:
        raise InputError(f"{path}: raw value {high} where a JSRT film has 0..{RAW_TOP}: {AGAIN}")
    table = np.rint(255 * (1 - np.arange(RAW_TOP + 1) / RAW_TOP)).astype(np.uint8)
    return np.asarray(table[values], np.uint8)


def _picture(path: Path, file: BinaryIO, depths: Sequence[int]) -> Any:
    """A picture with its header read and checked, its pixels not yet decoded."""
    file.seek(0)
    head = file.read(26)
    file.seek(0)
    image: Any = Image.open(file, formats=_FORMATS)
    check_pixels(path, image.height, image.width)
    bits, refused = 8, ""
    if image.format == "PNG":
        bits = head[24]
    elif image.format == "TIFF":
        bits, zero = max(image.tag_v2.get(_BITS, (1,))), image.tag_v2.get(_PHOTOMETRIC)
        # Pillow takes white for zero unless told, and turns only 8 bits or fewer round.
        if zero is None or (zero == 0 and bits > 8):
            refused = "TIFF of more than 8 bits with white at zero, or that does not say"
        if set(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) != {1}:  # Pillow takes -1 for 255
            refused = "TIFF whose values have a sign, or a fraction"
    if bits > 8 and not image.mode.startswith("I;16"):
        # Of 16-bit colour Pillow would keep the upper byte of each: near black.
        refused = f"{bits}-bit image of mode {image.mode}"
    elif bits <= 8 and image.mode not in _MODES:
        refused = f"{image.mode} colour"
    if refused:
        raise InputError(f"{path}: {refused}: convert it to 8 or 16-bit grey")
    check_depth(path, bits, depths)
    return image


def _grey(image: Image.Image) -> U8:
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        top = full_range(int(values.max()))
        table = np.rint(np.arange(top + 1) * (255.0 / top)).astype(np.uint8)
        return np.asarray(table[values], np.uint8)
    if image.mode in ("P", "PA"):
        see_through = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if see_through else "RGB")
    # convert() copies even where there is nothing to convert.
    return np.asarray(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def full_range(high: int) -> int:
    """Largest value of the smallest of 8, 10, 12, 14, 16 bits that holds `high`."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)


def check_pixels(path: Path, height: int, width: int) -> None:
    """`InputError` if an image has more pixels than a film can have."""
    if height * width > MAX_PIXELS:
        size = f"{width}x{height} pixels, more than {MAX_PIXELS}"
        raise InputError(f"{path}: {size}: not a radiograph; leave it out")


def check_depth(path: Path, bits: int, depths: Sequence[int]) -> None:
    """`InputError` unless grey values of `bits` are what the data set has (8: up to 8 bits)."""
    bits = 8 if bits <= 8 else 16
    if bits not in depths:
        raise InputError(
            f"{path}: {bits}-bit where {' or '.join(map(str, depths))} are expected: "
            "fetch the file as it was released"
        )


class Frame(NamedTuple):
    """Where a film lies on the grid; the rest is padding."""

    top: int
    left: int
    rows: int
    cols: int


def frame(height: int, width: int, size: int) -> Frame:
    """Placement of a film: longer side scaled to `size`, centred, at least one pixel each way."""
    scale = size / max(height, width)
    rows, cols = max(1, round(height * scale)), max(1, round(width * scale))
    return Frame((size - rows) // 2, (size - cols) // 2, rows, cols)


def fit(image: U8, size: int) -> U8:
    """A film (H, W) uint8 on the square grid, (size, size) uint8; antialiased bilinear."""
    f = frame(image.shape[0], image.shape[1], size)
    small = Image.fromarray(image).resize((f.cols, f.rows), Image.Resampling.BILINEAR)
    return _pad(np.asarray(small), f, size)


def fit_mask(mask: U8, size: int, height: int | None = None, width: int | None = None) -> U8:
    """A mask (h, w) in {0, 1, 255 = ignore} on the square grid, (size, size) uint8.

    A pixel is inside where inside covers at least half of its area, else outside where outside
    does, else ignored. A mask pixel counts whole, where its centre lies. Padding is outside.

    `height`, `width` are those of its film, by default the mask's own; a mask of another size is
    stretched over the whole film. `ValueError` if it has another aspect or other values.
    """
    height, width = height or mask.shape[0], width or mask.shape[1]
    if not same_aspect(mask.shape[0], mask.shape[1], height, width):
        raise ValueError(f"mask of {mask.shape} cannot lie on a film of {(height, width)}")
    if ((mask > 1) & (mask != IGNORE)).any():
        raise ValueError("mask values are 0, 1 and 255")
    f = frame(height, width, size)
    inside = _resize(mask == 1, f.rows, f.cols, Image.Resampling.BOX)
    out = (inside >= 0.5).astype(np.uint8)
    if (mask == IGNORE).any():
        ignored = _resize(mask == IGNORE, f.rows, f.cols, Image.Resampling.BOX)
        # Rounding: areas that leave the outside exactly a half may sum to a little more.
        out[(out == 0) & (inside + ignored > 0.5 + 5e-7)] = IGNORE
    return _pad(out, f, size)


def same_aspect(h: int, w: int, height: int, width: int) -> bool:
    """Whether a mask of h x w can lie on a film of height x width: 1 % apart, or one pixel."""
    skew = abs(h * width - w * height) / max(h * width, 1)
    return skew <= max(0.01, 1 / max(min(h, w, height, width), 1))


def unfit(values: npt.NDArray[Any], height: int, width: int) -> F32:
    """A map (S, S) from the square grid back on the film's own, (height, width) float32."""
    f = frame(height, width, values.shape[0])
    inner = values[f.top : f.top + f.rows, f.left : f.left + f.cols]
    return _resize(inner, height, width, Image.Resampling.BILINEAR)


def fit_box(box: tuple[float, float, float, float], height: int, width: int, size: int) -> U8:
    """A box x, y, w, h in pixels of a film on the square grid, (size, size) uint8 in {0, 1}.

    A pixel is inside if its centre is; a box thinner than a pixel keeps the one under its middle.
    """
    f = frame(height, width, size)
    x, y, w, h = box
    inner = np.zeros((f.rows, f.cols), np.uint8)
    inner[_span(y, h, f.rows / height, f.rows), _span(x, w, f.cols / width, f.cols)] = 1
    return _pad(inner, f, size)


def _span(start: float, length: float, scale: float, limit: int) -> slice:
    first = int(np.ceil(start * scale - 0.5))
    last = int(np.ceil((start + length) * scale - 0.5))
    if last <= first:
        first = int((start + length / 2) * scale)
        last = first + 1
    first = min(max(first, 0), limit - 1)
    return slice(first, min(max(last, first + 1), limit))


def _pad(inner: U8, f: Frame, size: int) -> U8:
    grid = np.zeros((size, size), np.uint8)
    grid[f.top : f.top + f.rows, f.left : f.left + f.cols] = inner
    return grid


def _resize(values: npt.NDArray[Any], rows: int, cols: int, how: Image.Resampling) -> F32:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((cols, rows), how), dtype=np.float32)
