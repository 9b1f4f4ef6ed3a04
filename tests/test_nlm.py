"""Montgomery, Shenzhen, both as one: trees, masks, readings, what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dollkit.data.__main__ import survey
from dollkit.data.sets.nlm import DATASET, MONTGOMERY, SHENZHEN, parse_reading
from dollkit.data.splits import split_by_share
from tests.small_files import error_of, save

MCU = ("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0108_1")
CHN = ("CHNCXR_0001_0", "CHNCXR_0327_1", "CHNCXR_0328_1")
SIZE = (10, 8)


def lung(side: str) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:8, slice(1, 3) if side == "right" else slice(5, 7)] = 255
    return mask


BOTH = lung("left") | lung("right")


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
        save(root / f"CXR_png/{name}.png", np.full(SIZE, 90 + k), mode="P")
        if k < 2:
            save(masks / f"{name}_mask.png", BOTH // 255 * inside)
    return root


@pytest.mark.parametrize("below", ["MontgomerySet", "montgomeryset", "Montgomery/MontgomerySet"])
def test_montgomery_joins_left_and_right(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "röntgen daten"
    root = montgomery(folder / below, ".PNG" if below == "montgomeryset" else ".png")
    (root / "CXR_png/Thumbs.db").write_bytes(b"x")
    assert MONTGOMERY.find(folder) == MONTGOMERY.find(root) == root
    table = MONTGOMERY.tables(folder)["lungs"]
    films = table.films
    assert films["image_id"].tolist() == films["patient_id"].tolist() == list(MCU)
    assert films["split"].tolist() == split_by_share(MCU)
    assert (films[["fold", "view"]] == [0, "PA"]).all(axis=None)
    np.testing.assert_array_equal(films["No Finding"], [1, 1, np.nan])
    assert films["Pneumonia"].isna().all()
    assert list(table.masks.columns) == ["lungs"]
    np.testing.assert_array_equal(table.masks["lungs"].iloc[0].load(*SIZE), BOTH // 255)
    assert survey(MONTGOMERY, folder, subset=True, decode=True).problems.empty


def test_a_film_with_one_lung_drawn_has_no_mask(tmp_path: Path) -> None:
    root = montgomery(tmp_path / "MontgomerySet")
    for name in ("left/MCUCXR_0002_0", "left/MCUCXR_0108_1", "right/MCUCXR_0108_1"):
        (root / "ManualMask" / f"{name.replace('/', 'Mask/')}.png").unlink()
    table = MONTGOMERY.tables(root)["lungs"]
    assert table.masks["lungs"].isna().tolist() == [False, True, True]
    assert table.facts["Montgomery lung masks"] == 1
    words = "Montgomery films with the mask of one lung: 1 here, 0 documented"
    assert survey(MONTGOMERY, root, subset=True).problems["reason"].tolist() == [words]


@pytest.mark.parametrize(
    ("own", "masks"),
    [
        ("ChinaSet_AllFiles", "mask"),
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
    counts = {"films": 3, "normal": 1, "tuberculosis": 2, "lung masks": 2}
    assert table.facts == {f"Shenzhen {what}": count for what, count in counts.items()}
    assert survey(SHENZHEN, tmp_path, subset=True, decode=True).problems.empty


def test_both_sets_are_one_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    montgomery(data / "MontgomerySet")
    shenzhen(data / "ChinaSet_AllFiles", data / "mask")
    save(data / "another [set]/deep/er/film.png", lung("left"))
    (data / "MontgomerySet/NLM-MontgomeryCXRSet-ReadMe.pdf").touch()
    assert DATASET.find(data) == data
    assert DATASET.find(data / "MontgomerySet") is None
    table = DATASET.tables(data)["lungs"]
    assert table.films["image_id"].tolist() == [*MCU, *CHN]
    assert table.films["source"].tolist() == ["montgomery"] * 3 + ["shenzhen"] * 3
    assert table.masks["lungs"].notna().tolist() == [True] * 5 + [False]
    one, other = (table.masks["lungs"][i].load(*SIZE) for i in (0, 3))
    np.testing.assert_array_equal(one, other)
    stray = save(data / "ChinaSet_AllFiles/CXR_png/unknown.png", lung("left"))
    assert survey(DATASET, data, subset=True).problems["file"].tolist() == [str(stray)]


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("Patient's Sex: F \nPatient's Age: 027Y\nnormal\n", "F", 27),
        ("male 35yrs  \t\nPTB in the left upper field \t", "M", 35),
        ("male 10days", "M", 10 / 365.25),
        ("male\nfever for 3 days", "M", np.nan),
        ("Patient's Sex: O\nPatient's Age: \n", "", np.nan),
        ("\ufefffemale45yr", "", np.nan),
    ],
)
def test_readings_are_taken_for_what_they_say(text: str, sex: str, age: float) -> None:
    found = parse_reading(text)
    assert found[0] == sex
    np.testing.assert_allclose(found[1], age)


def test_films_and_masks_too_many(tmp_path: Path) -> None:
    root = shenzhen(tmp_path / "ChinaSet_AllFiles", tmp_path / "mask")
    for name, words in (
        ("CHNCXR_0001_1", "there both as normal (_0) and as tuberculosis (_1)"),
        ("chncxr_0001_0", "film CHNCXR_0001_0: there twice"),
    ):
        twin = save(root / f"CXR_png/{name}.png", np.zeros(SIZE))
        assert words in error_of(SHENZHEN.tables, root)
        table = SHENZHEN.tables(root, skip_bad=True)["lungs"]
        assert table.films["image_id"].tolist() == list(CHN[1:])
        assert [file for file, _, _ in table.bad] == [str(twin)]
        twin.unlink()
    save(tmp_path / "mask/CHNCXR_0001_0.png", lung("left"))
    assert "film CHNCXR_0001_0: mask twice" in error_of(SHENZHEN.tables, root)
    table = SHENZHEN.tables(root, skip_bad=True)["lungs"]
    assert table.masks["lungs"].notna().tolist() == [False, True, False]
    shutil.rmtree(tmp_path / "mask")
    words = "3 films, but no whole lung mask of any: expected mask/"
    assert words in error_of(SHENZHEN.tables, root)
    for film in (root / "CXR_png").iterdir():
        film.unlink()
    assert "expected CHNCXR_0001_0.png" in error_of(SHENZHEN.read, root)
