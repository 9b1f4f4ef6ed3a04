"""Notebooks whose parameters cannot be told, and rows of results that no run writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from dollkit.report import rows
from dollkit.report.verify import verify
from dollkit.workflow import parameters
from dollkit.workflow.stages import source_files
from tests import synthetic_run
from tests.badinput import spoil
from tests.badinput.case import Case
from tests.toys import write_notebook

CELLS = {
    "expression": "n: int = 3 * 4\n",
    "call": "n: int = len('abc')\n",
    "import": "import os\n",
    "no value": "n: int\n",
    "tuple": "a = b = 3\n",
    "unpacking": "a, b = 1, 2\n",
    "attribute": "a.b = 3\n",
    "type unknown": "n: set = 3\n",
    "type unclear": "n = []\n",
    "wrong default": "n: int = 'x'\n",
    "twice": "n: int = 1\nn: int = 2\n",
    "syntax": "n: int = = 3\n",
    "loop": "for i in range(3): pass\n",
    "function": "def f(): pass\n",
    "infinite": "n: float = 1e999\n",
    "keys": "d: dict[str, int] = {1: 2}\n",
}


def _cell(text: str) -> Callable[[Path], object]:
    return lambda folder: parameters.declared(write_notebook(folder / "n.ipynb", parameters=text))


def _file(how: spoil.Spoil) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        book = write_notebook(folder / "n.ipynb", "x = 1")
        how(book)
        return parameters.declared(book)

    return run


def _json(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        book = write_notebook(folder / "n.ipynb", "x = 1")
        book.write_text(json.dumps(change(json.loads(book.read_text()))))
        return parameters.declared(book)

    return run


JSON: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda b: [b],
    "no cells": lambda b: {**b, "cells": []},
    "cells are text": lambda b: {**b, "cells": "x"},
    "cells are numbers": lambda b: {**b, "cells": [1, 2]},
    "cells without source": lambda b: {**b, "cells": [{"cell_type": "code"}]},
    "two cells of parameters": lambda b: {**b, "cells": [b["cells"][0]] * 2},  # type: ignore[index]
}


def _code(text: str) -> Callable[[Path], object]:
    return lambda folder: source_files(write_notebook(folder / "n.ipynb", text))


def _rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        frame = change(synthetic_run.segmentation_cases())
        frame.to_csv(folder / "cases.csv", index=False)
        return rows.check_cases(
            rows.read_table(folder / "cases.csv", rows.CASE_COLUMNS), str(folder / "cases.csv")
        )

    return run


ROWS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "IoU above one": lambda f: f.assign(iou=1.5),
    "IoU below zero": lambda f: f.assign(iou=-0.1),
    "IoU is text": lambda f: f.assign(iou="good"),
    "unknown arm": lambda f: f.assign(arm="dol"),
    "unknown task": lambda f: f.assign(task="lung"),
    "unknown tuning": lambda f: f.assign(tuning="most"),
    "no column seed": lambda f: f.drop(columns="seed"),
    "rows twice": lambda f: pd.concat([f, f[:1]]),
    "seed is text": lambda f: f.assign(seed="first"),
}


def _results(folder: Path) -> object:
    (folder / "claims.csv").write_text("x\n1\n")
    return verify(folder)


def cases() -> Iterator[Case]:
    for name, text in CELLS.items():
        yield Case("parameters cell", name, _cell(text), ("n.ipynb",))
    for name in ("gone", "empty", "half", "noise", "page", "pointer", "folder"):
        yield Case("notebook file", name, _file(spoil.ALL[name]), ("n.ipynb",))
    for name, change in JSON.items():
        yield Case("notebook file", name, _json(change), ("n.ipynb",))
    yield Case("notebook file", "code that is none", _code("def f(:"), ("n.ipynb",))
    for name, edit in ROWS.items():
        yield Case("rows of results", name, _rows(edit), ("cases.csv",))
    yield Case("rows of results", "folder without rows", _results, ("no such file", "/"))
