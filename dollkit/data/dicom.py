"""DICOM radiographs into 8-bit grey, through pydicom.

The chain of the standard (PS3.3 C.11, PS3.4 N.2): stored values -> modality LUT or rescale ->
first VOI LUT, else first window, else the full range of BitsStored -> MONOCHROME1 turned round.
A step is a function of the stored value, so the chain is worked out once for each value there can
be. Text of the file, names of patients included, goes into no message.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dollkit.common.errors import InputError
from dollkit.data.decode import AGAIN, MAX_BYTES, check_depth, check_pixels, quiet
from dollkit.data.dicom_pixels import Header, decode_pixels

U8 = npt.NDArray[np.uint8]

# It logs values of the file.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_TAGS = [
    "SOPClassUID", "Modality", "SharedFunctionalGroupsSequence",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PixelData", "FloatPixelData", "DoubleFloatPixelData",
]  # fmt: skip

_IMAGE_CLASSES = "1.2.840.10008.5.1.4.1.1."
# The next part of the class, and what it stands for: images that no X-ray film gives.
_OTHER_CLASSES = {
    "2": "CT", "3": "US", "4": "MR", "6": "US", "20": "NM", "66": "SEG", "77": "photography",
    "128": "PT", "130": "PT", "481": "radiotherapy",
}  # fmt: skip
_OTHER_MODALITIES = {
    "CT", "MR", "US", "IVUS", "NM", "PT", "SEG", "OP", "OPT", "OCT", "ES", "GM", "SM", "XC",
    "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "ECG", "SR", "PR", "KO",
}  # fmt: skip
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def load_dicom(path: Path, data: bytes, depths: Sequence[int]) -> U8:
    """One film, (Rows, Columns) uint8.

    - A window is the one that the file lists first (LINEAR, LINEAR_EXACT or SIGMOID). Without one
      the full range of BitsStored is taken, so a file that stores 12 bits and declares 16 is dark.
    - Padding pixels (PixelPaddingValue, with PixelPaddingRangeLimit) are black and change nothing
      else. Bits above BitsStored are left out.
    - 8-bit RGB and YBR are luma. PresentationLUTShape is not read: it repeats what
      PhotometricInterpretation says.
    - Read: uncompressed of both byte orders, deflated, RLE, 8-bit JPEG, JPEG 2000, and through
      python-gdcm JPEG lossless and JPEG-LS. Other transfer syntaxes are refused by name.
    - A file without preamble, file meta or transfer syntax is read if it is uncompressed.
    """
    with _reading(path):
        film = _dataset(path, io.BytesIO(data), whole=True)
        header = _header(path, film, depths)
        if "PixelData" not in film:
            raise InputError(f"{path}: DICOM file without pixel data: {AGAIN}")
        pixels = decode_pixels(path, film, header)
        if header.samples == 3:
            return pixels.astype(np.uint8)
        table, low = grey_table(path, film, header)
        index = pixels.astype(np.int32) - low
        if index.min() < 0 or index.max() >= len(table):
            raise InputError(f"{path}: DICOM pixels beyond their {header.stored} bits: {AGAIN}")
        return np.asarray(table[index], np.uint8)


def dicom_size(path: Path, file: BinaryIO, depths: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the film in an open file, from its header."""
    with _reading(path):
        header = _header(path, _dataset(path, file, whole=False), depths)
        return header.rows, header.columns


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # pydicom may raise anything over damaged bytes
        # Its message may quote the file.
        raise InputError(
            f"{path}: DICOM file corrupt or cut off ({type(error).__name__}): {AGAIN}"
        ) from None


def _dataset(path: Path, file: BinaryIO, whole: bool) -> Dataset:
    """The elements that matter, with a transfer syntax that says how the pixels lie."""
    if _meta_syntax(file) == DeflatedExplicitVRLittleEndian:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = stream.decompress(file.read(), MAX_BYTES)
        if not stream.eof:
            raise InputError(
                f"{path}: deflated DICOM file cut off, or more than {MAX_BYTES} bytes: {AGAIN}"
            )
        # As a file without file meta: not inflated a second time without a limit.
        file = io.BytesIO(inflated)
    file.seek(0)
    film = dcmread(file, stop_before_pixels=not whole, force=True, specific_tags=_TAGS)
    if "TransferSyntaxUID" not in film.file_meta:
        if whole and "PixelData" in film and film["PixelData"].is_undefined_length:
            raise InputError(
                f"{path}: DICOM file that does not say how its pixels are compressed: {AGAIN}"
            )
        film.file_meta.TransferSyntaxUID = _SYNTAXES[film.original_encoding]
    return film


_SYNTAXES: dict[Any, UID] = {  # by (implicit, little-endian)
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def _meta_syntax(file: BinaryIO) -> str:
    """Transfer syntax out of the file meta, "" if there is none; leaves `file` behind the meta."""
    file.seek(0)
    start = 132 if file.read(132)[128:] == b"DICM" else 0
    file.seek(start)
    syntax = ""
    while len(head := file.read(8)) == 8:
        group, element, kind, length = struct.unpack("<HH2sH", head)
        if group != 2:
            file.seek(-8, io.SEEK_CUR)
            break
        if kind in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            length = int.from_bytes(file.read(4), "little")
        value = file.read(length)
        if element == 0x10:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
    return syntax


def _header(path: Path, film: Dataset, depths: Sequence[int]) -> Header:
    """What the pixels are; `InputError` if they are no film."""
    _check_modality(path, film)
    if "FloatPixelData" in film or "DoubleFloatPixelData" in film:
        raise _refused(path, "floating-point image")
    if not film.get("Rows") or not film.get("Columns"):
        raise InputError(f"{path}: DICOM file without an image: leave it out")
    frames = int(film.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"{path}: DICOM of {frames} frames: keep the film alone in a file")
    if "SharedFunctionalGroupsSequence" in film:
        raise InputError(f"{path}: DICOM of the multi-frame kind: keep the film alone in a file")
    header = Header(
        int(film.Rows),
        int(film.Columns),
        int(film.SamplesPerPixel),
        int(film.BitsAllocated),
        int(film.BitsStored),
        bool(int(film.PixelRepresentation)),
        str(film.PhotometricInterpretation),
    )
    check_pixels(path, header.rows, header.columns)
    if header.allocated not in (8, 16):
        raise _refused(path, f"{header.allocated}-bit image")
    if not 1 <= header.stored <= header.allocated or film.get("HighBit") != header.stored - 1:
        raise _refused(path, f"{header.stored} of {header.allocated} bits, not the lowest ones")
    if header.samples == 1 and header.meaning not in _GREY:
        raise _refused(path, "photometric interpretation other than MONOCHROME1 and MONOCHROME2")
    if header.samples != 1:
        if header.samples != 3 or header.meaning not in _COLOUR:
            raise _refused(path, "colour other than RGB and YBR")
        if header.stored != 8 or header.allocated != 8 or header.signed:
            raise _refused(path, "colour of other than 8 bits")
    check_depth(path, header.stored, depths)
    return header


def _check_modality(path: Path, film: Dataset) -> None:
    uid, modality = str(film.get("SOPClassUID", "")), str(film.get("Modality", ""))
    other = ""
    if uid.startswith(_IMAGE_CLASSES):
        other = _OTHER_CLASSES.get(uid.removeprefix(_IMAGE_CLASSES).split(".")[0], "")
    if modality in _OTHER_MODALITIES:
        other = modality
    if other:
        raise InputError(f"{path}: DICOM of modality {other}: not a radiograph; leave it out")


def _refused(path: Path, what: str) -> InputError:
    return InputError(f"{path}: DICOM {what}: convert it to 8 or 16-bit grey")


# From stored DICOM values to grey: modality LUT or rescale, VOI LUT or window, padding.


F64 = npt.NDArray[np.float64]


def grey_table(path: Path, film: Dataset, header: Header) -> tuple[U8, int]:
    """Grey of every value that the bits stored can hold.

    Returns:
        (2^BitsStored,) uint8, and the stored value that its first entry is of.
    """
    low = -(1 << (header.stored - 1)) if header.signed else 0
    stored = np.arange(low, low + (1 << header.stored))
    values, bottom, top = _modality(path, film, header, stored)
    unit = _voi(path, film, header, values, bottom, top)
    if header.meaning == "MONOCHROME1":
        unit = 1 - unit
    grey = np.rint(255 * unit).astype(np.uint8)
    grey[_is_padding(film, header, stored)] = 0
    return grey, low


def _modality(
    path: Path, film: Dataset, header: Header, stored: npt.NDArray[Any]
) -> tuple[F64, float, float]:
    """Values that the modality LUT gives, and the range that they can have."""
    if film.get("ModalityLUTSequence"):
        return _look_up(path, film, film.ModalityLUTSequence[0], header, stored)
    slope, intercept = _number(path, film, "RescaleSlope"), _number(path, film, "RescaleIntercept")
    slope = 1.0 if slope is None else slope
    if slope == 0:
        raise InputError(f"{path}: DICOM RescaleSlope 0: the film has no values; leave it out")
    values = stored * slope + (intercept or 0.0)
    return values, float(values.min()), float(values.max())


def _voi(path: Path, film: Dataset, header: Header, values: F64, bottom: float, top: float) -> F64:
    """Values through the first VOI LUT, else the first window, else the range: 0 to 1."""
    if film.get("VOILUTSequence"):
        values, bottom, top = _look_up(path, film, film.VOILUTSequence[0], header, values)
        return (values - bottom) / (top - bottom)
    centre, width = _number(path, film, "WindowCenter"), _number(path, film, "WindowWidth")
    if centre is None and width is None:
        return (values - bottom) / (top - bottom)
    kind = str(film.get("VOILUTFunction") or "LINEAR").upper()
    if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise InputError(f"{path}: DICOM VOILUTFunction unknown: use LINEAR, or leave it out")
    if centre is None or width is None or width <= 0 or (kind == "LINEAR" and width < 1):
        raise InputError(
            f"{path}: DICOM window of centre {centre}, width {width}: mend it or leave it out"
        )
    if kind == "SIGMOID":
        # Beyond 40 widths there is only black or white; exp would overflow.
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -160, 160)))
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _look_up(
    path: Path, film: Dataset, item: Dataset, header: Header, values: npt.NDArray[Any]
) -> tuple[F64, float, float]:
    """Values through one LUT, and the range of its entries.

    pydicom's own look-up wraps round where a table of 8-bit entries has more than 256.
    """
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 1 << 16
    first = _as_stored(first, header.signed)
    entries = _entries(film, item, count)
    if not 8 <= bits <= 16 or len(entries) < count or entries.max() >= 1 << bits:
        raise InputError(f"{path}: DICOM look-up table does not fit its description")
    index = np.clip(np.rint(values - first), 0, count - 1).astype(np.int64)
    return entries[index].astype(np.float64), 0.0, float((1 << bits) - 1)


def _entries(film: Dataset, item: Dataset, count: int) -> npt.NDArray[Any]:
    data = item.LUTData
    if isinstance(data, bytes):
        little = film.original_encoding[1] is not False
        if len(data) < 2 * count:  # packed
            return np.frombuffer(data, np.uint8)
        return np.frombuffer(data[: 2 * count], "<u2" if little else ">u2")
    return np.atleast_1d(np.asarray(data, np.int64))


def _is_padding(film: Dataset, header: Header, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    value = film.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(len(stored), bool)
    limit = film.get("PixelPaddingRangeLimit")
    ends = [_as_stored(value, header.signed)]
    ends.append(_as_stored(limit, header.signed) if isinstance(limit, int) else ends[0])
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: int, signed: bool) -> int:
    """A 16-bit value that may have been read with the wrong sign."""
    if signed and value > 32767:
        return value - 65536
    return value + 65536 if not signed and value < 0 else value


def _number(path: Path, film: Dataset, name: str) -> float | None:
    """First value of an element, None if it is missing or blank."""
    value: Any = film.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, (list, tuple)) or hasattr(value, "__len__"):
        if not len(value):
            return None
        value = value[0]
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{path}: DICOM {name} is no number: mend it or leave it out")
    return number
