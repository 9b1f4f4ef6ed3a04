"""The explorer in JupyterLab: every control is moved, and each time another picture comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser import server, widgets
from tests.browser.book import Book
from tests.browser.conftest import Opener

NAME = "notebooks/10_explorer.ipynb"
PROFILE = "smoke"
# Explaining some films by every classifier, and another view, on a machine in use.
SECONDS, MOVE = 900, 60
# Controls that draw no other picture, and the prefix of those that write files.
NO_PICTURE, WRITES = {"name", "reset"}, "save-"
# Controls that choose among films, and may find the one that is shown best again; moved last.
SAME_FILM = {"only", "sort"}
MUST = {"film", "finding", "next", "classifier", "explainer"}

if not (paths.ROOT / NAME).is_file():
    pytest.skip(f"no {NAME}", allow_module_level=True)


@pytest.fixture
def run_folder(lab: server.Lab) -> Path:
    """The smoke run as the lab's kernels see it."""
    folder = lab.runs / PROFILE
    if not (folder / "labels").is_dir():
        pytest.skip(f"no finished run in {folder}: make reproduce PROFILE={PROFILE}")
    return folder


def move_all(book: Book) -> list[str]:
    """Every control but `NO_PICTURE` and those that write, moved once; which were."""
    moved: list[str] = []
    for name in sorted(dict.fromkeys(widgets.controls(book)), key=SAME_FILM.__contains__):
        if name in NO_PICTURE or name.startswith(WRITES) or widgets.usable(book, name):
            continue
        book.limit(MOVE)
        widgets.move(book, name, changes=name not in SAME_FILM)
        moved.append(name)
    return moved


@pytest.mark.usefixtures("run_folder")
def test_every_control_draws_another_picture(opened: Opener, pictures: Path) -> None:
    book = opened(NAME)
    book.limit(SECONDS)
    book.run_all()
    moved = move_all(book)
    assert set(moved) >= MUST
    assert any(name in moved for name in ("smooth", "hi", "ignore"))
    for theme in ("light", "dark"):
        book.theme(theme)
        book.picture(pictures / "notebooks" / f"10_explorer-run-{theme}.png")
        assert book.layout() == []
    assert widgets.foreign(book) == []
    assert book.noise == []
