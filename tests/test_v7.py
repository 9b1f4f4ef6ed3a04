"""V7 Labs' lung masks: codes, films found in three places, patients, and genuine files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dollkit.data.__main__ import survey
from dollkit.data.csvfile import BadRows
from dollkit.data.film_table import check_files
from dollkit.data.images import load_image
from dollkit.data.sets.v7 import DATASET, MASKS, NOTES, read_v7
from tests.small_files import error_of, layout, save, write_lines

GREY = np.array([[0, 255, 255, 0], [0, 255, 127, 0], [0, 0, 127, 0]], np.uint8)
COVID = ["View/AP_Supine", "Sex/F", "PatientID:97", "Age:61", "X-ray", "COVID-19"]


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (MASKS, NOTES, "images"):
            (root / folder).mkdir(parents=True)

    def note(self, name: str, original: str, tags: list[str], lungs: int = 2) -> None:
        data = {
            "image": {"original_filename": original, "width": 4, "height": 3},
            "annotations": [{"name": "Lung", "polygon": {"path": []}}] * lungs
            + [{"name": "Ignore", "polygon": {"path": []}}]
            + [{"name": tag, "tag": {}} for tag in tags],
        }
        (self.root / NOTES / f"{name}.json").write_text(json.dumps(data))
        save(self.root / MASKS / f"{name}.png", GREY)

    def film(self, name: str) -> None:
        save(self.root / "images" / name, np.full((3, 4), 50))


FILMS = {
    "11": ("person3_virus_7.jpeg", ["Viral Pneumonia"]),
    "12": ("person3_bacteria_9.jpeg", ["Bacterial Pneumonia"]),
    "13": ("NORMAL-28501-0001.jpeg", ["No Pneumonia (healthy)"]),
    "14": ("who.png", []),
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    out = Tree(tmp_path / "covid-19-xray-dataset")
    out.note("10", "original.jpg", COVID)
    out.film("10.png")
    for name, (original, tags) in FILMS.items():
        out.note(name, original, tags)
        out.film(original)
    return out


def test_ignored_pixels_arrive_as_255(tree: Tree) -> None:
    table = read_v7(tree.root)["lungs"]
    mask = table.masks["lungs"][0].load(3, 4)
    np.testing.assert_array_equal(mask, [[0, 1, 1, 0], [0, 1, 255, 0], [0, 0, 255, 0]])
    assert table.ignoring
    odd = GREY.copy()
    odd[2, 3] = 200
    save(tree.root / MASKS / "10.png", odd)
    assert "mask value 200: use only 0, 127, 255" in error_of(table.masks["lungs"][0].load, 3, 4)


def test_films_patients_and_tags(tree: Tree) -> None:
    table = read_v7(tree.root)["lungs"]
    films = table.films
    assert films["image_id"].tolist() == ["10", "11", "12", "13", "14"]
    child = "kermany_person3"
    patients = ["ieee_178", child, child, "kermany_normal28501", "v7_14"]
    assert films["patient_id"].tolist() == patients
    assert tuple(films.loc[0, ["view", "sex", "age"]]) == ("AP", "F", 61.0)
    assert tuple(films.loc[1, ["view", "sex"]]) == ("", "")
    np.testing.assert_array_equal(films["Pneumonia"], [1, 1, 1, np.nan, np.nan])
    assert films[["width", "height"]].drop_duplicates().to_numpy().tolist() == [[4, 3]]
    assert (films["fold"] == 0).all()
    assert films["path"][0] == str(tree.root / "images/10.png")
    assert films["where"][1] == str(tree.root / NOTES / "11.json")
    assert survey(DATASET, tree.root, decode=True).sound


def test_what_is_left_out_is_counted(tree: Tree) -> None:
    tree.note("20", "side.png", ["View/L"], lungs=0)
    tree.film("side.png")
    tree.note("21", "slice.png", ["CT", "COVID-19"], lungs=0)
    tree.note("22", "blank.png", ["View/PA"], lungs=0)
    tree.film("blank.png")
    tree.note("23", "gone.png", ["View/PA"])
    table = read_v7(tree.root)["lungs"]
    left_out = {"masks of laterals or CT": 2, "masks without lung": 1, "masks without film": 1}
    assert table.facts == {"masks": 9, "films": 5, "patients": 4} | left_out
    assert tree.root / MASKS / "23.png" in table.others
    assert tree.root / "images/side.png" in table.others
    assert survey(DATASET, tree.root, decode=True).sound


def test_films_in_a_copy_of_ieee8023_beside_it(tree: Tree) -> None:
    beside = tree.root.parent / "covid-chestxray-dataset"
    save(beside / "images/far.png", np.full((3, 4), 60))
    rows = [
        f"{patient},COVID-19,PA,X-ray,{name}.png," for patient, name in ((5, "far"), (6, "who"))
    ]
    write_lines(beside / "metadata.csv", ["patientid,finding,view,modality,filename,", *rows])
    tree.note("30", "far.png", ["View/PA"])
    table = read_v7(tree.root)["lungs"]
    films = table.films.set_index("image_id")
    assert films.loc["30", "path"] == str(beside / "images/far.png")
    assert films.loc[["30", "14"], "patient_id"].tolist() == ["ieee_5", "ieee_6"]
    assert table.root == tree.root
    check_files(table)
    assert survey(DATASET, tree.root, decode=True).sound


IMAGE = {"original_filename": "a", "width": 4, "height": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("{", "not a JSON file"),
        ({"image": IMAGE | {"original_filename": "../a"}, "annotations": []},
         "original_filename '../a' is no file name"),
        ({"image": IMAGE, "annotations": [{}]}, "annotations[0]: no name"),
    ],
)  # fmt: skip
def test_wrong_annotation_files(tree: Tree, content: Any, words: str) -> None:
    path = tree.root / NOTES / "11.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    message = error_of(read_v7, tree.root)
    assert words in message
    assert "11.json" in message
    table = read_v7(tree.root, BadRows())["lungs"]
    assert table.films["image_id"].tolist() == ["10", "12", "13", "14"]
    assert words in table.bad[0][2]


def test_no_films(tree: Tree, tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) == DATASET.find(tree.root) == tree.root
    assert DATASET.find(tree.root / "images") is None
    for file in (tree.root / "images").iterdir():
        file.unlink()
    assert "none of 5 masks has its film: put the images" in error_of(read_v7, tree.root)


def test_genuine_masks(shared_dir: Path) -> None:
    genuine = layout(shared_dir, "v7_covid-19-xray-dataset")
    assert DATASET.find(genuine) == genuine
    report = survey(DATASET, genuine, decode=True)
    assert report.sound, report.problems
    table = read_v7(genuine)["lungs"]
    films = table.films
    assert films["patient_id"].tolist() == [f"ieee_{i}" for i in (263, 261, 254, 229, 242)]
    assert (films["view"] + films["sex"]).tolist() == ["PAM", "APM", "APF", "PAF", "PAM"]
    assert (films["Pneumonia"] == 1).all()
    assert table.facts["masks"] == table.facts["films"] == 5
    assert {load_image(path).shape for path in films["path"]} == {(2000, 2000)}
    inside = [int((mask.load(2000, 2000) == 1).sum()) for mask in table.masks["lungs"]]
    assert inside == [1005533, 1916629, 1450184, 1593565, 1584265]
