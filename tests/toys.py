"""A toy pipeline with the real stages' names: notebooks of three cells and two small modules."""

from __future__ import annotations

import json
from pathlib import Path

from nbformat import v4

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
    new = [v4.new_code_cell(cell, id=f"cell{n}") for n, cell in enumerate((parameters, *cells))]
    new[0].metadata = {"tags": ["parameters"]}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path.write_text(json.dumps(v4.new_notebook(cells=new, metadata=about)), encoding="utf-8")
    return path


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
    extra = {
        "classifiers": 'architecture: str = "a"  # which\n',
        "pretrain": NETWORK + 'arm: str = "doll"  # which\n',
        "finetune": NETWORK + 'task: str = "lungs"  # which\n',
        "figures": "dpi: int = 20  # dots per inch\n",
    }
    more = {
        "tables": ("total(size)", "from toykit.sums import total"),
        "figures": ("draw.draw(dpi)", "from toykit import draw"),
    }
    for file in (
        "01_data", "02_classifiers", "03_labels", "04_pretraining", "05_finetuning", "06_tables",
        "07_figures", "08_claims", "09_cost",
    ):  # fmt: skip
        stage = file[3:].replace("pretraining", "pretrain").replace("finetuning", "finetune")
        result, imports = more.get(stage, ("size", ""))
        begin, end = BODY.format(stage=stage, imports=imports), END.format(result=result)
        own = PARAMETERS + extra.get(stage, "")
        write_notebook(folder / f"{file}.ipynb", begin, end, parameters=own)
    (folder / "params").mkdir()
    (folder / "params" / "toy.yaml").write_text(PROFILE)
