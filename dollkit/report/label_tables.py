"""Second part of Table 3: each way of making labels, and what it is worth downstream."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.common.arm_names import PRETRAINED
from dollkit.common.statistics import NO_EFFECT
from dollkit.labels.oracles import GROUPS, STEPS
from dollkit.report import rows as cases
from dollkit.report.contrasts import difference
from dollkit.report.render import span, write_table
from dollkit.report.rows import main_size
from dollkit.report.tables import summarise

COLUMNS = [
    "network", "arm", "start", "steps", "batch", "films", "seed", "label_iou", "own_iou",
    "true_iou",
]  # fmt: skip
"""Of pretraining.csv: IoU of what was taught with the truth, of the trained network with what it
was taught, and with the truth; the first on its training films, the others on held-out ones."""

NAMES = {
    "label_iou": "IoU of the labels", "true_iou": "IoU of the network", "miou": "mIoU",
    "gap": "DoLL minus it", "n_cases": "films", "n_seeds": "seeds",
}  # fmt: skip


def load(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """Rows of ``pretrain/*/pretraining.csv``; empty for a run of an older version without any."""
    found = cases.instances(run, "pretrain", "pretraining.csv", only)
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    rows = [cases.read_table(p, COLUMNS) for p in found]
    return pd.concat(rows, ignore_index=True)


def repeats(pretraining: pd.DataFrame) -> int:
    """Fewest networks that an arm was pre-trained with alike but for the seed; 0 without rows.

    Args:
        pretraining: result of `load`. The upper bound, which no claim is about, does not count.
    """
    some = pretraining[pretraining["arm"] != "truth"]
    return int(some.groupby(["network", "arm"])["seed"].nunique().min()) if len(some) else 0


def table(pretraining: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per network, task and arm that was taught labels of some kind.

    Args:
        pretraining: result of `load`.
        rows: per-case rows of the run; `main_size` and tuning "full" alone count.

    Returns:
        network, task, arm, label_iou, true_iou (`COLUMNS`), miou with its interval over patients,
        gap: mIoU of ``doll`` minus the arm's with a 95 % interval over seeds and patients
        (`stats.crossed_effect`), n_cases, n_seeds; in the order of tasks and arms.
    """
    full = main_size(rows[rows["tuning"] == "full"])
    means = {(r["network"], r["task"], r["arm"]): r for r in _records(summarise(full))}
    iou = ["label_iou", "true_iou"]
    repeats = pretraining.astype(dict.fromkeys(iou, float)).groupby(["network", "arm"])[iou].mean()
    taught = {(r["network"], r["arm"]): r for r in _records(repeats.reset_index())}
    made: list[dict[str, object]] = []
    for network in sorted({str(n) for n, _ in taught} & set(full["network"])):
        for task in cases.TASKS:
            block = full[(full["network"] == network) & (full["task"] == task)]
            doll = block[block["arm"] == "doll"]
            for arm in PRETRAINED:
                if (network, arm) not in taught or (network, task, arm) not in means:
                    continue
                own = means[network, task, arm]
                row: dict[str, object] = {"network": network, "task": task, "arm": arm}
                row |= {k: taught[network, arm][k] for k in ("label_iou", "true_iou")}
                row |= {k: own[k] for k in ("miou", "miou_lo", "miou_hi")}
                effect = NO_EFFECT
                if arm != "doll" and len(doll):
                    effect = difference(doll, block[block["arm"] == arm])
                row |= {"gap": effect.estimate, "gap_lo": effect.lo, "gap_hi": effect.hi}
                made.append(row | {"n_cases": own["n_cases"], "n_seeds": own["n_seeds"]})
    bounds = [f"{a}{s}" for a in ("miou", "gap") for s in ("", "_lo", "_hi")]
    columns = ["network", "task", "arm", "label_iou", "true_iou", *bounds, "n_cases", "n_seeds"]
    return pd.DataFrame(made, columns=columns)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in r.items()} for r in frame.to_dict("records")]


def write(frame: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write `table` as table3_arms.csv, .md and .tex, and return their paths."""
    caption = (
        f"Table 3, continued (profile {profile}). Labels made in several ways, and what they are "
        "worth downstream: IoU of the labels with the truth on the films that they teach, of the "
        "network that they pre-trained on held-out films (mean over findings), and mIoU after "
        f"fine-tuning all weights, {span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test "
        "films; brackets: 95 % intervals, of differences over seeds and patients."
    )
    hide = ["network"] if frame["network"].nunique() == 1 else []
    return write_table(frame, folder / "table3_arms", caption, hide=hide, names=NAMES)


# Tables about the labels: their quality goals, and which step of their making loses what.


def write_goals(goals: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write the table of `dollkit.labels.summary.goals` as label_goals.csv, .md and .tex."""
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
    """Write the table of `dollkit.labels.oracles.losses` as label_losses.csv, .md and .tex."""
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
