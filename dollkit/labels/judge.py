"""Judge labels against the masks of the findings, one factor of their making changed at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.classifiers.model import Classifier, split_rows
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.data.store import Store
from dollkit.explanations import EXPLAINERS, ensemble
from dollkit.explanations.ensemble import Explain, Explained, explain_all
from dollkit.labels import Distil, distil, scale
from dollkit.labels.make import Rows, batches
from dollkit.labels.steps import sharpen
from dollkit.labels.threshold_rules import OTHER, RULES
from dollkit.labels.tuning import tune
from dollkit.training import metrics

EXAMPLES = ("image", "finding", "image_id", "map", "label", "truth", "iou")

CASE_COLUMNS = [
    "image_id", "patient_id", "finding", "explainer", "classifiers", "n_classifiers", "variant",
    "factor", "value", "iou_matched", "iou_label", "iou_chance", "precision", "recall", "hit",
    "iou_prior", "energy", "area",
]  # fmt: skip


def has_truth(store: Store) -> bool:
    """Does the store hold masks of any finding to judge labels against?"""
    return any(f in store.mask_classes for f in PATHOLOGIES)


def judged_rows(store: Store, split: str, limit: int) -> Rows:
    """First `limit` films of a split with a positive finding whose mask is known.

    In a store without any such mask: with a positive finding.
    """
    rows = split_rows(store, split)
    known = [f for f in PATHOLOGIES if f in store.mask_classes]
    if not known:
        found = (store.states[rows][:, 1:] == POSITIVE).any(1)
        return np.asarray(rows[found][:limit])
    valid = store.mask_valid(rows, known)
    states = store.states[rows][:, [FINDINGS.index(f) for f in known]]
    usable = ((states == POSITIVE) & valid).any(1)
    chosen: Rows = rows[usable][:limit]
    return chosen


def reference_rows(store: Store) -> Rows | None:
    """Training films whose finding masks are known, for the anatomy prior; None without any."""
    rows = split_rows(store, "train")
    known = [f for f in PATHOLOGIES if f in store.mask_classes]
    valid = store.mask_valid(rows, known).all(1)
    return rows[valid] if valid.any() else None


@dataclass
class Judgement:
    """Per-case rows, and for the shipped labels the arrays behind them."""

    cases: pd.DataFrame
    examples: dict[str, npt.NDArray[np.generic]]


def judge(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    wanted: Sequence[Variant],
    reference: Rows | None,
) -> Judgement:
    """Score label variants against the masks of the findings.

    Args:
        rows: films to judge on, none of which trained a classifier.
        wanted: variants; the first is the shipped one.
        reference: films whose masks make the anatomy prior (training patients); None uses the
            other judged patients, one left out at a time.

    Returns:
        `Judgement`; cases have the columns image_id, patient_id, finding, explainer, classifiers,
        n_classifiers, variant, factor, value, iou_matched, iou_label, iou_chance, iou_prior,
        precision, recall, hit, energy (share of the map inside the truth), area (share of the
        film that the truth covers).
    """
    where = next(iter(models.values())).head.weight.device
    frames: list[pd.DataFrame] = []
    kept: dict[str, list[npt.NDArray[np.generic]]] = {
        k: [] for k in (*EXAMPLES, "maps", "probability")
    }
    bar, films = tqdm(total=len(rows), desc="judge", unit="film", disable=None), 0
    for chosen, x, targets in _judgeable(store, rows, where):
        pairs = _pairs(chosen, targets)
        if pairs:
            truth = _truth(store, pairs)
            seen = truth.reshape(len(truth), -1).any(1)
            here = [v for v in wanted if not v.films or films < v.films]
            settings = dict.fromkeys(v.explain for v in here)
            made = {s: explain_all(models, x, targets, s) for s in settings}
            for v in here:
                frame, arrays = _score(store, v, list(models), made[v.explain], pairs, truth)
                frames.append(frame.iloc[np.flatnonzero(seen)])
                if v.factor == "shipped":
                    arrays |= _each(v, made[v.explain], arrays)
                    for key, value in arrays.items():
                        kept[key].append(value[seen])
        films += len(chosen)
        bar.update(len(chosen))
    bar.close()
    if not frames:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a mask to judge against")
    cases = pd.concat(frames, ignore_index=True)
    examples = {k: np.concatenate(v) for k, v in kept.items()}
    examples["classifiers"] = np.array(list(models), "U")
    shipped = cases["variant"] == "shipped"
    prior = _prior(store, cases[shipped], examples["truth"], reference)
    case = ["image_id", "finding"]
    per_case = pd.Series(prior, index=pd.MultiIndex.from_frame(cases.loc[shipped, case]))
    cases["iou_prior"] = per_case.reindex(pd.MultiIndex.from_frame(cases[case])).to_numpy()
    return Judgement(cases, examples)


def tuned(
    models: Mapping[str, Classifier], store: Store, rows: Rows, how: Explain, settings: Distil
) -> pd.DataFrame | None:
    """Each finding's threshold rule and smoothing, chosen on films whose masks are known.

    Args:
        rows: films to tune on, none of which is judged later, such as
            ``judged_rows(store, "valid", n)``.

    Returns:
        Table of `dollkit.labels.tuning.tune`; None if no film has a mask of a positive finding.
    """
    where = next(iter(models.values())).head.weight.device
    parts: list[list[npt.NDArray[np.generic]]] = []
    for chosen, x, targets in _judgeable(store, rows, where):
        pairs = _pairs(chosen, targets)
        if pairs:
            maps, probability, *_ = explain_all(models, x, targets, how)
            at = np.array([r for r, _ in pairs])
            names = np.array([FINDINGS[t] for _, t in pairs])
            truth = _truth(store, pairs)
            parts.append([maps.swapaxes(0, 1), probability.T, names, store.images[at], truth])
    if not parts or not any(p[4].any() for p in parts):
        return None
    maps, probability, names, films, truth = (np.concatenate(p) for p in zip(*parts, strict=True))
    return tune(maps.swapaxes(0, 1), probability.T, settings, list(names), films, truth)


def _judgeable(
    store: Store, rows: Rows, where: torch.device
) -> Iterator[tuple[Rows, torch.Tensor, list[list[int]]]]:
    """Batches whose targets are the positive findings with a known mask."""
    known = {f for f in PATHOLOGIES if f in store.mask_classes}
    for chosen, x, found in batches(store, rows, 16, where):
        targets = [
            [
                t for t in wanted
                if FINDINGS[t] in known and store.mask_valid(np.array([r]), [FINDINGS[t]])[0, 0]
            ]
            for r, wanted in zip(chosen, found, strict=True)
        ]  # fmt: skip
        yield chosen, x, targets


def _pairs(chosen: Rows, targets: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(row, channel) of each target, film by film."""
    return [(int(r), t) for r, wanted in zip(chosen, targets, strict=True) for t in wanted]


def _truth(store: Store, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    return np.stack([store.masks(np.array([r]), [FINDINGS[t]])[0, 0] for r, t in pairs])


def unjudged(
    models: Mapping[str, Classifier], store: Store, rows: Rows, shipped: Variant
) -> Judgement:
    """Labels of some films without a truth to judge them by: no cases, but arrays for pictures.

    Their `truth` is empty and their `iou` NaN.
    """
    where = next(iter(models.values())).head.weight.device
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    for chosen, x, found in batches(store, rows, 16, where):
        targets = [[t for t in wanted if t > 0] for wanted in found]
        pairs = _pairs(chosen, targets)
        if pairs:
            made = explain_all(models, x, targets, shipped.explain)
            nothing = np.zeros((len(pairs), store.size, store.size), np.uint8)
            _, arrays = _score(store, shipped, list(models), made, pairs, nothing)
            parts.append({**arrays, **_each(shipped, made, arrays)})
    if not parts:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    examples = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    examples["classifiers"] = np.array(list(models), "U")
    return Judgement(pd.DataFrame(columns=CASE_COLUMNS), examples)


def _each(
    v: Variant, made: Explained, arrays: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Boosted map of every classifier alone, (pairs, K, S, S), and its probability, (pairs, K)."""
    films = np.asarray(arrays["image"], np.uint8)
    names = [str(f) for f in arrays["finding"]]
    scaled = [scale(m, v.distil.part, v.distil.percentile) for m in made.maps]
    boosted = [sharpen(m, v.distil, names, films) for m in scaled]
    return {"maps": np.stack(boosted, 1).astype(np.float16), "probability": made.probability.T}


def _score(
    store: Store, v: Variant, names: list[str], made: Explained,
    pairs: list[tuple[int, int]], truth: npt.NDArray[np.uint8],
) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.generic]]]:  # fmt: skip
    use = [names.index(n) for n in v.classifiers]
    at = np.array([r for r, _ in pairs])
    names_of = [FINDINGS[t] for _, t in pairs]
    finding, films = np.array(names_of), store.images[at]
    maps, label, _ = distil(made.maps[use], made.probability[use], v.distil, names_of, films)
    precision, recall = metrics.precision_recall(label, truth)
    overlap = metrics.iou_matched(maps, truth)
    frame = pd.DataFrame(
        {
            "image_id": store.films["image_id"].to_numpy()[at],
            "patient_id": store.films["patient_id"].to_numpy()[at],
            "finding": finding,
            "explainer": v.explain.explainer,
            "classifiers": "+".join(v.classifiers),
            "n_classifiers": len(v.classifiers),
            "variant": v.name,
            "factor": v.factor,
            "value": v.value,
            "iou_matched": overlap,
            "iou_label": metrics.iou_of_masks((label == 1).astype(np.uint8), truth),
            "iou_chance": metrics.iou_chance(truth),
            "precision": precision,
            "recall": recall,
            "hit": metrics.hit(maps, truth).astype(int),
            "energy": metrics.energy(maps, truth),
            "area": metrics.area(truth),
        }
    )
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "image": films, "finding": finding,
        "image_id": frame["image_id"].to_numpy().astype("U"), "map": maps.astype(np.float16),
        "label": label, "truth": truth, "iou": overlap,
    }  # fmt: skip
    return frame, arrays


def _prior(
    store: Store, cases: pd.DataFrame, truth: npt.NDArray[np.uint8], reference: Rows | None
) -> npt.NDArray[np.float64]:
    out = np.full(len(cases), np.nan)
    finding = cases["finding"].to_numpy()
    patients = cases["patient_id"].to_numpy().astype(object)
    for f in np.unique(finding):
        own = finding == f
        masks = None
        if reference is not None:
            positive = reference[store.states[reference, FINDINGS.index(f)] == POSITIVE][:400]
            masks = store.masks(positive, [f])[:, 0]
        maps = metrics.prior_maps(truth[own], patients[own], masks)
        out[own] = metrics.iou_matched(maps, truth[own])
    return out


# Ways of making labels that are judged side by side: one factor changed at a time.


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
    for kind in (ensemble.BY_FINDING, "black", "white", "blur"):
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
