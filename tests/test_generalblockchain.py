"""General Blockchain's masks: crops put at their place by hand, odd rows, genuine masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.data.__main__ import survey
from dollkit.data.film_table import FilmTable
from dollkit.data.images import load_image
from dollkit.data.sets.general_blockchain import DATASET, NEEDED, read_generalblockchain
from tests.small_files import error_of, layout

WIDTH, HEIGHT = 30, 20
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
        mask[top : top + height, left : left + width] |= crop(height, width)[..., 0] > 0
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
        row = dict.fromkeys(NEEDED, "") | {"Class": cls, "Filename": name}
        row |= {"Image": f"images/hash_{name}", "Resolution": f"{WIDTH}x{HEIGHT}"}
        row |= {"Top": f"{top}", "Left": f"{left}", "Width": f"{width}", "Height": f"{height}"}
        if cls in BOXES:
            row["Mask"] = f"masks/{name}_{len(self.rows)}.png"
            Image.fromarray(crop(height, width)).save(self.root / row["Mask"])
        self.rows.append(row)

    def save(self) -> Path:
        pd.DataFrame(self.rows).to_csv(self.root / "structure.csv", index=False)
        pd.DataFrame(self.meta).to_csv(self.root / "metadata.csv", index=False)
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
    for cls in organs.mask_classes:
        drawn = placed(f"COVID-19 {cls.title()}")
        np.testing.assert_array_equal(load(organs, "all", cls), drawn)
    assert load(organs, "one", "right lung") is None
    assert load(organs, "clear", "cardiomediastinum") is None
    np.testing.assert_array_equal(load(tables["lungs"], "clear", "lungs"), placed(*LUNGS))
    infected = placed("COVID-19 Ground Glass Opacities", "COVID-19 Consolidation")
    np.testing.assert_array_equal(load(tables["infection"], "all", "infection"), infected)
    infected = placed("COVID-19 Consolidation")
    np.testing.assert_array_equal(load(tables["infection"], "one", "infection"), infected)
    assert organs.films["fold"].nunique() == 3
    assert (organs.films["split"] == "train").all()
    first = tables["lungs"].films.iloc[0]
    assert tuple(first[["patient_id", "view", "sex", "age"]]) == ("ieee_1", "PA", "F", 40.0)
    assert first["where"] == f"{tree.root / 'structure.csv'}, row 2"


def test_counts_and_leftovers(tree: Tree) -> None:
    hashed = tree.root / "images/hash_all.png"
    (tree.root / "images/all.png").rename(hashed)
    tree.film("side.png", "3", LUNGS, view="L")
    tree.film("tube.png", "3", ["COVID-19 Airways"])
    report = survey(DATASET, tree.save(), decode=True, subset=True)
    assert report.problems.empty, report.problems
    table = read_generalblockchain(tree.root)["lungs"]
    assert "side" not in set(table.films["image_id"])
    assert table.films["path"][0] == str(hashed)
    assert tree.root / "images/side.png" in table.others
    assert table.facts == {
        "films": 5,
        "masks": 13,
        "rows without mask": 1,
        "frontal films": 3,
        "patients": 3,
        "films with left lung": 3,
        "films with right lung": 2,
        "films with cardiomediastinum": 1,
        "films with ground glass opacity": 1,
        "films with consolidation": 2,
    }


@pytest.mark.parametrize(
    ("row", "cells", "words"),
    [
        (0, {"Top": "-1"}, "row 2, column 'Top': value '-1': use a whole number of pixels"),
        (2, {"Resolution": "30*20"}, "row 4, column 'Resolution': value '30*20': use width x"),
        (3, {"Left": "26"}, "row 5, column 'Mask'"),
        (0, {"Mask": "../a.png"}, "row 2, column 'Mask': value '../a.png'"),
        (0, {"Filename": "/all.png"}, "row 2, column 'Filename': value '/all.png'"),
    ],
)
def test_a_wrong_row_costs_its_whole_film(
    tree: Tree, row: int, cells: dict[str, str], words: str
) -> None:
    tree.rows[row] |= cells
    root = tree.save()
    assert words in error_of(read_generalblockchain, root)
    tables = read_generalblockchain(root, skip_bad=True)
    assert words in tables["organs"].bad.frame()["reason"][0]
    # Else the film would keep an infection mask that lacks a part.
    left = [" ".join(t.films["image_id"]) for t in tables.values()]
    assert left == ["one", "one clear", "clear"]


def test_tables_that_cannot_be_read(tree: Tree, tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    root = tree.save()
    assert DATASET.find(root) == root
    with (root / "structure.csv").open("a") as file:
        file.write("99,COVID-19 Consolidation\n")
    for skip_bad in (False, True):  # whose mask it was cannot be told
        message = error_of(read_generalblockchain, root, skip_bad=skip_bad)
        assert "row 13: 2 cells under 9 columns" in message
    tree.rows = [r for r in tree.rows if "Probes" in r["Class"]]
    assert "no film with a mask is left" in error_of(read_generalblockchain, tree.save())
    (root / "metadata.csv").unlink()
    assert "metadata.csv: no such file" in error_of(read_generalblockchain, root)


def test_genuine_masks(shared_dir: Path) -> None:
    root = layout(shared_dir, "generalblockchain_segmentations")
    assert DATASET.find(root) == root
    report = survey(DATASET, root, decode=True, subset=True)
    assert report.sound, report.problems
    tables = read_generalblockchain(root)
    assert {name: len(t) for name, t in tables.items()} == dict.fromkeys(DATASET.stores, 5)
    organs = tables["organs"]
    facts = {"films": 5, "masks": 34, "rows without mask": 2, "patients": 3}
    assert (facts | {"films with consolidation": 1}).items() <= organs.facts.items()
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
