"""CheXlocalize's truth files: contours and run lengths against pycocotools, and broken ones."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows
from dollkit.data.masks import Polygons, Runs
from dollkit.data.sets.chexlocalize_masks import load_truth
from tests.chexpert_trees import FULL, KEY, SQUARE, runs, square, write_truth

Contour = st.lists(st.tuples(st.floats(0, 80), st.floats(0, 60)), min_size=3, max_size=12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(Contour, min_size=1, max_size=3))
def test_contours_are_filled_as_pycocotools_does(contours: list[Any]) -> None:
    drawn = Polygons(Path("a.json"), "k", FULL, contours).load(*FULL)
    flat = [np.asarray(c).ravel().tolist() for c in contours]
    coded = coco.merge(coco.frPyObjects(flat, *FULL))
    assert coco.area(coded) == drawn.sum()
    same = Runs(Path("a.json"), "k", FULL, coded["counts"].decode()).load(*FULL)
    np.testing.assert_array_equal(drawn, same)
    # Their union: the order of the contours and what one covers twice make no difference.
    turned = Polygons(Path("a.json"), "k", FULL, [*contours[::-1], contours[0]]).load(*FULL)
    np.testing.assert_array_equal(drawn, turned)


def test_outlined_filling_differs_along_the_contour_only() -> None:
    # The trap named in the docstring: the released masks are filled with their outline.
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contour = np.column_stack([40 + 25.3 * np.cos(angle), 30 + 18.7 * np.sin(angle)])
    picture = Image.new("1", FULL[::-1])
    ImageDraw.Draw(picture).polygon([tuple(p) for p in contour], outline=1, fill=1)
    outlined = np.asarray(picture).astype(np.uint8)
    filled = Polygons(Path("a.json"), "k", FULL, [contour.tolist()]).load(*FULL)
    off = np.argwhere(outlined != filled)
    assert len(off)
    ys, xs = off.T + 0.5
    reach = np.hypot((xs - 40) / 25.3, (ys - 30) / 18.7)
    assert np.abs(reach - 1).max() < 1.5 / 18.7


def test_points_outside_the_film_are_drawn_to_its_edge() -> None:
    wide = [[-50, -50], [200, -50], [200, 30], [-50, 30]]
    drawn = Polygons(Path("a.json"), "k", FULL, [wide]).load(*FULL)
    assert drawn[:30].all()
    assert not drawn[30:].any()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.just(0) | st.just(1),
    )
)
def test_run_lengths_are_decoded_as_pycocotools_encodes(mask: np.ndarray[Any, Any]) -> None:
    coded = runs(mask)
    decoded = Runs(Path("a.json"), "k", tuple(coded["size"]), coded["counts"]).load(*mask.shape)
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.uint8


def test_long_run_lengths_are_decoded_as_pycocotools_encodes() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((2320, 2828), np.uint8)
    for _ in range(40):
        top, left = rng.integers(0, 2000), rng.integers(0, 2500)
        mask[top : top + rng.integers(1, 900), left : left + rng.integers(1, 300)] ^= 1
    for picture in (mask, np.zeros_like(mask), np.ones_like(mask)):
        coded = runs(picture)
        decoded = Runs(Path("a.json"), "k", (2320, 2828), coded["counts"]).load(320, 390)
        np.testing.assert_array_equal(decoded, picture)


def test_run_lengths_of_a_released_empty_mask() -> None:
    mask = Runs(Path("a.json"), "k", (2320, 2828), "PVWX6").load(2320, 2828)
    assert mask.shape == (2320, 2828)
    assert not mask.any()


Letters = st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=40)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(Letters | st.text(max_size=20), st.integers(1, 40), st.integers(1, 40))
@example("o" * 30, 6, 8)
@example("0" + "o" * 6 + "0", 6, 8)
@example("PPPPPP?1", 6, 8)
def test_broken_run_lengths_are_one_line(counts: str, height: int, width: int) -> None:
    mask = Runs(Path("a.json"), "key 'k', Edema", (height, width), counts)
    message = ""
    try:
        loaded = mask.load(height, width)
    except InputError as error:
        message = str(error)
    if message:
        assert message.startswith("a.json, key 'k', Edema: run lengths do not fill")
        return
    assert loaded.shape == (height, width)
    # What is taken fills the grid by the library's own count, too.
    assert coco.area({"size": [height, width], "counts": counts.encode()}) == loaded.sum()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_one_wrong_letter_never_reaches_the_library(data: st.DataObject) -> None:
    text = runs(square())["counts"]
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from(string.printable))
    for broken in (text[:at], text[:at] + letter + text[at + 1 :], text[:at] + letter + text[at:]):
        try:
            loaded = Runs(Path("a.json"), "k", FULL, broken).load(*FULL)
        except InputError:
            continue
        assert loaded.size == FULL[0] * FULL[1]


Z = runs(np.zeros(FULL))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"not a JSON file"),
        ('{"a": ', r"not a JSON file"),
        ("[" * 100000, r"not a JSON file"),
        ('{"a": 1' + "0" * 5000 + "}", r"not a JSON file"),
        ("[]", r"holds no JSON object of image keys"),
        ('{"patient1.jpg": {}}', r"key 'patient1.jpg': use the form patient64541_study1_view1"),
        (f'{{"{KEY}": []}}', rf"key '{KEY}': holds no findings but \[\]"),
        (f'{{"{KEY}": {{}}}}', rf"key '{KEY}': holds no findings but {{}}"),
        (f'{{"{KEY}": 3, "{KEY}": 4}}', rf"key '{KEY}': stands there twice"),
    ],
)
def test_what_is_no_truth_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gt.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_truth(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"Fracture": Z}, "unknown finding 'Fracture': use one of Enlarged Card"),
        ({"Edema ": Z}, "unknown finding 'Edema '"),
        ({"Lung Opacity": Z, "Airspace Opacity": Z}, "'Lung Opacity' stands there under two names"),
        ({"Edema": []}, r"Edema: no size and counts but \[\]"),
        ({"Edema": {"size": [60, 80]}}, r"Edema: no size and counts but {'size': \[60, 80\]}"),
        ({"Edema": {**Z, "area": 0}}, "Edema: no size and counts but"),
        ({"Edema": {**Z, "size": [80, 61]}}, "Edema: run lengths do not fill 61x80 pixels"),
        ({"Edema": {**Z, "size": [60, 0]}}, r"Edema: size \(60, 0\) is no"),
        ({"Edema": {**Z, "size": [60.0, 80]}}, r"Edema: size \(60.0, 80\) is no"),
        ({"Edema": {**Z, "size": [True, 80]}}, r"Edema: size \(True, 80\) is no"),
        ({"Edema": {**Z, "size": "big"}}, "Edema: size 'big' is no"),
        ({"Edema": {**Z, "size": [10**9, 10**9]}}, r"Edema: size \(1000000000, 1000000000\) is no"),
        ({"Edema": {**Z, "counts": [4800]}}, "Edema: run lengths do not fill"),
        ({"Edema": {**Z, "counts": None}}, "Edema: run lengths do not fill"),
        ({"Edema": {**Z, "counts": "\u00e9"}}, "Edema: run lengths do not fill"),
        ({"img_size": None}, "size None is no"),
        ({"img_size": [60], "Edema": [SQUARE]}, r"Edema: size \(60,\) is no"),
        ({"img_size": [60, 80], "Edema": {}}, "Edema: no list of contours but {}"),
        ({"img_size": [60, 80], "Edema": SQUARE}, "Edema: a contour is no list"),
        ({"img_size": [60, 80], "Edema": [[[1, 2, 3]]]}, "Edema: a contour is no list"),
        ({"img_size": [60, 80], "Edema": [[[1, 2], [3]]]}, "Edema: a contour is no list"),
        ({"img_size": [60, 80], "Edema": [["x", "y"]]}, "Edema: a contour is no list"),
        ({"img_size": [60, 80], "Edema": [[[1, float("nan")]]]}, "Edema: a contour is no list"),
        ({"img_size": [60, 80], "Edema": Z}, "Edema: no list of contours"),
        ({"Edema": [SQUARE]}, "Edema: no size and counts"),
    ],
)
def test_wrong_entries_are_told_by_file_and_key(
    tmp_path: Path, entry: dict[str, Any], words: str
) -> None:
    good = "patient00001_study1_view1_frontal"
    path = write_truth(tmp_path / "gt.json", {good: {"Edema": Z}, KEY: entry})
    with pytest.raises(InputError, match=words) as caught:
        load_truth(path)
    assert str(caught.value).startswith(f"{path}, key {KEY!r}")
    bad = BadRows()
    assert list(load_truth(path, bad)) == [good]
    assert bad.frame()["reason"].tolist() == [str(caught.value)]


def test_a_finding_twice_in_one_entry_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text(f'{{"{KEY}": {{"Edema": {json.dumps(Z)}, "Edema": {json.dumps(Z)}}}}}')
    with pytest.raises(InputError, match=rf"{KEY}': finding 'Edema' stands there twice"):
        load_truth(path)


def test_a_finding_that_a_segmentations_entry_lacks_is_unknown(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "gt.json", {KEY: {"Edema": Z}})
    assert list(load_truth(path)[KEY]) == ["Edema"]


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 90) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["size", "counts", "img_size", "Edema", "Airspace Opacity"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(Json)
def test_any_entry_is_read_or_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, entry: object
) -> None:
    path = write_truth(tmp_path_factory.mktemp("fuzz") / "gt.json", {KEY: entry})
    bad = BadRows()
    truth = load_truth(path, bad)
    assert len(truth) + len(bad) == 1
    for masks in truth.values():
        for mask in masks.values():
            assert set(np.unique(mask.load(*mask.size))) <= {0, 1}
