"""Do notebooks store what a run has just printed? ``python -m tests.stored_outputs smoke``

With names of notebooks instead, they are stripped of everything else that an editor leaves.

nbval would run each notebook once more for that. A profile whose parameters are the notebooks'
defaults has run them already: of each, the executed copy of the instance with these parameters is
compared, cell by cell, by nbval's rule: cells with ``# NBVAL_CHECK_OUTPUT`` count.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.workflow import parameters, stages

CHECKED = re.compile(r"(?m)^\s*#\s*NBVAL_CHECK_OUTPUT\b")


def outputs(book: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Source of each checked cell, and what it printed and returned."""
    found = []
    for cell in stripped(book)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and CHECKED.search(source):
            texts = [o["text"] if "text" in o else o["data"]["text/plain"] for o in cell["outputs"]]
            found.append((source, "".join("".join(text) for text in texts)))
    return found


def stripped(book: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook with the outputs of checked cells alone, without warnings and pictures."""
    cells = []
    for old in book["cells"]:
        tags = old["metadata"].get("tags")
        cell = {**old, "metadata": {"tags": tags} if tags else {}}
        if cell["cell_type"] == "code":
            checked = CHECKED.search("".join(cell["source"])) is not None
            kept = [
                o | ({"execution_count": 1} if o["output_type"] == "execute_result" else {})
                for o in cell["outputs"]
                if o.get("name") == "stdout" or o["output_type"] == "execute_result"
            ]
            cell["outputs"] = kept if checked else []
            cell["execution_count"] = 1 if cell["outputs"] else None
        cells.append(cell)
    metadata = {"kernelspec": book["metadata"]["kernelspec"], "language_info": {"name": "python"}}
    return {**book, "cells": cells, "metadata": metadata}


def strip(path: Path) -> None:
    """Strip a notebook in place; one that is in order is not written again."""
    text = path.read_text("utf-8")
    after = json.dumps(stripped(json.loads(text)), ensure_ascii=False, indent=1) + "\n"
    if after != text:
        path.write_text(after, encoding="utf-8", newline="\n")


def differences(notebook: Path, executed: Path) -> list[str]:
    """Lines that tell which stored outputs of a notebook are not those of an executed copy."""
    stored, new = (outputs(json.loads(f.read_text("utf-8"))) for f in (notebook, executed))
    if [source for source, _ in stored] != [source for source, _ in new]:
        return [f"{executed} is no copy of {notebook}"]
    lines = []
    for (source, before), (_, after) in zip(stored, new, strict=True):
        if before != after:
            lines += [f"{notebook}: the output differs of", source]
            lines += difflib.unified_diff(
                before.splitlines(), after.splitlines(), "stored", "printed", lineterm=""
            )
    return lines


def check(profile: str) -> list[str]:
    """Differences of all stages; a notebook that did not run with its defaults is one."""
    lines = []
    planned = stages.plan(profile)
    for stage in stages.STAGES.values():
        notebook = parameters.notebooks() / stage.notebook
        defaults = {n: p.default for n, p in parameters.declared(notebook).model_fields.items()}
        slugs = [i.slug for i in planned if i.stage == stage and i.parameters == defaults]
        if len(slugs) != 1:
            lines.append(f"{notebook}: {len(slugs)} stages of {profile} have its defaults, not 1")
            continue
        lines += differences(notebook, paths.runs() / profile / f"notebooks/{slugs[0]}.ipynb")
    return lines


if __name__ == "__main__":
    if sys.argv[1].endswith(".ipynb"):
        for name in sys.argv[1:]:
            strip(Path(name))
    else:
        sys.exit("\n".join(check(sys.argv[1])) or 0)
