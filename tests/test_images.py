"""Masks from disk, and the way of films, masks and boxes onto the square grid and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dollkit.common.errors import InputError
from dollkit.data import decode, images
from dollkit.data.images import (
    fit,
    fit_box,
    fit_mask,
    frame,
    load_mask,
    same_aspect,
    unfit,
    unfit_mask,
)

FILMS = [(2500, 2048), (4020, 4892), (256, 256)]


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.add.outer(4 * np.arange(height), 3 * np.arange(width)).astype(np.uint8)


def test_readers_of_files_are_here_too() -> None:
    assert images.load_image is decode.load_image
    assert images.probe is decode.probe
    assert images.MAX_PIXELS == decode.MAX_PIXELS == 89_478_485
    assert {"PNG", "JPEG", "GIF", "TIFF", "DICOM"} < set(images.FORMATS)


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


def today(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask of 0 and 1 on the grid, as stores have always held it."""
    f = frame(mask.shape[0], mask.shape[1], size)
    image = Image.fromarray(mask.astype(np.float32))
    area = np.asarray(image.resize((f.cols, f.rows), Image.Resampling.BOX))
    grid = np.zeros((size, size), np.uint8)
    grid[f.top : f.top + f.rows, f.left : f.left + f.cols] = area >= 0.5
    return grid


@pytest.mark.parametrize("shape", [(300, 401), (64, 64), (50, 20), (3, 500), (1, 1), (97, 61)])
def test_masks_without_ignored_pixels_are_as_ever(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        mask = (rng.random(shape) < share).astype(np.uint8)
        np.testing.assert_array_equal(fit_mask(mask, 64), today(mask, 64))
        np.testing.assert_array_equal(fit_mask(mask, 64, *shape), today(mask, 64))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 7])
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


def test_half_and_half() -> None:
    def of(*quarters: int) -> int:
        block = np.array(quarters, np.uint8).reshape(2, 2)
        return int(fit_mask(np.tile(block, (8, 8)), 8)[0, 0])

    assert of(1, 1, 0, 0) == 1
    assert of(1, 1, 255, 255) == 1
    assert of(0, 0, 255, 255) == 0
    assert of(0, 0, 1, 255) == 0
    assert of(1, 0, 255, 255) == 255
    assert of(255, 255, 255, 1) == 255
    assert of(255, 255, 255, 255) == 255


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


def discs_and_rectangles(height: int, width: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    shapes = []
    y, x = np.ogrid[:height, :width]
    for n in range(count):
        mask = np.zeros((height, width), np.uint8)
        if n % 2:
            top, bottom = sorted(rng.integers(0, height + 1, 2))
            left, right = sorted(rng.integers(0, width + 1, 2))
            mask[top:bottom, left:right] = 1
        else:
            middle, radius = rng.random(2) * (height, width), rng.random() * min(height, width) / 2
            mask[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2] = 1
        shapes.append(mask)
    return shapes


def assert_boundary_within(mask: np.ndarray, back: np.ndarray, distance: float) -> None:
    """No pixel changed farther than `distance` from the boundary of `mask`."""
    window = 2 * int(np.ceil(distance)) + 1
    assert (ndimage.minimum_filter(mask, window, mode="nearest") <= back).all()
    assert (back <= ndimage.maximum_filter(mask, window, mode="nearest")).all()


@pytest.mark.parametrize(("height", "width"), FILMS)
def test_masks_return_to_within_one_stored_pixel(height: int, width: int) -> None:
    for mask in discs_and_rectangles(height, width, 2 if height > 4000 else 4):
        back = unfit_mask(fit_mask(mask, 224), height, width)
        assert back.shape == mask.shape
        assert_boundary_within(mask, back, max(height, width) / 224)


@pytest.mark.parametrize(("height", "width"), FILMS)
def test_boxes_return_to_within_one_stored_pixel(height: int, width: int) -> None:
    rng = np.random.default_rng(width)
    scale = max(height, width) / 224
    for _ in range(50):
        x, y = rng.random(2) * (0.9 * width, 0.9 * height)
        w, h = 1 + rng.random(2) * (width - x - 1, height - y - 1)
        stored = fit_box((x, y, w, h), height, width, 224)
        f = frame(height, width, 224)
        rows = np.flatnonzero(stored.any(axis=1)) - f.top
        columns = np.flatnonzero(stored.any(axis=0)) - f.left
        assert stored.sum() == len(rows) * len(columns)
        # Edges of the stored box in pixels of the film.
        up, down = rows[0] * height / f.rows, (rows[-1] + 1) * height / f.rows
        left, right = columns[0] * width / f.cols, (columns[-1] + 1) * width / f.cols
        for edge, wanted in ((up, y), (down, y + h), (left, x), (right, x + w)):
            assert abs(edge - wanted) <= 1.01 * scale


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 30), (17, 48)])
def test_stored_masks_survive_whole_factors(factor: int, height: int, width: int) -> None:
    # Random masks hold every neighbourhood that the way back looks at.
    rng = np.random.default_rng(factor)
    for share in (0.1, 0.5, 0.9):
        stored = np.zeros((48, 48), np.uint8)
        f = frame(height * factor, width * factor, 48)
        assert (f.rows, f.cols) == (height, width)
        inner = (rng.random((height, width)) < share).astype(np.uint8)
        stored[f.top : f.top + height, f.left : f.left + width] = inner
        film = unfit_mask(stored, height * factor, width * factor)
        np.testing.assert_array_equal(fit_mask(film, 48), stored)


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 8])
def test_boxes_of_whole_stored_pixels_survive(factor: int) -> None:
    side = 48 * factor
    box = (5 * factor, 10 * factor, 9 * factor, 20 * factor)
    stored = fit_box(box, side, side, 48)
    assert stored[10:30, 5:14].all()
    assert stored.sum() == 20 * 9
    film = np.zeros((side, side), np.uint8)
    film[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    np.testing.assert_array_equal(fit_mask(film, 48), stored)
    changed = unfit_mask(stored, side, side) != film
    # The way back is smooth: from a factor of 3 on it rounds the four corners.
    assert changed.any() == (factor > 2)
    corners = np.zeros_like(changed)
    for y in (box[1], box[1] + box[3] - factor):
        for x in (box[0], box[0] + box[2] - factor):
            corners[y : y + factor, x : x + factor] = True
    assert not (changed & ~corners).any()
