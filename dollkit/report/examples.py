"""Reading the arrays behind the pictures, and the rule that picks which of them are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dollkit import npz
from dollkit.errors import InputError

LABEL_ARRAYS = ("image", "image_id", "finding", "map", "label", "truth", "iou")
TASK_ARRAYS = (
    "task", "network", "image", "image_id", "truth", "classes", "arms", "prediction", "iou",
)  # fmt: skip
Arrays = dict[str, npt.NDArray[Any]]


def load_examples(path: Path, names: Sequence[str]) -> Arrays:
    """Arrays of an ``examples.npz``; a missing or empty one is an `InputError`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it")
    try:
        arrays = npz.read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run its stage again") from error
    for name in names:
        if name not in arrays:
            raise InputError(f"{path}: array {name!r} is missing; run its stage again")
    if len(arrays["image"]) == 0:
        raise InputError(f"{path}: holds no example; raise the number of examples of its stage")
    return arrays


def at_quantile(values: npt.ArrayLike, quantile: float) -> int:
    """Index of the case whose value has this rank (nearest rank, ties by position)."""
    x = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-1.0)
    order = np.argsort(x, kind="stable")
    return int(order[round(quantile * (len(order) - 1))])
