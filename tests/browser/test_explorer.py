"""The explorer in JupyterLab: every control is moved, and each time another picture comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser import server, widgets
from tests.browser.conftest import Opener

NAME = "notebooks/10_explorer.ipynb"
PROFILE = "smoke"
# Explaining some films by every classifier, and another view, on a machine in use.
SECONDS, MOVE = 900, 60
MUST = {"film", "finding", "classifier", "explainer", "smooth", "ignore"}

if not (paths.ROOT / NAME).is_file():
    pytest.skip(f"no {NAME}", allow_module_level=True)


def test_every_control_draws_another_picture(
    lab: server.Lab, opened: Opener, pictures: Path
) -> None:
    if not (lab.runs / PROFILE / "labels").is_dir():
        pytest.skip(f"no finished run in {lab.runs}: make reproduce PROFILE={PROFILE}")
    book = opened(NAME)
    book.limit(SECONDS)
    book.run_all()
    moved = set()
    for name in dict.fromkeys(widgets.controls(book)):
        # Those that draw no other picture; hi is off while the rule is Otsu's.
        if name in ("reset", "save") or widgets.usable(book, name):
            continue
        book.limit(MOVE)
        widgets.move(book, name)
        moved.add(name)
    assert moved >= MUST
    for theme in ("light", "dark"):
        book.theme(theme)
        book.picture(pictures / "notebooks" / f"10_explorer-run-{theme}.png")
        assert book.layout() == []
    assert widgets.foreign(book) == []
    assert book.noise == []
