"""Scores: ranking of films (AUROC, average precision) and overlap of masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dollkit.data.images import IGNORE

FloatArray = npt.NDArray[np.float64]


def weighted_auroc(
    truth: npt.NDArray[np.bool_], scores: FloatArray, weights: FloatArray
) -> FloatArray:
    """AUROC of many reweightings of the same films at once: (n,), (n,), (draws, n) -> (draws,).

    ``P(score+ > score-) + P(score+ = score-) / 2`` under the film weights; NaN where a draw holds
    only one class.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    weights, ranked = weights[:, order], truth[order]
    positive = np.add.reduceat(weights * ranked, starts, axis=1)
    negative = np.add.reduceat(weights * ~ranked, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _share((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def auroc(
    truth: npt.ArrayLike, scores: npt.ArrayLike, patients: npt.ArrayLike, draws: int = 500
) -> tuple[float, FloatArray]:
    """AUROC, and (draws,) values of a bootstrap over patients; NaN where one class is absent.

    Patients, not films, are drawn with replacement: films of one patient are not independent.
    The same ones each time, so values of different findings can be averaged draw by draw (macro
    AUROC). For their interval see `interval`.
    """
    from sklearn.metrics import roc_auc_score  # seconds, and most stages need neither

    t = np.asarray(truth, dtype=bool)
    s = np.asarray(scores, dtype=np.float64)
    _, who = np.unique(np.asarray(patients), return_inverse=True)
    n = int(who.max()) + 1
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    point = float(roc_auc_score(t, s)) if 0 < t.sum() < len(t) else float("nan")
    return point, weighted_auroc(t, s, counts[:, who])


def interval(values: FloatArray) -> tuple[float, float]:
    """95 % percentile interval, NaN values left out."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    lo, hi = np.percentile(known, [2.5, 97.5])
    return float(lo), float(hi)


def counts(
    prediction: npt.NDArray[np.uint8 | np.bool_], truth: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """True positive, false positive and false negative pixels over the last two axes.

    Of masks (..., S, S), non-zero inside. Pixels where the truth is 255 are left out: whatever is
    predicted there is neither right nor wrong.
    """
    known = truth != IGNORE
    p, t = prediction.astype(bool) & known, truth.astype(bool) & known
    tp = (p & t).sum((-2, -1))
    return tp, p.sum((-2, -1)) - tp, t.sum((-2, -1)) - tp


def iou(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike) -> FloatArray:
    """Intersection over union; NaN where truth and prediction are both empty (or ignored)."""
    a, b, c = (np.asarray(v, dtype=np.float64) for v in (tp, fp, fn))
    return _share(a, a + b + c)


def dice(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike) -> FloatArray:
    """Dice coefficient; NaN where truth and prediction are both empty (or ignored)."""
    a, b, c = (np.asarray(v, dtype=np.float64) for v in (tp, fp, fn))
    return _share(2 * a, 2 * a + b + c)


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)


def mean_iou(values: FloatArray) -> float:
    """Mean over cases, then classes, of (cases, classes); both-empty ones (NaN) do not count."""
    known = np.isfinite(values)
    per_class = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
    return float(per_class[known.any(0)].mean()) if known.any() else float("nan")


# How well a map or a label finds the truth. Matched area: the map's top pixels, as many as the true
# mask has, so that a threshold cannot help or hurt. The same rule is applied to the mean mask of
# *other* patients (the anatomy prior: what one would draw without looking at the film) and, in
# closed form, to a random map (chance).

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


def iou_of_masks(prediction: Masks, truth: Masks) -> FloatArray:
    """IoU of each pair of masks: (n, S, S) -> (n,); NaN if both are empty."""
    return iou(*counts(prediction, truth))


def iou_matched(maps: Maps, truth: Masks) -> FloatArray:
    """IoU at matched area: (n, S, S) -> (n,)."""
    return iou_of_masks(matched(maps, truth), truth)


def iou_chance(truth: Masks) -> FloatArray:
    """IoU of the expected overlap of a random mask with the same area.

    ``f / (2 - f)`` with f the truth's share of the pixels: overlap f^2, union 2 f - f^2.
    """
    f = area(truth)
    return np.asarray(f / (2 - f), dtype=np.float64)


def hit(maps: Maps, truth: Masks) -> npt.NDArray[np.bool_]:
    """Does the map's maximum lie in the truth (pointing game)? (n, S, S) -> (n,)."""
    n = len(maps)
    top = maps.reshape(n, -1).argmax(1)
    return np.asarray(truth.reshape(n, -1)[np.arange(n), top] != 0)


def energy(maps: Maps, truth: Masks) -> FloatArray:
    """Share of a map's sum that lies in the truth (energy-based pointing game): (n, S, S) -> (n,).

    Negative values count as zero. A map spread evenly has the truth's share of the area; NaN for
    a map of zeros.
    """
    positive = np.maximum(maps, 0).astype(np.float64)
    return _share((positive * truth.astype(bool)).sum((-2, -1)), positive.sum((-2, -1)))


def area(truth: Masks) -> FloatArray:
    """Share of the pixels that the truth covers: (n, S, S) -> (n,)."""
    return np.asarray(truth.astype(bool).mean((-2, -1)), dtype=np.float64)


def precision_recall(label: Masks, truth: Masks) -> tuple[FloatArray, FloatArray]:
    """Of the label value 1 against the truth; ignored pixels count as not called finding."""
    tp, fp, fn = counts((label == 1).astype(np.uint8), truth)
    return _share(tp, tp + fp), _share(tp, tp + fn)


def prior_maps(
    truth: Masks, patients: npt.NDArray[np.object_], reference: Masks | None = None
) -> Maps:
    """Mean mask of other patients, for each case: (n, S, S) float32.

    Of the training patients' masks, the `reference`; without it, of the judged cases of all other
    patients (leave one patient out).
    """
    if reference is not None and len(reference):
        return np.broadcast_to(reference.mean(0, dtype=np.float32), truth.shape)
    total = truth.sum(0, dtype=np.float32)
    out = np.empty(truth.shape, np.float32)
    for patient in np.unique(patients):
        same = patients == patient
        out[same] = (total - truth[same].sum(0)) / max(1, int((~same).sum()))
    return out
