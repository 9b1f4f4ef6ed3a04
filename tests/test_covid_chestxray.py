"""The COVID-19 image data collection: the mapping by hand, odd tables, and genuine rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.findings import FINDINGS
from dollkit.data.__main__ import survey
from dollkit.data.sets.covid_chestxray import DATASET, named_findings, read_ieee8023
from dollkit.data.splits import share
from tests.small_files import error_of, layout

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


def write(root: Path, rows: list[tuple[str, ...]]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([[*row, ""] for row in rows], columns=NAMES)
    table.to_csv(root / "metadata.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    return root


@pytest.mark.parametrize(
    ("text", "found", "known"),
    [
        ("COVID-19, ARDS", {"Pneumonia"}, True),
        ("Pneumonia/Viral/Influenza/H1N1", {"Pneumonia"}, True),
        ("Pneumonia/Bacterial/Of Mars", {"Pneumonia"}, False),
        ("Tuberculosis", set(), True),
        ("Gout", set(), False),
    ],
)
def test_diagnoses_by_hand(text: str, found: set[str], known: bool) -> None:
    assert named_findings(text) == (found, known)


def test_films_are_the_frontal_radiographs(tmp_path: Path) -> None:
    table = read_ieee8023(write(tmp_path, ROWS))["films"]
    films = table.films.set_index("image_id")
    assert list(films.index) == ["a_jpg", "a_png", "b", "c", "d", "e"]
    assert films["view"].tolist() == ["PA", "AP", "AP", "AP", "PA", "PA"]
    assert films["sex"].tolist() == ["F", "F", "M", "", "", ""]
    np.testing.assert_array_equal(films["age"], [50, 51] + [np.nan] * 4)
    assert films["patient_id"].tolist() == ["ieee_1"] * 2 + ["ieee_2", "ieee_3"] + ["ieee_178"] * 2
    np.testing.assert_array_equal(films["Pneumonia"], [1, 1] + [np.nan] * 4)
    np.testing.assert_array_equal(films["No Finding"], [np.nan] * 2 + [1] + [np.nan] * 3)
    rest = [f for f in FINDINGS if f not in ("Pneumonia", "No Finding")]
    assert films[rest].isna().all(axis=None)
    places = films["patient_id"].map(share)
    assert films["split"].tolist() == [
        "train" if place < 0.7 else "valid" if place < 0.8 else "test" for place in places
    ]
    assert films["path"].iloc[0] == str(tmp_path / "images" / "a.jpg")
    # A note of two lines is one row.
    assert films["where"].iloc[1].endswith("metadata.csv, row 3")
    assert table.others == (tmp_path / "images/lateral.png", tmp_path / "images/slice.jpg")
    assert table.facts == {
        "rows": 10,
        "films": 6,
        "patients": 4,
        "rows of CT or lateral views": 3,
        "rows that repeat a file": 1,
        "films with a diagnosis not mapped": 1,
        "films, licence CC BY": 4,
        "films, licence CC BY-NC-SA": 1,
        "films, licence not stated": 1,
    }
    assert len(table.bad) == 0


@pytest.mark.parametrize(
    ("row", "column", "value", "words", "left"),
    [
        (2, "patientid", " ", "row 4, column 'patientid': value ' ': use the patient's id", "b"),
        (3, "filename", "../c.png", "row 5, column 'filename': value '../c.png'", "c"),
        (9, "patientid", "5", "row 11: file 'e.jpg' stands under another patient too", ""),
    ],
)
def test_wrong_rows(
    tmp_path: Path, row: int, column: str, value: str, words: str, left: str
) -> None:
    rows = list(ROWS)
    cells = dict(zip(NAMES, rows[row], strict=False)) | {column: value}
    rows[row] = tuple(cells.values())
    root = write(tmp_path, rows)
    assert words in error_of(read_ieee8023, root)
    table = read_ieee8023(root, skip_bad=True)["films"]
    assert words in table.bad.frame()["reason"].item()
    expected = ["a_jpg", "a_png", "b", "c", "d", "e"]
    assert table.films["image_id"].tolist() == [i for i in expected if i != left]


def test_where_it_is_found(tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    root = write(tmp_path / "covid-chestxray-dataset", ROWS)
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
