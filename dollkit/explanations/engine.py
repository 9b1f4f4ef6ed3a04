"""Integrated Gradients: many (film, target) pairs, few passes, as many steps as each pair needs.

Sundararajan et al. 2017 (arXiv 1703.01365), eq. 1, for target logit f_t, film x, baseline b:

    IG_t(x) = (x - b) * integral_0^1  d f_t / d x (b + a (x - b))  da

Completeness, ``sum(IG_t) = f_t(x) - f_t(b)``, gives the error that is reported with every map:
``|sum(IG) - (f(x) - f(b))| / |f(x) - f(b)|``, of float32 end points.

Steps. The midpoint rule of 3 n steps uses all n points of the rule of n again. So a pair starts
with few steps and goes on to three times as many, at the cost of the added points alone, until

- its completeness error is at most `max_error`, and
- its label has settled: Dice between the labels of the smaller and the larger rule, top tenth and
  Otsu's, is at least `DICE_N_VS_3N`. On the first round of four steps, its two inner points are
  the smaller rule, and `DICE_FIRST_ROUND` is asked.

Both are asked because they hardly correlate on trained classifiers (rank correlation of error and
overlap with the label of very many steps 0.1 to 0.2): positive and negative attributions cancel.

The paper gives neither steps nor baseline: both are parameters here. InterpretDL's zero baseline
lies *on the normalised input*, which is mean grey; ours are defined in pixel space.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import (
    Attribution,
    Targets,
    check_films,
    check_logits,
    check_targets,
    film_and_channel,
    nothing,
)
from dollkit.explanations.path_gradients import Floats, Walker
from dollkit.explanations.prepared import Prepared, prepare

FIRST = {"exact": 6, "fast": 4}
"""Steps that every pair gets, by mode, when `steps` is 0.

Mean Dice with 100 points, 71 pairs of validation films: with 3, 4 and 6 points 0.970, 0.987 and
0.994 for ResNet-10-T, 0.962, 0.980 and 0.995 for EfficientNet-Lite0 (SiLU; with ReLU6, four points
give it only 0.921). Four Gauss-Legendre points have less (0.978, 0.970).
"""
MAX_ERROR = {"exact": 0.3, "fast": 0.5}
"""Completeness error above which a pair has not settled, by mode, when `max_error` is 0.

After four points, 0.5 refines 8 % of EfficientNet-Lite0's pairs above, 0.3 would refine 25 %, for
a mean Dice of 0.980 and 0.989.
"""
LEAST_MOVE = {"exact": 1e-6, "fast": 1.0}
"""Logits that the completeness gap is held against where a finding moves less, by mode.

A finding that barely moves has a large relative error whatever its label is worth: one logit
spares 26 of 59 pairs the refinement whose mean Dice with 64 points was 0.972 already.
"""
DICE_N_VS_3N = 0.8
"""Dice asked of the labels of n / 3 and n steps. Of pairs that pass with n = 6, no label had less
than 0.96 with that of 162 steps (102 pairs, three trained classifiers)."""
DICE_FIRST_ROUND = 0.5
"""Dice asked of the labels of the two inner and of all four points. Of pairs that pass, 95 % of
the labels had at least 0.95 with that of 54 steps (261 pairs, three trained classifiers)."""
MIN_LOGIT_CHANGE = 1e-3
"""Logits that a finding must move from baseline to film; of less, rounding is a large part."""
MOST_STEPS = 54
BUDGET_MB = 512  # MiB

BASELINES = ("black", "white", "grey", "blur")
RULES = ("midpoint", "gausslegendre")

SMOOTH = 0.03
"""Sigma before labels are compared, as a fraction of the side; near that of labels."""
AREA, BINS, GRID = 0.1, 128, 96
"""Share of the top mask; bins of Otsu's histogram; most places a side."""


def integrated_gradients(
    model: nn.Module,
    x: torch.Tensor,
    targets: Targets,
    *,
    kind: str = "black",
    steps: int = 0,
    rule: str = "midpoint",
    precision: str = "float32",
    mode: str = "exact",
    max_error: float = 0.0,
    most_steps: int = MOST_STEPS,
    budget_mb: int = BUDGET_MB,
) -> Attribution:
    """Integrated Gradients of each film's own targets, one forward pass for all of them.

    Args:
        model: (n, 1, S, S) -> (n, outputs) logits, in eval mode; not changed.
        x: (n, 1, S, S) normalised films on the model's device.
        kind: of `baseline`.
        steps: of every pair; 0: as many as each pair needs, see above.
        rule: of `path_rule`; ``midpoint`` if `steps` is 0.
        precision: of the walk: ``bfloat16``, ``float32`` or ``float64`` (to check against). End
            points, the first layer and all sums are float32 at least: the completeness error of
            a bfloat16 sum means nothing.
        mode: ``exact`` or ``fast``, see above: where `steps` and `max_error` start if they are 0.
        max_error: completeness error above which a pair has not settled; 0: the mode's.
        most_steps: of a pair, if `steps` is 0.
        budget_mb: memory of one pass, in MiB; changes the result by rounding only.

    Returns:
        A pair has not settled if a check above fails after the last round (with `steps` of its
        own choice: where it is multiple of three, or four; else only the error is asked), if its
        map is not finite or constant, or if its logit moves less than `MIN_LOGIT_CHANGE` from
        baseline to film, which makes the relative error meaningless; such a pair is not refined.
    """
    check(steps, rule, max_error, most_steps, mode)
    check_films(x)
    base = baseline(x, kind)
    if not any(targets) or not len(x):
        check_targets(x, targets, max(chain.from_iterable(targets), default=0) + 1)
        return nothing(x)
    prepared = prepare(model, precision, x)
    x, base = x.detach().to(prepared.wide), base.detach().to(prepared.wide)
    walker = Walker(prepared, x, base, budget_mb)
    end = check_logits(_logits(prepared, x, walker.rows), len(x))
    check_targets(x, targets, end.shape[1])
    # One baseline for all films is looked at once.
    few = base[:1] if kind in ("black", "white") else base
    start = check_logits(_logits(prepared, few, walker.rows), len(few), f"the {kind} baseline")
    pairs = film_and_channel(targets, x.device)
    moved = (end - start)[pairs].float()
    first, most = (steps, steps) if steps else (FIRST[mode], most_steps)
    limits = max_error or MAX_ERROR[mode], LEAST_MOVE[mode]
    maps, used, settled = _rounds(walker, targets, moved, rule, first, most, *limits)
    return Attribution(maps, _error(maps, moved), end[pairs].float(), used, settled)


def _rounds(
    walker: Walker,
    targets: Targets,
    moved: torch.Tensor,
    rule: str,
    n: int,
    most: int,
    max_error: float,
    least_move: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps, steps used and whether settled: `n` steps, then three times as many up to `most`."""

    def has_settled(rows: torch.Tensor, coarse: torch.Tensor | None, dice: float) -> torch.Tensor:
        fine = maps[rows]
        settled = _error(fine, moved[rows], least_move) <= max_error
        settled &= fine.amax((1, 2)) > fine.amin((1, 2))
        return settled if coarse is None else settled & (agreement(coarse, fine) >= dice)

    columns, first_dice = _columns(n, rule)
    sums = torch.cat(walker.sums(targets, path_rule(rule, n)[0], columns))
    maps = sums.sum(1)
    used = torch.full_like(moved, n, dtype=torch.int64)
    flat = moved.abs() < MIN_LOGIT_CHANGE
    everything = torch.arange(len(moved), device=moved.device)
    settled = has_settled(everything, sums[:, 0] if columns.shape[1] > 1 else None, first_dice)
    del sums
    films, channels = (part.tolist() for part in film_and_channel(targets, moved.device))
    while 3 * n <= most:
        left = (~settled & ~flat).nonzero()[:, 0]
        if not len(left):
            break
        unsettled: list[list[int]] = [[] for _ in targets]
        for pair in left.tolist():
            unsettled[films[pair]].append(channels[pair])
        added = added_nodes(n)
        weights = np.full((len(added), 1), 1 / (3 * n))
        coarse = maps[left]
        maps[left] = coarse / 3 + torch.cat(walker.sums(unsettled, added, weights))[:, 0]
        n *= 3
        used[left] = n
        settled[left] = has_settled(left, coarse, DICE_N_VS_3N)
    return maps, used, settled & ~flat


def _columns(n: int, rule: str) -> tuple[Floats, float]:
    """Weights whose sum over columns is the rule, and the Dice asked of the first and the whole.

    Up to its scale, which a label does not depend on, the first column is a smaller rule.
    """
    whole = path_rule(rule, n)[1]
    index = np.arange(n)
    if rule == "midpoint" and n % 3 == 0:
        first, asked = index % 3 == 1, DICE_N_VS_3N
    elif rule == "midpoint" and n == 4:
        first, asked = (index == 1) | (index == 2), DICE_FIRST_ROUND
    else:
        return whole[:, None], 0.0
    return np.stack([whole * first, whole * ~first], 1), asked


def _error(maps: torch.Tensor, moved: torch.Tensor, least_move: float = 1e-6) -> torch.Tensor:
    gap = (maps.double().sum((1, 2)) - moved).abs()
    return (gap / moved.abs().clamp_min(least_move)).float()


def _logits(prepared: Prepared, x: torch.Tensor, rows: int) -> torch.Tensor:
    # A pass without gradients takes less memory than one of the walk with as many rows.
    return torch.cat([prepared.logits(part) for part in x.split(rows)])


def check(steps: int, rule: str, max_error: float, most_steps: int, mode: str = "exact") -> None:
    """Refuse settings of a path that `integrated_gradients`, which explains them, cannot walk."""
    if mode not in FIRST:
        raise InputError(f"parameter 'mode' is {mode!r}: use {' or '.join(FIRST)}")
    if rule not in RULES:
        raise InputError(f"parameter 'rule' is {rule!r}: use {' or '.join(RULES)}")
    if steps < 0:
        raise InputError(f"parameter 'steps' is {steps}: use 0 (as many as needed) or more")
    if steps == 0 and rule != "midpoint":
        raise InputError(
            f"parameter 'rule' is {rule!r} and 'steps' is 0: only midpoint can be refined; give "
            "a number of steps"
        )
    if not max_error >= 0:
        raise InputError(
            f"parameter 'max_error' is {max_error}: use 0 (the mode's own) or a number above"
        )
    if most_steps < 1:
        raise InputError(f"parameter 'most_steps' is {most_steps}: it must be at least 1")


def path_rule(rule: str, steps: int) -> tuple[Floats, Floats]:
    """Nodes in (0, 1) and weights (summing to 1) of a quadrature rule.

    ``midpoint`` is captum's ``riemann_middle``, ``gausslegendre`` its default.
    """
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1.0 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def added_nodes(steps: int) -> Floats:
    """Midpoints of ``3 * steps`` that are not among those of `steps`: every third one is."""
    added: Floats = path_rule("midpoint", 3 * steps)[0][np.arange(3 * steps) % 3 != 1]
    return added


def baseline(x: torch.Tensor, kind: str) -> torch.Tensor:
    """Baseline of each normalised film, in network units, as the films: (n, 1, S, S).

    ``black`` is pixel value 0, ``white`` 255, ``grey`` the film's own mean, ``blur`` the film
    without its detail (Gaussian with sigma S / 8).
    """
    if kind == "black":
        return torch.full_like(x, (0.0 - compute.MEAN) / compute.STD)
    if kind == "white":
        return torch.full_like(x, (1.0 - compute.MEAN) / compute.STD)
    if kind == "grey":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind == "blur":
        return gaussian(x, x.shape[-1] / 8)
    raise InputError(f"parameter 'baseline' is {kind!r}: use one of {', '.join(BASELINES)}")


def gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian blur of (n, 1, S, S), edges replicated; sigma in pixels, 0 is identity."""
    if sigma <= 0:
        return x
    radius = max(1, min(round(3 * sigma), x.shape[-1] - 1))
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    k = torch.exp(-0.5 * (t / sigma) ** 2)
    k = k / k.sum()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), k.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), k.view(1, 1, -1, 1))


def masks(maps: torch.Tensor) -> torch.Tensor:
    """Top tenth, and what exceeds Otsu's threshold: (pairs, S, S) -> (pairs, 2, places) bool.

    Of the smoothed positive part, on a grid of at most `GRID` places a side.
    """
    m = maps.float().clamp_min(0)[:, None]
    if m.shape[-1] > GRID:
        m = F.adaptive_avg_pool2d(m, (GRID, GRID))
    m = gaussian(m, SMOOTH * m.shape[-1]).flatten(1)
    top = m.amax(1, keepdim=True)
    m = torch.where(top > 0, m / top.clamp_min(1e-30), 0.0)
    rank = max(1, round(m.shape[1] * (1 - AREA)))
    return torch.stack([m > m.kthvalue(rank, 1, keepdim=True).values, m > otsu(m)], 1)


def otsu(m: torch.Tensor) -> torch.Tensor:
    """Otsu's threshold of each row of values in [0, 1]: (pairs, places) -> (pairs, 1)."""
    index = (m * BINS).long().clamp_(0, BINS - 1)
    count = torch.zeros(len(m), BINS, device=m.device).scatter_add_(1, index, torch.ones_like(m))
    centre = (torch.arange(BINS, device=m.device) + 0.5) / BINS
    below = count.cumsum(1)
    total = (count * centre).cumsum(1)
    above = below[:, -1:] - below
    gap = total / below.clamp_min(1) - (total[:, -1:] - total) / above.clamp_min(1)
    # The threshold is the upper edge of the best bin.
    return ((below * above * gap**2).argmax(1, keepdim=True) + 1) / BINS


def agreement(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Smaller Dice of the two `masks` between two maps of each pair: (pairs,); 1 if both empty."""
    a, b = masks(coarse), masks(fine)
    both = (a & b).sum(2)
    size = a.sum(2) + b.sum(2)
    return torch.where(size > 0, 2 * both / size.clamp_min(1), 1.0).amin(1)
