"""Judge labels against the masks of the findings, one factor of their making changed at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from dollkit.stats import bootstrap_interval, patient_values
from dollkit.store import Store


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
        "threshold": "quantile" if settings.threshold == "otsu" else "otsu",
    }
    for field, value in switched.items():
        out.append(Variant(field, value, every, how, replace(settings, **{field: value})))  # type: ignore[arg-type]
    for smooth in (0.0, settings.smooth * 2):
        changed = replace(settings, smooth=smooth)
        out.append(Variant("smooth", f"{smooth:g}", every, how, changed))
    return out


def judged_rows(store: Store, split: str, limit: int) -> Rows:
    """First `limit` films of a split with a positive finding whose mask is known."""
    rows = split_rows(store, split)
    known = [f for f in PATHOLOGIES if f in store.mask_classes]
    if not known:
        raise InputError(f"{store.path}: no mask of any finding to judge labels against")
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
                    each = [boost(scale(m, v.distil.part, v.distil.percentile), v.distil.smooth)
                            for m in made[v.explain][0]]  # fmt: skip
                    arrays["maps"] = np.stack(each, 1).astype(np.float16)
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


def _mean(part: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over findings of means over films, with a 95 % bootstrap interval over patients."""
    _, units = patient_values(part[value], part["patient_id"], part["finding"])
    return (float(units.mean()), *bootstrap_interval(units))


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """Label quality per finding, explainer and number of classifiers.

    The shipped labels, the same with fewer classifiers (mean over all subsets of that size) and
    the other explainers; row ``mean`` averages the findings.

    Returns:
        Columns finding, explainer, n_classifiers, iou_matched, iou_matched_lo, iou_matched_hi,
        iou_label, iou_chance, iou_prior, precision, recall, hit_rate, n.
    """
    chosen = cases[cases["factor"].isin(["shipped", "classifiers", "explainer"])]
    rows: list[dict[str, object]] = []
    for (explainer, count), setting in chosen.groupby(["explainer", "n_classifiers"]):
        found = [f for f in PATHOLOGIES if (setting["finding"] == f).any()]
        for finding in (*found, "mean"):
            part = setting if finding == "mean" else setting[setting["finding"] == finding]
            value, lo, hi = _mean(part, "iou_matched")
            row: dict[str, object] = {"finding": finding, "explainer": explainer}
            row |= {"n_classifiers": count, "iou_matched": value}
            row |= {"iou_matched_lo": lo, "iou_matched_hi": hi}
            per_finding = part.groupby("finding")
            names = ("iou_label", "iou_chance", "iou_prior", "precision", "recall")
            row |= {k: float(per_finding[k].mean().mean()) for k in names}
            row["hit_rate"] = float(per_finding["hit"].mean().mean())
            row["n"] = len(part[["image_id", "finding"]].drop_duplicates())
            rows.append(row)
    return pd.DataFrame(rows)


def ablation(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: factor, value, iou_matched, iou_lo, iou_hi, hit_rate, n."""
    rows: list[dict[str, object]] = []
    for (factor, value), part in cases.groupby(["factor", "value"], sort=False):
        mean, lo, hi = _mean(part, "iou_matched")
        hits = float(part.groupby("finding")["hit"].mean().mean())
        rows.append(
            {"factor": factor, "value": value, "iou_matched": mean, "iou_lo": lo, "iou_hi": hi,
             "hit_rate": hits, "n": len(part)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def write(
    folder: Path,
    cases: pd.DataFrame,
    summary: pd.DataFrame,
    table: pd.DataFrame,
    examples: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Write label_cases.csv.gz, labels.csv, ablation.csv and examples.npz into the artefact."""
    # No time stamp inside: the same rows are the same bytes.
    how = {"method": "gzip", "mtime": 0}
    cases.to_csv(folder / "label_cases.csv.gz", index=False, compression=how)
    summary.to_csv(folder / "labels.csv", index=False)
    table.to_csv(folder / "ablation.csv", index=False)
    arrays: dict[str, Any] = dict(examples)
    np.savez_compressed(folder / "examples.npz", **arrays)
