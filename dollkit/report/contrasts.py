"""From per-case rows to the contrasts that the claims rest on: effects, not verdicts yet.

Every effect is signed so that positive speaks for the claim. A contrast that cannot be made is a
row with a reason, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common import ARMS, OPTIONAL
from dollkit.common.findings import MOBILE
from dollkit.common.statistics import (
    FEWEST,
    NO_EFFECT,
    Effect,
    Floats,
    crossed_effect,
    paired,
    patient_values,
    seen_enough,
    smallest_effect,
)
from dollkit.report.rows import Rows, aligned, blocks, main_size

Row = dict[str, object]
Settings = Mapping[Any, pd.DataFrame]  # per-case rows by arm and tuning

NO_GAIN = "no gain to keep: doll/full - random/full is not above zero"


def _row(claim: str, contrast: str, task: str, effect: Effect | str, **more: object) -> Row:
    """A contrast, or the reason why it could not be made."""
    note, effect = (f"not run: {effect}", NO_EFFECT) if isinstance(effect, str) else ("", effect)
    base: Row = {"claim": claim, "contrast": contrast, "task": task}
    base |= {"effect": effect.estimate, "lo": effect.lo, "hi": effect.hi, "p": effect.p}
    base |= {"mde": smallest_effect(effect.se, effect.df)}
    base |= {"n_cases": 0, "n_patients": 0, "n_seeds": 0, "decides": True}
    return base | {"network": "", "n_train": pd.NA, "note": note} | more


def _label_row(
    contrast: str, rows: pd.DataFrame, other: str, task: str = "labels", claim: str = "C1",
    decides: bool = True,
) -> Row:  # fmt: skip
    """IoU at matched area of rows minus another column, over findings of enough patients."""
    enough = seen_enough(rows["patient_id"], rows["finding"])
    few = ", ".join(sorted(rows["finding"][~enough].unique()))
    rows = rows[enough]
    if rows.empty:
        reason = f"fewer than {FEWEST} patients with {few}"
        return _row(claim, contrast, task, reason, decides=decides)
    gap = rows["iou_matched"] - rows[other]
    _, units = patient_values(gap, rows["patient_id"], rows["finding"])
    note = f"left out, in fewer than {FEWEST} patients: {few}" if few else ""
    more = {"n_cases": len(rows), "n_patients": len(units), "note": note, "decides": decides}
    return _row(claim, contrast, task, paired(units), **more)


def label_rows(labels: pd.DataFrame) -> list[Row]:
    """Contrasts of C1 (mobile findings) and C5 (all findings) from label_cases.csv.gz.

    Without a truth to judge labels by, it is empty.
    """
    if labels.empty:
        unknown = (("C1", "labels - mean-mask prior"), ("C5", "K - best single"))
        return [_row(*pair, "labels", "no per-case label quality") for pair in unknown]
    shipped = labels[labels["factor"] == "shipped"]
    mobile = shipped[shipped["finding"].isin(MOBILE)]
    rows: list[Row] = []
    for name, column in (("mean-mask prior", "iou_prior"), ("chance", "iou_chance")):
        contrast = f"labels - {name}"
        if mobile[column].isna().all():
            rows.append(_row("C1", contrast, "labels", f"no {column} for mobile findings"))
            continue
        rows.append(_label_row(contrast, mobile, column))
        for finding in [f for f in MOBILE if (mobile["finding"] == f).any()]:
            part = mobile[mobile["finding"] == finding]
            rows.append(_label_row(contrast, part, column, finding, decides=False))
    case, suffixes = ["image_id", "finding"], ("", "_other")
    tried = labels[labels["factor"].isin(["shipped", "explainer"])]
    paths, cam = (tried[tried["explainer"] == name] for name in ("ig", "gradcam"))
    if paths.empty or cam.empty:
        absent = "IG" if paths.empty else "Grad-CAM"
        rows.append(_row("C1", "IG - Grad-CAM", "labels", f"no {absent} labels"))
    else:
        both = paths[paths["finding"].isin(MOBILE)].merge(cam, on=case, suffixes=suffixes)
        rows.append(_label_row("IG - Grad-CAM", both, "iou_matched_other"))
    single = labels[(labels["factor"] == "classifiers") & (labels["n_classifiers"] == 1)]
    if single.empty:
        return [*rows, _row("C5", "K - best single", "labels", "no single-classifier labels")]
    enough = single[seen_enough(single["patient_id"], single["finding"])]
    means = enough.groupby(["classifiers", "finding"])["iou_matched"].mean()
    best = means.groupby("classifiers").mean().idxmax() if len(means) else ""
    for classifier, part in single.groupby("classifiers", sort=True):
        kind = "best single" if classifier == best else "single"
        contrast = f"{shipped['n_classifiers'].iloc[0]} classifiers - {kind} ({classifier})"
        both, decides = shipped.merge(part, on=case, suffixes=suffixes), classifier == best
        rows.append(_label_row(contrast, both, "iou_matched_other", "labels", "C5", decides))
    return rows


def segmentation_rows(rows: Rows) -> list[Row]:
    """Contrasts of C2, C3 and C4, per task and network, at their `main_size`."""
    contrasts: list[Row] = []
    cases = main_size(rows.cases)
    chosen = blocks(cases)
    firsts = {task: block for task, *block in reversed(chosen)}
    for task, network, size in chosen:
        decides = firsts[task] == [network, size]
        where: Row = {"network": network, "n_train": size, "decides": decides}
        block, paces, trained = (
            f[(f["task"] == task) & (f["network"] == network) & (f["n_train"] == size)]
            for f in (cases, rows.curves, rows.runs)
        )
        settings = dict(list(block.groupby(["arm", "tuning"])))
        contrasts += _arm_rows(settings, task, where, rows.not_run)
        contrasts += _pace_rows(paces[paces["tuning"] == "full"], task, where)
        contrasts.append(_adapter_row(settings, trained, task, where))
    return contrasts


def _arm_rows(settings: Settings, task: str, where: Row, not_run: Mapping[str, str]) -> list[Row]:
    """C2: doll minus every other arm, all weights tuned."""
    rows: list[Row] = []
    full = {arm: cases for (arm, tuning), cases in settings.items() if tuning == "full"}
    for arm in ARMS:
        if arm in ("doll", "truth") or (arm in OPTIONAL and arm not in full):
            continue
        # Arms that the paper compares with, and the controls, must be there for a verdict; the
        # optional ones speak of how labels are made.
        needed = arm in full or arm in ("random", "classifier", "shuffled")
        more = where | {"decides": where["decides"] and needed and arm not in OPTIONAL}
        absent = [name for name in ("doll", arm) if name not in full]
        effect: Effect | str = not_run.get("".join(absent[:1]), "not part of this profile")
        if not absent:
            (a, b), counts = aligned([full["doll"], full[arm]])
            effect, more = crossed_effect(a - b), more | counts
        rows.append(_row("C2", f"doll - {arm}", task, effect, **more))
    return rows


def _pace_rows(curves: pd.DataFrame, task: str, where: Row) -> list[Row]:
    """C3: steps and area of doll against random and classifier, paired by seed and fold."""
    rows: list[Row] = []
    for arm in ("random", "classifier"):
        table = paired_speed(curves, "doll", arm)
        for column, contrast in (
            ("log_ratio", f"steps to 95 %: {arm} / doll"),
            ("area_gain", f"area under validation curve: doll - {arm}"),
        ):
            more = where | {"decides": where["decides"] and column == "log_ratio"}
            effect: Effect | str = "no curves"
            if len(table):
                grid = table.pivot(index="seed", columns="fold", values=column).dropna(axis=1)
                effect = crossed_effect(grid.to_numpy(np.float64))
                more |= {"n_cases": grid.size, "n_seeds": len(grid)}
            rows.append(_row("C3", contrast, task, effect, **more))
    return rows


def _adapter_row(settings: Settings, runs: pd.DataFrame, task: str, where: Row) -> Row:
    """C4: what doll/adapter has beyond random/full plus half of the gain of doll/full."""
    contrast = "adapter keeps over half of the gain"
    needed = ("doll", "adapter"), ("doll", "full"), ("random", "full")
    if not set(needed) <= set(settings):
        reason = "needs doll/adapter, doll/full and random/full"
        return _row("C4", contrast, task, reason, **where)
    (adapter, doll, random), counts = aligned([settings[key] for key in needed])
    if not adapter.size:
        return _row("C4", contrast, task, "no seed and film that all three have", **where)
    share = runs[(runs["arm"] == "doll") & (runs["tuning"] == "adapter")]
    trained = 100 * float((share["trainable"] / share["total"]).mean())
    notes = [f"trains {trained:.2g} % of the weights"] if len(share) else []
    if not crossed_effect(doll - random).lo > 0:
        notes.append(NO_GAIN)
    effect = crossed_effect(adapter - random - 0.5 * (doll - random))
    return _row("C4", contrast, task, effect, **where, **counts, note="; ".join(notes))


# How fast a network learns: steps to a target, and the area under the validation curve.


FRACTION = 0.95
"""Of the best. An arm that never gets good reaches 95 % of *its own* best early, which is no
efficiency; so a pair is compared at 95 % of the lower of its two bests, which both reach."""

RUN = ["task", "network", "n_train", "tuning", "arm", "seed", "fold"]


def _curve(part: pd.DataFrame) -> Floats:
    """(n, 3) float64 of step, seconds, val_miou in order of steps; undefined values dropped."""
    points = part[["step", "seconds", "val_miou"]].to_numpy(np.float64)
    points = points[np.isfinite(points).all(1)]
    return np.asarray(points[np.argsort(points[:, 0], kind="stable")])


def crossing(heights: Floats, target: float) -> float:
    """Index, linear between points, at which heights first reach ``target``; NaN if never."""
    hits = np.flatnonzero(heights >= target - 1e-12)
    if not hits.size or hits[0] == 0:
        return 0.0 if hits.size else float("nan")
    at = int(hits[0])
    return at - 1 + float(np.interp(target, heights[at - 1 : at + 1], (0.0, 1.0)))


def first_reach(curve: Floats, target: float) -> tuple[float, float]:
    """Step and seconds at which a curve first reaches ``target``; NaN if it never does.

    Linear between evaluations, which are few. A target reached at step 0 counts as reached at the
    first positive one, as the ratio of two zeros is not defined.
    """
    at = crossing(curve[:, 2], target)
    positive = np.flatnonzero(curve[:, 0] > 0)
    if np.isnan(at) or positive.size == 0:
        return float("nan"), float("nan")
    if np.ceil(at) < positive[0]:
        at = float(positive[0])
    step, seconds = (float(np.interp(at, range(len(curve)), curve[:, k])) for k in (0, 1))
    return step, seconds


def area(curve: Floats, start: float, stop: float) -> float:
    """Mean height of the curve over steps [start, stop] (trapezoids); NaN for an empty span."""
    if len(curve) == 0 or not stop > start:
        return float("nan")
    inside = curve[(curve[:, 0] > start) & (curve[:, 0] < stop), 0]
    grid = np.concatenate([[start], inside, [stop]])
    return float(np.trapezoid(np.interp(grid, curve[:, 0], curve[:, 2]), grid) / (stop - start))


def speed(curves: pd.DataFrame) -> pd.DataFrame:
    """Steps and seconds to 95 % of the best validation mIoU, one row per trained network (`RUN`).

    Own: of the run's own best; random: of the best of random/full, same seed and fold, or NaN.
    """
    groups = {key: _curve(part) for key, part in curves.groupby(RUN, sort=True)}
    empty = np.empty((0, 3))
    rows = []
    for key, curve in groups.items():
        task, network, n_train, _, _, seed, fold = key
        random = groups.get((task, network, n_train, "full", "random", seed, fold), empty)
        best, common = (c[:, 2].max() if len(c) else np.nan for c in (curve, random))
        own, other = (first_reach(curve, FRACTION * target) for target in (best, common))
        rows.append((*key, *own, other[0]))
    return pd.DataFrame(rows, columns=[*RUN, "steps_own", "seconds_own", "steps_random"])


def paired_speed(curves: pd.DataFrame, arm: str, control: str) -> pd.DataFrame:
    """Both arms' speed at a common target, one row per seed and fold that both have.

    log_ratio: positive where the arm is faster; area_gain: mean height of the arm's curve minus
    the control's over the steps that both cover. All curves are of one block and tuning.
    """
    sides = [
        {k: _curve(g) for k, g in curves[curves["arm"] == name].groupby(["seed", "fold"])}
        for name in (arm, control)
    ]
    rows = []
    for key in sorted(set(sides[0]) & set(sides[1])):
        a, b = sides[0][key], sides[1][key]
        if not (len(a) and len(b)):
            continue
        target = FRACTION * min(a[:, 2].max(), b[:, 2].max())
        steps, other = first_reach(a, target)[0], first_reach(b, target)[0]
        span = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
        gain = area(a, *span) - area(b, *span)
        rows.append((*key, target, steps, other, float(np.log(other / steps)), gain))
    columns = ["seed", "fold", "target", "steps", "steps_control", "log_ratio", "area_gain"]
    return pd.DataFrame(rows, columns=columns)
