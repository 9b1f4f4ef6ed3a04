"""Did DoLL pay on these films? From per-case rows to effects and to plain words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dollkit.own.comparing import LEAST
from dollkit.report.claimtext import MIN_SEEDS
from dollkit.report.contrasts import aligned
from dollkit.stats import NO_EFFECT, crossed_effect, holm, smallest_effect

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
