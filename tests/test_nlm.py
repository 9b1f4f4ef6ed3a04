"""Montgomery, Shenzhen, both as one and the mixed copy: trees, masks, readings, what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.check import survey
from dollkit.data.dataset import DataSet
from dollkit.data.sets.nlm import DATASET, MONTGOMERY, SHENZHEN
from dollkit.data.sets.nlm_files import parse_reading, split_of
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store

MCU = ("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0108_1")
CHN = ("CHNCXR_0001_0", "CHNCXR_0327_1", "CHNCXR_0328_1")
SIZE = (10, 8)


def save(path: Path, values: object, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert("P") if palette else image).save(path)
    return path


def lung(side: str) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:8, slice(1, 3) if side == "right" else slice(5, 7)] = 255
    return mask


def montgomery(root: Path, end: str = ".png") -> Path:
    """A MontgomerySet folder; left and right mask of every film."""
    for k, name in enumerate(MCU):
        save(root / f"CXR_png/{name}{end}", np.full(SIZE, 50 + k))
        for side in ("left", "right"):
            save(root / f"ManualMask/{side}Mask/{name}{end}", lung(side))
    return root


def shenzhen(root: Path, masks: Path, inside: int = 255) -> Path:
    """A ChinaSet_AllFiles folder with masks elsewhere; the last film has none."""
    for k, name in enumerate(CHN):
        save(root / f"CXR_png/{name}.png", np.full(SIZE, 90 + k), palette=True)
        if k < 2:
            both = (lung("left") | lung("right")) // 255 * np.uint8(inside)
            save(masks / f"{name}_mask.png", both)
    return root


def mixed(root: Path) -> Path:
    for name in (*MCU, *CHN):
        save(root / f"CXR_png/{name}.png", np.full(SIZE, 70))
        mask = f"{name}_mask.png" if name in CHN else f"{name}.png"
        save(root / "masks" / mask, lung("left") | lung("right"))
    return root


def one_line(data_set: DataSet, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        data_set.tables(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "below",
    [
        "MontgomerySet",
        "montgomeryset",
        "Montgomery/MontgomerySet",
        "NLM-MontgomeryCXRSet/MontgomerySet",
    ],
)
def test_montgomery_joins_left_and_right(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "röntgen daten"
    root = montgomery(folder / below, ".PNG" if below == "montgomeryset" else ".png")
    (root / "CXR_png/Thumbs.db").write_bytes(b"x")
    assert MONTGOMERY.find(folder) == root
    assert MONTGOMERY.find(root) == root
    table = MONTGOMERY.tables(folder)["lungs"]
    films = table.films
    assert films["image_id"].tolist() == list(MCU)
    assert films["patient_id"].tolist() == list(MCU)
    assert films["split"].tolist() == [split_of(name) for name in MCU]
    assert set(films["fold"]) == {0}
    assert set(films["view"]) == {"PA"}
    np.testing.assert_array_equal(films["No Finding"], [1, 1, np.nan])
    assert films["Pneumonia"].isna().all()
    assert list(table.masks.columns) == ["lungs"]
    mask = table.masks["lungs"].iloc[0]
    assert not mask.own_grid
    np.testing.assert_array_equal(mask.load(*SIZE), (lung("left") | lung("right")) // 255)
    assert survey(MONTGOMERY, folder, subset=True, decode=True).problems.empty


def test_a_film_with_one_lung_drawn_has_no_mask(tmp_path: Path) -> None:
    root = montgomery(tmp_path / "MontgomerySet")
    (root / "ManualMask/leftMask/MCUCXR_0002_0.png").unlink()
    for side in ("left", "right"):
        (root / f"ManualMask/{side}Mask/MCUCXR_0108_1.png").unlink()
    table = MONTGOMERY.tables(root)["lungs"]
    assert table.masks["lungs"].isna().tolist() == [False, True, True]
    assert table.facts["Montgomery lung masks"] == 1
    assert table.facts["Montgomery films with the mask of one lung"] == 1
    report = survey(MONTGOMERY, root, subset=True)
    assert report.problems["reason"].tolist() == [
        "Montgomery films with the mask of one lung: 1 here, 0 documented"
    ]


@pytest.mark.parametrize(
    ("own", "masks"),
    [
        ("ChinaSet_AllFiles", "mask"),
        ("ChinaSet_AllFiles", "mask/mask"),
        ("ChinaSet_AllFiles", "ChinaSet_AllFiles/masks"),
        ("ChinaSet_AllFiles/ChinaSet_AllFiles", "masks"),
        ("ChinaSet_AllFiles/ChinaSet_AllFiles", "shcxr-lung-mask/mask/mask"),
        ("shenzhen/ChinaSet_AllFiles", "shenzhen/Mask"),
    ],
)
def test_shenzhen_finds_its_masks_inside_or_beside(tmp_path: Path, own: str, masks: str) -> None:
    root = shenzhen(tmp_path / own, tmp_path / masks)
    assert SHENZHEN.find(tmp_path) == root
    for folder in (tmp_path, root):
        table = SHENZHEN.tables(folder)["lungs"]
        assert table.films["image_id"].tolist() == list(CHN)
        assert table.masks["lungs"].notna().tolist() == [True, True, False]
    assert set(table.films["view"]) == {""}
    np.testing.assert_array_equal(table.films["No Finding"], [1, np.nan, np.nan])
    assert table.facts == {
        "Shenzhen films": 3,
        "Shenzhen normal": 1,
        "Shenzhen tuberculosis": 2,
        "Shenzhen lung masks": 2,
    }
    assert survey(SHENZHEN, tmp_path, subset=True, decode=True).problems.empty


def test_shenzhen_masks_of_zeros_and_ones_are_read_alike(tmp_path: Path) -> None:
    shenzhen(tmp_path / "ChinaSet_AllFiles", tmp_path / "mask", inside=1)
    mask = SHENZHEN.tables(tmp_path)["lungs"].masks["lungs"].iloc[0]
    assert mask.load(*SIZE).sum() == 24


def test_wrong_mask_values_and_sizes_are_errors_when_they_are_read(tmp_path: Path) -> None:
    shenzhen(tmp_path / "ChinaSet_AllFiles", tmp_path / "mask")
    save(tmp_path / "mask/CHNCXR_0001_0_mask.png", np.full(SIZE, 128))
    save(tmp_path / "mask/CHNCXR_0327_1_mask.png", np.zeros((5, 4)))
    one, other = SHENZHEN.tables(tmp_path)["lungs"].masks["lungs"].iloc[:2]
    with pytest.raises(InputError, match=r"CHNCXR_0001_0_mask\.png: mask value 128"):
        one.load(*SIZE)
    with pytest.raises(InputError, match="mask is 4x5, its image is 8x10"):
        other.load(*SIZE)
    # Montgomery's own masks hold 0 and 255 only.
    root = montgomery(tmp_path / "MontgomerySet")
    save(root / "ManualMask/leftMask/MCUCXR_0001_0.png", lung("left") // 255)
    with pytest.raises(InputError, match="mask value 1: use only 0, 255"):
        MONTGOMERY.tables(root)["lungs"].masks["lungs"].iloc[0].load(*SIZE)


def test_both_sets_are_one_store(tmp_path: Path) -> None:
    montgomery(tmp_path / "data/MontgomerySet")
    shenzhen(tmp_path / "data/ChinaSet_AllFiles", tmp_path / "data/mask")
    save(tmp_path / "data/another [set]/deep/er/film.png", lung("left"))
    (tmp_path / "data/MontgomerySet/NLM-MontgomeryCXRSet-ReadMe.pdf").touch()
    assert DATASET.find(tmp_path / "data") == tmp_path / "data"
    assert DATASET.find(tmp_path / "data/MontgomerySet") is None
    table = DATASET.tables(tmp_path / "data")["lungs"]
    assert table.films["image_id"].tolist() == [*MCU, *CHN]
    assert table.films["source"].tolist() == ["montgomery"] * 3 + ["shenzhen"] * 3
    assert table.masks["lungs"].notna().tolist() == [True] * 5 + [False]
    alone = MONTGOMERY.tables(tmp_path / "data")["lungs"].films
    assert alone["split"].tolist() == table.films["split"].tolist()[:3]
    assert survey(DATASET, tmp_path / "data", subset=True).problems.empty
    store = open_store(build_store(table, tmp_path / "store", 16))
    assert store.mask_valid(range(6))[:, 0].tolist() == [True] * 5 + [False]
    one, other = store.masks([0, 3])[:, 0]
    assert one.sum() > 0
    np.testing.assert_array_equal(one, other)
    stray = save(tmp_path / "data/ChinaSet_AllFiles/CXR_png/unknown.png", lung("left"))
    problems = survey(DATASET, tmp_path / "data", subset=True).problems
    assert problems["file"].tolist() == [str(stray)]


@pytest.mark.parametrize("below", ["Lung Segmentation", "lung_segmentation/Lung Segmentation", ""])
def test_the_mixed_copy(tmp_path: Path, below: str) -> None:
    root = mixed(tmp_path / "kaggle" / below)
    save(root / "test/CHNCXR_0001_0.png", lung("left"))
    folder = tmp_path / "kaggle"
    assert DATASET.find(folder) == root
    assert MONTGOMERY.find(folder) is None
    assert SHENZHEN.find(folder) is None
    table = DATASET.tables(folder)["lungs"]
    assert table.films["image_id"].tolist() == [*MCU, *CHN]
    assert table.masks["lungs"].notna().all()
    assert set(table.films["sex"]) == {""}
    np.testing.assert_array_equal(
        table.masks["lungs"].iloc[0].load(*SIZE), (lung("left") | lung("right")) // 255
    )
    assert survey(DATASET, folder, subset=True, decode=True).problems.empty


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("Patient's Sex: F \nPatient's Age: 027Y\nnormal\n", "F", 27),
        ("Patient's Sex: M\r\nPatient's Age: 006M\r\n", "M", 0.5),
        ("male 35yrs  \t\nPTB in the left upper field \t", "M", 35),
        ("Female, 24 years\nnormal", "F", 24),
        ("female 8 months", "F", 8 / 12),
        ("male 10days", "M", 10 / 365.25),
        ("male 35-year-old, cough for 3 weeks", "M", 35),
        ("male\nfever for 3 days", "M", np.nan),
        ("Patient's Sex: O\nPatient's Age: \n", "", np.nan),
        ("\ufefffemale45yr", "", np.nan),
        ("TB 1950\0", "", np.nan),
        ("", "", np.nan),
    ],
)
def test_readings_are_taken_for_what_they_say(text: str, sex: str, age: float) -> None:
    found = parse_reading(text)
    assert found[0] == sex
    np.testing.assert_allclose(found[1], age)


def test_readings_are_optional_and_never_an_error(tmp_path: Path) -> None:
    root = montgomery(tmp_path / "MontgomerySet")
    readings = root / "clinicalreadings"
    readings.mkdir()
    (readings / "MCUCXR_0001_0.txt").write_bytes(b"\xff\xfe Patient's Sex: F Age: 61Y")
    (readings / "MCUCXR_0002_0.txt").mkdir()
    films = MONTGOMERY.tables(root)["lungs"].films
    assert films["sex"].tolist() == ["F", "", ""]
    np.testing.assert_array_equal(films["age"], [61, np.nan, np.nan])


def test_a_film_that_is_normal_and_not_is_an_error(tmp_path: Path) -> None:
    root = montgomery(tmp_path / "MontgomerySet")
    save(root / "CXR_png/MCUCXR_0001_1.png", np.zeros(SIZE))
    message = one_line(MONTGOMERY, root)
    assert "there both as normal (_0) and as tuberculosis (_1)" in message
    assert "MCUCXR_0001_1.png" in message
    table = MONTGOMERY.tables(root, skip_bad=True)["lungs"]
    assert table.films["image_id"].tolist() == list(MCU[1:])
    assert len(table.bad) == 1


def test_films_and_masks_that_are_there_twice_are_errors(tmp_path: Path) -> None:
    root = shenzhen(tmp_path / "ChinaSet_AllFiles", tmp_path / "mask")
    shutil.copy(root / "CXR_png/CHNCXR_0001_0.png", root / "CXR_png/chncxr_0001_0.png")
    assert "film CHNCXR_0001_0: there twice" in one_line(SHENZHEN, root)
    assert len(SHENZHEN.tables(root, skip_bad=True)["lungs"]) == 2
    (root / "CXR_png/chncxr_0001_0.png").unlink()
    save(tmp_path / "mask/CHNCXR_0001_0.png", lung("left"))
    assert "film CHNCXR_0001_0: mask twice" in one_line(SHENZHEN, root)
    table = SHENZHEN.tables(root, skip_bad=True)["lungs"]
    assert table.masks["lungs"].notna().tolist() == [False, True, False]
    assert len(table.bad) == 1


def test_no_mask_at_all_is_an_error(tmp_path: Path) -> None:
    root = shenzhen(tmp_path / "ChinaSet_AllFiles", tmp_path / "mask")
    shutil.rmtree(tmp_path / "mask")
    assert "3 films, but no whole lung mask of any: expected mask/" in one_line(SHENZHEN, root)


@pytest.mark.parametrize(
    ("data_set", "folder", "words"),
    [
        (MONTGOMERY, "MontgomerySet", "expected MontgomerySet/CXR_png/"),
        (SHENZHEN, "ChinaSet_AllFiles", "expected ChinaSet_AllFiles/CXR_png/"),
        (DATASET, "Lung Segmentation", "or Lung Segmentation/CXR_png/"),
    ],
)
def test_where_there_is_nothing_one_line_says_what_was_expected(
    tmp_path: Path, data_set: DataSet, folder: str, words: str
) -> None:
    (tmp_path / folder / "CXR_png").mkdir(parents=True)
    (tmp_path / folder / "masks").mkdir()
    assert data_set.find(tmp_path) is None
    assert words in one_line(data_set, tmp_path)
    with pytest.raises(InputError, match="expected"):
        data_set.read(tmp_path)
    (tmp_path / folder / "ManualMask").mkdir()
    with pytest.raises(InputError, match="expected"):
        MONTGOMERY.read(tmp_path / folder)


def test_shares_of_the_split_are_near_the_published_ones() -> None:
    names = [f"{p}_{k:04d}_0" for p in ("MCUCXR", "CHNCXR") for k in range(2000)]
    parts = [split_of(name) for name in names]
    share = {part: parts.count(part) / len(parts) for part in ("train", "valid", "test")}
    assert share == pytest.approx({"train": 0.7, "valid": 0.1, "test": 0.2}, abs=0.02)
    assert split_of("MCUCXR_0001_0") == split_of("MCUCXR_0001_0")


def test_documented_counts_are_met_by_a_whole_tree(tmp_path: Path) -> None:
    def touch(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    for k in range(1, 139):
        name = f"MCUCXR_{k:04d}_{int(k > 80)}.png"
        for folder in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
            touch(tmp_path / "MontgomerySet" / folder / name)
    for k in range(1, 663):
        name = f"CHNCXR_{k:04d}_{int(k > 326)}"
        touch(tmp_path / f"ChinaSet_AllFiles/CXR_png/{name}.png")
        if k > 96:
            touch(tmp_path / f"mask/{name}_mask.png")
    for data_set in (MONTGOMERY, SHENZHEN, DATASET):
        report = survey(data_set, tmp_path)
        assert report.sound
        assert report.counts["documented"].notna().all()
    assert report.counts["here"].sum() == 138 * 3 + 662 * 2 + 566
