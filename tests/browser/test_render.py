"""Every notebook as JupyterLab shows it, light and dark: whole, typeset, and no wider than it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser.book import THEMES
from tests.browser.conftest import Opener
from tests.browser.server import Lab

FOLDERS = {"notebooks": paths.NOTEBOOKS, "executed": paths.runs() / "smoke" / "notebooks"}
NAMES = [f"{name}/{f.name}" for name in FOLDERS for f in sorted(FOLDERS[name].glob("*.ipynb"))]


def faults(opened: Opener, lab: Lab, name: str, pictures: Path) -> list[str]:
    """What is wrong with the notebook `name` of the lab's folder; pictures of it in both themes."""
    stored = json.loads((lab.folder / name).read_text(encoding="utf-8"))["cells"]
    book = opened(name)
    cells = book.cells()
    assert [c["source"] for c in cells] == ["".join(c["source"]) for c in stored]
    found = []
    for number, cell in enumerate(cells, start=1):
        if cell["bad_math"] or "\\" in cell["prose"]:
            found.append(f"cell {number}: TeX that is not typeset")
        found += [f"cell {number}: {text}" for text in cell["errors"]]
    for theme in THEMES:
        book.theme(theme)
        found += [f"{theme}: {fault}" for fault in book.layout()]
        book.picture(pictures / Path(name).parent.name / f"{Path(name).stem}-{theme}.png")
    return found + book.noise


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_shown_whole(opened: Opener, lab: Lab, name: str, pictures: Path) -> None:
    assert faults(opened, lab, name, pictures) == []


FAULTS = [
    ("md", r"$\nosuch{1}$", "cell 1: TeX that is not typeset"),
    ("md", "| a |\n|-|\n| `" + 150 * "x" + "` |", "light: cell 2: text/markdown is "),
    ("md", "![](https://example.org/film.png)", "net::ERR_NAME_NOT_RESOLVED: https"),
    ("md", "![](missing.png)", "404: http"),
    ("py", "x = 1\n" * 60, "dark: cell 5: source is "),
]


def test_each_fault_is_seen(
    opened: Opener, lab: Lab, written: Callable[..., str], tmp_path: Path
) -> None:
    name = written("faulty.ipynb", *((kind, source) for kind, source, _ in FAULTS))
    found = faults(opened, lab, name, tmp_path)
    assert [text for _, _, text in FAULTS if not any(f.startswith(text) for f in found)] == []
    with pytest.raises(AssertionError, match="not all drawn and typeset within 15 s"):
        opened(written("unbalanced.ipynb", ("md", r"$\frac{1$")), seconds=15)
