"""CheXpert's reader: rows, splits, counts, truth, and every way in which the tables can be bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data import build
from dollkit.data.__main__ import surplus
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.sets.chexpert import DATASET, LOCALIZED, mask_path
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.chexpert_trees import segmented, write_chexpert, write_truth
from tests.small_files import edit, error_of, layout

Tree = Callable[..., Path]
VALID = "patient00007_study1_view1_frontal"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A synthetic CheXpert tree; see `write_chexpert`."""
    return lambda **changed: write_chexpert(tmp_path / "CheXpert-v1.0-small", **changed)


def read(root: Path, **options: Any) -> FilmTable:
    return DATASET.tables(root, **options)["films"]


def test_rows(tree: Tree) -> None:
    root = tree(Sex="Unknown", Edema="", Fracture="-1", **{"AP/PA": "LL"})
    assert DATASET.find(root) == DATASET.find(root.parent) == root
    assert DATASET.find(root / "train") is None
    table = read(root.parent)
    films = table.films
    patients = [f"patient{k:05d}" for k in range(1, 9)]
    assert films["image_id"].tolist() == [f"{p}_study1_view1_frontal" for p in patients]
    assert films["patient_id"].tolist() == patients
    assert films["study_id"].tolist() == [f"{p}_study1" for p in patients]
    assert set(films["split"][:6]) <= {"train", "valid"}
    assert films["split"][6:].tolist() == ["test", "test"]
    assert films["where"].iloc[1].endswith("train.csv, row 4")
    assert films["sex"].tolist() == ["F", "", *["F"] * 6]
    assert films["view"].tolist() == ["PA", "", *["PA"] * 6]
    assert films["age"].tolist() == [61.0] * 8
    np.testing.assert_array_equal(films["Edema"], [1.0, np.nan, *[1.0] * 6])
    assert films["Fracture"].tolist()[:3] == [0.0, -1.0, 0.0]
    assert films["Pneumonia"].tolist() == [-1.0] * 8
    assert films["Cardiomegaly"].isna().all()
    assert table.mask_classes == ()


def test_validation_split_depends_on_the_patient_alone(tree: Tree) -> None:
    root = tree()
    first = read(root, valid_fraction=0.5).films.set_index("patient_id")["split"]
    assert set(first[:6]) == {"train", "valid"}
    lines = (root / "train.csv").read_text().splitlines()
    (root / "train.csv").write_text("\n".join([lines[0], *reversed(lines[3:])]) + "\n")
    again = read(root, valid_fraction=0.5).films.set_index("patient_id")["split"]
    assert again.to_dict() == first.drop("patient00001").to_dict()
    assert "valid" not in set(read(root, valid_fraction=0.0).films["split"])


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        ("Edema", "0.5", "1, 0, -1 or blank"),
        ("Sex", "X", "Male, Female"),
        ("AP/PA", "LAT", "AP, PA"),
        ("Path", "../root/train/patient00002/study1/view1_frontal.jpg", "a path"),
        ("Path", "root/valid/patient00002/study1/view1_frontal.jpg", "a path"),
        ("Path", "patient00002/study1/view1_frontal.jpg", "a path"),
        ("Path", "", "a path .../train/patientNNNNN/studyN/viewN_frontal.jpg"),
        ("Path", "root/train/patient00001/study1/view1_frontal.jpg", "each film once"),
    ],
)
def test_wrong_rows(tree: Tree, column: str, value: str, allowed: str) -> None:
    root = tree(**{column: value})
    words = f"train.csv, row 4, column '{column}': value '{value}': use {allowed}"
    assert words in error_of(read, root)
    table = read(root, skip_bad=True)
    assert len(table) == 7
    assert "patient00002" not in set(table.films["patient_id"])
    assert len(table.bad) == 1


def test_laterals_are_counted_checked_and_left_out(tree: Tree) -> None:
    root = tree()
    table = read(root)
    assert [p.name for p in table.others] == ["view2_lateral.jpg"]
    facts = {name: table.facts[name] for name in ("rows", "lateral", "Edema positive")}
    assert facts == {"rows": 7, "lateral": 1, "Edema positive": 7}
    assert set(DATASET.documented) <= set(table.facts)
    assert table.facts["valid rows"] == table.facts["valid patients"] == 2
    stray = root / "train" / "stray.jpg"
    stray.write_bytes(b"")
    assert surplus({"films": table}) == [stray]
    edit(root / "train.csv", "Lateral,,,,,,,1.0", "Lateral,,,,,,,9.0")
    assert "train.csv, row 3, column 'Edema': value '9.0'" in error_of(read, root)


@pytest.mark.parametrize("place", ["{}", "{}/../CheXlocalize"])
def test_truth_of_chexlocalize_on_the_films_of_valid(
    tree: Tree, place: str, tmp_path: Path
) -> None:
    root = tree()
    left = np.zeros((80, 64), np.uint8)
    left[:, :32] = 1
    entries = {
        VALID: segmented((80, 64), Edema=left, Lung_Opacity=1 - left),
        "patient00099_study1_view2_lateral": segmented((80, 64)),
    }
    folder = Path(place.format(root)).resolve()
    write_truth(folder / "gt_segmentations_val.json", entries)
    table = read(root)
    check_files(table)
    assert table.mask_classes == LOCALIZED
    known = table.masks.notna().to_numpy()
    np.testing.assert_array_equal(known, np.tile(np.arange(8)[:, None] == 6, 10))
    assert table.facts["valid films with truth"] == 1
    assert surplus({"films": table}) == []
    store = open_store(build_store(table, tmp_path / "store", 40))
    np.testing.assert_array_equal(store.mask_valid(slice(None)), known)
    masks = dict(zip(LOCALIZED, store.masks([6])[0], strict=True))
    # A film of 32 x 40 on 40 x 40: four columns of padding, then sixteen of the left half.
    assert masks["Edema"][:, 4:20].all()
    assert masks["Edema"].sum() == masks["Lung Opacity"].sum() == 40 * 16
    assert not masks["Cardiomegaly"].any()


def test_masks_beside_the_films_come_before_the_truth(tree: Tree) -> None:
    root = tree()
    write_truth(root / "gt_segmentations_val.json", {VALID: segmented((80, 64))})
    beside = mask_path(root / "valid/patient00007/study1/view1_frontal.jpg", "Edema")
    grey = np.zeros((40, 32), np.uint8)
    grey[20:] = 255
    Image.fromarray(grey).save(beside)
    table = read(root)
    assert table.mask_classes == PATHOLOGIES
    masks = {table.mask_classes[c]: mask for c, mask in table.masks_of[6]}
    np.testing.assert_array_equal(masks["Edema"].load(40, 32), grey // 255)
    files = {finding: mask.files[0].name for finding, mask in masks.items()}
    assert files.pop("Edema") == beside.name
    assert set(files) == set(LOCALIZED) - {"Edema"}
    assert set(files.values()) == {"gt_segmentations_val.json"}


def test_truth_of_other_films(tree: Tree) -> None:
    root = tree()
    entries = {"patient64541_study1_view1_frontal": segmented()}
    path = write_truth(root / "gt_segmentations_val.json", entries)
    assert f"{path}: none of its 1 keys is a listed film" in error_of(read, root)
    table = read(root, skip_bad=True)
    assert [file for file, _, _ in table.bad] == [str(path)]
    assert not table.masks.notna().any(axis=None)


def test_row_without_a_file_stops_before_decoding(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    (root / "train/patient00001/study1/view1_frontal.jpg").write_bytes(b"never looked at")
    (root / "train/patient00004/study1/view1_frontal.jpg").unlink()
    with pytest.raises(InputError, match=r"csv, row 6: no such file .*patient00004.*skip_bad"):
        build("chexpert", root, tmp_path / "out", 64)
    assert not (tmp_path / "out" / "films").exists()


@pytest.mark.parametrize("beside", [True, False])
def test_full_size_archives_as_they_unpack(tree: Tree, tmp_path: Path, beside: bool) -> None:
    small = tree()
    wanted = read(small).films.drop(columns=["path", "where"])
    top = tmp_path / "full"
    root = top / "CheXpert-v1.0 batch 1 (validate & csv)"
    root.mkdir(parents=True)
    for name in ("valid", "train.csv", "valid.csv"):
        (small / name).rename(root / name)
    edit(root / "train.csv", "CheXpert-v1.0-small/train", "CheXpert-v1.0/train")
    for k in range(1, 7):
        batch = ("batch 2 (train 1)", "CheXpert-v1.0 batch 3 (train 2)", "batch 4 (train 3)")[k % 3]
        place = (top if beside else root) / batch / f"patient{k:05d}"
        place.parent.mkdir(exist_ok=True)
        (small / "train" / place.name).rename(place)
    (top / "other.txt").touch()  # of somebody else, where the batches lie beside
    table = read(top)
    check_files(table)
    pd.testing.assert_frame_equal(table.films.drop(columns=["path", "where"]), wanted)
    assert surplus({"films": table}) == []


def test_mock_chexpert_of_real_films(shared_dir: Path, tmp_path: Path) -> None:
    folder = layout(shared_dir, "MOCK_chexpert_shape_with_NIH_pixels")
    table = read(folder)
    films = table.films
    assert (len(films), (films["split"] == "test").sum()) == (24, 8)
    assert surplus({"films": table}) == []
    raw = pd.concat(
        pd.read_csv(folder / "CheXpert-v1.0-small" / name) for name in ("train.csv", "valid.csv")
    )
    for finding in FINDINGS:
        np.testing.assert_array_equal(films[finding], raw[finding].astype(float))
    store = open_store(build("chexpert", folder, tmp_path / "out", 64)["films"], verify=True)
    assert len(store) == 24
    assert store.images.reshape(24, -1).std(axis=1).min() > 10
