"""Stored DICOM values: each transfer syntax by the decoder that is safe with it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dollkit.common.errors import InputError
from dollkit.data.decode import AGAIN
from dollkit.data.dicom_codec import FrameError, decode_frame


class Header(NamedTuple):
    """What the pixels of a film are; `dollkit.data.dicom` has checked it."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    meaning: str
    """PhotometricInterpretation."""


# pydicom's plug-in for each; GDCM only in a process of its own, see dollkit.data.dicom_codec.
_PLUGINS: dict[str, str] = {
    ImplicitVRLittleEndian: "",
    ExplicitVRLittleEndian: "",
    ExplicitVRBigEndian: "",
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEG2000Lossless: "pillow",
    JPEG2000: "pillow",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "gdcm",
    JPEGLSNearLossless: "gdcm",
}


def decode_pixels(path: Path, film: Dataset, header: Header) -> npt.NDArray[Any]:
    """Stored values of a grey film, or the luma of a colour one, (Rows, Columns) integer."""
    syntax = UID(film.file_meta.TransferSyntaxUID)
    plugin = _PLUGINS.get(syntax)
    if plugin is None:
        raise InputError(
            f"{path}: DICOM transfer syntax {_name(syntax)} is not read: "
            f"convert it to {ExplicitVRLittleEndian.name}"
        )
    try:
        pixels, meaning = _decode(film, header, syntax, plugin)
    except Exception as error:  # decoders may raise anything over damaged bytes
        # Only our own words: a decoder's may quote the file.
        why = str(error) if isinstance(error, FrameError) else "corrupt or cut off"
        raise InputError(f"{path}: DICOM pixels in {_name(syntax)}: {why}: {AGAIN}") from None
    shape = (header.rows, header.columns)
    if pixels.shape != (shape if header.samples == 1 else (*shape, header.samples)):
        raise InputError(f"{path}: DICOM pixels of another shape than Rows x Columns: {AGAIN}")
    if header.samples == 1:
        return pixels
    if meaning == "RGB":
        return np.asarray(Image.fromarray(pixels.astype(np.uint8)).convert("L"))
    return pixels[..., 0]


def _decode(
    film: Dataset, header: Header, syntax: UID, plugin: str
) -> tuple[npt.NDArray[Any], str]:
    """Stored values and their photometric interpretation after decoding."""
    if not plugin:
        _check_length(film, header)
    if plugin in ("pillow", "gdcm"):
        code = get_frame(film.PixelData, 0, number_of_frames=1)
        precision = _check_frame(code, header)
        if plugin == "gdcm":
            return _through_gdcm(code, syntax, header, precision), header.meaning
        if syntax == JPEGExtended12Bit and precision != 8:
            raise FrameError(f"{precision} bits of it are not read")
        if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and header.stored != precision:
            raise FrameError(f"{precision} bits where BitsStored says {header.stored}")
    pixels, told = get_decoder(syntax).as_array(film, raw=True, decoding_plugin=plugin)
    return pixels, str(told["photometric_interpretation"])


def _through_gdcm(code: bytes, syntax: str, header: Header, precision: int) -> npt.NDArray[Any]:
    size = (header.rows, header.columns, header.samples)
    data = decode_frame(code, syntax, *size, precision)
    pixels = np.frombuffer(data, np.uint8 if precision <= 8 else np.uint16)
    if header.samples > 1:
        return pixels.reshape(size)
    # The frame knows no sign, and no bits above BitsStored.
    bits = min(header.stored, precision)
    values = pixels.reshape(size[:2]).astype(np.int32) & ((1 << bits) - 1)
    sign = 1 << (bits - 1)
    return (values ^ sign) - sign if header.signed else values


def _check_length(film: Dataset, header: Header) -> None:
    """Uncompressed pixels must fill the image: more of them means that Rows or Columns is wrong."""
    size = header.rows * header.columns * header.samples * header.allocated // 8
    if header.meaning == "YBR_FULL_422":
        size = size // 3 * 2
    if len(film.PixelData) not in (size, size + size % 2):
        raise FrameError(f"{len(film.PixelData)} bytes where the image has {size}")


def _check_frame(code: bytes, header: Header) -> int:
    """Precision of a JPEG, JPEG-LS or JPEG 2000 frame, whose header must agree with the file's.

    Raises:
        FrameError: it does not, or the frame has no end.
    """
    if not code.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # some pad with FF
        raise FrameError("cut off")
    if code.startswith(b"\xff\x4f\xff\x51"):
        x, y, x0, y0 = struct.unpack(">4I", code[8:24])
        samples, precision = struct.unpack(">HB", code[40:43])
        found = (y - y0, x - x0, samples)
        precision = (precision & 127) + 1
    elif not code.startswith(b"\xff\xd8"):
        raise FrameError("no plain JPEG or JPEG 2000 stream")
    else:
        precision, *size = struct.unpack(">BHHB", _jpeg_start(code))
        found = (size[0], size[1], size[2])
    if found != (header.rows, header.columns, header.samples) or precision > header.allocated:
        raise FrameError("damaged, or of another size than Rows x Columns")
    return int(precision)


def _jpeg_start(code: bytes) -> bytes:
    """Precision, lines, columns and components: the start of frame of a JPEG or JPEG-LS stream."""
    at = 2
    while code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return code[at + 4 : at + 10]
        else:
            at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    raise FrameError("damaged")


def _name(syntax: UID) -> str:
    # A damaged identifier could be any text.
    if not syntax.is_valid:
        return "of no valid identifier"
    return f"{syntax.name} ({syntax})" if syntax.name != syntax else str(syntax)
