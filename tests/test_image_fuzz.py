"""Damaged image files: each is refused in one line, or gives an array of the right shape."""

from __future__ import annotations

import faulthandler
import io
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from dollkit.common.errors import InputError
from dollkit.data.decode import RAW_BYTES, load_image, probe
from tests.test_dicom import bytes_of, film

SECONDS = 10
SHAPE = (24, 32)
RAMP = np.add.outer(4 * np.arange(24), 3 * np.arange(32)).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


class HangError(BaseException):
    """Not an Exception: nothing on the way may take it for damage."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail if one file takes longer than any can; not a measure of speed."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {SECONDS} s over one file")

    # A decoder that never comes back to Python is ended with the run.
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
    alarm = getattr(signal, "SIGALRM", None)
    before = signal.signal(alarm, stop) if alarm else None
    if alarm:
        signal.alarm(SECONDS)
    try:
        yield
    finally:
        if alarm:
            signal.alarm(0)
            signal.signal(alarm, before)
        faulthandler.cancel_dump_traceback_later()


def picture(form: str, image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def compressed(syntax: str, image: np.ndarray) -> bytes:
    data = film(image, 8)
    if syntax == RLELossless:
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return bytes_of(data)
    if syntax == JPEGBaseline8Bit:
        code = picture("JPEG", image)
    else:
        code = picture("JPEG2000", image, no_jp2=True)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([code])
    data["PixelData"].VR = "OB"
    return bytes_of(data)


MAKERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "png": ("png", lambda a: picture("PNG", a)),
    "png colour": ("png", lambda a: picture("PNG", np.stack([a] * 3, -1))),
    "png 16": ("png", lambda a: picture("PNG", a.astype(np.uint16) * 16)),
    "jpeg": ("jpg", lambda a: picture("JPEG", a)),
    "jpeg progressive": ("jpg", lambda a: picture("JPEG", a, progressive=True)),
    "gif": ("gif", lambda a: picture("GIF", a)),
    "tiff": ("tif", lambda a: picture("TIFF", a)),
    "tiff lzw": ("tif", lambda a: picture("TIFF", a, compression="tiff_lzw")),
    "tiff jpeg": ("tif", lambda a: picture("TIFF", a, compression="jpeg")),
    "dicom": ("dcm", lambda a: bytes_of(film(a.astype(np.uint16) * 16, 12))),
    "dicom bare": ("dcm", lambda a: bytes_of(film(a, 8))[132:]),
    "dicom rle": ("dcm", lambda a: compressed(RLELossless, a)),
    "dicom jpeg": ("dcm", lambda a: compressed(JPEGBaseline8Bit, a)),
    "dicom jpeg 2000": ("dcm", lambda a: compressed(JPEG2000Lossless, a)),
}


@cache
def whole(name: str) -> tuple[bytes, bytes]:
    """Two valid files of one format."""
    return MAKERS[name][1](RAMP), MAKERS[name][1](NOISE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def outcome(path: Path, data: bytes) -> str:
    """The refusal of a file, or "" if it gave an array of the shape that its header says."""
    path.write_bytes(data)
    with no_hang():
        try:
            size = probe(path)
        except InputError as error:
            size, message = None, str(error)
            assert message.startswith(f"{path}: ")
            assert "\n" not in message
        try:
            image = load_image(path)
        except InputError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")
            assert "\n" not in message
            return message
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    assert image.shape == size
    return ""


@pytest.mark.parametrize("name", list(MAKERS))
def test_whole_files(folder: Path, name: str) -> None:
    path = folder / f"film.{MAKERS[name][0]}"
    for data in whole(name):
        assert outcome(path, data) == ""
        assert load_image(path).shape == SHAPE


PLACES = st.integers(0, 10**9)
FLIPS = st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=8)


@pytest.mark.parametrize("name", list(MAKERS))
@given(flips=FLIPS, header=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_flipped_bytes(folder: Path, name: str, flips: list[tuple[int, int]], header: bool) -> None:
    data = bytearray(whole(name)[1])
    for place, change in flips:
        # Half of the examples near the start, where a format keeps its promises.
        data[place % (min(len(data), 400) if header else len(data))] ^= change
    outcome(folder / f"film.{MAKERS[name][0]}", bytes(data))


@pytest.mark.parametrize("name", list(MAKERS))
@given(places=st.lists(PLACES, min_size=2, max_size=2), junk=st.binary(min_size=1, max_size=300))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_spliced_and_shifted_files(folder: Path, name: str, places: list[int], junk: bytes) -> None:
    path = folder / f"film.{MAKERS[name][0]}"
    first, second = whole(name)
    cut, start = places[0] % (len(first) + 1), places[1] % (len(second) + 1)
    outcome(path, first[:cut] + second[start:])
    outcome(path, first[:cut] + junk + first[cut:])
    assert outcome(path, b"?" + junk + first)


@pytest.mark.parametrize("name", list(MAKERS))
@given(place=PLACES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cut_off_files(folder: Path, name: str, place: int) -> None:
    path, data = folder / f"film.{MAKERS[name][0]}", whole(name)[1]
    keep = place % len(data)
    message = outcome(path, data[:keep])
    if not message:
        # Only what lies behind the last pixel may be missing, or filled up by a decoder.
        assert load_image(path).shape == SHAPE
    certain = name.startswith(("png", "dicom"))
    assert message or not certain or data[keep:].strip(b"\0") in (b"", b"\xfe\xff\xdd\xe0")


@given(first=st.sampled_from(list(MAKERS)), second=st.sampled_from(list(MAKERS)), place=PLACES)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_one_format_into_another(folder: Path, first: str, second: str, place: int) -> None:
    a, b = whole(first)[0], whole(second)[1]
    path = folder / f"film.{MAKERS[first][0]}"
    outcome(path, a[: place % len(a)] + b)
    if MAKERS[first][0] != MAKERS[second][0]:
        assert "content under the ending" in outcome(path, b)


@given(data=st.binary(max_size=600), name=st.sampled_from(["film", "film.dcm", "film.png"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_junk(folder: Path, data: bytes, name: str) -> None:
    assert outcome(folder / name, data)


@pytest.mark.parametrize("name", ["png", "png colour", "png 16"])
def test_every_flipped_byte_of_a_png_is_noticed(folder: Path, name: str) -> None:
    data = whole(name)[0]
    for place in range(len(data)):
        for change in (1, 255):
            spoilt = bytearray(data)
            spoilt[place] ^= change
            assert outcome(folder / "film.png", bytes(spoilt)), f"byte {place}"


@pytest.mark.parametrize("name", ["png", "dicom"])
def test_every_loss_of_the_end_is_noticed(folder: Path, name: str) -> None:
    data = whole(name)[0]
    for keep in (*range(0, len(data), 5), *range(len(data) - 40, len(data))):
        assert outcome(folder / f"film.{MAKERS[name][0]}", data[:keep])


@pytest.mark.parametrize("name", ["jpeg", "gif", "tiff", "dicom", "raw"])
def test_flips_among_pixels_can_pass_unseen(folder: Path, name: str) -> None:
    # What the docstring of load_image owns up to; only a published checksum would tell.
    if name == "raw":
        path, data, place = folder / "film.img", bytes(RAW_BYTES), RAW_BYTES // 2
    else:
        path, data = folder / f"film.{MAKERS[name][0]}", whole(name)[1]
        place = {"tiff": 500, "gif": len(data) - 60}.get(name, len(data) - 100)
    path.write_bytes(data)
    before = load_image(path)
    for change in (1, 2, 4, 8):
        spoilt = bytearray(data)
        spoilt[place] ^= change
        if not outcome(path, bytes(spoilt)):
            after = load_image(path)
            assert after.shape == before.shape
            if (after != before).any():
                return
    pytest.fail("each flip was noticed")


@given(place=PLACES, value=st.integers(0, 255))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_raw_films(folder: Path, place: int, value: int) -> None:
    path = folder / "film.img"
    data = bytearray(RAW_BYTES)
    data[place % RAW_BYTES] = value
    message = outcome(path, bytes(data))
    # The upper byte of a pixel may hold four bits.
    assert bool(message) == (place % 2 == 0 and value > 15)
    assert "where a raw JSRT film has" in outcome(path, bytes(data[: place % RAW_BYTES] or b"\0"))
