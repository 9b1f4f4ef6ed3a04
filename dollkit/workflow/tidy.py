"""Notebooks as the repository keeps them: ``python -m dollkit.workflow.tidy notebooks/*.ipynb``.

Cells with ``# NBVAL_CHECK_OUTPUT`` keep what they print, for nbval to compare, with count 1; every
other output and count goes, and what editors leave in the metadata. A notebook that is in order is
not written again. `nbstripout` tells cells apart by tags alone, which a comment is not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from dollkit.common.errors import InputError, brief

CHECKED = re.compile(r"(?m)^\s*#\s*NBVAL_CHECK_OUTPUT\b")
KEPT = {"kernelspec", "language_info"}
"""Keys of a notebook's metadata that stay; of cells only tags do."""


def tidied(book: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook (as JSON, format 4) with only those outputs that are checked.

    Of a checked cell what it prints and its result stay; warnings, bars of progress (stderr) and
    pictures, which differ between machines, do not.
    """
    cells = []
    for old in book["cells"]:
        tags = old.get("metadata", {}).get("tags")
        cell = {**old, "metadata": {"tags": tags} if tags else {}}
        if cell["cell_type"] == "code":
            checked = CHECKED.search("".join(cell["source"])) is not None
            cell["outputs"] = _outputs(cell["outputs"]) if checked else []
            cell["execution_count"] = 1 if cell["outputs"] else None
        cells.append(cell)
    metadata = {k: v for k, v in book["metadata"].items() if k in KEPT}
    if "language_info" in metadata:  # versions of whoever ran it last
        metadata["language_info"] = {"name": metadata["language_info"]["name"]}
    return {**book, "cells": cells, "metadata": metadata}


def _outputs(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for output in found:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            kept.append(dict(output))
        elif output["output_type"] == "execute_result" and "text/plain" in output["data"]:
            kept.append({**output, "execution_count": 1})
    return kept


def tidy(path: Path) -> bool:
    """Put a notebook in order, in place; whether anything had to change."""
    try:
        text = path.read_text(encoding="utf-8")
        book = json.loads(text)
        nbformat.validate(book, version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(
            f"{path}: not a notebook of format 4 ({brief(error)}); save it again"
        ) from None
    after = json.dumps(tidied(book), ensure_ascii=False, indent=1) + "\n"
    if after == text:
        return False
    path.write_text(after, encoding="utf-8", newline="\n")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 in order, 1 something was changed (as hooks do), 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.workflow.tidy",
        description="Notebooks as the repository keeps them.",
    )
    parser.add_argument("notebook", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    try:
        changed = [path for path in given.notebook if tidy(path)]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for path in changed:
        print(f"{path}: put in order")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
