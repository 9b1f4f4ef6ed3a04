"""Absolute paths of the compendium; the only module that knows where things lie.

papermill starts kernels in the caller's folder and nbval in the notebook's own, so a relative
path in a notebook would mean two things.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dollkit"
NOTEBOOKS = ROOT / "notebooks"
PARAMS = NOTEBOOKS / "params"
DATA = ROOT / "data"
SPLITS = DATA / "splits"
REFERENCE = DATA / "reference"


def runs() -> Path:
    """Folder of executed notebooks and artefacts; ``DOLLKIT_RUNS`` moves it."""
    return Path(os.environ.get("DOLLKIT_RUNS") or ROOT / "runs").resolve()


def figures() -> Path:
    """Folder of regenerated tables and figures; ``DOLLKIT_FIGURES`` moves it."""
    return Path(os.environ.get("DOLLKIT_FIGURES") or ROOT / "figures").resolve()


def python_path() -> str:
    """PYTHONPATH for a process of this checkout: the repository, then what is set here."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
