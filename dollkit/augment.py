"""Geometric and intensity augmentation of a batch of films and their masks, on any device.

One affine map per film, drawn from an explicit generator, so that batch `step` of a run is the
same after a resume. Left-right flips are left out: they would swap the patient's organs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """Half-widths of uniform draws; zero switches a part off.

    Attributes:
        degrees: rotation in degrees.
        scale: relative scale (0.1: 0.9 to 1.1).
        shift: translation as a fraction of the side.
        contrast: relative contrast about mid-grey.
        brightness: offset in pixel units of [0, 1].
    """

    degrees: float = 8.0
    scale: float = 0.1
    shift: float = 0.05
    contrast: float = 0.2
    brightness: float = 0.08


NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)


def augment(
    x: torch.Tensor,
    masks: torch.Tensor | None,
    how: Augmentation,
    rng: torch.Generator,
    fill: float = -2.0,
    fill_mask: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Augment normalised films and, with the same map, their masks.

    Args:
        x: (n, 1, S, S) float32 normalised films.
        masks: (n, C, S, S) uint8 label values, or None.
        how: half-widths.
        rng: CPU generator that decides everything.
        fill: film value outside the original frame (black by default).
        fill_mask: mask value outside the original frame.

    Returns:
        Augmented films, and masks (nearest neighbour, so no label value is invented) or None.
    """
    if how == NONE:
        return x, masks
    n = x.shape[0]
    u = (torch.rand(6, n, generator=rng) * 2 - 1).to(x.device)
    angle = u[0] * math.radians(how.degrees)
    zoom = 1 + u[1] * how.scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    theta = torch.stack(
        [
            torch.stack([cos, -sin, u[2] * 2 * how.shift], 1),
            torch.stack([sin, cos, u[3] * 2 * how.shift], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # Sample value minus fill: grid_sample pads with zeros only.
    out = F.grid_sample(x - fill, grid, align_corners=False) + fill
    out = out * (1 + u[4] * how.contrast).view(-1, 1, 1, 1)
    out = out + (u[5] * how.brightness * 4).view(-1, 1, 1, 1)
    out = out.contiguous(memory_format=torch.channels_last)
    if masks is None:
        return out, None
    shifted = masks.float() - fill_mask
    warped = F.grid_sample(shifted, grid, mode="nearest", align_corners=False) + fill_mask
    return out, warped.to(torch.uint8)
