"""Have a label and its path integral settled? Asked of two rules of which one has more points."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dollkit.attribution.path import gaussian

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
