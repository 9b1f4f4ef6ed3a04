"""Image files into grey, exactly; and the way of films, masks and boxes onto the square grid."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from dollkit.common.errors import InputError
from dollkit.data import images
from dollkit.data.images import (
    RAW_SIDE,
    fit,
    fit_box,
    fit_mask,
    frame,
    load_image,
    probe,
    range_note,
    same_aspect,
    unfit,
)
from tests import small_files
from tests.test_dicom import film, lut, save


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.add.outer(4 * np.arange(height), 3 * np.arange(width)).astype(np.uint8)


def encoded(form: str, image: np.ndarray | None = None, **options: object) -> bytes:
    """A grey picture in one of the four formats."""
    buffer = io.BytesIO()
    Image.fromarray(ramp() if image is None else image).save(buffer, form, **options)
    return buffer.getvalue()


def error_of(path: Path, header: bool = False, **options: object) -> str:
    """The one line that refuses a file; where its header tells, `probe` gives the same."""
    message = small_files.error_of(load_image, path, **options)
    if header:
        assert small_files.error_of(probe, path, **options) == message
    assert message.startswith(f"{path}: ")
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


@pytest.mark.parametrize(
    ("form", "how"),
    [("PNG", {}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_lossless_formats_give_back_the_pixels(
    tmp_path: Path, form: str, how: dict[str, object]
) -> None:
    path = tmp_path / f"film.{form.lower()}"
    path.write_bytes(encoded(form, **how))
    np.testing.assert_array_equal(load_image(path), ramp())
    assert load_image(path).dtype == np.uint8
    assert probe(path) == (24, 32)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_colour_is_luma_and_alpha_is_ignored(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"film.{form.lower()}"
    image = Image.fromarray(ramp())
    for mode in ("LA", "RGB", "RGBA"):
        changed = image.convert(mode)
        if "A" in mode:
            changed.putalpha(Image.fromarray(255 - ramp()))
        changed.save(path)
        np.testing.assert_array_equal(load_image(path), ramp())
    Image.fromarray(255 * np.eye(3, dtype=np.uint8)[None]).save(path)
    assert load_image(path).tolist() == [[76, 150, 29]]


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90] + [0] * 759)
    path = tmp_path / "film.png"
    image.save(path, transparency=0)  # what is transparent is still film
    assert load_image(path).tolist() == [[200, 10], [90, 10]]


@pytest.mark.parametrize(("form", "bits"), [("PNG", 12), ("TIFF", 16), ("PNG", 8)])
def test_16_bit_files_use_the_range_that_was_stored(tmp_path: Path, form: str, bits: int) -> None:
    top = 2**bits - 1
    path = tmp_path / f"film.{form.lower()}"
    Image.fromarray(np.array([[0, top], [top // 2, top]], np.uint16)).save(path)
    assert load_image(path).tolist() == [[0, 255], [127, 255]]
    assert error_of(path, header=True, depths=(8,)).startswith("16-bit where 8 are expected: ")


def test_white_at_zero(tmp_path: Path) -> None:
    white = {TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0}
    path = tmp_path / "film.tif"
    path.write_bytes(encoded("TIFF", tiffinfo=white))
    with Image.open(path) as image:
        first = path.read_bytes()[image.tag_v2[TiffImagePlugin.STRIPOFFSETS][0]]
    assert load_image(path)[0, 0] == 255 - first
    path.write_bytes(encoded("TIFF", ramp().astype(np.uint16), tiffinfo=white))
    assert error_of(path).startswith("TIFF of more than 8 bits with white at zero")


def test_raw_film(tmp_path: Path) -> None:
    values = np.zeros((RAW_SIDE, RAW_SIDE), ">u2")
    values[0, :5] = 0, 4095, 1000, 2048, 819
    path = tmp_path / "JPCLN001.IMG"
    values.tofile(path)
    film = load_image(path)
    assert film.shape == probe(path) == (2048, 2048)
    assert film[0, :5].tolist() == [255, 0, 193, 127, 204]
    assert error_of(path, depths=(8,)).startswith("16-bit where 8 are expected: ")
    values[1:].tofile(path)
    assert error_of(path).startswith("8384512 bytes where a raw JSRT film has 8388608: ")
    values.astype("<u2").tofile(path)
    assert error_of(path).startswith("raw value 65295 where a JSRT film has 0..4095: ")


def test_ending_and_content_must_agree(tmp_path: Path) -> None:
    for named in (".png", ".PNG", ".original", ""):
        (tmp_path / f"film{named}").write_bytes(encoded("PNG"))
        np.testing.assert_array_equal(load_image(tmp_path / f"film{named}"), ramp())
    for named, other in ((".jpg", "JPEG"), (".DCM", "DICOM"), (".tiff", "TIFF")):
        path = tmp_path / f"film{named}"
        path.write_bytes(encoded("PNG"))
        wanted = f"PNG content under the ending {named} ({other}): "
        assert error_of(path, header=True).startswith(wanted)
        np.testing.assert_array_equal(load_image(path, any_ending=True), ramp())


def test_several_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(ramp() + np.uint8(n)) for n in range(3)]
    for form in ("GIF", "TIFF", "PNG"):
        path = tmp_path / f"film.{form.lower()}"
        pages[0].save(path, form, save_all=True, append_images=pages[1:])
        assert error_of(path).startswith(f"{form} of 3 pages: ")
    path = tmp_path / "photo.jpg"
    pages[0].save(path, "MPO", save_all=True, append_images=pages[1:])
    assert np.abs(load_image(path).astype(int) - ramp()).max() <= 6


def test_a_picture_that_asks_to_be_turned_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        for form in ("JPEG", "TIFF", "PNG"):
            path = tmp_path / f"film.{form.lower()}"
            path.write_bytes(encoded(form, exif=exif.tobytes()))
            if orientation == 1:
                assert load_image(path).shape == (24, 32)
            else:
                assert error_of(path) == f"{form} that asks to be turned: save it upright"


@pytest.mark.parametrize(
    ("mode", "wanted"), [("CMYK", "CMYK colour"), ("F", "32-bit image of mode F")]
)
def test_kinds_that_are_no_film(tmp_path: Path, mode: str, wanted: str) -> None:
    path = tmp_path / "film.tiff"
    Image.fromarray(ramp()).convert(mode).save(path)
    assert error_of(path, header=True) == f"{wanted}: convert it to 8 or 16-bit grey"


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2)])
def test_16_bit_colour_is_refused(tmp_path: Path, colour: int, samples: int) -> None:
    path = tmp_path / "film.png"
    rows = np.full((2, 2, samples), 4095, ">u2").tobytes()
    path.write_bytes(png(16, colour, rows, 2, 2))
    assert error_of(path).startswith("16-bit image of mode ")
    path.write_bytes(png(8, colour, bytes([200] * 4 * samples), 2, 2))
    assert load_image(path).tolist() == [[200, 200], [200, 200]]


@pytest.mark.parametrize(("kind", "words"), [(np.int8, "TIFF whose values"), (np.int16, "mode I")])
def test_values_with_a_sign_are_refused(tmp_path: Path, kind: type, words: str) -> None:
    path, width = tmp_path / "f.tif", np.dtype(kind).itemsize
    entries = {256: 3, 257: 2, 258: 8 * width, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2,
               279: 6 * width, 339: 2}  # fmt: skip
    data = np.array([[-5, 0, 5], [1, 2, 3]], kind).astype(f"<i{width}").tobytes()
    data += b"\0" * (-len(data) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + table + b"\0" * 4)
    assert words in error_of(path)


def test_greys_that_look_wrong_are_told_with_the_likely_element(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert range_note(tmp_path / "f.png", ramp) == ""
    for grey, words in (
        (ramp // 16, "greys 0 to 15 of 0 to 255 alone"),
        (0 * ramp, "one grey (0)"),
    ):
        path = tmp_path / "f.png"
        Image.fromarray(grey).save(path)
        assert (
            range_note(path, load_image(path))
            == f"{path}: the film has {words}: look at its pixels"
        )
    # A window far from every value of the film; a table that uses 4 of 12 bits.
    path = save(film(ramp, 8, WindowCenter=9000, WindowWidth=10), tmp_path / "f.dcm")
    note = range_note(path, load_image(path))
    assert note.endswith("one grey (0): look at WindowCenter and WindowWidth")
    path = save(film(ramp, 8, VOILUTSequence=[lut(0, 12, [4095, *[16] * 255])]), tmp_path / "f.dcm")
    assert range_note(path, load_image(path)) == ""
    path = save(film(ramp[:, 1:], 8, VOILUTSequence=[lut(0, 12, [7, 4095])]), tmp_path / "f.dcm")
    assert range_note(path, load_image(path)).endswith("look at VOILUTSequence")


def test_flipped_bytes_in_a_png(tmp_path: Path) -> None:
    path, whole = tmp_path / "film.png", encoded("PNG", ramp(128, 128))
    for at in (whole.index(b"IDAT") + 40, whole.index(b"IEND") - 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert error_of(path).startswith("corrupt or cut off (SyntaxError)")
    Image.open(path).load()  # Pillow alone takes the last one


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
    assert error_of(tmp_path).startswith("cannot be read (not a file)")
    assert error_of(Path("/dev/null")).startswith("cannot be read (not a file)")
    for bad in (tmp_path, path, tmp_path / "none.jpg"):
        with pytest.raises(InputError):
            probe(bad)


def test_decompression_bomb(tmp_path: Path) -> None:
    head, path = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0), tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b""))
    assert "DecompressionBombError" in error_of(path, header=True)


def test_limits_of_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(ramp(10, 11)).save(tmp_path / "big.png")
    Image.fromarray(ramp(10, 10)).save(tmp_path / "fits.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert error_of(tmp_path / "big.png").startswith("11x10 pixels, more than 100: ")
    assert load_image(tmp_path / "fits.png").shape == (10, 10)
    size = (tmp_path / "fits.png").stat().st_size
    monkeypatch.setattr(images, "MAX_BYTES", size - 1)
    wanted = f"{size} bytes, more than {size - 1}: "
    assert error_of(tmp_path / "fits.png").startswith(wanted)


@pytest.mark.parametrize(("height", "width"), [(40, 80), (64, 64), (2, 300)])
def test_fit_keeps_aspect_and_centres(height: int, width: int) -> None:
    out = fit(np.full((height, width), 255, np.uint8), 64)
    rows, cols = np.flatnonzero(out.any(axis=1)), np.flatnonzero(out.any(axis=0))
    assert max(len(rows), len(cols)) == 64
    assert len(rows) == max(1, round(64 * height / max(height, width)))
    assert len(cols) == max(1, round(64 * width / max(height, width)))
    for at in (rows, cols):
        assert abs(at[0] - (63 - at[-1])) <= 1
    assert set(np.unique(out)) <= {0, 255}


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 256)])
def test_unfit_is_the_inverse_of_fit(height: int, width: int) -> None:
    flat = unfit(fit(np.full((height, width), 90, np.uint8), 128), height, width)
    np.testing.assert_array_equal(flat, np.full((height, width), 90, np.float32))


def test_boxes_on_the_grid() -> None:
    box = fit_box((10, 20, 30, 8), 128, 128, 128)
    assert np.flatnonzero(box.any(axis=0)).tolist() == list(range(10, 40))
    assert np.flatnonzero(box.any(axis=1)).tolist() == list(range(20, 28))
    # Half size, on a film half as high as wide: 16 rows of padding above.
    box = fit_box((10, 20, 30, 8), 64, 128, 64)
    assert np.flatnonzero(box.any(axis=0)).tolist() == list(range(5, 20))
    assert np.flatnonzero(box.any(axis=1)).tolist() == list(range(26, 30))
    assert fit_box((100, 100, 0.5, 0.5), 256, 256, 64).sum() == 1
    assert fit_box((250, 250, 50, 50), 256, 256, 64).sum() == 4
    assert fit_box((-5, -5, 9, 9), 64, 64, 64).sum() == 16


@pytest.mark.parametrize("factor", [1, 2, 7])
def test_ignored_pixels_by_area(factor: int) -> None:
    rng = np.random.default_rng(factor)
    side = 16 * factor
    for shares in ((0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.5, 0.25, 0.25), (0.25, 0.5, 0.25)):
        mask = rng.choice(np.array([0, 1, 255], np.uint8), (side, side // 2), p=shares)
        blocks = mask.reshape(16, factor, 8, factor).swapaxes(1, 2).reshape(16, 8, -1)
        inside = 2 * (blocks == 1).sum(-1) >= factor**2
        outside = 2 * (blocks == 0).sum(-1) >= factor**2
        wanted = np.zeros((16, 16), np.uint8)
        wanted[:, 4:12] = np.where(inside, 1, np.where(outside, 0, 255))
        np.testing.assert_array_equal(fit_mask(mask, 16), wanted)


def test_mask_of_another_size_than_its_film() -> None:
    film = np.zeros((256, 128), np.uint8)
    film[40:200, 20:100] = 1
    film[40:200, 104:120] = 255
    np.testing.assert_array_equal(fit_mask(film[::2, ::2], 64, 256, 128), fit_mask(film, 64))
    # The frame is the film's: 52 columns, where the mask's own would have 51.
    lung = np.ones((100, 80), np.uint8)
    assert fit_mask(lung, 64).any(axis=0).sum() == 51
    assert fit_mask(lung, 64, 1000, 805).any(axis=0).sum() == 52
    # 1000 x 1009 and 1000 x 1000 are one aspect within 1 %: the whole film is covered.
    assert fit_mask(np.ones((1000, 1009), np.uint8), 64, 1000, 1000).all()
    assert fit_mask(np.ones((20, 20), np.uint8), 64, 2000, 2000).all()


def test_mask_that_cannot_lie_on_its_film() -> None:
    mask = np.ones((1000, 1000), np.uint8)
    for shape in ((1000, 1011), (1011, 1000), (500, 600)):
        assert not same_aspect(1000, 1000, *shape)
        with pytest.raises(ValueError, match=r"mask of \(1000, 1000\) cannot lie on a film"):
            fit_mask(mask, 64, *shape)
    for shape in ((1000, 1009), (1009, 1000), (2000, 2000), (333, 333)):
        assert same_aspect(1000, 1000, *shape)
    # One pixel of rounding is no other aspect.
    assert same_aspect(32, 26, 2500, 2048)
    with pytest.raises(ValueError, match="mask values are 0, 1 and 255"):
        fit_mask(np.full((8, 8), 2, np.uint8), 8)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(48, 30), (17, 48)])
def test_stored_masks_survive_whole_factors(factor: int, height: int, width: int) -> None:
    # Random masks hold every neighbourhood that the way back looks at.
    rng = np.random.default_rng(factor)
    for share in (0.1, 0.5, 0.9):
        stored = np.zeros((48, 48), np.uint8)
        f = frame(height * factor, width * factor, 48)
        assert (f.rows, f.cols) == (height, width)
        inner = (rng.random((height, width)) < share).astype(np.uint8)
        stored[f.top : f.top + height, f.left : f.left + width] = inner
        film = (unfit(stored, height * factor, width * factor) >= 0.5).astype(np.uint8)
        np.testing.assert_array_equal(fit_mask(film, 48), stored)
