"""CheXlocalize's tree: rows, splits, masks, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dollkit.common.errors import InputError
from dollkit.data import read
from dollkit.data.check import surplus
from dollkit.data.film_table import check_files
from dollkit.data.sets.chexlocalize import DATASET, read_chexlocalize
from dollkit.data.sets.chexlocalize_masks import LOCALIZED, load_truth
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.chexpert_trees import (
    FULL,
    KEY,
    localized_tree,
    square,
    write_film,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return localized_tree(tmp_path)


def test_a_set_that_is_named_gives_all_that_it_has(root: Path) -> None:
    tables = read("chexlocalize", root)
    assert {store: table.source for store, table in tables.items()} == {"films": "chexlocalize"}
    # Unasked it is no set to train on: it has no training films.
    with pytest.raises(InputError, match="gives no films"):
        read("auto", root)


@pytest.mark.parametrize("truth", ["segmentations", "annotations"])
def test_films_splits_and_truth(root: Path, truth: str, tmp_path: Path) -> None:
    table = read_chexlocalize(root, truth=truth)
    check_files(table)
    films = table.films
    assert films["image_id"].tolist() == [
        f"patient{k}_study1_view1_frontal" for k in (64541, 64542, 64741, 64742)
    ]
    assert films["split"].tolist() == ["valid", "valid", "test", "test"]
    assert films["view"].tolist() == ["PA", "PA", "", ""]
    assert films["Edema"].tolist() == [1.0] * 4
    assert table.mask_classes == LOCALIZED
    known = table.masks.notna().to_numpy()
    np.testing.assert_array_equal(known, [[True] * 10, [False] * 10] * 2)
    assert [p.name for p in table.others] == ["view2_lateral.jpg"] * 2
    assert surplus({"films": table}) == []
    assert table.facts == {
        "val rows": 3,
        "val patients": 2,
        "val films with truth": 2 if truth == "segmentations" else 1,
        "val truth without a film": 0,
        "test rows": 3,
        "test patients": 2,
        "test films with truth": 2 if truth == "segmentations" else 1,
        "test truth without a film": 0,
    }
    store = open_store(build_store(table, tmp_path / "store", 40))
    np.testing.assert_array_equal(store.mask_valid(slice(None)), known)
    for film in (0, 2):
        masks = dict(zip(LOCALIZED, store.masks([film])[0], strict=True))
        # Half the full size, five rows of padding above: rows 7.5 to 17.5, columns 5 to 20.
        assert masks["Edema"][13:22, 5:20].all()
        assert masks["Edema"].sum() in (9 * 15, 10 * 15, 11 * 15)
        found = {f for f, mask in masks.items() if mask.any()}
        assert found == {"Edema", "Lung Opacity"}


def test_data_set_is_found_and_read(root: Path) -> None:
    assert DATASET.find(root) == DATASET.find(root.parent) == root
    assert DATASET.find(root / "CheXpert") is None
    assert DATASET.options["truth"][0] == "segmentations"
    tables = DATASET.read(root, skip_bad=False, truth="annotations")
    assert {m.where for m in tables["films"].masks["Edema"] if m} == {
        f"key 'patient{k}_study1_view1_frontal', Edema" for k in (64541, 64741)
    }
    with pytest.raises(InputError, match="'truth' is 'points': use one of segmentations, annot"):
        read_chexlocalize(root, truth="points")


@pytest.mark.parametrize(
    "path",
    [
        "val/patient64542/study1/view1_frontal.jpg",
        "patient64542/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small\\\\valid\\\\patient64542\\\\study1\\\\view1_frontal.jpg",
    ],
)
def test_the_last_three_parts_of_a_path_count(root: Path, path: str) -> None:
    file = root / "CheXpert" / "val_labels.csv"
    old = "CheXpert-v1.0/valid/patient64542/study1/view1_frontal.jpg"
    file.write_text(file.read_text().replace(old, path.replace("\\\\", "\\")))
    check_files(read_chexlocalize(root))


def test_wrong_rows(root: Path) -> None:
    file = root / "CheXpert" / "test_labels.csv"
    good = file.read_text()
    for old, new, words in (
        ("patient64742/", "patient64741/", r"row 4, column 'Path': .*use each film once"),
        ("test/patient64742/", "../patient64742/", r"row 4, column 'Path': .*use a path"),
        ("patient64742/", "patient64542/", r"patient 'patient64542' stands in val_labels.csv and"),
        ("Path,", "path,", r"test_labels.csv: column 'Path' is missing .'path' is there"),
    ):
        assert old in good
        file.write_text(good.replace(old, new))
        with pytest.raises(InputError, match=words):
            read_chexlocalize(root)
    file.unlink()
    with pytest.raises(InputError, match=r"test_labels.csv: no such file"):
        read_chexlocalize(root)


def test_skip_bad_leaves_wrong_rows_and_keys_out(root: Path) -> None:
    file = root / "CheXpert" / "test_labels.csv"
    file.write_text(file.read_text().replace("patient64742/", "patient64542/"))
    truth = root / "CheXlocalize" / "gt_segmentations_test.json"
    entries = json.loads(truth.read_text())
    entries["patient64741_study1_view1_frontal"]["Edema"]["counts"] = "oops"
    truth.write_text(json.dumps(entries))
    table = read_chexlocalize(root, skip_bad=True)
    assert table.films["patient_id"].tolist() == ["patient64541", "patient64741", "patient64542"]
    assert not table.masks.iloc[1].notna().any()
    assert table.bad.frame()["file"].tolist() == [
        str(root / "CheXpert" / "val_labels.csv"),
        str(truth),
    ]
    assert table.facts["test films with truth"] == 1


def test_truth_of_another_aspect_is_told_when_it_is_drawn(root: Path, tmp_path: Path) -> None:
    write_film(root / "CheXpert/val/patient64541/study1/view1_frontal.jpg", 40, 40)
    with pytest.raises(
        InputError, match=r"row 2: .*gt_segm.*frontal'.*: mask is 80x60, its image is 40x40"
    ):
        build_store(read_chexlocalize(root), tmp_path / "store", 40)


def test_segmentations_and_annotations_of_one_drawing_agree(root: Path) -> None:
    folder = root / "CheXlocalize"
    masks = [load_truth(folder / f"gt_{k}_val.json")[KEY] for k in ("segmentations", "annotations")]
    assert list(masks[0]) == list(masks[1]) == list(LOCALIZED)
    for finding in LOCALIZED:
        by_runs, by_contours = (m[finding].load(*FULL) for m in masks)
        expected = square() if finding == "Edema" else np.zeros(FULL, np.uint8)
        if finding == "Lung Opacity":
            np.testing.assert_array_equal(by_runs, 1 - square())
            np.testing.assert_array_equal(by_contours, square())
        else:
            np.testing.assert_array_equal(by_runs, expected)
            np.testing.assert_array_equal(by_contours, expected)
