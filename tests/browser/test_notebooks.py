"""Every notebook as JupyterLab shows it, light and dark; the quickstart and the explorer run."""

from __future__ import annotations

import json

import pytest

from dollkit.common import paths
from tests.browser import server, widgets
from tests.browser.book import THEMES
from tests.browser.conftest import Opener

FOLDERS = {"notebooks": paths.NOTEBOOKS, "executed": paths.runs() / "smoke" / "notebooks"}
NAMES = [f"{name}/{f.name}" for name in FOLDERS for f in sorted(FOLDERS[name].glob("*.ipynb"))]
QUICKSTART, EXPLORER = "notebooks/00_quickstart.ipynb", "notebooks/10_explorer.ipynb"
# Explaining some films by every classifier, and another view, on a machine in use.
SECONDS, MOVE = 900, 60
MUST = {"film", "finding", "classifier", "explainer", "smooth", "ignore"}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_shown_whole(opened: Opener, lab: server.Lab, name: str) -> None:
    stored = json.loads((lab.folder / name).read_text(encoding="utf-8"))["cells"]
    book = opened(name)
    cells = book.cells()
    assert [c["source"] for c in cells] == ["".join(c["source"]) for c in stored]
    for cell in cells:
        assert not cell["errors"]
        assert not cell["bad_math"]
        assert "\\" not in cell["prose"]  # TeX that is not typeset
    for theme in THEMES:
        book.theme(theme)
        book.picture(f"{name.removesuffix('.ipynb')}-{theme}.png")
    assert book.noise == []


def test_the_quickstart_runs(opened: Opener) -> None:
    book = opened(QUICKSTART)
    book.run_all()
    book.picture("notebooks/00_quickstart-run.png")
    code = [c for c in book.cells() if c["code"]]
    assert [c["number"] for c in code] == list(range(1, len(code) + 1))
    drawing = [c for c in code if "in_notebook." in c["source"]]
    assert drawing
    assert all(len(c["pictures"]) == 1 and c["pictures"][0] for c in drawing)
    stored = json.loads((paths.ROOT / QUICKSTART).read_text(encoding="utf-8"))["cells"]
    stored = next(cell for cell in reversed(stored) if cell["cell_type"] == "code")
    assert code[-1]["output"] == "".join(stored["outputs"][0]["text"])
    assert book.noise == []


def test_every_control_of_the_explorer_draws_another_picture(
    lab: server.Lab, opened: Opener
) -> None:
    if not (lab.runs / "smoke" / "labels").is_dir():
        pytest.skip(f"no finished run in {lab.runs}: make reproduce PROFILE=smoke")
    book = opened(EXPLORER)
    book.limit(SECONDS)
    book.run_all()
    moved = set()
    # hi last: at zero it leaves nothing for the lower threshold to change.
    for name in sorted(dict.fromkeys(widgets.controls(book)), key="hi".__eq__):
        # Reset draws no other picture, another order may not; hi is off while the rule is Otsu's.
        if name in ("reset", "order") or widgets.usable(book, name):
            continue
        book.limit(MOVE)
        widgets.move(book, name)
        moved.add(name)
    assert moved >= MUST
    book.picture("notebooks/10_explorer-run.png")
    assert book.noise == []
