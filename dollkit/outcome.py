"""What a grid of fine-tuning runs leaves: its files, and a first look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd


def write(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write the frames of `execute`: cases and robust as .csv.gz, the others as .csv."""
    (folder / "robust.csv.gz").unlink(missing_ok=True)  # of an earlier run that had it
    for name, frame in frames.items():
        if name in ("cases", "robust"):
            # No time stamp inside: the same rows are the same bytes.
            how = {"method": "gzip", "mtime": 0}
            frame.to_csv(folder / f"{name}.csv.gz", index=False, compression=how)
        else:
            frame.to_csv(folder / f"{name}.csv", index=False)


def overview(cases: pd.DataFrame) -> pd.DataFrame:
    """Mean test IoU per tuning, size and arm (rows) and class (columns), and their mean."""
    per_class = cases.pivot_table(
        index=["tuning", "n_train", "arm"],
        columns="class",
        values="iou",
        aggfunc="mean",
        sort=False,
    )
    return per_class.assign(mIoU=per_class.mean(axis=1))
