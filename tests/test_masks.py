"""Masks from files: what each value means, and what is refused."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, PngImagePlugin
from scipy.ndimage import gaussian_filter

from dollkit.common.errors import InputError
from dollkit.data.drawn_masks import OURS, drawn_masks
from dollkit.data.masks import Crop, MaskFile, Runs, check_grid
from tests.small_files import error_of


def save(path: Path, values: object, mode: str | None = None) -> Path:
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


# Masks that somebody drew

BLOB = np.zeros((24, 20), bool)
BLOB[5:15, 4:12] = True
RIM = np.zeros_like(BLOB)
RIM[4:16, 3:13] = ~BLOB[4:16, 3:13]
WORD = "(several labels|several colours|one way|one value for all|pixel outside|throughout)"


def picture(outside: object, inside: object, rim: object = None) -> np.ndarray:
    """A blob on a page, of grey values or of colours."""
    pixels = np.empty((*BLOB.shape, np.size(outside)), np.uint8)
    pixels[:], pixels[BLOB] = outside, inside
    if rim is not None:
        pixels[RIM] = rim
    return pixels.squeeze()


def smoothed(sigma: float) -> np.ndarray:
    return np.rint(gaussian_filter(255.0 * BLOB, sigma)).astype(np.uint8)


def indexed(inside: int, rim: int, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(picture(0, inside, rim), "P")
    palette = np.zeros((256, 3), np.uint8)
    for index, colour in colours.items():
        palette[index] = colour
    image.putpalette(palette.ravel().tolist())
    return image


GLASS, INK, RED, WHITE = (255, 255, 255, 0), (0, 0, 0, 255), (255, 0, 0), (255, 255, 255)
VOC = indexed(1, 255, {1: (128, 0, 0), 255: (224, 224, 192)})
DRAWN = {
    "0 and 255": picture(0, 255),
    "0 and 1": picture(0, 1),
    "one bit": Image.fromarray(BLOB),
    "0 and any one value": picture(0, 77),
    "grey as colour": picture((0, 0, 0), WHITE),
    "not quite black, not quite white": picture(10, 251),
    "smoothed": smoothed(0.8),
    "smoothed widely": np.asarray(Image.fromarray(picture(0, 255)).resize((24, 20))
                                  .resize((20, 24), Image.Resampling.BICUBIC)),
    "opaque": picture(INK, (255, 255, 255, 255)),
    "dark on glass": picture(GLASS, INK),
    "white on glass": picture((0, 0, 0, 0), (255, 255, 255, 255)),
    "red on white": picture(WHITE, RED),
    "red on black": picture((0, 0, 0), RED),
    "green in a palette": indexed(3, 0, {3: (0, 200, 0)}),
    "red on white in a palette": Image.fromarray(picture(WHITE, RED)).quantize(2),
}  # fmt: skip


def written(folder: Path, pictures: Sequence[object]) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(len(pictures))]
    for path, drawn in zip(paths, pictures, strict=True):
        (drawn if isinstance(drawn, Image.Image) else Image.fromarray(drawn)).save(path)
    return paths


@pytest.mark.parametrize("how", list(DRAWN))
def test_a_drawn_mask_is_inside_where_it_is_drawn(tmp_path: Path, how: str) -> None:
    mask, _ = drawn_masks([*written(tmp_path, [DRAWN[how]]), None])
    inside = mask.load(*BLOB.shape)
    assert not mask.ignore
    if how == "smoothed widely":
        assert (inside != BLOB).sum() <= RIM.sum()
    else:
        np.testing.assert_array_equal(inside, BLOB)
    assert "its image is 9x24" in error_of(mask.load, 24, 9)


@pytest.mark.parametrize("drawn", [picture(0, 1, 255), VOC], ids=["grey", "VOC's palette"])
def test_255_beside_1_is_ignored(tmp_path: Path, drawn: object) -> None:
    pictures = [drawn, picture(0, 1), picture(0, 0)]
    if isinstance(drawn, Image.Image):
        pictures[1:] = [Image.fromarray(np.asarray(p), "P") for p in pictures[1:]]
        for other in pictures[1:]:
            other.putpalette(VOC.getpalette())
    whole, plain, empty = (m.load(*BLOB.shape) for m in drawn_masks(written(tmp_path, pictures)))
    np.testing.assert_array_equal(whole, BLOB + 255 * RIM)
    np.testing.assert_array_equal(plain, BLOB)
    assert not empty.any()


def test_a_page_without_a_stroke_is_empty(tmp_path: Path) -> None:
    pages = [picture(WHITE, WHITE), picture(WHITE, (255, 255, 251))]  # the second with noise
    drawn, *empty = drawn_masks(written(tmp_path, [picture(WHITE, RED), *pages]))
    assert drawn.load(24, 20).sum() == BLOB.sum()
    assert not any(mask.load(24, 20).any() for mask in empty)


@pytest.mark.parametrize(
    "pictures",
    [
        [picture(0, 100, 200)],
        [picture(0, 1, 2)],
        [picture(0, 1), picture(0, 2)],
        [picture(0, 127, 255)],  # a contour that v7 ignores, and others draw
        [picture(0, 1, 255) + 2 * np.eye(24, 20, dtype=np.uint8)],
        [picture(0, 50) + 50 * np.repeat(np.arange(5, dtype=np.uint8), 4)],
        [indexed(1, 2, {1: (128, 0, 0), 2: (0, 128, 0)})],
        [picture(0, 1), picture(0, 255)],
        [picture(0, 255), picture(WHITE, RED)],
        [picture(WHITE, RED, (0, 0, 255))],
        [picture(GLASS, INK, (255, 0, 0, 255))],
        [picture(128, 255)],
        [picture(200, 200)],
    ],
)
def test_masks_that_may_mean_anything_are_refused(tmp_path: Path, pictures: list[object]) -> None:
    with pytest.raises(InputError, match=r"\.png: .*" + WORD):
        [mask.load(*BLOB.shape) for mask in drawn_masks(written(tmp_path, pictures))]


def drawn_large(colour: tuple[int, ...], page: tuple[int, ...], **line: object) -> Image.Image:
    """An ellipse on a page, drawn four times as large and made smaller: its edge is smooth."""
    image = Image.new(
        "RGBA" if len(page) == 4 else "RGB" if len(page) == 3 else "L", (512, 512), page
    )
    draw = ImageDraw.Draw(image)
    draw.ellipse((120, 80, 400, 440), fill=colour)
    if line:
        draw.line((10, 500, 500, 10), **line)
    return image.resize((128, 128), Image.Resampling.BOX)


ELLIPSE = np.asarray(drawn_large((255,), (0,))) > 127


@pytest.mark.parametrize(
    ("colour", "page"),
    [((255,), (0,)), (RED, WHITE), ((0, 0, 255), WHITE), ((0, 160, 0), (0, 0, 0)),
     ((255, 0, 0, 90), (0, 0, 0, 0))],
)  # fmt: skip
@pytest.mark.parametrize("noise", [False, True])
def test_smooth_edges_in_any_colour(
    tmp_path: Path, colour: tuple[int, ...], page: tuple[int, ...], noise: bool
) -> None:
    image = drawn_large(colour, page)
    if noise and len(page) == 1:  # saved as JPEG on its way; of colours too much is lost
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        image = Image.open(buffer)
    (mask,) = drawn_masks(written(tmp_path, [image]))
    assert (mask.load(128, 128) != ELLIPSE).sum() <= 60 + 200 * noise  # of a rim of some 400


@pytest.mark.parametrize(
    "pictures",
    [
        [np.asarray(drawn_large((255,), (0,), fill=(128,), width=8))],  # a thin second label
        [drawn_large(RED, (0, 0, 0), fill=(100, 0, 0), width=60)],  # two strengths of one hue
        [drawn_large((255, 0, 0, 255), (0, 0, 0, 0), fill=(255, 0, 0, 100), width=60)],
        [np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)],  # a film
        [np.asarray(drawn_large((255,), (0,))), picture(0, 77)],  # one file in its own way
        [picture(0, 1, 255), picture(0, 255)],
        [np.asarray(drawn_large((160,), (0,)))],
        [picture((0, 0, 0, 255), (255, 255, 255, 0))],  # a hole in an opaque page
    ],
)
def test_drawings_that_lose_something_are_refused(tmp_path: Path, pictures: list[object]) -> None:
    with pytest.raises(InputError, match=r"\.png: (every )?mask|no mask"):
        drawn_masks(written(tmp_path, pictures))[0].load(128, 128)


def test_a_bad_file_may_be_left_out_alone(tmp_path: Path) -> None:
    paths = written(tmp_path, [picture(0, 255), picture(0, 100, 200), picture(0, 0)])
    good, bad, empty = drawn_masks(paths, skip_bad=True)
    np.testing.assert_array_equal(good.load(*BLOB.shape), BLOB)
    assert not empty.load(*BLOB.shape).any()
    assert "1.png: mask of values 0, 100, 200" in error_of(bad.load, *BLOB.shape)


def test_own_exports_keep_their_meaning(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", OURS)
    drawings = [picture(0, 0, 255), picture(1, 1), picture(0, 1), picture(255, 1)]
    for i, values in enumerate(drawings):
        Image.fromarray(values).save(tmp_path / f"{i}.png", pnginfo=info)
    for mask, values in zip(drawn_masks(sorted(tmp_path.iterdir())), drawings, strict=True):
        np.testing.assert_array_equal(mask.load(*BLOB.shape), values)
    Image.fromarray(picture(0, 255)).save(tmp_path / "9.png")  # drawn by somebody else
    with pytest.raises(InputError, match=r"9\.png: mask of 255, .* of 1: use one value"):
        drawn_masks(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("side", [256, 1024])
def test_small_labels_on_a_large_film_are_labels(tmp_path: Path, side: int) -> None:
    grey = np.zeros((side, side), np.uint8)
    grey[20:120, 20:200], grey[140:150, 30:40], grey[160:170, 60:70] = 255, 100, 200
    assert "several labels" in error_of(drawn_masks, written(tmp_path, [grey]))


@given(st.sets(st.integers(0, 255), min_size=2, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_value_is_dropped_in_silence(values: set[int], width: int) -> None:
    """A picture of a few labels, side by side in bars, is read as two values or refused."""
    bars = np.repeat(np.array(sorted(values), np.uint8), 4 * width)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = written(Path(folder), [np.tile(bars, (16, 1))])
        try:
            (mask,) = drawn_masks([path])
            read = mask.load(16, len(bars))
        except InputError:
            return
    if len(values) == 2:
        np.testing.assert_array_equal(read[0], bars == max(values))
    elif values == {0, 1, 255}:
        np.testing.assert_array_equal(read[0], np.where(bars == 1, 1, bars))
    else:  # black and white, not quite: all that is dark against all that is light
        assert all(v <= 32 or v > 222 for v in values)
        np.testing.assert_array_equal(read[0], bars > 127)


def test_a_mask_lies_on_its_films_grid_or_on_one_of_the_same_aspect(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((10, 20)))
    assert "mask is 20x10, its image is 40x20" in error_of(MaskFile(path).load, 20, 40)
    assert MaskFile(path, own_grid=True).load(20, 40).shape == (10, 20)
    with pytest.raises(InputError, match="mask is 20x10, its image is 30x20"):
        MaskFile(path, own_grid=True).load(20, 30)
    # 2320 x 2828 shrunk to a height of 320 is 390.07 wide.
    check_grid("m", (2320, 2828), (320, 390), own_grid=True)


def test_a_crop_of_another_size_than_its_row_says_is_told(tmp_path: Path) -> None:
    save(tmp_path / "c.png", np.ones((2, 3)))
    assert "its row says 3x3" in error_of(Crop(tmp_path / "c.png", 0, 0, 3, 3, (6, 5)).load, 6, 5)


@pytest.mark.parametrize("size", [(0, 4), (4,), (10**6, 10**6), ("4", 4), (4.0, 4)])
def test_a_size_that_no_film_has_is_told_before_anything_is_drawn(size: tuple[object, ...]) -> None:
    assert "a.json, k: size" in error_of(Runs(Path("a.json"), "k", size, "04").load, 4, 4)
