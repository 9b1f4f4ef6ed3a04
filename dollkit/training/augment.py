"""Geometric and intensity augmentation of a batch of films and their masks, on any device.

One affine map per film, drawn from an explicit generator, so that batch `step` of a run is the
same after a resume; `torchvision.transforms.v2` draws one map per batch, from the global generator.
Left-right flips are left out: they would swap the patient's organs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """Half-widths of uniform draws; zero switches a part off."""

    degrees: float = 8.0  # rotation
    scale: float = 0.1  # relative: 0.9 to 1.1
    shift: float = 0.05  # as a share of the side
    contrast: float = 0.2  # relative, about mid-grey
    brightness: float = 0.08  # in pixel units of [0, 1]


NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)


def augment(
    x: torch.Tensor, masks: torch.Tensor | None, settings: Augmentation, rng: torch.Generator,
    fill: float = -2.0, fill_mask: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Augment normalised films (n, 1, S, S) and, with the same map, their masks (n, C, S, S).

    The CPU generator `rng` decides everything. Masks move by nearest neighbour, so that no label
    value is invented; `fill` (black) and `fill_mask` are the values outside the original frame.
    """
    if settings == NONE:
        return x, masks
    n = x.shape[0]
    u = (torch.rand(6, n, generator=rng) * 2 - 1).to(x.device)
    angle = u[0] * math.radians(settings.degrees)
    zoom = 1 + u[1] * settings.scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = [[cos, -sin, u[2] * 2 * settings.shift], [sin, cos, u[3] * 2 * settings.shift]]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # Sample value minus fill: grid_sample pads with zeros only.
    out = F.grid_sample(x - fill, grid, align_corners=False) + fill
    out = out * (1 + u[4] * settings.contrast).view(-1, 1, 1, 1)
    out = out + (u[5] * settings.brightness * 4).view(-1, 1, 1, 1)
    out = out.contiguous(memory_format=torch.channels_last)
    return out, None if masks is None else _nearest(masks, grid, fill_mask)


def _nearest(masks: torch.Tensor, grid: torch.Tensor, fill: int) -> torch.Tensor:
    """``grid_sample(mode="nearest")`` of whole numbers, by gathering: to the bit on the CPU."""
    n, channels, height, width = masks.shape
    x = grid[..., 0].add(1).mul_(width / 2).sub_(0.5).round_()
    y = grid[..., 1].add(1).mul_(height / 2).sub_(0.5).round_()
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    at = y.clamp_(0, height - 1).mul_(width).add_(x.clamp_(0, width - 1)).long().view(n, 1, -1)
    out = masks.flatten(2).gather(2, at.expand(-1, channels, -1)).view(masks.shape)
    return out.masked_fill_(outside.unsqueeze(1), fill)
