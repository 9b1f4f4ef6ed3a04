"""How seconds and memory of Integrated Gradients grow with films, targets, steps and pixels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common.errors import InputError
from dollkit.explanations.cost import peak_mb, walk_seconds
from dollkit.explanations.integrated_gradients import BUDGET_MB
from dollkit.report import style

FACTORS = ("films", "targets", "steps", "pixels")


def growth(
    model: nn.Module,
    x: torch.Tensor,
    *,
    precision: str,
    rounds: int = 3,
    budget_mb: int = BUDGET_MB,
    **lists: Sequence[int],
) -> pd.DataFrame:
    """Seconds while one factor grows and the others stay at the first value of their lists.

    Seconds are the median of rounds in turns; peak_mb is of one walk, above what was held before,
    NaN where the system does not tell. Too few films are taken again from the start. The lists are
    films, targets, steps and sides; pixels stay at the films' own size while another factor grows.
    """
    for name, values in lists.items():
        if len(set(values)) < 2:
            raise InputError(f"growth with {name} is asked of {list(values)}: give two or more")
    lists["pixels"] = lists.pop("sides")
    points = []
    for factor, value in [(f, v) for f, values in lists.items() for v in values]:
        at = {name: values[0] for name, values in lists.items()} | {factor: value}
        batch = x[torch.arange(at["films"], device=x.device) % len(x)]
        if factor == "pixels" and value != x.shape[-1]:
            batch = F.interpolate(batch, size=(value, value), mode="bilinear", antialias=True)
        channels = [list(range(at["targets"]))] * at["films"]
        settings = {"precision": precision, "steps": at["steps"], "budget_mb": budget_mb}
        walk = partial(walk_seconds, model, batch, channels, **settings)
        points.append((factor, value**2 if factor == "pixels" else value, walk))
    rounds_of = [[walk() for *_, walk in points] for _ in range(rounds + 1)][1:]  # one to warm up
    rows = [
        (factor, value, statistics.median(taken), peak_mb(walk, x.device))
        for (factor, value, walk), taken in zip(points, zip(*rounds_of, strict=True), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["factor", "value", "seconds", "peak_mb"])
    return frame.astype({"peak_mb": float})


def fits(table: pd.DataFrame) -> pd.DataFrame:
    """How seconds and memory of `growth` grow with each factor.

    exponent is of ``seconds ~ value ** exponent``; each (seconds of one more) and first (at none)
    are of a straight line; peak_ratio is of the largest value over the smallest, NaN if unknown.
    """
    rows = []
    for factor, points in table.groupby("factor", sort=False):
        n, t, peak = points.sort_values("value")[["value", "seconds", "peak_mb"]].to_numpy(float).T
        each, first = np.polyfit(n, t, 1)
        exponent = np.polyfit(np.log(n), np.log(t), 1)[0]
        rows.append((factor, exponent, each, first, peak[-1] / peak[0] if peak[0] > 0 else np.nan))
    return pd.DataFrame(rows, columns=["factor", "exponent", "each", "first", "peak_ratio"])


def figure(table: pd.DataFrame) -> style.Drawn:
    """Four panels of `growth`: seconds against each factor; peak memory beside."""
    exponents = fits(table).set_index("factor")["exponent"]
    with style.context():
        drawing = style.canvas(style.PAGE, 2.2)
        for ax, factor in zip(drawing.subplots(1, 4), FACTORS, strict=True):
            points = table[table["factor"] == factor].sort_values("value")
            ax.plot(points["value"], points["seconds"], "o-", color=style.BLUE)
            ax.set(xlabel=factor, title=f"exponent {exponents[factor]:.2f}")
            ax.set_ylim(0, 1.15 * float(points["seconds"].max()))
            memory = ax.twinx()
            memory.plot(points["value"], points["peak_mb"], "s:", color=style.ORANGE)
            memory.set_ylim(0, 1.15 * np.nanmax([1, *table["peak_mb"]]))
            memory.spines["right"].set_visible(True)
            memory.tick_params(labelright=factor == FACTORS[-1])
        memory.set_ylabel("peak memory, MiB (squares)")
        drawing.axes[0].set_ylabel("seconds (dots)")
    caption = (
        "Seconds (dots, left) and peak memory above what was held before (squares, right) of "
        "Integrated Gradients while one factor grows. Median of rounds in which all points take "
        "turns; exponent of a fit on logarithms."
    )
    return style.Drawn(drawing, table, caption)
