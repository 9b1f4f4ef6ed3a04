"""Readers and the building of stores: one good tree, and every way in which it can be bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data import build, read
from dollkit.data.film_table import require_positives
from dollkit.data.sets.chexpert import mask_path, read_chexpert
from dollkit.data.splits import draw_parts, read_split, write_split
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.chexpert_trees import write_chexpert

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A synthetic CheXpert tree; see `write_chexpert`."""
    return lambda **changed: write_chexpert(tmp_path / "CheXpert-v1.0-small", **changed)


def test_store_from_chexpert(tree: Tree, tmp_path: Path) -> None:
    stores = build("chexpert", tree(), tmp_path / "out", 64)
    store = open_store(stores["films"], verify=True)
    assert len(store) == 8
    np.testing.assert_allclose(store.images[:, 32, 32], [20 * k for k in range(1, 9)], atol=1)
    assert (store.images[:, :, :6] == 0).all()
    assert store.films["height"].tolist() == [40] * 8
    assert store.films["width"].tolist() == [32] * 8
    assert not (stores["films"] / "skipped.csv").exists()


def test_masks_beside_the_films(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    film = root / "train/patient00003/study1/view1_frontal.jpg"
    mask = np.zeros((40, 32), np.uint8)
    mask[20:, :] = 255
    Image.fromarray(mask).save(mask_path(film, "Pleural Effusion"))
    store = open_store(build_store(read_chexpert(root), tmp_path / "s", 40))
    assert store.mask_classes == PATHOLOGIES
    valid = store.mask_valid(slice(None))
    assert np.argwhere(valid).tolist() == [[2, PATHOLOGIES.index("Pleural Effusion")]]
    effusion = store.masks([2], ["Pleural Effusion"])[0, 0]
    assert effusion[20:, 4:36].all()
    assert effusion.sum() == 20 * 32


def test_missing_folder_and_files(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train.csv here or in CheXpert-v1.0-small"):
        read_chexpert(tmp_path)
    with pytest.raises(InputError, match=r"'data_dir' is '.*nowhere': no such folder"):
        read("chexpert", tmp_path / "nowhere")
    with pytest.raises(InputError, match="'data_dir' is ''"):
        build("open", "", tmp_path / "out", 64)
    root = tree()
    (root / "valid.csv").unlink()
    with pytest.raises(InputError, match=r"valid.csv: no such file"):
        read_chexpert(root)


def test_row_without_a_file_stops_before_decoding(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    (root / "train/patient00001/study1/view1_frontal.jpg").write_bytes(b"never looked at")
    (root / "train/patient00004/study1/view1_frontal.jpg").unlink()
    with pytest.raises(
        InputError, match=r"train.csv, row 6: no such file .*patient00004.*skip_bad"
    ):
        build("chexpert", root, tmp_path / "out", 64)
    assert not (tmp_path / "out" / "films").exists()


def test_corrupt_image_stops_with_its_row(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    file = root / "train/patient00003/study1/view1_frontal.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"train.csv, row 5: .*patient00003.*corrupt or cut off"):
        build("chexpert", root, tmp_path / "out", 64)
    with pytest.raises(InputError, match="no store here"):
        open_store(tmp_path / "out" / "films")


def test_mask_of_another_size(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    mask = mask_path(root / "train/patient00001/study1/view1_frontal.jpg", "Edema")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"row 2: .*mask_Edema.png: mask is 40x32, its image is"):
        build("chexpert", root, tmp_path / "out", 64)


def test_skip_bad_lists_what_is_left_out(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    base = root / "train"
    (base / "patient00002/study1/view1_frontal.jpg").write_bytes(b"")
    (base / "patient00004/study1/view1_frontal.jpg").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(
        mask_path(base / "patient00005/study1/view1_frontal.jpg", "Edema")
    )
    path = build("chexpert", root, tmp_path / "out", 64, skip_bad=True)["films"]
    store = open_store(path, verify=True)
    assert store.films["patient_id"].tolist() == [f"patient{k:05d}" for k in (1, 3, 6, 7, 8)]
    np.testing.assert_allclose(store.images[:, 32, 32], [20, 60, 120, 140, 160], atol=1)
    report = pd.read_csv(path / "skipped.csv")
    assert report.columns.tolist() == ["file", "row", "reason"]
    assert [Path(f).parts[-3] for f in report["file"]] == [
        "patient00002",
        "patient00004",
        "patient00005",
    ]
    assert [r.rpartition(", ")[2] for r in report["row"]] == ["row 4", "row 6", "row 7"]
    for reason, words in zip(
        report["reason"], ("empty file", "no such file", "mask is 9x9"), strict=True
    ):
        assert words in reason
    (base / "patient00002/study1/view1_frontal.jpg").unlink()
    for k in (2, 4, 5):
        lost = base / f"patient{k:05d}/study1/view1_frontal.jpg"
        Image.fromarray(np.zeros((40, 32), np.uint8)).save(lost)
        mask_path(lost, "Edema").unlink(missing_ok=True)
    build("chexpert", root, tmp_path / "out", 64, skip_bad=True)
    assert not (path / "skipped.csv").exists()


def test_nothing_left(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="no film is left of 8"):
        build("chexpert", root, tmp_path / "out", 64, skip_bad=True)


def test_workers_do_not_change_the_store(tree: Tree, tmp_path: Path) -> None:
    table = read_chexpert(tree())
    paths = [build_store(table, tmp_path / str(k), 64, workers=k) for k in (1, 3)]
    assert open_store(paths[0]).digest == open_store(paths[1]).digest


def test_unwritable_output_folder(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", Path("/proc/dollkit")):
        with pytest.raises(InputError, match=r"cannot write here .*: choose a folder"):
            build("chexpert", root, out, 64)


def test_parameters_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'mimic': use one of chexpert, "):
        build("mimic", tmp_path, tmp_path / "out", 64)
    with pytest.raises(InputError, match="'size' is 100: use a positive multiple of 8"):
        build("chexpert", tmp_path, tmp_path / "out", 100)
    with pytest.raises(InputError, match="'valid_fraction' is 1: use 0 to below 1"):
        read_chexpert(tmp_path, 1)


def test_no_positives_for_a_finding(tree: Tree) -> None:
    films = read_chexpert(tree()).films
    require_positives(films, ["Edema"])
    require_positives(films, ["Edema"], "test")
    # Uncertain and negative are no positives.
    for finding in ("Pneumonia", "Fracture", "Cardiomegaly"):
        with pytest.raises(InputError, match=rf"'{finding}' has no positive film in the films \(8"):
            require_positives(films, ["Edema", finding])
    with pytest.raises(InputError, match="'Edema' has no positive film in split 'valid'"):
        require_positives(films[films["split"] != "valid"], ["Edema"], "valid")


def test_unknown_finding(tree: Tree) -> None:
    with pytest.raises(InputError, match="unknown finding 'Effusion': use one of No Finding"):
        require_positives(read_chexpert(tree()).films, ["Effusion"])


def test_parts_are_balanced_and_patient_disjoint() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{k}" for k in rng.integers(0, 120, 400)]
    traits = rng.random((400, 3)) < (0.5, 0.2, 0.05)
    part = draw_parts(patients, traits, [3, 1])
    assert pd.DataFrame({"p": patients, "k": part}).groupby("p")["k"].nunique().max() == 1
    np.testing.assert_allclose(np.mean(part == 0), 0.75, atol=0.02)
    for t in range(3):
        np.testing.assert_allclose(np.mean(part[traits[:, t]] == 0), 0.75, atol=0.06)
    order = rng.permutation(400)
    again = draw_parts([patients[i] for i in order], traits[order], [3, 1])
    np.testing.assert_array_equal(again, part[order])


def test_split_files_are_checked(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"image_id": ["b", "a", "c"], "patient_id": ["1", "1", "2"], "fold": [0, 0, 1]}
    )
    path = tmp_path / "split.csv"
    write_split(path, table, "fold")
    patient_of = {"a": "1", "b": "1", "c": "2"}
    assert read_split(path, patient_of, "fold").to_dict() == {"a": "0", "b": "0", "c": "1"}
    good = path.read_text()
    cases = [
        ({**patient_of, "d": "3"}, good, "film 'd' of the data set is missing"),
        ({"a": "1", "b": "1"}, good, "film 'c' is not in the data set"),
        ({**patient_of, "c": "4"}, good, "film 'c' is of patient '2' there, of '4' in the data"),
        (patient_of, good.replace("b,1,0", "b,1,1"), "patient '1' stands in two folds"),
        (patient_of, good.replace("fold", "part"), "column 'fold' is missing"),
        (patient_of, good + "c,2,1\n", "'c' stands there twice"),
    ]
    for known, text, message in cases:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_split(path, known, "fold")
    with pytest.raises(InputError, match="no such split"):
        read_split(tmp_path / "none.csv", patient_of, "fold")
    table.loc[0, "fold"] = 1
    with pytest.raises(InputError, match="patient '1' stands in two folds"):
        write_split(path, table, "fold")
