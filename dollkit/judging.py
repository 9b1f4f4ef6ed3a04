"""Judge labels against the masks of the findings, one factor of their making changed at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from dollkit import quality
from dollkit.classifiers import Classifier, split_rows
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.labelling import Explain, FloatMaps, Rows, batches, explain_films
from dollkit.labels import Distil, boost, distil, scale
from dollkit.store import Store

CASE_COLUMNS = [
    "image_id", "patient_id", "finding", "explainer", "classifiers", "n_classifiers", "variant",
    "factor", "value", "iou_matched", "iou_label", "iou_chance", "precision", "recall", "hit",
    "iou_prior",
]  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One changed factor: which classifiers, which explainer settings, which label settings."""

    factor: str
    value: str
    classifiers: tuple[str, ...]
    explain: Explain
    distil: Distil

    @property
    def name(self) -> str:
        return "shipped" if self.factor == "shipped" else f"{self.factor}={self.value}"


def variants(names: Sequence[str], how: Explain, settings: Distil) -> list[Variant]:
    """The shipped settings first, then one factor changed at a time.

    Every subset of the classifiers; the other explainers; a quarter of the steps; the other
    baselines; and each step of `labels.Distil` switched.
    """
    every = tuple(names)
    out = [Variant("shipped", "shipped", every, how, settings)]
    for k in range(1, len(every)):
        for some in itertools.combinations(every, k):
            out.append(Variant("classifiers", "+".join(some), some, how, settings))
    for other in ("gradient", "gradcam"):
        out.append(Variant("explainer", other, every, replace(how, explainer=other), settings))
    few = max(1, how.steps // 4)
    out.append(Variant("steps", str(few), every, replace(how, steps=few), settings))
    for kind in ("black", "grey", "blur"):
        if kind != how.kind:
            out.append(Variant("baseline", kind, every, replace(how, kind=kind), settings))
    switched = {
        "part": "magnitude" if settings.part == "positive" else "positive",
        "trust": "all" if settings.trust == "agree" else "agree",
    }
    for field, value in switched.items():
        out.append(Variant(field, value, every, how, replace(settings, **{field: value})))  # type: ignore[arg-type]
    for rule in ("otsu", "peak", "quantile"):
        if rule != settings.threshold:
            out.append(Variant("threshold", rule, every, how, replace(settings, threshold=rule)))
    for smooth in (0.0, settings.smooth * 2):
        changed = replace(settings, smooth=smooth)
        out.append(Variant("smooth", f"{smooth:g}", every, how, changed))
    return out


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
        precision, recall, hit.
    """
    where = next(iter(models.values())).head.weight.device
    frames: list[pd.DataFrame] = []
    kept: dict[str, list[npt.NDArray[np.generic]]] = {
        k: [] for k in ("image", "finding", "image_id", "map", "maps", "label", "truth", "iou")
    }
    known = {f for f in PATHOLOGIES if f in store.mask_classes}
    settings = {v.explain: None for v in wanted}
    bar = tqdm(total=len(rows), desc="judge", unit="film", disable=None)
    for chosen, x, all_targets in batches(store, rows, 16, where):
        targets = [
            [
                t for t in wanted_here
                if FINDINGS[t] in known and store.mask_valid(np.array([r]), [FINDINGS[t]])[0, 0]
            ]
            for r, wanted_here in zip(chosen, all_targets, strict=True)
        ]  # fmt: skip
        pairs = [(int(r), t) for r, ts in zip(chosen, targets, strict=True) for t in ts]
        if pairs:
            truth = np.stack([store.masks(np.array([r]), [FINDINGS[t]])[0, 0] for r, t in pairs])
            seen = truth.reshape(len(truth), -1).any(1)
            made = {s: explain_films(models, x, targets, s) for s in settings}
            for v in wanted:
                frame, arrays = _score(store, v, list(models), made[v.explain], pairs, truth)
                frames.append(frame.iloc[np.flatnonzero(seen)])
                if v.factor == "shipped":
                    arrays["maps"] = _each(v, made[v.explain][0])
                    for key, value in arrays.items():
                        kept[key].append(value[seen])
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
        pairs = [(int(r), t) for r, ts in zip(chosen, targets, strict=True) for t in ts]
        if pairs:
            made = explain_films(models, x, targets, shipped.explain)
            nothing = np.zeros((len(pairs), store.size, store.size), np.uint8)
            _, arrays = _score(store, shipped, list(models), made, pairs, nothing)
            parts.append({**arrays, "maps": _each(shipped, made[0])})
    if not parts:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    examples = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    examples["classifiers"] = np.array(list(models), "U")
    return Judgement(pd.DataFrame(columns=CASE_COLUMNS), examples)


def _each(v: Variant, maps: FloatMaps) -> npt.NDArray[np.float16]:
    """Boosted map of every classifier alone: (K, pairs, S, S) -> (pairs, K, S, S)."""
    boosted = [boost(scale(m, v.distil.part, v.distil.percentile), v.distil.smooth) for m in maps]
    return np.stack(boosted, 1).astype(np.float16)


def _score(
    store: Store, v: Variant, names: list[str], made: tuple[FloatMaps, FloatMaps, FloatMaps],
    pairs: list[tuple[int, int]], truth: npt.NDArray[np.uint8],
) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.generic]]]:  # fmt: skip
    use = [names.index(n) for n in v.classifiers]
    maps, label, _ = distil(made[0][use], made[1][use], v.distil)
    precision, recall = quality.precision_recall(label, truth)
    at = np.array([r for r, _ in pairs])
    finding = np.array([FINDINGS[t] for _, t in pairs])
    overlap = quality.iou_matched(maps, truth)
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
            "iou_label": quality.iou((label == 1).astype(np.uint8), truth),
            "iou_chance": quality.iou_chance(truth),
            "precision": precision,
            "recall": recall,
            "hit": quality.hit(maps, truth).astype(int),
        }
    )
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "image": store.images[at], "finding": finding,
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
        maps = quality.prior_maps(truth[own], patients[own], masks)
        out[own] = quality.iou_matched(maps, truth[own])
    return out
