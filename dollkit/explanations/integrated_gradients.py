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

Both are asked because they hardly correlate on trained classifiers: positive and negative
attributions cancel. The paper gives neither steps nor baseline: both are parameters here.

A pass takes some films with equally many targets, so that no backward pass has idle rows, and
all or some of the path's points. One forward pass serves all targets of its films; each target
costs one backward pass more.
"""

from __future__ import annotations

import logging
from collections import deque

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import (
    Attribution,
    Targets,
    check_logits,
    check_targets,
    film_and_channel,
)
from dollkit.explanations.prepared_classifier import Prepared, prepare

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
FIRST_STEPS = {"exact": 6, "fast": 4}
"""Steps that every pair gets, by mode, when `steps` is 0.

Mean Dice with 100 points, 71 pairs of validation films: with 3, 4 and 6 points 0.970, 0.987 and
0.994 for ResNet-10-T, 0.962, 0.980 and 0.995 for EfficientNet-Lite0.
"""
MAX_ERROR = {"exact": 0.3, "fast": 0.5}
"""Completeness error above which a pair has not settled, by mode, when `max_error` is 0."""
ERROR_FLOOR = {"exact": 1e-6, "fast": 1.0}
"""Logits that the completeness gap is held against where a finding changes less, by mode.

A finding that barely changes has a large relative error whatever its label is worth.
"""
DICE_N_VS_3N = 0.8
"""Dice asked of the labels of n / 3 and n steps: those that pass with n = 6 have 0.96 or more with
that of 162 steps (102 pairs)."""
DICE_FIRST_ROUND = 0.5
"""Dice asked of the labels of the two inner and of all four points: 95 % of those that pass have
0.95 or more with that of 54 steps (261 pairs)."""
MIN_LOGIT_CHANGE = 1e-3
"""Logits that a finding must change from baseline to film; of less, rounding is a large part."""
MOST_STEPS = 54
BUDGET_MB = 512  # MiB
CPU_ROWS = 48
"""Most film-steps in one pass on a CPU: more is no faster, its caches are full."""

BASELINES = ("black", "white", "grey", "blur")
RULES = ("midpoint", "gausslegendre")

SIGMA = 0.03
"""Sigma before labels are compared, as a fraction of the side; near that of labels."""
TOP_SHARE, BINS, GRID = 0.1, 128, 96
"""Share of the top mask; bins of Otsu's histogram; most places a side."""


def integrated_gradients(
    model: nn.Module,
    x: torch.Tensor,
    targets: Targets,
    *,
    baseline: str = "black",
    steps: int = 0,
    rule: str = "midpoint",
    precision: str = "float32",
    mode: str = "exact",
    max_error: float = 0.0,
    most_steps: int = MOST_STEPS,
    budget_mb: int = BUDGET_MB,
) -> Attribution:
    """Integrated Gradients of each film's own targets, one forward pass for all of them.

    `x` are (n, 1, S, S) normalised films on the model's device; the model is in eval mode and not
    changed. `steps` are of every pair; 0: as many as each needs, up to `most_steps`. `precision` is
    of the walk: end points, first layer and all sums are float32 at least (the completeness error
    of a bfloat16 sum means nothing). `max_error` 0 is the mode's. `budget_mb`, the memory of one
    pass in MiB, changes the result by rounding only.

    A pair has not settled if a check above fails after the last round (with `steps` of its own
    choice: where it is multiple of three, or four; else only the error is asked), if its map is
    not finite or constant, or if its logit changes less than `MIN_LOGIT_CHANGE` from baseline to
    film; such a pair is not refined.
    """
    check_path(steps, rule, max_error, most_steps, mode)
    base = baseline_films(x, baseline)
    prepared = prepare(model, precision, x)
    x, base = x.detach().to(prepared.wide), base.detach().to(prepared.wide)
    walker = Walker(prepared, x, base, budget_mb)
    end = check_logits(prepared.logits(x, walker.rows), len(x))
    check_targets(x, targets, end.shape[1])
    # One baseline for all films is looked at once.
    few = base[:1] if baseline in ("black", "white") else base
    start = check_logits(prepared.logits(few, walker.rows), len(few), f"the {baseline} baseline")
    pairs = film_and_channel(targets, x.device)
    change = (end - start)[pairs].float()
    unchanged = change.abs() < MIN_LOGIT_CHANGE
    n, most = (steps, steps) if steps else (FIRST_STEPS[mode], most_steps)

    def has_settled(rows: torch.Tensor, coarse: torch.Tensor | None, dice: float) -> torch.Tensor:
        fine = maps[rows]
        error = _error(fine, change[rows], ERROR_FLOOR[mode])
        settled = error <= (max_error or MAX_ERROR[mode])
        settled &= fine.amax((1, 2)) > fine.amin((1, 2))
        return settled if coarse is None else settled & (mask_dice(coarse, fine).amin(1) >= dice)

    columns, first_dice = _columns(n, rule)
    sums = torch.cat(walker.sums(targets, path_rule(rule, n)[0], columns))
    maps = sums.sum(1)
    used = torch.full_like(change, n, dtype=torch.int64)
    everything = torch.arange(len(change), device=x.device)
    settled = has_settled(everything, sums[:, 0] if columns.shape[1] > 1 else None, first_dice)
    del sums
    while 3 * n <= most:
        left = (~settled & ~unchanged).nonzero()[:, 0]
        if not len(left):
            break
        unsettled: list[list[int]] = [[] for _ in targets]
        for film, channel in zip(*(part[left].tolist() for part in pairs), strict=True):
            unsettled[film].append(channel)
        # Every third midpoint of 3 n steps is one of n.
        added = path_rule(rule, 3 * n)[0][np.arange(3 * n) % 3 != 1]
        weights = np.full((len(added), 1), 1 / (3 * n))
        coarse = maps[left]
        maps[left] = coarse / 3 + torch.cat(walker.sums(unsettled, added, weights))[:, 0]
        n *= 3
        used[left] = n
        settled[left] = has_settled(left, coarse, DICE_N_VS_3N)
    settled &= ~unchanged
    return Attribution(maps, _error(maps, change), end[pairs].float(), used, settled)


def _columns(n: int, rule: str) -> tuple[Floats, float]:
    """Weights whose sum over columns is the rule, and the Dice asked of the first and the whole.

    Up to its scale, which a label does not depend on, the first column is a smaller rule.
    """
    whole = path_rule(rule, n)[1]
    index = np.arange(n)
    if rule == "midpoint" and n % 3 == 0:
        first, dice = index % 3 == 1, DICE_N_VS_3N
    elif rule == "midpoint" and n == 4:
        first, dice = (index == 1) | (index == 2), DICE_FIRST_ROUND
    else:
        return whole[:, None], 0.0
    return np.stack([whole * first, whole * ~first], 1), dice


def _error(maps: torch.Tensor, change: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    gap = (maps.double().sum((1, 2)) - change).abs()
    return (gap / change.abs().clamp_min(floor)).float()


def check_path(
    steps: int, rule: str, max_error: float, most_steps: int, mode: str = "exact"
) -> None:
    """Refuse settings of a path that cannot be walked."""
    for name, value, known in (("mode", mode, tuple(FIRST_STEPS)), ("rule", rule, RULES)):
        if value not in known:
            raise InputError(f"parameter {name!r} is {value!r}: use {' or '.join(known)}")
    if steps == 0 and rule != "midpoint":
        raise InputError(
            f"parameter 'rule' is {rule!r} and 'steps' is 0: only midpoint can be refined; give "
            "a number of steps"
        )
    for name, number, least in (
        ("steps", steps, 0), ("max_error", max_error, 0), ("most_steps", most_steps, 1)
    ):  # fmt: skip
        if not number >= least:
            raise InputError(f"parameter {name!r} is {number}: use {least} or more")


class Walker:
    """Sums of path gradients for (n, C, S, S) films that share a budget of memory.

    `rows` are the film-steps in one pass now; they are halved when memory runs out.
    """

    def __init__(
        self, prepared: Prepared, x: torch.Tensor, base: torch.Tensor, budget_mb: int
    ) -> None:
        if budget_mb < 1:
            raise InputError(f"parameter 'budget_mb' is {budget_mb}: it must be at least 1")
        self.prepared, self.x, self.base = prepared, x, base
        fits = (budget_mb << 20) // max(1, prepared.row_bytes)
        self.rows = max(1, fits if x.is_cuda else min(fits, CPU_ROWS))

    def sums(self, targets: Targets, nodes: Floats, columns: Floats) -> list[torch.Tensor]:
        """Weighted sums of the maps, times ``x - b``: per film (targets, c, S, S).

        `nodes` are (k,) points in [0, 1], `columns` the (k, c) weights of c different sums.
        """
        shape = columns.shape[1], *self.x.shape[2:]
        out = [self.x.new_zeros(len(w), *shape) for w in targets]
        work = self._plan(targets, len(nodes))
        while work:
            films, part = work.popleft()
            try:
                maps = self._pass(films, targets, nodes[part], columns[part])
            except (MemoryError, RuntimeError) as problem:
                if not compute.out_of_memory(problem):
                    raise
                maps = None
            if maps is None:  # outside the handler: it would keep the failed pass alive
                work.extendleft(reversed(self._halves(films, part)))
                continue
            for film, of_film in zip(films, maps, strict=True):
                out[film] += of_film
        return out

    def _plan(self, targets: Targets, k: int) -> deque[tuple[list[int], slice]]:
        by_count: dict[int, list[int]] = {}
        for film, channels in enumerate(targets):
            if channels:
                by_count.setdefault(len(channels), []).append(film)
        group, part = max(1, self.rows // k), min(k, self.rows)
        return deque(
            (films[g : g + group], slice(s, min(s + part, k)))
            for _, films in sorted(by_count.items())
            for g in range(0, len(films), group)
            for s in range(0, k, part)
        )

    def _halves(self, films: list[int], part: slice) -> list[tuple[list[int], slice]]:
        """Two passes in place of one that memory did not hold."""
        points = part.stop - part.start
        if len(films) == points == 1:
            raise InputError(
                "memory does not hold one film at one point of the path: use smaller films, a "
                "smaller classifier or a machine with more memory"
            )
        self.rows = max(1, min(self.rows, len(films) * points) // 2)
        compute.release_memory(self.x.device)
        log.warning("out of memory: %d film-steps in a pass from here on", self.rows)
        if len(films) > 1:
            half = len(films) // 2
            return [(films[:half], part), (films[half:], part)]
        middle = part.start + points // 2
        return [(films, slice(part.start, middle)), (films, slice(middle, part.stop))]

    def _pass(
        self, films: list[int], targets: Targets, nodes: Floats, columns: Floats
    ) -> torch.Tensor:
        """Maps of some films with equally many targets: (films, targets, c, S, S)."""
        p, k, device = self.prepared, len(nodes), self.x.device
        index = torch.tensor(films, device=device)
        x, base = self.x[index].requires_grad_(), self.base[index]
        with torch.enable_grad():
            top = p.enter(x)  # its graph is the adjoint of the first layer
        with torch.no_grad():
            start = p.enter(base)
            a = torch.tensor(nodes, dtype=p.wide, device=device).view(1, k, 1, 1, 1)
            points = torch.lerp(start[:, None], top.detach()[:, None], a).flatten(0, 1)
        points = points.to(p.narrow).contiguous(memory_format=torch.channels_last)
        points.requires_grad_()
        with torch.enable_grad():
            logits = p.body(points)
        channels = torch.tensor([targets[i] for i in films], device=device)
        maps = self.x.new_empty(*channels.shape, columns.shape[1], *self.x.shape[2:])
        last = channels.shape[1] - 1
        for r in range(last + 1):
            chosen = logits.gather(1, channels[:, r].repeat_interleave(k)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, points, retain_graph=r < last)
            gradient = gradient.unflatten(0, (len(films), k))
            for c, weights in enumerate(columns.T):
                total = torch.zeros_like(gradient[:, 0], dtype=p.wide)
                for j in np.flatnonzero(weights):
                    total.add_(gradient[:, j], alpha=float(weights[j]))
                if p.stem is not None:
                    (total,) = torch.autograd.grad(top, x, total, retain_graph=True)
                maps[:, r, c] = ((x.detach() - base) * total).sum(1)
        return maps


def path_rule(rule: str, steps: int) -> tuple[Floats, Floats]:
    """Nodes in (0, 1) and weights (summing to 1) of a quadrature rule.

    ``midpoint`` is captum's ``riemann_middle``, ``gausslegendre`` its default.
    """
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1.0 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def baseline_films(x: torch.Tensor, baseline: str) -> torch.Tensor:
    """Baseline of each normalised film, in network units, as the films: (n, 1, S, S).

    ``black`` is pixel value 0, ``white`` 255, ``grey`` the film's own mean, ``blur`` the film
    without its detail (Gaussian with sigma S / 8).
    """
    if baseline == "black":
        return torch.full_like(x, (0.0 - compute.MEAN) / compute.STD)
    if baseline == "white":
        return torch.full_like(x, (1.0 - compute.MEAN) / compute.STD)
    if baseline == "grey":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if baseline == "blur":
        return gaussian(x, x.shape[-1] / 8)
    raise InputError(f"parameter 'baseline' is {baseline!r}: use one of {', '.join(BASELINES)}")


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
    m = gaussian(m, SIGMA * m.shape[-1]).flatten(1)
    top = m.amax(1, keepdim=True)
    m = torch.where(top > 0, m / top.clamp_min(1e-30), 0.0)
    rank = max(1, round(m.shape[1] * (1 - TOP_SHARE)))
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


def mask_dice(maps: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Dice of both `masks` of two maps of each pair: (pairs, 2); 1 where both are empty."""
    a, b = masks(maps), masks(others)
    both, size = (a & b).sum(2), a.sum(2) + b.sum(2)
    return torch.where(size > 0, 2 * both / size.clamp_min(1), 1.0)
