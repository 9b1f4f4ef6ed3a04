"""How much a segmentation network loses when its test films are changed: four perturbations.

Each is a known way in which films of another hospital differ. Gains and angles lie outside of what
`augment.Augmentation` draws by default, but for 5 degrees. Only noise is random, and the same for
every network. After Hendrycks & Dietterich (arXiv 1903.12261); kinds and levels are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError, nearest
from dollkit.data.images import IGNORE
from dollkit.training import metrics

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Predict = Callable[[U8], U8]
"""Films (n, S, S) uint8 to masks (n, C, S, S) uint8, non-zero inside."""

BATCH = 64  # films perturbed and judged at once


class Perturbation(NamedTuple):
    """One way to change films, and its levels."""

    levels: tuple[float, ...]  # weakest first
    identity: float  # the level that leaves films as they are
    low: float  # levels allowed, both included
    high: float
    unit: str  # of a level, as an axis says it
    meaning: str  # as a caption says it


KINDS: dict[str, Perturbation] = {
    "contrast": Perturbation(
        (0.75, 0.5, 0.25), 1.0, 0.0, 4.0, "gain",
        "greys drawn towards mid-grey by a gain",
    ),
    "noise": Perturbation(
        (10.0, 20.0, 40.0), 0.0, 0.0, 128.0, "SD, grey levels",
        "white Gaussian noise, its standard deviation in grey levels of 255",
    ),
    "rotation": Perturbation(
        (5.0, 10.0, 20.0), 0.0, -180.0, 180.0, "degrees",
        "film and masks turned about the centre, counter-clockwise, in degrees",
    ),
    "window": Perturbation(
        (0.75, 0.5, 0.25), 1.0, 1 / 256, 1.0, "share of the range",
        "no display window: the film's greys fill this share of the range, from black",
    ),
}  # fmt: skip
"""What `perturb` does at each level, in grey levels of 0 to 255, rounded to whole ones.

- ``rotation``: bilinear in the film, nearest neighbour in the masks. What comes from outside is
  black in the film and ignored in the masks; what leaves the frame is lost to both.
- ``window``: a DICOM film without VOI window is divided by the range of BitsStored, so one of 12
  bits that declares 13 or 14 fills a half or a quarter of the greys. Where the greys lay in the
  range is not known: at its dark end is our choice.
"""


def pairs_of(levels: Mapping[str, Sequence[float]]) -> list[tuple[str, float]]:
    """The (name, level) pairs of a parameter `robustness`: names in `KINDS` to levels; in order."""
    pairs = [(name, float(level)) for name in levels for level in levels[name]]
    for name in levels:
        if name not in KINDS:
            raise InputError(f"parameter 'robustness' names {name!r}: {nearest(name, KINDS)}")
        if not levels[name]:
            some = list(KINDS[name].levels)
            raise InputError(f"parameter 'robustness' has no level for {name!r}: try {some}")
    for name, level in pairs:
        kind = KINDS[name]
        fault = ""
        if not kind.low <= level <= kind.high:
            fault = f"must be a number from {kind.low:g} to {kind.high:g} ({kind.unit})"
        elif level == kind.identity:
            fault = "is the untouched film, which is counted anyway; leave it out"
        elif pairs.count((name, level)) > 1:
            fault = "is named twice; drop one"
        if fault:
            raise InputError(f"parameter 'robustness', {name!r}: level {level!r} {fault}")
    return pairs


def perturb(images: U8, targets: U8, name: str, level: float, rows: npt.ArrayLike) -> tuple[U8, U8]:
    """Films (n, S, S) under a perturbation of `KINDS`, and their masks (n, C, S, S).

    `rows`, of each film in its table, key the noise: one film has the same noise at one level
    whatever is judged, and in whatever company.
    """
    if name == "noise":
        return _noisy(images, float(level), np.asarray(rows, np.int64)), targets
    if name == "rotation":
        return _turned(images, targets, level)
    grey = np.arange(256)
    curves = {"contrast": 127.5 + level * (grey - 127.5), "window": level * grey}
    return _whole(curves[name])[images], targets


def _whole(grey: npt.NDArray[np.floating[Any]]) -> U8:
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)


def _noisy(images: U8, sd: float, rows: I64) -> U8:
    from dollkit.common import compute

    out = np.empty_like(images)
    key = int(np.float64(sd).view(np.uint64))
    for i, row in enumerate(rows):
        rng = np.random.default_rng(compute.derive(8, int(row), key))
        out[i] = _whole(images[i] + sd * rng.standard_normal(images[i].shape))
    return out


def _turned(images: U8, targets: U8, degrees: float) -> tuple[U8, U8]:
    """Double precision, so that right angles and none move whole pixels, to the bit."""
    import torch  # not above: the report reads `KINDS` alone
    import torch.nn.functional as F

    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64)
    film = torch.from_numpy(images.astype(np.float64)).unsqueeze(1)
    # grid_sample pads with zeros only; shifted, zero stands for IGNORE.
    mask = torch.from_numpy(targets.astype(np.float64) - IGNORE)
    grid = F.affine_grid(theta.expand(len(film), 2, 3), list(film.shape), align_corners=False)
    film = F.grid_sample(film, grid, mode="bilinear", align_corners=False)
    mask = F.grid_sample(mask, grid, mode="nearest", align_corners=False) + IGNORE
    return _whole(film.squeeze(1).numpy()), mask.numpy().astype(np.uint8)


def judge(
    predict: Predict, images: U8, targets: U8, levels: Mapping[str, Sequence[float]],
    rows: npt.ArrayLike,
) -> I64:  # fmt: skip
    """tp, fp, fn of a network's masks on perturbed films: (K, 3, n, C), K as `pairs_of`."""
    pairs, numbers = pairs_of(levels), np.asarray(rows, np.int64)
    n, channels = targets.shape[:2]
    out = np.empty((len(pairs), 3, n, channels), np.int64)
    for k, (name, level) in enumerate(pairs):
        for start in range(0, n, BATCH):
            part = slice(start, start + BATCH)
            films, truth = perturb(images[part], targets[part], name, level, numbers[part])
            out[k, :, part] = np.stack(metrics.counts(predict(films), truth))
    return out


def scored(cases: pd.DataFrame, counts: I64) -> pd.DataFrame:
    """Cases with columns tp, fp, fn, iou and dice from their counts (3, films, classes)."""
    tp, fp, fn = counts.reshape(3, -1)
    overlap = {"iou": metrics.iou(tp, fp, fn), "dice": metrics.dice(tp, fp, fn)}
    return cases.assign(tp=tp, fp=fp, fn=fn, **overlap)


def frame(plain: pd.DataFrame, counts: I64, levels: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Per-case rows of perturbed films from `judge`'s counts, in the order of the `plain` ones."""
    blocks = [
        scored(plain, each).assign(perturbation=name, level=level)
        for (name, level), each in zip(pairs_of(levels), counts, strict=True)
    ]
    return pd.concat(blocks, ignore_index=True)
