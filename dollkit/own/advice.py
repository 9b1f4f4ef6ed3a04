"""How many masks? From learning curves on one's own films, and no further than they reach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from dollkit.own.verdict import MARGIN, PAID
from dollkit.report.cases import contributions
from dollkit.report.contrasts import difference
from dollkit.report.sizes import masks_needed
from dollkit.report.tables import summarise
from dollkit.stats import NO_EFFECT, Floats

DRAWS = 400
OPEN = "cannot be told"


def curve(cases: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of each start and number of masks: arm, n_train, miou, miou_lo, miou_hi, ..."""
    return summarise(cases).sort_values(["arm", "n_train"], ignore_index=True)


def steps(cases: pd.DataFrame, arm: str = "doll") -> pd.DataFrame:
    """What each further step of masks brought to a start: n_from, n_to, effect, lo, hi.

    Paired over the same test films; 95 % intervals over seeds and patients.
    """
    own = cases[cases["arm"] == arm]
    sizes = sorted(own["n_train"].unique())
    rows = []
    for few, more in pairwise(sizes):
        parts = [own[own["n_train"] == n] for n in (more, few)]
        effect = difference(*parts) if all(len(p) for p in parts) else NO_EFFECT
        rows.append({"n_from": few, "n_to": more, "effect": effect.estimate,
                     "lo": effect.lo, "hi": effect.hi})  # fmt: skip
    return pd.DataFrame(rows, columns=["n_from", "n_to", "effect", "lo", "hi"])


def equal_to(cases: pd.DataFrame, contrasts: pd.DataFrame) -> pd.DataFrame:
    """How many masks the random start needs to get where DoLL is with n.

    Interpolated on the random start's own curve, in the logarithm of the number, never beyond it;
    95 % interval from a bootstrap over patients, which moves both curves together.

    Returns:
        n_train, masks, masks_lo, masks_hi (text: "16", "< 4", "> 32"), told (whether DoLL is
        better than random beyond chance at this size: else nothing can be told).
    """
    columns = ["n_train", "masks", "masks_lo", "masks_hi", "told"]
    doll, random = (_units(cases, arm) for arm in ("doll", "random"))
    sizes = np.array(sorted(random), np.float64)
    if not doll or len(sizes) < 2:
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(0)
    n_patients = len(next(iter(random.values())))
    picks = rng.integers(0, n_patients, (DRAWS, n_patients))
    better = contrasts[(contrasts["against"] == "random") & (contrasts["verdict"] == PAID)]
    rows = []
    for n, own in sorted(doll.items()):
        point = masks_needed(sizes, np.array([random[int(s)].mean() for s in sizes]), own.mean())
        drawn = [
            masks_needed(sizes, np.array([random[int(s)][p].mean() for s in sizes]), own[p].mean())
            for p in picks
        ]
        ranked = sorted(drawn, key=_rank)
        lo, hi = (ranked[int(q * (DRAWS - 1))] for q in (0.025, 0.975))
        told = n in set(better["n_train"])
        rows.append({"n_train": n, "masks": point, "masks_lo": lo, "masks_hi": hi, "told": told})
    return pd.DataFrame(rows, columns=columns)


def _units(cases: pd.DataFrame, arm: str) -> dict[int, Floats]:
    """Per size the patients' contributions, mean over seeds; in one order for all."""
    own = cases[cases["arm"] == arm]
    sizes = sorted(int(n) for n in own["n_train"].unique())
    return {n: contributions(own[own["n_train"] == n], "iou")[2].mean(axis=0) for n in sizes}


def _rank(text: str) -> tuple[float, int]:
    number = float(text.strip("<>≤ "))
    return number, {"<": -2, "≤": -1, ">": 1}.get(text[:1], 0)


def enough(cases: pd.DataFrame, arm: str = "doll", margin: float = MARGIN) -> int | None:
    """Fewest masks that lose less than the margin to all of them, for sure; None if none does."""
    own = cases[cases["arm"] == arm]
    sizes: Sequence[int] = sorted(int(n) for n in own["n_train"].unique())
    for n in sizes[:-1]:
        effect = difference(own[own["n_train"] == sizes[-1]], own[own["n_train"] == n])
        if np.isfinite(effect.hi) and effect.hi < margin:
            return n
    return None


def advice(
    cases: pd.DataFrame, contrasts: pd.DataFrame, margin: float = MARGIN, target: float = 0.0
) -> list[str]:
    """Sentences on how many masks are needed; those that go beyond the data say so.

    Args:
        cases: per-case rows.
        contrasts: from `verdict.contrasts`.
        margin: difference in mIoU that matters.
        target: mIoU that is wanted; 0: none.
    """
    means = curve(cases)
    own = means[means["arm"] == "doll"]
    if own.empty:
        return ["DoLL was not among the starts: no advice on its masks."]
    if own["miou"].max() < margin:
        return [
            f"With no number of masks the DoLL start reaches an mIoU of {margin:g}: how many are "
            f"needed {OPEN}."
        ]
    out = [*_equal(equal_to(cases, contrasts))]
    walked = steps(cases)
    if walked.empty:
        out.append(
            f"Only one number of masks was tried ({int(own['n_train'].iloc[0])}): how many are "
            f"needed {OPEN}. Give smaller numbers by parameter 'sizes'."
        )
        return out
    last = walked.iloc[-1]
    found = f"{last['effect']:+.3f} mIoU [{last['lo']:+.3f}, {last['hi']:+.3f}]"
    few, most = int(last["n_from"]), int(last["n_to"])
    few_enough = enough(cases, margin=margin)
    out.append(f"From {few} to {most} masks the DoLL start gained {found}.")
    if few_enough is not None:
        out.append(
            f"{few_enough} masks are enough for it: {most} bring less than {margin:g} more, and "
            "drawing further masks will hardly help."
        )
    elif last["lo"] > 0:
        ahead = last["effect"] / np.log2(most / few)
        out.append(
            "More masks still help. Extrapolated, not measured: curves flatten, so that "
            f"{2 * most} masks may bring up to {max(ahead, 0):.3f} more; beyond that it {OPEN}."
        )
    else:
        out.append(f"Whether more masks than {most} would help {OPEN} from these films.")
    if target:
        out.append(_target(own, walked, target))
    return out


def _equal(table: pd.DataFrame) -> list[str]:
    out = []
    for row in table.itertuples(index=False):
        if not row.told:
            out.append(
                f"With {row.n_train} masks DoLL is not better than random beyond chance: how many "
                f"masks it saves {OPEN}."
            )
        elif str(row.masks).startswith(("<", "≤")):
            out.append(f"With {row.n_train} masks it saves none that could be counted.")
        else:
            span = f"95 %: {row.masks_lo} to {row.masks_hi}"
            many = str(row.masks).replace("> ", "more than ")
            about = "" if "more" in many else "about "
            out.append(
                f"With {row.n_train} masks DoLL reaches what the random start needs {about}{many} "
                f"masks for ({span})."
            )
    return out


def _target(own: pd.DataFrame, walked: pd.DataFrame, target: float) -> str:
    sizes, miou = own["n_train"].to_numpy(np.float64), own["miou"].to_numpy(np.float64)
    most, best = int(sizes[-1]), float(miou[-1])
    needed = masks_needed(sizes, miou, target)
    if not needed.startswith(">"):
        return f"An mIoU of {target:g} needs {needed} masks with DoLL (interpolated)."
    last = walked.iloc[-1]
    slope = float(last["effect"]) / np.log2(last["n_to"] / last["n_from"])
    wanted = (target - best) / slope if slope > 0 and last["lo"] > 0 else np.inf
    if wanted <= 1:
        return (
            f"An mIoU of {target:g} was not reached; extrapolated by the last step, it needs "
            f"{int(np.ceil(most * 2**wanted))} masks or more."
        )
    return f"An mIoU of {target:g} was not reached with {most} masks; how many it needs {OPEN}."
