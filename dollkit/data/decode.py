"""One image file into 8-bit grey: PNG, JPEG, GIF, TIFF, raw JSRT and DICOM.

A film is read whole or refused. What a file is follows from its bytes; its ending has to agree.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from dollkit.common.errors import InputError

FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "DICOM", "raw JSRT")
RAW = "raw JSRT"
ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".img": RAW,
}
"""Format of each known ending, in small letters."""

RAW_SIDE = 2048
RAW_BYTES = 2 * RAW_SIDE**2
RAW_TOP = 4095

U8 = npt.NDArray[np.uint8]

_HEAD = 256  # bytes that tell the formats apart
# What the first elements of a DICOM file can hold.
_FIRST_VRS = {b"UL", b"UI", b"OB", b"CS", b"DA", b"TM", b"SH", b"LO", b"ST", b"DT"}


def load_image(path: Path | str, depths: Sequence[int] = (8, 16), any_ending: bool = False) -> U8:
    """One radiograph as 8-bit grey, (H, W) uint8.

    - Colour and palette images: ITU-R 601 luma. Alpha is ignored, not blended: the RGBA films in
      circulation are opaque, and what lies under transparency is still film. CMYK, Lab and
      16-bit colour are refused. 1, 2 and 4-bit grey is stretched to 0..255.
    - 16-bit grey: divided by the full range of the smallest of 8, 10, 12, 14, 16 bits that holds
      its maximum, because detectors store 10 to 14 bits in 16 and 65535 would make those
      nearly black. No other windowing.
    - TIFF: 8 or 16-bit grey or 8-bit colour. White at zero is read in 8 bits, refused in 16.
    - ``.img``: a JSRT film; no header, 2048 x 2048 big-endian 16-bit, 12 bits used, white at
      zero: grey = 255 * (1 - raw / 4095).
    - DICOM: see `dollkit.data.dicom`.
    - Pixels stay as stored: an EXIF orientation in a JPEG is not applied, because masks and boxes
      are drawn on the stored grid; a TIFF that asks to be turned is refused. Of a JPEG with
      further pictures in it (MPO) the first is read.

    Only PNG has checksums, and they are checked. In the other formats a flipped byte among the
    pixels can pass unseen, and so can a loss near the end of a GIF or JPEG: the array has the
    right shape and wrong greys. Compare the checksums that a data set publishes.

    Args:
        path: the file. Its ending must agree with its content, in any case of letters; with no
            ending, or one that is not in `ENDINGS`, the content decides.
        depths: bits per grey value that the data set has; 8 stands for up to 8, 16 for 9 to 16.
        any_ending: read the file as what it is, whatever its ending: for data sets that are
            known for it, such as ieee8023/covid-chestxray-dataset with PNG pictures in ``.jpg``.
    """
    path = Path(path)
    with opened(path) as file:
        data = file.read()
    kind = _kind(path, data[:_HEAD], any_ending)
    if kind == RAW:
        return _load_raw(path, data, depths)
    if kind == "DICOM":
        return np.asarray(_dicom().load_dicom(path, data, depths), np.uint8)
    return load_picture(path, kind, data, depths)


def probe(
    path: Path | str, depths: Sequence[int] = (8, 16), any_ending: bool = False
) -> tuple[int, int]:
    """(height, width) in pixels of what `load_image` would give, from the header alone.

    Args: as for `load_image`.
    """
    path = Path(path)
    with opened(path) as file:
        kind = _kind(path, file.read(_HEAD), any_ending)
        if kind == RAW:
            _check_raw(path, file.seek(0, io.SEEK_END), depths)
            return RAW_SIDE, RAW_SIDE
        file.seek(0)
        if kind == "DICOM":
            height, width = _dicom().dicom_size(path, file, depths)
            return int(height), int(width)
        return picture_size(path, kind, file, depths)


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM, with or without preamble.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        return _found(path, file.read(_HEAD)) == "DICOM"


def _dicom() -> ModuleType:
    # Few need it, and pydicom takes a third of a second to import.
    from dollkit.data import dicom

    return dicom


def _kind(path: Path, head: bytes, any_ending: bool) -> str:
    """Format of a file by its first bytes, one of `FORMATS`; its ending has to agree."""
    named, found = ENDINGS.get(path.suffix.lower()), _found(path, head)
    if found is None:
        raise InputError(f"{path}: not a PNG, JPEG, GIF, TIFF or DICOM image: {AGAIN}")
    if named not in (None, found) and not any_ending:
        raise InputError(
            f"{path}: {found} content under the ending {path.suffix} ({named}): "
            "rename it or fetch it again"
        )
    return found


def _found(path: Path, head: bytes) -> str | None:
    found = _sniff(head)
    if found is None:
        # A raw film has no mark of its own; its first pixels may look like anything short.
        found = RAW if ENDINGS.get(path.suffix.lower()) == RAW else None
    return found or ("DICOM" if _is_bare_dicom(head) else None)


def _sniff(head: bytes) -> str | None:
    """Format by its mark in the first bytes."""
    if head.startswith(PNG):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[128:132] == b"DICM":  # before TIFF: a preamble may look like one
        return "DICOM"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    return None


def _is_bare_dicom(head: bytes) -> bool:
    """Whether a file without preamble opens with a plausible DICOM element of group 2 or 8."""
    if len(head) < 16:
        return False
    little, big = struct.unpack("<HH", head[:4]), struct.unpack(">HH", head[:4])
    if little[0] in (2, 8):
        short = int.from_bytes(head[4:8], "little") <= 128
        return little[1] <= 0x100 and (short or head[4:6] in _FIRST_VRS)
    return big[0] in (2, 8) and big[1] <= 0x100 and head[4:6] in _FIRST_VRS


def _check_raw(path: Path, size: int, depths: Sequence[int]) -> None:
    if size != RAW_BYTES:
        raise InputError(
            f"{path}: {size} bytes where a raw JSRT film has {RAW_BYTES}: fetch it again"
        )
    check_depth(path, 16, depths)


def _load_raw(path: Path, data: bytes, depths: Sequence[int]) -> U8:
    _check_raw(path, len(data), depths)
    values = np.frombuffer(data, ">u2").reshape(RAW_SIDE, RAW_SIDE)
    high = int(values.max())
    if high > RAW_TOP:
        raise InputError(
            f"{path}: raw value {high} where a JSRT film has 0..{RAW_TOP}: fetch it again"
        )
    table = np.rint(255 * (1 - np.arange(RAW_TOP + 1) / RAW_TOP)).astype(np.uint8)
    return np.asarray(table[values], np.uint8)


# PNG, JPEG, GIF and TIFF into 8-bit grey, through Pillow.


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
    """(height, width) of a picture, from its header; see `dollkit.data.decode.probe`."""
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


# What every image file has to pass, whatever its format: there, of a film's size and depth.


MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own threshold); a 4020 x 4892 film has 19.7 million."""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file opened: the largest image without compression, and room for its header."""

AGAIN = "fetch it again or use skip_bad"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise InputError(f"{path}: cannot be read (a folder): name an image file")
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: cannot be read (not a regular file): name an image file")
        if found.st_size > MAX_BYTES:
            raise InputError(
                f"{path}: {found.st_size} bytes, more than {MAX_BYTES}: not a radiograph; "
                "leave it out"
            )
        if not found.st_size:
            raise InputError(f"{path}: empty file: {AGAIN}")
        with path.open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image: check the path in its table") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def check_pixels(path: Path, height: int, width: int) -> None:
    """`InputError` if an image has more pixels than a film can have."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path}: {width}x{height} pixels, more than {MAX_PIXELS}: not a radiograph; "
            "leave it out"
        )


def check_depth(path: Path, bits: int, depths: Sequence[int]) -> None:
    """`InputError` unless grey values of `bits` are what the data set has (8: up to 8 bits)."""
    bits = 8 if bits <= 8 else 16
    if bits not in depths:
        raise InputError(
            f"{path}: {bits}-bit where {' or '.join(map(str, depths))} are expected: "
            "fetch the file as it was released"
        )


@contextmanager
def mending(path: Path) -> Iterator[None]:
    """Turn what Pillow raises over a damaged file into one line; its warnings are silenced."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # a plug-in may raise anything over damaged bytes
        raise InputError(
            f"{path}: corrupt or cut off ({error or type(error).__name__}): {AGAIN}"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Pillow and pydicom: what matters about a file is an error of ours.

    Filters belong to the process, not to a thread: the first in sets them, the last out restores.
    """
    with _quiet.lock:
        if not _quiet.inside:
            _quiet.filters = warnings.catch_warnings()
            _quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        _quiet.inside += 1
    try:
        yield
    finally:
        with _quiet.lock:
            _quiet.inside -= 1
            if not _quiet.inside:
                _quiet.filters.__exit__(None, None, None)


class _Quiet:
    filters: warnings.catch_warnings[None]

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0


_quiet = _Quiet()
