"""Notebooks are put in order before a commit, by the rules that `tests.test_notebooks` asks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import tidy
from tests.test_notebooks import NAMES, problems
from tests.toys import write_notebook

PRINTED = {"output_type": "stream", "name": "stdout", "text": ["3 films\n"]}
WARNED = {"output_type": "stream", "name": "stderr", "text": ["a warning\n"]}
DRAWN = {
    "output_type": "display_data", "metadata": {},
    "data": {"image/png": "iVBORw0=", "text/plain": ["<Figure>"]},
}  # fmt: skip
RESULT = {
    "output_type": "execute_result", "execution_count": 7, "metadata": {},
    "data": {"text/plain": ["4"]},
}  # fmt: skip


def run_through(tmp_path: Path) -> Path:
    """A notebook as an editor leaves it after a run."""
    book = write_notebook(
        tmp_path / "n.ipynb", "# NBVAL_CHECK_OUTPUT\nprint(3)\n4", "print(3)", "draw()  # é"
    )
    content: dict[str, Any] = json.loads(book.read_text())
    for number, cell in enumerate(content["cells"]):
        cell["execution_count"] = number + 7
        cell["metadata"] |= {"collapsed": True, "execution": {"iopub.status.idle": "x"}}
    content["cells"][1]["outputs"] = [WARNED, PRINTED, DRAWN, RESULT]
    content["cells"][2]["outputs"] = [PRINTED]
    content["cells"][3]["outputs"] = [DRAWN]
    content["metadata"]["language_info"]["version"] = "3.12.1"
    content["metadata"]["widgets"] = {"state": {}}
    book.write_text(json.dumps(content))
    return book


def test_checked_cells_keep_their_output_and_others_lose_it(tmp_path: Path) -> None:
    book = run_through(tmp_path)
    before = json.loads(book.read_text())
    assert tidy.tidy(book)
    text = book.read_text(encoding="utf-8")
    content = json.loads(text)
    assert text.endswith("}\n")
    assert '\n "cells"' in text
    assert "é" in text
    cells = content["cells"]
    assert cells[1]["outputs"] == [PRINTED, {**RESULT, "execution_count": 1}]
    assert [c["execution_count"] for c in cells] == [None, 1, None, None]
    assert [bool(c["outputs"]) for c in cells] == [False, True, False, False]
    assert [c["source"] for c in cells] == [c["source"] for c in before["cells"]]
    assert [c["id"] for c in cells] == [c["id"] for c in before["cells"]]
    assert [c["metadata"] for c in cells] == [{"tags": ["parameters"]}, {}, {}, {}]
    assert content["metadata"]["language_info"] == {"name": "python"}
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    sources = [{**c, "source": "".join(c["source"])} for c in cells]
    assert problems(sources) == []


def test_a_second_time_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = run_through(tmp_path)
    assert tidy.main([str(book)]) == 1
    assert capsys.readouterr().out == f"{book}: put in order\n"
    first, date = book.read_bytes(), book.stat().st_mtime_ns
    assert tidy.main([str(book)]) == 0
    assert (book.read_bytes(), book.stat().st_mtime_ns) == (first, date)


@pytest.mark.parametrize("name", NAMES)
def test_the_notebooks_are_in_order(name: str) -> None:
    text = (paths.NOTEBOOKS / name).read_text(encoding="utf-8")
    assert json.dumps(tidy.tidied(json.loads(text)), ensure_ascii=False, indent=1) + "\n" == text


def test_the_comment_is_the_one_that_the_house_rules_know() -> None:
    from tests.test_notebooks import CHECKED

    assert tidy.CHECKED == CHECKED


@pytest.mark.parametrize("text", ["", "{}", "no json", '{"nbformat": 3, "worksheets": []}'])
def test_what_is_no_notebook_is_named_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(text)
    with pytest.raises(InputError, match=r"n\.ipynb: not a notebook of format 4"):
        tidy.tidy(path)
    assert tidy.main([str(path), str(tmp_path / "none.ipynb")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert path.read_text() == text


def test_hooks_use_the_pinned_tools() -> None:
    config = yaml.safe_load((paths.ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "notebooks"}
    for hook in hooks.values():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
    module = re.search(r"-m (\S+)$", hooks["notebooks"]["entry"])
    assert module is not None
    assert module[1] == tidy.__name__
