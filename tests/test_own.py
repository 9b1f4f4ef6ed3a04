"""A folder of one's own: its table, masks, splits, and what is wrong with it in one line."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data import build
from dollkit.data.__main__ import survey
from dollkit.data.csvfile import BadRows
from dollkit.data.film_table import lost_files
from dollkit.data.sets.common_steps import child, files_of, holds
from dollkit.data.sets.own_folder import DATASET, HEADER, read_own
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.small_files import error_of
from tests.test_dicom import NAME, bytes_of, film

FORM = re.compile(r"(a\d)\.PNG", re.IGNORECASE)
SQUARE = np.array([[0, 255], [0, 255], [255, 0]], np.uint8)
TABLE = """\
image,Patient,study,view,SEX,age,split,cardiomegaly,Pleural_Effusion,No Finding,notes,scanner
a.png,p1,s1,AP,F,50,train,1,0,,"x, y",A
deep/b.jpg,p1,,pa,female,,train,-1.0,,0,,A
deep/c.tif,p2,s9,,,61.5,Test,,,1.0,,B
images/d,p3,,,m,0,valid,0,1,,,
"""


def write(root: Path, table: str = TABLE, films: str = "a.png deep/b.jpg deep/c.tif d") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "films.csv").write_text(table)
    for name in films.split():
        image(root / "images" / name)
    return root


def image(path: Path, grey: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (2, 3), 70) if grey is None else Image.fromarray(grey)
    known = path.suffix in (".png", ".jpg", ".tif")
    picture.save(path, format=None if known else "PNG")


def mask(root: Path, cls: str, name: str, grey: np.ndarray = SQUARE) -> None:
    image(root / "masks" / cls / f"{name}.png", grey)


def test_every_column_is_read(tmp_path: Path) -> None:
    tables = read_own(write(tmp_path))
    assert list(tables) == ["films"]
    films = tables["films"].films
    assert films["image_id"].tolist() == ["a", "deep__b", "deep__c", "d"]
    assert films["patient_id"].tolist() == ["p1", "p1", "p2", "p3"]
    assert films["study_id"].tolist() == ["s1", "deep__b", "s9", "d"]
    assert films["view"].tolist() == ["AP", "PA", "", ""]
    assert films["sex"].tolist() == ["F", "F", "", "M"]
    np.testing.assert_array_equal(films["age"], [50, np.nan, 61.5, 0])
    assert films["split"].tolist() == ["train", "train", "test", "valid"]
    assert (films["fold"] == -1).all()
    np.testing.assert_array_equal(films["Cardiomegaly"], [1, -1, np.nan, 0])
    np.testing.assert_array_equal(films["Pleural Effusion"], [0, np.nan, np.nan, 1])
    np.testing.assert_array_equal(films["No Finding"], [np.nan, 0, 1, np.nan])
    assert films[list(FINDINGS)].notna().any().sum() == 3
    names = ("a.png", "deep/b.jpg", "deep/c.tif", "d")
    assert films["path"].tolist() == [str(tmp_path / "images" / name) for name in names]
    assert films["where"][2] == f"{tmp_path / 'films.csv'}, row 4"
    assert tables["films"].facts == {"films": 4, "patients": 3, "mask files without film": 0}


def test_masks_become_stores(tmp_path: Path) -> None:
    root = write(tmp_path)
    mask(root, "lungs", "a")
    mask(root, "left_lung", "deep/b")
    mask(root, "Right Lung", "deep/b", 255 - SQUARE)
    mask(root, "left_lung", "deep/c")
    mask(root, "infection", "d", SQUARE // 255)
    mask(root, "heart", "d")
    mask(root, "pleural effusion", "d", SQUARE * 0)
    tables = read_own(root)
    assert list(tables) == ["films", "lungs", "infection", "organs"]
    of_films = tables["films"]
    assert of_films.mask_classes == ("Pleural Effusion",)
    assert of_films.masks["Pleural Effusion"].notna().tolist() == [False, False, False, True]
    # All black: looked at, and nothing there.
    assert of_films.masks["Pleural Effusion"][3].load(3, 2).sum() == 0
    lungs = tables["lungs"]
    assert lungs.films["image_id"].tolist() == ["a", "deep__b"]
    np.testing.assert_array_equal(lungs.masks["lungs"][0].load(3, 2), SQUARE // 255)
    assert lungs.masks["lungs"][1].load(3, 2).all()
    np.testing.assert_array_equal(
        tables["infection"].masks["infection"][0].load(3, 2), SQUARE // 255
    )
    organs = tables["organs"]
    assert organs.mask_classes == ("lungs", "left lung", "right lung", "heart")
    assert organs.masks.notna().to_numpy().tolist() == [
        [True, False, False, False],
        [False, True, True, False],
        [False, True, False, False],
        [False, False, False, True],
    ]
    # The column split rules here too.
    assert organs.films["split"].tolist() == ["train", "train", "test", "valid"]
    assert (organs.films["fold"] == 0).all()
    assert tables["films"].facts["masks of left lung"] == 2


def test_a_folder_is_sound_until_a_file_is_surplus(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path)
    (root / "README.md").write_text("mine")
    mask(root, "heart", "a")
    mask(root, "lung", "a")
    (root / "masks/heart/.DS_Store").touch()
    assert survey(DATASET, root).sound
    assert list(read_own(root)) == ["films", "lungs", "organs"]
    assert not caplog.records
    mask(root, "heart", "nobody")
    image(root / "images/unlisted.png")
    image(root / "masks/heart/deep/b.jpg")
    report = survey(DATASET, root)
    surplus = sorted(Path(f).name for f in report.problems["file"])
    assert surplus == ["b.jpg", "nobody.png", "unlisted.png"]
    assert set(report.problems["kind"]) == {"surplus"}
    assert read_own(root)["films"].facts["mask files without film"] == 2
    assert "2 files belong to no film of films.csv (first: heart/" in caplog.text


def test_logs_once_what_it_passes_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_own(write(tmp_path / "a"))
        assert [r.levelname for r in caplog.records] == ["INFO"]
        assert caplog.records[0].getMessage().endswith("columns passed over: notes, scanner")
        caplog.clear()
        films = read_own(write(tmp_path / "b", "image\na.png\nd\n"))["films"].films
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "no column 'patient': each film counts as a patient" in caplog.text
    assert films["patient_id"].tolist() == films["image_id"].tolist() == ["a", "d"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("image,Cardiomegally", "unknown column 'Cardiomegally': did you mean 'Cardiomegaly'?"),
        ("image,patient_id", "did you mean 'patient'?"),
        ("image,Edema,edema", "column 'Edema' stands there twice"),
        ("file,patient", "column 'image' is missing: write a CSV file (commas, UTF-8) whose fi"),
    ],
)
def test_wrong_headers(tmp_path: Path, header: str, words: str) -> None:
    write(tmp_path, f"{header}\na.png{',1' * header.count(',')}\n")
    for skip_bad in (False, True):
        message = error_of(read_own, tmp_path, BadRows(skip_bad))
        assert words in message
        assert str(tmp_path / "films.csv") in message


@pytest.mark.parametrize(
    ("old", "new", "words", "left"),
    [
        ("a.png,p1", "../a.png,p1", "row 2, column 'image': value '../a.png'", "bcd"),
        ("a.png,p1", "a.png,", "row 2, column 'patient': value '': use the patient's id", "bcd"),
        (",Test,", ",,", "row 4, column 'split': value '': use train, valid or test", "abd"),
        ("AP,F", "AP,X", "row 2, column 'sex': value 'X': use M, F or blank", "bcd"),
        ("-1.0", "0.5", "row 3, column 'Cardiomegaly': value '0.5': use 1, 0, -1 or", "acd"),
        ("train,-1", "valid,-1", "row 3, column 'split': value 'valid': use one split per", "acd"),
        ("deep/c.tif", "a.png", "row 4, column 'image': value 'a.png': use each film once", "abd"),
        (
            "deep/c.tif",
            "images/a.jpg",
            "row 4, column 'image': value 'images/a.jpg': use each film once",
            "abd",
        ),
    ],
)
def test_wrong_rows(tmp_path: Path, old: str, new: str, words: str, left: str) -> None:
    assert old in TABLE
    root = write(tmp_path, TABLE.replace(old, new, 1))
    assert words in error_of(read_own, root)
    table = read_own(root, BadRows())["films"]
    assert [i[-1] for i in table.films["image_id"]] == list(left)
    assert len(table.bad) == 1
    assert words in table.bad[0][2]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("hart", "no class of masks; did you mean 'heart'? use one of lungs, left lung,"),
        ("No Finding", "no class of masks"),
        ("Heart", "a second folder of the class 'heart': keep one"),
    ],
)
def test_wrong_mask_folders(tmp_path: Path, folder: str, words: str) -> None:
    root = write(tmp_path)
    mask(root, "heart" if folder != "Heart" else "HEART", "a")
    mask(root, folder, "a")
    assert words in error_of(read_own, root)
    tables = read_own(root, BadRows())
    assert words in tables["films"].bad[0][2]
    assert tables["films"].facts["masks of heart"] == 1


def test_patients_that_a_spreadsheet_wrote_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = "image,patient,Edema\n" + "".join(
        f"{i}.png,{'00' * (i % 2)}{i // 2},{i % 2}\n" for i in range(8)
    )
    root = write(tmp_path, table, " ".join(f"{i}.png" for i in range(8)))
    films = read_own(root)["films"].films
    assert films["patient_id"].tolist() == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert films.groupby("patient_id")["split"].nunique().eq(1).all()
    assert "('0' and '000', '1' and '001'): they count as one patient" in caplog.text
    kept = DATASET.tables(root, {"patient_id": "keep"})["films"].films
    assert kept["patient_id"].nunique() == 8


def test_masks_alone_are_their_tasks(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{i}\n" for i in range(6))
    root = write(tmp_path, "image,patient\n" + rows, "0.png 1.png 2.png 3.png 4.png 5.png")
    for i in range(6):
        mask(root, "lungs", str(i))
    assert list(build("folder", root, tmp_path / "out", 8)) == ["lungs"]
    few = {"n_films": 40, "n_train_pool": 4, "n_valid": 2, "n_test": 2}
    filled = build("folder", root, tmp_path / "out", 64, fill_from="phantom", phantom=few)
    assert list(filled) == ["films", "lungs", "infection", "organs"]


def test_where_it_is_found(tmp_path: Path) -> None:
    assert DATASET.find(tmp_path) is None
    for read in (DATASET.tables, read_own):
        assert HEADER in error_of(read, tmp_path)
    write(tmp_path, "image,patient,age,Edema\n")
    assert "films.csv: no film is left" in error_of(read_own, tmp_path)
    assert DATASET.find(tmp_path) == tmp_path
    (tmp_path / "store.json").touch()  # a packed store has a films.csv of its own
    assert DATASET.find(tmp_path) is None


def write_dicom(path: Path, grey: np.ndarray) -> None:
    details = {"PatientAge": "077Y", "PatientSex": "F", "ViewPosition": "PA"}
    path.write_bytes(bytes_of(film(grey, 12, **details)))


def test_every_kind_of_picture_builds(tmp_path: Path) -> None:
    names = ["8bit.png", "16bit.png", "tiff.tif", "1.2.840.7"]
    table = "\n".join(["image,patient", *(f"{name},{name}" for name in names)])
    root = write(tmp_path / "mydata", table, "")
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    half = np.zeros((48, 64), np.uint8)
    half[:, 32:] = 255
    image(root / "images/8bit.png", (deep // 16).astype(np.uint8))
    image(root / "images/16bit.png", deep)
    image(root / "images/tiff.tif", deep)
    write_dicom(root / "images/1.2.840.7", deep)
    ids = ["8bit", "16bit", "tiff", "1.2.840.7"]
    for name in ids:
        mask(root, "lungs", name, half)
    report = survey(DATASET, root, decode=True)
    assert report.sound, report.problems
    tables = read_own(root)
    # Only pixels of a DICOM file are read.
    films = tables["films"].films
    assert NAME.lower() not in films.to_csv().lower()
    assert films["age"].isna().all()
    assert (films[["sex", "view"]] == "").all(axis=None)
    for name, made in tables.items():
        store = open_store(build_store(made, tmp_path / name, 64), verify=True)
        assert store.films["image_id"].tolist() == ids
        greys = np.asarray(store.images).astype(int)
        assert greys.max() > 150
        assert np.abs(greys - greys[:1]).max() <= 1
    np.testing.assert_array_equal(store.masks(slice(None))[:, 0, 8:56], [half // 255] * 4)


# Files of any data set: by the form of their names, elsewhere, or leading out of it.


def test_a_folder_is_found_in_any_case_and_with_underscores(tmp_path: Path) -> None:
    (tmp_path / "Left_Lung").mkdir()
    (tmp_path / "file").touch()
    assert child(tmp_path, "left lung") == tmp_path / "Left_Lung"
    assert child(tmp_path, "right lung") is None
    assert child(tmp_path, "FILE") is None
    (tmp_path / "left lung").mkdir()
    assert child(tmp_path, "left lung") == tmp_path / "left lung"
    assert child(tmp_path / "none", "left lung") is None


def test_files_have_the_form_and_broken_links_count(tmp_path: Path) -> None:
    for name in ("a2.png", "a1.PNG", "._a1.png", "a1.png.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "a3").mkdir()
    (tmp_path / "a4.png").symlink_to(tmp_path / "nowhere")
    found = files_of(tmp_path, FORM)
    assert [(match[1], file.name) for match, file in found] == [
        ("a1", "a1.PNG"),
        ("a2", "a2.png"),
        ("a4", "a4.png"),
    ]
    assert holds(tmp_path, FORM)
    assert not holds(tmp_path / "a3", FORM)
    assert files_of(None, FORM) == files_of(tmp_path / "none", FORM) == []
    (tmp_path / "a5.png").mkdir()
    assert "a5.png: a folder with the name of a file" in error_of(files_of, tmp_path, FORM)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four films; another folder lies beside the data set."""
    folder = tmp_path / "set"
    names = ["a.png", "b.png", "c.png", "deep/d.png"]
    folder.mkdir()
    (folder / "films.csv").write_text("image,patient\n" + "".join(f"{n},{n[0]}\n" for n in names))
    for name in names:
        image(folder / "images" / name)
    image(tmp_path / "elsewhere" / "d.png")
    return folder


@pytest.mark.parametrize("name", ["a.png", "deep"])
def test_links_that_lead_out_are_never_followed(four: Path, tmp_path: Path, name: str) -> None:
    place = four / "images" / name
    if place.is_dir():
        (place / "d.png").unlink()
        place.rmdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.unlink()
        place.symlink_to(tmp_path / "elsewhere" / "d.png")
    table = DATASET.tables(four)["films"]
    with pytest.raises(InputError, match=r"films\.csv, row \d: .*leads out of .*set"):
        build_store(table, tmp_path / "out", 8)
    build_store(table, tmp_path / "out", 8, skip_bad=True)
    assert len(open_store(tmp_path / "out")) == 3
    left = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert left["reason"].str.contains("leads out").tolist() == [True]


def test_what_stands_in_the_place_of_a_film_is_told(four: Path) -> None:
    films = four / "images"
    (films / "a.png").rename(films / "A.PNG")
    (films / "b.png").unlink()
    (films / "b.png").mkdir()
    (films / "c.png").unlink()
    (films / "c.png").symlink_to(films / "c.png")  # a loop
    reasons = [fault.reason for fault in lost_files(DATASET.tables(four)["films"])]
    assert [r.split("films.csv, ")[1][:5] for r in reasons] == ["row 2", "row 3", "row 4"]
    assert "is a folder, not a file" in reasons[1]
    for reason, name in ((reasons[0], "a.png"), (reasons[2], "c.png")):
        assert "no such file" in reason
        assert reason.endswith(name)
