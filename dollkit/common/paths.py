"""Absolute paths of the compendium; the only module that knows where things lie.

papermill starts kernels in the caller's folder and nbval in the notebook's own, so a relative
path in a notebook would mean two things.
"""

from __future__ import annotations

import os
from pathlib import Path

from dollkit.common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dollkit"
NOTEBOOKS = ROOT / "notebooks"
PARAMS = NOTEBOOKS / "params"
CATALOGUE = PACKAGE / "data" / "sets" / "catalogue.yaml"
SPLITS = PACKAGE / "data" / "sets" / "splits"
REFERENCE = ROOT / "data" / "reference"


def runs() -> Path:
    """Folder of executed notebooks and artefacts; ``DOLLKIT_RUNS`` moves it."""
    return of_repository("DOLLKIT_RUNS", ROOT / "runs")


def figures() -> Path:
    """Folder of regenerated tables and figures; ``DOLLKIT_FIGURES`` moves it."""
    return of_repository("DOLLKIT_FIGURES", ROOT / "figures")


def of_repository(variable: str, folder: Path) -> Path:
    """A folder that an installed package lacks, or the one that an environment variable names."""
    if elsewhere := os.environ.get(variable):
        return Path(elsewhere).resolve()
    if not NOTEBOOKS.is_dir():
        raise InputError(
            f"{folder}: the installed package has no notebooks and no results: clone the "
            "repository and run the command there"
        )
    return folder.resolve()


def python_path() -> str:
    """PYTHONPATH for a process of this checkout: the repository, then what is set here."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
