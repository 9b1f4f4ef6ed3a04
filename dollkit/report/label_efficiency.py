"""Label efficiency: what pre-training is worth with few and with many masks (Figure 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.statistics import NO_EFFECT, Floats
from dollkit.report import style
from dollkit.report.contrasts import difference
from dollkit.report.render import span, write_table
from dollkit.report.rows import TASKS, main_network
from dollkit.report.style import Drawn
from dollkit.report.tables import summarise

AGAINST = ("random", "classifier", "shuffled")
BLOCK = ["task", "network"]
NAMES = {
    "n_train": "n train", "miou": "DoLL", "random": "minus random",
    "classifier": "minus classifier", "shuffled": "minus shuffled",
    "masks": "masks that random needs", "n_cases": "films", "n_seeds": "seeds",
}  # fmt: skip


def several_sizes(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows under full tuning of tasks, networks and arms that were trained with several sizes.

    Of each task and network only the arms that have more than one size; empty if none has.
    """
    full = cases[cases["tuning"] == "full"]
    counts = full.groupby([*BLOCK, "arm"])["n_train"].transform("nunique")
    return full[counts > 1]


def table_sizes(cases: pd.DataFrame) -> pd.DataFrame:
    """DoLL at each number of training masks, and what it is ahead by.

    Args:
        cases: per-case rows of a run.

    Returns:
        task, network, n_train; miou of doll with its interval over patients; the paired
        differences to ``random``, ``classifier`` and ``shuffled`` with 95 % intervals over seeds
        and patients (`stats.crossed`; blank where the arm was not run); ``masks``: how many
        training films the random arm needs to get where doll is (`masks_needed`); n_cases,
        n_seeds. Without several sizes it is empty.
    """
    rows: list[dict[str, object]] = []
    kept = several_sizes(cases)
    for task in TASKS:
        for network, block in kept[kept["task"] == task].groupby("network", sort=True):
            means = summarise(block).pivot(index="n_train", columns="arm", values="miou")
            sizes = means.index.to_numpy(np.float64)
            for n, part in block.groupby("n_train", sort=True):
                doll = part[part["arm"] == "doll"]
                if doll.empty:
                    continue
                own = summarise(doll).iloc[0]
                row: dict[str, object] = {"task": task, "network": network, "n_train": n}
                row |= {k: own[k] for k in ("miou", "miou_lo", "miou_hi")}
                for arm in AGAINST:
                    other = part[part["arm"] == arm]
                    effect = difference(doll, other) if len(other) else NO_EFFECT
                    row |= {arm: effect.estimate, f"{arm}_lo": effect.lo, f"{arm}_hi": effect.hi}
                needed = ""
                if "random" in means:
                    random = means["random"].to_numpy(np.float64)
                    needed = masks_needed(sizes, random, float(own["miou"]))
                row |= {"masks": needed, "n_cases": own["n_cases"], "n_seeds": own["n_seeds"]}
                rows.append(row)
    bounds = [f"{a}{s}" for a in ("miou", *AGAINST) for s in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=[*BLOCK, "n_train", *bounds, "masks", "n_cases", "n_seeds"])


def masks_needed(sizes: Floats, miou: Floats, target: float) -> str:
    """Number of masks at which a curve first reaches a target, as text.

    Between two sizes linear in the logarithm of the number; "< 4" or "> 128" beyond the curve.

    Args:
        sizes: (n,) training films, ascending.
        miou: (n,) mIoU at each; NaN where it is not known.
        target: mIoU to reach.
    """
    known = np.isfinite(miou)
    x, y = np.log(sizes[known]), miou[known]
    if not len(x):
        return ""
    if y[0] >= target:
        return f"{'≤' if y[0] == target else '<'} {sizes[known][0]:.0f}"
    above = np.flatnonzero(y >= target)
    if not len(above):
        return f"> {sizes[known][-1]:.0f}"
    i = int(above[0])
    at = x[i - 1] + (target - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
    return f"{np.exp(at):.0f}"


def caption(frame: pd.DataFrame, profile: str) -> str:
    """Caption of `table_sizes` with profile, n and seeds."""
    return (
        f"Label efficiency (profile {profile}, {', '.join(sorted(set(frame['network'])))}). mIoU "
        "after DoLL pre-training with n training masks, all weights tuned, with a 95 % bootstrap "
        "interval over patients; paired differences to other starts with 95 % intervals over "
        f"seeds and patients; masks that a random start needs for the same mIoU (interpolated); "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films. Each start and "
        "size with the learning rate chosen for it on validation."
    )


def write(frame: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write `table_sizes` as table_sizes.csv, .md and .tex, and return their paths."""
    return write_table(frame, folder / "table_sizes", caption(frame, profile), names=NAMES)


def figure5(cases: pd.DataFrame, *, profile: str) -> Drawn:
    """mIoU against the number of training masks: tasks in columns, one line per arm.

    Args:
        cases: per-case rows of a run.
        profile: name for the caption.

    Returns:
        The figure; data: `tables.summarise` of the rows of `main_network`. Bands: 95 % bootstrap
        intervals over patients.
    """
    kept = several_sizes(cases)
    if kept.empty:
        raise InputError("figure 5: one training size only; give more by parameter 'sizes'")
    kept = kept[kept["network"] == main_network(kept)]
    data = summarise(kept)
    tasks = [t for t in TASKS if t in set(data["task"])]
    arms = style.arms_of(data["arm"].unique().tolist())
    with style.context():
        fig = style.canvas(style.PAGE, 2.9)
        axes = fig.subplots(1, len(tasks), squeeze=False)[0]
        for ax, task in zip(axes, tasks, strict=True):
            for arm in arms:
                line = data[(data["task"] == task) & (data["arm"] == arm)].sort_values("n_train")
                if line.empty:
                    continue
                x, y, lo, hi = (
                    line[k].to_numpy(np.float64) for k in ("n_train", "miou", "miou_lo", "miou_hi")
                )
                style.curve(ax, arm, x, y, lo, hi, alpha=0.1)
            ticks = sorted(set(data.loc[data["task"] == task, "n_train"]))
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [str(t) for t in ticks])
            ax.minorticks_off()
            ax.set_title(task)
            ax.set_xlabel("training masks")
            ax.grid(axis="y", color="#dddddd", linewidth=0.5)
            ax.set_axisbelow(True)
        axes[0].set_ylabel("test mIoU")
        style.legend(fig, arms)
    text = (
        f"Figure 5 (profile {profile}, {data['network'].iloc[0]}). Test mIoU against the number of "
        f"training masks, all weights tuned; mean over {span(data['n_seeds'])} seeds, "
        f"{span(data['n_cases'])} test films; bands: 95 % bootstrap intervals over patients. "
        "Each start and size with the learning rate chosen for it on validation."
    )
    return Drawn(fig, data, text)
