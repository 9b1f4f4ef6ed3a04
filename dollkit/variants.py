"""Ways of making labels that are judged side by side: one factor changed at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dollkit import baselines
from dollkit.attribution import EXPLAINERS
from dollkit.explaining import Explain
from dollkit.labels import Distil
from dollkit.labels.rules import OTHER, RULES

OCCLUSION = "occlusion"


@dataclass(frozen=True)
class Variant:
    """One changed factor: which classifiers, which explainer settings, which label settings.

    `films`: judged on the first so many films only; 0: on all.
    """

    factor: str
    value: str
    classifiers: tuple[str, ...]
    explain: Explain
    distil: Distil
    films: int = 0

    @property
    def name(self) -> str:
        return "shipped" if self.factor == "shipped" else f"{self.factor}={self.value}"


def variants(
    names: Sequence[str], how: Explain, settings: Distil, occluded: int = 0, few: int = 0
) -> list[Variant]:
    """The shipped settings first, then one factor changed at a time.

    Every subset of the classifiers; the other explainers; fixed numbers of steps and the other
    baselines, where there is a path; and each step of `labels.Distil` switched. Variants that
    differ in `distil` or `classifiers` alone share their explanations.

    Args:
        occluded: films to judge occlusion on, which is slow; 0 leaves it out.
        few: films to judge other steps and baselines on, each of which explains anew; 0: all.
    """
    every = tuple(names)
    out = [Variant("shipped", "shipped", every, how, settings)]
    for k in range(1, len(every)):
        for some in itertools.combinations(every, k):
            out.append(Variant("classifiers", "+".join(some), some, how, settings))
    for other in EXPLAINERS:
        if other not in (how.explainer, OCCLUSION):
            changed = replace(how, explainer=other)
            out.append(Variant("explainer", other, every, changed, settings))
    if occluded:
        hidden = replace(how, explainer=OCCLUSION)
        out.append(Variant("explainer", OCCLUSION, every, hidden, settings, occluded))
    if how.explainer == "ig":  # the others have no path
        out += _paths(every, how, settings, few)
    for field, value, new in _switched(settings):
        out.append(Variant(field, value, every, how, new))
    return out


def _paths(every: tuple[str, ...], how: Explain, settings: Distil, few: int) -> list[Variant]:
    """Fixed numbers of steps, and the other baselines."""
    out = []
    for steps in (1, 4, 16):
        if steps != how.steps:
            changed = replace(how, steps=steps)
            out.append(Variant("steps", str(steps), every, changed, settings, few))
    for kind in (baselines.BY_FINDING, "black", "white", "blur"):
        if kind != how.kind:
            out.append(Variant("baseline", kind, every, replace(how, kind=kind), settings, few))
    return out


def _switched(settings: Distil) -> list[tuple[str, str, Distil]]:
    """Factor, value and settings of every step of `Distil` switched."""
    part = "magnitude" if settings.part == "positive" else "positive"
    trust = "all" if settings.trust == "agree" else "agree"
    out = [("part", part, replace(settings, part=part))]
    out.append(("trust", trust, replace(settings, trust=trust)))
    # Under a tuned threshold the sigmas belong to the maps, which stay: only the rule changes.
    for rule in RULES:
        if settings.threshold == "tuned":
            value = settings.level if rule == "peak" else settings.area
            every = {OTHER: "otsu" if rule == "otsu" else f"{rule} {value:g}"}
            out.append(("threshold", rule, replace(settings, thresholds=every)))
        elif rule != settings.threshold:
            out.append(("threshold", rule, replace(settings, threshold=rule)))
    for smooth in (0.0, 0.01, 0.03, 0.06):
        if smooth != settings.smooth or settings.smooths:
            one = replace(settings, smooth=smooth, smooths={})
            out.append(("smooth", f"{smooth:g}", one))
    guide = 0.0 if settings.guide else 0.04
    out.append(("guide", f"{guide:g}", replace(settings, guide=guide)))
    return out
