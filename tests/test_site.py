"""The documentation site: what is in it, a tiny one built strictly, and nothing from elsewhere."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dollkit
from dollkit.common import paths
from tests.site_loads import loads
from tests.toys import write_notebook

CONFIG = paths.ROOT / "mkdocs.yml"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.delenv("PROFILE", raising=False)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    loader = SourceFileLoader("docs_hooks", str(paths.ROOT / "docs" / "hooks.py"))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def configured(**changed: Any) -> Any:
    from mkdocs.config import load_config

    return load_config(str(CONFIG), strict=True, **changed)


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from leaves(item)


def test_every_public_module_has_one_page(hooks: ModuleType) -> None:
    walked = [m.name for m in pkgutil.walk_packages(dollkit.__path__, "dollkit.")]
    public = {n for n in walked if not any(p.startswith("_") for p in n.split("."))} | {"dollkit"}
    grouped = [name for names in hooks.modules().values() for name in names]
    assert sorted(grouped) == sorted(public)
    nav = hooks.on_config(configured()).nav
    pages = sorted(page for page in leaves(nav) if page.startswith("api/"))
    assert pages == sorted({hooks.page_of(name) for name in public})


def test_executed_notebooks_come_in_place_of_their_source(
    hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path))
    folder = tmp_path / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    for name in ("labels", "classifiers-a", "classifiers-b"):
        (folder / f"{name}.ipynb").write_text("{}")
    found = hooks.notebooks("smoke")
    for name in "ab":
        instance = found["02_classifiers"][f"02_classifiers-{name}"]
        assert instance == folder / f"classifiers-{name}.ipynb"
    assert found["03_labels"] == {"03_labels": folder / "labels.ipynb"}
    assert found["01_data"] == {"01_data": paths.NOTEBOOKS / "01_data.ipynb"}


BAR = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "a bar"}
OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": "said so\n"},
    {"output_type": "stream", "name": "stderr", "text": "a warning\n"},
    {"output_type": "display_data", "metadata": {}, "data": BAR},
]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of a few pages, in place of the real one."""
    root = tmp_path / "small"
    table = "| a | b |\n| --- | --- |\n| 1 [0, 2] | x |\n"
    folded = f"<details><summary>the table</summary>\n\n{table}\n</details>\n"
    for name, text in {
        "README.md": "# Small\n\n[a](docs/a.md), [r](figures/open/index.md)\n",
        "docs/a.md": "# A\n\n[back](../README.md)\n",
        "data/README.md": "# Data\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "figures/open/index.md": f"# Results\n\n{folded}",
        "figures/open/figure1.png": "a film that is not passed on",
        "figures/open/figure4.png": "curves",
        "dollkit/common/__init__.py": "",
        "dollkit/common/errors.py": (paths.PACKAGE / "common" / "errors.py").read_text(),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    book = write_notebook(root / "notebooks" / "00_quickstart.ipynb", "print('said so')")
    content = json.loads(book.read_text())
    title = "# Quick\n\nAn equation,\n\n$$a_1 < \\frac{1}{2}$$\n\nand $\\beta$."
    heading = {"id": "title", "cell_type": "markdown", "metadata": {}, "source": title}
    content["cells"][-1]["outputs"] = OUTPUTS
    book.write_text(json.dumps(content | {"cells": [heading, *content["cells"]]}))
    for name, place in (("ROOT", "."), ("PACKAGE", "dollkit"), ("NOTEBOOKS", "notebooks")):
        monkeypatch.setattr(paths, name, (root / place).resolve())
    return root


@pytest.mark.parametrize("source", ["phantom", "open"])
def test_films_of_a_data_set_come_with_a_notice(
    hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path))
    (tmp_path / "p").mkdir()
    record = {"stages": {"data": {"parameters": {"source": source}}}}
    (tmp_path / "p" / "provenance.json").write_text(json.dumps(record))
    book = write_notebook(tmp_path / "data.ipynb", "1")
    text, _ = hooks.notebook(book, "01_data", "p")
    assert "[Source](01_data.ipynb), executed as `data` in profile `p`" in text
    assert (hooks.NOTICE in text) is (source == "open")


@pytest.mark.slow
def test_a_small_site(small: Path) -> None:
    from mkdocs.commands.build import build

    site = small.parent / "site"
    config = configured(site_dir=str(site))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    math = '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">'
    for page, words in {
        "index": ['href="docs/a.html"', 'href="figures/open/index.html"'],
        "notebooks/00_quickstart": [math, "<mi>β</mi>", "said so"],
        "figures/open/index": ["<td>1 [0,&nbsp;2]</td>"],
        "api/dollkit.common.errors": ["file, row or parameter"],
    }.items():
        text = (site / f"{page}.html").read_text()
        assert [w for w in words if w not in text] == []
        assert not re.search("arithmatex|a warning|a bar", text)
    assert not (site / "figures" / "open" / "figure1.png").exists()
    assert (site / "figures" / "open" / "figure4.png").is_file()
    assert loads(site) == []
    more = '<img src="b.png" srcset="b.png 1x, //h.example/b 2x"><a href="https://arxiv.org">x</a>'
    (site / "more.html").write_text(more)
    (site / "more.css").write_text("@font-face { src: url(https://f.example/e.woff) }")
    assert loads(site) == ["more.html: //h.example/b", "more.css: https://f.example/e.woff"]
