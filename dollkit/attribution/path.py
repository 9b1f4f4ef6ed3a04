"""Where the path of Integrated Gradients starts and at which points it is looked at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dollkit import compute
from dollkit.errors import InputError

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
