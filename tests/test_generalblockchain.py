"""General Blockchain's masks: crops put at their place by hand, odd rows, genuine masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.check import survey
from dollkit.data.decode import load_image
from dollkit.data.film_table import FilmTable, lost_files
from dollkit.data.sets.general_blockchain import DATASET, read_generalblockchain, read_lung_boxes

WIDTH, HEIGHT = 30, 20
COLUMNS = [
    "#",
    "Class",
    "Filename",
    "Image",
    "Mask",
    "Resolution",
    "Top",
    "Left",
    "Width",
    "Height",
]
META = ["patientid", "finding", "view", "modality", "filename", "sex", "age", ""]
BOXES: dict[str, tuple[int, int, int, int]] = {
    # top, left, height, width
    "COVID-19 Right Lung": (2, 3, 12, 8),
    "COVID-19 Left Lung": (3, 18, 11, 9),
    "COVID-19 Cardiomediastinum": (5, 9, 10, 12),
    "COVID-19 Ground Glass Opacities": (4, 4, 3, 5),
    "COVID-19 Consolidation": (6, 6, 4, 4),
    "COVID-19 Airways": (0, 12, 5, 4),
}
LUNGS = ["COVID-19 Right Lung", "COVID-19 Left Lung"]


def crop(height: int, width: int) -> np.ndarray:
    """Colour inside, opaque black in the first corner."""
    picture = np.zeros((height, width, 4), np.uint8)
    picture[..., 3] = 255
    picture[..., 0] = 200
    picture[0, 0, 0] = 0
    return picture


def placed(*names: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name in names:
        top, left, height, width = BOXES[name]
        box = np.ones((height, width), np.uint8)
        box[0, 0] = 0
        mask[top : top + height, left : left + width] |= box
    return mask


class Tree:
    """A small data set; `save` writes the two tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[dict[str, str]] = []
        self.meta: list[dict[str, str]] = []
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)

    def film(self, name: str, patient: str, classes: list[str], view: str = "PA") -> None:
        Image.new("L", (WIDTH, HEIGHT), 99).save(self.root / "images" / name)
        meta = {"patientid": patient, "filename": name, "view": view, "modality": "X-ray"}
        self.meta.append({**dict.fromkeys(META, ""), **meta, "sex": "F", "age": "40"})
        for cls in classes:
            self.mask(name, cls)

    def mask(self, name: str, cls: str) -> None:
        top, left, height, width = BOXES.get(cls, (0, 0, HEIGHT, WIDTH))
        row = dict.fromkeys(COLUMNS, "")
        row |= {"#": str(len(self.rows)), "Class": cls, "Filename": name}
        row |= {"Image": f"images/hash_{name}", "Resolution": f"{WIDTH}x{HEIGHT}"}
        row |= {"Top": f"{top}", "Left": f"{left}", "Width": f"{width}", "Height": f"{height}"}
        if cls in BOXES:
            row["Mask"] = f"masks/{name}_{len(self.rows)}.png"
            Image.fromarray(crop(height, width)).save(self.root / row["Mask"])
        self.rows.append(row)

    def save(self) -> Path:
        for name, columns, rows in (
            ("structure.csv", COLUMNS, self.rows),
            ("metadata.csv", META, self.meta),
        ):
            with (self.root / name).open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(columns)
                table.writerows([row[c] for c in columns] for row in rows)
        return self.root


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    out = Tree(tmp_path / "gb")
    out.film("all.png", "1", list(BOXES))
    named = ["COVID-19 Left Lung", "COVID-19 Consolidation", "COVID-19 Monitoring Probes"]
    out.film("one.png", "2", named)
    out.film("clear.png", "3", LUNGS)
    return out


def load(table: FilmTable, film: str, cls: str) -> np.ndarray | None:
    row = table.films.index[table.films["image_id"] == film][0]
    mask = table.masks[cls][row]
    return None if mask is None else mask.load(HEIGHT, WIDTH)


def test_crops_land_at_their_place(tree: Tree) -> None:
    tables = read_generalblockchain(tree.save())
    assert {k: list(t.films["image_id"]) for k, t in tables.items()} == {
        "infection": ["all", "one"],
        "organs": ["all", "one", "clear"],
        "lungs": ["all", "clear"],
    }
    organs = tables["organs"]
    assert organs.mask_classes == ("left lung", "right lung", "cardiomediastinum")
    for cls, name in (
        ("left lung", "COVID-19 Left Lung"),
        ("right lung", "COVID-19 Right Lung"),
        ("cardiomediastinum", "COVID-19 Cardiomediastinum"),
    ):
        np.testing.assert_array_equal(load(organs, "all", cls), placed(name))
    assert load(organs, "one", "right lung") is None
    assert load(organs, "clear", "cardiomediastinum") is None
    np.testing.assert_array_equal(load(tables["lungs"], "clear", "lungs"), placed(*LUNGS))
    infected = placed("COVID-19 Ground Glass Opacities", "COVID-19 Consolidation")
    np.testing.assert_array_equal(load(tables["infection"], "all", "infection"), infected)
    np.testing.assert_array_equal(
        load(tables["infection"], "one", "infection"), placed("COVID-19 Consolidation")
    )
    first = tables["lungs"].films.iloc[0]
    assert tuple(first[["patient_id", "view", "sex", "age"]]) == ("ieee_1", "PA", "F", 40.0)
    assert first["where"] == f"{tree.root / 'structure.csv'}, row 2"


def test_counts_and_leftovers(tree: Tree) -> None:
    report = survey(DATASET, tree.save(), decode=True, subset=True)
    assert report.problems.empty, report.problems
    facts = read_generalblockchain(tree.root)["organs"].facts
    assert facts == {
        "films": 3,
        "masks": 10,
        "rows without mask": 1,
        "frontal films": 3,
        "patients": 3,
        "films with left lung": 3,
        "films with right lung": 2,
        "films with cardiomediastinum": 1,
        "films with ground glass opacity": 1,
        "films with consolidation": 2,
    }
    assert set(DATASET.documented) <= set(facts)


def test_two_crops_of_one_class_are_joined(tree: Tree) -> None:
    tree.mask("clear.png", "COVID-19 Airways")
    tree.rows[-1]["Class"] = "COVID-19 Left Lung"
    tables = read_generalblockchain(tree.save())
    both = placed("COVID-19 Airways", "COVID-19 Left Lung")
    np.testing.assert_array_equal(load(tables["organs"], "clear", "left lung"), both)
    np.testing.assert_array_equal(
        load(tables["lungs"], "clear", "lungs"), both | placed("COVID-19 Right Lung")
    )


def test_a_resized_film_is_refused(tree: Tree) -> None:
    tables = read_generalblockchain(tree.save())
    mask = tables["organs"].masks["left lung"][0]
    with pytest.raises(InputError, match="for a film of 30x20, the image is 60x40: use the image"):
        mask.load(40, 60)


def test_folds_keep_patients_together(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "gb")
    for i in range(16):
        tree.film(f"{i}.png", str(i // 2), LUNGS)
    films = read_generalblockchain(tree.save())["lungs"].films
    assert films.groupby("fold").size().tolist() == [4, 4, 4, 4]
    assert films.groupby("patient_id")["fold"].nunique().max() == 1
    assert (films["split"] == "train").all()
    again = read_generalblockchain(tree.root)["lungs"].films
    assert again["fold"].tolist() == films["fold"].tolist()


def test_images_under_their_hashed_names(tree: Tree) -> None:
    (tree.root / "images/all.png").rename(tree.root / "images/hash_all.png")
    tables = read_generalblockchain(tree.save())
    assert tables["lungs"].films["path"][0] == str(tree.root / "images/hash_all.png")
    assert lost_files(tables["lungs"]).empty


def test_lateral_films_are_left_out(tree: Tree) -> None:
    tree.film("side.png", "3", LUNGS, view="L")
    tables = read_generalblockchain(tree.save())
    assert "side" not in set(tables["lungs"].films["image_id"])
    assert tree.root / "images/side.png" in tables["lungs"].others
    assert tables["lungs"].facts["films"] == 4
    tree.film("tube.png", "3", ["COVID-19 Airways"])
    report = survey(DATASET, tree.save(), decode=True, subset=True)
    assert report.problems.empty, report.problems


@pytest.mark.parametrize(
    ("row", "cells", "words"),
    [
        (0, {"Top": "-1"}, "row 2, column 'Top': value '-1': use a whole number of pixels"),
        (1, {"Width": "9.5"}, "row 3, column 'Width': value '9.5'"),
        (2, {"Resolution": "30*20"}, "row 4, column 'Resolution': value '30*20': use width x"),
        (3, {"Left": "26"}, "row 5, column 'Mask'"),
        (4, {"Height": "0"}, "row 6, column 'Mask'"),
        (0, {"Mask": "../a.png"}, "row 2, column 'Mask': value '../a.png'"),
        (0, {"Mask": ""}, "row 2, column 'Mask': value ''"),
        (0, {"Filename": "/all.png"}, "row 2, column 'Filename': value '/all.png'"),
    ],
)
def test_a_wrong_row_costs_its_whole_film(
    tree: Tree, row: int, cells: Mapping[str, str], words: str
) -> None:
    tree.rows[row] |= cells
    root = tree.save()
    with pytest.raises(InputError) as caught:
        read_generalblockchain(root)
    assert words in str(caught.value)
    tables = read_generalblockchain(root, skip_bad=True)
    assert words in tables["organs"].bad.frame()["reason"][0]
    # Else the film would keep an infection mask that lacks a part.
    assert [list(t.films["image_id"]) for t in tables.values()] == [
        ["one"],
        ["one", "clear"],
        ["clear"],
    ]


def test_a_film_that_metadata_does_not_list(tree: Tree) -> None:
    del tree.meta[2]
    root = tree.save()
    with pytest.raises(InputError, match=r"row 11: film 'clear.png' is not in metadata.csv"):
        read_generalblockchain(root)
    tables = read_generalblockchain(root, skip_bad=True)
    assert tables["lungs"].films["image_id"].tolist() == ["all"]


def test_a_torn_row_stops_the_reading(tree: Tree) -> None:
    root = tree.save()
    with (root / "structure.csv").open("a") as file:
        file.write("99,COVID-19 Consolidation\n")
    for skip_bad in (False, True):
        with pytest.raises(InputError, match="row 13: 2 cells under 10 columns"):
            read_generalblockchain(root, skip_bad=skip_bad)


def test_tables_that_cannot_be_read(tree: Tree, tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    root = tree.save()
    assert DATASET.find(root) == root
    (root / "metadata.csv").unlink()
    with pytest.raises(InputError, match=r"metadata.csv: no such file"):
        read_generalblockchain(root)
    tree.rows = [r for r in tree.rows if "Probes" in r["Class"]]
    with pytest.raises(InputError, match="no film with a mask is left"):
        read_generalblockchain(tree.save())


def coco(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}],
        "images": [{"id": 7, "file_name": "a.jpg", "height": 100, "width": 200}],
        "annotations": [
            {"image_id": 7, "bbox": [10, 20, 60, 70], "category_id": 1},
            {"image_id": 7, "bbox": [100, 20, 99.5, 80], "category_id": 2},
            {"image_id": 7, "bbox": [0, 0, 1, 1]},
        ],
    }
    return data | changes


def test_lung_boxes_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco()))
    boxes = read_lung_boxes(path)
    assert boxes.to_numpy().tolist() == [
        ["a.jpg", "right", 10.0, 20.0, 60.0, 70.0],
        ["a.jpg", "left", 100.0, 20.0, 99.5, 80.0],
    ]
    assert boxes.attrs["without category"] == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "not a JSON file"),
        ("[]", "no list 'images'"),
        (coco(images=[{"file_name": "a"}]), "images[0]: 'id' is missing"),
        (coco(annotations=[{"image_id": 7}]), "annotations[0]: 'bbox' is missing"),
        (
            coco(annotations=[{"image_id": 8, "bbox": [0, 0, 1, 1], "category_id": 1}]),
            "annotations[0]: no image has the id 8",
        ),
        (
            coco(annotations=[{"image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 3}]),
            "annotations[0]: category 3 is neither lung",
        ),
        (
            coco(annotations=[{"image_id": 7, "bbox": [0, 0, 201, 1], "category_id": 1}]),
            "leaves its 200x100 image",
        ),
        (
            coco(annotations=[{"image_id": 7, "bbox": [0, 0, float("nan"), 1], "category_id": 1}]),
            "leaves its 200x100 image",
        ),
        (
            coco(annotations=[{"image_id": 7, "bbox": [0, 0, 1], "category_id": 1}]),
            "is no numbers",
        ),
    ],
)
def test_lung_boxes_that_are_wrong(tmp_path: Path, data: Any, words: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(InputError) as caught:
        read_lung_boxes(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def layouts(shared_dir: Path) -> Path:
    folder = shared_dir / "layouts"
    if not (folder / "generalblockchain_segmentations").is_dir():
        pytest.skip(f"no genuine masks in {folder}")
    return folder


def test_genuine_masks(layouts: Path) -> None:
    root = layouts / "generalblockchain_segmentations"
    assert DATASET.find(root) == root
    report = survey(DATASET, root, decode=True, subset=True)
    assert report.sound, report.problems
    tables = read_generalblockchain(root)
    assert {name: len(t) for name, t in tables.items()} == {
        "infection": 5,
        "organs": 5,
        "lungs": 5,
    }
    facts = tables["organs"].facts
    assert (facts["films"], facts["masks"], facts["rows without mask"]) == (5, 34, 2)
    assert (facts["patients"], facts["films with consolidation"]) == (3, 1)
    organs = tables["organs"]
    for i, path in enumerate(organs.films["path"]):
        shape = load_image(path).shape
        left, right, middle = (organs.masks[c][i].load(*shape) for c in organs.mask_classes)
        both = tables["lungs"].masks["lungs"][i].load(*shape)
        infected = tables["infection"].masks["infection"][i].load(*shape)
        assert all(m.shape == shape for m in (left, right, middle, both, infected))
        np.testing.assert_array_equal(both, left | right)
        assert set(np.unique(infected)) == {0, 1}
        columns = [np.nonzero(m)[1].mean() for m in (right, middle, left)]
        # The patient's left is on the right of the picture.
        assert columns == sorted(columns)
        # Infection lies in the lungs or behind heart and diaphragm.
        assert (infected & both).sum() > 0.5 * infected.sum()


def test_genuine_lung_boxes_agree_with_the_masks(layouts: Path) -> None:
    file = layouts / "generalblockchain_lung_bboxes/annotations/annotations.json"
    boxes = read_lung_boxes(file)
    assert boxes.groupby("side").size().to_dict() == {"left": 8, "right": 8}
    assert boxes["image"].nunique() == 8
    organs = read_generalblockchain(layouts / "generalblockchain_segmentations")["organs"]
    compared = 0
    for i, path in enumerate(map(Path, organs.films["path"])):
        shape = load_image(path).shape
        of_film = boxes[boxes["image"] == path.name].set_index("side")
        for side in ("left", "right"):
            x, y, w, h = of_film.loc[side, ["x", "y", "w", "h"]].astype(float)
            ys, xs = np.nonzero(organs.masks[f"{side} lung"][i].load(*shape))
            apart = np.abs(np.array([xs.min() - x, ys.min() - y]) / [w, h])
            ends = np.abs(np.array([xs.max() - x - w, ys.max() - y - h]) / [w, h])
            assert max(*apart, *ends) < 0.35
            compared += 1
    assert compared == 10
