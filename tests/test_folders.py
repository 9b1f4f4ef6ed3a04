"""Files of a data set: by the form of their names, there, elsewhere, or leading out of it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.data.film_table import lost_files
from dollkit.data.sets.common_steps import child, files_of, holds
from dollkit.data.sets.own_folder import DATASET
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.test_own import image

FORM = re.compile(r"(a\d)\.PNG", re.IGNORECASE)


def test_a_folder_is_found_in_any_case_and_with_underscores(tmp_path: Path) -> None:
    (tmp_path / "Left_Lung").mkdir()
    (tmp_path / "file").touch()
    assert child(tmp_path, "left lung") == tmp_path / "Left_Lung"
    assert child(tmp_path, "right lung") is None
    assert child(tmp_path, "FILE") is None
    (tmp_path / "left lung").mkdir()
    assert child(tmp_path, "left lung") == tmp_path / "left lung"
    assert child(tmp_path / "none", "left lung") is None


def test_files_have_the_form_and_broken_links_count(tmp_path: Path) -> None:
    for name in ("a2.png", "a1.PNG", "._a1.png", "a1.png.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "a3").mkdir()
    (tmp_path / "a4.png").symlink_to(tmp_path / "nowhere")
    found = files_of(tmp_path, FORM)
    assert [(match[1], file.name) for match, file in found] == [
        ("a1", "a1.PNG"),
        ("a2", "a2.png"),
        ("a4", "a4.png"),
    ]
    assert holds(tmp_path, FORM)
    assert not holds(tmp_path / "a3", FORM)
    assert files_of(None, FORM) == files_of(tmp_path / "none", FORM) == []
    (tmp_path / "a5.png").mkdir()
    with pytest.raises(InputError, match=r"a5\.png: a folder with the name of a file"):
        files_of(tmp_path, FORM)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four films; another folder lies beside the data set."""
    folder = tmp_path / "set"
    names = ["a.png", "b.png", "c.png", "deep/d.png"]
    folder.mkdir()
    (folder / "films.csv").write_text("image,patient\n" + "".join(f"{n},{n[0]}\n" for n in names))
    for name in names:
        image(folder / "images" / name)
    image(tmp_path / "elsewhere" / "d.png")
    return folder


@pytest.mark.parametrize("name", ["a.png", "deep"])
def test_links_that_lead_out_are_never_followed(root: Path, tmp_path: Path, name: str) -> None:
    place = root / "images" / name
    if place.is_dir():
        (place / "d.png").unlink()
        place.rmdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.unlink()
        place.symlink_to(tmp_path / "elsewhere" / "d.png")
    table = DATASET.tables(root)["films"]
    with pytest.raises(InputError, match=r"films\.csv, row \d: .*leads out of .*set"):
        build_store(table, tmp_path / "out", 8)
    build_store(table, tmp_path / "out", 8, skip_bad=True)
    assert len(open_store(tmp_path / "out")) == 3
    left = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert left["reason"].str.contains("leads out").tolist() == [True]


def test_what_stands_in_the_place_of_a_film_is_told(root: Path) -> None:
    films = root / "images"
    (films / "a.png").rename(films / "A.PNG")
    (films / "b.png").unlink()
    (films / "b.png").mkdir()
    (films / "c.png").unlink()
    (films / "c.png").symlink_to(films / "c.png")  # a loop
    reasons = list(lost_files(DATASET.tables(root)["films"])["reason"])
    assert [r.split("films.csv, ")[1][:5] for r in reasons] == ["row 2", "row 3", "row 4"]
    assert "is a folder, not a file" in reasons[1]
    for reason, name in ((reasons[0], "a.png"), (reasons[2], "c.png")):
        assert "no such file" in reason
        assert reason.endswith(name)
