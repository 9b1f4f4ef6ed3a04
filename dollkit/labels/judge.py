"""Judge labels against masks of the findings: ablations, and rules tuned on validation films."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.data.store import Store
from dollkit.explanations import ensemble
from dollkit.explanations.ensemble import Explained, ExplainerSettings, explain_all
from dollkit.labels import maps_to_labels as steps
from dollkit.labels.make import Rows, batches
from dollkit.labels.maps_to_labels import OTHER, Bytes, FloatMaps, LabelSettings, Rule
from dollkit.training import metrics
from dollkit.training.classifiers import Classifier, split_rows

CASE_COLUMNS = [
    "image_id", "patient_id", "finding", "explainer", "classifiers", "n_classifiers", "variant",
    "factor", "value", "iou_matched", "iou_label", "iou_chance", "precision", "recall", "hit",
    "iou_prior", "energy", "area",
]  # fmt: skip
OCCLUSION = "occlusion"
BATCH = 16
"""Films that are explained at a time."""
SMOOTHS = (0.01, 0.015, 0.02, 0.03)
PEAKS = tuple(round(0.1 + 0.05 * i, 2) for i in range(15))
AREAS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
CANDIDATES = (
    Rule("otsu"), *(Rule("peak", p) for p in PEAKS), *(Rule("quantile", a) for a in AREAS)
)  # fmt: skip
FEWEST = 3
"""A finding with fewer tuning films gets the rule that serves the others best."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Variant:
    """One changed factor; judged on the first `films` films only, 0: on all."""

    factor: str
    value: str
    classifiers: tuple[str, ...]
    explain: ExplainerSettings
    label_settings: LabelSettings
    films: int = 0

    @property
    def name(self) -> str:
        """Its name in tables: factor and value."""
        return "shipped" if self.factor == "shipped" else f"{self.factor}={self.value}"


def variants(
    names: Sequence[str], explain: ExplainerSettings, settings: LabelSettings,
    occluded: int = 0, few: int = 0,
) -> list[Variant]:  # fmt: skip
    """The shipped settings first, then one factor changed at a time: every subset of the
    classifiers; the other explainers (occlusion on `occluded` films, 0: left out); fixed numbers of
    steps and the other baselines, on `few` films (0: all); each step of `LabelSettings` switched.
    """
    every = tuple(names)
    out = [Variant("shipped", "shipped", every, explain, settings)]
    out += [
        Variant("classifiers", "+".join(subset), subset, explain, settings)
        for k in range(1, len(every))
        for subset in itertools.combinations(every, k)
    ]
    others = [e for e in ensemble.EXPLAINERS if e not in (explain.explainer, OCCLUSION)]
    anew = [("explainer", e, replace(explain, explainer=e), 0) for e in others]
    if occluded:
        anew.append(("explainer", OCCLUSION, replace(explain, explainer=OCCLUSION), occluded))
    if explain.explainer == "ig":  # the others have no path
        numbers = [n for n in (1, 4, 16) if n != explain.steps]
        anew += [("steps", str(n), replace(explain, steps=n), few) for n in numbers]
        kinds = [k for k in (ensemble.BY_FINDING, "black", "white", "blur") if k != explain.kind]
        anew += [("baseline", k, replace(explain, kind=k), few) for k in kinds]
    out += [Variant(f, value, every, e, settings, films) for f, value, e, films in anew]
    out += [Variant(f, value, every, explain, changed) for f, value, changed in _switched(settings)]
    return out


def _switched(settings: LabelSettings) -> Iterator[tuple[str, str, LabelSettings]]:
    """Factor, value and settings of every step of `LabelSettings` switched."""
    part = "magnitude" if settings.part == "positive" else "positive"
    yield "part", part, replace(settings, part=part)
    trust = "all" if settings.trust == "agree" else "agree"
    yield "trust", trust, replace(settings, trust=trust)
    # Under a tuned threshold the sigmas belong to the maps, which stay: only the rule changes.
    for rule in steps.RULES:
        if settings.threshold == "tuned":
            value = settings.level if rule == "peak" else settings.area
            every = {OTHER: "otsu" if rule == "otsu" else f"{rule} {value:g}"}
            yield "threshold", rule, replace(settings, thresholds=every)
        elif rule != settings.threshold:
            yield "threshold", rule, replace(settings, threshold=rule)
    for sigma in (0.0, 0.01, 0.03, 0.06):
        if sigma != settings.smooth or settings.smooths:
            yield "smooth", f"{sigma:g}", replace(settings, smooth=sigma, smooths={})
    guide = 0.0 if settings.guide else 0.04
    yield "guide", f"{guide:g}", replace(settings, guide=guide)


def _known(store: Store) -> list[str]:
    return [f for f in PATHOLOGIES if f in store.mask_classes]


def judged_rows(store: Store, split: str, limit: int) -> Rows:
    """First `limit` films of a split with a positive finding and, if the store has any, a mask."""
    rows = split_rows(store, split)
    known = _known(store)
    if known:
        positive = store.states[rows][:, [FINDINGS.index(f) for f in known]] == POSITIVE
        usable = (positive & store.mask_valid(rows, known)).any(1)
    else:
        usable = (store.states[rows][:, 1:] == POSITIVE).any(1)
    return np.asarray(rows[usable][:limit])


def judge(
    models: Mapping[str, Classifier], store: Store, rows: Rows, tried: Sequence[Variant]
) -> tuple[pd.DataFrame, Arrays]:
    """Scores of label variants against the masks of the findings, and arrays of the shipped labels.

    No film of `rows` trained a classifier; the first of the variants is the shipped one. A store
    without masks of any finding gives no scores, and arrays of empty ``truth`` and NaN ``iou``.
    """
    known = _known(store)
    frames = [] if known else [pd.DataFrame(columns=CASE_COLUMNS)]
    examples: list[Arrays] = []
    bar, films = tqdm(total=len(rows), desc="judge", unit="film", disable=None), 0
    for batch in _batches(models, store, rows, known):
        if batch.names:
            used = [v for v in tried if not v.films or films < v.films] if known else tried[:1]
            anew = dict.fromkeys(v.explain for v in used)
            explained = {e: explain_all(models, batch.x, batch.targets, e) for e in anew}
            judged = batch.truth.any((1, 2)) if known else np.full(len(batch.names), True)
            for v in used:
                frame, arrays = _score(store, v, list(models), explained[v.explain], batch)
                if known:
                    frames.append(frame.iloc[np.flatnonzero(judged)])
                if arrays:
                    examples.append({key: value[judged] for key, value in arrays.items()})
        films += len(batch.x)
        bar.update(len(batch.x))
    bar.close()
    if not examples:
        what = "a mask to judge against" if known else "a positive finding"
        raise InputError(f"{store.path}: none of the {len(rows)} films has {what}")
    arrays = {key: np.concatenate([e[key] for e in examples]) for key in examples[0]}
    arrays["classifiers"] = np.array(list(models), "U")
    cases = pd.concat(frames, ignore_index=True)
    if known:
        shipped, case = cases[cases["variant"] == "shipped"], ["image_id", "finding"]
        prior = shipped[case].assign(iou_prior=_prior(store, shipped, arrays["truth"]))
        cases = cases.merge(prior, on=case, how="left")
    return cases, arrays


def tuned(
    models: Mapping[str, Classifier], store: Store, rows: Rows, explain: ExplainerSettings,
    settings: LabelSettings,
) -> pd.DataFrame | None:  # fmt: skip
    """Table of `tune` for films not judged later; None if no positive finding has a mask."""
    parts = []
    for batch in _batches(models, store, rows, _known(store)):
        if batch.truth.any():
            explained = explain_all(models, batch.x, batch.targets, explain)
            maps, probability = explained.maps.swapaxes(0, 1), explained.probability.T
            parts.append((maps, probability, batch.names, store.images[batch.row], batch.truth))
    if not parts:
        return None
    maps, probability, names, films, truth = (np.concatenate(p) for p in zip(*parts, strict=True))
    return tune(maps.swapaxes(0, 1), probability.T, settings, list(names), films, truth)


def tune(
    maps: FloatMaps, probability: FloatMaps, settings: LabelSettings, findings: Sequence[str],
    films: Bytes, truth: Bytes,
) -> pd.DataFrame:  # fmt: skip
    """Smoothing by IoU at matched area, then the rule by IoU of the label, for each finding.

    Ties go to Otsu, then to the smaller number. All arrays are as in `maps_to_labels`, of films
    that are not judged later; pairs with an empty (S, S) truth are left out. Columns finding, rule,
    smooth, iou (of the label, mean over films), iou_otsu (under Otsu's rule), n; one row per
    finding, then ``other``, the best mean over findings, for those with fewer than `FEWEST` films.
    """
    seen = truth.any((1, 2))
    if not seen.any():
        raise InputError("threshold 'tuned': no tuning film has a mask: use otsu or a file")
    maps, probability, films, truth = maps[:, seen], probability[:, seen], films[seen], truth[seen]
    names = np.asarray(findings)[seen]
    scaled = steps.scale(maps, settings.part, settings.percentile)
    mean = steps.consensus(scaled, probability, settings.trust)
    refined = [steps.refine(steps.smooth(mean, s), films, settings.guide) for s in SMOOTHS]
    matched = np.stack([metrics.iou_matched(m, truth) for m in refined])
    scores = np.stack([_rule_scores(m, truth) for m in refined])
    present = [f for f in FINDINGS if (names == f).any()]
    mean_matched = np.stack([matched[:, names == f].mean(1) for f in present])
    mean_scores = np.stack([scores[:, :, names == f].mean(2) for f in present])
    sigma = int(mean_matched.mean(0).argmax())
    pooled = mean_scores[:, sigma].mean(0)
    rule = int(pooled.argmax())
    rows: list[tuple[object, ...]] = []
    for i, finding in enumerate(present):
        n = int((names == finding).sum())
        s = sigma if n < FEWEST else int(mean_matched[i].argmax())
        r = rule if n < FEWEST else int(mean_scores[i, s].argmax())
        best, otsu = mean_scores[i, s, [r, 0]]
        rows.append((finding, str(CANDIDATES[r]), SMOOTHS[s], best, otsu, n))
    rows.append((OTHER, str(CANDIDATES[rule]), SMOOTHS[sigma], pooled[rule], pooled[0], len(names)))
    return pd.DataFrame(rows, columns=steps.RULE_COLUMNS)


def _rule_scores(maps: FloatMaps, truth: Bytes) -> npt.NDArray[np.float64]:
    """IoU of each map's label under each candidate rule: (candidates, pairs)."""
    out = np.zeros((len(CANDIDATES), len(maps)))
    for j, (m, t) in enumerate(zip(maps, truth, strict=True)):
        if m.max() <= m.min():
            continue
        # Sorted once: any threshold's label is then a number of top pixels.
        order = np.argsort(-m, axis=None, kind="stable")
        inside = np.concatenate([[0], np.cumsum(t.reshape(-1)[order])])
        level = np.array([r.level(m) for r in CANDIDATES], np.float32)
        called = np.searchsorted(-m.reshape(-1)[order], -level, side="right")
        out[:, j] = inside[called] / (called + inside[-1] - inside[called])
    return out


class _Batch(NamedTuple):
    """Some films; row of the store, finding and mask of each pair, film by film."""

    x: torch.Tensor
    targets: list[list[int]]
    row: Rows
    names: list[str]
    truth: Bytes


def _batches(
    models: Mapping[str, Classifier], store: Store, rows: Rows, known: Sequence[str]
) -> Iterator[_Batch]:
    """Films and their positive findings that have a mask; all, if no finding is `known` to."""
    for films, x, positive in batches(models, store, rows, BATCH):
        usable = np.full((len(films), len(FINDINGS)), not known)
        usable[:, [FINDINGS.index(f) for f in known]] = store.mask_valid(films, known)
        usable[:, 0] = False  # No Finding has no place
        targets = [[t for t in p if u[t]] for p, u in zip(positive, usable, strict=True)]
        row = np.repeat(films, [len(channels) for channels in targets])
        names = [FINDINGS[t] for channels in targets for t in channels]
        truth = np.zeros((len(row), store.size, store.size), np.uint8)
        for i, name in enumerate(names if known else ()):
            truth[i] = store.masks(row[[i]], [name])[0, 0]
        yield _Batch(x, targets, row, names, truth)


def _score(
    store: Store, v: Variant, models: Sequence[str], explained: Explained, batch: _Batch
) -> tuple[pd.DataFrame, Arrays]:
    """Cases of a batch, and of the shipped variant the arrays behind them: ``maps`` are those of
    every classifier alone, (pairs, K, S, S); ``probability`` is (pairs, K).
    """
    use, settings = [models.index(name) for name in v.classifiers], v.label_settings
    row, names, truth, films = batch.row, batch.names, batch.truth, store.images[batch.row]
    maps, label, _ = steps.maps_to_labels(
        explained.maps[use], explained.probability[use], settings, names, films
    )
    precision, recall = metrics.precision_recall(label, truth)
    overlap = metrics.iou_matched(maps, truth)
    frame = pd.DataFrame(
        {column: store.films[column].to_numpy()[row] for column in ("image_id", "patient_id")}
        | {
            "finding": np.array(names),
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
    if v.factor != "shipped":
        return frame, {}
    scaled = [steps.scale(m, settings.part, settings.percentile) for m in explained.maps]
    single = [steps.smooth_and_refine(m, settings, names, films) for m in scaled]
    arrays: Arrays = {
        "image": films,
        "finding": np.array(names),
        "image_id": frame["image_id"].to_numpy().astype("U"),
        "map": maps.astype(np.float16),
        "label": label,
        "truth": truth,
        "iou": overlap,
        "maps": np.stack(single, 1).astype(np.float16),
        "probability": explained.probability.T,
    }
    return frame, arrays


def _prior(
    store: Store, cases: pd.DataFrame, truth: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """IoU of the mean mask of other patients, at matched area, for each case."""
    out = np.full(len(cases), np.nan)
    finding = cases["finding"].to_numpy()
    patients = cases["patient_id"].to_numpy().astype(object)
    rows = np.flatnonzero(store.films["split"] == "train")
    rows = rows[store.mask_valid(rows, _known(store)).all(1)]
    for f in np.unique(finding):
        of_finding = finding == f
        positive = rows[store.states[rows, FINDINGS.index(f)] == POSITIVE][:400]
        masks = store.masks(positive, [f])[:, 0]
        maps = metrics.prior_maps(truth[of_finding], patients[of_finding], masks)
        out[of_finding] = metrics.iou_matched(maps, truth[of_finding])
    return out
