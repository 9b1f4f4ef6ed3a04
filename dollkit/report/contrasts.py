"""From per-case rows to the contrasts that the claims rest on: effects, not verdicts yet.

Every effect is signed so that positive speaks for the claim. Rows are plain dicts; `COLUMNS`
says what each holds. A contrast that cannot be made is a row with a reason, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dollkit.common.arm_names import ARMS, OPTIONAL
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
from dollkit.report.convergence import paired_speed
from dollkit.report.rows import TASKS, contributions, main_size
from dollkit.report.tables import configurations

COLUMNS = [
    "claim", "contrast", "task", "effect", "lo", "hi", "p", "n_cases", "n_patients", "n_seeds",
    "mde", "decides", "network", "n_train", "note",
]  # fmt: skip
NO_GAIN = "no gain to keep: doll/full - random/full is not above zero"


def _row(claim: str, contrast: str, task: str, effect: Effect, **more: object) -> dict[str, object]:
    base: dict[str, object] = {"claim": claim, "contrast": contrast, "task": task}
    base |= {"effect": effect.estimate, "lo": effect.lo, "hi": effect.hi, "p": effect.p}
    base |= {"mde": smallest_effect(effect.se, effect.df)}
    base |= {"n_cases": 0, "n_patients": 0, "n_seeds": 0, "decides": True}
    return base | {"network": "", "n_train": pd.NA, "note": ""} | more


def missing(claim: str, contrast: str, task: str, reason: str, **more: object) -> dict[str, object]:
    return _row(claim, contrast, task, NO_EFFECT, note=f"not run: {reason}", **more)


def _label_row(
    claim: str, contrast: str, rows: pd.DataFrame, gap: pd.Series, task: str, **more: object
) -> dict[str, object]:
    enough = seen_enough(rows["patient_id"], rows["finding"])
    few = ", ".join(sorted(rows["finding"][~enough].unique()))
    rows, gap = rows[enough], gap[enough]
    if rows.empty:
        return missing(claim, contrast, task, f"fewer than {FEWEST} patients with {few}", **more)
    _, units = patient_values(gap, rows["patient_id"], rows["finding"])
    counts = {"n_cases": len(rows), "n_patients": len(units)}
    note = {"note": f"left out, in fewer than {FEWEST} patients: {few}"} if few else {}
    return _row(claim, contrast, task, paired(units), **(counts | note | more))


def _explained(
    setups: Sequence[tuple[str, str, pd.DataFrame]], explainer: str
) -> pd.DataFrame | None:
    """Rows of the labels of an explainer, all else as shipped; None: it was not tried."""
    if (setups[0][2]["explainer"] == explainer).all():
        return setups[0][2]
    found = (p for f, v, p in setups if f == "explainer" and v.startswith(explainer))
    return next(found, None)


def label_rows(labels: pd.DataFrame) -> list[dict[str, object]]:
    """Contrasts of C1 (mobile findings) and C5 (all findings) from label_cases.csv.gz."""
    setups = configurations(labels)
    shipped = setups[0][2]
    mobile = shipped[shipped["finding"].isin(MOBILE)]
    rows: list[dict[str, object]] = []
    for name, column in (("mean-mask prior", "iou_prior"), ("chance", "iou_chance")):
        contrast = f"labels - {name}"
        if mobile.empty or mobile[column].isna().all():
            rows.append(missing("C1", contrast, "labels", f"no {column} for mobile findings"))
            continue
        gap = mobile["iou_matched"] - mobile[column]
        rows.append(_label_row("C1", contrast, mobile, gap, "labels"))
        for finding in MOBILE:
            part = mobile[mobile["finding"] == finding]
            if len(part):
                one = _label_row("C1", contrast, part, gap[part.index], finding, decides=False)
                rows.append(one)
    kinds = {"ig": "IG", "gradcam": "Grad-CAM"}
    paths, cam = (_explained(setups, name) for name in kinds)
    if paths is None or cam is None:
        absent = kinds["ig" if paths is None else "gradcam"]
        rows.append(missing("C1", "IG - Grad-CAM", "labels", f"no {absent} labels"))
    else:
        some = paths[paths["finding"].isin(MOBILE)]
        both = some.merge(cam, on=["image_id", "finding"], suffixes=("", "_b"))
        gap = both["iou_matched"] - both["iou_matched_b"]
        rows.append(_label_row("C1", "IG - Grad-CAM", both, gap, "labels"))
    single = (p for p in setups if p[0] == "classifiers" and not p[1].startswith("any "))
    singles = [(v, p) for _, v, p in single if p["n_classifiers"].iloc[0] == 1]
    if not singles:
        rows.append(missing("C5", "K - best single", "labels", "no single-classifier labels"))
        return rows
    judged = [p[seen_enough(p["patient_id"], p["finding"])] for _, p in singles]
    means = [float(patient_values(p["iou_matched"], p["patient_id"], p["finding"])[1].mean())
             if len(p) else 0.0 for p in judged]  # fmt: skip
    best = int(np.argmax(means))
    k = int(shipped["n_classifiers"].iloc[0])
    for position, (name, part) in enumerate(singles):
        both = shipped.merge(part, on=["image_id", "finding"], suffixes=("", "_b"))
        gap = both["iou_matched"] - both["iou_matched_b"]
        contrast = f"{k} classifiers - {'best single' if position == best else 'single'} ({name})"
        rows.append(_label_row("C5", contrast, both, gap, "labels", decides=position == best))
    return rows


def aligned(parts: Sequence[pd.DataFrame]) -> tuple[list[int], list[Floats], int]:
    """Contributions to mIoU of several settings on the seeds and films that all of them have.

    Returns:
        seeds; per setting an (S, P) matrix with the same patients in the same columns; films.
    """
    films = set.intersection(*(set(p["image_id"]) for p in parts))
    seeds = set.intersection(*({int(s) for s in p["seed"]} for p in parts))
    matrices: list[Floats] = []
    for part in parts:
        keep = part[part["image_id"].isin(films) & part["seed"].isin(seeds)]
        matrices.append(contributions(keep, "iou")[2] if len(keep) else np.empty((0, 0)))
    return sorted(seeds), matrices, len(films)


def difference(one: pd.DataFrame, other: pd.DataFrame) -> Effect:
    """mIoU of one setting minus another's, over seeds and patients of the films that both have.

    `NO_EFFECT` without such films.
    """
    _, (a, b), _ = aligned([one, other])
    return crossed_effect(a - b) if a.size else NO_EFFECT


def _blocks(cases: pd.DataFrame) -> list[tuple[str, str, int, bool]]:
    """(task, network, n_train, decides): per task the setting with the most arms decides.

    Ties go to PSPNet, the paper's network, then to the smallest training set, where
    pre-training can show; a rule fixed before any result.
    """
    found: list[tuple[str, str, int, bool]] = []
    for task in TASKS:
        part = cases[cases["task"] == task]
        sizes = part.groupby(["network", "n_train"])["arm"].nunique()
        keys = [(str(n), int(t)) for n, t in sizes.index]
        ranked = sorted(
            zip(keys, sizes, strict=True),
            key=lambda e: (-e[1], e[0][0].lower() != "pspnet", e[0]),
        )
        found += [(task, key[0], key[1], i == 0) for i, (key, _) in enumerate(ranked)]
    return found


def _arm_rows(
    cell: Mapping[tuple[str, str], pd.DataFrame],
    task: str,
    where: Mapping[str, object],
    decides: bool,
    not_run: Mapping[str, str],
) -> list[dict[str, object]]:
    """C2: doll minus every other arm, all weights tuned."""
    rows: list[dict[str, object]] = []
    doll = cell.get(("doll", "full"))
    for arm in ARMS:
        other = cell.get((arm, "full"))
        if arm in ("doll", "truth") or (arm in OPTIONAL and other is None):
            continue
        # Arms that the paper compares with, and the controls, must be there for a verdict.
        needed = decides and (other is not None or arm in ("random", "classifier", "shuffled"))
        needed &= arm not in OPTIONAL  # they speak of how labels are made
        contrast, more = f"doll - {arm}", {**where, "decides": needed}
        if doll is None or other is None:
            reason = not_run.get(arm if doll is not None else "doll", "not part of this profile")
            rows.append(missing("C2", contrast, task, reason, **more))
            continue
        seeds, (a, b), films = aligned([doll, other])
        effect = crossed_effect(a - b) if a.size else NO_EFFECT
        counts = {"n_cases": films, "n_patients": a.shape[-1], "n_seeds": len(seeds)}
        rows.append(_row("C2", contrast, task, effect, **(counts | more)))
    return rows


def _pace_rows(
    curves: pd.DataFrame, task: str, where: Mapping[str, object], decides: bool
) -> list[dict[str, object]]:
    """C3: steps and area of doll against random and classifier, paired by seed and fold."""
    rows: list[dict[str, object]] = []
    for arm in ("random", "classifier"):
        table = paired_speed(curves[curves["tuning"] == "full"], "doll", arm)
        for column, name, deciding in (
            ("log_ratio", f"steps to 95 %: {arm} / doll", decides),
            ("area_gain", f"area under validation curve: doll - {arm}", False),
        ):
            if table.empty:
                rows.append(missing("C3", name, task, "no curves", **where, decides=deciding))
                continue
            grid = table.pivot(index="seed", columns="fold", values=column).dropna(axis=1)
            matrix = grid.to_numpy(np.float64)
            effect = crossed_effect(matrix) if matrix.size else NO_EFFECT
            counts = {"n_cases": matrix.size, "n_seeds": len(grid), "decides": deciding}
            rows.append(_row("C3", name, task, effect, **counts, **where))
    return rows


def _adapter_row(
    cell: Mapping[tuple[str, str], pd.DataFrame],
    runs: pd.DataFrame,
    task: str,
    where: Mapping[str, object],
    decides: bool,
) -> dict[str, object]:
    """C4: what doll/adapter has beyond random/full plus half of the gain of doll/full."""
    contrast = "adapter keeps over half of the gain"
    parts = [cell.get(k) for k in (("doll", "adapter"), ("doll", "full"), ("random", "full"))]
    there = [p for p in parts if p is not None]
    if len(there) < 3:
        reason = "needs doll/adapter, doll/full and random/full"
        return missing("C4", contrast, task, reason, decides=decides, **where)
    seeds, (a, d, r), films = aligned(there)
    if not a.size:
        reason = "no seed and film that all three have"
        return missing("C4", contrast, task, reason, decides=decides, **where)
    notes = [] if crossed_effect(d - r).lo > 0 else [NO_GAIN]
    share = runs[(runs["arm"] == "doll") & (runs["tuning"] == "adapter")]
    if len(share):
        part = float((share["trainable"] / share["total"]).mean())
        notes.insert(0, f"trains {100 * part:.2g} % of the weights")
    counts = {"n_cases": films, "n_patients": a.shape[-1], "n_seeds": len(seeds)}
    kept = crossed_effect(a - r - 0.5 * (d - r))
    more = {"note": "; ".join(notes), "decides": decides, **where}
    return _row("C4", contrast, task, kept, **counts, **more)


def segmentation_rows(
    cases: pd.DataFrame, curves: pd.DataFrame, runs: pd.DataFrame, not_run: Mapping[str, str]
) -> list[dict[str, object]]:
    """Contrasts of C2, C3 and C4, per task and network, at their `main_size`."""
    rows: list[dict[str, object]] = []
    cases = main_size(cases)
    for task, network, size, decides in _blocks(cases):
        where: dict[str, object] = {"network": network, "n_train": size}
        block, paces, trained = (
            f[(f["task"] == task) & (f["network"] == network) & (f["n_train"] == size)]
            for f in (cases, curves, runs)
        )
        cell = {(str(a), str(t)): part for (a, t), part in block.groupby(["arm", "tuning"])}
        rows += _arm_rows(cell, task, where, decides, not_run)
        rows += _pace_rows(paces, task, where, decides)
        rows.append(_adapter_row(cell, trained, task, where, decides))
    return rows
