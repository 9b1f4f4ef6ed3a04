"""Scripted trial: two clones and two numbers of threads; how far do their tables agree?

    python -m tests.endurance.determinism --folder /tmp/determinism

Two fresh clones of the repository run the smoke profile with one thread for each stage: the same
tables, byte for byte. A third has two threads: sums are rounded in another order, so its tables
may differ, and the trial tells by how much. So does the last step, which labels the same films
with the same classifiers on one thread and on two.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit import labels
from dollkit.common import paths
from dollkit.common.machine import cores
from tests.endurance.trial import PROFILE, Run, parser, tell

TOLERANCE = 1e-5
"""Share of the pixels of all labels that another number of threads may change."""


def clone(folder: Path) -> Path:
    """The committed state of this repository, elsewhere."""
    if not folder.is_dir():
        command = ["git", "clone", "--quiet", str(paths.ROOT), str(folder)]
        subprocess.run(command, check=True)
    return folder


def differences(one: dict[str, str], other: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Tables that are not the same text: largest and mean difference of each column of numbers."""
    out: dict[str, dict[str, Any]] = {}
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) == other.get(name):
            continue
        if name not in one or name not in other:
            out[name] = {"missing": True}
            continue
        a, b = (pd.read_csv(io.StringIO(tables[name])) for tables in (one, other))
        if a.shape != b.shape or list(a) != list(b):
            out[name] = {"shape": [list(a.shape), list(b.shape)]}
            continue
        found: dict[str, Any] = {}
        for column in a:
            if pd.api.types.is_float_dtype(a[column]) and pd.api.types.is_float_dtype(b[column]):
                gap = (a[column] - b[column]).abs()
                if gap.max() > 0:
                    found[column] = {"most": float(gap.max()), "mean": float(gap.mean())}
            elif (a[column].astype(str) != b[column].astype(str)).any():
                unlike = a[column].astype(str) != b[column].astype(str)
                found[column] = {"rows": int(unlike.sum()), "of": len(a)}
        out[name] = found
    return out


def label(run: Run, threads: int, out: Path) -> Path:
    """Labels of a run's own films and classifiers, on a number of threads."""
    made = run.place / "runs" / PROFILE
    if not (out / "labels.json").is_file():
        subprocess.run(
            [sys.executable, "-m", "dollkit.labels", "make", "--films", str(made / "data/films"),
             "--classifiers", str(made / "classifiers"), "--out", str(out)],
            cwd=run.code, check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(run.code)},
        )  # fmt: skip
    return out


def agreement(one: Path, other: Path) -> dict[str, float]:
    """How far two label stores of the same pairs agree."""
    a, b = labels.open(one), labels.open(other)
    pairs = a.pairs[["image_id", "finding"]].equals(b.pairs[["image_id", "finding"]])
    planes = [np.stack([s.label(i) for i in range(len(s))]) for s in (a, b)]
    unlike = (planes[0] != planes[1]).mean((1, 2))
    numbers = ("threshold", "error", "probability")
    gaps = {n: float((a.pairs[n] - b.pairs[n]).abs().max()) for n in numbers}
    return {
        "labels": len(a), "same_pairs": float(pairs), "labels_that_differ": int((unlike > 0).sum()),
        "pixels_that_differ": float(unlike.mean()), "most_of_a_label": float(unlike.max()), **gaps,
    }  # fmt: skip


def main() -> int:
    """Run the trial; 0 if two clones give the same tables, and threads the same labels."""
    given = parser(__doc__).parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    runs = {
        "one": Run(folder / "one", clone(folder / "clone1"), jobs=cores()),
        "other": Run(folder / "other", clone(folder / "clone2"), jobs=cores()),
        "threads": Run(folder / "threads", clone(folder / "clone1"), jobs=1),
    }
    for run in runs.values():
        if not run.finish():
            raise SystemExit(run.said())
    tables = {name: run.tables() for name, run in runs.items()}
    unlike = differences(tables["one"], tables["other"])
    threads = cores()
    stores = [label(runs["one"], n, folder / f"labels{n}") for n in (1, threads)]
    agreed = agreement(*stores)
    tell({
        "tables": len(tables["one"]), "clones_differ_in": unlike, "threads": [1, threads],
        "threads_differ_in": differences(tables["one"], tables["threads"]),
        "labels_of_the_same_classifiers": agreed,
    }, given.out)  # fmt: skip
    alike = agreed["same_pairs"] == 1 and agreed["pixels_that_differ"] <= TOLERANCE
    return int(bool(unlike) or not alike)


if __name__ == "__main__":
    sys.exit(main())
