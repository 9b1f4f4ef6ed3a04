"""From per-case rows to the contrasts that the claims rest on: effects, not verdicts yet.

Every effect is signed so that positive speaks for the claim. A contrast that cannot be made is a
row with a reason, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dollkit.common import ARMS, OPTIONAL
from dollkit.common.findings import MOBILE
from dollkit.common.statistics import (
    FEWEST,
    NO_EFFECT,
    Effect,
    crossed_effect,
    paired,
    patient_values,
    seen_enough,
    smallest_effect,
)
from dollkit.report.convergence import paired_speed
from dollkit.report.rows import aligned, blocks, main_size

Row = dict[str, object]
Cell = Mapping[tuple[str, str], pd.DataFrame]
"""(arm, tuning) to its per-case rows."""

NO_GAIN = "no gain to keep: doll/full - random/full is not above zero"


def _row(claim: str, contrast: str, task: str, effect: Effect, **more: object) -> Row:
    base: Row = {"claim": claim, "contrast": contrast, "task": task}
    base |= {"effect": effect.estimate, "lo": effect.lo, "hi": effect.hi, "p": effect.p}
    base |= {"mde": smallest_effect(effect.se, effect.df)}
    base |= {"n_cases": 0, "n_patients": 0, "n_seeds": 0, "decides": True}
    return base | {"network": "", "n_train": pd.NA, "note": ""} | more


def missing(claim: str, contrast: str, task: str, reason: str, **more: object) -> Row:
    """A contrast that could not be made, and why."""
    return _row(claim, contrast, task, NO_EFFECT, note=f"not run: {reason}", **more)


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
        return missing(claim, contrast, task, reason, decides=decides)
    gap = rows["iou_matched"] - rows[other]
    _, units = patient_values(gap, rows["patient_id"], rows["finding"])
    note = f"left out, in fewer than {FEWEST} patients: {few}" if few else ""
    more = {"n_cases": len(rows), "n_patients": len(units), "note": note, "decides": decides}
    return _row(claim, contrast, task, paired(units), **more)


def label_rows(labels: pd.DataFrame) -> list[Row]:
    """Contrasts of C1 (mobile findings) and C5 (all findings) from label_cases.csv.gz."""
    if labels.empty:
        unknown = (("C1", "labels - mean-mask prior"), ("C5", "K - best single"))
        return [missing(*pair, "labels", "no per-case label quality") for pair in unknown]
    shipped = labels[labels["factor"] == "shipped"]
    mobile = shipped[shipped["finding"].isin(MOBILE)]
    rows: list[Row] = []
    for name, column in (("mean-mask prior", "iou_prior"), ("chance", "iou_chance")):
        contrast = f"labels - {name}"
        if mobile[column].isna().all():
            rows.append(missing("C1", contrast, "labels", f"no {column} for mobile findings"))
            continue
        rows.append(_label_row(contrast, mobile, column))
        for finding in [f for f in MOBILE if (mobile["finding"] == f).any()]:
            part = mobile[mobile["finding"] == finding]
            rows.append(_label_row(contrast, part, column, finding, decides=False))
    case, pair = ["image_id", "finding"], ("", "_other")
    tried = labels[labels["factor"].isin(["shipped", "explainer"])]
    paths, cam = (tried[tried["explainer"] == name] for name in ("ig", "gradcam"))
    if paths.empty or cam.empty:
        absent = "IG" if paths.empty else "Grad-CAM"
        rows.append(missing("C1", "IG - Grad-CAM", "labels", f"no {absent} labels"))
    else:
        both = paths[paths["finding"].isin(MOBILE)].merge(cam, on=case, suffixes=pair)
        rows.append(_label_row("IG - Grad-CAM", both, "iou_matched_other"))
    single = labels[(labels["factor"] == "classifiers") & (labels["n_classifiers"] == 1)]
    if single.empty:
        return [*rows, missing("C5", "K - best single", "labels", "no single-classifier labels")]
    enough = single[seen_enough(single["patient_id"], single["finding"])]
    means = enough.groupby(["classifiers", "finding"])["iou_matched"].mean()
    best = means.groupby("classifiers").mean().idxmax() if len(means) else ""
    for classifier, part in single.groupby("classifiers", sort=True):
        kind = "best single" if classifier == best else "single"
        contrast = f"{shipped['n_classifiers'].iloc[0]} classifiers - {kind} ({classifier})"
        both, decides = shipped.merge(part, on=case, suffixes=pair), classifier == best
        rows.append(_label_row(contrast, both, "iou_matched_other", "labels", "C5", decides))
    return rows


def _arm_rows(
    cell: Cell, task: str, where: Row, decides: bool, not_run: Mapping[str, str]
) -> list[Row]:
    """C2: doll minus every other arm, all weights tuned."""
    rows: list[Row] = []
    doll = cell.get(("doll", "full"))
    for arm in ARMS:
        other = cell.get((arm, "full"))
        if arm in ("doll", "truth") or (arm in OPTIONAL and other is None):
            continue
        # Arms that the paper compares with, and the controls, must be there for a verdict.
        needed = decides and (other is not None or arm in ("random", "classifier", "shuffled"))
        needed &= arm not in OPTIONAL  # they speak of how labels are made
        contrast, more = f"doll - {arm}", where | {"decides": needed}
        if doll is None or other is None:
            reason = not_run.get(arm if doll is not None else "doll", "not part of this profile")
            rows.append(missing("C2", contrast, task, reason, **more))
            continue
        (a, b), counts = aligned([doll, other])
        rows.append(_row("C2", contrast, task, crossed_effect(a - b), **(more | counts)))
    return rows


def _pace_rows(curves: pd.DataFrame, task: str, where: Row, decides: bool) -> list[Row]:
    """C3: steps and area of doll against random and classifier, paired by seed and fold."""
    rows: list[Row] = []
    for arm in ("random", "classifier"):
        table = paired_speed(curves[curves["tuning"] == "full"], "doll", arm)
        for column, name, deciding in (
            ("log_ratio", f"steps to 95 %: {arm} / doll", decides),
            ("area_gain", f"area under validation curve: doll - {arm}", False),
        ):
            more = where | {"decides": deciding}
            if table.empty:
                rows.append(missing("C3", name, task, "no curves", **more))
                continue
            grid = table.pivot(index="seed", columns="fold", values=column).dropna(axis=1)
            matrix = grid.to_numpy(np.float64)
            more |= {"n_cases": matrix.size, "n_seeds": len(grid)}
            rows.append(_row("C3", name, task, crossed_effect(matrix), **more))
    return rows


def _adapter_row(cell: Cell, runs: pd.DataFrame, task: str, where: Row, decides: bool) -> Row:
    """C4: what doll/adapter has beyond random/full plus half of the gain of doll/full."""
    contrast, more = "adapter keeps over half of the gain", where | {"decides": decides}
    parts = [cell.get(k) for k in (("doll", "adapter"), ("doll", "full"), ("random", "full"))]
    there = [p for p in parts if p is not None]
    if len(there) < 3:
        reason = "needs doll/adapter, doll/full and random/full"
        return missing("C4", contrast, task, reason, **more)
    (a, d, r), counts = aligned(there)
    if not a.size:
        return missing("C4", contrast, task, "no seed and film that all three have", **more)
    notes = [] if crossed_effect(d - r).lo > 0 else [NO_GAIN]
    share = runs[(runs["arm"] == "doll") & (runs["tuning"] == "adapter")]
    if len(share):
        part = float((share["trainable"] / share["total"]).mean())
        notes.insert(0, f"trains {100 * part:.2g} % of the weights")
    effect = crossed_effect(a - r - 0.5 * (d - r))
    return _row("C4", contrast, task, effect, note="; ".join(notes), **(more | counts))


def segmentation_rows(
    cases: pd.DataFrame, curves: pd.DataFrame, runs: pd.DataFrame, not_run: Mapping[str, str]
) -> list[Row]:
    """Contrasts of C2, C3 and C4, per task and network, at their `main_size`."""
    rows: list[Row] = []
    cases = main_size(cases)
    decided: set[str] = set()
    for task, network, size in blocks(cases):
        decides = task not in decided
        decided.add(task)
        where: Row = {"network": network, "n_train": size}
        block, paces, trained = (
            f[(f["task"] == task) & (f["network"] == network) & (f["n_train"] == size)]
            for f in (cases, curves, runs)
        )
        cell = {(str(a), str(t)): part for (a, t), part in block.groupby(["arm", "tuning"])}
        rows += _arm_rows(cell, task, where, decides, not_run)
        rows += _pace_rows(paces, task, where, decides)
        rows.append(_adapter_row(cell, trained, task, where, decides))
    return rows
