"""One image file into 8-bit grey: PNG, JPEG, GIF, TIFF, raw JSRT and DICOM.

A film is read whole or refused. What a file is follows from its bytes; its ending has to agree.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from dollkit.decode.imagefile import AGAIN, check_depth, opened
from dollkit.decode.pictures import PNG, load_picture, picture_size
from dollkit.errors import InputError

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
    - DICOM: see `dollkit.decode.dicom`.
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
    from dollkit.decode import dicom

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
