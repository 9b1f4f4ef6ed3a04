"""Did DoLL pay on these films? From per-case rows to effects and to plain words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from dollkit.common.statistics import NO_EFFECT, Floats, crossed_effect, holm, smallest_effect
from dollkit.interactive.your_radiographs.compare import LEAST
from dollkit.report.claims import MIN_SEEDS
from dollkit.report.rows import aligned, contributions, difference
from dollkit.report.tables import masks_needed, summarise

PAID, NOT, UNKNOWN = "paid", "did not pay", "cannot be told"
MARGIN = 0.01
"""Gain in mIoU below which nobody would pre-train a network; a parameter."""

COLUMNS = [
    "n_train", "against", "effect", "lo", "hi", "p", "p_holm", "mde", "df", "n_cases", "n_patients",
    "n_seeds", "best", "verdict", "why",
]  # fmt: skip


class Words(NamedTuple):
    """A verdict and its reason."""

    verdict: str
    why: str


def contrasts(cases: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """DoLL minus every other start, for each number of masks, with a verdict.

    Paired: the same films, seeds and folds. Both patients and training runs are random
    (`stats.crossed`): the interval speaks of other patients and other seeds. p is corrected by
    Holm over the starts of one size.

    A class that is `rare` does not count, unless all are: it would weigh as much as the others,
    and nothing tells how it varies from patient to patient (`stats.seen_enough`).

    Args:
        cases: rows of `grid.execute`, all weights tuned.
        margin: gain in mIoU that would be worth it.

    Returns:
        `COLUMNS`, one row per size and start; ``effect`` in mIoU (mean over foreground classes),
        positive where DoLL is better; ``mde`` the smallest true effect that this design finds in
        four of five cases; ``best`` the mean IoU of the better of the two. Empty without DoLL or
        without another start.
    """
    rows, few = [], rare(cases)
    if set(few) < set(cases["class"]):
        cases = cases[~cases["class"].isin(few)]
    for n, part in cases.groupby("n_train", sort=True):
        doll = part[part["arm"] == "doll"]
        others = [a for a in part["arm"].unique() if a != "doll"] if len(doll) else []
        own = []
        for arm in others:
            seeds, (a, b), films = aligned([doll, part[part["arm"] == arm]])
            effect = crossed_effect(a - b) if a.size else NO_EFFECT
            own.append(
                {
                    "n_train": n, "against": arm, "effect": effect.estimate, "lo": effect.lo,
                    "hi": effect.hi, "p": effect.p, "df": effect.df,
                    "mde": smallest_effect(effect.se, effect.df),
                    "n_cases": films, "n_patients": a.shape[-1], "n_seeds": len(seeds),
                    "best": max(a.mean(), b.mean()) if a.size else np.nan,
                }
            )  # fmt: skip
        for row, p in zip(own, holm([r["p"] for r in own]), strict=True):
            words = judged(pd.Series({**row, "p_holm": p}), margin)
            rows.append({**row, "p_holm": p, "verdict": words.verdict, "why": words.why})
    return pd.DataFrame(rows, columns=COLUMNS)


def rare(cases: pd.DataFrame) -> list[str]:
    """Classes that fewer than `LEAST` patients have on the films to judge by."""
    has = cases[cases["tp"] + cases["fn"] > 0]
    patients = has.groupby("class")["patient_id"].nunique()
    return sorted(c for c in cases["class"].unique() if patients.get(c, 0) < LEAST)


def judged(row: pd.Series[float], margin: float) -> Words:
    """Verdict on one contrast.

    ``paid``: the effect is above zero beyond chance (Holm-adjusted p < 0.05) and the interval
    reaches the margin. ``did not pay``: the whole interval is below the margin. Everything else
    cannot be told: the interval holds both nothing and a gain that would be worth it, or neither
    start draws anything, so that being alike tells nothing.
    """
    n = f"{int(row['n_cases'])} films of {int(row['n_patients'])} patients"
    if row["n_patients"] < LEAST or row["n_seeds"] < MIN_SEEDS or not np.isfinite(row["lo"]):
        seeds = f"{int(row['n_seeds'])} seed" + ("s" if row["n_seeds"] != 1 else "")
        least = f"{LEAST} patients and {MIN_SEEDS} seeds are the least"
        return Words(UNKNOWN, f"{n} and {seeds} are too few to tell anything ({least})")
    if row["best"] < margin:
        return Words(
            UNKNOWN,
            f"neither start reaches an mIoU of {margin:g}, so that nothing was learnt that could "
            "be compared: look at the masks, and take more steps or other rates",
        )
    if row["hi"] < 0:
        return Words(NOT, "it was worse beyond chance")
    if row["hi"] < margin:
        return Words(NOT, f"a gain of {margin:g} or more is excluded")
    if row["p_holm"] < 0.05 and row["effect"] > 0:
        return Words(PAID, "better beyond chance")
    if row["lo"] > 0:
        return Words(UNKNOWN, "better, but not beyond chance once several starts are compared")
    limit = ""
    if row["df"] < row["n_seeds"]:  # Satterthwaite: the seeds' spread outweighs the patients'
        limit = (
            "; runs differ more than films do, so that more seeds would tell more than more masks"
        )
    return Words(
        UNKNOWN,
        f"{n} and {int(row['n_seeds'])} seeds leave room for nothing and for a gain of {margin:g}; "
        f"the smallest effect that this design would have found is about {row['mde']:.3f}{limit}",
    )


def sentence(table: pd.DataFrame) -> str:
    """What follows from the contrasts with the most masks, in a few sentences."""
    if table.empty:
        return "Nothing was compared with DoLL, so that nothing can be told."
    main = table[table["n_train"] == table["n_train"].max()].set_index("against")
    n, films = int(main["n_train"].iloc[0]), int(main["n_cases"].max())
    said = []
    for arm, row in main.iterrows():
        found = f"{row['effect']:+.3f} mIoU [{row['lo']:+.3f}, {row['hi']:+.3f}]"
        told = f"Against the {arm} start, with {n} masks, DoLL {row['verdict']} ({found})"
        if row["verdict"] == UNKNOWN:
            told = f"Whether DoLL paid against the {arm} start with {n} masks {UNKNOWN} ({found})"
        said.append(f"{told}: {row['why']}.")
    word = {arm: row["verdict"] for arm, row in main.iterrows()}
    if word.get("random") == PAID and word.get("classifier") == NOT:
        said.append(
            "The classifier's backbone alone gives as much: what pays here is having learnt from "
            "your films at all, not the labels made of explanations."
        )
    elif word.get("random") == PAID and word.get("classifier") == UNKNOWN:
        said.append(
            "Whether the labels add anything to the classifier's own backbone is open; that start "
            "is cheaper."
        )
    elif word.get("random") == NOT and not (main["hi"] < 0).drop("random").any():
        said.append("Against random weights it gave nothing: they are the simpler start.")
    if "classifier" in word and main.loc["classifier", "hi"] < 0:
        said.append("Start from the classifier's backbone: DoLL is worse than that alone.")
    if all(v == UNKNOWN for v in word.values()):
        said.append(f"With {films} held-out films this comparison decides nothing either way.")
    if word.get("shuffled") in (NOT, UNKNOWN) and word.get("random") == PAID:
        said.append(
            "Labels of other films (shuffled) were not shown to be worse: that the gain comes from "
            "the diagnosis in the labels is not shown."
        )
    return " ".join(said)


# How many masks? From learning curves on one's own films, and no further than they reach.


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
