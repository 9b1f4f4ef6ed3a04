"""From per-case rows to the contrasts that the claims rest on: effects, not verdicts yet.

Every effect is signed so that positive speaks for the claim. A contrast that cannot be made is a
row with a reason, never left out. Each has a question, `CLAIM` or `DIAGNOSIS`, and a scope: `TASK`
(a cell of the matrix of tasks and baselines), `OVERALL` (the mean that verdicts rest on), `DETAIL`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import PRETRAINED
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
from dollkit.report.rows import Rows, aligned, blocks, main_size, with_draws

Row = dict[str, object]
Settings = Mapping[Any, pd.DataFrame]  # per-case rows by arm and tuning

CLAIM, DIAGNOSIS = "claim", "diagnosis"
"""As the paper states it; and whether the film's diagnosis is what does it."""
OVERALL, TASK, DETAIL = "overall", "task", "detail"
ALL_TASKS = "all tasks"
BASELINES = ("random", "imagenet", "classifier")
"""What the paper compares DoLL with."""
CONTROLS = ("shuffled", "prior", "gradcam")
"""What DoLL must beat if a film's own diagnosis, shown by Integrated Gradients, is what helps."""

NO_GAIN = "no gain to keep: doll/full - random/full is not above zero"


def _row(claim: str, contrast: str, task: str, effect: Effect | str, **more: object) -> Row:
    """A contrast, or the reason why it could not be made."""
    note, effect = (f"not run: {effect}", NO_EFFECT) if isinstance(effect, str) else ("", effect)
    base: Row = {"claim": claim, "contrast": contrast, "task": task}
    base |= {"effect": effect.estimate, "lo": effect.lo, "hi": effect.hi, "p": effect.p}
    base |= {"mde": smallest_effect(effect.se, effect.df)}
    base |= {"n_cases": 0, "n_patients": 0, "n_seeds": 0, "n_pretrained": pd.NA}
    base |= {"question": CLAIM, "scope": OVERALL}
    return base | {"network": "", "n_train": pd.NA, "note": note} | more


def _label_row(
    contrast: str, rows: pd.DataFrame, other: str, task: str = "labels", claim: str = "C1",
    scope: str = OVERALL, note: str = "",
) -> Row:  # fmt: skip
    """IoU at matched area of rows minus another column, over findings of enough patients."""
    if rows.empty:
        return _row(claim, contrast, task, note or "no mobile finding", scope=scope)
    enough = seen_enough(rows["patient_id"], rows["finding"])
    few = ", ".join(sorted(rows["finding"][~enough].unique()))
    rows = rows[enough]
    if rows.empty:
        reason = "; ".join(filter(None, (f"fewer than {FEWEST} patients with {few}", note)))
        return _row(claim, contrast, task, reason, scope=scope)
    gap = rows["iou_matched"] - rows[other]
    _, units = patient_values(gap, rows["patient_id"], rows["finding"])
    left_out = f"left out, in fewer than {FEWEST} patients: {few}" if few else ""
    more = {"n_cases": len(rows), "n_patients": len(units), "scope": scope}
    more["note"] = "; ".join(filter(None, (note, left_out)))
    return _row(claim, contrast, task, paired(units), **more)


def label_rows(labels: pd.DataFrame, shortcuts: Iterable[str] = ()) -> list[Row]:
    """Contrasts of C1 (mobile findings) and C5 (all findings) from label_cases.csv.gz.

    Without a truth to judge labels by, it is empty. Findings that may be `shortcuts` (see
    `shortcuts.flagged`) have rows of their own in C1, which decide nothing.
    """
    if labels.empty:
        unknown = (("C1", "labels - mean-mask prior"), ("C5", "K - best single"))
        return [_row(*pair, "labels", "no per-case label quality") for pair in unknown]
    shipped = labels[labels["factor"] == "shipped"]
    doubted = sorted({*shortcuts} & {*MOBILE} & {*shipped["finding"]})
    note = f"left out, possibly a shortcut: {', '.join(doubted)}" if doubted else ""
    decisive = [finding for finding in MOBILE if finding not in doubted]
    mobile = shipped[shipped["finding"].isin(MOBILE)]
    rows: list[Row] = []
    for name, column in (("mean-mask prior", "iou_prior"), ("chance", "iou_chance")):
        contrast = f"labels - {name}"
        if mobile[column].isna().all():
            rows.append(_row("C1", contrast, "labels", f"no {column} for mobile findings"))
            continue
        part = mobile[mobile["finding"].isin(decisive)]
        rows.append(_label_row(contrast, part, column, note=note))
        for finding in [f for f in MOBILE if (mobile["finding"] == f).any()]:
            part = mobile[mobile["finding"] == finding]
            rows.append(_label_row(contrast, part, column, finding, scope=DETAIL))
    case, suffixes = ["image_id", "finding"], ("", "_other")
    tried = labels[labels["factor"].isin(["shipped", "explainer"])]
    paths, cam = (tried[tried["explainer"] == name] for name in ("ig", "gradcam"))
    if paths.empty or cam.empty:
        absent = "IG" if paths.empty else "Grad-CAM"
        rows.append(_row("C1", "IG - Grad-CAM", "labels", f"no {absent} labels"))
    else:
        both = paths[paths["finding"].isin(decisive)].merge(cam, on=case, suffixes=suffixes)
        rows.append(_label_row("IG - Grad-CAM", both, "iou_matched_other", note=note))
    single = labels[(labels["factor"] == "classifiers") & (labels["n_classifiers"] == 1)]
    if single.empty:
        return [*rows, _row("C5", "K - best single", "labels", "no single-classifier labels")]
    enough = single[seen_enough(single["patient_id"], single["finding"])]
    means = enough.groupby(["classifiers", "finding"])["iou_matched"].mean()
    best = means.groupby("classifiers").mean().idxmax() if len(means) else ""
    for classifier, part in single.groupby("classifiers", sort=True):
        kind = "best single" if classifier == best else "single"
        contrast = f"{shipped['n_classifiers'].iloc[0]} classifiers - {kind} ({classifier})"
        both = shipped.merge(part, on=case, suffixes=suffixes)
        scope = OVERALL if classifier == best else DETAIL
        rows.append(_label_row(contrast, both, "iou_matched_other", "labels", "C5", scope))
    return rows


def segmentation_rows(rows: Rows) -> list[Row]:
    """Contrasts of C2, C3 and C4, per task and network, at their `main_size`, and over tasks."""
    contrasts: list[Row] = []
    cases, curves = (
        with_draws(frame, rows.pretraining) for frame in (main_size(rows.cases), rows.curves)
    )
    chosen = blocks(cases)
    tuned = set(cases.loc[cases["tuning"] == "full", "arm"])
    controls = [arm for arm in CONTROLS if arm in tuned or arm == "shuffled"]
    firsts = {task: block for task, *block in reversed(chosen)}
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for task, network, size in chosen:
        first = firsts[task] == [network, size]
        where: Row = {"network": network, "n_train": size}
        block, paces, trained = (
            f[(f["task"] == task) & (f["network"] == network) & (f["n_train"] == size)]
            for f in (cases, curves, rows.runs)
        )
        settings = dict(list(block.groupby(["arm", "tuning"])))
        made = _arm_rows(settings, controls, task, where, rows.not_run)
        made += _pace_rows(paces[paces["tuning"] == "full"], task, where)
        made += _adapter_rows(settings, trained, task, where)
        record = rows.pretraining[rows.pretraining["network"] == network]
        for row, units in made:
            row["n_pretrained"] = pretrainings(record, set(block["seed"]), str(row["contrast"]))
            row["scope"] = row["scope"] if first else DETAIL
            contrasts.append(row)
            if row["scope"] == TASK:
                key = str(row["claim"]), str(row["question"]), str(row["contrast"])
                cells.setdefault(key, []).append((row, units))
    return contrasts + [_overall_row(*key, cells=found) for key, found in cells.items()]


def pretrainings(record: pd.DataFrame, seeds: set[int], contrast: str) -> int:
    """Fewest pre-trainings, of one network, that runs with these seeds start from, of the arms that
    a contrast names; arms that have none, such as ``random``, do not count."""
    made = record.groupby("arm")["seed"].nunique().to_dict()
    named = [arm for arm in PRETRAINED if re.search(rf"\b{arm}\b", f"doll {contrast}")]
    return min((len({s % made[a] for s in seeds}) if a in made else 0 for a in named), default=0)


class Units(NamedTuple):
    """Differences (draws, units), and whose: patients, or folds in C3."""

    values: Floats
    names: npt.NDArray[np.str_]


Cell = tuple[Row, Units]
NOTHING = Units(np.empty((0, 0)), np.empty(0, str))


def over_tasks(tasks: Sequence[Units]) -> Floats:
    """(draws, units) of several tasks together; row means are the means over tasks.

    Each task counts alike, whatever its number of patients; a patient of several tasks is one unit.
    What tasks differ by in their mean is no chance, so that each is centred on the mean of all; the
    factor of n / (n - 1) makes the variance of a mean over few patients unbiased. Tasks of one unit
    each (C3 without folds) have draws alone.
    """
    means = [units.values.mean() for units in tasks]
    if all(units.values.shape[1] == 1 for units in tasks):
        return np.asarray(np.mean([units.values for units in tasks], axis=0))
    everyone = np.unique(np.concatenate([units.names for units in tasks]))
    out = np.full((len(tasks[0].values), len(everyone)), np.mean(means))
    for (values, names), mean in zip(tasks, means, strict=True):
        rows, n = values.mean(1, keepdims=True), values.shape[1]
        spread = (values - rows) * np.sqrt(n / max(1, n - 1)) * len(everyone) / n
        out[:, np.searchsorted(everyone, names)] += spread / len(tasks)
        out += (rows - mean) / len(tasks)
    return out


def _overall_row(claim: str, question: str, contrast: str, cells: list[Cell]) -> Row:
    """A contrast over the tasks of a profile; it is as good as its weakest task."""
    shared: Row = {"question": question, "scope": OVERALL}
    same = {row["network"] for row, _ in cells}, {row["n_train"] for row, _ in cells}
    if all(len(values) == 1 for values in same):
        shared |= {key: cells[0][0][key] for key in ("network", "n_train")}
    if missing := [row for row, units in cells if not units.values.size]:
        reason = str(missing[0]["note"]).removeprefix("not run: ")
        return _row(claim, contrast, ALL_TASKS, reason or "no seed and film in common", **shared)
    kept = [cell for cell in cells if NO_GAIN not in str(cell[0]["note"])]
    if len(kept) < len(cells):
        shared["note"] = "left out: tasks without a gain to keep" if kept else NO_GAIN
    tasks = [units for _, units in kept or cells]
    if len({len(units.values) for units in tasks}) > 1:
        return _row(claim, contrast, ALL_TASKS, "tasks differ in their seeds", **shared)
    counts = pd.DataFrame([row for row, _ in kept or cells])
    shared |= {name: int(counts[name].min()) for name in ("n_seeds", "n_pretrained")}
    shared |= {name: int(counts[name].sum()) for name in ("n_cases", "n_patients")}
    if shared["n_patients"]:
        shared["n_patients"] = len(set(np.concatenate([units.names for units in tasks])))
    return _row(claim, contrast, ALL_TASKS, crossed_effect(over_tasks(tasks)), **shared)


def _arm_rows(
    settings: Settings, controls: Sequence[str], task: str, where: Row, not_run: Mapping[str, str]
) -> list[Cell]:
    """C2: doll minus every other arm, all weights tuned."""
    full = {arm: cases for (arm, tuning), cases in settings.items() if tuning == "full"}
    pairs = [("doll", arm, CLAIM, TASK) for arm in BASELINES]
    pairs += [("doll", arm, DIAGNOSIS, TASK) for arm in controls]
    pairs += [("doll_random", "shuffled_random", DIAGNOSIS, DETAIL)]
    pairs += [("truth", "doll", DIAGNOSIS, DETAIL)]
    pairs += [("doll", arm, CLAIM, DETAIL) for arm in ("single", "plain")]
    rows: list[Cell] = []
    for one, other, question, scope in pairs:
        more = where | {"question": question, "scope": scope}
        absent = [name for name in (one, other) if name not in full]
        if absent and scope == DETAIL:
            continue
        effect: Effect | str = not_run.get("".join(absent[:1]), "not part of this profile")
        units = NOTHING
        if not absent:
            (a, b), names, counts = aligned([full[one], full[other]])
            units, more, effect = Units(a - b, names), more | counts, crossed_effect(a - b)
        rows.append((_row("C2", f"{one} - {other}", task, effect, **more), units))
    return rows


def _pace_rows(curves: pd.DataFrame, task: str, where: Row) -> list[Cell]:
    """C3: steps and area of doll against `BASELINES`, paired by seed and fold."""
    rows: list[Cell] = []
    for arm in BASELINES:
        table = paired_speed(curves, "doll", arm)
        for column, contrast, scope in (
            ("log_ratio", f"steps to 95 %: {arm} / doll", TASK),
            ("area_gain", f"area under validation curve: doll - {arm}", DETAIL),
        ):
            more = where | {"scope": scope}
            effect: Effect | str = "no curves"
            units = NOTHING
            if len(table):
                draws = table["seed"].map(curves.groupby("seed")["draw"].first()).rename("draw")
                grid = table.pivot_table(column, draws, "fold").dropna(axis=1)
                folds = np.array([f"{task} {fold}" for fold in grid])
                units = Units(grid.to_numpy(np.float64), folds)
                effect = crossed_effect(units.values)
                more |= {"n_cases": len(table), "n_seeds": table["seed"].nunique()}
            rows.append((_row("C3", contrast, task, effect, **more), units))
    return rows


def _adapter_rows(settings: Settings, runs: pd.DataFrame, task: str, where: Row) -> list[Cell]:
    """C4: what doll with a tuning has beyond random/full plus half of the gain of doll/full."""
    tunings = dict.fromkeys(["adapter", *(tuning for arm, tuning in settings if arm == "doll")])
    rows: list[Cell] = []
    for tuning in tunings:
        if tuning == "full":
            continue
        contrast = f"{tuning} keeps over half of the gain"
        more = where | {"scope": TASK if tuning == "adapter" else DETAIL}
        needed = ("doll", tuning), ("doll", "full"), ("random", "full")
        reason = f"needs doll/{tuning}, doll/full and random/full"
        if set(needed) <= set(settings):
            (tuned, doll, random), names, counts = aligned([settings[key] for key in needed])
            reason = "" if tuned.size else "no seed and film that all three have"
        if reason:
            rows.append((_row("C4", contrast, task, reason, **more), NOTHING))
            continue
        share = runs[(runs["arm"] == "doll") & (runs["tuning"] == tuning)]
        trained = 100 * float((share["trainable"] / share["total"]).mean())
        notes = [f"trains {trained:.2g} % of the weights"] if len(share) else []
        if not crossed_effect(doll - random).lo > 0:
            notes.append(NO_GAIN)
        matrix = tuned - random - 0.5 * (doll - random)
        more |= counts | {"note": "; ".join(notes)}
        row = _row("C4", contrast, task, crossed_effect(matrix), **more)
        rows.append((row, Units(matrix, names)))
        if ("imagenet", tuning) in settings:  # are features that nothing moves any more better?
            (a, b), _, counts = aligned([settings["doll", tuning], settings["imagenet", tuning]])
            more = where | counts | {"scope": DETAIL}
            contrast = f"{tuning}: doll - imagenet"
            rows.append((_row("C4", contrast, task, crossed_effect(a - b), **more), NOTHING))
    return rows


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
