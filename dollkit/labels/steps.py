"""From explanations to DoLL labels: distil, boost, threshold.

Named steps, each with its formula; the paper says "distilled and boosted" without giving them.

1. part        ``m = |IG|`` (consensus of explanations, arXiv 2109.00707: abs, then sum over the
               one channel) or ``m = max(IG, 0)`` (evidence *for* the finding only).
2. scale       ``m / q(m)``, clipped to [0, 1], q a high percentile of the map: one hot pixel
               must not decide the weight of a whole classifier.
3. distil      mean over classifiers, each weighted by its trust in the finding.
4. boost       Gaussian smoothing, then rescaling to a maximum of one.
5. threshold   finding where ``m >= hi``, background where ``m < lo``, 255 (ignore) between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from skimage.filters import threshold_otsu

from dollkit.attribution import gaussian
from dollkit.errors import InputError
from dollkit.losses import IGNORE

FloatMaps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Distil:
    """Settings of the five steps.

    Attributes:
        part: ``magnitude`` or ``positive``.
        percentile: q of step 2, in (50, 100].
        trust: ``all`` counts every classifier the same; ``agree`` leaves out those that give the
            finding a probability below one half, unless that leaves none.
        smooth: Gaussian sigma of step 4 as a fraction of the side; 0 switches it off.
        threshold: ``otsu`` on the map (as in CheXlocalize's protocol); ``peak``: `level` times
            its maximum; or ``quantile``: the top `area` of its pixels.
        level: share of the maximum under ``peak``, in (0, 1).
        area: share of pixels called finding under ``quantile``, in (0, 1).
        ignore: ``lo = ignore * hi``, in [0, 1]; 1 leaves no ignore band.
    """

    part: str = "positive"
    percentile: float = 99.5
    trust: str = "agree"
    smooth: float = 0.03
    threshold: str = "otsu"
    level: float = 0.5
    area: float = 0.1
    ignore: float = 0.6

    def __post_init__(self) -> None:
        choices = {
            "part": ("magnitude", "positive"),
            "trust": ("all", "agree"),
            "threshold": ("otsu", "peak", "quantile"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"parameter {name!r} is {getattr(self, name)!r}: use {' or '.join(allowed)}"
                )
        ranges = {
            "percentile": (50.0, 100.0),
            "smooth": (0.0, 0.5),
            "level": (1e-4, 1.0),
            "area": (1e-4, 1.0),
            "ignore": (0.0, 1.0),
        }
        for name, (lo, hi) in ranges.items():
            if not lo <= getattr(self, name) <= hi:
                raise InputError(
                    f"parameter {name!r} is {getattr(self, name)}: it must lie in [{lo:g}, {hi:g}]"
                )


def scale(maps: FloatMaps, part: str, percentile: float) -> FloatMaps:
    """Steps 1 and 2. A map without any value above zero stays zero; NaN counts as zero.

    Args:
        maps: (..., S, S) signed attributions.

    Returns:
        (..., S, S) float32 in [0, 1].
    """
    m = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    m = np.abs(m) if part == "magnitude" else np.maximum(m, 0)
    top = np.percentile(m, percentile, axis=(-2, -1), keepdims=True)
    # A sparse map may have its percentile at zero: then its maximum is the scale.
    top = np.where(top > 0, top, m.max(axis=(-2, -1), keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.where(top > 0, m / top, 0.0)
    return np.clip(out, 0, 1).astype(np.float32)


def consensus(maps: FloatMaps, probability: FloatMaps, trust: str) -> FloatMaps:
    """Step 3: weighted mean over classifiers.

    Args:
        maps: (K, pairs, S, S) in [0, 1].
        probability: (K, pairs) of each finding under each classifier.
        trust: see `Distil`.

    Returns:
        (pairs, S, S) float32.
    """
    weight = np.ones_like(probability)
    if trust == "agree":
        right = (probability >= 0.5).astype(np.float32)
        weight = np.where(right.any(0), right, 1.0)
    total: FloatMaps = (maps * weight[:, :, None, None]).sum(0) / weight.sum(0)[:, None, None]
    return total


def boost(maps: FloatMaps, smooth: float) -> FloatMaps:
    """Step 4: Gaussian smoothing by `smooth` times the side, rescaled to a maximum of one."""
    if not len(maps):
        return maps
    blurred = gaussian(torch.from_numpy(maps)[:, None], smooth * maps.shape[-1])[:, 0].numpy()
    top = blurred.max(axis=(1, 2), keepdims=True)
    out: FloatMaps = np.divide(blurred, top, out=np.zeros_like(blurred), where=top > 0)
    return out


def threshold(maps: FloatMaps, how: Distil) -> FloatMaps:
    """`hi` of step 5 for each map: (pairs, S, S) -> (pairs,) float32; NaN for a constant map."""
    rules: dict[str, Callable[[FloatMaps], float]] = {
        "peak": lambda m: how.level * float(m.max()),
        "otsu": lambda m: float(threshold_otsu(m)),
        "quantile": lambda m: float(np.quantile(m, 1 - how.area)),
    }
    rule = rules[how.threshold]
    return np.array([rule(m) if m.max() > m.min() else np.nan for m in maps], np.float32)


def to_label(maps: FloatMaps, hi: FloatMaps, ignore: float) -> npt.NDArray[np.uint8]:
    """Step 5: 1 finding, 0 background, 255 ignore. A map without threshold is all ignore.

    Returns:
        (pairs, S, S) uint8.
    """
    level = hi[:, None, None]
    label = np.full(maps.shape, IGNORE, np.uint8)
    with np.errstate(invalid="ignore"):
        label[maps < ignore * level] = 0
        label[maps >= level] = 1
    return label


def distil(
    maps: FloatMaps, probability: FloatMaps, how: Distil
) -> tuple[FloatMaps, npt.NDArray[np.uint8], FloatMaps]:
    """All five steps.

    Args:
        maps: (K, pairs, S, S) signed attributions of K classifiers.
        probability: (K, pairs).
        how: settings.

    Returns:
        Boosted maps (pairs, S, S) float32 in [0, 1]; labels (pairs, S, S) uint8 in {0, 1, 255};
        finding thresholds (pairs,) float32.
    """
    scaled = scale(maps, how.part, how.percentile)
    boosted = boost(consensus(scaled, probability, how.trust), how.smooth)
    hi = threshold(boosted, how)
    return boosted, to_label(boosted, hi, how.ignore), hi
