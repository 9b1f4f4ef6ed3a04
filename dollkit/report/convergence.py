"""How fast a network learns: steps to a target, and the area under the validation curve.

"95 % of the best" needs a best. An arm that never gets good reaches 95 % of *its own* best
early, which is no efficiency. So arms are compared at a common target: 95 % of the lower of the
two bests of a pair (same task, seed and fold), which both reach, so that nothing is censored.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dollkit.common.statistics import Floats

FRACTION = 0.95
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

    Linear between evaluations: counting in whole evaluations would make runs look equal. From
    step 0 on it takes the first positive one, as the ratio of two zeros is not defined.
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

    Own: of the run's own best; random: of the best of the random arm, tuned in full, same seed and
    fold (NaN where it is never reached or there is no such run).
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

    log_ratio = log(steps_control / steps), positive where the arm is faster; area_gain: mean height
    of the arm's curve minus the control's over the steps that both cover.

    Args:
        curves: rows of one task, network, training size and tuning.
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
