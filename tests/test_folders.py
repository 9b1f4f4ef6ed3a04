"""Folders and files by the form of their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dollkit.common.errors import InputError
from dollkit.data import folders
from dollkit.data.folders import child, descend, files_of, holds

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


def test_a_folder_of_very_many_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MANY", 3)
    for name in ("1", "2", "Masks"):
        (tmp_path / name).mkdir()
    assert child(tmp_path, "masks") == tmp_path / "Masks"
    (tmp_path / "3").mkdir()
    assert child(tmp_path, "masks") is None
    assert child(tmp_path, "Masks") == tmp_path / "Masks"


def test_descend_goes_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "A/b").mkdir(parents=True)
    assert descend(tmp_path, ("a", "B")) == tmp_path / "A/b"
    assert descend(tmp_path, ()) == tmp_path
    assert descend(tmp_path, ("b", "a")) is None
    assert descend(tmp_path / "none", ()) is None


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
