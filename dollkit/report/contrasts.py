"""From per-case rows to the contrasts that the claims rest on: effects, not verdicts yet.

Every effect is signed so that positive speaks for the claim. A contrast that cannot be made is a
row with a reason, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dollkit.common import ARMS, OPTIONAL
from dollkit.common.findings import MOBILE
from dollkit.common.statistics import (
    FEWEST,
    NO_EFFECT,
    Effect,
    paired,
    patient_values,
    seen_enough,
    smallest_effect,
)
from dollkit.report.convergence import paired_speed
from dollkit.report.rows import TASKS, aligned, effect_of, main_size
from dollkit.report.tables import configurations

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
    claim: str, contrast: str, rows: pd.DataFrame, other: pd.Series, task: str = "labels",
    **more: object,
) -> Row:  # fmt: skip
    """IoU at matched area of rows minus that of others, over findings of enough patients."""
    gap = rows["iou_matched"] - other
    enough = seen_enough(rows["patient_id"], rows["finding"])
    few = ", ".join(sorted(rows["finding"][~enough].unique()))
    rows, gap = rows[enough], gap[enough]
    if rows.empty:
        return missing(claim, contrast, task, f"fewer than {FEWEST} patients with {few}", **more)
    _, units = patient_values(gap, rows["patient_id"], rows["finding"])
    counts: Row = {"n_cases": len(rows), "n_patients": len(units)}
    if few:
        counts["note"] = f"left out, in fewer than {FEWEST} patients: {few}"
    return _row(claim, contrast, task, paired(units), **(counts | more))


def _paired_row(
    claim: str, contrast: str, one: pd.DataFrame, other: pd.DataFrame, decides: bool = True
) -> Row:
    """The same on the films and findings that two ways of making labels have."""
    both = one.merge(other, on=["image_id", "finding"], suffixes=("", "_b"))
    return _label_row(claim, contrast, both, both["iou_matched_b"], decides=decides)


def _explained(
    setups: Sequence[tuple[str, str, pd.DataFrame]], explainer: str
) -> pd.DataFrame | None:
    """Rows of the labels of an explainer, all else as shipped; None: it was not tried."""
    if (setups[0][2]["explainer"] == explainer).all():
        return setups[0][2]
    found = (p for f, v, p in setups if f == "explainer" and v.startswith(explainer))
    return next(found, None)


def label_rows(labels: pd.DataFrame) -> list[Row]:
    """Contrasts of C1 (mobile findings) and C5 (all findings) from label_cases.csv.gz."""
    setups = configurations(labels)
    shipped = setups[0][2]
    mobile = shipped[shipped["finding"].isin(MOBILE)]
    rows: list[Row] = []
    for name, column in (("mean-mask prior", "iou_prior"), ("chance", "iou_chance")):
        contrast = f"labels - {name}"
        if mobile.empty or mobile[column].isna().all():
            rows.append(missing("C1", contrast, "labels", f"no {column} for mobile findings"))
            continue
        rows.append(_label_row("C1", contrast, mobile, mobile[column]))
        for finding in [f for f in MOBILE if (mobile["finding"] == f).any()]:
            part = mobile[mobile["finding"] == finding]
            rows.append(_label_row("C1", contrast, part, part[column], finding, decides=False))
    paths, cam = _explained(setups, "ig"), _explained(setups, "gradcam")
    if paths is None or cam is None:
        absent = "IG" if paths is None else "Grad-CAM"
        rows.append(missing("C1", "IG - Grad-CAM", "labels", f"no {absent} labels"))
    else:
        some = paths[paths["finding"].isin(MOBILE)]
        rows.append(_paired_row("C1", "IG - Grad-CAM", some, cam))
    single = (p for p in setups if p[0] == "classifiers" and not p[1].startswith("any "))
    singles = [(v, p) for _, v, p in single if p["n_classifiers"].iloc[0] == 1]
    if not singles:
        return [*rows, missing("C5", "K - best single", "labels", "no single-classifier labels")]
    means = [_mean(p[seen_enough(p["patient_id"], p["finding"])]) for _, p in singles]
    best = int(np.argmax(means))
    for position, (name, part) in enumerate(singles):
        kind = "best single" if position == best else "single"
        contrast = f"{shipped['n_classifiers'].iloc[0]} classifiers - {kind} ({name})"
        rows.append(_paired_row("C5", contrast, shipped, part, decides=position == best))
    return rows


def _mean(rows: pd.DataFrame) -> float:
    values = patient_values(rows["iou_matched"], rows["patient_id"], rows["finding"])[1]
    return float(values.mean()) if len(rows) else 0.0


def _blocks(cases: pd.DataFrame) -> list[tuple[str, str, int, bool]]:
    """(task, network, n_train, decides): per task the setting with the most arms decides.

    Ties go to PSPNet, the paper's network, then to the smallest training set, where
    pre-training can show; a rule fixed before any result.
    """
    found: list[tuple[str, str, int, bool]] = []
    for task in TASKS:
        part = cases[cases["task"] == task]
        sizes = part.groupby(["network", "n_train"])["arm"].nunique()
        ranked = sorted(
            (-int(arms), str(n).lower() != "pspnet", str(n), int(t))
            for (n, t), arms in zip(sizes.index, sizes, strict=True)
        )
        found += [(task, network, size, i == 0) for i, (*_, network, size) in enumerate(ranked)]
    return found


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
        seeds, (a, b), films = aligned([doll, other])
        more |= {"n_cases": films, "n_patients": a.shape[-1], "n_seeds": len(seeds)}
        rows.append(_row("C2", contrast, task, effect_of(a - b), **more))
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
            rows.append(_row("C3", name, task, effect_of(matrix), **more))
    return rows


def _adapter_row(cell: Cell, runs: pd.DataFrame, task: str, where: Row, decides: bool) -> Row:
    """C4: what doll/adapter has beyond random/full plus half of the gain of doll/full."""
    contrast, more = "adapter keeps over half of the gain", where | {"decides": decides}
    parts = [cell.get(k) for k in (("doll", "adapter"), ("doll", "full"), ("random", "full"))]
    there = [p for p in parts if p is not None]
    if len(there) < 3:
        reason = "needs doll/adapter, doll/full and random/full"
        return missing("C4", contrast, task, reason, **more)
    seeds, (a, d, r), films = aligned(there)
    if not a.size:
        return missing("C4", contrast, task, "no seed and film that all three have", **more)
    notes = [] if effect_of(d - r).lo > 0 else [NO_GAIN]
    share = runs[(runs["arm"] == "doll") & (runs["tuning"] == "adapter")]
    if len(share):
        part = float((share["trainable"] / share["total"]).mean())
        notes.insert(0, f"trains {100 * part:.2g} % of the weights")
    more |= {"n_cases": films, "n_patients": a.shape[-1], "n_seeds": len(seeds)}
    return _row(
        "C4", contrast, task, effect_of(a - r - 0.5 * (d - r)), note="; ".join(notes), **more
    )


def segmentation_rows(
    cases: pd.DataFrame, curves: pd.DataFrame, runs: pd.DataFrame, not_run: Mapping[str, str]
) -> list[Row]:
    """Contrasts of C2, C3 and C4, per task and network, at their `main_size`."""
    rows: list[Row] = []
    cases = main_size(cases)
    for task, network, size, decides in _blocks(cases):
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
