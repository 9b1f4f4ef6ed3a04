"""The COVID-19 image data collection: the mapping by hand, odd tables, and genuine rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.check import survey
from dollkit.data.sets.covid_chestxray import (
    DATASET,
    FINDING_OF,
    named_findings,
    read_ieee8023,
    unique_stems,
)
from dollkit.data.splits import share

HEADER = "patientid,sex,age,finding,view,modality,folder,filename,license,clinical_notes,"
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


def write(root: Path, rows: list[tuple[str, ...]], header: str = HEADER) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file, lineterminator="\r\n")
        table.writerow(header.split(","))
        table.writerows([*row, ""] for row in rows)
    return root


def changed(row: int, **cells: str) -> list[tuple[str, ...]]:
    names = HEADER.split(",")
    rows = [list(r) for r in ROWS]
    for name, value in cells.items():
        rows[row][names.index(name)] = value
    return [tuple(r) for r in rows]


def test_mapping_is_to_names_of_chexpert() -> None:
    assert {v for v in FINDING_OF.values() if v} == {"Pneumonia", "No Finding"} <= set(FINDINGS)
    assert all(key == key.strip().lower() for key in FINDING_OF)


@pytest.mark.parametrize(
    ("text", "found", "known"),
    [
        ("COVID-19", {"Pneumonia"}, True),
        ("COVID-19, ARDS", {"Pneumonia"}, True),
        ("Pneumonia/Viral/Influenza/H1N1", {"Pneumonia"}, True),
        ("Pneumonia/Viral/Herpes ", {"Pneumonia"}, True),
        ("Pneumonia/Bacterial/Of Mars", {"Pneumonia"}, False),
        ("No finding", {"No Finding"}, True),
        ("ARDS", set(), True),
        ("Tuberculosis", set(), True),
        ("todo", set(), True),
        ("", set(), True),
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


def test_splits_depend_on_the_patient_alone(tmp_path: Path) -> None:
    rows = [
        (str(i // 2), "", "", "COVID-19", "PA", "X-ray", "images", f"{i}.png", "", "")
        for i in range(400)
    ]
    films = read_ieee8023(write(tmp_path / "a", rows))["films"].films
    turned = read_ieee8023(write(tmp_path / "b", rows[::-2]))["films"].films
    one, other = (t.set_index("image_id")["split"] for t in (films, turned))
    assert other.equals(one[other.index])
    sizes = films.drop_duplicates("patient_id")["split"].value_counts()
    assert abs(sizes["train"] - 140) <= 20
    assert abs(sizes["valid"] - 20) <= 13
    assert abs(sizes["test"] - 40) <= 17
    for patient, split in zip(films["patient_id"], films["split"], strict=True):
        place = share(patient)
        assert split == ("train" if place < 0.7 else "valid" if place < 0.8 else "test")


@pytest.mark.parametrize(
    ("row", "cells", "words", "left"),
    [
        (2, {"patientid": " "}, "row 4, column 'patientid': value ' ': use the patient's id", "b"),
        (3, {"filename": "../c.png"}, "row 5, column 'filename': value '../c.png'", "c"),
        (9, {"patientid": "5"}, "row 11: file 'e.jpg' stands under another patient too", ""),
    ],
)
def test_wrong_rows(tmp_path: Path, row: int, cells: dict[str, str], words: str, left: str) -> None:
    root = write(tmp_path, changed(row, **cells))
    with pytest.raises(InputError) as caught:
        read_ieee8023(root)
    assert words in str(caught.value)
    table = read_ieee8023(root, skip_bad=True)["films"]
    assert words in table.bad.frame()["reason"][0]
    assert len(table.bad) == 1
    expected = ["a_jpg", "a_png", "b", "c", "d", "e"]
    assert table.films["image_id"].tolist() == [i for i in expected if i != left]


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metadata.csv: no such file: fetch covid-chestxray"):
        read_ieee8023(tmp_path)
    root = write(tmp_path / "a", ROWS, HEADER.replace("view", "View"))
    with pytest.raises(InputError, match=r"column 'view' is missing \('View' is there\)"):
        read_ieee8023(root)
    root = write(tmp_path / "b", ROWS[4:7])
    with pytest.raises(InputError, match="no frontal film is listed"):
        read_ieee8023(root)
    short = write(tmp_path / "c", ROWS[:2])
    with (short / "metadata.csv").open("a") as file:
        file.write("9,F\r\n")
    with pytest.raises(InputError, match="row 4: 2 cells under 11 columns"):
        read_ieee8023(short)


def test_older_tables_without_sex_age_and_licence(tmp_path: Path) -> None:
    header = "patientid,finding,view,modality,filename,"
    root = write(tmp_path, [("1", "SARS", "PA", "X-ray", "a.jpg")], header)
    film = read_ieee8023(root)["films"].films.iloc[0]
    assert (film["sex"], film["Pneumonia"]) == ("", 1.0)
    assert np.isnan(film["age"])


def test_stems_stay_apart() -> None:
    assert unique_stems(["a.jpg", "b.png", "a.PNG", "c.d.jpg"]) == ["a_jpg", "b", "a_PNG", "c.d"]


def test_where_it_is_found(tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    root = write(tmp_path / "covid-chestxray-dataset", ROWS)
    assert DATASET.find(tmp_path) == DATASET.find(root) == root
    # General Blockchain's masks come with the same table.
    (root / "structure.csv").touch()
    assert DATASET.find(root) is None
    other = write(tmp_path / "other", [("1",)], "image,")
    assert DATASET.find(other) is None


@pytest.fixture(scope="module")
def genuine(shared_dir: Path) -> Path:
    folder = shared_dir / "layouts" / "ieee8023_covid-chestxray-dataset"
    if not folder.is_dir():
        pytest.skip(f"no genuine rows in {folder}")
    return folder


def test_genuine_rows_and_films(genuine: Path) -> None:
    assert DATASET.find(genuine) == genuine
    report = survey(DATASET, genuine, decode=True)
    assert report.sound, report.problems
    assert report.decoded == 8
    table = read_ieee8023(genuine)["films"]
    films = table.films
    assert films["patient_id"].tolist() == [
        f"ieee_{i}" for i in (21, 64, *[178] * 3, 273, 283, 284)
    ]
    assert films["age"].isna().sum() == 1
    assert (films["view"] == "PA").all()
    # COVID-19, Pneumocystis, Lipoid and Klebsiella.
    assert (films["Pneumonia"] == 1).all()
    assert table.facts["films, licence CC BY-NC-SA"] == 5
    assert table.facts["films, licence CC BY-NC-SA 4.0"] == 3
    assert table.facts["films with a diagnosis not mapped"] == 0
