"""JSRT with SCR masks: every form its tree comes in, and everything that can be wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.check import survey
from dollkit.data.decode import load_image
from dollkit.data.sets.jsrt import (
    DATASET,
    NAMES,
    ORGANS,
    draw_splits,
    find_root,
    parity_fold,
    read_jsrt,
)
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store

NAMED = ("JPCLN001", "JPCLN002", "JPCLN017", "JPCNN001", "JPCNN004")
Tree = Callable[..., Path]


def save(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def organ_mask(organ: str) -> np.ndarray:
    """4 x 4 with one row per organ; left and right clavicle share the last row."""
    mask = np.zeros((4, 4), np.uint8)
    k = ORGANS.index(organ)
    mask[min(k, 3), :2] = 255
    if k == 4:
        mask[3] = [0, 0, 255, 255]
    return mask


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree of PNG conversions and tiny masks; the arguments name its folders."""

    def make(
        films: str = "All247images",
        masks: str = "scratch/fold{fold}/masks/{organ}",
        name: str = "{film}.png",
        mask: str = "{film}.gif",
        root: str = "jsrt",
    ) -> Path:
        for k, film in enumerate(NAMED):
            save(tmp_path / root / films / name.format(film=film), np.full((8, 8), 40 * k))
            for organ in ORGANS:
                fold = parity_fold(film) + 1
                folder = masks.format(fold=fold, organ=organ, under=organ.replace(" ", "_"))
                save(tmp_path / root / folder / mask.format(film=film), organ_mask(organ))
        return tmp_path / root

    return make


def one_line(root: Path, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        read_jsrt(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"films": "All247images/All247images"},
        {"films": "images", "masks": "fold{fold}/masks/{under}"},
        {"films": "", "masks": "fold{fold}/{organ}"},
        {"films": "JSRT", "masks": "masks/{organ}", "mask": "{film}.png"},
        {"films": "all247IMAGES", "masks": "SCR/scratch/Fold{fold}/Masks/{organ}"},
        {"name": "{film}.PNG", "mask": "{film}.GIF"},
        {"root": "Röntgen bilder (kopie)", "films": "images/images"},
    ],
)
def test_every_folder_variant_gives_the_same_table(tree: Tree, form: dict[str, str]) -> None:
    root = tree(**form)
    assert find_root(root) == root
    tables = DATASET.tables(root)
    assert list(tables) == ["lungs", "organs"]
    for table in tables.values():
        assert table.films["image_id"].tolist() == list(NAMED)
        assert all(Path(p).is_file() for p in table.films["path"])
    organs = tables["organs"]
    assert list(organs.masks.columns) == ["lungs", "heart", "clavicles"]
    assert list(tables["lungs"].masks.columns) == ["lungs"]
    assert organs.masks.notna().all(axis=None)
    loaded = [organs.masks[c].iloc[2].load(8, 8) for c in organs.masks]
    assert [m.tolist() for m in loaded] == [
        [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4],
        [[0] * 4, [0] * 4, [1, 1, 0, 0], [0] * 4],
        [[0] * 4, [0] * 4, [0] * 4, [1, 1, 1, 1]],
    ]
    report = survey(DATASET, root, subset=True)
    assert report.problems.empty


def test_names_in_lower_case_are_the_same_films(tree: Tree) -> None:
    root = tree()
    for file in sorted(root.rglob("*.*")):
        if file.is_file():
            file.rename(file.with_name(file.name.lower()))
    films = read_jsrt(root)["organs"].films
    assert films["image_id"].tolist() == list(NAMED)
    assert films["path"].iloc[0].endswith("jpcln001.png")


def test_columns_and_findings(tree: Tree) -> None:
    films = read_jsrt(tree())["organs"].films
    assert films["patient_id"].tolist() == list(NAMED)
    assert set(films["view"]) == {"PA"}
    assert set(films["source"]) == {"jsrt"}
    assert films["Lung Lesion"].tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(films["No Finding"], [np.nan] * 3 + [1, 1])
    assert films["Edema"].isna().all()
    assert films["age"].isna().all()
    assert set(films["sex"]) == {""}
    given = pd.read_csv(paths.SPLITS / "jsrt_172_25_50.csv").set_index("image_id")["split"]
    assert films["split"].tolist() == given[list(NAMED)].tolist()
    assert set(films["fold"]) == {0}


def test_organs_apart_have_a_class_each(tree: Tree) -> None:
    tables = read_jsrt(tree(), organs="apart")
    assert list(tables["organs"].masks.columns) == list(ORGANS)
    assert list(tables["lungs"].masks.columns) == ["lungs"]
    right = tables["organs"].masks["right clavicle"].iloc[0].load(8, 8)
    assert right[3].tolist() == [0, 0, 1, 1]


def test_scr_folds_are_cross_validation(tree: Tree) -> None:
    films = read_jsrt(tree(), split="scr_folds")["lungs"].films
    assert films["fold"].tolist() == [0, 1, 0, 0, 1]
    assert set(films["split"]) == {"train"}


def test_a_mask_in_the_other_fold_than_the_split_says_is_told(tree: Tree) -> None:
    root = tree()
    for organ in ORGANS:
        masks = root / "scratch"
        name = f"masks/{organ}/JPCLN002.gif"
        shutil.move(masks / "fold2" / name, masks / "fold1" / name)
    assert len(read_jsrt(root)["lungs"]) == 5
    message = one_line(root, split="scr_folds")
    assert "film JPCLN002: its mask" in message
    assert "is in fold1, jsrt_scr_folds.csv has it in fold2" in message
    tables = read_jsrt(root, split="scr_folds", skip_bad=True)
    assert "JPCLN002" not in set(tables["lungs"].films["image_id"])
    assert len(tables["lungs"].bad) == 1
    assert survey(DATASET, root, options={"split": "scr_folds"}, subset=True).problems[
        "kind"
    ].tolist() == ["row"]


def test_a_film_in_both_folds_is_an_error(tree: Tree) -> None:
    root = tree()
    save(root / "scratch/fold2/masks/heart/JPCLN001.gif", organ_mask("heart"))
    message = one_line(root)
    assert "film JPCLN001: masks in both folds" in message
    assert "fold1" in message
    assert "fold2/masks/heart/JPCLN001.gif" in message
    table = read_jsrt(root, skip_bad=True)["organs"]
    assert table.films["image_id"].tolist() == list(NAMED[1:])
    report = survey(DATASET, root, subset=True)
    assert report.problems["kind"].tolist() == ["row"]


def test_films_and_masks_that_are_there_twice_are_errors(tree: Tree) -> None:
    root = tree()
    shutil.copy(root / "All247images/JPCNN001.png", root / "JPCNN001.png")
    assert "film JPCNN001" in one_line(root)
    assert len(read_jsrt(root, skip_bad=True)["lungs"]) == 4
    (root / "JPCNN001.png").unlink()
    save(root / "scratch/fold1/masks/heart/JPCNN001.png", organ_mask("heart"))
    assert "film JPCNN001: mask twice" in one_line(root)
    assert len(read_jsrt(root, skip_bad=True)["lungs"]) == 4


def test_no_film_of_jsrt_has_another_number(tree: Tree) -> None:
    root = tree()
    save(root / "All247images/JPCNN094.png", np.zeros((8, 8)))
    assert "JPCNN094.png: no film of JSRT" in one_line(root)
    assert len(read_jsrt(root, skip_bad=True)["organs"]) == 5


def test_missing_masks_are_unknown_and_half_a_class_is_no_mask(tree: Tree) -> None:
    root = tree()
    half = root / "scratch/fold1/masks/left lung/JPCLN001.gif"
    half.unlink()
    for organ in ORGANS:
        (root / f"scratch/fold1/masks/{organ}/JPCLN017.gif").unlink()
    tables = read_jsrt(root)
    assert tables["lungs"].masks["lungs"].isna().tolist() == [True, False, True, False, False]
    organs = tables["organs"].masks
    assert organs["heart"].isna().tolist() == [False, False, True, False, False]
    assert tables["organs"].facts["left lung masks"] == 3
    assert tables["organs"].facts["right lung masks"] == 4
    # The other half belongs to the set, so it is no surplus.
    assert survey(DATASET, root, subset=True).problems.empty
    apart = read_jsrt(root, organs="apart")["organs"].masks
    assert apart["right lung"].notna().tolist() == [True, True, False, True, True]


def test_masks_of_a_film_that_is_left_out_are_surplus(tree: Tree) -> None:
    root = tree()
    (root / "All247images/JPCLN017.png").unlink()
    assert len(read_jsrt(root)["lungs"]) == 4
    problems = survey(DATASET, root, subset=True).problems
    assert problems["kind"].tolist() == ["surplus"] * 5
    assert all("JPCLN017" in file for file in problems["file"])


def test_a_mask_value_that_scr_has_not_is_an_error_when_it_is_read(tree: Tree) -> None:
    root = tree()
    save(root / "scratch/fold1/masks/heart/JPCLN001.gif", [[0, 128], [255, 0]])
    mask = read_jsrt(root)["organs"].masks["heart"].iloc[0]
    with pytest.raises(InputError, match=r"JPCLN001\.gif: mask value 128"):
        mask.load(8, 8)
    save(root / "scratch/fold1/masks/heart/JPCLN001.gif", np.zeros((4, 8)))
    with pytest.raises(InputError, match="mask is 8x4, its image is 8x8"):
        mask.load(8, 8)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_age_and_sex_from_the_clinical_files(tree: Tree, end: str) -> None:
    root = tree()
    nodule = [
        "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper\tlobe\tcancer\t",
        "JPCLN002.IMG\t2\t18\t?\tFemale\t246\t1233\tmalignant\tr.lower\tlobe\tcancer\t",
        "JPCLN017.IMG\t2\t18\t\tmale\t246\t1233\tbenign\tr.lower\tlobe",
        "JPCLN154.IMG\t2\t18\t40\tmale\t246\t1233\tbenign\tr.lower\tlobe",
    ]
    none = ["JPCNN001.IMG 30  female   non-nodule", "JPCNN004.IMG 52  male     non-nodule"]
    (root / "CLNDAT_EN.txt").write_bytes((end.join(nodule) + end).encode())
    (root / "Clinical_Information").mkdir()
    (root / "Clinical_Information/CNNDAT_EN.TXT").write_bytes(end.join(none).encode())
    films = read_jsrt(root)["lungs"].films
    np.testing.assert_array_equal(films["age"], [53, np.nan, np.nan, 30, 52])
    assert films["sex"].tolist() == ["M", "F", "M", "F", "M"]
    assert survey(DATASET, root, subset=True).problems.empty


@pytest.mark.parametrize("line", ["JPCLN002.IMG\t5\t15\t53\tman", "x\ty", "JPCLN001.IMG 40 male"])
def test_a_clinical_line_of_another_form_is_told_by_row(tree: Tree, line: str) -> None:
    root = tree()
    (root / "CLNDAT_EN.txt").write_text(f"JPCLN001.IMG\t5\t15\t53\tmale\r{line}\r")
    assert "CLNDAT_EN.txt, row 2: " in one_line(root)
    table = read_jsrt(root, skip_bad=True)["lungs"]
    assert table.bad.frame()["reason"].str.contains("row 2").tolist() == [True]
    assert table.films["age"].iloc[0] == 53


def test_raw_films_come_before_their_conversions(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    raw = np.full((2048, 2048), 4095, ">u2")
    raw[:1024] = 0
    (root / "All247images/JPCLN001.IMG").write_bytes(raw.tobytes())
    tables = read_jsrt(root)
    assert Path(tables["lungs"].films["path"].iloc[0]).name == "JPCLN001.IMG"
    assert root / "All247images/JPCLN001.png" in tables["lungs"].others
    assert survey(DATASET, root, subset=True, decode=True).problems.empty
    # Inverted: what is dark in the file is bone, bright in the film.
    film = load_image(root / "All247images/JPCLN001.IMG")
    assert film.shape == (2048, 2048)
    assert film[0, 0] == 255
    assert film[-1, -1] <= 1
    store = open_store(build_store(tables["organs"], tmp_path / "store", 16))
    assert len(store.films) == 5
    # The 4 x 4 mask fills the grid as the 2048 x 2048 film does.
    heart = store.masks([0], ["heart"])[0, 0]
    assert heart[8:12, :8].all()
    assert heart.sum() == 32
    (root / "All247images/JPCLN001.IMG").write_bytes(raw.tobytes()[:-2])
    report = survey(DATASET, root, subset=True, decode=True)
    assert set(report.problems["kind"]) == {"broken"}


def test_where_there_is_nothing_one_line_says_what_was_expected(tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "empty/All247images").mkdir(parents=True)
    assert find_root(tmp_path / "empty") is None
    with pytest.raises(InputError, match=r"expected All247images/ with JPCLN001\.IMG") as caught:
        DATASET.tables(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    assert "expected All247images/" in one_line(tmp_path / "empty")
    root = tree()
    shutil.rmtree(root / "scratch")
    assert "no SCR mask with the films: expected scratch/fold1/masks" in one_line(root)


def test_unknown_options_are_told(tree: Tree) -> None:
    root = tree()
    assert "organs='lungs'" in one_line(root, organs="lungs")
    with pytest.raises(InputError, match="use one of 172_25_50, scr_folds"):
        DATASET.tables(root, {"split": "random"})


def test_the_root_is_found_at_below_or_above(tree: Tree, tmp_path: Path) -> None:
    root = tree(root="data/JSRT")
    assert find_root(root) == root
    assert find_root(tmp_path / "data") == root
    assert find_root(root / "All247images") == root
    assert find_root(root / "scratch") is None
    beside = tree(films="JSRT", root="other")
    assert find_root(beside) == beside
    alone = tree(films="", masks="masks/{organ}", root="third/JSRT")
    assert find_root(tmp_path / "third") == alone


def test_committed_splits_are_as_drawn(tmp_path: Path) -> None:
    for drawn in draw_splits(tmp_path):
        assert drawn.read_bytes() == (paths.SPLITS / drawn.name).read_bytes()
    parts = pd.read_csv(tmp_path / "jsrt_172_25_50.csv")
    assert parts["image_id"].tolist() == list(NAMES)
    assert parts["split"].value_counts().to_dict() == {"train": 172, "valid": 25, "test": 50}
    nodule = parts["image_id"].str[3] == "L"
    assert parts["split"][nodule].value_counts().to_dict() == {
        "train": 107,
        "valid": 16,
        "test": 31,
    }
    folds = pd.read_csv(tmp_path / "jsrt_scr_folds.csv")
    assert folds["fold"].value_counts().to_dict() == {0: 124, 1: 123}
    assert (folds["image_id"].str[-1].astype(int) % 2 == 1 - folds["fold"]).all()


def test_a_damaged_split_file_is_told(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    draw_splits(tmp_path / "splits")
    file = tmp_path / "splits/jsrt_172_25_50.csv"
    file.write_text(file.read_text().replace("JPCLN001,JPCLN001,train", "JPCLN001,JPCLN001,x"))
    with pytest.raises(InputError, match="column 'split': 'x': use train, valid, test"):
        read_jsrt(root, splits=tmp_path / "splits")
    file.write_text(file.read_text().replace("JPCLN001,JPCLN001,x\n", ""))
    with pytest.raises(InputError, match="film 'JPCLN001' of the data set is missing"):
        read_jsrt(root, splits=tmp_path / "splits")


def test_documented_counts_are_met_by_a_whole_tree(tmp_path: Path) -> None:
    for name in NAMES:
        file = tmp_path / "All247images" / f"{name}.IMG"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        for organ in ORGANS:
            mask = tmp_path / f"scratch/fold{parity_fold(name) + 1}/masks/{organ}/{name}.gif"
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.touch()
    report = survey(DATASET, tmp_path)
    assert report.sound
    assert report.counts["ok"].all()
    assert report.counts["documented"].notna().all()
    (tmp_path / "All247images/JPCLN016.IMG").unlink()
    counts = survey(DATASET, tmp_path).counts.set_index("what")
    assert counts.loc["films", ["here", "ok"]].tolist() == [246, False]
