"""DICOM radiographs into 8-bit grey, through pydicom.

The chain of the standard (PS3.3 C.11, PS3.4 N.2): stored values -> modality LUT or rescale ->
first VOI LUT, else first window, else the full range of BitsStored -> MONOCHROME1 turned round.
A step is a function of the stored value, so the chain is worked out once for each value there can
be. Texts of the file, names of patients included, go into no message.
"""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder

from dollkit.common.errors import InputError
from dollkit.data.gdcm_process import decode_frame
from dollkit.data.images import AGAIN, check_depth, check_pixels, full_range

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

# It logs values of the file.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_NEEDED = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_OTHER_MODALITIES = {
    "CT", "MR", "US", "IVUS", "NM", "PT", "SEG", "OP", "OPT", "OCT", "ES", "GM", "SM", "XC",
    "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "ECG", "SR", "PR", "KO",
}  # fmt: skip
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

# pydicom's plug-in for each transfer syntax that is read.
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1, *uid.JPEGLSTransferSyntaxes)
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_PLUGINS: dict[str, str] = {
    **dict.fromkeys(_PLAIN, ""),
    uid.RLELossless: "pydicom",
    **dict.fromkeys((*_JPEG, *uid.JPEG2000TransferSyntaxes), "pillow"),
    **dict.fromkeys(_LOSSLESS, "gdcm"),
}


def load_dicom(path: Path, file: BinaryIO, depths: Sequence[int]) -> U8:
    """One film, (Rows, Columns) uint8.

    - A window is the one that the file lists first. Without one the full range of BitsStored is
      taken, or of the precision of a JPEG 2000 frame if that is less; where the film takes up less
      than an eighth of it, that of the smallest of 8, 10, 12, 14, 16 bits which hold its values.
    - Padding pixels (PixelPaddingValue, with PixelPaddingRangeLimit) are black and change nothing
      else. Bits above BitsStored are left out. 8-bit RGB and YBR are luma.
    - Read: uncompressed of both byte orders, RLE, 8-bit JPEG, JPEG 2000, JPEG lossless and JPEG-LS.
      A file without preamble, file meta or transfer syntax is read if uncompressed.
    """
    film = _dataset(path, file, whole=True)
    _check_header(path, film, depths)
    if "PixelData" not in film:
        raise InputError(f"{path}: DICOM file without pixel data: {AGAIN}")
    values, bits, above = _stored_values(path, film)
    if film.SamplesPerPixel == 3:
        return values.astype(np.uint8)
    low = -(1 << (bits - 1)) if film.PixelRepresentation else 0
    stored = np.arange(low, low + (1 << bits))
    padding = _is_padding(path, film, stored, above)
    there = np.unique(values)
    there = there[~padding[there - low]]
    table = _grey(path, film, stored, _range_of(there, int(stored[0]), int(stored[-1])))
    table[padding] = 0
    return np.asarray(table[values - low], np.uint8)


def range_element(path: Path) -> str:
    """The elements of a film that decide which of its values are black and white."""
    film = dcmread(path, stop_before_pixels=True, force=True)
    for names in (
        ("VOILUTSequence",), ("WindowCenter", "WindowWidth"), ("ModalityLUTSequence",),
        ("RescaleSlope", "RescaleIntercept"),
    ):  # fmt: skip
        if film.get(names[0]) not in (None, ""):
            return " and ".join(names)
    return "BitsStored"


def dicom_size(path: Path, file: BinaryIO, depths: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the film in an open file, from its header."""
    film = _dataset(path, file, whole=False)
    _check_header(path, film, depths)
    return int(film.Rows), int(film.Columns)


def _dataset(path: Path, file: BinaryIO, whole: bool) -> Dataset:
    """The elements that matter, with a transfer syntax that says how the pixels lie."""
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        raise _unread(path, "Deflated")  # pydicom would inflate it whatever its size
    file.seek(0)
    film = dcmread(file, stop_before_pixels=not whole, force=True)
    if "TransferSyntaxUID" not in film.file_meta:
        implicit, little = film.original_encoding
        film.file_meta.TransferSyntaxUID = _PLAIN[0 if implicit else 1 if little else 2]
    return film


def _check_header(path: Path, film: Dataset, depths: Sequence[int]) -> None:
    """`InputError` if this is no single film of 8 or 16 bits."""
    if (modality := _text(film, "Modality")) in _OTHER_MODALITIES:
        raise InputError(f"{path}: DICOM of modality {modality}: not a radiograph; leave it out")
    if "FloatPixelData" in film or "DoubleFloatPixelData" in film:
        raise _refused(path, "floating-point image")
    if not film.get("Rows") or not film.get("Columns"):
        raise InputError(f"{path}: DICOM file without an image: leave it out")
    frames = _number(path, film, "NumberOfFrames") or 1
    if frames != 1 or "SharedFunctionalGroupsSequence" in film:
        kind = f"{frames:g} frames" if frames != 1 else "the multi-frame kind"
        raise InputError(f"{path}: DICOM of {kind}: keep the film alone in a file")
    for name in _NEEDED:
        if film.get(name) in (None, ""):
            raise InputError(
                f"{path}: DICOM without {name}: write it into the file, or leave it out"
            )
        if name != "PhotometricInterpretation" and not isinstance(film.get(name), int):
            raise _no_number(path, name)
    check_pixels(path, film.Rows, film.Columns)
    stored, allocated, samples = film.BitsStored, film.BitsAllocated, film.SamplesPerPixel
    if allocated not in (8, 16):
        raise _refused(path, f"{allocated:d}-bit image")
    if not 1 <= stored <= allocated or film.HighBit != stored - 1:
        raise _refused(path, f"{stored:d} of {allocated:d} bits, not the lowest ones")
    meaning = film.PhotometricInterpretation = _text(film, "PhotometricInterpretation")
    if samples == 1 and meaning not in ("MONOCHROME1", "MONOCHROME2"):
        raise _refused(path, "photometric interpretation other than MONOCHROME1 and MONOCHROME2")
    if samples != 1 and (samples != 3 or meaning not in _COLOUR):
        raise _refused(path, "colour other than RGB and YBR")
    if samples == 3 and (stored != 8 or allocated != 8 or film.PixelRepresentation):
        raise _refused(path, "colour of other than 8 bits")
    check_depth(path, stored, depths)


def _no_number(path: Path, what: str) -> InputError:
    return InputError(f"{path}: DICOM {what} is no number: mend it or leave it out")


def _refused(path: Path, what: str) -> InputError:
    return InputError(f"{path}: DICOM {what}: convert it to 8 or 16-bit grey")


def _unread(path: Path, syntax: str) -> InputError:
    return InputError(
        f"{path}: DICOM transfer syntax {syntax} is not read: "
        f"convert it to {uid.ExplicitVRLittleEndian.name}"
    )


def _stored_values(path: Path, film: Dataset) -> tuple[npt.NDArray[Any], int, bool]:
    """Stored values of a grey film, or the luma of a colour one, (Rows, Columns); their bits, and
    whether bits above these were left out."""
    syntax = uid.UID(film.file_meta.TransferSyntaxUID)
    # A damaged identifier could be any text.
    name = f"{syntax.name} ({syntax})" if syntax.is_valid else "of no valid identifier"
    if syntax not in _PLUGINS:
        raise _unread(path, name)
    plugin = _PLUGINS[syntax]
    try:
        bits = _check_frame(film, syntax, plugin)
        if plugin == "gdcm":
            pixels, meaning = decode_frame(film), film.PhotometricInterpretation
        else:
            pixels, said = get_decoder(syntax).as_array(
                film, index=0, raw=True, decoding_plugin=plugin
            )
            meaning = said["photometric_interpretation"]
    except Exception as error:  # decoders may raise anything over damaged bytes
        why = str(error) if isinstance(error, _FrameError) else "corrupt or cut off"
        raise InputError(f"{path}: DICOM pixels in {name}: {why}: {AGAIN}") from None
    if film.SamplesPerPixel == 3:
        luma = Image.fromarray(pixels).convert("L") if meaning == "RGB" else pixels[..., 0]
        return np.asarray(luma), 8, False
    sign = 1 << (bits - 1)
    values = pixels.astype(np.int32) & (2 * sign - 1)
    values = (values ^ sign) - sign if film.PixelRepresentation else values
    return values, bits, bool((values != pixels).any())


class _FrameError(Exception):
    """What is wrong with a frame, in words that quote nothing of the file."""


def _check_frame(film: Dataset, syntax: uid.UID, plugin: str) -> int:
    """Bits of a value; `_FrameError` if the frame is not of the size that the header says.

    pydicom does not ask: it gives pixels the shape of the header.
    """
    shape = film.Rows, film.Columns
    if plugin == "":
        size = shape[0] * shape[1] * film.SamplesPerPixel * film.BitsAllocated // 8
        if film.PhotometricInterpretation == "YBR_FULL_422":
            size = size // 3 * 2
        # More than padding means that Rows or Columns is wrong.
        rest = film.PixelData[size:]
        if len(film.PixelData) < size or (len(rest) > size % 2 and rest.strip(b"\0")):
            raise _FrameError(f"{len(film.PixelData)} bytes where the image has {size}")
    if plugin in ("", "pydicom"):
        return int(film.BitsStored)
    code = get_frame(film.PixelData, 0, number_of_frames=1)
    if syntax in uid.JPEG2000TransferSyntaxes:  # some put a JP2 file around a codestream
        code = code[max(code.find(b"\xff\x4f\xff\x51"), 0) :]
    if not code.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # some pad with FF
        raise _FrameError("cut off")
    if syntax in uid.JPEG2000TransferSyntaxes:
        right, bottom, left, top = struct.unpack(">4I", code[8:24])
        there, bits = [bottom - top, right - left], (code[42] & 127) + 1
    else:
        bits, *there = struct.unpack(">BHH", _start_of_frame(code))
    if tuple(there) != shape:
        raise _FrameError("damaged, or of another size than Rows x Columns")
    if syntax in _JPEG and (bits != 8 or film.BitsStored != 8):
        raise _FrameError(f"{bits}-bit JPEG with BitsStored {film.BitsStored} is not read")
    return min(int(film.BitsStored), bits)


def _start_of_frame(code: bytes) -> bytes:
    """Precision, lines and columns of a JPEG or JPEG-LS frame."""
    at = 2
    while code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return code[at + 4 : at + 9]
        # A fill byte, or a segment that says how long it is.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    raise _FrameError("damaged")


def _range_of(there: npt.NDArray[Any], low: int, high: int) -> tuple[int, int]:
    """Stored values that are black and white, from those that occur and those that could."""
    if not len(there) or there[-1] - there[0] >= (high + 1 - low) / 8:
        return low, high
    if there[0] >= 0:
        return 0, min(high, full_range(int(there[-1])))
    half = (full_range(2 * int(max(-there[0], there[-1] + 1)) - 1) + 1) // 2
    return max(low, -half), min(high, half - 1)


def _is_padding(
    path: Path, film: Dataset, stored: npt.NDArray[Any], above: bool
) -> npt.NDArray[np.bool_]:
    """Which stored values pad the film; where bits `above` were left out, they are here, too."""
    ends = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = film.get(name)
        if isinstance(value, bytes):  # of an unknown kind
            value = int.from_bytes(value[:2], "little" if film.original_encoding[1] else "big")
            setattr(film, name, value)
        if (number := _number(path, film, name)) is None:
            break
        # Or read with the wrong sign.
        turn = len(stored) if above else 65536
        ends.append(int(stored[0]) + (int(number) - int(stored[0])) % turn)
    if not ends:
        return np.zeros(len(stored), bool)
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _grey(path: Path, film: Dataset, stored: npt.NDArray[Any], ends: tuple[int, int]) -> U8:
    """Grey of each stored value; without window or LUT `ends` are black and white."""
    values, low, high = _modality(path, film, stored, ends)
    if film.get("VOILUTSequence"):
        values, low, high = _look_up(path, film.VOILUTSequence[0], values, film)
        unit = None
    else:
        unit = _windowed(path, film, values)
    if unit is None:
        unit = np.clip((values - low) / (high - low), 0, 1)
    if film.PhotometricInterpretation == "MONOCHROME1":
        unit = 1 - unit
    return np.rint(255 * unit).astype(np.uint8)


def _modality(
    path: Path, film: Dataset, stored: npt.NDArray[Any], ends: tuple[int, int]
) -> tuple[F64, float, float]:
    """Values that the modality LUT gives, and the range that they can have."""
    if film.get("ModalityLUTSequence"):
        return _look_up(path, film.ModalityLUTSequence[0], stored, film)
    slope, intercept = _number(path, film, "RescaleSlope"), _number(path, film, "RescaleIntercept")
    if slope == 0:
        raise InputError(f"{path}: DICOM RescaleSlope 0: the film has no values; leave it out")
    slope = 1.0 if slope is None else slope
    low, high = sorted(end * slope + (intercept or 0.0) for end in ends)
    return stored * slope + (intercept or 0.0), low, high


def _windowed(path: Path, film: Dataset, values: F64) -> F64 | None:
    """Values through the first window, 0 to 1; None if there is no window."""
    centre, width = _number(path, film, "WindowCenter"), _number(path, film, "WindowWidth")
    if centre is None and width is None:
        return None
    kind = _text(film, "VOILUTFunction") or "LINEAR"
    narrowest = {"LINEAR": 1.0, "LINEAR_EXACT": np.nextafter(0, 1), "SIGMOID": np.nextafter(0, 1)}
    if centre is None or width is None or width < narrowest.get(kind, math.inf):
        raise InputError(
            f"{path}: DICOM window of centre {centre}, width {width}, or its VOILUTFunction: "
            "none of the standard's; mend it or leave it out"
        )
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
        if width == 0:
            return (values > centre).astype(np.float64)
    with np.errstate(over="ignore"):
        share = (values - centre) / width
        return 1 / (1 + np.exp(-4 * share)) if kind == "SIGMOID" else np.clip(share + 0.5, 0, 1)


def _look_up(
    path: Path, item: Dataset, values: npt.NDArray[Any], film: Dataset
) -> tuple[F64, float, float]:
    """Values through one LUT, and the range of its entries.

    pydicom's own look-ups wrap round where a table of 8-bit entries has more than 256, and know
    modality LUTs of 8 and 16 bits alone. The range is that of the bits which the entries take up:
    some files declare 16 and use 12. Bytes that changed places make a curve once they are back.
    """
    wrong = InputError(f"{path}: DICOM look-up table does not fit its description: leave it out")
    try:
        count, first, bits = (int(v) for v in item.LUTDescriptor)
        data, count = item.LUTData, count % 65536 or 1 << 16
    except (AttributeError, TypeError, ValueError):
        raise wrong from None
    if isinstance(data, bytes):
        order = "<" if film.original_encoding[1] is not False else ">"
        # Entries of a byte may be packed.
        packed = bits == 8 and len(data) in (count, count + 1)
        data = np.frombuffer(data, np.uint8 if packed else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data, np.int64))[:count] % 65536
    turned = (entries & 255) << 8 | entries >> 8
    if bits > 8 and 8 * np.abs(np.diff(turned)).sum() < np.abs(np.diff(entries)).sum():
        entries = turned
    if not 8 <= bits <= 16 or len(entries) < count or entries.max() >= 1 << bits:
        raise wrong
    # The first value may have been written with the other sign: which has more of the values?
    low, high = values.min(), values.max()
    signs = first, first % 65536, (first + 32768) % 65536 - 32768
    first = max(signs, key=lambda f: min(high, f + count - 1) - max(low, f))
    index = np.clip(np.rint(values - first), 0, count - 1).astype(np.int64)
    return entries[index].astype(np.float64), 0.0, full_range(int(entries.max()))


def _text(film: Dataset, name: str) -> str:
    """First value of an element of texts in capitals, as the standard has them; "" without one."""
    value: Any = film.get(name) or ""
    value = value if isinstance(value, str) or not len(value) else value[0]
    return str(value).strip().upper()


def _number(path: Path, film: Dataset, name: str) -> float | None:
    """First value of an element, None if it is missing or blank."""
    value: Any = ""
    try:
        value = film.get(name)  # of a text that is no number pydicom makes an error, or a text
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = next((v for v in value if v not in (None, "")), None)
        if value is None or value == "":
            return None
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        # No more of a text than can be a number that somebody misspelt.
        text = f" {value}" if re.fullmatch(r"[\d.,+\-eEx ]{1,16}", str(value)) else ""
        raise _no_number(path, f"{name}{text}")
    return number
