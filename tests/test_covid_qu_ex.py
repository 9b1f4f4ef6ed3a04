"""COVID-QU-Ex: its two trees, who is in which population, and what is wrong with a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dollkit.data.__main__ import survey
from dollkit.data.csvfile import BadRows
from dollkit.data.sets.covid_qu_ex import CLASSES, DATASET, TREES, read_covid_qu_ex
from tests.small_files import error_of, save

LUNG, INFECTION = TREES["lungs"], TREES["infection"]
STEM = {"COVID-19": "covid", "Non-COVID": "non_COVID", "Normal": "Normal"}
SPLITS = ("Train", "Val", "Test")
Tree = Callable[..., Path]


FILM = np.full((16, 16), 90)
SQUARE = np.pad(np.full((8, 8), 255), 4)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Both trees, a film of each class in each split; the lung tree has one more of each."""

    def make(
        root: str = "COVID-QU-Ex", trees: tuple[str, ...] = (LUNG, INFECTION),
        doubled: bool = True, rename: Callable[[str], str] = str, end: str = ".png",
    ) -> Path:  # fmt: skip
        for which, (s, split), kind in product(trees, enumerate(SPLITS), CLASSES):
            folders = [which, which, split, kind] if doubled else [which, split, kind]
            here = tmp_path.joinpath(root, *map(rename, folders))
            more = [f"{STEM[kind]} ({s})"] if which == LUNG else []
            for stem in [f"{STEM[kind]}_{s}", *more]:
                save(here / rename("images") / f"{stem}{end}", FILM)
                save(here / rename("lung masks") / f"{stem}{end}", SQUARE)
                if which == INFECTION:
                    infected = SQUARE * (kind == "COVID-19")
                    save(here / rename("infection masks") / f"{stem}{end}", infected)
        return tmp_path / root

    return make


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"root": "覆盖 röntgen (1)", "rename": str.lower, "end": ".PNG"},
        {"rename": lambda name: name.replace(" ", "_"), "doubled": False},
    ],
)
def test_every_folder_variant_gives_the_same_tables(tree: Tree, form: dict[str, object]) -> None:
    root = tree(**form)
    assert DATASET.find(root) == root
    tables = DATASET.tables(root)
    assert list(tables) == ["lungs", "infection"]
    lungs, infection = tables["lungs"], tables["infection"]
    assert len(lungs) == 18
    assert lungs.masks["lungs"].notna().all()
    for column in ("image_id", "patient_id"):
        assert infection.films[column].tolist() == ["covid_0", "covid_1", "covid_2"]
    assert infection.films["split"].tolist() == ["train", "valid", "test"]
    assert set(infection.films["source"]) == {"covid_qu_ex-COVID-19"}
    assert infection.masks["infection"].iloc[0].load(16, 16).sum() == 64
    assert survey(DATASET, root, subset=True, decode=True).problems.empty


def test_either_tree_alone(tree: Tree) -> None:
    assert list(read_covid_qu_ex(tree("a", (LUNG,)))) == ["lungs"]
    root = tree("b", (INFECTION,))
    tables = read_covid_qu_ex(root)
    assert {store: len(table) for store, table in tables.items()} == {"lungs": 9, "infection": 3}
    assert tables["lungs"].masks["lungs"].iloc[0].load(16, 16).sum() == 64
    assert survey(DATASET, root, subset=True).problems.empty


def test_films_without_mask_are_unknown_and_masks_without_film_surplus(tree: Tree) -> None:
    root = tree()
    here = root / INFECTION / INFECTION / "Train/COVID-19"
    (here / "infection masks/covid_0.png").unlink()
    (here / "images/Thumbs.db").touch()
    stray = save(here / "infection masks/covid_9.png", SQUARE)
    table = read_covid_qu_ex(root)["infection"]
    assert table.masks["infection"].isna().tolist() == [True, False, False]
    assert table.facts["infection tree COVID-19 infection masks"] == 2
    problems = survey(DATASET, root, subset=True).problems
    assert problems[["kind", "file"]].values.tolist() == [["surplus", str(stray)]]


def test_a_stem_of_two_classes_gets_its_class(tree: Tree) -> None:
    root = tree()
    for kind, split in (("Normal", "Train"), ("COVID-19", "Test")):
        save(root / LUNG / LUNG / split / kind / "images/1.png", FILM)
    films = read_covid_qu_ex(root)["lungs"].films.set_index("image_id")
    assert films.loc["Normal_1", "source"] == "covid_qu_ex-Normal"
    assert films.loc["COVID-19_1", "split"] == "test"
    assert "1" not in films.index
    # The stem Normal_1 stands in the tree's Val already, and keeps apart.
    assert films.loc["Normal_Normal_1", "split"] == "valid"


def test_one_film_in_two_places_names_both_files(tree: Tree) -> None:
    root = tree()
    here = root / INFECTION / INFECTION
    files = [here / f"{split}/COVID-19/images/covid_0.png" for split in ("Train", "Test")]
    shutil.copy(*files)
    message = error_of(read_covid_qu_ex, root)
    assert f"film covid_0: splits train and test, {files[0]} and {files[1]}: keep" in message
    table = read_covid_qu_ex(root, BadRows())["infection"]
    assert table.films["image_id"].tolist() == ["covid_1", "covid_2"]
    assert table.facts["films of both trees, split differently"] == 0
    assert len(table.bad) == 1
    assert survey(DATASET, root, subset=True).problems["kind"].tolist() == ["row"]
    save(root / LUNG / LUNG / "Val/Normal/images/Normal_1.PNG", FILM)
    assert "film Normal_1: there twice" in error_of(read_covid_qu_ex, root)


def test_where_there_is_nothing_one_line_says_what_was_expected(tmp_path: Path, tree: Tree) -> None:
    (tmp_path / LUNG / LUNG).mkdir(parents=True)
    assert "neither Train, Val nor Test in it" in error_of(read_covid_qu_ex, tmp_path)
    (tmp_path / LUNG / LUNG / "Train/Normal/images").mkdir(parents=True)
    message = error_of(read_covid_qu_ex, tmp_path)
    assert "no film: expected PNG files in {Train,Val,Test}" in message
    (tmp_path / LUNG / "Test").mkdir()
    assert "Train, Val and Test lie in" in error_of(read_covid_qu_ex, tmp_path)
    assert DATASET.find(tree() / LUNG / LUNG / "Train") is None
    root = tree("b", (INFECTION,))
    for split in SPLITS:
        shutil.rmtree(root / INFECTION / INFECTION / split / "COVID-19")
    message = error_of(read_covid_qu_ex, root)
    assert "no COVID-19 film in Infection Segmentation Data" in message
    infection = read_covid_qu_ex(root, population="all")["infection"]
    assert [mask.load(16, 16).any() for mask in infection.masks["infection"]] == [False] * 6
