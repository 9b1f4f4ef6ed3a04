"""Words and table of the claims page."""

from __future__ import annotations

import pandas as pd

from dollkit.report.render import format_value, markdown, p_value
from dollkit.stats import FEWEST

MIN_SEEDS = 3
"""Seeds below which no contrast between trained networks is decided."""


def reading(seeds: pd.Series, repeats: int) -> list[str]:
    """How to read the page, in lines of a list.

    Args:
        seeds: of each contrast between trained networks.
        repeats: pre-training runs of each arm; 0: not known.
    """
    covered = "fine-tuning runs; each arm was pre-trained once, so not another pre-training"
    if repeats > 1:
        whole = len(seeds) > 0 and repeats >= seeds.max()
        covered = "training runs, pre-training included"
        covered += "" if whole else f" ({repeats} pre-training runs of each arm, taken in turns)"
    return [
        "- Effects are signed so that positive speaks for the claim; brackets are 95 % intervals; "
        "p is Holm-adjusted over all deciding contrasts of the profile "
        "(details: over all details).",
        "- mde: smallest true effect found with 80 % power at 5 %, before that adjustment; of C3's "
        "steps effect, interval and mde are logarithms of ratios in the tables.",
        f"- Means over findings leave out those that fewer than {FEWEST} patients have.",
        f"- Contrasts between trained networks need {MIN_SEEDS} seeds; their intervals cover other "
        f"patients and other {covered}.",
        "- Undecided means that the data fit both an effect and none; it is not evidence for none.",
    ]


def claim_table(rows: pd.DataFrame) -> str:
    """Contrasts of one claim as Markdown, from rows of `claims.evaluate`."""

    def number(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:+.3f}"

    shown = pd.DataFrame(
        {
            "task": rows["task"],
            "contrast": rows["contrast"],
            "effect [95 %]": [
                number(e) if pd.isna(lo) else f"{number(e)} [{number(lo)}, {number(hi)}]"
                for e, lo, hi in zip(rows["effect"], rows["lo"], rows["hi"], strict=True)
            ],
            "p (Holm)": [p_value(float(p)) for p in rows["p_holm"]],
            "mde": [format_value(float(m)) for m in rows["mde"]],
            "cases": rows["n_cases"].astype(str),
            "patients": rows["n_patients"].astype(str),
            "seeds": rows["n_seeds"].astype(str),
            "verdict": rows["verdict"],
            "note": rows["note"],
        }
    )
    if rows["network"].nunique() > 1 or rows["n_train"].nunique() > 1:
        shown.insert(1, "network, n train", rows["network"] + ", " + rows["n_train"].astype(str))
    return markdown(shown)
