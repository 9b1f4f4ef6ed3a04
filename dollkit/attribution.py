"""Integrated Gradients for several findings of a film in one pass, and the explainers beside it.

Sundararajan et al. 2017 (arXiv 1703.01365), eq. 1, for target logit f_t, film x, baseline b:

    IG_t(x) = (x - b) * integral_0^1  d f_t / d x (b + a (x - b))  da

The path is walked in chunks, so memory does not grow with the number of steps; one forward pass
serves all targets of a film, and each target costs one backward pass more. Completeness,
``sum(IG_t) = f_t(x) - f_t(b)``, gives the error that is reported with every map.

The paper names the method but neither steps nor baseline: both are parameters here. InterpretDL's
zero baseline lies *on the normalised input*, which is mean grey; ours are defined in pixel space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from dollkit import compute
from dollkit.classifiers import Classifier
from dollkit.errors import InputError

BASELINES = ("black", "grey", "blur")
EXPLAINERS = ("ig", "gradient", "gradcam")


@dataclass(frozen=True)
class Attribution:
    """Maps of (film, target) pairs.

    Attributes:
        maps: (pairs, S, S) float32, signed, summed over input channels (eq. 1 for IG).
        error: (pairs,) float32, ``|sum(IG) - (f(x) - f(b))| / max(|f(x) - f(b)|, 1e-6)``;
            NaN for explainers without completeness.
        logit: (pairs,) float32, f_t(x).
    """

    maps: torch.Tensor
    error: torch.Tensor
    logit: torch.Tensor


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
    raise InputError(f"parameter 'rule' is {rule!r}: use midpoint or gausslegendre")


def baseline(x: torch.Tensor, kind: str) -> torch.Tensor:
    """Baseline film in network units.

    Args:
        x: (n, 1, S, S) normalised films.
        kind: ``black`` (pixel value 0), ``grey`` (the film's own mean), or ``blur`` (Gaussian
            with sigma S / 8: the film without its detail).
    """
    if kind == "black":
        return torch.full_like(x, (0.0 - compute.MEAN) / compute.STD)
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


def check_targets(x: torch.Tensor, targets: Sequence[Sequence[int]], outputs: int) -> None:
    """Raise `InputError` unless there is one list of valid target channels per film."""
    if x.ndim != 4 or len(targets) != len(x):
        raise InputError(
            f"films have shape {tuple(x.shape)} and there are {len(targets)} target lists: "
            "give (n, 1, S, S) films and one list of targets for each"
        )
    for row, wanted in enumerate(targets):
        for t in wanted:
            if not 0 <= t < outputs:
                raise InputError(f"film {row}: target {t} is not in 0..{outputs - 1}")


def integrated_gradients(
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    *,
    kind: str = "black",
    steps: int = 16,
    rule: str = "midpoint",
    precision: str = "float32",
    budget: int = 256,
) -> Attribution:
    """Integrated Gradients of each film's own targets, one forward pass for all of them.

    Args:
        model: (n, 1, S, S) -> (n, outputs) logits, in eval mode.
        x: (n, 1, S, S) normalised films on the model's device.
        targets: per film, the output channels to explain; empty lists are allowed.
        kind: baseline, see `baseline`.
        steps, rule: quadrature, see `path_rule`.
        precision: of the walk; end points and sums are float32 always, since the completeness
            error of a bfloat16 sum means nothing.
        budget: most film-steps in one forward pass; bounds memory, does not change the result
            beyond rounding.

    Returns:
        `Attribution` with pairs in the order film by film, target by target.

    Raises:
        InputError: bad targets, rule or baseline.
    """
    with torch.no_grad():
        end = model(x).float()
        base = baseline(x, kind)
        start = model(base).float()
    check_targets(x, targets, end.shape[1])
    nodes, weights = path_rule(rule, steps)
    pairs = [(i, t) for i, wanted in enumerate(targets) for t in wanted]
    if not pairs:
        empty = x.new_zeros(0)
        return Attribution(x.new_zeros(0, *x.shape[2:]), empty, empty)
    offset = np.cumsum([0] + [len(w) for w in targets])
    sums = torch.zeros(len(pairs), *x.shape[1:], device=x.device)
    # Films with equally many targets share their backward passes without idle rows.
    by_count: dict[int, list[int]] = {}
    for i, wanted in enumerate(targets):
        if wanted:
            by_count.setdefault(len(wanted), []).append(i)
    frozen = [p for p in model.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        for count, films in by_count.items():
            per_film = min(steps, budget)
            group = max(1, budget // per_film)
            for g in range(0, len(films), group):
                some = films[g : g + group]
                _walk(model, x, base, some, targets, offset, count, nodes, weights, per_film,
                      precision, sums)  # fmt: skip
    finally:
        for p in frozen:
            p.requires_grad_(True)
    film = torch.tensor([i for i, _ in pairs], device=x.device)
    channel = torch.tensor([t for _, t in pairs], device=x.device)
    maps = (sums * (x - base)[film]).sum(1)
    moved = (end - start)[film, channel]
    error = (maps.sum((1, 2)) - moved).abs() / moved.abs().clamp_min(1e-6)
    return Attribution(maps, error, end[film, channel])


def _walk(
    model: nn.Module,
    x: torch.Tensor,
    base: torch.Tensor,
    films: list[int],
    targets: Sequence[Sequence[int]],
    offset: npt.NDArray[np.int64],
    count: int,
    nodes: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    chunk: int,
    precision: str,
    sums: torch.Tensor,
) -> None:
    """Add the weighted path gradients of some films, all with `count` targets, to `sums`."""
    index = torch.tensor(films, device=x.device)
    for s in range(0, len(nodes), chunk):
        a = torch.tensor(nodes[s : s + chunk], dtype=x.dtype, device=x.device)
        w = torch.tensor(weights[s : s + chunk], dtype=x.dtype, device=x.device)
        k = len(a)
        start, span = base[index], (x - base)[index]
        points = (start[:, None] + a.view(1, k, 1, 1, 1) * span[:, None]).flatten(0, 1)
        points = points.contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad(), compute.autocast(x.device, precision):
            logits = model(points)
        for r in range(count):
            channel = torch.tensor([targets[i][r] for i in films], device=x.device)
            chosen = logits.gather(1, channel.repeat_interleave(k)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, points, retain_graph=r + 1 < count)
            gradient = gradient.float().view(len(films), k, *gradient.shape[1:])
            total = (gradient * w.view(1, k, 1, 1, 1)).sum(1)
            rows = torch.tensor([int(offset[i]) + r for i in films], device=x.device)
            sums.index_add_(0, rows, total)


def gradient(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], **_: object
) -> Attribution:
    """Plain input gradient of each target's logit (Simonyan et al. 2013), signed."""
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(points).float()
    check_targets(x, targets, logits.shape[1])
    maps, values = [], []
    for r in range(max((len(w) for w in targets), default=0)):
        chosen = torch.stack([logits[i, w[r]] for i, w in enumerate(targets) if len(w) > r]).sum()
        (grad,) = torch.autograd.grad(chosen, points, retain_graph=True)
        maps.append(grad.sum(1))
        values.append(r)
    order = [(r, i, w[r]) for i, w in enumerate(targets) for r in range(len(w))]
    if not order:
        return Attribution(x.new_zeros(0, *x.shape[2:]), x.new_zeros(0), x.new_zeros(0))
    stacked = torch.stack([maps[r][i] for r, i, _ in order])
    logit = torch.stack([logits[i, t].detach() for _, i, t in order])
    return Attribution(stacked, torch.full_like(logit, float("nan")), logit)


CAM_PLACES = 8


def gradcam(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], **_: object
) -> Attribution:
    """Grad-CAM (Selvaraju et al. 2017), upsampled bilinearly.

    On the encoder's deepest features of at least `CAM_PLACES` places a side. The paper's last
    layer has that on films of 256 px and more; on small films it has three places, and its map
    can point at nothing.
    """
    if not isinstance(model, Classifier):
        raise InputError("Grad-CAM needs a dollkit classifier: it reads the encoder's features")
    kept: list[list[torch.Tensor]] = []
    hook = model.encoder.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        with torch.enable_grad():
            logits = model(x.detach().clone().requires_grad_()).float()
    finally:
        hook.remove()
    check_targets(x, targets, logits.shape[1])
    fine = [f for f in kept[0][1:] if f.shape[-1] >= min(CAM_PLACES, x.shape[-1] // 2)]
    features = fine[-1]
    # Rounds of one target per film: films do not mix in eval mode, so they share a pass.
    maps: dict[tuple[int, int], torch.Tensor] = {}
    for r in range(max((len(w) for w in targets), default=0)):
        asked = [(i, w[r]) for i, w in enumerate(targets) if len(w) > r]
        chosen = torch.stack([logits[i, t] for i, t in asked]).sum()
        (grad,) = torch.autograd.grad(chosen, features, retain_graph=True)
        weight = grad.mean((2, 3), keepdim=True)
        grid = F.relu((weight * features).sum(1)).detach().float()
        maps |= {(i, r): grid[i] for i, _ in asked}
    order = [(i, r, t) for i, w in enumerate(targets) for r, t in enumerate(w)]
    if not order:
        return Attribution(x.new_zeros(0, *x.shape[2:]), x.new_zeros(0), x.new_zeros(0))
    grid = torch.stack([maps[i, r] for i, r, _ in order])[:, None]
    up = F.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    logit = torch.stack([logits[i, t].detach() for i, _, t in order])
    return Attribution(up, torch.full_like(logit, float("nan")), logit)


def explain(
    explainer: str,
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    **how: object,
) -> Attribution:
    """One interface over the explainers: ``ig``, ``gradient``, ``gradcam``.

    `how` (kind, steps, rule, precision, budget) is used by IG alone.
    """
    table: dict[str, Callable[..., Attribution]] = {
        "ig": integrated_gradients,
        "gradient": gradient,
        "gradcam": gradcam,
    }
    if explainer not in table:
        raise InputError(f"parameter 'explainer' is {explainer!r}: use one of {', '.join(table)}")
    return table[explainer](model, x, targets, **how)
