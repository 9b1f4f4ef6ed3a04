"""What a grid of fine-tuning runs leaves: its files, and a first look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit import metrics
from dollkit.finetuning import Job, split
from dollkit.grid import Grid, done


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


def examples(grid: Grid, runs: pd.DataFrame, tuning: str, limit: int) -> dict[str, Any]:
    """Predictions of every arm on the first test films of the first fold, for pictures.

    Args:
        runs: the frame from `execute`.
        tuning: which tuning to show, with `n_train` training films.
        limit: most films.

    Returns:
        task, network, image, image_id, truth (n, C, S, S) in {0, 1}, classes, arms,
        prediction (arms, n, C, S, S), iou (arms, n).
    """
    chosen = runs[
        (runs["tuning"] == tuning)
        & (runs["n_train"] == grid.n_train)
        & (runs["seed"] == grid.seeds[0])
        & (runs["fold"] == grid.folds[0])
    ]
    parts = split(grid.data.films, grid.folds[0], grid.n_train, grid.n_valid, grid.seeds[0])
    test = parts.test[:limit]
    fields = list(Job.__dataclass_fields__)
    drawn = []
    for row in chosen[fields].itertuples(index=False):
        job = Job(*row)
        found = done(grid, job)
        assert found is not None
        drawn.append(np.unpackbits(found["prediction"], axis=-1)[: len(test)])
    prediction = np.stack(drawn)
    target = grid.data.targets[test]
    overlap = metrics.iou(*metrics.counts(prediction, np.broadcast_to(target, prediction.shape)))
    known = np.isfinite(overlap)
    per_film = np.where(known, overlap, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return {
        "task": np.array(grid.task),
        "network": np.array(grid.network),
        "image": grid.data.images[test],
        "image_id": grid.data.films["image_id"].to_numpy()[test].astype("U"),
        "truth": (target == 1).astype(np.uint8),
        "classes": np.array(grid.data.classes, "U"),
        "arms": chosen["arm"].to_numpy().astype("U"),
        "prediction": prediction,
        "iou": per_film,
    }
