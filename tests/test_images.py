"""Films from disk and their way onto the square grid."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit import images
from dollkit.errors import InputError
from dollkit.images import (
    fit,
    fit_box,
    fit_mask,
    load_image,
    load_mask,
    unfit,
    unfit_mask,
)


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.add.outer(4 * np.arange(height), 3 * np.arange(width)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_8_bit_modes_give_the_same_grey(tmp_path: Path, mode: str) -> None:
    grey = ramp()
    Image.fromarray(grey).convert(mode).save(tmp_path / "film.png")
    np.testing.assert_array_equal(load_image(tmp_path / "film.png"), grey)


def test_alpha_is_ignored(tmp_path: Path) -> None:
    grey = ramp()
    image = Image.fromarray(grey).convert("RGBA")
    image.putalpha(Image.fromarray(255 - grey))
    image.save(tmp_path / "film.png")
    np.testing.assert_array_equal(load_image(tmp_path / "film.png"), grey)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90] + [0] * 759)
    image.save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").tolist() == [[200, 10], [90, 10]]


def test_colour_is_luma(tmp_path: Path) -> None:
    rgb = np.zeros((1, 3, 3), np.uint8)
    rgb[0, range(3), range(3)] = 255
    Image.fromarray(rgb).save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").tolist() == [[76, 150, 29]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_use_the_range_that_was_stored(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    Image.fromarray(np.array([[0, top], [top // 2, top]], np.uint16)).save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").tolist() == [[0, 255], [127, 255]]


def test_16_bit_scale_does_not_follow_the_content(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3000]], np.uint16)).save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").tolist() == [[0, round(3000 / 4095 * 255)]]


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "film.tiff")
    with pytest.raises(InputError, match=r"film.tiff: not a PNG, JPEG or GIF"):
        load_image(tmp_path / "film.tiff")
    with pytest.raises(InputError, match="floating-point image"):
        images._to_8_bit(np.ones((4, 4), np.float32), tmp_path / "film")
    with pytest.raises(InputError, match=r"grey values 0\.\.70000"):
        images._to_8_bit(np.array([[0, 70000]], np.int32), tmp_path / "film")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(ramp(128, 128)).save(path)
    data = path.read_bytes()
    for keep in (0.9, 0.5, 0.1):
        path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(InputError, match=rf"film.{suffix}: (corrupt or cut off|not a PNG)"):
            load_image(path)


def test_corrupt_image(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    Image.fromarray(ramp(128, 128)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"film.png: corrupt or cut off .*fetch it again"):
        load_image(path)


def test_empty_foreign_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    with pytest.raises(InputError, match=r"film.png: no such image"):
        load_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"film.png: empty file"):
        load_image(path)
    path.write_bytes(b"<html>please log in</html>" * 50)
    with pytest.raises(InputError, match=r"film.png: not a PNG, JPEG or GIF image"):
        load_image(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_image(tmp_path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = b"\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InputError, match=r"bomb.png: .*not a radiograph"):
        load_image(tmp_path / "bomb.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    Image.fromarray(ramp(10, 11)).save(tmp_path / "big.png")
    with pytest.raises(InputError, match=r"big.png: 11x10 pixels, more than 100"):
        load_image(tmp_path / "big.png")
    Image.fromarray(ramp(10, 10)).save(tmp_path / "fits.png")
    assert load_image(tmp_path / "fits.png").shape == (10, 10)


def test_masks(tmp_path: Path) -> None:
    mask = (ramp() > 60).astype(np.uint8)
    Image.fromarray(mask * 255).save(tmp_path / "m255.png")
    Image.fromarray(mask).save(tmp_path / "m1.png")
    Image.fromarray(mask * 127).save(tmp_path / "m127.png")
    Image.fromarray(mask * 255).save(tmp_path / "m.gif")
    for name in ("m255.png", "m1.png", "m.gif"):
        np.testing.assert_array_equal(load_mask(tmp_path / name, 24, 32), mask)
    assert load_mask(tmp_path / "m127.png", 24, 32).sum() == 0


def test_mask_of_another_size(tmp_path: Path) -> None:
    Image.fromarray(ramp(24, 32)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask.png: mask is 32x24, its image is 24x32"):
        load_mask(tmp_path / "mask.png", 32, 24)


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (64, 64), (2, 300), (7, 9)])
def test_fit_keeps_aspect_and_centres(height: int, width: int) -> None:
    out = fit(np.full((height, width), 255, np.uint8), 64)
    rows, cols = np.flatnonzero(out.any(axis=1)), np.flatnonzero(out.any(axis=0))
    assert max(len(rows), len(cols)) == 64
    assert len(rows) == max(1, round(64 * height / max(height, width)))
    assert len(cols) == max(1, round(64 * width / max(height, width)))
    for at in (rows, cols):
        assert abs(at[0] - (63 - at[-1])) <= 1
    assert set(np.unique(out)) <= {0, 255}


def test_fit_at_the_same_size_changes_nothing() -> None:
    image = ramp(64, 64)
    np.testing.assert_array_equal(fit(image, 64), image)
    np.testing.assert_array_equal(unfit(image, 64, 64), image.astype(np.float32))


def test_downscaling_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (128, 64))
    inner = fit(stripes, 32)[:, 2:-2]
    np.testing.assert_allclose(inner, 127.5, atol=3)


def test_mask_pixels_need_half_their_area() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[0:4, 0:4] = np.arange(16).reshape(4, 4) < 8
    mask[0:4, 4:8] = np.arange(16).reshape(4, 4) < 7
    assert fit_mask(mask, 16)[0, :3].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 256)])
def test_unfit_is_the_inverse_of_fit(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    mask = (((y - 150) / 80) ** 2 + ((x - 120) / 70) ** 2 < 1).astype(np.uint8)
    back = unfit_mask(fit_mask(mask, 128), height, width)
    assert back.shape == mask.shape
    assert (back & mask).sum() / (back | mask).sum() > 0.97
    flat = unfit(fit(np.full((height, width), 90, np.uint8), 128), height, width)
    np.testing.assert_array_equal(flat, np.float32(90))


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


def test_box_agrees_with_its_mask() -> None:
    mask = np.zeros((256, 200), np.uint8)
    mask[31:97, 50:133] = 1
    np.testing.assert_array_equal(fit_box((50, 31, 83, 66), 256, 200, 64), fit_mask(mask, 64))
