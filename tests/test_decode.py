"""Image files into grey: what is read, exactly how, and what is refused in one line."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from dollkit.common.errors import InputError
from dollkit.data import decode
from dollkit.data.decode import ENDINGS, RAW_BYTES, RAW_SIDE, load_image, probe

FORMAT_OF = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tif": "TIFF"}


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.add.outer(4 * np.arange(height), 3 * np.arange(width)).astype(np.uint8)


def encoded(form: str, image: np.ndarray | None = None, **options: object) -> bytes:
    """A grey picture in one of the four formats."""
    buffer = io.BytesIO()
    Image.fromarray(ramp() if image is None else image).save(buffer, form, **options)
    return buffer.getvalue()


def error_of(path: Path, **options: object) -> str:
    """The one line that refuses a file."""
    with pytest.raises(InputError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(bits: int, colour: int, rows: bytes, width: int, height: int) -> bytes:
    """A PNG of raw rows, each without its filter byte; Pillow cannot write 16-bit colour."""
    step = len(rows) // height
    lines = b"".join(b"\0" + rows[i * step : (i + 1) * step] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


# Values


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF"])
def test_lossless_formats_give_back_the_pixels(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"film.{form.lower()}"
    path.write_bytes(encoded(form))
    np.testing.assert_array_equal(load_image(path), ramp())
    assert load_image(path).dtype == np.uint8
    assert probe(path) == (24, 32)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "film.tif"
    path.write_bytes(encoded("TIFF", compression=compression))
    np.testing.assert_array_equal(load_image(path), ramp())


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_decodes(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "film.jpg"
    path.write_bytes(encoded("JPEG", progressive=progressive))
    np.testing.assert_array_equal(load_image(path), np.asarray(Image.open(path).convert("L")))
    assert np.abs(load_image(path).astype(int) - ramp()).max() <= 6
    assert probe(path) == (24, 32)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_8_bit_modes_give_the_same_grey(tmp_path: Path, mode: str, form: str) -> None:
    path = tmp_path / f"film.{form.lower()}"
    Image.fromarray(ramp()).convert(mode).save(path)
    np.testing.assert_array_equal(load_image(path), ramp())


def test_alpha_is_ignored(tmp_path: Path) -> None:
    grey = ramp()
    image = Image.fromarray(grey).convert("RGBA")
    image.putalpha(Image.fromarray(255 - grey))
    image.save(tmp_path / "film.png")
    np.testing.assert_array_equal(load_image(tmp_path / "film.png"), grey)
    image.convert("LA").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png"), grey)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF"])
def test_palette_is_looked_up(tmp_path: Path, form: str) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90] + [0] * 759)
    path = tmp_path / f"film.{form.lower()}"
    image.save(path)
    assert load_image(path).tolist() == [[200, 10], [90, 10]]


def test_transparent_palette_colour_is_still_film(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10] + [0] * 762)
    image.save(tmp_path / "film.png", transparency=0)
    assert load_image(tmp_path / "film.png").tolist() == [[200, 10]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_colour_is_luma(tmp_path: Path, form: str) -> None:
    rgb = np.zeros((1, 3, 3), np.uint8)
    rgb[0, range(3), range(3)] = 255
    path = tmp_path / f"film.{form.lower()}"
    Image.fromarray(rgb).save(path)
    assert load_image(path).tolist() == [[76, 150, 29]]


@pytest.mark.parametrize(("bits", "row"), [(1, 0b10110000), (2, 0b00011011), (4, 0x0F)])
def test_few_bits_are_stretched(tmp_path: Path, bits: int, row: int) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(png(bits, 0, bytes([row]), 8 // bits if bits > 1 else 4, 1))
    wanted = {1: [255, 0, 255, 255], 2: [0, 85, 170, 255], 4: [0, 255]}[bits]
    assert load_image(path, depths=(8,)).tolist() == [wanted]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_use_the_range_that_was_stored(tmp_path: Path, bits: int, form: str) -> None:
    top = 2**bits - 1
    path = tmp_path / f"film.{form.lower()}"
    Image.fromarray(np.array([[0, top], [top // 2, top]], np.uint16)).save(path)
    assert load_image(path).tolist() == [[0, 255], [127, 255]]
    assert error_of(path, depths=(8,)).startswith("16-bit where 8 are expected: ")
    with pytest.raises(InputError, match="16-bit where 8 are expected"):
        probe(path, depths=(8,))


def test_16_bit_scale_does_not_follow_the_content(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3000]], np.uint16)).save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").tolist() == [[0, round(3000 / 4095 * 255)]]


def test_depth_of_8_bit_files(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(encoded("PNG"))
    np.testing.assert_array_equal(load_image(path, depths=(8,)), ramp())
    assert error_of(path, depths=(16,)).startswith("8-bit where 16 are expected: ")


def test_white_at_zero(tmp_path: Path) -> None:
    white = {TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0}
    path = tmp_path / "film.tif"
    path.write_bytes(encoded("TIFF", tiffinfo=white))
    with Image.open(path) as image:
        assert image.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 0
        first = path.read_bytes()[image.tag_v2[TiffImagePlugin.STRIPOFFSETS][0]]
        assert load_image(path)[0, 0] == 255 - first
        np.testing.assert_array_equal(load_image(path), np.asarray(image))
    path.write_bytes(encoded("TIFF", ramp().astype(np.uint16), tiffinfo=white))
    assert error_of(path).startswith("16-bit TIFF with white at zero: ")


# Raw JSRT films


def raw_file(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(values.astype(">u2").tobytes())
    return path


def test_raw_film(tmp_path: Path) -> None:
    values = np.zeros((RAW_SIDE, RAW_SIDE), np.uint16)
    values[0, :5] = 0, 4095, 1000, 2048, 819
    path = raw_file(tmp_path / "JPCLN001.IMG", values)
    assert path.stat().st_size == RAW_BYTES == 8_388_608
    film = load_image(path)
    assert film.shape == (2048, 2048)
    assert film.dtype == np.uint8
    assert film[0, :5].tolist() == [255, 0, 193, 127, 204]
    assert film[1, 0] == 255
    assert probe(path) == (2048, 2048)
    assert error_of(path, depths=(8,)).startswith("16-bit where 8 are expected: ")
    swapped = tmp_path / "swapped.img"
    swapped.write_bytes(values.astype("<u2").tobytes())
    assert error_of(swapped).startswith("raw value 65295 where a JSRT film has 0..4095: ")
    values[5, 5] = 4096
    message = error_of(raw_file(tmp_path / "high.img", values))
    assert message.startswith("raw value 4096 where a JSRT film has 0..4095: ")


def test_raw_film_may_start_like_anything(tmp_path: Path) -> None:
    values = np.zeros((RAW_SIDE, RAW_SIDE), np.uint16)
    values[0, 0] = 0x0800  # as a DICOM element of group 8 would
    assert load_image(raw_file(tmp_path / "a.img", values))[0, 0] == 127


@pytest.mark.parametrize("size", [1, RAW_BYTES - 1, RAW_BYTES + 2])
def test_raw_film_of_another_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(size))
    wanted = f"{size} bytes where a raw JSRT film has 8388608: "
    assert error_of(path).startswith(wanted)
    with pytest.raises(InputError, match=wanted):
        probe(path)


def test_raw_film_needs_its_ending(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.raw", np.zeros((RAW_SIDE, RAW_SIDE), np.uint16))
    assert error_of(path).startswith("not a PNG, JPEG, GIF, TIFF or DICOM image: ")


# Endings


@pytest.mark.parametrize("named", [*ENDINGS, ""])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
@pytest.mark.parametrize("large", [False, True])
def test_ending_and_content_must_agree(tmp_path: Path, named: str, form: str, large: bool) -> None:
    path = tmp_path / f"film{named.upper() if large else named}"
    path.write_bytes(encoded(form))
    expected = np.asarray(Image.open(io.BytesIO(encoded(form))).convert("L"))
    if ENDINGS.get(named, form) == form:
        np.testing.assert_array_equal(load_image(path), expected)
        return
    message = error_of(path)
    assert message.startswith(f"{form} content under the ending {path.suffix} ({ENDINGS[named]}): ")
    with pytest.raises(InputError, match=f"{form} content under the ending"):
        probe(path)
    np.testing.assert_array_equal(load_image(path, any_ending=True), expected)
    assert probe(path, any_ending=True) == (24, 32)


def test_unknown_ending_leaves_it_to_the_content(tmp_path: Path) -> None:
    for name in ("film.0", "film.original", "1.2.840.113"):
        (tmp_path / name).write_bytes(encoded("PNG"))
        np.testing.assert_array_equal(load_image(tmp_path / name), ramp())
    (tmp_path / "film.bmp").write_bytes(encoded("BMP"))
    assert error_of(tmp_path / "film.bmp").startswith("not a PNG, JPEG, GIF, TIFF or DICOM image")


def test_endings_of_real_data_sets(shared_dir: Path) -> None:
    wrong, read = set(), 0
    for path in sorted(shared_dir.rglob("*")):
        if path.suffix.lower() not in ENDINGS:
            continue
        size, read = probe(path, any_ending=True), read + 1
        with Image.open(path) as image:
            assert size == (image.height, image.width)
        try:
            probe(path)
        except InputError as error:
            wrong.add((path.name, "PNG content under the ending .jpg (JPEG)" in str(error)))
            assert load_image(path, any_ending=True).shape == size
    assert read > 0
    assert wrong <= {("000001-17.jpg", True), ("000001-19.jpg", True)}


# Refusals


def test_several_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(ramp() + np.uint8(n)) for n in range(3)]
    for form in ("GIF", "TIFF", "PNG"):
        path = tmp_path / f"film.{form.lower()}"
        pages[0].save(path, form, save_all=True, append_images=pages[1:])
        assert error_of(path).startswith(f"{form} of 3 pages: ")
        if form != "GIF":
            with pytest.raises(InputError, match="of 3 pages"):
                probe(path)


def test_first_picture_of_an_mpo(tmp_path: Path) -> None:
    pages = [Image.fromarray(ramp()), Image.fromarray(255 - ramp())]
    path = tmp_path / "photo.jpg"
    pages[0].save(path, "MPO", save_all=True, append_images=pages[1:])
    assert np.abs(load_image(path).astype(int) - ramp()).max() <= 6


def test_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for form, name in (("JPEG", "film.jpg"), ("TIFF", "film.tif")):
        (tmp_path / name).write_bytes(encoded(form, exif=exif.tobytes()))
    assert load_image(tmp_path / "film.jpg").shape == (24, 32)
    assert probe(tmp_path / "film.jpg") == (24, 32)
    assert error_of(tmp_path / "film.tif").startswith("TIFF that asks to be turned: ")


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "F", "I"])
def test_kinds_that_are_no_film(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(ramp())
    image = Image.merge("LAB", [source] * 3) if mode == "LAB" else source.convert(mode)
    image.save(tmp_path / "film.tiff")
    wanted = {
        "CMYK": "CMYK colour",
        "LAB": "LAB colour",
        "F": "floating-point image",
        "I": "32-bit image",
    }[mode]
    assert error_of(tmp_path / "film.tiff") == f"{wanted}: convert it to 8 or 16-bit grey"
    with pytest.raises(InputError, match=wanted):
        probe(tmp_path / "film.tiff")
    if mode == "CMYK":
        image.save(tmp_path / "film.jpg")
        assert error_of(tmp_path / "film.jpg").startswith("CMYK colour: ")


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("depths", [(8,), (8, 16)])
def test_16_bit_colour_is_refused(
    tmp_path: Path, colour: int, samples: int, depths: tuple[int, ...]
) -> None:
    path = tmp_path / "film.png"
    rows = np.full((2, 2, samples), 4095, ">u2").tobytes()
    path.write_bytes(png(16, colour, rows, 2, 2))
    assert error_of(path, depths=depths).startswith("16-bit colour or alpha: ")
    path.write_bytes(png(8, colour, bytes([200] * 4 * samples), 2, 2))
    assert load_image(path, depths=depths).tolist() == [[200, 200], [200, 200]]


def test_grey_values_beyond_16_bits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"grey values 0\.\.70000"):
        decode._to_8_bit(tmp_path / "film", np.array([[0, 70000]], np.int32))
    with pytest.raises(InputError, match=r"grey values -1\.\.3"):
        decode._to_8_bit(tmp_path / "film", np.array([[-1, 3]], np.int32))


# Damage


@pytest.mark.parametrize("ending", list(FORMAT_OF))
def test_truncated_image(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"film.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    data = encoded(FORMAT_OF[ending], noise)
    for keep in (0.9, 0.5, 0.1):
        path.write_bytes(data[: int(len(data) * keep)])
        assert error_of(path).startswith("corrupt or cut off (")


def test_flipped_bytes_in_a_png(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    whole = encoded("PNG", ramp(128, 128))
    start = whole.index(b"IDAT") + 4
    end = whole.index(b"IEND") - 8
    for at in range(start, end, 7):
        data = bytearray(whole)
        data[at] ^= 0x10
        path.write_bytes(bytes(data))
        assert error_of(path).startswith("corrupt or cut off (checksum): fetch it again")
    # Pillow alone takes some of them: the check is needed.
    path.write_bytes(whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :])
    Image.open(path).load()
    assert error_of(path).startswith("corrupt or cut off (checksum)")


def test_empty_foreign_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    assert error_of(path).startswith("no such image: ")
    assert error_of(path / "inside.png").startswith("no such image: ")
    path.write_bytes(b"")
    assert error_of(path).startswith("empty file: ")
    assert error_of(path / "inside.png").startswith("no such image: ")
    path.write_bytes(b"<html>please log in</html>" * 50)
    assert error_of(path).startswith("not a PNG, JPEG, GIF, TIFF or DICOM image: ")
    path.write_bytes(b"\x89PNG")
    assert error_of(path).startswith("not a PNG, JPEG, GIF, TIFF or DICOM image: ")
    assert error_of(tmp_path).startswith("cannot be read (a folder)")
    assert error_of(Path("/dev/null")).startswith("cannot be read (not a regular file)")
    for bad in (tmp_path, path, tmp_path / "none.jpg"):
        with pytest.raises(InputError):
            probe(bad)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(encoded("PNG"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert error_of(path) == "cannot be read (Permission denied)"


def bomb_png() -> bytes:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"\0\0\0\0IDAT"


def bomb_tiff() -> bytes:
    data = bytearray(encoded("TIFF"))
    for tag in (256, 257):  # width and height in the directory
        at = data.index(struct.pack("<HHI", tag, 4, 1))
        data[at + 8 : at + 12] = struct.pack("<I", 60000)
    return bytes(data)


def bomb_jpeg() -> bytes:
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 60000, 60000) + data[at + 4 :]


def bomb_gif() -> bytes:
    data = encoded("GIF")
    return data[:6] + struct.pack("<HH", 60000, 60000) + data[10:]


@pytest.mark.parametrize("make", [bomb_png, bomb_tiff, bomb_jpeg, bomb_gif])
def test_decompression_bomb(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / f"bomb.{make.__name__.removeprefix('bomb_')}"
    path.write_bytes(make())
    wanted = "60000x60000 pixels, more than 89478485: not a radiograph; leave it out"
    assert error_of(path) == wanted
    with pytest.raises(InputError, match=wanted):
        probe(path)


def test_limits_of_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(ramp(10, 11)).save(tmp_path / "big.png")
    Image.fromarray(ramp(10, 10)).save(tmp_path / "fits.png")
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    assert error_of(tmp_path / "big.png").startswith("11x10 pixels, more than 100: ")
    assert load_image(tmp_path / "fits.png").shape == (10, 10)
    size = (tmp_path / "fits.png").stat().st_size
    monkeypatch.setattr(decode, "MAX_BYTES", size - 1)
    wanted = f"{size} bytes, more than {size - 1}: "
    assert error_of(tmp_path / "fits.png").startswith(wanted)


def test_probe_reads_no_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200), np.uint8)
    for ending, form in FORMAT_OF.items():
        path = tmp_path / f"film.{ending}"
        data = encoded(form, noise)
        if form != "TIFF":  # its directory may lie at the end
            data = data[: len(data) // 2]
        path.write_bytes(data)
        assert probe(path) == (300, 200)


def test_warnings_are_silenced_and_restored(tmp_path: Path) -> None:
    data = bytearray(encoded("TIFF", tiffinfo={270: "a film of somebody"}))
    at = data.index(struct.pack("<HH", 270, 2)) + 4
    data[at : at + 4] = struct.pack("<I", 10**6)
    path = tmp_path / "film.tif"
    path.write_bytes(bytes(data))
    with (
        pytest.warns(UserWarning, match="Tag data larger than file"),
        Image.open(path) as image,
    ):
        image.load()
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=load_image, args=(path,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(load_image(path), ramp())
    assert [str(w.message) for w in caught] == []
    assert list(warnings.filters) == before
