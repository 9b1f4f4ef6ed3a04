"""NIH ChestX-ray14 in its released layout: names, tables, lists, boxes, folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.common.findings import FINDINGS
from dollkit.data.__main__ import surplus
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.sets.nih import DATASET, IMPLIED, NIH_FINDINGS, nih_states
from dollkit.data.splits import share
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.small_files import edit, error_of, layout, save, write_lines

TABLE, BOX_TABLE = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
ENTRIES = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
LABELS = {
    "00000001_000": "Cardiomegaly|Effusion",
    "00000001_001": "No Finding",
    "00000002_000": "Hernia",
    "00000003_005": "Infiltration|Nodule",
    "00000004_000": "Pleural_Thickening",
    "00000005_000": "Pneumonia",
}
TEST = ("00000003_005", "00000005_000")
BOX_ROWS = (
    "00000003_005.png,Infiltrate,512.0,256.0,256.0,512.0",
    "00000003_005.png,Nodule,0.0,0.0,128.0,128.0",
    "00000003_005.png,Nodule,896.0,896.0,128.0,128.0",
    "00000001_000.png,Cardiomegaly,256.5,512.25,512.0,256.0",
)


def row(film: str, labels: str) -> str:
    return f"{film}.png,{labels},0,{int(film[:8])},58,M,PA,2682,2749,0.143,0.143"


def write_tree(root: Path) -> Path:
    """Six small films of five patients in two numbered folders."""
    for k, film in enumerate(LABELS):
        path = root / f"images_{k // 4 + 1:03d}" / "images" / f"{film}.png"
        save(path, np.full((64, 64), 30 * k + 20))
    write_lines(root / TABLE, [ENTRIES, *(row(*item) for item in LABELS.items())])
    write_lines(root / BOX_TABLE, [BOXES, *BOX_ROWS])
    write_lines(root / "test_list.txt", [f"{f}.png" for f in TEST])
    write_lines(root / "train_val_list.txt", [f"{f}.png" for f in LABELS if f not in TEST])
    return root


def read(root: Path, **options: Any) -> FilmTable:
    return DATASET.tables(root, **options)["films"]


def boxes(table: FilmTable) -> list[tuple[str, str, list[float]]]:
    """Film, finding and sides of every box, in the order of films and findings."""
    return [
        (table.films["image_id"][i], table.mask_classes[c], list(box))
        for i, masks in enumerate(table.masks_of)
        for c, mask in masks
        for box in mask.boxes
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "nih")


@pytest.mark.parametrize(
    ("present", "positive", "blank"),
    [
        ("No_Finding", {"No Finding"}, {"Enlarged Cardiomediastinum"}),
        ("Cardiomegaly", {"Cardiomegaly", "Enlarged Cardiomediastinum"}, {"No Finding"}),
        ("Nodule", {"Lung Lesion", "Lung Opacity"}, {*IMPLIED}),
        ("Effusion Pneumothorax", {"Pleural Effusion", "Pneumothorax"}, {*IMPLIED}),
        ("Pleural_Thickening", {"Pleural Other"}, {*IMPLIED}),
        ("Hernia Emphysema", set(), {*IMPLIED}),
    ],
)
def test_mapping_by_hand(present: str, positive: set[str], blank: set[str]) -> None:
    row = pd.DataFrame([[n in present.split() for n in NIH_FINDINGS]], columns=list(NIH_FINDINGS))
    states = nih_states(row).iloc[0]
    assert {f for f, value in states.items() if value == 1} == positive
    assert {*states.index[states.isna()]} == blank | {"Fracture", "Support Devices"}


def test_films(root: Path) -> None:
    assert DATASET.find(root) == DATASET.find(root.parent) == root
    table = read(root, valid_fraction=0.5)
    check_files(table)
    films = table.films
    assert films["image_id"].tolist() == list(LABELS)
    assert films["patient_id"].tolist()[:3] == ["00000001", "00000001", "00000002"]
    assert films["where"].iloc[3] == f"{root / TABLE}, row 5"
    assert films.loc[0, ["view", "sex", "age"]].tolist() == ["PA", "M", 58.0]
    assert films["Cardiomegaly"].tolist() == [1, 0, 0, 0, 0, 0]
    assert films["Lung Opacity"].tolist() == [0, 0, 0, 1, 0, 1]
    np.testing.assert_array_equal(films["No Finding"], [np.nan, 1, *[np.nan] * 4])
    rest = ["valid" if share(film[:8]) < 0.5 else "train" for film in LABELS]
    assert set(rest) == {"train", "valid"}
    splits = ["test" if film in TEST else kind for film, kind in zip(LABELS, rest, strict=True)]
    assert films["split"].tolist() == splits
    assert table.depths == (8,)
    facts = {"films": 6, "patients": 5, "train_val films": 4, "test films": 2, "boxes": 4}
    facts |= {"boxed films": 2, "boxed labels": 3, "boxed films outside test": 1}
    assert table.facts == facts
    assert set(DATASET.documented) <= set(facts)
    assert "'valid_fraction' is 1: use 0 to below 1" in error_of(read, root, valid_fraction=1)
    (root / "test_list.txt").unlink()
    assert "test_list.txt: no such file: use the files as NIH released" in error_of(read, root)


def test_boxes_are_scaled_with_their_film(root: Path, tmp_path: Path) -> None:
    table = read(root)
    # Films of 64 pixels: 1/16 of the released 1024.
    assert boxes(table) == [
        ("00000001_000", "Cardiomegaly", [256.5 / 16, 512.25 / 16, 32, 16]),
        ("00000003_005", "Lung Opacity", [32, 16, 16, 32]),
        ("00000003_005", "Lung Lesion", [0, 0, 8, 8]),
        ("00000003_005", "Lung Lesion", [56, 56, 8, 8]),
    ]
    store = open_store(build_store(table, tmp_path / "store", 64))
    assert store.mask_classes == ("Cardiomegaly", "Lung Opacity", "Lung Lesion")
    assert np.argwhere(store.mask_valid(slice(None))).tolist() == [[0, 0], [3, 1], [3, 2]]
    drawn = np.zeros((2, 64, 64))
    drawn[0, 16:48, 32:48] = drawn[1, :8, :8] = drawn[1, 56:, 56:] = 1
    np.testing.assert_array_equal(store.masks([3], ["Lung Opacity", "Lung Lesion"])[0], drawn)
    save(root / "images_001/images/00000001_000.png", np.zeros((1024, 1024)))
    assert boxes(read(root))[0][2] == [256.5, 512.25, 512, 256]


def test_boxes_on_a_film_that_is_not_square(root: Path) -> None:
    film = save(root / "images_001/images/00000003_005.png", np.zeros((64, 80)))
    assert f"{film}: is 80x64, but NIH's boxes count on square films" in error_of(read, root)
    table = read(root, skip_bad=True)
    assert [film for film, _, _ in boxes(table)] == ["00000001_000"]
    assert [file for file, _, _ in table.bad] == [str(film)]
    # What is no image is an error when it is decoded: here only its boxes would be guessed.
    film.write_bytes(b"no image")
    assert len(boxes(read(root))) == 4


def test_one_folder_of_films_and_the_older_table(root: Path) -> None:
    (root / "images").mkdir()
    for file in root.glob("images_*/images/*.png"):
        file.rename(root / "images" / file.name)
    # The older table: trailing commas, ages with a unit, and ages that nobody has.
    text = (root / TABLE).read_text().replace("\n", ",\r\n")
    text = text.replace(",58,M", ",058Y,M", 1).replace(",58,M", ",412,M", 1)
    older = root / "Data_Entry_2017.csv"
    older.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(root).films["where"].iloc[0] == f"{root / TABLE}, row 2"
    (root / TABLE).unlink()
    table = read(root)
    check_files(table)
    np.testing.assert_array_equal(table.films["age"], [58, np.nan, 58, 58, 58, 58])
    assert table.films["where"].iloc[0] == f"{older}, row 2"


def test_headers_that_are_not_nihs(root: Path) -> None:
    edit(root / BOX_TABLE, "[x,y,w,h]", "[x1,y1,x2,y2]")
    assert re.search(f"{BOX_TABLE}: header 'Image Index,.* is not NIH's: use", error_of(read, root))


BOX = "256.0,256.0,512.0"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (TABLE, "00000002_000.png,", "00000001_000.png,", "'Image Index': .*each film once"),
        (TABLE, "Hernia,0,2,", "Hernia,0,3,", "'Patient ID': value '3': use the number in the"),
        (TABLE, "Hernia", "Hernias", "'Finding Labels': value 'Hernias': use NIH's findings"),
        (TABLE, "Hernia", "Hernia|Hernia", "'Finding Labels'"),
        (BOX_TABLE, "00000003_005.png,I", "00000009_000.png,I", "'Image Index': .*a film of the"),
        (BOX_TABLE, "Infiltrate", "Infiltration", "'Finding Label': value 'Infiltration': use a"),
        (BOX_TABLE, BOX, "256.0,0,512.0", "'w': value '0': use a box with area"),
        (BOX_TABLE, BOX, "256.0,999,512.0", "'w': value '999': use a box with area"),
    ],
)
def test_wrong_rows(root: Path, file: str, old: str, new: str, words: str) -> None:
    edit(root / file, old, new)
    row = 4 if file == TABLE else 2
    assert re.search(f"{file}, row {row}, column {words}", error_of(read, root))
    table = read(root, skip_bad=True)
    assert len(table.bad) == 1
    assert (len(table), len(boxes(table))) == ((5, 4) if file == TABLE else (6, 3))


def test_wrong_lists(root: Path) -> None:
    train, test = root / "train_val_list.txt", root / "test_list.txt"
    good = train.read_text()
    either = "use a film that is in one of train_val_list.txt and test_list.txt"
    for text, row in ((good.replace("00000002_000.png\n", ""), 4), (good + f"{TEST[0]}.png\n", 5)):
        train.write_text(text)
        assert re.search(rf"row {row}, column 'Image Index': .*{either}", error_of(read, root))
        assert len(read(root, skip_bad=True).bad) == 1
    train.write_text(good.replace("00000001_001.png\n", ""))
    listed = test.read_text()
    test.write_text(listed + "\n00000001_001.png\n")
    words = "row 2, column 'Image Index': value '00000001_000.png': use films of other patients"
    assert words in error_of(read, root)
    films = read(root, skip_bad=True).films
    assert films["image_id"].tolist() == list(LABELS)[1:]
    assert films.groupby("patient_id")["split"].nunique().max() == 1
    # Films of a list that the table lacks are no fault: the table may be a part of NIH's.
    test.write_text(listed + "00030805_000.png\r\n")
    train.write_bytes(b"\xef\xbb\xbf" + good.encode())
    assert len(read(root)) == 6


def test_films_that_are_twice_or_surplus(root: Path) -> None:
    (root / "FAQ_CHESTXRAY.pdf").touch()
    extra = save(root / "images_001/images/00000009_000.png", np.zeros((64, 64)))
    assert surplus({"films": read(root)}) == [extra]
    twin = root / "images_002/images/00000001_000.png"
    twin.touch()
    assert f"{twin}: lies in {root / 'images_001/images'} too" in error_of(read, root)
    table = read(root, skip_bad=True)
    assert [file for file, _, _ in table.bad] == [str(twin)]
    assert "images_001" in table.films["path"].iloc[0]


def test_genuine_films(shared_dir: Path, tmp_path: Path) -> None:
    folder = layout(shared_dir, "nih_chestxray14")
    table = read(folder)
    check_files(table)
    films = table.films
    assert len(films) == films["patient_id"].nunique() == 9
    assert films["split"].value_counts().get("test") == 3
    assert table.facts["boxes"] == table.facts["boxed films"] == 5
    assert surplus({"films": table}) == []
    assert films[list(FINDINGS)].sum()[["No Finding", "Pneumonia", "Edema"]].tolist() == [2, 7, 2]
    assert films["age"].tolist() == [54, 59, 68, 27, 42, 52, 40, 14, 55]
    box = next(sides for film, _, sides in boxes(table) if film == "00000193_019")
    np.testing.assert_allclose(box, [703.716, 616.998, 218.453, 249.173], atol=1e-3)
    store = open_store(build_store(table, tmp_path / "store", 64), verify=True)
    assert store.images.reshape(9, -1).std(axis=1).min() > 10
    assert store.mask_classes == ("Pneumonia",)
    assert store.mask_valid(slice(None)).sum() == 5
