"""Published numbers that stand beside ours, each with its source, and never among ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit import paths
from dollkit.errors import InputError

REFERENCE_COLUMNS = ["task", "class", "metric", "value", "source", "arxiv", "population", "tag"]


def load_reference(tasks: Sequence[str], folder: Path | None = None) -> pd.DataFrame:
    """Published numbers of ``data/reference/*.csv`` for these tasks; source kept with each."""
    root = folder or paths.REFERENCE
    wanted = set(REFERENCE_COLUMNS)
    found = [
        read_reference(path)
        for path in sorted(root.glob("*.csv"))
        if wanted <= set(pd.read_csv(path, nrows=0).columns)
    ]
    if not found:
        raise InputError(f"{root}: no *.csv with columns {', '.join(REFERENCE_COLUMNS)}")
    frame = pd.concat(found, ignore_index=True)
    return frame[frame["task"].isin(list(tasks))].reset_index(drop=True)


def read_reference(path: Path) -> pd.DataFrame:
    """One reference CSV; a missing column or a number without source is an `InputError`."""
    frame = pd.read_csv(path, dtype="str", keep_default_na=False)
    for column in REFERENCE_COLUMNS:
        if column not in frame.columns:
            raise InputError(f"{path}: column {column!r} is missing")
    bare = frame["source"].str.strip() == ""
    if bare.any():
        raise InputError(f"{path}: row {int(np.flatnonzero(bare)[0]) + 2} has no source; name it")
    return frame[REFERENCE_COLUMNS]
