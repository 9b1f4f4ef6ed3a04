"""How well a map or a label finds the truth: per-case scores, chance, and the mean-mask prior.

Matched area: the map's top pixels, as many as the true mask has, so that a threshold cannot help
or hurt. The same rule is applied to the mean mask of *other* patients (the anatomy prior: what
one would draw without looking at the film) and, in closed form, to a random map (chance).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dollkit import metrics

Masks = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]


def matched(maps: Maps, truth: Masks) -> Masks:
    """Top pixels of each map, as many as its truth has: (n, S, S) -> (n, S, S) uint8.

    Ties are broken by position in a fixed pseudo-random order, so that a constant map is chance
    and not the upper left corner.
    """
    n, s = len(maps), maps.shape[-1]
    tie = np.random.default_rng(0).permutation(s * s)
    flat = maps.reshape(n, -1)[:, tie]
    rank = np.argsort(-flat, axis=1, kind="stable")
    area = truth.reshape(n, -1).astype(bool).sum(1)
    out = np.zeros((n, s * s), np.uint8)
    for i in range(n):
        out[i, tie[rank[i, : area[i]]]] = 1
    return out.reshape(n, s, s)


def iou(prediction: Masks, truth: Masks) -> npt.NDArray[np.float64]:
    """IoU of each pair of masks: (n, S, S) -> (n,); NaN if both are empty."""
    return metrics.iou(*metrics.counts(prediction, truth))


def iou_matched(maps: Maps, truth: Masks) -> npt.NDArray[np.float64]:
    """IoU at matched area: (n, S, S) -> (n,)."""
    return iou(matched(maps, truth), truth)


def iou_chance(truth: Masks) -> npt.NDArray[np.float64]:
    """IoU of the expected overlap of a random mask with the same area: ``f / (2 - f)``.

    f is the true mask's share of the pixels: overlap f^2, union 2 f - f^2.
    """
    f = area(truth)
    return np.asarray(f / (2 - f), dtype=np.float64)


def hit(maps: Maps, truth: Masks) -> npt.NDArray[np.bool_]:
    """Does the map's maximum lie in the truth (pointing game)? (n, S, S) -> (n,)."""
    n = len(maps)
    top = maps.reshape(n, -1).argmax(1)
    found: npt.NDArray[np.bool_] = truth.reshape(n, -1).astype(bool)[np.arange(n), top]
    return found


def energy(maps: Maps, truth: Masks) -> npt.NDArray[np.float64]:
    """Share of a map's sum that lies in the truth (energy-based pointing game): (n, S, S) -> (n,).

    Negative values count as zero. A map spread evenly has the truth's share of the area; NaN for
    a map of zeros.
    """
    positive = np.maximum(maps, 0).astype(np.float64)
    inside = (positive * truth.astype(bool)).sum((-2, -1))
    with np.errstate(invalid="ignore"):
        share: npt.NDArray[np.float64] = inside / positive.sum((-2, -1))
    return share


def area(truth: Masks) -> npt.NDArray[np.float64]:
    """Share of the pixels that the truth covers: (n, S, S) -> (n,)."""
    return np.asarray(truth.astype(bool).mean((-2, -1)), dtype=np.float64)


def precision_recall(
    label: Masks, truth: Masks
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of the label value 1 against the truth; ignored pixels count as not called finding."""
    tp, fp, fn = metrics.counts((label == 1).astype(np.uint8), truth)
    with np.errstate(invalid="ignore"):
        return tp / (tp + fp), tp / (tp + fn)


def prior_maps(
    truth: Masks,
    patients: npt.NDArray[np.object_],
    reference: Masks | None = None,
) -> Maps:
    """Mean mask of other patients, for each case.

    Args:
        truth: (n, S, S) masks of the judged cases.
        patients: (n,) their patient ids.
        reference: (m, S, S) masks of training patients; without it, the judged cases of all
            other patients serve (leave one patient out).

    Returns:
        (n, S, S) float32.
    """
    if reference is not None and len(reference):
        return np.broadcast_to(reference.mean(0, dtype=np.float32), truth.shape)
    total = truth.sum(0, dtype=np.float32)
    out = np.empty(truth.shape, np.float32)
    for who in np.unique(patients):
        own = patients == who
        out[own] = (total - truth[own].sum(0)) / max(1, int((~own).sum()))
    return out
