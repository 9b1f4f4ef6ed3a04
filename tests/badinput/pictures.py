"""Image files that are none, or not what a radiograph can be."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dollkit.data.decode import load_image
from dollkit.data.images import load_mask
from tests.badinput import spoil
from tests.badinput.case import Case
from tests.test_dicom import bytes_of, film

GREY = np.random.default_rng(1).integers(0, 256, (48, 40), np.uint8)


def _pil(form: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).save(out, form)
    return out.getvalue()


def _dicom() -> bytes:
    return bytes_of(film(GREY.astype(np.uint16) * 16))


FORMS: dict[str, Callable[[], bytes]] = {
    "png": lambda: _pil("PNG"),
    "jpg": lambda: _pil("JPEG"),
    "tif": lambda: _pil("TIFF"),
    "gif": lambda: _pil("GIF"),
    "dcm": _dicom,
}


def _damaged(ending: str, how: spoil.Spoil) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        path = folder / f"film.{ending}"
        path.write_bytes(FORMS[ending]())
        assert load_image(path).shape == GREY.shape
        how(path)
        return load_image(path)

    return run


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _bomb(width: int, height: int) -> bytes:
    """A small PNG file that says it is huge."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + data + _chunk(b"IEND", b"")


def _bytes(data: bytes, ending: str = "png") -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        path = folder / f"film.{ending}"
        path.write_bytes(data)
        return load_image(path)

    return run


def _mask(array: np.ndarray, ending: str = "png") -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        path = folder / f"mask.{ending}"
        Image.fromarray(array).save(path)
        return load_mask(path, 48, 40)

    return run


def cases() -> Iterator[Case]:
    for ending in FORMS:
        for name, how in spoil.ALL.items():
            told = f"{name} {ending}"
            yield Case("image file", told, _damaged(ending, how), (f"film.{ending}",))
    for width, height in ((10**6, 10**6), (0, 48), (48, 0), (2**31 - 1, 2)):
        told = f"PNG that says {width} x {height}"
        yield Case("image file", told, _bytes(_bomb(width, height)), ("film.png",))
    words = {"svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "pdf": b"%PDF-1.4\n" * 9,
             "zip": b"PK\x03\x04" + bytes(60), "gz": b"\x1f\x8b" + bytes(60),
             "npy": b"\x93NUMPY\x01\x00" + bytes(60), "exe": b"MZ" + bytes(60)}  # fmt: skip
    for name, data in words.items():
        yield Case("image file", f"{name} called png", _bytes(data), ("film.png",))
    yield Case("mask file", "of another shape", _mask(np.zeros((48, 30), np.uint8)), ("mask.png",))
