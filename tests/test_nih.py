"""NIH ChestX-ray14 in its released layout: tables, lists, boxes, folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.check import compare, surplus
from dollkit.data.decode import load_image
from dollkit.data.film_table import check_files
from dollkit.data.sets.nih import DATASET, DOCUMENTED, read_nih
from dollkit.data.splits import share
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store

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


def row(film: str, labels: str, age: str = "58") -> str:
    return f"{film}.png,{labels},0,{int(film[:8])},{age},M,PA,2682,2749,0.143,0.143"


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six small films of five patients in two numbered folders."""
    tree = tmp_path / "nih"
    for k, film in enumerate(LABELS):
        path = tree / f"images_{k // 4 + 1:03d}" / "images" / f"{film}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), 30 * k + 20, np.uint8)).save(path)
    write_lines(tree / "Data_Entry_2017_v2020.csv", [ENTRIES, *(row(*i) for i in LABELS.items())])
    write_lines(tree / "BBox_List_2017.csv", [BOXES, *BOX_ROWS])
    write_lines(tree / "test_list.txt", [f"{f}.png" for f in TEST])
    write_lines(tree / "train_val_list.txt", [f"{f}.png" for f in LABELS if f not in TEST])
    return tree


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_films(root: Path) -> None:
    table = read_nih(root)
    check_files(table)
    films = table.films
    assert films["image_id"].tolist() == list(LABELS)
    assert films["patient_id"].tolist()[:3] == ["00000001", "00000001", "00000002"]
    assert films["where"].iloc[3] == f"{root / 'Data_Entry_2017_v2020.csv'}, row 5"
    assert set(films["view"]) == {"PA"}
    assert set(films["sex"]) == {"M"}
    assert set(films["age"]) == {58.0}
    assert films["Cardiomegaly"].tolist() == [1, 0, 0, 0, 0, 0]
    assert films["Pleural Effusion"].tolist() == [1, 0, 0, 0, 0, 0]
    assert films["Lung Opacity"].tolist() == [0, 0, 0, 1, 0, 1]
    assert films["Lung Lesion"].tolist() == [0, 0, 0, 1, 0, 0]
    assert films["Pleural Other"].tolist() == [0, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(films["No Finding"], [np.nan, 1, *[np.nan] * 4])
    np.testing.assert_array_equal(films["Enlarged Cardiomediastinum"], [1, *[np.nan] * 5])
    assert films[["Fracture", "Support Devices"]].isna().all(axis=None)
    assert table.depths == (8,)
    assert table.facts == {
        "films": 6,
        "patients": 5,
        "train_val films": 4,
        "test films": 2,
        "boxes": 4,
        "boxed films": 2,
        "boxed labels": 3,
        "boxed films outside test": 1,
    }


def test_splits(root: Path) -> None:
    films = read_nih(root, valid_fraction=0.5).films
    assert films["image_id"][films["split"] == "test"].tolist() == list(TEST)
    rest = films[films["split"] != "test"]
    assert (rest["split"] == "valid").tolist() == [share(p) < 0.5 for p in rest["patient_id"]]
    assert set(rest["split"]) == {"train", "valid"}
    assert "valid" not in set(read_nih(root, valid_fraction=0).films["split"])
    with pytest.raises(InputError, match="'valid_fraction' is 1: use 0 to below 1"):
        read_nih(root, valid_fraction=1)


def test_boxes_are_scaled_with_their_film(root: Path, tmp_path: Path) -> None:
    table = read_nih(root)
    # Films of 64 pixels: 1/16 of the released 1024.
    assert table.boxes.columns.tolist() == ["image_id", "finding", "x", "y", "w", "h"]
    assert table.boxes.iloc[0].tolist() == ["00000003_005", "Lung Opacity", 32, 16, 16, 32]
    assert table.boxes["finding"].tolist()[1:] == ["Lung Lesion", "Lung Lesion", "Cardiomegaly"]
    full = root / "images_001/images/00000001_000.png"
    Image.fromarray(np.zeros((1024, 1024), np.uint8)).save(full)
    assert read_nih(root).boxes.iloc[3].tolist()[2:] == [256.5, 512.25, 512, 256]
    store = open_store(build_store(table, tmp_path / "store", 64))
    assert store.mask_classes == ("Cardiomegaly", "Lung Opacity", "Lung Lesion")
    valid = store.mask_valid(slice(None))
    assert np.argwhere(valid).tolist() == [[0, 0], [3, 1], [3, 2]]
    opacity, lesion = store.masks([3], ["Lung Opacity", "Lung Lesion"])[0]
    assert opacity[16:48, 32:48].all()
    assert opacity.sum() == 16 * 32
    assert lesion[:8, :8].all()
    assert lesion[56:, 56:].all()
    assert lesion.sum() == 2 * 64


def test_boxes_on_a_film_that_is_not_square_are_told(root: Path) -> None:
    film = root / "images_001/images/00000003_005.png"
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(film)
    with pytest.raises(
        InputError, match=r"00000003_005.png: is 80x64, but NIH's boxes count on sq"
    ):
        read_nih(root)
    table = read_nih(root, skip_bad=True)
    assert table.boxes["image_id"].tolist() == ["00000001_000"]
    assert table.bad.frame()["file"].tolist() == [str(film)]
    # What is no image is told when it is decoded: here only its boxes would be guessed.
    film.write_bytes(b"no image")
    assert len(read_nih(root).boxes) == 4


def test_one_folder_of_films_and_the_older_table(root: Path) -> None:
    single = root / "images"
    single.mkdir()
    for file in root.glob("images_*/images/*.png"):
        file.rename(single / file.name)
    table = root / "Data_Entry_2017_v2020.csv"
    older = table.rename(root / "Data_Entry_2017.csv")
    # The older table: trailing commas, ages with a unit, and ages that nobody has.
    lines = older.read_text().splitlines()
    lines = [f"{line}," for line in lines]
    lines[1] = lines[1].replace(",58,M", ",058Y,M")
    lines[2] = lines[2].replace(",58,M", ",412,M")
    older.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = read_nih(root)
    check_files(found)
    np.testing.assert_array_equal(found.films["age"], [58, np.nan, 58, 58, 58, 58])
    assert found.films["where"].iloc[0].endswith("Data_Entry_2017.csv, row 2")
    assert len(found) == 6


def test_the_newer_table_comes_first(root: Path) -> None:
    write_lines(root / "Data_Entry_2017.csv", ["none of NIH's"])
    assert len(read_nih(root)) == 6


@pytest.mark.parametrize("tail", ["", ",,,"])
@pytest.mark.parametrize("header", [BOXES, "Image Index,Finding Label,x,y,w,h"])
def test_headers_of_boxes(root: Path, header: str, tail: str) -> None:
    write_lines(root / "BBox_List_2017.csv", [header, *(f"{r}{tail}" for r in BOX_ROWS)])
    assert read_nih(root).boxes.iloc[0].tolist()[2:] == [32, 16, 16, 32]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("Data_Entry_2017_v2020.csv", "Patient Age,", "Age,", r"header 'Image Index,.* is not NIH"),
        ("Data_Entry_2017_v2020.csv", ",Height]", "", r"header 'Image Index,.* is not NIH's"),
        ("BBox_List_2017.csv", "[x,y,w,h]", "[x1,y1,x2,y2]", r"header 'Image .* is not NIH's: use"),
        ("BBox_List_2017.csv", "512.0,256.0,256.0", "512.0,256.0", r"row 2: 5 cells under 6 col"),
    ],
)
def test_headers_that_are_not_nihs(root: Path, file: str, old: str, new: str, words: str) -> None:
    edit(root / file, old, new)
    with pytest.raises(InputError, match=words) as caught:
        read_nih(root)
    assert str(caught.value).startswith(str(root / file))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("00000002_000.png,", "00000001_000.png,", "row 4, column 'Image Index': .*each film once"),
        ("00000002_000.png", "2_0.png", "row 4, column 'Image Index': .*a name like 00000001_000"),
        ("Hernia,0,2,", "Hernia,0,3,", "row 4, column 'Patient ID': value '3': use the number in"),
        ("Hernia", "Hernias", "row 4, column 'Finding Labels': value 'Hernias': use NIH's findi"),
        ("Hernia", "Hernia|No Finding", "row 4, column 'Finding Labels'"),
        ("Hernia", "Hernia|Hernia", "row 4, column 'Finding Labels'"),
        ("Hernia", "", "row 4, column 'Finding Labels': value ''"),
        ("Hernia,0,2,58", "Hernia,0,2,old", "row 4, column 'Patient Age': value 'old'"),
        ("Hernia,0,2,58,M", "Hernia,0,2,58,U", "row 4, column 'Patient Gender': value 'U'"),
        ("Hernia,0,2,58,M,PA", "Hernia,0,2,58,M,L", "row 4, column 'View Position': value 'L'"),
    ],
)
def test_wrong_rows_of_the_table(root: Path, old: str, new: str, words: str) -> None:
    path = root / "Data_Entry_2017_v2020.csv"
    edit(path, old, new)
    with pytest.raises(InputError, match=rf"v2020.csv, {words}"):
        read_nih(root)
    table = read_nih(root, skip_bad=True)
    assert table.films["image_id"].tolist() == [f for f in LABELS if f != "00000002_000"]
    assert len(table.bad) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "00000003_005.png,Infiltrate",
            "00000009_000.png,Infiltrate",
            "'Image Index': .*a film of",
        ),
        ("Infiltrate", "Infiltration", "'Finding Label': value 'Infiltration': use a label with a"),
        ("512.0,256.0,256.0,512.0", "512.0,256.0,256.0,", "'h]?': value '': use a number"),
        ("512.0,256.0,256.0,512.0", "512.0,256.0,0,512.0", "'w': value '0': use a box with area"),
        ("512.0,256.0,256.0,512.0", "-9,256.0,256.0,512.0", "'x': value '-9': use a box with area"),
        (
            "512.0,256.0,256.0,512.0",
            "512.0,256.0,999,512.0",
            "'w': value '999': use a box with are",
        ),
    ],
)
def test_wrong_boxes(root: Path, old: str, new: str, words: str) -> None:
    edit(root / "BBox_List_2017.csv", old, new)
    with pytest.raises(InputError, match=rf"BBox_List_2017.csv, row 2, column {words}"):
        read_nih(root)
    table = read_nih(root, skip_bad=True)
    assert len(table) == 6
    assert len(table.boxes) == 3


def test_wrong_lists(root: Path) -> None:
    train, test = root / "train_val_list.txt", root / "test_list.txt"
    good = train.read_text()
    either = "use a film that is in one of train_val_list.txt and test_list.txt"
    for text, words in (
        (good.replace("00000002_000.png\n", ""), rf"row 4, column 'Image Index': .*{either}"),
        (good + "00000003_005.png\n", rf"row 5, column 'Image Index': .*{either}"),
        (good + "00000001_001.png\n", r"train_val_list.txt, line 5: film '00000001_001.png' stan"),
    ):
        train.write_text(text)
        with pytest.raises(InputError, match=words):
            read_nih(root)
        assert len(read_nih(root, skip_bad=True).bad) == 1
    train.write_text(good.replace("00000001_001.png\n", ""))
    listed = test.read_text()
    test.write_text(listed + "\n00000001_001.png\n")
    with pytest.raises(InputError, match=r"row 2, column 'Image Index': .*of other patients in tr"):
        read_nih(root)
    table = read_nih(root, skip_bad=True)
    assert table.films["image_id"].tolist() == list(LABELS)[1:]
    assert table.films.groupby("patient_id")["split"].nunique().max() == 1
    # Films of a list that the table lacks are no fault: the table may be a part of NIH's.
    test.write_text(listed + "00030805_000.png\r\n")
    train.write_bytes(b"\xef\xbb\xbf" + good.encode())
    assert len(read_nih(root)) == 6


@pytest.mark.parametrize(
    "name",
    ["Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"],
)
def test_missing_files(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot be read .No such file.*: use the files"):
        read_nih(root)


def test_films_that_are_not_there_and_films_that_are_twice(root: Path) -> None:
    (root / "images_002/images/00000005_000.png").unlink()
    with pytest.raises(InputError, match=r"row 7: no such file .*00000005_000.png"):
        check_files(read_nih(root))
    twin = root / "images_002/images/00000001_000.png"
    twin.write_bytes(b"")
    with pytest.raises(InputError, match=r"images_002.*00000001_000.png: lies in .*images_001"):
        read_nih(root)
    table = read_nih(root, skip_bad=True)
    assert table.bad.frame()["file"].tolist() == [str(twin)]
    assert "images_001" in table.films["path"].iloc[0]


def test_films_of_no_row_are_surplus(root: Path) -> None:
    (root / "FAQ_CHESTXRAY.pdf").write_bytes(b"")
    assert surplus({"films": read_nih(root)}) == []
    extra = root / "images_001/images/00000009_000.png"
    extra.write_bytes(b"")
    assert surplus({"films": read_nih(root)}) == [extra]


def test_an_empty_table_is_told(root: Path) -> None:
    write_lines(root / "Data_Entry_2017_v2020.csv", [ENTRIES])
    write_lines(root / "BBox_List_2017.csv", [BOXES])
    with pytest.raises(InputError, match=r"v2020.csv: lists no film"):
        read_nih(root)


def test_data_set_is_found_and_read(root: Path) -> None:
    assert DATASET.find(root) == DATASET.find(root.parent) == root
    assert DATASET.find(root / "images_001") is None
    tables = DATASET.read(root, skip_bad=False, valid_fraction=0.0)
    assert list(tables) == list(DATASET.stores) == ["films"]
    told = compare(tables["films"].facts, DOCUMENTED).set_index("what")
    assert not told.loc["films", "ok"]
    assert told.loc["boxed films outside test", "ok"]


def test_genuine_films(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "layouts" / "nih_chestxray14"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    table = read_nih(folder)
    check_files(table)
    films = table.films
    assert len(films) == films["patient_id"].nunique() == 9
    assert films["split"].value_counts().get("test") == 3
    assert table.facts["boxes"] == table.facts["boxed films"] == 5
    assert table.facts["boxed labels"] == 1
    assert table.facts["boxed films outside test"] == 2
    assert surplus({"films": table}) == []
    assert films[list(FINDINGS)].sum()[["No Finding", "Pneumonia", "Edema"]].tolist() == [2, 7, 2]
    assert films["age"].tolist() == [54, 59, 68, 27, 42, 52, 40, 14, 55]
    box = table.boxes.set_index("image_id").loc["00000193_019"]
    np.testing.assert_allclose(
        box[list("xywh")].to_numpy(float), [703.716, 616.998, 218.453, 249.173], atol=1e-3
    )
    for path in films["path"]:
        pixels = load_image(path)
        assert pixels.shape == (1024, 1024)
        assert pixels.std() > 10
    store = open_store(build_store(table, tmp_path / "store", 64), verify=True)
    assert store.mask_classes == ("Pneumonia",)
    assert store.mask_valid(slice(None)).sum() == 5
