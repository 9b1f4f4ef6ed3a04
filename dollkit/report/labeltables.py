"""Tables about the labels: their quality goals, and which step of their making loses what."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dollkit.labelloss import GROUPS, STEPS
from dollkit.report.render import write_table


def write_goals(goals: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write the table of `dollkit.labelquality.goals` as label_goals.csv, .md and .tex."""
    caption = (
        f"Quality goals of the labels (profile {profile}), on films that trained no classifier; "
        "lo, hi: 95 % bootstrap interval over patients; n: pairs of film and finding."
    )
    notes = [
        "IoU with the truth at matched area; the value is the difference, its interval paired.",
        "A goal on a difference is met where the whole interval is above zero; no correction is "
        "made for the number of goals.",
        "Not judged: no case with a truth, or too few patients for an interval.",
    ]
    return write_table(goals, folder / "label_goals", caption, notes=notes)


def write_losses(losses: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write the table of `dollkit.labelloss.losses` as label_losses.csv, .md and .tex."""
    caption = (
        f"Which step loses what (profile {profile}): IoU of the label, of labels that are told "
        "something by the truth, and of groups of films at matched area."
    )
    names = STEPS | {f"iou_{g}": g for g in GROUPS}
    notes = [
        "Best threshold: of each film; best map: of the single classifiers and the consensus; "
        "box and form: somewhat wider than the truth.",
        "Called, missed: films to which the classifiers give a mean probability of at least, or "
        "below, one half; smallest, largest: thirds of each finding's films by size of the truth.",
    ]
    stem = folder / "label_losses"
    return write_table(losses, stem, caption, names=names, notes=notes)
