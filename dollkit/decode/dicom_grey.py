"""From stored DICOM values to grey: modality LUT or rescale, VOI LUT or window, padding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dollkit.decode.dicom_pixels import Header
from dollkit.errors import InputError

U8 = npt.NDArray[np.uint8]
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
