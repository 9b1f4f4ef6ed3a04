"""Integrated Gradients: many (film, target) pairs, few passes, as many steps as each pair needs.

Sundararajan et al. 2017 (arXiv 1703.01365), eq. 1, for target logit f_t, film x, baseline b:

    IG_t(x) = (x - b) * integral_0^1  d f_t / d x (b + a (x - b))  da

Completeness, ``sum(IG_t) = f_t(x) - f_t(b)``, gives the error that is reported with every map:
``|sum(IG) - (f(x) - f(b))| / |f(x) - f(b)|``, of float32 end points.

Steps. The midpoint rule of 3 n steps uses all n points of the rule of n again. So a pair starts
with few steps and goes on to three times as many, at the cost of the added points alone, until

- its completeness error is at most `max_error`, and
- its label has settled: Dice between the labels of the smaller and the larger rule, top tenth and
  Otsu's, is at least `THIRDS`. On the first round of four steps, its two inner points stand for
  the smaller rule, and `INNER` is asked.

Both are asked because they see different things: on trained classifiers, completeness error and
overlap with the label of very many steps had next to no rank correlation (0.1 to 0.2; for the
overlap of two rules 0.3 to 0.6). Positive and negative attributions cancel: the sum of a map was
a hundredth of the sum of its absolute values, so that the error says little about where they lie.

Modes. ``exact`` starts with six points and allows an error of 0.3. ``fast`` starts with four and
allows 0.5, or half a logit where a finding moves by less than one, in whatever precision. Fewer
points are not enough: see `FIRST`.

The paper names the method but neither steps nor baseline: both are parameters here. InterpretDL's
zero baseline lies *on the normalised input*, which is mean grey; ours are defined in pixel space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Attribution, check_films, check_logits, check_targets
from dollkit.explanations.path_gradients import Walker
from dollkit.explanations.prepared import Prepared, prepare

FIRST = {"exact": 6, "fast": 4}
"""Steps that every pair gets, by mode, when `steps` is 0.

Mean Dice with 100 points, 71 pairs of 24 validation films of 96 px, trained with SiLU: with 3, 4
and 6 points 0.970, 0.987 and 0.994 for ResNet-10-T, 0.962, 0.980 and 0.995 for EfficientNet-Lite0.
Four Gauss-Legendre points have less (0.978, 0.970). Points that lie denser near the film help the
first network and harm the second (0.992, 0.970); Richardson's extrapolation of 1 and 3 points
harms too (0.957 for ResNet-10-T). With ReLU6, four points give EfficientNet-Lite0 only 0.921.
"""
MAX_ERROR = {"exact": 0.3, "fast": 0.5}
"""Completeness error above which a pair has not settled, by mode, when `max_error` is 0.

After four points, 0.5 refines 8 % of EfficientNet-Lite0's pairs above, 0.3 would refine 25 %, for
a mean Dice of 0.980 and 0.989.
"""
LEAST_MOVE = {"exact": 1e-6, "fast": 1.0}
"""Logits that the completeness gap is held against where a finding moves less, by mode.

A finding that barely moves has a large relative error whatever its label is worth. Of 576 pairs of
60 validation films and three classifiers, 59 had an error above 0.5 after four points. One logit
spares 26 of them the refinement; their mean Dice with 64 points was 0.972 already.
"""
THIRDS = 0.8
"""Dice asked of the labels of n / 3 and n steps. Of pairs that pass with n = 6, no label had less
than 0.96 with that of 162 steps (float32; 102 pairs, three trained classifiers)."""
INNER = 0.5
"""Dice asked of the labels of the two inner and of all four points. Of pairs that pass, 95 % of the
labels had at least 0.95 with that of 54 steps (bfloat16; 261 pairs of validation films, three
trained classifiers). At 0.6, 6 % more of the pairs are refined for 0.001 of mean Dice."""
FLAT = 1e-3
"""Logits that a finding must move from baseline to film; of less, rounding is a large part."""
MOST_STEPS = 54
BUDGET_MB = 512


def integrated_gradients(
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
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
        targets: per film, the output channels to explain; empty lists are allowed.
        kind: baseline, see `path.baseline`.
        steps: of every pair; 0: as many as each pair needs, see above.
        rule: quadrature, see `path.path_rule`; ``midpoint`` if `steps` is 0.
        precision: of the walk: ``bfloat16``, ``float32`` or ``float64`` (to check against). End
            points, the first layer and all sums are float32 at least: the completeness error of
            a bfloat16 sum means nothing.
        mode: ``exact`` or ``fast``, see above: where `steps` and `max_error` start if they are 0.
        max_error: completeness error above which a pair has not settled; 0: the mode's.
        most_steps: of a pair, if `steps` is 0.
        budget_mb: memory of one pass, in MiB; changes the result by rounding only.

    Returns:
        `Attribution` with pairs in the order film by film, target by target. A pair has not
        settled if a check above fails after the last round (with `steps` of its own choice: where
        it is multiple of three, or four; else only the error is asked), if its map is not finite
        or constant, or if its logit moves less than `FLAT` from baseline to film, which makes
        the relative error meaningless; such a pair is not refined.
    """
    check(steps, rule, max_error, most_steps, mode)
    check_films(x)
    base = baseline(x, kind)
    if not any(targets) or not len(x):
        check_targets(x, targets, max((t + 1 for w in targets for t in w), default=0))
        return _nothing(x)
    nodes, _ = path_rule(rule, steps or FIRST[mode])
    prepared = prepare(model, precision, x)
    x, base = x.detach().to(prepared.wide), base.detach().to(prepared.wide)
    walker = Walker(prepared, x, base, budget_mb)
    end = check_logits(_logits(prepared, x, walker.rows), len(x))
    check_targets(x, targets, end.shape[1])
    # One baseline for all films is looked at once.
    few = base[:1] if kind in ("black", "white") else base
    start = check_logits(_logits(prepared, few, walker.rows), len(few), f"the {kind} baseline")
    film, channel = _pairs(targets, x.device)
    moved = (end - start)[film, channel].float()
    most = most_steps if steps == 0 else steps
    asked = max_error or MAX_ERROR[mode], LEAST_MOVE[mode]
    maps, used, settled = _rounds(walker, targets, nodes, rule, steps, moved, *asked, most)
    return Attribution(maps, _error(maps, moved), end[film, channel].float(), used, settled)


def _rounds(
    walker: Walker,
    targets: Sequence[Sequence[int]],
    nodes: npt.NDArray[np.float64],
    rule: str,
    steps: int,
    moved: torch.Tensor,
    max_error: float,
    least_move: float,
    most: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps, steps used and whether settled, refined round by round."""
    n = len(nodes)
    columns, asked = _columns(n, rule, steps)
    sums = torch.cat(walker.sums(targets, nodes, columns))
    maps = sums.sum(1)
    used = torch.full_like(moved, n, dtype=torch.int64)
    flat = moved.abs() < FLAT

    def calm(rows: torch.Tensor, coarse: torch.Tensor | None, least: float) -> torch.Tensor:
        m = maps[rows]
        fine = _error(m, moved[rows], least_move) <= max_error
        fine &= m.amax((1, 2)) > m.amin((1, 2))
        return fine if coarse is None else fine & (agreement(coarse, m) >= least)

    every = torch.arange(len(moved), device=moved.device)
    settled = calm(every, sums[:, 0] if columns.shape[1] > 1 else None, asked)
    del sums
    films, _ = _pairs(targets, moved.device)
    channels = [t for wanted in targets for t in wanted]
    while steps == 0 and 3 * n <= most:
        left = (~settled & ~flat).nonzero()[:, 0]
        if not len(left):
            break
        some: list[list[int]] = [[] for _ in targets]
        for pair in left.tolist():
            some[int(films[pair])].append(channels[pair])
        added = added_nodes(n)
        weights = np.full((len(added), 1), 1 / (3 * n))
        coarse = maps[left]
        maps[left] = coarse / 3 + torch.cat(walker.sums(some, added, weights))[:, 0]
        n *= 3
        used[left] = n
        settled[left] = calm(left, coarse, THIRDS)
    return maps, used, settled & ~flat


def _columns(n: int, rule: str, steps: int) -> tuple[npt.NDArray[np.float64], float]:
    """Weights whose sum over columns is the rule, and the Dice asked of the first and the whole.

    Up to its scale, which a label does not depend on, the first column is a smaller rule.
    """
    whole = path_rule(rule, n)[1]
    index = np.arange(n)
    if rule == "midpoint" and n % 3 == 0:
        first, asked = index % 3 == 1, THIRDS
    elif rule == "midpoint" and n == 4:
        first, asked = (index == 1) | (index == 2), INNER
    else:
        return whole[:, None], 0.0
    return np.stack([whole * first, whole * ~first], 1), asked


def _error(maps: torch.Tensor, moved: torch.Tensor, least_move: float = 1e-6) -> torch.Tensor:
    gap = (maps.double().sum((1, 2)) - moved).abs()
    return (gap / moved.abs().clamp_min(least_move)).float()


def _logits(prepared: Prepared, x: torch.Tensor, rows: int) -> torch.Tensor:
    # A pass without gradients takes less memory than one of the walk with as many rows.
    return torch.cat([prepared.logits(part) for part in x.split(rows)])


def _pairs(
    targets: Sequence[Sequence[int]], where: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    film = [i for i, wanted in enumerate(targets) for _ in wanted]
    channel = [t for wanted in targets for t in wanted]
    return torch.tensor(film, device=where), torch.tensor(channel, device=where)


def _nothing(x: torch.Tensor) -> Attribution:
    none = x.new_zeros(0)
    return Attribution(x.new_zeros(0, *x.shape[2:]), none, none, none.long(), none.bool())


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


# Where the path of Integrated Gradients starts and at which points it is looked at.


BASELINES = ("black", "white", "grey", "blur")
RULES = ("midpoint", "gausslegendre")


def path_rule(rule: str, steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes in (0, 1) and weights (summing to 1) of a quadrature rule.

    Args:
        rule: ``midpoint`` (captum's ``riemann_middle``) or ``gausslegendre`` (captum's default).
        steps: number of nodes, at least 1.
    """
    if steps < 1:
        raise InputError(f"parameter 'steps' is {steps}: it must be at least 1")
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1.0 / steps)
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    raise InputError(f"parameter 'rule' is {rule!r}: use {' or '.join(RULES)}")


def added_nodes(steps: int) -> npt.NDArray[np.float64]:
    """Midpoints of ``3 * steps`` that are not among those of `steps`: every third one is."""
    index = np.arange(3 * steps)
    added: npt.NDArray[np.float64] = path_rule("midpoint", 3 * steps)[0][index % 3 != 1]
    return added


def baseline(x: torch.Tensor, kind: str) -> torch.Tensor:
    """Baseline film in network units.

    Args:
        x: (n, 1, S, S) normalised films.
        kind: ``black`` (pixel value 0), ``white`` (255), ``grey`` (the film's own mean), or
            ``blur`` (Gaussian with sigma S / 8: the film without its detail).
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


# Have a label and its path integral settled? Asked of two rules of which one has more points.


SMOOTH = 0.03
"""Gaussian sigma as a fraction of the side, near that of labels; thresholds were found with it."""
AREA = 0.1
BINS = 128
GRID = 96


def masks(maps: torch.Tensor) -> torch.Tensor:
    """The two masks that labels are made of: the top tenth, and what lies above Otsu's threshold.

    Of the smoothed positive part, on a grid of at most `GRID` places a side.

    Args:
        maps: (pairs, S, S) signed.

    Returns:
        (pairs, 2, places) bool.
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
    """Smaller Dice of the two kinds of mask between two maps of each pair.

    Args:
        coarse, fine: (pairs, S, S) signed.

    Returns:
        (pairs,) float32; one where both masks are empty.
    """
    a, b = masks(coarse), masks(fine)
    both = (a & b).sum(2)
    size = a.sum(2) + b.sum(2)
    return torch.where(size > 0, 2 * both / size.clamp_min(1), 1.0).amin(1)
