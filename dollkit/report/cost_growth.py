"""How seconds and memory of Integrated Gradients grow with films, targets, steps and pixels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.explanations.cost import peak_mb, walk_seconds
from dollkit.explanations.engine import BUDGET_MB
from dollkit.report import style

FACTORS = ("films", "targets", "steps", "pixels")


def growth(
    model: nn.Module,
    x: torch.Tensor,
    *,
    precision: str,
    films: Sequence[int],
    targets: Sequence[int],
    steps: Sequence[int],
    sides: Sequence[int],
    rounds: int = 3,
    budget_mb: int = BUDGET_MB,
) -> pd.DataFrame:
    """Seconds while one factor grows and the others stay at the first value of their lists.

    Pixels stay at the films' own size while another factor grows. Films are taken again from the
    start where there are too few, and resized where another side is asked for.

    Returns:
        One row per point: factor (see `FACTORS`), value, seconds (median of rounds in turns),
        peak_mb (of one walk, above what was held before; NaN where the system does not tell).
    """
    lists = dict(zip(FACTORS, (films, targets, steps, sides), strict=True))
    for name, values in lists.items():
        if len(set(values)) < 2 or min(values) < 1:
            raise InputError(f"growth with {name} is asked of {list(values)}: give two or more")
    if rounds < 1 or max(targets) > len(FINDINGS):
        raise InputError(f"give rounds, and at most {len(FINDINGS)} targets")
    points = []
    for factor, values in lists.items():
        for value in values:
            at = {"films": films[0], "targets": targets[0], "steps": steps[0]}
            side = value if factor == "pixels" else x.shape[-1]
            if factor != "pixels":
                at[factor] = value
            some = x[torch.arange(at["films"], device=x.device) % len(x)]
            if side != x.shape[-1]:
                some = F.interpolate(some, size=(side, side), mode="bilinear", antialias=True)
            wanted = [list(range(at["targets"]))] * at["films"]
            points.append((factor, side**2 if factor == "pixels" else value, some, wanted, at))
    seconds: list[list[float]] = [[] for _ in points]
    for turn in range(rounds + 1):
        for i, (_, _, some, wanted, at) in enumerate(points):
            spent = walk_seconds(model, some, wanted, precision, at["steps"], budget_mb)
            if turn:
                seconds[i].append(spent)
    rows = []
    for (factor, value, some, wanted, at), took in zip(points, seconds, strict=True):
        peak = peak_mb(
            lambda s=some, w=wanted, n=at["steps"]: walk_seconds(  # type: ignore[misc]
                model, s, w, precision, n, budget_mb
            ),
            x.device,
        )
        median = statistics.median(took)
        rows.append({"factor": factor, "value": value, "seconds": median, "peak_mb": peak})
    return pd.DataFrame(rows).astype({"peak_mb": float})


def fits(table: pd.DataFrame) -> pd.DataFrame:
    """How seconds and memory grow with each factor.

    Args:
        table: of `growth`.

    Returns:
        Per factor: exponent (of ``seconds ~ value ** exponent``), each (seconds of one more, by
        a straight line) and first (seconds that the line has at none), peak_ratio (peak memory of
        the largest value over that of the smallest; NaN where unknown).
    """
    rows = []
    for factor in dict.fromkeys(table["factor"]):
        own = table[table["factor"] == factor].sort_values("value")
        n, t = own["value"].to_numpy(np.float64), own["seconds"].to_numpy(np.float64)
        each, first = _line(n, t)
        peak = own["peak_mb"].to_numpy(np.float64)
        rows.append(
            {
                "factor": factor,
                "exponent": _line(np.log(n), np.log(t))[0],
                "each": each,
                "first": first,
                "peak_ratio": peak[-1] / peak[0] if peak[0] > 0 else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(start)


def figure(table: pd.DataFrame) -> style.Drawn:
    """Four panels: seconds against films, targets, steps and pixels; peak memory beside.

    Args:
        table: of `growth`.
    """
    found = fits(table)
    exponents = dict(zip(found["factor"], found["exponent"], strict=True))
    with style.context():
        drawing = style.canvas(style.PAGE, 2.2)
        for ax, factor in zip(drawing.subplots(1, 4), FACTORS, strict=True):
            own = table[table["factor"] == factor].sort_values("value")
            ax.plot(own["value"], own["seconds"], "o-", color=style.BLUE)
            ax.set(xlabel=factor, title=f"exponent {exponents[factor]:.2f}")
            ax.set_ylim(0, 1.15 * float(own["seconds"].max()))
            if own["peak_mb"].notna().all():
                other = ax.twinx()
                other.plot(own["value"], own["peak_mb"], "s:", color=style.ORANGE)
                top = 1.15 * max(float(table["peak_mb"].max()), 1.0)
                other.set_ylim(0, top)
                other.spines["right"].set_visible(True)
                if factor == FACTORS[-1]:
                    other.set_ylabel("peak memory, MiB (squares)")
                else:
                    other.set_yticklabels([])
            if factor == FACTORS[0]:
                ax.set_ylabel("seconds (dots)")
    caption = (
        "Seconds (dots, left) and peak memory above what was held before (squares, right) of "
        "Integrated Gradients while one factor grows. Median of rounds in which all points take "
        "turns; exponent of a fit on logarithms."
    )
    return style.Drawn(drawing, table, caption)
