"""The page of a profile: made from its files alone, every link of it leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from dollkit.common import paths
from dollkit.report import page
from tests import synthetic_run as synthetic
from tests.small_files import error_of

COMMITTED = [p.parent.name for p in sorted((paths.ROOT / "figures").glob("*/index.md"))]
LINK = re.compile(r"\]\(([^)]+)\)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that has a page: a table, a figure, claims, provenance."""
    real = paths.ROOT / "figures" / "laptop"
    for name in ("claims.csv", "claims.md", "figure1.png", "figure1.txt", "table1.md"):
        shutil.copy(real / name, tmp_path)
    record = {
        "profile": "toy", "seconds": 90.0, "environment": {"device": "cpu", "cpus": 2},
        "stages": {
            "data": {"parameters": {"source": "phantom", "stores": {}, "data_dir": ""}},
            "labels": {"parameters": {}, "seeds": [3, 1], "seconds": 90.0,
                       "environment": {"code": {"commit": "c0ffee", "modified": True}}},
        },
    }  # fmt: skip
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize("profile", COMMITTED)
def test_every_link_resolves_and_nothing_is_left_out(profile: str) -> None:
    folder = paths.ROOT / "figures" / profile
    text = (folder / "index.md").read_text(encoding="utf-8")
    links = LINK.findall(text)
    assert len(links) > 20
    assert [link for link in links if not (folder / link).is_file()] == []
    real = page.shows_real_films(page.read_record(folder))
    assert real is (profile not in ("smoke", "laptop", "desk", "gpu"))
    hidden = set(page.FILMS) if real else set()
    for stem in hidden:
        assert page.FILMS[stem] in text
        assert f"({stem}." not in text
    shown = [p for p in folder.iterdir() if p.stem not in hidden and p.name != "index.md"]
    copied = {p.name for p in shown if p.suffix in (".md", ".txt")} | {"table1_reference.csv"}
    assert {p.name for p in shown} - copied - set(links) == set()
    for path in shown:
        lines = path.read_text().splitlines() if path.suffix in (".md", ".txt") else []
        if path.stem == "claims":
            lines = [line for line in lines if line.startswith("Of ")]
        elif path.suffix == ".md":
            lines = [line for line in lines if line.startswith("| ")]
        assert [line for line in lines if line.strip() not in text] == [], path.name


def test_the_page_tells_how_it_was_made(folder: Path) -> None:
    text = page.page(folder)
    for words in (
        "# Results, profile toy\n", "| commit | `None`, `c0ffee` modified |", "| seeds | 1, 3 |",
        "2, 90 s in all (90 s;", "synthetic chest phantom", "![Figure 1](figure1.png)",
    ):  # fmt: skip
        assert words in text
    assert page.write_index(folder).read_text(encoding="utf-8") == text
    assert page.page(folder) == text  # a page that is there changes nothing


@pytest.mark.parametrize(
    ("given", "real"),
    [
        ({"source": "phantom", "stores": {"films": "phantom"}}, False),
        ({"source": "phantom", "stores": {"lungs": "jsrt"}}, True),
        ({"source": "", "stores": {"films": "phantom", "lungs": "phantom"}}, False),
        ({"source": "phantom", "data_dir": "sets"}, True),
        ({}, True),
    ],
)
def test_films_are_shown_only_if_all_are_the_phantoms(
    folder: Path, given: dict[str, object], real: bool
) -> None:
    record = page.read_record(folder)
    record["stages"]["data"]["parameters"] = given
    assert page.shows_real_films(record) is real
    (folder / "provenance.json").write_text(json.dumps(record))
    assert ("(figure1.png)" in page.page(folder)) is not real


def test_a_folder_without_claims_or_provenance(folder: Path) -> None:
    (folder / "claims.md").unlink()
    assert "claims.md: no such file; run the claims stage" in error_of(page.page, folder)
    for broken in ("[]", "{}", "{"):
        (folder / "provenance.json").write_text(broken)
        assert "stage again" in error_of(page.page, folder)
    (folder / "provenance.json").unlink()
    assert "provenance.json: no such file" in error_of(page.page, folder)


def test_provenance_gathers_all_manifests(tmp_path: Path) -> None:
    run = synthetic.make_run(tmp_path, size=16)
    content = json.loads(page.write_provenance(run, tmp_path / "out").read_text())
    assert content["commit"] == "c0ffee"
    assert content["seconds"] == pytest.approx(6 * 10 + 20 + 2 * 30)
    assert set(content["stages"]) >= {"labels", "finetune/organs", "classifiers/resnet18"}
    assert content["weights"]["finetune/lungs/weights.safetensors"] == "ab" * 32
    assert "no manifest" in error_of(page.collect, tmp_path / "nowhere")


def test_the_population_says_which_films_came_from_where(tmp_path: Path) -> None:
    assert "no store below it" in error_of(page.population, tmp_path)
    stores = [tmp_path / "data" / name for name in ("films", "lungs")]
    for folder in stores:
        folder.mkdir(parents=True)
    phantom, pack = "synthetic chest phantom", "open pack"
    for films, lungs, words in (
        ("phantom", "phantom", phantom),
        ("open", "open-lungs", pack),
        ("phantom", "open-lungs", f"{phantom} (films); {pack} (lungs)"),
    ):
        for folder, source in zip(stores, (films, lungs), strict=True):
            (folder / "store.json").write_text(json.dumps({"made_from": {"source": source}}))
        assert page.population(tmp_path) == words
