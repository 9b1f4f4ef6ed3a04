"""Figure S4: mIoU on test films that were perturbed, against the level of the perturbation."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dollkit.report import cases, style
from dollkit.report.cases import TASKS
from dollkit.report.render import span
from dollkit.report.robust import (
    BLOCK,
    CELL,
    Block,
    blocks,
    meanings,
    ordered,
)
from dollkit.report.style import Drawn
from dollkit.robustness import KINDS


def _shown(found: list[Block]) -> list[Block]:
    """Of each task the network and training size with the most arms.

    Ties go to PSPNet, the paper's network, then to the smallest training set, as in the claims.
    """

    def rank(block: Block) -> tuple[int, bool, str, int]:
        network = str(block.where["network"])
        arms = len(block.untouched)
        return -arms, network.lower() != "pspnet", network, int(block.where["n_train"])

    tasks = [[b for b in found if b.where["task"] == task] for task in TASKS]
    return [min(own, key=rank) for own in tasks if own]


def lines(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """What the figure shows: mean mIoU over seeds and its range, the untouched films included.

    Args:
        rows, plain: as for `figure_s4`.

    Returns:
        task, network, n_train, perturbation, level (its identity: untouched), arm, mean, lo, hi
        (lowest and highest seed), n_seeds, n_cases (films).
    """
    out: list[dict[str, object]] = []
    for block in _shown(blocks(rows, plain)):
        for (name, arm), part in block.perturbed.groupby(["perturbation", "arm"], sort=True):
            levels = {float(str(level)): own for level, own in part.groupby("level")}
            levels[KINDS[str(name)].identity] = block.untouched[str(arm)]
            for level, own in levels.items():
                seeds = cases.contributions(own, "iou")[2].mean(1)
                row = block.where | {"perturbation": name, "level": level, "arm": arm}
                row |= {"mean": seeds.mean(), "lo": seeds.min(), "hi": seeds.max()}
                out.append(row | {"n_seeds": len(seeds), "n_cases": own["image_id"].nunique()})
    columns = [*BLOCK, *CELL, "arm", "mean", "lo", "hi", "n_seeds", "n_cases"]
    return ordered(pd.DataFrame(out, columns=columns))


def figure_s4(rows: pd.DataFrame, plain: pd.DataFrame, *, profile: str) -> Drawn:
    """mIoU against the level of each perturbation: tasks in columns, one line per arm.

    Args:
        rows: per-case rows of perturbed films; only tuning "full" is shown, and of each task the
            network and training size with the most arms.
        plain: per-case rows of the untouched films.
        profile: name for the caption.

    Returns:
        The figure; data as `lines`.
    """
    data = lines(rows, plain)
    tasks = [t for t in TASKS if t in set(data["task"])]
    kinds = [k for k in KINDS if k in set(data["perturbation"])]
    arms = style.arms_of(data["arm"].unique().tolist())
    with style.context():
        fig = style.canvas(style.PAGE, 1.55 * len(kinds) + 0.6)
        axes = fig.subplots(len(kinds), len(tasks), squeeze=False, sharey="col", sharex="row")
        for r, kind in enumerate(kinds):
            for c, task in enumerate(tasks):
                here = data[(data["perturbation"] == kind) & (data["task"] == task)]
                _panel(axes[r, c], here)
                _scale(axes[r, c], kind, data.loc[data["perturbation"] == kind, "level"])
                if r == 0:
                    axes[r, c].set_title(task, fontweight="bold")
                if c == 0:
                    axes[r, c].set_ylabel(f"{kind}\nmIoU")
        style.legend(fig, arms)
    where = ", ".join(
        f"{task} {part['network'].iloc[0]}, {part['n_train'].iloc[0]} training films"
        for task, part in data.groupby("task", sort=False)
    )
    caption = (
        f"Figure S4 (profile {profile}). mIoU on perturbed test films ({where}), against the "
        f"level; none: the untouched film. Mean over {span(data['n_seeds'])} seeds of networks "
        "whose weights were all tuned on untouched films, bands from the lowest to the highest "
        f"seed; {span(data['n_cases'])} test films per task. Levels: {meanings(data)}."
    )
    return Drawn(fig, data, caption)


def _panel(ax: Axes, data: pd.DataFrame) -> None:
    """One line and band per arm."""
    for arm in style.arms_of(data["arm"].unique().tolist()):
        line = data[data["arm"] == arm].sort_values("level")
        style.curve(ax, arm, *(line[k].to_numpy() for k in ("level", "mean", "lo", "hi")))
    ax.grid(axis="y", color="#dddddd", linewidth=0.5)
    ax.set_axisbelow(True)


def _scale(ax: Axes, kind: str, levels: pd.Series) -> None:
    """Levels as ticks; gains and shares fall to the right, so that films get worse there."""
    identity = KINDS[kind].identity
    ticks = sorted(set(levels.astype(float).tolist()))
    low, high = ticks[0], ticks[-1]
    if kind == "window":
        pad = (high / low) ** 0.05
        ax.set_xscale("log", base=2)
        ax.set_xlim(high * pad, low / pad)
    elif identity > 0:
        pad = 0.05 * (high - low)
        ax.set_xlim(high + pad, low - pad)
    ax.set_xticks(ticks, ["none" if v == identity else f"{v:g}" for v in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(KINDS[kind].unit)
