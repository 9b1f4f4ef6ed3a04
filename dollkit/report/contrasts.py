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
    crossed_effect,
    paired,
    patient_values,
    seen_enough,
    smallest_effect,
)
from dollkit.report.convergence import paired_speed
from dollkit.report.rows import Rows, aligned, blocks, main_size

Row = dict[str, object]

Settings = Mapping[Any, pd.DataFrame]
"""(arm, tuning) to its per-case rows."""

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
