"""Data sets side by side in one folder, in their released layouts, to stores and the checker."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dollkit.data import DATASETS, __main__, build, candidates, found, named, read
from dollkit.data.__main__ import compare, survey
from dollkit.data.film_table import STORES
from dollkit.data.phantom.render import ORGANS, render
from dollkit.data.store import open_store
from dollkit.workflow import cli
from tests.phantom_layouts import truth, write_all, write_layout
from tests.small_files import error_of, save

SIZE, N = 64, 12
FEW = {"n_films": 24, "n_train_pool": 2, "n_valid": 1, "n_test": 1}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom films as CheXpert, JSRT, Montgomery, Shenzhen and COVID-QU-Ex."""
    out = tmp_path_factory.mktemp("data") / "sets"
    write_all(out, N, SIZE, 0)
    return out


def test_every_data_set_in_a_folder_is_found(trees: Path) -> None:
    names = ["chexpert", "jsrt", "montgomery", "shenzhen", "nlm", "covid_qu_ex"]
    assert sorted(found(trees)) == sorted(names)
    assert list(found(trees / "JSRT")) == ["jsrt"]


def sources(built: dict[str, Path]) -> list[str]:
    """What gave each store."""
    return [open_store(path).made_from["source"] for path in built.values()]


def test_organs_and_infection_come_out_where_the_phantom_put_them(
    trees: Path, tmp_path: Path
) -> None:
    built = build("auto", trees, tmp_path, SIZE, options={"jsrt.organs": "apart"})
    for layout, name in (("jsrt", "organs"), ("covid-qu-ex", "infection")):
        store, rows = open_store(built[name], verify=True), truth(layout, N, 0)
        drawn, names = render(rows, SIZE, 0), list(rows["name"])
        at = [names.index(image_id) for image_id in store.films["image_id"]]
        truths = drawn.organs if layout == "jsrt" else drawn.infection[:, None]
        classes = ORGANS if layout == "jsrt" else ("infection",)
        assert sorted(store.mask_classes) == sorted(classes)
        np.testing.assert_array_equal(store.masks(slice(None), classes), truths[at])
        assert truths[at].any((2, 3)).all()
        # The same films, but for the antialiasing of enlarging and shrinking again.
        for film, expected in zip(store.images[:], drawn.images[at], strict=True):
            assert np.abs(film.astype(float) - expected).mean() < 4
            assert np.corrcoef(film.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_store_may_be_the_phantoms_beside_data_sets(trees: Path, tmp_path: Path) -> None:
    mixed = {"films": "phantom", "lungs": "phantom"}
    built = build("auto", trees, tmp_path / "mixed", SIZE, seed=3, stores=mixed, phantom=FEW)
    assert list(built) == ["films", "lungs", "infection", "organs"]
    assert sources(built) == ["phantom", "phantom", "covid_qu_ex", "jsrt"]
    alone = build("phantom", "", tmp_path / "alone", SIZE, seed=3, phantom=FEW)
    for name in mixed:
        files = {p.name: p.read_bytes() for p in built[name].iterdir()}
        assert files == {p.name: p.read_bytes() for p in alone[name].iterdir()}
    # The phantom gives what is asked of it and no more, unless it is to fill what is not there.
    some = build("jsrt", trees, tmp_path / "some", SIZE, stores={"organs": "phantom"}, phantom=FEW)
    assert list(some) == ["lungs", "organs"]
    filled = build("jsrt", trees, tmp_path / "all", SIZE, fill_from="phantom", phantom=FEW)
    assert sources(filled) == ["phantom", "jsrt", "phantom", "jsrt"]


def test_what_cannot_be_done_is_told_before_films_are_decoded(trees: Path, tmp_path: Path) -> None:
    for more, words in (
        ({"options": {"jsrt.organs": "both"}, "stores": {}}, "option jsrt.organs is 'both': use"),
        ({"options": {"nih.x": "y"}}, "nih is not read here"),
        ({"stores": {"lungs": "v7"}}, "no 'v7' for lungs here.*or say phantom"),
        ({"stores": dict.fromkeys(STORES, "phantom")}, "leaves auto nothing to give"),
        ({"stores": {"infection": "jsrt"}}, "'jsrt' has no infection"),
        ({"size": 40}, "'size' is 40: use a multiple of 8 from 64"),
        ({"phantom": {"protocol": {"label_noize": 1}}}, "no knob 'label_noize'"),
    ):
        arguments = {"size": SIZE, "stores": {"organs": "phantom"}, **more}
        assert re.search(words, error_of(build, "auto", trees, tmp_path / "out", **arguments))
        assert not (tmp_path / "out").exists()


def test_a_folder_without_a_known_tree_is_told(tmp_path: Path) -> None:
    assert "no known data set here" in error_of(read, "auto", tmp_path)
    for data_set in DATASETS.values():
        assert data_set.find(tmp_path) is None
        words = f"no {data_set.title} here: expected {data_set.tree}"
        assert words in error_of(data_set.tables, tmp_path)
    assert "unknown data set 'jsrd': use one of chexpert" in error_of(read, "jsrd", tmp_path)
    for folder in (tmp_path / "none", ""):
        assert f"'data_dir' is '{folder}': no such folder" in error_of(read, "auto", folder)


def test_two_copies_of_one_set_are_ambiguous(trees: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(trees / "JSRT")
    assert candidates(found(tmp_path))["organs"] == ["jsrt"]  # one folder under two names
    (tmp_path / "b").unlink()
    (tmp_path / "b" / "All247images").mkdir(parents=True)
    (tmp_path / "b" / "All247images" / "JPCLN001.IMG").touch()
    (tmp_path / "b" / "scratch" / "fold1" / "masks" / "heart").mkdir(parents=True)
    assert "lies there twice" in error_of(found, tmp_path)


def test_counts_are_held_against_the_documented_ones() -> None:
    table = compare({"films": 3, "extra": 1}, {"films": 4, "boxes": 2})
    assert table["ok"].tolist() == [False, False, True]
    assert table["here"].tolist() == [3, 0, 1]
    assert compare({"films": 3}, {"films": 4}, subset=True)["ok"].all()
    assert not compare({"films": 5}, {"films": 4}, subset=True)["ok"].any()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small COVID-QU-Ex tree to spoil."""
    write_layout(tmp_path / "set", "covid-qu-ex", 8, SIZE, 0)
    return tmp_path / "set"


def test_a_sound_tree_has_nothing_off(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["check", "covid_qu_ex", str(copy), "--decode", "--subset"]) == 0
    assert "off: nothing" in capsys.readouterr().out
    assert __main__.main(["check", "covid_qu_ex", str(copy)]) == 1  # fewer films than documented
    assert "<- off" in capsys.readouterr().out


def test_every_broken_missing_and_surplus_file_is_listed(copy: Path) -> None:
    films = sorted(set(copy.rglob("Infection*/**/COVID-19/images/*.png")))
    assert len(films) == 4
    broken = films[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    mask = films[1].parents[1] / "infection masks" / films[1].name
    save(mask, np.full((256, 256), 9))
    surplus = films[2].with_name("notes about films.docx")
    surplus.write_text("x")
    (films[2].parent / "Thumbs.db").write_text("x")
    report = survey(named("covid_qu_ex"), copy, subset=True)
    assert report.problems[["kind", "file"]].values.tolist() == [["surplus", str(surplus)]]
    report = survey(named("covid_qu_ex"), copy, subset=True, decode=True)
    problems = {(p.kind, Path(p.file)) for p in report.problems.itertuples()}
    assert problems == {("surplus", surplus), ("broken", broken), ("broken", mask)}


def test_calls_that_make_no_sense_end_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        ("check jsrt .", "no JSRT"),
        ("check none .", "unknown data set 'none'"),
        ("check jsrt . --option organs", "write KEY=VALUE"),
        ("find .", "no known data set here"),
        ("build none . o", "unknown data set 'none'"),
    ):
        assert cli.main(["data", *arguments.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_list_names_every_data_set_with_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["list"]) == 0
    out = capsys.readouterr().out
    for data_set in DATASETS.values():
        assert f"{data_set.name}: {data_set.title}" in out
        assert all([data_set.licence, data_set.cite, data_set.tree])


def test_build_writes_stores_from_the_command_line(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert __main__.main(["build", "covid_qu_ex", str(copy), str(out), "--size", "64"]) == 0
    assert {p.name for p in out.iterdir()} == {"lungs", "infection"}
    assert len(open_store(out / "lungs")) == 8
