"""Judge labels against the masks of the findings, one factor of their making changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit import quality
from dollkit.classifiers import Classifier, split_rows
from dollkit.errors import InputError
from dollkit.explaining import Explain, Explained, explain_all
from dollkit.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.labelling import Rows, batches
from dollkit.labels import Distil, distil, scale
from dollkit.labels.steps import sharpen
from dollkit.labels.tuning import tune
from dollkit.store import Store
from dollkit.variants import Variant, variants

__all__ = [
    "CASE_COLUMNS", "Judgement", "Variant", "has_truth", "judge", "judged_rows", "reference_rows",
    "tuned", "unjudged", "variants",
]  # fmt: skip

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
    precision, recall = quality.precision_recall(label, truth)
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
            "energy": quality.energy(maps, truth),
            "area": quality.area(truth),
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
        maps = quality.prior_maps(truth[own], patients[own], masks)
        out[own] = quality.iou_matched(maps, truth[own])
    return out
