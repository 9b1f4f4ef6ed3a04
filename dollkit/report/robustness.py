"""What perturbed test films cost each arm: the table of robustness.

Films, seeds and patients are paired throughout: an arm's drop is taken on the same films of the
same networks, and its difference from the random start's drop on the same seeds too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.statistics import crossed_effect
from dollkit.finetuning.robustness import KINDS
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import UNTOUCHED, aligned, difference, in_order
from dollkit.report.tables import bounds, interval, summarise

BLOCK = ["task", "network", "n_train"]
CELL = [*BLOCK, "perturbation", "level", "arm"]
IDENTITY = {name: kind.identity for name, kind in KINDS.items()}


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by task, network, size, perturbation, strength of the level and arm."""
    strength = (frame["level"] - frame["perturbation"].map(IDENTITY)).abs()
    order = [*BLOCK, "perturbation", "strength", "level", "arm"]
    return in_order(frame.assign(strength=strength), *order).drop(columns="strength")


def table(rows: pd.DataFrame, plain: pd.DataFrame, profile: str) -> Table:
    """mIoU under each perturbation, what it costs, and whether it costs the random start more.

    One row per perturbation, level (NaN: untouched) and arm of tuning "full", the untouched films
    first: miou as `summarise`; drop (untouched minus perturbed); drop_vs_random (the arm's drop
    minus that of the random start). Intervals of drops: 95 %, patients and seeds both random.

    Args:
        rows, plain: per-case rows of the perturbed and of the untouched films.
    """
    trained = [*BLOCK, "arm"]
    rows, plain = (f[f["tuning"] == "full"] for f in (rows, plain))
    untouched = rows[trained].drop_duplicates().merge(plain, on=trained, how="left")
    for lost in untouched[untouched["image_id"].isna()][:1].to_dict("records"):
        raise InputError(
            f"robustness: {lost['task']}, {lost['network']}, {lost['n_train']} training films, arm "
            f"{lost['arm']!r} has no rows of the untouched films; run its fine-tuning again"
        )
    every = pd.concat([rows, untouched.assign(perturbation=UNTOUCHED, level=np.nan)])
    before = dict(list(untouched.groupby(trained)))
    drops: list[dict[str, object]] = []
    for key, part in rows.groupby(CELL[:-1]):
        pairs = {arm: (before[*key[:3], arm], own) for arm, own in part.groupby("arm")}
        for arm, pair in pairs.items():
            row: dict[str, object] = dict(zip(CELL, (*key, arm), strict=True))
            row |= interval("drop", difference(*pair))
            if arm != "random" and "random" in pairs:
                (a, b, c, d), _, _ = aligned([*pair, *pairs["random"]])
                row |= interval("drop_vs_random", crossed_effect((a - b) - (c - d)))
            drops.append(row)
    frame = summarise(every, CELL).merge(pd.DataFrame(drops), on=CELL, how="left")
    columns = [*CELL, *bounds("miou", "drop", "drop_vs_random"), "n_cases", "n_patients", "n_seeds"]
    frame = _ordered(frame.reindex(columns=columns))
    levels = [None if np.isnan(v) else f"{v:g}" for v in frame["level"].tolist()]
    caption = (
        f"Robustness (profile {profile}). Pre-training arms, all weights tuned on untouched films, "
        f"on perturbed test films: mean IoU over foreground classes, mean over "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films per task; "
        "brackets: 95 % bootstrap interval over patients. Drop: untouched minus perturbed, the "
        "same films and networks, its interval over patients and seeds."
    )
    notes = [
        f"Levels: {_meanings(frame)}.",
        "Drop minus random's: the arm's drop minus that of the random start, paired by film and "
        "seed; negative where the arm loses less. No correction is made for the number of rows.",
    ]
    return Table(
        frame.assign(level=pd.Series(levels, dtype="object")),  # as written, without decimals
        caption,
        hide=["n_patients", *constant(frame, ("network", "n_train"))],
        names={"drop_vs_random": "drop minus random's"},
        notes=notes,
    )


def _meanings(frame: pd.DataFrame) -> str:
    """What each perturbation does and the levels that `frame` has, as a sentence."""
    shown = _ordered(frame[frame["level"] != frame["perturbation"].map(IDENTITY)])
    levels = shown.dropna(subset="level").groupby("perturbation", sort=False)["level"].unique()
    return "; ".join(
        f"{name}: {KINDS[str(name)].meaning} ({', '.join(f'{v:g}' for v in values)})"
        for name, values in levels.items()
    )
