"""Masks from files: what each value means, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.masks import Crop, MaskFile, Runs, Union, check_grid


def save(path: Path, values: object, mode: str | None = None) -> Path:
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


def test_documented_values_become_inside_outside_and_ignore(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 127], [255, 0]])
    mask = MaskFile(path, ignore=(127,))
    assert mask.ignores
    assert mask.load(2, 2).tolist() == [[0, 255], [1, 0]]


def test_a_value_nobody_documents_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 254], [255, 0]])
    with pytest.raises(InputError, match=r"m\.png: mask value 254: use only 0, 255"):
        MaskFile(path).load(2, 2)
    assert MaskFile(path, threshold=True).load(2, 2).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("outside", "inside"), [(10, 255), (100, 128), (0, 1)])
def test_what_is_outside_need_not_be_zero(tmp_path: Path, outside: int, inside: int) -> None:
    grey = np.full((8, 6), outside, np.uint8)
    grey[2:4, 1:3] = inside
    Image.fromarray(grey).save(tmp_path / "m.png")
    found = MaskFile(tmp_path / "m.png", threshold=True).load(8, 6)
    np.testing.assert_array_equal(found, grey == inside)


@pytest.mark.parametrize(
    ("outside", "inside", "message"),
    [
        ((1,), (2,), "several labels in one file"),
        ((128,), (255,), "without a pixel outside"),
        ((255, 0), (255, 255), "with transparency"),
        ((255, 255, 255, 0), (0, 0, 0, 255), "with transparency"),
        ((255, 255, 255), (255, 0, 0), "drawn in colour"),
    ],
)
def test_masks_that_may_mean_anything_are_refused(
    tmp_path: Path, outside: tuple[int, ...], inside: tuple[int, ...], message: str
) -> None:
    pixels = np.full((8, 6, len(outside)), outside, np.uint8)
    pixels[2:4, 1:3] = inside
    Image.fromarray(pixels.squeeze()).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=rf"m\.png: .*{message}"):
        MaskFile(tmp_path / "m.png", threshold=True).load(8, 6)


@pytest.mark.parametrize("values", [(0, 100, 200), (0, 1, 2), (0, 1, 255)])
def test_several_labels_in_one_file_are_refused(tmp_path: Path, values: tuple[int, ...]) -> None:
    path = save(tmp_path / "m.png", np.tile(values, (2, 1)))
    with pytest.raises(InputError, match=r"m\.png: mask of values 0, .*: several labels in one"):
        MaskFile(path, threshold=True).load(2, 3)


def test_a_smoothed_edge_is_cut_in_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[0, 60, 120, 130, 190, 255]])
    assert MaskFile(path, threshold=True).load(1, 6).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_a_mask_lies_on_its_films_grid_or_on_one_of_the_same_aspect(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((10, 20)))
    with pytest.raises(InputError, match="mask is 20x10, its image is 40x20"):
        MaskFile(path).load(20, 40)
    assert MaskFile(path, own_grid=True).load(20, 40).shape == (10, 20)
    with pytest.raises(InputError, match="mask is 20x10, its image is 30x20"):
        MaskFile(path, own_grid=True).load(20, 30)
    # 2320 x 2828 shrunk to a height of 320 is 390.07 wide.
    check_grid("m", (2320, 2828), (320, 390), own_grid=True)


def test_union_is_inside_where_any_part_is(tmp_path: Path) -> None:
    left = MaskFile(save(tmp_path / "l.png", [[255, 0, 0]]))
    right = MaskFile(save(tmp_path / "r.png", [[255, 255, 0]]))
    joined = Union((left, right))
    assert joined.load(1, 3).tolist() == [[1, 1, 0]]
    assert joined.files == (tmp_path / "l.png", tmp_path / "r.png")


def test_a_crop_is_put_where_its_row_says(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 1] = (40, 0, 0, 255)
    rgba[1, 2] = (0, 200, 9, 255)
    Image.fromarray(rgba).save(tmp_path / "c.png")
    crop = Crop(tmp_path / "c.png", top=3, left=1, height=2, width=3, film=(6, 5))
    placed = crop.load(6, 5)
    assert np.argwhere(placed).tolist() == [[3, 2], [4, 3]]


def test_a_crop_that_does_not_fit_is_told(tmp_path: Path) -> None:
    save(tmp_path / "c.png", np.ones((2, 3)))
    with pytest.raises(InputError, match="its row says 3x3"):
        Crop(tmp_path / "c.png", 0, 0, 3, 3, (6, 5)).load(6, 5)
    with pytest.raises(InputError, match="for a film of 5x6, the image is 10x12: use the image"):
        Crop(tmp_path / "c.png", 0, 0, 2, 3, (6, 5)).load(12, 10)


@pytest.mark.parametrize("size", [(0, 4), (4,), (10**6, 10**6), ("4", 4), (4.0, 4)])
def test_a_size_that_no_film_has_is_told_before_anything_is_drawn(size: tuple[object, ...]) -> None:
    with pytest.raises(InputError, match=r"a\.json, k: size"):
        Runs(Path("a.json"), "k", size, "04").load(4, 4)
