"""What perturbed test films cost each arm: the table of robustness.

Rows are those of `dollkit.finetuning.robustness.frame`; the untouched films are the run's plain
per-case
rows. Films, seeds and patients are paired throughout: an arm's drop is taken on the same films of
the same networks, and its difference from the random start's drop on the same seeds too. Figure
S4 is in `dollkit.report.robustness`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dollkit.common.arm_names import ARMS
from dollkit.common.errors import InputError
from dollkit.common.statistics import NO_EFFECT, Effect, bootstrap_interval, crossed_effect
from dollkit.finetuning.robustness import KINDS
from dollkit.report import rows as cases
from dollkit.report import style
from dollkit.report.contrasts import aligned, difference
from dollkit.report.render import span, write_table
from dollkit.report.rows import CASE_COLUMNS, TASKS
from dollkit.report.style import Drawn

COLUMNS = [*CASE_COLUMNS, "perturbation", "level"]
UNTOUCHED = "untouched"
"""Stands for a perturbation in rows of the films as they are; their level is blank."""

BLOCK = ["task", "network", "n_train"]
CELL = ["perturbation", "level"]
NAMES = {
    "n_train": "n train", "miou": "mIoU", "drop_vs_random": "drop minus random's",
    "n_cases": "films", "n_seeds": "seeds",
}  # fmt: skip


def load(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``finetune/*/robust.csv.gz`` of a run, checked; empty if there are none."""
    found = []
    for path in cases.instances(run, "finetune", "robust.csv.gz", only):
        frame = cases.read_table(path, [*CASE_COLUMNS, "level"])
        if "perturbation" not in frame:
            raise InputError(f"{path}: column 'perturbation' is missing; run its stage again")
        strange = sorted(set(frame["perturbation"].astype(str)) - set(KINDS))
        if strange:
            raise InputError(
                f"{path}: column 'perturbation' holds {strange[0]!r}: use one of {', '.join(KINDS)}"
            )
        if frame["level"].isna().any():
            raise InputError(f"{path}: column 'level' has a blank; run its stage again")
        for (name, level), part in frame.groupby(CELL, sort=True):
            found.append(cases.check_cases(part, f"{path}: {name} {level:g}"))
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(found, ignore_index=True)


@dataclass
class Block:
    """Rows of one task, network and training size, all weights tuned.

    Attributes:
        where: task, network and n_train.
        untouched: arm to its rows of the untouched films, for each arm with perturbed ones.
        perturbed: rows of the perturbed films.
    """

    where: dict[str, Any]
    untouched: dict[str, pd.DataFrame]
    perturbed: pd.DataFrame


def blocks(rows: pd.DataFrame, plain: pd.DataFrame) -> list[Block]:
    """Perturbed rows of tuning "full", and the untouched ones that belong to them."""
    rows, plain = (f[f["tuning"] == "full"] for f in (rows, plain))
    if rows.empty:
        raise InputError(
            "robustness: no perturbed film was judged; name perturbations in parameter "
            "'robustness' of fine-tuning"
        )
    found = []
    for key, part in rows.groupby(BLOCK, sort=True):
        where = dict(zip(BLOCK, key, strict=True))
        block = plain[(plain[BLOCK] == list(key)).all(axis=1)]
        untouched = {str(arm): own for arm, own in block.groupby("arm")}
        for arm in part["arm"].unique():
            if arm not in untouched:
                raise InputError(
                    f"robustness: {key[0]}, {key[1]}, {key[2]} training films, arm {arm!r} has no "
                    "rows of the untouched films; run its fine-tuning again"
                )
        arms = set(part["arm"])
        found.append(Block(where, {a: p for a, p in untouched.items() if a in arms}, part))
    return found


def _effect(name: str, effect: Effect) -> dict[str, object]:
    return {name: effect.estimate, f"{name}_lo": effect.lo, f"{name}_hi": effect.hi}


def _row(part: pd.DataFrame) -> dict[str, object]:
    """mIoU of one arm's rows under one perturbation, with its interval over patients."""
    seeds, patients, units = cases.contributions(part, "iou")
    lo, hi = bootstrap_interval(units.mean(0))
    found = {"miou": float(units.mean()), "miou_lo": lo, "miou_hi": hi}
    counts = {"n_cases": part["image_id"].nunique(), "n_patients": len(patients)}
    return {**found, **counts, "n_seeds": len(seeds)}


def table(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """mIoU under each perturbation, what it costs, and whether it costs the random start more.

    Args:
        rows: per-case rows of perturbed films (`load`); only tuning "full" is shown.
        plain: per-case rows of the untouched films.

    Returns:
        One row per task, network, n_train, perturbation, level and arm, the untouched films
        first: task, network, n_train, perturbation, level (NaN: untouched), arm; miou, miou_lo,
        miou_hi (95 % bootstrap over patients, seeds averaged first); drop, drop_lo, drop_hi
        (untouched minus perturbed mIoU, paired by film and seed); drop_vs_random with _lo and
        _hi (the arm's drop minus that of the random start: negative where the arm loses less);
        n_cases (films), n_patients, n_seeds. Intervals of drops: 95 %, patients and seeds both
        random (`dollkit.common.statistics.crossed`); no correction is made for the number of rows.
    """
    out: list[dict[str, object]] = []
    for block in blocks(rows, plain):
        for arm, own in block.untouched.items():
            row = block.where | {"perturbation": UNTOUCHED, "level": np.nan, "arm": arm}
            out.append(row | _row(own))
        for key, cell in block.perturbed.groupby(CELL, sort=True):
            where = block.where | dict(zip(CELL, key, strict=True))
            parts = {str(arm): part for arm, part in cell.groupby("arm")}
            for arm, part in parts.items():
                own = block.untouched[arm]
                row = where | {"arm": arm} | _row(part) | _effect("drop", difference(own, part))
                if arm != "random" and "random" in parts:
                    other = block.untouched["random"], parts["random"]
                    row |= _effect("drop_vs_random", _drop_gap((own, part), other))
                out.append(row)
    effects = [f"{n}{s}" for n in ("miou", "drop", "drop_vs_random") for s in ("", "_lo", "_hi")]
    columns = [*BLOCK, *CELL, "arm", *effects, "n_cases", "n_patients", "n_seeds"]
    return ordered(pd.DataFrame(out, columns=columns))


def _drop_gap(
    one: tuple[pd.DataFrame, pd.DataFrame], other: tuple[pd.DataFrame, pd.DataFrame]
) -> Effect:
    """Drop of one arm minus that of another, on the seeds and films that both have."""
    _, (a, b, c, d), _ = aligned([*one, *other])
    return crossed_effect((a - b) - (c - d)) if a.size else NO_EFFECT


def strength(name: str, level: float) -> tuple[int, float, float]:
    """Sorts levels from untouched to strongest, kinds in `KINDS`' order."""
    if name == UNTOUCHED:
        return -1, 0.0, 0.0
    return list(KINDS).index(name), abs(level - KINDS[name].identity), level


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by task, network, size, perturbation, strength of the level and arm."""
    keys = [
        (TASKS.index(r["task"]), r["network"], r["n_train"])
        + (*strength(r["perturbation"], r["level"]), ARMS.index(r["arm"]))
        for r in frame.to_dict("records")
    ]
    return frame.iloc[sorted(range(len(frame)), key=keys.__getitem__)].reset_index(drop=True)


def meanings(frame: pd.DataFrame) -> str:
    """What each perturbation does and the levels that `frame` has, as a sentence."""
    said = []
    for name, kind in KINDS.items():
        levels = set(frame.loc[frame["perturbation"] == name, "level"].astype(float).tolist())
        strong = sorted(levels - {kind.identity}, key=lambda v: strength(name, v))
        if strong:
            said.append(f"{name}: {kind.meaning} ({', '.join(f'{v:g}' for v in strong)})")
    return "; ".join(said)


def caption(frame: pd.DataFrame, profile: str) -> str:
    """Caption of `table`, with profile, n, seeds and what the levels mean."""
    return (
        f"Robustness (profile {profile}). Pre-training arms, all weights tuned on untouched films, "
        f"on perturbed test films: mean IoU over foreground classes, mean over "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films per task; "
        "brackets: 95 % bootstrap interval over patients. Drop: untouched minus perturbed, the "
        "same films and networks, its interval over patients and seeds."
    )


def write(frame: pd.DataFrame, folder: Path, *, profile: str) -> list[Path]:
    """Write `table` as robustness.csv, .md and .tex, and return their paths."""
    levels = [None if np.isnan(v) else f"{v:g}" for v in frame["level"].tolist()]
    shown = frame.assign(level=pd.Series(levels, dtype="object", index=frame.index))
    notes = [
        f"Levels: {meanings(frame)}.",
        "Drop minus random's: the arm's drop minus that of the random start, paired by film and "
        "seed; negative where the arm loses less. No correction is made for the number of rows.",
    ]
    same = [c for c in ("network", "n_train") if frame[c].nunique() == 1]
    return write_table(
        shown, folder / "robustness", caption(frame, profile), hide=["n_patients", *same],
        names=NAMES, notes=notes,
    )  # fmt: skip


# Figure S4: mIoU on test films that were perturbed, against the level of the perturbation.


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
