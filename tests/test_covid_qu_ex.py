"""COVID-QU-Ex: its two trees, who is in which population, and what is wrong with a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.check import survey
from dollkit.data.sets.covid_qu_ex import (
    CLASSES,
    DATASET,
    TREES,
    find_covid_qu_ex,
    read_covid_qu_ex,
)
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store

LUNG, INFECTION = TREES["lungs"], TREES["infection"]
STEM = {"COVID-19": "covid", "Non-COVID": "non_COVID", "Normal": "Normal"}
Tree = Callable[..., Path]


def save(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def square(value: int = 255) -> np.ndarray:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = value
    return mask


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Both trees, a film of each class in each split; the lung tree has one more of each."""

    def make(
        doubled: bool = True,
        trees: tuple[str, ...] = (LUNG, INFECTION),
        rename: Callable[[str], str] = str,
        root: str = "COVID-QU-Ex",
        end: str = ".png",
    ) -> Path:
        for which in trees:
            for s, split in enumerate(("Train", "Val", "Test")):
                for kind in CLASSES:
                    here = tmp_path / root / rename(which)
                    here = here / rename(which) if doubled else here
                    here = here / rename(split) / rename(kind)
                    stems = [f"{STEM[kind]}_{s}"]
                    stems += [f"{STEM[kind]} ({s})"] if which == LUNG else []
                    for stem in stems:
                        save(here / rename("images") / f"{stem}{end}", np.full((16, 16), 90))
                        save(here / rename("lung masks") / f"{stem}{end}", square())
                        if which == INFECTION:
                            infected = square() if kind == "COVID-19" else square(0)
                            save(here / rename("infection masks") / f"{stem}{end}", infected)
        return tmp_path / root

    return make


def one_line(root: Path, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        read_covid_qu_ex(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"doubled": False},
        {"root": "覆盖 röntgen (1)"},
        {"rename": str.lower, "end": ".PNG"},
        {"rename": lambda name: name.replace(" ", "_"), "doubled": False},
    ],
)
def test_every_folder_variant_gives_the_same_tables(tree: Tree, form: dict[str, object]) -> None:
    root = tree(**form)
    assert find_covid_qu_ex(root) == root
    tables = DATASET.tables(root)
    assert list(tables) == ["lungs", "infection"]
    lungs, infection = tables["lungs"], tables["infection"]
    assert len(lungs) == 18
    assert lungs.masks["lungs"].notna().all()
    assert infection.films["image_id"].tolist() == ["covid_0", "covid_1", "covid_2"]
    assert infection.films["patient_id"].tolist() == ["covid_0", "covid_1", "covid_2"]
    assert infection.films["split"].tolist() == ["train", "valid", "test"]
    assert set(infection.films["source"]) == {"covid_qu_ex-COVID-19"}
    assert infection.masks["infection"].iloc[0].load(16, 16).sum() == 64
    assert survey(DATASET, root, subset=True, decode=True).problems.empty


def test_columns_and_findings(tree: Tree) -> None:
    films = read_covid_qu_ex(tree())["lungs"].films.set_index("image_id")
    assert set(films["source"]) == {f"covid_qu_ex-{kind}" for kind in CLASSES}
    assert films.loc["Normal_0", "No Finding"] == 1
    assert (
        films.drop(index=[i for i in films.index if i.startswith("Normal")])["No Finding"]
        .isna()
        .all()
    )
    assert films["Pneumonia"].isna().all()
    assert set(films["sex"]) == {""}
    assert films["age"].isna().all()
    assert set(films["fold"]) == {0}
    assert films.loc["covid (1)", "split"] == "valid"


def test_population_all_has_empty_masks_outside_covid(tree: Tree) -> None:
    infection = DATASET.tables(tree(), {"population": "all"})["infection"]
    assert len(infection) == 9
    loaded = {
        name: mask.load(16, 16).sum()
        for name, mask in zip(
            infection.films["image_id"], infection.masks["infection"], strict=True
        )
    }
    assert {name: total for name, total in loaded.items() if total} == {
        "covid_0": 64,
        "covid_1": 64,
        "covid_2": 64,
    }


def test_either_tree_alone(tree: Tree) -> None:
    root = tree(trees=(LUNG,), root="a")
    assert list(read_covid_qu_ex(root)) == ["lungs"]
    root = tree(trees=(INFECTION,), root="b")
    tables = read_covid_qu_ex(root)
    assert list(tables) == ["lungs", "infection"]
    assert len(tables["lungs"]) == 9
    assert tables["lungs"].masks["lungs"].iloc[0].load(16, 16).sum() == 64
    assert survey(DATASET, root, subset=True).problems.empty


def test_films_without_mask_are_unknown_and_masks_without_film_surplus(tree: Tree) -> None:
    root = tree()
    here = root / INFECTION / INFECTION / "Train/COVID-19"
    (here / "infection masks/covid_0.png").unlink()
    stray = save(here / "infection masks/covid_9.png", square())
    table = read_covid_qu_ex(root)["infection"]
    assert table.masks["infection"].isna().tolist() == [True, False, False]
    assert table.facts["infection tree COVID-19 infection masks"] == 2
    problems = survey(DATASET, root, subset=True).problems
    assert problems[["kind", "file"]].values.tolist() == [["surplus", str(stray)]]


def test_a_stem_of_two_classes_gets_its_class(tree: Tree) -> None:
    root = tree()
    for kind, split in (("Normal", "Train"), ("COVID-19", "Test")):
        save(root / LUNG / LUNG / split / kind / "images/1.png", square(90))
    films = read_covid_qu_ex(root)["lungs"].films.set_index("image_id")
    assert films.loc["Normal_1", "source"] == "covid_qu_ex-Normal"
    assert films.loc["COVID-19_1", "split"] == "test"
    assert "1" not in films.index
    # The stem Normal_1 stands in the tree's Val already, and keeps apart.
    assert films.loc["Normal_Normal_1", "split"] == "valid"


def test_one_film_in_two_splits_names_both_files(tree: Tree) -> None:
    root = tree()
    here = root / INFECTION / INFECTION
    shutil.copy(here / "Train/COVID-19/images/covid_0.png", here / "Test/COVID-19/images")
    message = one_line(root)
    assert "film covid_0: splits train and test" in message
    assert str(here / "Train/COVID-19/images/covid_0.png") in message
    assert str(here / "Test/COVID-19/images/covid_0.png") in message
    table = read_covid_qu_ex(root, skip_bad=True)["infection"]
    assert table.films["image_id"].tolist() == ["covid_1", "covid_2"]
    assert len(table.bad) == 1
    report = survey(DATASET, root, subset=True)
    assert report.problems["kind"].tolist() == ["row"]


def test_one_film_twice_in_a_folder_is_an_error(tree: Tree) -> None:
    root = tree()
    here = root / LUNG / LUNG / "Val/Normal/images"
    save(here / "Normal_1.PNG", square(90))
    assert "film Normal_1: there twice" in one_line(root)


def test_films_split_differently_in_the_two_trees_are_counted(tree: Tree) -> None:
    root = tree()
    what = "films of both trees, split differently"
    assert read_covid_qu_ex(root)["lungs"].facts[what] == 0
    here = root / LUNG / LUNG
    for folder in ("images", "lung masks"):
        shutil.move(here / f"Val/COVID-19/{folder}/covid_1.png", here / f"Test/COVID-19/{folder}")
    assert read_covid_qu_ex(root)["lungs"].facts[what] == 1


@pytest.mark.parametrize("value", [254, 1])
def test_a_smoothed_mask_is_an_error_when_it_is_read(tree: Tree, value: int) -> None:
    root = tree()
    save(root / LUNG / LUNG / "Train/COVID-19/lung masks/covid_0.png", square(value))
    masks = read_covid_qu_ex(root)["lungs"].masks["lungs"]
    with pytest.raises(InputError, match=rf"mask value {value}: use only 0, 255"):
        [mask.load(16, 16) for mask in masks]


def test_sixteen_bit_films_are_refused(tree: Tree) -> None:
    root = tree()
    file = root / LUNG / LUNG / "Train/COVID-19/images/covid_0.png"
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(file)
    problems = survey(DATASET, root, subset=True, decode=True).problems
    assert problems[["kind", "file"]].values.tolist() == [["broken", str(file)]]


def test_litter_of_file_managers_is_no_film(tree: Tree) -> None:
    root = tree()
    for name in ("._covid_0.png", ".DS_Store", "Thumbs.db"):
        (root / INFECTION / INFECTION / "Train/COVID-19/images" / name).write_bytes(b"x")
    assert len(read_covid_qu_ex(root)["infection"]) == 3
    assert survey(DATASET, root, subset=True).problems.empty


def test_stores_are_built(tree: Tree, tmp_path: Path) -> None:
    table = read_covid_qu_ex(tree())["infection"]
    store = open_store(build_store(table, tmp_path / "store", 16))
    assert store.films["split"].tolist() == ["train", "valid", "test"]
    np.testing.assert_array_equal(store.masks([0])[0, 0], square() // 255)


def test_where_there_is_nothing_one_line_says_what_was_expected(tmp_path: Path, tree: Tree) -> None:
    with pytest.raises(InputError, match=f"expected {LUNG}/ or {INFECTION}/"):
        DATASET.tables(tmp_path)
    (tmp_path / LUNG / LUNG).mkdir(parents=True)
    assert "neither Train, Val nor Test in it" in one_line(tmp_path)
    (tmp_path / LUNG / LUNG / "Train/Normal/images").mkdir(parents=True)
    assert "no film: expected PNG files in {Train,Val,Test}" in one_line(tmp_path)
    (tmp_path / LUNG / "Test").mkdir()
    assert "Train, Val and Test lie in" in one_line(tmp_path)
    root = tree()
    shutil.rmtree(root / LUNG)
    for split in ("Train", "Val", "Test"):
        shutil.rmtree(root / INFECTION / INFECTION / split / "COVID-19")
    assert "no COVID-19 film in Infection Segmentation Data" in one_line(root)
    assert len(read_covid_qu_ex(root, population="all")["infection"]) == 6
    assert "population='some'" in one_line(root, population="some")


def test_the_root_is_found_at_or_below(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    assert find_covid_qu_ex(tmp_path) == root
    assert find_covid_qu_ex(root / LUNG / LUNG / "Train") is None


def test_documented_counts_are_met_by_a_whole_infection_tree(tmp_path: Path) -> None:
    for split, count in (("Train", 1864), ("Val", 466), ("Test", 583)):
        here = tmp_path / INFECTION / split / "COVID-19"
        for folder in ("images", "infection masks"):
            (here / folder).mkdir(parents=True)
            for k in range(count):
                (here / folder / f"covid_{split}_{k}.png").touch()
    counts = survey(DATASET, tmp_path).counts.set_index("what")
    infection = counts[counts.index.str.startswith("infection")]
    assert len(infection) == 5
    assert infection["ok"].all()
    assert counts.loc["lung tree films", ["here", "documented"]].tolist() == [0, 33_920]
    lung = [counts.loc[f"lung tree {kind} films", "documented"] for kind in CLASSES]
    assert sum(lung) == 33_920
