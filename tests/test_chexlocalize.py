"""CheXlocalize: its tree, and its truth files against pycocotools and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from dollkit import data
from dollkit.common.errors import InputError
from dollkit.data.__main__ import surplus
from dollkit.data.csvfile import BadRows
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.masks import Runs
from dollkit.data.sets.chexpert import CHEXLOCALIZE, LOCALIZED, load_truth
from tests.chexpert_trees import FULL, KEY, localized_tree, runs, write_truth
from tests.small_files import error_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return localized_tree(tmp_path)


def read(root: Path, skip_bad: bool = False) -> FilmTable:
    return CHEXLOCALIZE.tables(root, skip_bad=skip_bad)["films"]


def test_a_set_that_is_named_gives_all_that_it_has(root: Path) -> None:
    tables = data.read("chexlocalize", root.parent)
    assert {store: table.source for store, table in tables.items()} == {"films": "chexlocalize"}
    # Unasked it is no set to train on: it has no training films.
    assert "gives no films" in error_of(data.read, "auto", root)


def test_films_splits_and_truth(root: Path) -> None:
    table = read(root)
    check_files(table)
    films = table.films
    patients = (64541, 64542, 64741, 64742)
    assert films["image_id"].tolist() == [f"patient{k}_study1_view1_frontal" for k in patients]
    assert films["split"].tolist() == ["valid", "valid", "test", "test"]
    assert films["view"].tolist() == ["PA", "PA", "", ""]
    assert films["Edema"].tolist() == [1.0] * 4
    assert table.mask_classes == LOCALIZED
    known = table.masks.notna().to_numpy()
    np.testing.assert_array_equal(known, [[True] * 10, [False] * 10] * 2)
    assert [p.name for p in table.others] == ["view2_lateral.jpg"] * 2
    assert surplus({"films": table}) == []
    counts = {"rows": 3, "patients": 2, "films with truth": 2, "truth without a film": 0}
    assert table.facts == {f"{p} {k}": n for p in ("val", "test") for k, n in counts.items()}


@pytest.mark.parametrize("lead", ["val/", "", "CheXpert-v1.0-small\\valid\\"])
def test_the_last_three_parts_of_a_path_count(root: Path, lead: str) -> None:
    file = root / "CheXpert" / "val_labels.csv"
    old, inner = "CheXpert-v1.0/valid/", "patient64542/study1/view1_frontal.jpg"
    file.write_text(file.read_text().replace(old + inner, lead + inner))
    check_files(read(root))


def test_wrong_rows(root: Path) -> None:
    file = root / "CheXpert" / "test_labels.csv"
    good = file.read_text()
    for old, new, words in (
        ("test/patient64742/", "../patient64742/", "row 4, column 'Path': value"),
        ("patient64742/", "patient64542/", "patient 'patient64542' stands in val_labels.csv and"),
    ):
        file.write_text(good.replace(old, new))
        assert words in error_of(read, root)
    file.unlink()
    assert "test_labels.csv: no such file" in error_of(read, root)


def test_skip_bad_leaves_wrong_rows_and_keys_out(root: Path) -> None:
    file = root / "CheXpert" / "test_labels.csv"
    file.write_text(file.read_text().replace("patient64742/", "patient64542/"))
    truth = root / "CheXlocalize" / "gt_segmentations_test.json"
    entries = json.loads(truth.read_text())
    entries["patient64741_study1_view1_frontal"]["Edema"]["counts"] = "oops"
    truth.write_text(json.dumps(entries))
    table = read(root, skip_bad=True)
    assert table.films["patient_id"].tolist() == ["patient64541", "patient64741", "patient64542"]
    assert table.masks.iloc[1].isna().all()
    assert [Path(name).name for name, _, _ in table.bad] == ["val_labels.csv", truth.name]
    assert table.facts["test films with truth"] == 1


FILE = Path("a.json")
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=70)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)))
def test_run_lengths_are_decoded_as_pycocotools_encodes(mask: np.ndarray) -> None:
    coded = runs(mask)
    decoded = Runs(FILE, "k", tuple(coded["size"]), coded["counts"]).load(*mask.shape)
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.uint8


LETTERS = st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=40)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LETTERS | st.text(max_size=20), st.integers(1, 40), st.integers(1, 40))
@example("o" * 30, 6, 8)
@example("0" + "o" * 6 + "0", 6, 8)
@example("PPPPPP?1", 6, 8)
def test_broken_run_lengths_are_one_line(counts: str, height: int, width: int) -> None:
    message = ""
    try:
        loaded = Runs(FILE, "key 'k', Edema", (height, width), counts).load(height, width)
    except InputError as error:
        message = str(error)
    if message:
        assert message.startswith("a.json, key 'k', Edema: run lengths do not fill")
        return
    assert loaded.shape == (height, width)
    # What is taken fills the grid by the library's own count, too.
    assert coco.area({"size": [height, width], "counts": counts.encode()}) == loaded.sum()


Z = runs(np.zeros(FULL))


def test_what_is_no_truth_file(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    for text, words in (
        ("", "not a JSON file"),
        ('{"patient1.jpg": {}}', "key 'patient1.jpg': use the form patient64541_study1_view1"),
        (f'{{"{KEY}": []}}', f"key '{KEY}': holds no findings but []"),
        (f'{{"{KEY}": 3, "{KEY}": 4}}', f"'{KEY}' stands there twice"),
        (f'{{"{KEY}": {{"Edema": 1, "Edema": 2}}}}', "'Edema' stands there twice"),
    ):
        path.write_text(text)
        message = error_of(load_truth, path)
        assert message.startswith(str(path))
        assert words in message
        assert len(message) < 400


def test_wrong_entries(tmp_path: Path) -> None:
    good = "patient00001_study1_view1_frontal"
    for entry, words in (
        ({"Fracture": Z}, "unknown finding 'Fracture': use one of Enlarged Card"),
        ({"Lung Opacity": Z, "Airspace Opacity": Z}, "'Lung Opacity' stands there under two names"),
        ({"Edema": []}, "Edema: no size and counts but []"),
        ({"Edema": {**Z, "size": [80, 61]}}, "Edema: run lengths do not fill 61x80 pixels"),
        ({"Edema": {**Z, "size": [10**9, 10**9]}}, "Edema: size (1000000000, 1000000000) is no"),
    ):
        path = write_truth(tmp_path / "gt.json", {good: {"Edema": Z}, KEY: entry})
        message = error_of(load_truth, path)
        assert message.startswith(f"{path}, key {KEY!r}")
        assert words in message
        bad = BadRows()
        truth = load_truth(path, bad)
        # A finding that an entry of run lengths lacks is unknown.
        assert {key: list(masks) for key, masks in truth.items()} == {good: ["Edema"]}
        assert [reason for _, _, reason in bad] == [message]
