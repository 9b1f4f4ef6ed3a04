"""What perturbed test films cost each arm: the table of robustness and Figure S4.

Rows are those of `dollkit.finetuning.robustness.frame`; the untouched films are the run's plain
per-case rows. Films, seeds and patients are paired throughout: an arm's drop is taken on the same
films of the same networks, and its difference from the random start's drop on the same seeds too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dollkit.common import ARMS
from dollkit.common.errors import InputError
from dollkit.common.statistics import bootstrap_interval
from dollkit.finetuning.robustness import KINDS
from dollkit.report import style
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import TASKS, aligned, contributions, difference, effect_of
from dollkit.report.style import Drawn
from dollkit.report.tables import bounds

UNTOUCHED = "untouched"
"""Stands for a perturbation in rows of the films as they are; their level is blank."""

BLOCK = ["task", "network", "n_train"]
CELL = ["perturbation", "level"]


class Block(NamedTuple):
    """Rows of one task, network and training size, all weights tuned; plain ones by arm."""

    where: dict[str, Any]
    untouched: dict[str, pd.DataFrame]
    perturbed: pd.DataFrame


def _blocks(rows: pd.DataFrame, plain: pd.DataFrame) -> list[Block]:
    """Perturbed rows of tuning "full", and the untouched ones that belong to them."""
    rows, plain = (f[f["tuning"] == "full"] for f in (rows, plain))
    if rows.empty:
        raise InputError(
            "robustness: no perturbed film was judged; name perturbations in parameter "
            "'robustness' of fine-tuning"
        )
    found = []
    for key, part in rows.groupby(BLOCK, sort=True):
        block = plain[(plain[BLOCK] == list(key)).all(axis=1)]
        untouched = {str(a): own for a, own in block.groupby("arm") if a in set(part["arm"])}
        for arm in set(part["arm"]) - set(untouched):
            raise InputError(
                f"robustness: {key[0]}, {key[1]}, {key[2]} training films, arm {arm!r} has no "
                "rows of the untouched films; run its fine-tuning again"
            )
        found.append(Block(dict(zip(BLOCK, key, strict=True)), untouched, part))
    return found


def _row(part: pd.DataFrame) -> dict[str, object]:
    """mIoU of one arm's rows under one perturbation, with its interval over patients."""
    seeds, patients, units = contributions(part, "iou")
    ends = bootstrap_interval(units.mean(0))
    found = dict(zip(bounds("miou"), (float(units.mean()), *ends), strict=True))
    counts = {"n_cases": part["image_id"].nunique(), "n_patients": len(patients)}
    return {**found, **counts, "n_seeds": len(seeds)}


def table(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """mIoU under each perturbation, what it costs, and whether it costs the random start more.

    One row per task, network, n_train, perturbation, level (NaN: untouched) and arm, of tuning
    "full", the untouched films first: miou (95 % bootstrap over patients, seeds averaged first);
    drop (untouched minus perturbed mIoU, paired by film and seed); drop_vs_random (the arm's drop
    minus that of the random start: negative where the arm loses less), each with _lo and _hi;
    n_cases (films), n_patients, n_seeds. Intervals of drops: 95 %, patients and seeds both random
    (`dollkit.common.statistics.crossed`); no correction is made for the number of rows.

    Args:
        rows, plain: per-case rows of the perturbed and of the untouched films.
    """
    out: list[dict[str, object]] = []
    for block in _blocks(rows, plain):
        for arm, own in block.untouched.items():
            row = block.where | {"perturbation": UNTOUCHED, "level": np.nan, "arm": arm}
            out.append(row | _row(own))
        for key, cell in block.perturbed.groupby(CELL, sort=True):
            parts = {str(arm): part for arm, part in cell.groupby("arm")}
            for arm, part in parts.items():
                own = block.untouched[arm]
                row = block.where | dict(zip(CELL, key, strict=True)) | {"arm": arm} | _row(part)
                row |= dict(zip(bounds("drop"), difference(own, part)[:3], strict=True))
                if arm != "random" and "random" in parts:
                    four = own, part, block.untouched["random"], parts["random"]
                    _, (a, b, c, d), _ = aligned(four)
                    gap = effect_of((a - b) - (c - d))
                    row |= dict(zip(bounds("drop_vs_random"), gap[:3], strict=True))
                out.append(row)
    columns = [*BLOCK, *CELL, "arm", *bounds("miou", "drop", "drop_vs_random")]
    return _ordered(pd.DataFrame(out, columns=[*columns, "n_cases", "n_patients", "n_seeds"]))


def _strength(name: str, level: float) -> tuple[int, float, float]:
    """Sorts levels from untouched to strongest, kinds in `KINDS`' order."""
    if name == UNTOUCHED:
        return -1, 0.0, 0.0
    return list(KINDS).index(name), abs(level - KINDS[name].identity), level


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by task, network, size, perturbation, strength of the level and arm."""
    keys = [
        (TASKS.index(r["task"]), r["network"], r["n_train"])
        + (*_strength(r["perturbation"], r["level"]), ARMS.index(r["arm"]))
        for r in frame.to_dict("records")
    ]
    return frame.iloc[sorted(range(len(frame)), key=keys.__getitem__)].reset_index(drop=True)


def _meanings(frame: pd.DataFrame) -> str:
    """What each perturbation does and the levels that `frame` has, as a sentence."""
    said = []
    for name, kind in KINDS.items():
        levels = set(frame.loc[frame["perturbation"] == name, "level"].astype(float).tolist())
        strong = sorted(levels - {kind.identity}, key=lambda v: _strength(name, v))
        if strong:
            said.append(f"{name}: {kind.meaning} ({', '.join(f'{v:g}' for v in strong)})")
    return "; ".join(said)


def printed(frame: pd.DataFrame, profile: str) -> Table:
    """`table` with its caption and notes; levels as they are written, without decimals."""
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
        frame.assign(level=pd.Series(levels, dtype="object", index=frame.index)),
        caption,
        hide=["n_patients", *constant(frame, ("network", "n_train"))],
        names={"drop_vs_random": "drop minus random's"},
        notes=notes,
    )


# Figure S4: mIoU on test films that were perturbed, against the level of the perturbation.


def lines(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Mean mIoU over seeds and its range at each level, the untouched films included.

    Of each task the network and training size with the most arms; ties go to PSPNet, the paper's
    network, then to the smallest training set, as in the claims. The untouched films are at the
    level that is the identity; lo and hi are the lowest and highest seed.
    """

    def rank(block: Block) -> tuple[int, bool, str, int]:
        _, network, size = block.where.values()
        return -len(block.untouched), network.lower() != "pspnet", network, int(size)

    found = _blocks(rows, plain)
    tasks = [[b for b in found if b.where["task"] == task] for task in TASKS]
    out: list[dict[str, object]] = []
    for block in [min(blocks, key=rank) for blocks in tasks if blocks]:
        for (name, arm), part in block.perturbed.groupby(["perturbation", "arm"], sort=True):
            levels = {float(str(level)): own for level, own in part.groupby("level")}
            levels[KINDS[str(name)].identity] = block.untouched[str(arm)]
            for level, own in levels.items():
                seeds = contributions(own, "iou")[2].mean(1)
                row = block.where | {"perturbation": name, "level": level, "arm": arm}
                row |= {"mean": seeds.mean(), "lo": seeds.min(), "hi": seeds.max()}
                out.append(row | {"n_seeds": len(seeds), "n_cases": own["image_id"].nunique()})
    columns = [*BLOCK, *CELL, "arm", "mean", "lo", "hi", "n_seeds", "n_cases"]
    return _ordered(pd.DataFrame(out, columns=columns))


def figure_s4(rows: pd.DataFrame, plain: pd.DataFrame, *, profile: str) -> Drawn:
    """mIoU against the level of each perturbation: tasks in columns, one line per arm.

    Takes the rows that `table` takes; data as `lines`.
    """
    data = lines(rows, plain)
    tasks = [t for t in TASKS if t in set(data["task"])]
    kinds = [k for k in KINDS if k in set(data["perturbation"])]
    arms = style.arms_of(data["arm"].unique().tolist())
    with style.context():
        fig = style.canvas(style.PAGE, 1.55 * len(kinds) + 0.6)
        axes = fig.subplots(len(kinds), len(tasks), squeeze=False, sharey="col", sharex="row")
        for r, kind in enumerate(kinds):
            here = data[data["perturbation"] == kind]
            for c, task in enumerate(tasks):
                ax = axes[r, c]
                style.curves(ax, here[here["task"] == task], "level", ("mean", "lo", "hi"))
                _scale(ax, kind, here["level"])
                if r == 0:
                    ax.set_title(task, fontweight="bold")
                if c == 0:
                    ax.set_ylabel(f"{kind}\nmIoU")
        style.legend(fig, arms)
    where = ", ".join(
        f"{task} {part['network'].iloc[0]}, {part['n_train'].iloc[0]} training films"
        for task, part in data.groupby("task", sort=False)
    )
    caption = (
        f"Figure S4 (profile {profile}). mIoU on perturbed test films ({where}), against the "
        f"level; none: the untouched film. Mean over {span(data['n_seeds'])} seeds of networks "
        "whose weights were all tuned on untouched films, bands from the lowest to the highest "
        f"seed; {span(data['n_cases'])} test films per task. Levels: {_meanings(data)}."
    )
    return Drawn(fig, data, caption)


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
