"""Files of a data set: there, elsewhere, in other letters, or leading out of its folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.data.film_table import Lookup, check_files, lost_files
from dollkit.data.sets.own_folder import DATASET
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.test_own import image


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


def test_links_may_lead_around_inside(root: Path) -> None:
    films = root / "images"
    (root / "store").mkdir()
    (films / "a.png").rename(root / "store" / "x.png")
    (films / "a.png").symlink_to(root / "store" / "x.png")
    (films / "deep").rename(root / "store" / "deep")
    (films / "deep").symlink_to(Path("..") / "store" / "deep")
    tables = DATASET.tables(root)
    check_files(tables["films"])
    linked = root.parent / "link to the set"
    linked.symlink_to(root)
    check_files(DATASET.tables(linked)["films"])


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


def test_a_loop_of_links_is_no_file(root: Path) -> None:
    place = root / "images" / "a.png"
    place.unlink()
    place.symlink_to(place)
    assert len(lost_files(DATASET.tables(root)["films"])) == 1


def test_what_stands_in_the_place_of_a_film_is_told(root: Path) -> None:
    films = root / "images"
    (films / "a.png").rename(films / "A.PNG")
    (films / "b.png").unlink()
    (films / "b.png").mkdir()
    (films / "c.png").unlink()
    reasons = list(lost_files(DATASET.tables(root)["films"])["reason"])
    assert [r.split("films.csv, ")[1][:5] for r in reasons] == ["row 2", "row 3", "row 4"]
    assert "'A.PNG' is there: letters differ in case" in reasons[0]
    assert "is a folder, not a file" in reasons[1]
    assert reasons[2].endswith("c.png")
    assert "no such file" in reasons[2]


def test_a_file_that_is_there_has_no_fault(root: Path) -> None:
    look = Lookup(root)
    assert look.fault(root / "images" / "a.png") == ""
    assert look.fault(root / "images" / ".." / ".." / "elsewhere" / "d.png") != ""


def test_a_name_that_cannot_be_looked_up_is_told(root: Path) -> None:
    long = "a" * 300 + ".png"
    with (root / "films.csv").open("a") as file:
        file.write(f"{long},x\n")
    with pytest.raises(InputError, match=rf"row 6: .*{long} cannot be read \(File name too long\)"):
        check_files(DATASET.tables(root)["films"])
