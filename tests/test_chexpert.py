"""CheXpert's reader: rows, splits, counts, truth, and every way in which the tables can be bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data import build
from dollkit.data.check import surplus
from dollkit.data.decode import load_image
from dollkit.data.film_table import check_files
from dollkit.data.sets.chexlocalize_masks import LOCALIZED
from dollkit.data.sets.chexpert import DATASET, HEADER, mask_path, read_chexpert
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.chexpert_trees import film_row, segmented, write_chexpert, write_truth

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A synthetic CheXpert tree; see `write_chexpert`."""
    return lambda *prefix, **changed: write_chexpert(
        tmp_path / "CheXpert-v1.0-small", *prefix, **changed
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def append(path: Path, row: dict[str, str]) -> None:
    with path.open("a") as file:
        file.write(",".join(row[column] for column in HEADER) + "\n")


def test_chexpert_rows(tree: Tree) -> None:
    table = read_chexpert(tree(Sex="Unknown", Edema="", Fracture="-1", **{"AP/PA": "LL"}))
    films = table.films
    assert films["image_id"].tolist() == [
        f"patient{k:05d}_study1_view1_frontal" for k in range(1, 9)
    ]
    assert films["patient_id"].tolist() == [f"patient{k:05d}" for k in range(1, 9)]
    assert set(films["split"][:6]) <= {"train", "valid"}
    assert films["split"][6:].tolist() == ["test", "test"]
    assert films["where"].iloc[1].endswith("train.csv, row 4")
    assert films["sex"].tolist() == ["F", "", "F", "F", "F", "F", "F", "F"]
    assert films["view"].tolist() == ["PA", "", "PA", "PA", "PA", "PA", "PA", "PA"]
    assert films["age"].tolist() == [61.0] * 8
    assert films["Edema"].tolist()[2:] == [1.0] * 6
    assert np.isnan(films["Edema"][1])
    assert films["Fracture"].tolist()[:3] == [0.0, -1.0, 0.0]
    assert films["Pneumonia"].tolist() == [-1.0] * 8
    assert films["Cardiomegaly"].isna().all()
    assert table.mask_classes == ()


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "", "CheXpert-v1.0/"])
def test_path_with_or_without_the_root(tree: Tree, prefix: str) -> None:
    root = tree(prefix)
    for given in (root, root.parent):
        assert all(Path(p).is_file() for p in read_chexpert(given).films["path"])


def test_validation_split_depends_on_the_patient_alone(tree: Tree) -> None:
    root = tree()
    first = read_chexpert(root, 0.5).films.set_index("patient_id")["split"]
    assert set(first[:6]) == {"train", "valid"}
    lines = (root / "train.csv").read_text().splitlines()
    (root / "train.csv").write_text("\n".join([lines[0], *reversed(lines[3:])]) + "\n")
    again = read_chexpert(root, 0.5).films.set_index("patient_id")["split"]
    assert again.to_dict() == first.drop("patient00001").to_dict()
    assert "valid" not in set(read_chexpert(root, 0.0).films["split"])


def test_misspelt_column(tree: Tree) -> None:
    root = tree()
    edit(root / "train.csv", "Pleural Effusion", "Pleural effusion")
    with pytest.raises(
        InputError,
        match=r"train.csv: column 'Pleural Effusion' is missing \('Pleural effusion' is there\)",
    ):
        read_chexpert(root)


@pytest.mark.parametrize("value", ["2.0", "yes", "0.5", "nan", "1.0.0"])
def test_label_value_outside_the_four_states(tree: Tree, value: str) -> None:
    with pytest.raises(
        InputError, match=rf"train.csv, row 4, column 'Edema': value '{value}': use 1, 0, -1 or bl"
    ):
        read_chexpert(tree(Edema=value))


@pytest.mark.parametrize(
    ("column", "value"),
    [("Sex", "X"), ("Age", "old"), ("Frontal/Lateral", "Oblique"), ("Path", "train/film.jpg")],
)
def test_other_odd_values(tree: Tree, column: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"train.csv, row 4, column '{column}': value '{value}'"):
        read_chexpert(tree(**{column: value}))


def test_patient_in_two_splits(tree: Tree) -> None:
    root = tree()
    row = film_row("CheXpert-v1.0-small/valid/patient00002/study2/view1_frontal.jpg")
    append(root / "valid.csv", row)
    with pytest.raises(
        InputError, match=r"patient 'patient00002' stands in train.csv and in valid"
    ):
        read_chexpert(root)


def test_film_listed_twice(tree: Tree) -> None:
    first = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    with pytest.raises(InputError, match=r"train.csv, row 4, column 'Path': .*each film once"):
        read_chexpert(tree(Path=first))


def test_laterals_are_counted_checked_and_left_out(tree: Tree) -> None:
    root = tree()
    table = read_chexpert(root)
    assert [p.name for p in table.others] == ["view2_lateral.jpg"]
    assert table.facts["rows"] == 7
    assert table.facts["lateral"] == 1
    assert table.facts["Edema positive"] == 7
    assert table.facts["valid rows"] == table.facts["valid patients"] == 2
    assert surplus({"films": table}) == []
    stray = root / "train" / "stray.jpg"
    stray.write_bytes(b"")
    assert surplus({"films": table}) == [stray]
    edit(root / "train.csv", "Lateral,,,,,,,1.0", "Lateral,,,,,,,9.0")
    with pytest.raises(InputError, match=r"train.csv, row 3, column 'Edema': value '9.0'"):
        read_chexpert(root)


def test_byte_order_mark_backslashes_and_another_root(tree: Tree) -> None:
    root = tree("CheXpert-v1.0\\")
    plain = read_chexpert(root).films
    path = root / "train.csv"
    text = path.read_text().replace("/", "\\").replace("Frontal\\Lateral", "Frontal/Lateral")
    text = text.replace("AP\\PA", "AP/PA").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    table = read_chexpert(root)
    check_files(table)
    pd.testing.assert_frame_equal(table.films, plain)
    other = root.rename(root.with_name("films of Stanford"))
    check_files(read_chexpert(other))


@pytest.mark.parametrize(
    "path",
    [
        "../CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/../train/patient00002/study1/view1_frontal.jpg",
        "/data/train/patient00002/study1/view1_frontal.jpg",
        "C:/data/train/patient00002/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/valid/patient00002/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/train/patient00002/../view1_frontal.jpg",
        "CheXpert-v1.0-small/train/patient00002/study1/view1_oblique.jpg",
        "patient00002/study1/view1_frontal.jpg",
        "",
    ],
)
def test_paths_of_another_form_are_wrong_rows(tree: Tree, path: str) -> None:
    root = tree(Path=path)
    with pytest.raises(
        InputError, match=r"train.csv, row 4, column 'Path': .*use a path \.\.\./tr"
    ):
        read_chexpert(root)
    table = read_chexpert(root, skip_bad=True)
    assert len(table) == 7
    assert "patient00002" not in set(table.films["patient_id"])


def test_skip_bad_notes_each_wrong_row_once(tree: Tree) -> None:
    root = tree(Edema="7", Sex="X")
    path = root / "train.csv"
    text = path.read_text() + "one,cell\n"
    text = text.replace(
        "patient00003/study1/view1_frontal.jpg,Female,61", "patient00003/x,Female,6"
    )
    path.write_text(text.replace("patient00005", "patient00004"))
    row = film_row("CheXpert-v1.0-small/valid/patient00006/study2/view1_frontal.jpg")
    append(root / "valid.csv", row)
    table = read_chexpert(root, skip_bad=True)
    patients = ["patient00001", "patient00004", "patient00007", "patient00008", "patient00006"]
    assert table.films["patient_id"].tolist() == patients
    assert table.films["split"].tolist()[-1] == "test"
    reasons = table.bad.frame()["reason"].tolist()
    # Row 4 is told for its sex alone: it is gone before its labels are read.
    for row_number, words in (
        (9, "2 cells under 19"),
        (4, "'Sex'"),
        (5, "'Path'"),
        (7, "each film once"),
        (8, "'patient00006' stands in train.csv and in valid.csv"),
    ):
        told = [r for r in reasons if f"train.csv, row {row_number}" in r]
        assert len(told) == 1
        assert words in told[0]
    assert len(reasons) == 5
    assert table.facts["rows"] == 4


def test_no_frontal_film_is_told(tree: Tree) -> None:
    root = tree()
    for name in ("train.csv", "valid.csv"):
        path = root / name
        path.write_text(path.read_text().replace(",Frontal,PA", ",Lateral,"))
    with pytest.raises(InputError, match=r"train.csv and valid.csv list no frontal film"):
        read_chexpert(root)


@pytest.mark.parametrize("place", ["{}", "{}/CheXlocalize", "{}/../CheXlocalize", "{}/.."])
def test_truth_of_chexlocalize_on_the_films_of_valid(
    tree: Tree, place: str, tmp_path: Path
) -> None:
    root = tree()
    left = np.zeros((80, 64), np.uint8)
    left[:, :32] = 1
    entries = {
        "patient00007_study1_view1_frontal": segmented((80, 64), Edema=left, Lung_Opacity=1 - left),
        "patient00099_study1_view2_lateral": segmented((80, 64)),
    }
    folder = Path(place.format(root)).resolve()
    write_truth(folder / "gt_segmentations_val.json", entries)
    table = read_chexpert(root)
    check_files(table)
    assert table.mask_classes == LOCALIZED
    known = table.masks.notna().to_numpy()
    assert known[6].all()
    assert not known[np.arange(8) != 6].any()
    assert table.facts["valid films with truth"] == 1
    assert surplus({"films": table}) == []
    store = open_store(build_store(table, tmp_path / "store", 40))
    np.testing.assert_array_equal(store.mask_valid(slice(None)), known)
    masks = dict(zip(LOCALIZED, store.masks([6])[0], strict=True))
    # A film of 32 x 40 on 40 x 40: four columns of padding, then sixteen of the left half.
    assert masks["Edema"][:, 4:20].all()
    assert masks["Edema"].sum() == masks["Lung Opacity"].sum() == 40 * 16
    assert not masks["Cardiomegaly"].any()


def test_segmentations_come_before_annotations_and_masks_beside_before_both(tree: Tree) -> None:
    root = tree()
    key = "patient00007_study1_view1_frontal"
    write_truth(root / "gt_annotations_val.json", {key: {"img_size": [80, 64]}})
    assert {f.name for _, m in read_chexpert(root).masks_of(6) for f in m.files} == {
        "gt_annotations_val.json"
    }
    write_truth(root / "gt_segmentations_val.json", {key: segmented((80, 64))})
    beside = mask_path(root / "valid/patient00007/study1/view1_frontal.jpg", "Edema")
    beside.write_bytes(b"")
    table = read_chexpert(root)
    assert table.mask_classes == FINDINGS[1:]
    files = {table.mask_classes[c]: m.files[0].name for c, m in table.masks_of(6)}
    assert files.pop("Edema") == beside.name
    assert set(files) == set(LOCALIZED) - {"Edema"}
    assert set(files.values()) == {"gt_segmentations_val.json"}


def test_truth_of_other_films_is_told(tree: Tree) -> None:
    root = tree()
    path = write_truth(
        root / "gt_segmentations_val.json", {"patient64541_study1_view1_frontal": segmented()}
    )
    with pytest.raises(
        InputError, match=r"gt_segm.*: none of its 1 keys is a listed film .first: "
    ):
        read_chexpert(root)
    table = read_chexpert(root, skip_bad=True)
    assert table.bad.frame()["file"].tolist() == [str(path)]
    assert not table.masks.notna().any(axis=None)


def test_data_set_is_found_and_read(tree: Tree) -> None:
    root = tree()
    assert DATASET.find(root) == DATASET.find(root.parent) == root
    assert DATASET.find(root / "train") is None
    tables = DATASET.read(root.parent / root.name, skip_bad=False, valid_fraction=0.0)
    assert list(tables) == list(DATASET.stores) == ["films"]
    assert "valid" not in set(tables["films"].films["split"])


def test_mock_chexpert_of_real_films(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "layouts" / "MOCK_chexpert_shape_with_NIH_pixels"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    table = read_chexpert(folder)
    films = table.films
    assert len(films) == 24
    assert (films["split"] == "test").sum() == 8
    assert surplus({"films": table}) == []
    raw = pd.concat(
        pd.read_csv(folder / "CheXpert-v1.0-small" / name) for name in ("train.csv", "valid.csv")
    )
    for finding in FINDINGS:
        np.testing.assert_array_equal(films[finding], raw[finding].astype(float))
    for path in films["path"]:
        assert load_image(path).shape == (256, 256)
    stores = build("chexpert", folder, tmp_path / "out", 64)
    store = open_store(stores["films"], verify=True)
    assert len(store) == 24
    assert store.images.reshape(24, -1).std(axis=1).min() > 10
