"""The notebooks: house rules, what is stored in them, and the check of what they print."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.workflow import stages
from dollkit.workflow.parameters import declared
from tests import stored_outputs
from tests.stored_outputs import CHECKED
from tests.toys import write_notebook

STAGES = {s.notebook: s for s in stages.STAGES.values()}
NAMES = sorted(f.name for f in paths.NOTEBOOKS.glob("*.ipynb"))
CELL_LINES = 28
FUNCTION_LINES = 5
ABSOLUTE = re.compile(r"(?<![\w./:])(?:/(?:home|root|Users|tmp|work|mnt|opt|var)/|[A-Z]:\\)")


def cells(name: str) -> list[dict[str, Any]]:
    text = (paths.NOTEBOOKS / name).read_text(encoding="utf-8")
    return [c | {"source": "".join(c["source"])} for c in json.loads(text)["cells"]]


@pytest.mark.parametrize("name", NAMES)
def test_house_rules(name: str) -> None:
    found = []
    for number, cell in enumerate(cells(name), start=1):
        source = cell["source"]
        if ABSOLUTE.search(source + json.dumps(cell.get("outputs", []))):
            found.append(f"cell {number}: absolute path")
        if cell["cell_type"] != "code":
            continue
        if len(source.strip().splitlines()) > CELL_LINES:
            found.append(f"cell {number}: more than {CELL_LINES} lines")
        if bool(CHECKED.search(source)) != bool(cell["outputs"]):
            found.append(f"cell {number}: output is stored, but not checked, or the other way")
        for node in ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if isinstance(node, ast.ClassDef) or (
                (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES
            ):
                found.append(f"cell {number}: '{node.name}' belongs in dollkit")
    assert found == []


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_declared_and_explained(name: str) -> None:
    found = declared(paths.NOTEBOOKS / name).model_fields
    (cell,) = (c for c in cells(name) if "parameters" in c["metadata"].get("tags", []))
    explained = re.findall(r"^(\w+):.* # \S", cell["source"], re.MULTILINE)
    assert list(found) == explained
    if name in STAGES:
        assert found["profile"].default == "smoke"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_stored(name: str, tmp_path: Path) -> None:
    """Counts, pictures, warnings and what editors leave differ from run to run."""
    text = (paths.NOTEBOOKS / name).read_text(encoding="utf-8")
    copy = tmp_path / name
    book = json.loads(text)
    drawn = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBO"}}
    for number, cell in enumerate(book["cells"]):
        cell["metadata"]["collapsed"] = True
        if cell["cell_type"] == "code":
            cell |= {"outputs": [*cell["outputs"], drawn], "execution_count": number}
    copy.write_text(json.dumps(book))
    stored_outputs.strip(copy)
    assert copy.read_text(encoding="utf-8") == text


def test_a_stored_output_that_a_run_does_not_print_is_found(tmp_path: Path) -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["3\n"]}
    warned = {"output_type": "stream", "name": "stderr", "text": ["slow\n"]}
    returned = {"output_type": "execute_result", "data": {"text/plain": ["4"]}}

    def book(name: str, *outputs: dict[str, Any], more: str = "") -> Path:
        cell = f"# NBVAL_CHECK_OUTPUT\nprint(3)\n4{more}"
        path = write_notebook(tmp_path / name, cell, "print(9)")
        content = json.loads(path.read_text())
        content["cells"][1]["outputs"] = outputs
        content["cells"][2]["outputs"] = [printed]
        path.write_text(json.dumps(content))
        return path

    stored = book("stored.ipynb", printed, returned)
    assert stored_outputs.differences(stored, book("same.ipynb", warned, printed, returned)) == []
    other = book("other.ipynb", printed, {**returned, "data": {"text/plain": ["5"]}})
    assert stored_outputs.differences(stored, other)[-1] == "+5"
    edited = book("edited.ipynb", printed, returned, more="\n5")
    assert "is no copy of" in stored_outputs.differences(stored, edited)[0]
