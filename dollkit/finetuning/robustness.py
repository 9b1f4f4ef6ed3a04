"""How much a segmentation network loses when its test films are changed: four perturbations.

Each is a known way in which films of another hospital differ, with few levels that have a meaning
outside this package. Gains and angles lie outside of what `dollkit.training.augment.Augmentation`
draws by
default (0.8 to 1.2, 8 degrees), but for 5 degrees, so that they ask for more than training showed.
Nothing is random but noise, and that is the same for every network.

The idea is that of Hendrycks & Dietterich (arXiv 1903.12261); kinds and levels are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F

from dollkit.common import compute
from dollkit.common.errors import InputError, nearest
from dollkit.data.images import IGNORE
from dollkit.training import metrics

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Predict = Callable[[U8], U8]
"""Films (n, S, S) uint8 to masks (n, C, S, S) uint8, non-zero inside."""

BATCH = 64
"""Films perturbed and judged at once."""


@dataclass(frozen=True)
class Kind:
    """One kind of perturbation.

    Attributes:
        levels: those of `PERTURBATIONS`, weakest first.
        identity: the level that leaves films as they are.
        low, high: levels allowed, both included.
        unit: of a level, as an axis says it.
        meaning: what is done, as a caption says it.
    """

    levels: tuple[float, ...]
    identity: float
    low: float
    high: float
    unit: str
    meaning: str


KINDS: dict[str, Kind] = {
    "contrast": Kind(
        (0.75, 0.5, 0.25), 1.0, 0.0, 4.0, "gain",
        "greys drawn towards mid-grey by a gain",
    ),
    "noise": Kind(
        (10.0, 20.0, 40.0), 0.0, 0.0, 128.0, "SD, grey levels",
        "white Gaussian noise, its standard deviation in grey levels of 255",
    ),
    "rotation": Kind(
        (5.0, 10.0, 20.0), 0.0, -180.0, 180.0, "degrees",
        "film and masks turned about the centre, counter-clockwise, in degrees",
    ),
    "window": Kind(
        (0.75, 0.5, 0.25), 1.0, 1 / 256, 1.0, "share of the range",
        "no display window: the film's greys fill this share of the range, from black",
    ),
}  # fmt: skip
"""What `perturb` does at each level, in grey levels of 0 to 255:

- ``contrast``: g -> 127.5 + gain (g - 127.5).
- ``noise``: g + level z, with z standard normal in each pixel; beyond 0 and 255 it is cut off, so
  that on black and white its spread is smaller.
- ``rotation``: bilinear in the film, nearest neighbour in the masks. What comes from outside is
  black in the film and ignored in the masks; what leaves the frame is lost to both. So a rotated
  film is judged on somewhat fewer pixels.
- ``window``: g -> share g. Without VOI window `dollkit.data.decode` divides by the range of
  BitsStored, so a film of 12 bits that declares 13 or 14 fills a half or a quarter of the greys
  (16: 0.0625, allowed too, with 16 greys left), one of detector values up to 3071 of 4095 three
  quarters. The logarithmic window of the phantom takes about a third of the range that
  `dollkit.data.phantom` can expose. What the window had cut off is gone, and where the greys lay in
  the range is not known: at its dark end is our choice.

Results are rounded to whole grey levels, as a decoder would.
"""

PERTURBATIONS: dict[str, list[float]] = {name: list(kind.levels) for name, kind in KINDS.items()}
"""Every kind with its levels; the form in which a notebook's parameter names those that it wants.
The untouched film is no level: a run counts it anyway."""


def cells(given: Mapping[str, Sequence[float]]) -> list[tuple[str, float]]:
    """The (name, level) pairs that a parameter like `PERTURBATIONS` asks for, in its order.

    ``{}`` asks for none.
    """
    out: list[tuple[str, float]] = []
    for name, levels in given.items():
        if name not in KINDS:
            raise InputError(f"parameter 'robustness' names {name!r}: {nearest(name, KINDS)}")
        if not isinstance(levels, list | tuple) or not levels:
            raise InputError(
                f"parameter 'robustness' has no level for {name!r}: give a list such as "
                f"{PERTURBATIONS[name]}, or leave the name out"
            )
        for level in levels:
            value = _level(name, level)
            if value == KINDS[name].identity:
                raise InputError(
                    f"parameter 'robustness', {name!r}: level {level:g} is the untouched film, "
                    "which is counted anyway; leave it out"
                )
            if (name, value) in out:
                raise InputError(
                    f"parameter 'robustness', {name!r}: level {level:g} is named twice; drop one"
                )
            out.append((name, value))
    return out


def _level(name: str, level: object) -> float:
    """A level as a float, if it is one of its kind."""
    kind = KINDS[name]
    number = isinstance(level, int | float | np.number) and not isinstance(level, bool)
    if not number or not kind.low <= float(level) <= kind.high:  # type: ignore[arg-type]
        raise InputError(
            f"parameter 'robustness', {name!r}: level {level!r} must be a number from "
            f"{kind.low:g} to {kind.high:g} ({kind.unit})"
        )
    return float(level)  # type: ignore[arg-type]


def perturb(images: U8, targets: U8, name: str, level: float, rows: npt.ArrayLike) -> tuple[U8, U8]:
    """Films as they would look under a perturbation, and the masks that belong to them.

    Args:
        images: (n, S, S) uint8 grey values, 0 black.
        targets: (n, C, S, S) uint8 in {0, 1, 255 = ignore}.
        name: one of `KINDS`.
        level: in its range; its identity gives the same bytes.
        rows: (n,) row of each film in its table, which keys the noise: one film has the same
            noise at one level whatever is judged, and in whatever company.

    Returns:
        New films and masks of the same shapes; masks are `targets` itself where they stay.
    """
    if name not in KINDS:
        raise InputError(f"perturbation {name!r}: {nearest(name, KINDS)}")
    level = _level(name, level)
    if name == "noise":
        return _noisy(images, level, np.asarray(rows, np.int64)), targets
    if name == "rotation":
        return _turned(images, targets, level)
    grey = np.arange(256)
    curve = 127.5 + level * (grey - 127.5) if name == "contrast" else level * grey
    return _whole(curve)[images], targets


def _whole(grey: npt.NDArray[np.floating[Any]]) -> U8:
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)


def _noisy(images: U8, sd: float, rows: I64) -> U8:
    out = np.empty_like(images)
    key = int(np.float64(sd).view(np.uint64))
    for i, row in enumerate(rows):
        rng = np.random.default_rng(compute.derive(8, int(row), key))
        out[i] = _whole(images[i] + sd * rng.standard_normal(images[i].shape))
    return out


def _turned(images: U8, targets: U8, degrees: float) -> tuple[U8, U8]:
    """Double precision, so that right angles and none move whole pixels, to the bit."""
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
    predict: Predict,
    images: U8,
    targets: U8,
    given: Mapping[str, Sequence[float]],
    rows: npt.ArrayLike,
) -> I64:
    """Pixel counts of a network's masks on perturbed films.

    Args:
        predict: the network; sees at most `BATCH` films at once.
        images: (n, S, S) uint8 test films.
        targets: (n, C, S, S) uint8 in {0, 1, 255 = ignore: not counted}.
        given: kinds and levels, as `PERTURBATIONS`.
        rows: (n,) row of each film in its table.

    Returns:
        (K, 3, n, C) int64: tp, fp, fn of film and class, for each of the K pairs of `cells`.

    Raises:
        ValueError: films, targets, rows or what `predict` returns do not belong together.
    """
    wanted = cells(given)
    which = np.asarray(rows, np.int64)
    n, channels = targets.shape[:2]
    if images.shape != (n, *targets.shape[2:]) or which.shape != (n,):
        raise ValueError(f"films {images.shape}, targets {targets.shape}, rows {which.shape}")
    out = np.empty((len(wanted), 3, n, channels), np.int64)
    for k, (name, level) in enumerate(wanted):
        for start in range(0, n, BATCH):
            part = slice(start, start + BATCH)
            films, truth = perturb(images[part], targets[part], name, level, which[part])
            drawn = predict(films)
            if drawn.shape != truth.shape:  # would be broadcast
                raise ValueError(f"predicted masks {drawn.shape}, targets {truth.shape}")
            out[k, :, part] = np.stack(metrics.counts(drawn, truth))
    return out


def frame(
    plain: pd.DataFrame, counts: npt.ArrayLike, given: Mapping[str, Sequence[float]]
) -> pd.DataFrame:
    """Per-case rows of the perturbed films of one network.

    Args:
        plain: the network's rows of the untouched films, one per film and class in the order of
            `counts`, with tp, fp, fn, iou and dice; all other columns are taken over.
        counts: (K, 3, n, C) of `judge`.
        given: as for `judge`.

    Returns:
        K n C rows with the columns of `plain`, then perturbation (str) and level (float64).

    Raises:
        ValueError: counts of other perturbations, films or classes.
    """
    wanted = cells(given)
    values = np.asarray(counts, np.int64)
    cases = len(plain)
    if values.shape[:2] != (len(wanted), 3) or values.size != len(wanted) * 3 * cases:
        raise ValueError(f"counts {values.shape}: {len(wanted)} perturbations, {cases} rows")
    tp, fp, fn = values.reshape(len(wanted), 3, cases).transpose(1, 0, 2).reshape(3, -1)
    out = plain.iloc[np.tile(np.arange(cases), len(wanted))].reset_index(drop=True)
    return out.assign(
        tp=tp, fp=fp, fn=fn, iou=metrics.iou(tp, fp, fn), dice=metrics.dice(tp, fp, fn),
        perturbation=pd.Series(np.repeat([name for name, _ in wanted], cases), dtype="str"),
        level=np.repeat(np.array([level for _, level in wanted], np.float64), cases),
    )  # fmt: skip
