"""What perturbed test films cost each arm: the table of robustness and Figure S4.

Films, seeds and patients are paired throughout: an arm's drop is taken on the same films of the
same networks, and its difference from the random start's drop on the same seeds too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dollkit.common.errors import InputError
from dollkit.common.statistics import crossed_effect
from dollkit.finetuning.robustness import KINDS
from dollkit.report import style
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import UNTOUCHED, aligned, blocks, contributions, difference, in_order
from dollkit.report.style import Drawn
from dollkit.report.tables import bounds, interval, summarise

BLOCK = ["task", "network", "n_train"]
CELL = [*BLOCK, "perturbation", "level", "arm"]
IDENTITY = {name: kind.identity for name, kind in KINDS.items()}


def _tuned_in_full(rows: pd.DataFrame, plain: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Perturbed rows of tuning "full", and the untouched ones of the same arms."""
    rows, plain = (f[f["tuning"] == "full"] for f in (rows, plain))
    if rows.empty:
        raise InputError(
            "robustness: no perturbed film was judged; name perturbations in parameter "
            "'robustness' of fine-tuning"
        )
    trained = [*BLOCK, "arm"]
    untouched = rows[trained].drop_duplicates().merge(plain, on=trained, how="left")
    for row in untouched[untouched["image_id"].isna()][:1].to_dict("records"):
        raise InputError(
            f"robustness: {row['task']}, {row['network']}, {row['n_train']} training films, arm "
            f"{row['arm']!r} has no rows of the untouched films; run its fine-tuning again"
        )
    return rows, untouched


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
    rows, untouched = _tuned_in_full(rows, plain)
    every = pd.concat([rows, untouched.assign(perturbation=UNTOUCHED, level=np.nan)])
    before = dict(list(untouched.groupby([*BLOCK, "arm"])))
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


# Figure S4: mIoU on test films that were perturbed, against the level of the perturbation.


def lines(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Mean mIoU over seeds and its range at each level, the untouched films included.

    Of each task the first of `rows.blocks`, as in the claims. The untouched films are at the level
    that is the identity; lo and hi are the lowest and highest seed.
    """
    rows, untouched = _tuned_in_full(rows, plain)
    chosen = pd.DataFrame(blocks(rows), columns=BLOCK).drop_duplicates("task")
    rows = rows.merge(chosen)
    kinds = rows[[*BLOCK, "arm", "perturbation"]].drop_duplicates()
    untouched = kinds.assign(level=kinds["perturbation"].map(IDENTITY)).merge(untouched)
    perturbed = rows[rows["level"] != rows["perturbation"].map(IDENTITY)]
    out: list[dict[str, object]] = []
    for key, part in pd.concat([perturbed, untouched]).groupby(CELL):
        seeds = contributions(part, "iou").mean(1)
        row: dict[str, object] = dict(zip(CELL, key, strict=True))
        row |= {"mean": seeds.mean(), "lo": seeds.min(), "hi": seeds.max()}
        out.append(row | {"n_seeds": len(seeds), "n_cases": part["image_id"].nunique()})
    return _ordered(pd.DataFrame(out))


def figure_s4(rows: pd.DataFrame, plain: pd.DataFrame, *, profile: str) -> Drawn:
    """mIoU against the level of each perturbation: tasks in columns, one line per arm."""
    data = lines(rows, plain)
    kinds = [k for k in KINDS if k in set(data["perturbation"])]
    with style.context():
        fig, axes = style.panels(
            data, 1.55 * len(kinds) + 0.6, ("level", "mean", "lo", "hi"), "perturbation", kinds,
            sharey="col", sharex="row",
        )  # fmt: skip
        for kind, row in zip(kinds, axes, strict=True):
            for ax in row:
                _scale(ax, kind, data.loc[data["perturbation"] == kind, "level"])
            row[0].set_ylabel(f"{kind}\nmIoU")
        for ax in axes[0]:
            ax.set_title(ax.get_title(), fontweight="bold")
    caption = (
        f"Figure S4 (profile {profile}). mIoU on perturbed test films ({style.networks(data)}), "
        f"against the level; none: the untouched film. Mean over {span(data['n_seeds'])} seeds of "
        "networks whose weights were all tuned on untouched films, bands from the lowest to the "
        f"highest seed; {span(data['n_cases'])} test films per task. Levels: {_meanings(data)}."
    )
    return Drawn(fig, data, caption)


def _scale(ax: Axes, kind: str, levels: pd.Series) -> None:
    """Levels as ticks; gains and shares fall to the right, so that films get worse there."""
    identity = KINDS[kind].identity
    ticks = sorted(set(levels.astype(float).tolist()))
    if kind == "window":
        ax.set_xscale("log", base=2)
    ax.xaxis.set_inverted(identity > 0)
    ax.set_xticks(ticks, ["none" if v == identity else f"{v:g}" for v in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(KINDS[kind].unit)
