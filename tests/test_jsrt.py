"""JSRT with SCR masks: every form its tree comes in, and everything that can be wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.data.__main__ import survey
from dollkit.data.csvfile import BadRows
from dollkit.data.sets.jsrt import DATASET, NAMES, ORGANS, parity_fold, read_jsrt
from dollkit.data.splits import draw_parts
from tests.small_files import error_of, save

NAMED = ("JPCLN001", "JPCLN002", "JPCLN017", "JPCNN001", "JPCNN004")
Tree = Callable[..., Path]


def organ_mask(organ: str) -> np.ndarray:
    """4 x 4 with one row per organ; left and right clavicle share the last row."""
    mask = np.zeros((4, 4), np.uint8)
    k = ORGANS.index(organ)
    mask[min(k, 3), slice(2) if k < 4 else slice(2, 4)] = 255
    return mask


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree of PNG conversions and tiny masks; the arguments name its folders."""

    def make(
        films: str = "All247images", masks: str = "scratch/fold{fold}/masks/{organ}",
        name: str = "{film}.png", mask: str = "{film}.gif", root: str = "jsrt",
    ) -> Path:  # fmt: skip
        for k, film in enumerate(NAMED):
            save(tmp_path / root / films / name.format(film=film), np.full((8, 8), 40 * k))
            for organ in ORGANS:
                folder = masks.format(fold=parity_fold(film) + 1, organ=organ)
                save(tmp_path / root / folder / mask.format(film=film), organ_mask(organ))
        return tmp_path / root

    return make


@pytest.fixture
def root(tree: Tree) -> Path:
    return tree()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"films": "All247images/All247images", "name": "{film}.PNG", "mask": "{film}.GIF"},
        {"films": "JSRT", "masks": "masks/{organ}", "mask": "{film}.png"},
        {"films": "all247IMAGES", "masks": "SCR/scratch/Fold{fold}/Masks/{organ}"},
        {"root": "Röntgen bilder (kopie)", "films": "images/images"},
    ],
)
def test_every_folder_variant_gives_the_same_table(tree: Tree, form: dict[str, str]) -> None:
    root = tree(**form)
    assert DATASET.find(root) == root
    tables = DATASET.tables(root)
    assert list(tables) == ["lungs", "organs"]
    organs = tables["organs"]
    films = organs.films
    assert films["image_id"].tolist() == films["patient_id"].tolist() == list(NAMED)
    assert films["Lung Lesion"].tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(films["No Finding"], [np.nan] * 3 + [1, 1])
    assert films[["Edema", "age"]].isna().all(axis=None)
    splits = pd.read_csv(paths.SPLITS / "jsrt_172_25_50.csv").set_index("image_id")["split"]
    assert films["split"].tolist() == splits[list(NAMED)].tolist()
    assert list(organs.masks.columns) == ["lungs", "heart", "clavicles"]
    assert list(tables["lungs"].masks.columns) == ["lungs"]
    assert organs.masks.notna().all(axis=None)
    loaded = [organs.masks[c].iloc[2].load(8, 8) for c in organs.masks]
    assert [m.tolist() for m in loaded] == [
        [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4],
        [[0] * 4, [0] * 4, [1, 1, 0, 0], [0] * 4],
        [[0] * 4, [0] * 4, [0] * 4, [1, 1, 1, 1]],
    ]
    assert survey(DATASET, root, subset=True).problems.empty


def test_options(root: Path) -> None:
    tables = read_jsrt(root, organs="apart", split="scr_folds")
    assert list(tables["organs"].masks.columns) == list(ORGANS)
    right = tables["organs"].masks["right clavicle"].iloc[0].load(8, 8)
    assert right[3].tolist() == [0, 0, 1, 1]
    films = tables["lungs"].films
    assert films["fold"].tolist() == [0, 1, 0, 0, 1]
    assert set(films["split"]) == {"train"}


def test_a_mask_in_the_other_fold_than_the_split_says(root: Path) -> None:
    for organ in ORGANS:
        name = f"masks/{organ}/JPCLN002.gif"
        shutil.move(root / "scratch/fold2" / name, root / "scratch/fold1" / name)
    assert len(read_jsrt(root)["lungs"]) == 5
    words = "is in fold1, jsrt_scr_folds.csv has it in fold2"
    assert words in error_of(read_jsrt, root, split="scr_folds")
    films = read_jsrt(root, BadRows(), split="scr_folds")["lungs"].films
    assert films["image_id"].tolist() == [name for name in NAMED if name != "JPCLN002"]


FILM = "All247images/JPCNN001.png"
HEART = "scratch/fold1/masks/heart/JPCNN001.gif"


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (FILM, "JPCNN001.png", "film JPCNN001: there twice"),
        (FILM, "All247images/JPCNN094.png", "JPCNN094.png: no film of JSRT"),
        (HEART, HEART.replace("gif", "png"), "film JPCNN001: mask twice"),
        (HEART, HEART.replace("fold1", "fold2"), "film JPCNN001: masks in both folds"),
    ],
)
def test_files_too_many(root: Path, one: str, other: str, words: str) -> None:
    shutil.copy(root / one, root / other)
    message = error_of(read_jsrt, root)
    assert words in message
    assert str(root / other) in message
    films = read_jsrt(root, BadRows())["lungs"].films
    assert films["image_id"].tolist() == [name for name in NAMED if name not in words]
    assert survey(DATASET, root, subset=True).problems["kind"].iloc[0] == "row"


def test_missing_masks_are_unknown_and_half_a_class_is_no_mask(root: Path) -> None:
    (root / "scratch/fold1/masks/left lung/JPCLN001.gif").unlink()
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
    # Masks of a film that is not there are.
    (root / "All247images/JPCLN002.png").unlink()
    assert survey(DATASET, root, subset=True).problems["kind"].tolist() == ["surplus"] * 5


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_age_and_sex_from_the_clinical_files(root: Path, end: str) -> None:
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


@pytest.mark.parametrize("line", ["JPCLN002.IMG\t5\t15\t53\tman", "JPCLN001.IMG 40 male"])
def test_a_clinical_line_of_another_form(root: Path, line: str) -> None:
    (root / "CLNDAT_EN.txt").write_text(f"JPCLN001.IMG\t5\t15\t53\tmale\r{line}\r")
    assert "CLNDAT_EN.txt, row 2: " in error_of(read_jsrt, root)
    table = read_jsrt(root, BadRows())["lungs"]
    assert "row 2" in table.bad[0][2]
    assert table.films["age"].iloc[0] == 53


def test_raw_films_come_before_their_conversions(root: Path) -> None:
    file = root / "All247images/JPCLN001.IMG"
    file.touch()
    table = read_jsrt(root)["lungs"]
    assert table.films["path"].iloc[0] == str(file)
    assert file.with_suffix(".png") in table.others
    for fewer, kinds in ((0, set()), (2, {"broken"})):
        file.write_bytes(bytes(2 * 2048**2 - fewer))
        report = survey(DATASET, root, subset=True, decode=True)
        assert set(report.problems["kind"]) == kinds


def test_films_without_masks_are_told(root: Path) -> None:
    shutil.rmtree(root / "scratch")
    words = "no SCR mask with the films: expected scratch/fold1/masks"
    assert words in error_of(read_jsrt, root)


def test_committed_splits_are_as_drawn() -> None:
    parts = pd.read_csv(paths.SPLITS / "jsrt_172_25_50.csv")
    assert parts["image_id"].tolist() == parts["patient_id"].tolist() == list(NAMES)
    nodule = parts["image_id"].str[3] == "L"
    drawn = draw_parts(NAMES, nodule.to_numpy()[:, None], [172, 25, 50])
    assert parts["split"].tolist() == [("train", "valid", "test")[part] for part in drawn]
    folds = pd.read_csv(paths.SPLITS / "jsrt_scr_folds.csv")
    assert folds["image_id"].tolist() == list(NAMES)
    assert folds["fold"].tolist() == [parity_fold(name) for name in NAMES]
