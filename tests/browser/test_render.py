"""Every notebook as JupyterLab shows it, light and dark: whole, typeset, and no wider than it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser.book import THEMES, equations
from tests.browser.conftest import Opener
from tests.browser.server import Lab

NAMES = sorted(f.name for f in paths.NOTEBOOKS.glob("*.ipynb"))
EXECUTED = sorted(f.name for f in (paths.runs() / "smoke" / "notebooks").glob("*.ipynb"))


def shown(opened: Opener, lab: Lab, name: str, pictures: Path) -> list[str]:
    """Faults of the notebook `name` of the lab's folder; pictures of it in both themes."""
    stored = json.loads((lab.folder / name).read_text(encoding="utf-8"))["cells"]
    book = opened(name)
    cells = book.cells()
    assert [c["source"] for c in cells] == ["".join(c["source"]) for c in stored]
    faults = []
    for number, (cell, kept) in enumerate(zip(cells, stored, strict=True), start=1):
        if kept["cell_type"] == "markdown" and not cell["rendered"]:
            faults.append(f"cell {number}: text is not rendered")
        if cell["bad_math"] or "$" in cell["prose"] or "\\" in cell["prose"]:
            faults.append(f"cell {number}: TeX that is not typeset")
        faults += [f"cell {number}: {text}" for text in cell["errors"]]
    for theme in THEMES:
        book.theme(theme)
        faults += [f"{theme}: {fault}" for fault in book.layout()]
        book.picture(pictures / Path(name).parent.name / f"{Path(name).stem}-{theme}.png")
    return faults + book.noise


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_shown_whole(opened: Opener, lab: Lab, name: str, pictures: Path) -> None:
    assert shown(opened, lab, f"notebooks/{name}", pictures) == []


@pytest.mark.parametrize("name", EXECUTED)
def test_an_executed_notebook_is_shown_whole(
    opened: Opener, lab: Lab, name: str, pictures: Path
) -> None:
    assert shown(opened, lab, f"executed/{name}", pictures) == []


FAULTS = [
    ("md", r"$\nosuch{1}$", "cell 1: TeX that is not typeset"),
    ("md", r"$\left( 1$", "cell 2: TeX that is not typeset"),
    ("md", "5 $ of it", "cell 3: TeX that is not typeset"),
    ("md", "| a |\n|-|\n| `" + 150 * "x" + "` |", "light: cell 4: text/markdown is "),
    ("md", "![](https://example.org/film.png)", "no answer (net::ERR_NAME_NOT_RESOLVED): GET h"),
    ("md", "![](missing.png)", "404: GET "),
    ("py", "x = 1\n" * 60, "dark: cell 7: source is "),
    ("py", "x = '" + 150 * "x" + "'", "dark: cell 8: source is "),
]


def test_each_fault_is_seen(
    opened: Opener, lab: Lab, written: Callable[..., str], tmp_path: Path
) -> None:
    name = written("faulty.ipynb", *((kind, source) for kind, source, _ in FAULTS))
    found = shown(opened, lab, name, tmp_path)
    assert [text for _, _, text in FAULTS if not any(f.startswith(text) for f in found)] == []


def test_tex_that_is_no_equation_is_told(opened: Opener, written: Callable[..., str]) -> None:
    name = written("unbalanced.ipynb", ("md", r"$\frac{1$"))
    with pytest.raises(AssertionError, match=r"not all drawn \(equations: \[1\]\) within 15 s"):
        opened(name, seconds=15)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("$a$, $b$ and `$c$`", 2),
        ("$$a\n+b$$ and $c$", 2),
        ("5 \\$ and 6 \\$", 0),
        ("```\n$a$\n```\nfive", 0),
    ],
)
def test_equations_are_counted(source: str, count: int) -> None:
    assert equations(source) == count
