"""Damaged image files: each is refused in one line, or gives an array of the right shape."""

from __future__ import annotations

import faulthandler
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from dollkit.common.errors import InputError
from dollkit.data.images import load_image, probe
from tests.test_dicom import bytes_of, compressed, film

SHAPE = (24, 32)
NOISE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def picture(form: str, image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


MAKERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "png": ("png", lambda a: picture("PNG", a)),
    "png 16": ("png", lambda a: picture("PNG", a.astype(np.uint16) * 16)),
    "jpeg": ("jpg", lambda a: picture("JPEG", a)),
    "gif": ("gif", lambda a: picture("GIF", a)),
    "tiff": ("tif", lambda a: picture("TIFF", a)),
    "tiff lzw": ("tif", lambda a: picture("TIFF", a, compression="tiff_lzw")),
    "dicom": ("dcm", lambda a: bytes_of(film(a.astype(np.uint16) * 16, 12))),
    "dicom bare": ("dcm", lambda a: bytes_of(film(a, 8))[132:]),
    "dicom rle": ("dcm", lambda a: bytes_of(compressed(film(a, 8), RLELossless, a))),
    "dicom jpeg": ("dcm", lambda a: bytes_of(compressed(film(a, 8), JPEGBaseline8Bit, a))),
    "dicom jpeg 2000": ("dcm", lambda a: bytes_of(compressed(film(a, 8), JPEG2000Lossless, a))),
}


@cache
def whole(name: str) -> bytes:
    """A valid file of one format."""
    return MAKERS[name][1](NOISE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The one line that refuses a file, or "" if it is read."""
    try:
        read(path)
    except InputError as error:
        told = str(error)
        return told if told.startswith(f"{path}: ") and "\n" not in told else pytest.fail(told)
    return ""


def outcome(path: Path, data: bytes) -> str:
    """The refusal of a file, or "" if it gave an array of the shape that its header says."""
    path.write_bytes(data)
    # A decoder that never comes back is ended with the run.
    faulthandler.dump_traceback_later(60, exit=True)
    told = refusal(load_image, path)
    if not refusal(probe, path) and not told:
        image = load_image(path)
        assert image.dtype == np.uint8
        assert image.shape == probe(path)
    faulthandler.cancel_dump_traceback_later()
    return told


@pytest.mark.parametrize("name", list(MAKERS))
def test_whole_files_and_their_beginnings(folder: Path, name: str) -> None:
    path, data = folder / f"film.{MAKERS[name][0]}", whole(name)
    assert outcome(path, data) == ""
    assert load_image(path).shape == SHAPE
    certain = name.startswith(("png", "dicom"))
    for keep in (8, len(data) // 3, len(data) - 90):
        assert outcome(path, data[:keep]) or not certain


PLACES = st.integers(0, 10**9)
FLIPS = st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKERS))
@given(flips=FLIPS, header=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_flipped_bytes(folder: Path, name: str, flips: list[tuple[int, int]], header: bool) -> None:
    data = bytearray(whole(name))
    for place, change in flips:
        # Half of the examples near the start, where a format keeps its promises.
        data[place % (min(len(data), 400) if header else len(data))] ^= change
    outcome(folder / f"film.{MAKERS[name][0]}", bytes(data))


@given(data=st.binary(max_size=600), name=st.sampled_from(["film", "film.dcm", "film.png"]))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_junk(folder: Path, data: bytes, name: str) -> None:
    assert outcome(folder / name, data)
