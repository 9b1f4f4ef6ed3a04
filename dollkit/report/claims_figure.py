"""Figure S5: every contrast that decides a claim, with its interval, on one page."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dollkit.common.errors import InputError
from dollkit.common.statistics import Floats
from dollkit.report import claims, style
from dollkit.report.render import span
from dollkit.report.style import Drawn

COLUMNS = [
    "claim", "task", "network", "n_train", "contrast", "effect", "lo", "hi", "relevance",
    "verdict", "n_patients", "n_seeds",
]  # fmt: skip
LOOKS = {
    claims.CONFIRMED: (style.BLUE, "D", style.BLUE),
    claims.UNDECIDED: (style.GREY, "o", "white"),
    claims.CONTRADICTED: (style.VERMILLION, "X", style.VERMILLION),
}
"""Colour, marker and its filling, so that a greyscale print tells them apart."""

SIDES = (("C1", "C2"), ("C3", "C4", "C5"))
"""Claims of the left and of the right half."""

TITLES = {"C1": "IoU", "C2": "mIoU", "C3": "steps, as a ratio", "C4": "mIoU", "C5": "IoU"}
SHORT = (
    ("steps to 95 %: ", ""),
    ("adapter keeps over half of the gain", "adapter - half of the gain"),
    (r" \(.*\)$", ""),
)
"""What the names of contrasts say beyond their panel's title."""

FACTORS = ((0.5, 0.7, 1, 1.5, 2, 3), (0.1, 0.2, 0.5, 1, 2, 5, 10), (0.001, 0.01, 0.1, 1, 10, 100))
"""Ticks of C3, whose effect is a log ratio; the first that are few enough."""


WIDEST = 2.0
"""How far a panel reaches beyond its effects, in median widths of its intervals."""


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Deciding contrasts that have an effect, in the order of the claims: `COLUMNS`.

    Args:
        rows: result of `claims.evaluate`, or what ``claims.csv`` holds.
    """
    gone = [c for c in claims.COLUMNS if c not in rows.columns]
    if gone:
        raise InputError(f"figure S5: column {gone[0]!r} is missing; pass the result of evaluate()")
    part = rows[rows["decides"].astype(bool) & rows["effect"].notna()]
    order = [c.key for c in claims.CLAIMS]
    rank = part["claim"].map({key: i for i, key in enumerate(order)})
    return part.iloc[rank.argsort(kind="stable")][COLUMNS].reset_index(drop=True)


def figure_s5(rows: pd.DataFrame, *, profile: str) -> Drawn:
    """Effects and 95 % intervals, one line per deciding contrast, one panel per claim.

    Args:
        rows: as for `shown`.
        profile: name for the caption.

    Returns:
        The figure; data as `shown`.
    """
    data = shown(rows)
    halves = [[k for k in side if k in set(data["claim"])] for side in SIDES]
    halves = [half for half in halves if half]
    lines = {key: len(data[data["claim"] == key]) for half in halves for key in half}
    with style.context():
        tallest = max((sum(lines[k] + 3 for k in half) for half in halves), default=3)
        fig = style.canvas(style.PAGE, 0.165 * tallest + 0.4)
        outer = fig.add_gridspec(1, max(len(halves), 1))
        for column, half in enumerate(halves):
            spare = tallest - sum(lines[k] + 3 for k in half)
            heights = [lines[k] + 3 for k in half] + ([spare] if spare else [])
            inner = outer[column].subgridspec(len(heights), 1, height_ratios=heights)
            for row, key in enumerate(half):
                _panel(fig.add_subplot(inner[row]), key, data[data["claim"] == key])
        _legend_of_verdicts(fig)
    caption = (
        f"Figure S5 (profile {profile}). Every contrast that decides a claim: effect and 95 % "
        "interval; right of the line at zero speaks for the claim, the dotted line is the "
        "smallest effect worth having. C1 and C5: IoU of labels with the truth at matched area; "
        "C2 and C4: mIoU; an interval much wider than the others runs out of its panel; "
        "C3: how many times the steps of DoLL the other start needs. A verdict "
        "also asks for Holm's p < 0.05 over all of them."
    )
    trained = data[data["n_seeds"] > 0]
    if len(trained):
        caption += f" {span(trained['n_seeds'])} seeds per trained network."
    seen = data.loc[data["n_patients"] > 0, "n_patients"]
    if len(seen):
        caption += f" {span(seen)} patients per contrast, but in C3, which compares runs."
    return Drawn(fig, data, caption)


def _panel(ax: Axes, claim: str, part: pd.DataFrame) -> None:
    place = np.arange(len(part))[::-1]
    mixed = part["network"].nunique() > 1
    names = []
    spans = part[["effect", "lo", "hi"]].to_numpy(np.float64)
    texts = part[["task", "network", "contrast", "verdict"]].astype(str).to_numpy().tolist()
    for y, (effect, lo, hi), words in zip(place, spans, texts, strict=True):
        task, network, contrast, verdict = words
        colour, marker, face = LOOKS[verdict]
        if np.isfinite(lo):
            ax.plot([lo, hi], [y, y], color=colour, linewidth=1.2)
        ax.plot(effect, y, marker, color=colour, markerfacecolor=face, markersize=4.5)
        where = "" if task == "labels" else f"{task}: "
        names.append(where + (f"{network}, " if mixed else "") + _short(contrast))
    ax.axvline(0, color=style.BLACK, linewidth=0.7)
    ax.axvline(float(part["relevance"].iloc[0]), color=style.GREY, linewidth=0.8, linestyle=":")
    _cut_off(ax, spans, float(part["relevance"].iloc[0]))
    ax.set_yticks(place, names, fontsize=6)
    ax.set_ylim(-0.7, len(part) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{claim}  {TITLES[claim]}", loc="left", fontweight="bold", pad=2)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    if claim == "C3":
        low, high = np.exp(ax.get_xlim())
        inside = [[f for f in some if low <= f <= high] for some in FACTORS]
        ticks = next((some for some in inside if 2 < len(some) < 6), inside[0])
        ax.xaxis.set_major_locator(FixedLocator([float(np.log(f)) for f in ticks]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{np.exp(v):.3g}x"))
        ax.xaxis.set_minor_locator(NullLocator())


def _cut_off(ax: Axes, spans: Floats, relevance: float) -> None:
    """One seed too few gives an interval of any width, beside which nothing else would show."""
    widths = spans[:, 2] - spans[:, 1]
    if np.isfinite(widths).any():
        usual = float(np.nanquantile(widths, 0.5, method="lower"))
        room = max(WIDEST * usual, float(np.ptp(spans[:, 0])), 2 * relevance)
        if np.nanmax(widths) > 3 * room:
            ax.set_xlim(spans[:, 0].min() - room, spans[:, 0].max() + room)


def _short(contrast: str) -> str:
    for pattern, other in SHORT:
        contrast = re.sub(pattern, other, contrast)
    return contrast


def _legend_of_verdicts(fig: Figure) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linewidth=1.2, label=name)
        for name, (colour, marker, face) in LOOKS.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
