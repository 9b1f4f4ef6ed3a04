"""The COVID-19 image data collection, and General Blockchain's masks on its films."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.findings import FINDINGS
from dollkit.data.__main__ import survey
from dollkit.data.csvfile import BadRows
from dollkit.data.film_table import FilmTable
from dollkit.data.images import load_image
from dollkit.data.sets.covid_chestxray import (
    DATASET,
    GENERALBLOCKCHAIN,
    STRUCTURE,
    named_findings,
    read_generalblockchain,
    read_ieee8023,
)
from dollkit.data.splits import share
from tests.small_files import error_of, layout, save

HEADER = "patientid,sex,age,finding,view,modality,folder,filename,license,clinical_notes,"
NAMES = HEADER.split(",")
ROWS = [
    ("1", "F", "50", "COVID-19, ARDS", "PA", "X-ray", "images", "a.jpg", "CC BY", "two\r\nlines"),
    ("1", "F", "51", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "images", "a.png", "", ""),
    ("2", "M", "", "No Finding", "AP", "X-ray", "images", "b.JPG", "CC BY", ""),
    ("3", "?", "old", "Gout", "AP semi erect", "X-ray", "images", "c.png", "CC BY-NC-SA", ""),
    ("3", "", "", "COVID-19", "L", "X-ray", "images", "lateral.png", "", ""),
    ("4", "", "", "COVID-19", "Axial", "CT", "images", "slice.jpg", "", ""),
    ("4", "", "", "COVID-19", "Coronal", "CT", "volumes", "scan.nii.gz", "", ""),
    ("97", "", "", "todo", "PA", "X-ray", "images", "d.jpg", "CC BY", ""),
    ("178", "", "", "Tuberculosis", "PA", "X-ray", "images", "e.jpg", "CC BY", ""),
    ("178", "", "", "Tuberculosis", "PA", "X-ray", "images", "e.jpg", "CC BY", ""),
]


def write_rows(root: Path, rows: Sequence[Sequence[str]] = ROWS) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([[*row, ""] for row in rows], columns=NAMES)
    table.to_csv(root / "metadata.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    return root


def test_diagnoses_by_hand() -> None:
    for text, found, known in (
        ("COVID-19, ARDS", {"Pneumonia"}, True),
        ("Pneumonia/Viral/Influenza/H1N1", {"Pneumonia"}, True),
        ("Pneumonia/Bacterial/Of Mars", {"Pneumonia"}, False),
        ("Tuberculosis", set(), True),
        ("Gout", set(), False),
    ):
        assert named_findings(text) == (found, known), text


def test_films_are_the_frontal_radiographs(tmp_path: Path) -> None:
    table = read_ieee8023(write_rows(tmp_path))["films"]
    films = table.films.set_index("image_id")
    assert list(films.index) == ["a_jpg", "a_png", "b", "c", "d", "e"]
    assert films["view"].tolist() == ["PA", "AP", "AP", "AP", "PA", "PA"]
    assert films["sex"].tolist() == ["F", "F", "M", "", "", ""]
    np.testing.assert_array_equal(films["age"], [50, 51] + [np.nan] * 4)
    assert films["patient_id"].tolist() == ["ieee_1"] * 2 + ["ieee_2", "ieee_3"] + ["ieee_178"] * 2
    np.testing.assert_array_equal(films["Pneumonia"], [1, 1] + [np.nan] * 4)
    np.testing.assert_array_equal(films["No Finding"], [np.nan] * 2 + [1] + [np.nan] * 3)
    assert films[list(FINDINGS)].notna().sum().sum() == 3
    places = films["patient_id"].map(share)
    parts = pd.cut(places, [0, 0.7, 0.8, 1], right=False, labels=["train", "valid", "test"])
    assert films["split"].tolist() == parts.tolist()
    assert films["path"].iloc[0] == str(tmp_path / "images" / "a.jpg")
    # A note of two lines is one row.
    assert films["where"].iloc[1].endswith("metadata.csv, row 3")
    others = {p.name for p in table.others}
    assert {"lateral.png", "slice.jpg"} <= others
    assert "scan.nii.gz" not in others
    assert table.facts == {
        "rows": 10, "films": 6, "patients": 4, "rows of CT or lateral views": 3,
        "rows that repeat a file": 1, "films with a diagnosis not mapped": 1,
        "films, licence CC BY": 4, "films, licence CC BY-NC-SA": 1, "films, licence not stated": 1,
    }  # fmt: skip
    assert len(table.bad) == 0


def test_wrong_rows_of_films(tmp_path: Path) -> None:
    for row, column, value, words, left in (
        (2, "patientid", " ", "row 4, column 'patientid': value ' ': use the patient's id", "b"),
        (3, "filename", "../c.png", "row 5, column 'filename': value '../c.png'", "c"),
        (9, "patientid", "5", "row 11: file 'e.jpg' stands under another patient too", ""),
    ):
        rows = [list(cells) for cells in ROWS]
        rows[row][NAMES.index(column)] = value
        root = write_rows(tmp_path, rows)
        assert words in error_of(read_ieee8023, root)
        table = read_ieee8023(root, BadRows())["films"]
        assert words in table.bad[0][2]
        assert set(table.films["image_id"]) == {"a_jpg", "a_png", "b", "c", "d", "e"} - {left}


def test_where_films_are_found(tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    root = write_rows(tmp_path / "covid-chestxray-dataset")
    assert DATASET.find(tmp_path) == DATASET.find(root) == root
    # General Blockchain's masks come with the same table.
    (root / "structure.csv").touch()
    assert DATASET.find(root) is None
    (root / "structure.csv").unlink()
    (root / "metadata.csv").write_text("image,finding\n")
    assert DATASET.find(root) is None


def test_genuine_rows_and_films(shared_dir: Path) -> None:
    genuine = layout(shared_dir, "ieee8023_covid-chestxray-dataset")
    report = survey(DATASET, genuine, decode=True)
    assert report.sound, report.problems
    assert report.decoded == 8
    table = read_ieee8023(genuine)["films"]
    films = table.films
    patients = (21, 64, *[178] * 3, 273, 283, 284)
    assert films["patient_id"].tolist() == [f"ieee_{i}" for i in patients]
    assert films["age"].isna().sum() == 1
    assert (films["view"] == "PA").all()
    # COVID-19, Pneumocystis, Lipoid and Klebsiella.
    assert (films["Pneumonia"] == 1).all()
    assert table.facts["films, licence CC BY-NC-SA"] == 5
    assert table.facts["films with a diagnosis not mapped"] == 0


# General Blockchain.

WIDTH, HEIGHT = 30, 20
BOXES = {  # top, left, height, width
    "Right Lung": (2, 3, 12, 8),
    "Left Lung": (3, 18, 11, 9),
    "Cardiomediastinum": (5, 9, 10, 12),
    "Ground Glass Opacities": (4, 4, 3, 5),
    "Consolidation": (6, 6, 4, 4),
    "Airways": (0, 12, 5, 4),
}
LUNGS = ("Right Lung", "Left Lung")
Film = tuple[str, str, str, Iterable[str]]  # file, patient, view, classes of its masks
FILMS: list[Film] = [
    ("all.png", "1", "PA", BOXES),
    ("one.png", "2", "PA", ("Left Lung", "Consolidation", "Monitoring Probes")),
    ("clear.png", "3", "PA", LUNGS),
]


def placed(*names: str) -> np.ndarray:
    """Masks as they are drawn: all of the box but its first corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name in names:
        top, left, height, width = BOXES[name]
        box = np.ones((height, width), np.uint8)
        box[0, 0] = 0
        mask[top : top + height, left : left + width] |= box
    return mask


def write_masks(root: Path, films: Iterable[Film] = FILMS, row: int = 0, **cells: str) -> Path:
    """A small data set, with other `cells` in one row of its structure.csv."""
    rows, meta = [], []
    for name, patient, view, classes in films:
        save(root / "images" / name, np.full((HEIGHT, WIDTH), 99))
        meta.append((patient, "F", "40", "", view, "X-ray", "images", name, "", ""))
        for cls in classes:
            top, left, height, width = BOXES.get(cls, (0, 0, HEIGHT, WIDTH))
            mask = {"Class": f"COVID-19 {cls}", "Filename": name, "Image": f"images/hash_{name}"}
            mask |= {"Resolution": f"{WIDTH}x{HEIGHT}", "Top": f"{top}", "Left": f"{left}"}
            mask |= {"Width": f"{width}", "Height": f"{height}"}
            if cls in BOXES:
                mask["Mask"] = f"masks/{name}_{len(rows)}.png"
                colour = np.full((height, width, 4), (200, 0, 0, 255))
                colour[0, 0, 0] = 0  # opaque black is outside
                save(root / mask["Mask"], colour)
            rows.append(mask)
    rows[row] |= cells
    pd.DataFrame(rows, columns=STRUCTURE).to_csv(root / "structure.csv", index=False)
    return write_rows(root, meta)


def load(table: FilmTable, film: str, cls: str) -> np.ndarray | None:
    row = table.films.index[table.films["image_id"] == film][0]
    mask = table.masks[cls][row]
    return None if mask is None else mask.load(HEIGHT, WIDTH)


def test_crops_land_at_their_place(tmp_path: Path) -> None:
    tables = read_generalblockchain(write_masks(tmp_path))
    assert {k: list(t.films["image_id"]) for k, t in tables.items()} == {
        "infection": ["all", "one"],
        "organs": ["all", "one", "clear"],
        "lungs": ["all", "clear"],
    }
    organs = tables["organs"]
    assert organs.mask_classes == ("left lung", "right lung", "cardiomediastinum")
    for cls in organs.mask_classes:
        np.testing.assert_array_equal(load(organs, "all", cls), placed(cls.title()))
    assert load(organs, "one", "right lung") is None
    assert load(organs, "clear", "cardiomediastinum") is None
    np.testing.assert_array_equal(load(tables["lungs"], "clear", "lungs"), placed(*LUNGS))
    for film, names in (("all", ("Ground Glass Opacities",)), ("one", ())):
        infected = load(tables["infection"], film, "infection")
        np.testing.assert_array_equal(infected, placed("Consolidation", *names))
    assert organs.films["fold"].nunique() == 3
    assert (organs.films["split"] == "train").all()
    first = tables["lungs"].films.iloc[0]
    assert tuple(first[["patient_id", "view", "sex", "age"]]) == ("ieee_1", "PA", "F", 40.0)
    assert first["where"] == f"{tmp_path / 'structure.csv'}, row 2"
    wrong = "for a film of 30x20, the image is 60x40: use the image"
    assert wrong in error_of(organs.masks["left lung"][0].load, 40, 60)


def test_counts_and_leftovers(tmp_path: Path) -> None:
    more = [("side.png", "3", "L", LUNGS), ("tube.png", "3", "PA", ["Airways"])]
    root = write_masks(tmp_path, [*FILMS, *more])
    hashed = (root / "images/all.png").rename(root / "images/hash_all.png")
    report = survey(GENERALBLOCKCHAIN, root, decode=True, subset=True)
    assert report.problems.empty, report.problems
    table = read_generalblockchain(root)["lungs"]
    assert "side" not in set(table.films["image_id"])
    assert table.films["path"][0] == str(hashed)
    assert root / "images/side.png" in table.others
    assert table.facts == {
        "films": 5, "masks": 13, "rows without mask": 1, "frontal films": 3, "patients": 3,
        "films with left lung": 3, "films with right lung": 2, "films with cardiomediastinum": 1,
        "films with ground glass opacity": 1, "films with consolidation": 2,
    }  # fmt: skip


def test_a_wrong_row_costs_its_whole_film(tmp_path: Path) -> None:
    for row, cells, words in (
        (0, {"Top": "-1"}, "row 2, column 'Top': value '-1': use a whole number of pixels"),
        (2, {"Resolution": "30*20"}, "row 4, column 'Resolution': value '30*20': use width x"),
        (3, {"Left": "26"}, "row 5, column 'Mask'"),
        (0, {"Mask": "../a.png"}, "row 2, column 'Mask': value '../a.png'"),
        (0, {"Filename": "/all.png"}, "row 2, column 'Filename': value '/all.png'"),
    ):
        root = write_masks(tmp_path, row=row, **cells)
        assert words in error_of(read_generalblockchain, root)
        tables = read_generalblockchain(root, BadRows())
        assert words in tables["organs"].bad[0][2]
        # Else the film would keep an infection mask that lacks a part.
        left = [["one"], ["one", "clear"], ["clear"]]
        assert [list(t.films["image_id"]) for t in tables.values()] == left


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    assert GENERALBLOCKCHAIN.find(tmp_path) is None
    root = write_masks(tmp_path)
    assert GENERALBLOCKCHAIN.find(root) == root
    with (root / "structure.csv").open("a") as file:
        file.write("99,COVID-19 Consolidation\n")
    for skip_bad in (False, True):  # whose mask it was cannot be told
        message = error_of(read_generalblockchain, root, BadRows(skip_bad))
        assert "row 13: 2 cells under 9 columns" in message
    write_masks(root, [("one.png", "2", "PA", ["Monitoring Probes"])])
    assert "no film with a mask is left" in error_of(read_generalblockchain, root)
    (root / "metadata.csv").unlink()
    assert "metadata.csv: no such file" in error_of(read_generalblockchain, root)


def test_genuine_masks(shared_dir: Path) -> None:
    root = layout(shared_dir, "generalblockchain_segmentations")
    assert GENERALBLOCKCHAIN.find(root) == root
    report = survey(GENERALBLOCKCHAIN, root, decode=True, subset=True)
    assert report.sound, report.problems
    tables = read_generalblockchain(root)
    assert [len(tables[name]) for name in GENERALBLOCKCHAIN.stores] == [5] * 3
    organs = tables["organs"]
    counts = {"films": 5, "masks": 34, "rows without mask": 2, "films with consolidation": 1}
    assert organs.facts.items() >= (counts | {"patients": 3}).items()
    for i, path in enumerate(organs.films["path"]):
        shape = load_image(path).shape
        left, right, middle = (organs.masks[c][i].load(*shape) for c in organs.mask_classes)
        both = tables["lungs"].masks["lungs"][i].load(*shape)
        infected = tables["infection"].masks["infection"][i].load(*shape)
        np.testing.assert_array_equal(both, left | right)
        assert set(np.unique(infected)) == {0, 1}
        columns = [np.nonzero(m)[1].mean() for m in (right, middle, left)]
        # The patient's left is on the right of the picture.
        assert columns == sorted(columns)
        # Infection lies in the lungs or behind heart and diaphragm.
        assert (infected & both).sum() > 0.5 * infected.sum()
