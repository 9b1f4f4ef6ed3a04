"""From explanations to DoLL labels: the six steps, each with its formula, and their settings.

The paper says "distilled and boosted" without giving them; these would be steps 3 and 4.

1. part        ``m = |IG|`` (consensus of explanations, arXiv 2109.00707: abs, then sum over the
               one channel) or ``m = max(IG, 0)`` (evidence *for* the finding only).
2. scale       ``m / q(m)``, clipped to [0, 1], q a high percentile of the map: one hot pixel
               must not decide the weight of a whole classifier.
3. consensus   mean over classifiers, each weighted by its trust in the finding.
4. smooth      Gaussian smoothing, then rescaling to a maximum of one.
5. refine      guided filter (He et al. 2013): the map keeps to the edges that the film has.
6. threshold   finding where ``m >= t``, background where ``m < ignore t``, 255 (ignore) between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import read_csv
from dollkit.data.images import IGNORE
from dollkit.explanations.integrated_gradients import gaussian

FloatMaps = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

RULES = ("otsu", "peak", "quantile")
OTHER = "other"
"""Entry for the findings that have none of their own."""
ENTRIES = (*FINDINGS, OTHER)

PHANTOM = Path(__file__).with_name("phantom_thresholds.csv")
"""Rules tuned on validation films of the phantom: the laptop profile with ``n_tune: 240``."""

RULE_COLUMNS = ["finding", "rule", "smooth", "iou", "iou_otsu", "n"]

CHOICES = {
    "part": ("magnitude", "positive"), "trust": ("all", "agree"), "threshold": (*RULES, "tuned"),
}  # fmt: skip
RANGES = {
    "percentile": (50.0, 100.0), "smooth": (0.0, 0.5), "guide": (0.0, 0.5),
    "level": (1e-4, 1.0), "area": (1e-4, 1.0), "ignore": (0.0, 1.0),
}  # fmt: skip
EDGE = 1e-3
"""Variance of grey values (film in [0, 1]) above which the guided filter keeps an edge."""


@dataclass(frozen=True)
class Rule:
    """How a map's threshold is found: kind in `RULES`, value in (0, 1) except for otsu."""

    kind: str
    value: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "otsu" else f"{self.kind} {self.value:g}"

    def level(self, m: npt.NDArray[np.float32]) -> float:
        """Threshold of one map (S, S) that is not constant."""
        if self.kind == "otsu":
            return float(threshold_otsu(m))
        if self.kind == "peak":
            return self.value * float(m.max())
        return float(np.quantile(m, 1 - self.value))


def parse_rule(text: float | str, what: str = "threshold rule") -> Rule:
    """A number is a share of the maximum; else ``otsu``, ``peak 0.5`` or ``quantile 0.02``."""
    kind, _, value = str(text).strip().partition(" ")
    if kind == "otsu" and value == "":
        return Rule("otsu")
    if kind not in ("peak", "quantile"):
        kind, value = "peak", str(text)
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if not 0 < number < 1:
        form = "use a share of the maximum in (0, 1), 'otsu', 'peak 0.5' or 'quantile 0.02'"
        raise InputError(f"{what} is {text!r}: {form}")
    return Rule(kind, number)


def threshold_settings(text: str) -> dict[str, str | float]:
    """What `LabelSettings` takes, of ``otsu``, ``peak 0.5``, ``quantile 0.02``, ``tuned``, a file.

    ``tuned`` are the phantom's rules; a file's path starts at the root of the repository.
    """
    if text == "tuned" or text.endswith(".csv"):
        file = "" if text == "tuned" else str(paths.ROOT / text)
        return {"threshold": "tuned", "thresholds": file}
    rule = parse_rule(text, "parameter 'threshold'")
    value = {"peak": "level", "quantile": "area"}.get(rule.kind)
    return {"threshold": rule.kind} | ({} if value is None else {value: rule.value})


def write_rules(table: pd.DataFrame, path: Path) -> None:
    """Write a table of `judge.tune`, whole or not at all: parts of a stage write the same one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    table[RULE_COLUMNS].round(4).to_csv(part, index=False, lineterminator="\n")
    part.replace(path)


def read_rules(path: Path) -> dict[str, Any]:
    """``thresholds`` and ``smooths`` of a CSV file with the columns finding, rule and perhaps
    smooth (share of the side; blank: the setting of the run).
    """
    table = read_csv(path, ("finding", "rule"), hint="give a CSV file with both columns")
    findings = table.frame["finding"]
    known = findings.isin(ENTRIES) & ~findings.duplicated()
    table.require(known, "finding", f"each of {', '.join(ENTRIES[1:])} once")
    rules = zip(findings, table.frame["rule"], table.where(), strict=True)
    thresholds = {f: str(parse_rule(r, f"{place}, column 'rule':")) for f, r, place in rules}
    smooths: dict[str, float] = {}
    if "smooth" in table.frame:
        sigmas = table.numbers("smooth")
        table.require(sigmas.isna() | sigmas.between(0, 0.5), "smooth", "0 to 0.5, or blank")
        smooths = {f: v for f, v in zip(findings, sigmas, strict=True) if not np.isnan(v)}
    return {"thresholds": thresholds, "smooths": smooths}


@dataclass(frozen=True)
class LabelSettings:
    """Settings of the six steps.

    `trust` ``agree`` leaves out classifiers that give the finding a probability below one half,
    unless that leaves none. `smooth` (sigma) and `guide` (radius) are fractions of the side; 0
    switches them off. `threshold`: ``otsu`` (as in CheXlocalize's protocol); ``peak``: `level`
    times the maximum; ``quantile``: the top `area` of the pixels; or ``tuned``: each finding's own
    rule from `thresholds` and sigma from `smooths`, where ``other`` is for findings not listed. A
    text there is the path of a file of both; blank: the phantom's. `ignore` 1 ignores nothing.
    """

    part: str = "positive"
    percentile: float = 99.9
    trust: str = "all"
    smooth: float = 0.02
    guide: float = 0.04
    threshold: str = "otsu"
    level: float = 0.5
    area: float = 0.1
    ignore: float = 0.6
    thresholds: Mapping[str, float | str] | str = field(default="", hash=False)
    smooths: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"parameter {name!r} is {value!r}: use {' or '.join(allowed)}")
        for name, (lo, hi) in RANGES.items():
            value = getattr(self, name)
            if not lo <= value <= hi:
                raise InputError(f"parameter {name!r} is {value}: it must lie in [{lo:g}, {hi:g}]")
        rules, smooths = self.thresholds, self.smooths
        if self.threshold == "tuned":
            if isinstance(rules, str):
                tuned = read_rules(Path(rules) if rules else PHANTOM)
                rules, smooths = tuned["thresholds"], smooths or tuned["smooths"]
            object.__setattr__(self, "thresholds", dict(rules))
            object.__setattr__(self, "smooths", dict(smooths))
        elif rules or smooths:
            raise InputError(f"rules are given, but 'threshold' is {self.threshold!r}: use tuned")

    def rule(self, finding: str) -> Rule:
        """Rule of step 6 for one finding."""
        if isinstance(self.thresholds, Mapping):
            return parse_rule(self.thresholds.get(finding, self.thresholds.get(OTHER, "otsu")))
        value = {"peak": self.level, "quantile": self.area}.get(self.threshold, 0.0)
        return Rule(self.threshold, value)

    def sigma(self, finding: str) -> float:
        """Sigma of step 4 for one finding, as a fraction of the side."""
        return self.smooths.get(finding, self.smooths.get(OTHER, self.smooth))


def scale(maps: FloatMaps, part: str, percentile: float) -> FloatMaps:
    """Steps 1 and 2: (..., S, S) signed attributions as (..., S, S) float32 in [0, 1].

    A map without any value above zero stays zero; NaN counts as zero.
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
    """Step 3, weighted mean over K classifiers: (K, pairs, S, S) -> (pairs, S, S)."""
    weight = np.ones_like(probability)
    if trust == "agree":
        right = (probability >= 0.5).astype(np.float32)
        weight = np.where(right.any(0), right, 1.0)
    total: FloatMaps = (maps * weight[:, :, None, None]).sum(0) / weight.sum(0)[:, None, None]
    return total


def smooth(maps: FloatMaps, sigma: float | npt.ArrayLike) -> FloatMaps:
    """Step 4: Gaussian smoothing of (pairs, S, S), to a maximum of one; `sigma`: of the side."""
    sigmas = np.broadcast_to(np.asarray(sigma, dtype=np.float64), len(maps))
    blurred = np.empty_like(maps)
    for value in np.unique(sigmas):
        x = torch.from_numpy(maps[sigmas == value])[:, None]
        blurred[sigmas == value] = gaussian(x, float(value) * maps.shape[-1])[:, 0].numpy()
    return _to_one(blurred)


def refine(maps: FloatMaps, films: Bytes, guide: float) -> FloatMaps:
    """Step 5: guided filter of each map by its film, rescaled to a maximum of one.

    In every window, `guide` times the side to each side, the map is fitted as a linear function of
    the film, ``a = cov(film, map) / (var(film) + EDGE)``, ``b = mean(map) - a mean(film)``; the
    result is the film under the mean of these functions (He, Sun and Tang, PAMI 2013, eqs. 5, 6 and
    8). Negative values become zero. `films` are (pairs, S, S) uint8, the film of each map.
    """
    if guide <= 0 or not len(maps):
        return maps
    width = 2 * max(1, round(guide * maps.shape[-1])) + 1
    film: FloatMaps = np.divide(films, 255, dtype=np.float32)
    mean = partial(uniform_filter, size=(0, width, width), mode="nearest")
    film_mean, map_mean = mean(film), mean(maps)
    slope = mean(film * maps) - film_mean * map_mean
    slope /= np.maximum(mean(film * film) - film_mean**2, 0) + EDGE
    offset = (map_mean - slope * film_mean).astype(np.float32)
    out = mean(slope) * film + mean(offset)
    return _to_one(np.maximum(out, 0))


def _to_one(maps: FloatMaps) -> FloatMaps:
    """Maximum of each map set to one; a map of zeros stays so."""
    top = maps.max(axis=(1, 2), keepdims=True, initial=0)
    out: FloatMaps = np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)
    return out


def cut(maps: FloatMaps, thresholds: FloatMaps, ignore: float) -> Bytes:
    """Step 6: 1 finding, 0 background, 255 ignore; a map without threshold is all ignore."""
    level = thresholds[:, None, None]
    label = np.full(maps.shape, IGNORE, np.uint8)
    with np.errstate(invalid="ignore"):
        label[maps < ignore * level] = 0
        label[maps >= level] = 1
    return label


def smooth_and_refine(
    scaled: FloatMaps, settings: LabelSettings, findings: Sequence[str], films: Bytes
) -> FloatMaps:
    """Steps 4 and 5 of maps in [0, 1], see `maps_to_labels`."""
    sigmas = np.array([settings.sigma(f) for f in findings])
    return refine(smooth(scaled, sigmas), films, settings.guide)


def maps_to_labels(
    maps: FloatMaps, probability: FloatMaps, settings: LabelSettings, findings: Sequence[str],
    films: Bytes,
) -> tuple[FloatMaps, Bytes, FloatMaps]:  # fmt: skip
    """All six steps: maps as they are cut, labels, and thresholds.

    (K, pairs, S, S) signed attributions of K classifiers and the (K, pairs) probabilities of each
    finding become (pairs, S, S) float32 in [0, 1], (pairs, S, S) uint8 in {0, 1, 255}, (pairs,)
    float32, NaN for a constant map. `findings` and `films`, (pairs, S, S) uint8, are of each pair.
    """
    mean = consensus(scale(maps, settings.part, settings.percentile), probability, settings.trust)
    refined = smooth_and_refine(mean, settings, findings, films)
    pairs = zip(refined, findings, strict=True)  # a constant map has no threshold
    levels = [settings.rule(f).level(m) if m.max() > m.min() else np.nan for m, f in pairs]
    thresholds: FloatMaps = np.array(levels, np.float32)
    return refined, cut(refined, thresholds, settings.ignore), thresholds
