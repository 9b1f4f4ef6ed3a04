"""A toy pipeline with the real stages' names: notebooks of three cells and two small modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PARAMETERS = 'profile: str = "toy"  # parameter file\nsize: int = 3  # rows, films made\n'
NETWORK = 'network: str = "pspnet"  # which\n'

BODY = """\
from dollkit.workflow.stage import begin
{imports}
stage = begin("{stage}", globals())
"""

END = """\
(stage.path / "result.txt").write_text(str({result}))
stage.finish(seeds=[0])
"""

PROFILE = """\
matrix:
  architectures: [a, b]
  networks: [pspnet]
  arms: [doll]
  tasks: [lungs]
  encoder: a
common:
  size: 4
figures:
  dpi: 50
"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of code cells, the first one tagged ``parameters``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sources = [(parameters, ["parameters"]), *((cell, []) for cell in cells)]
    notebook: dict[str, Any] = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell{number}",
                "metadata": {"tags": tags} if tags else {},
                "execution_count": None,
                "outputs": [],
                "source": source,
            }
            for number, (source, tags) in enumerate(sources)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def stage_notebook(
    folder: Path, file: str, stage: str, result: str = "size", extra: str = "", imports: str = ""
) -> Path:
    """The notebook of one toy stage."""
    begin = BODY.format(stage=stage, imports=imports)
    parameters = PARAMETERS + extra
    return write_notebook(folder / file, begin, END.format(result=result), parameters=parameters)


def make_toy(root: Path) -> None:
    """Nine notebooks, ``params/toy.yaml`` and the package ``toykit`` under `root`."""
    kit = root / "toykit"
    kit.mkdir()
    (kit / "__init__.py").write_text('"""Toy."""\n')
    (kit / "base.py").write_text("UNIT = 1\n")
    draw = "from toykit import base\n\n\ndef draw(x):\n    return x * base.UNIT\n"
    (kit / "draw.py").write_text(draw)
    (kit / "sums.py").write_text("def total(x):\n    return x + 1\n")
    folder = root / "notebooks"
    stage_notebook(folder, "01_data.ipynb", "data")
    stage_notebook(
        folder, "02_classifiers.ipynb", "classifiers", extra='architecture: str = "a"  # which\n'
    )
    stage_notebook(folder, "03_labels.ipynb", "labels")
    stage_notebook(
        folder, "04_pretraining.ipynb", "pretrain", extra=NETWORK + 'arm: str = "doll"  # which\n'
    )
    stage_notebook(
        folder, "05_finetuning.ipynb", "finetune", extra=NETWORK + 'task: str = "lungs"  # which\n'
    )
    stage_notebook(
        folder, "06_tables.ipynb", "tables", "total(size)", imports="from toykit.sums import total"
    )
    stage_notebook(
        folder,
        "07_figures.ipynb",
        "figures",
        "draw.draw(dpi)",
        extra="dpi: int = 20  # dots per inch\n",
        imports="from toykit import draw",
    )
    stage_notebook(folder, "08_claims.ipynb", "claims")
    stage_notebook(folder, "09_cost.ipynb", "cost")
    (folder / "params").mkdir()
    (folder / "params" / "toy.yaml").write_text(PROFILE)
