"""Augmentation against torchvision and grid_sample."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from dollkit.common import compute
from dollkit.training.augment import Augmentation, augment


@pytest.mark.parametrize("side", [64, 97])
def test_a_film_and_its_mask_are_moved_as_torchvision_moves_them(side: int) -> None:
    """Films within 1e-4 of their range of 4; masks equal but for ties (one pixel in 1000)."""
    rng = torch.Generator().manual_seed(side)
    rough = torch.rand(5, 1, 8, 8, generator=rng) * 4
    x = F.interpolate(rough, (side, side), mode="bicubic")
    masks = torch.cat([x > 2, x > 3]).reshape(5, 2, side, side).to(torch.uint8)
    how = Augmentation(degrees=20.0, scale=0.2, shift=0.1, contrast=0.0, brightness=0.0)
    moved, warped = augment(x, masks, how, compute.generator(side), fill=0.0)
    assert warped is not None
    draws = torch.rand(6, 5, generator=compute.generator(side)) * 2 - 1
    for i, (turn, zoom, right, down) in enumerate(draws[:4].T.tolist()):
        angle, scale = math.radians(20 * turn), 1 + 0.2 * zoom
        # Ours turns and shifts the places that are looked up, torchvision the film itself.
        dx, dy = 0.1 * right * side, 0.1 * down * side
        translate = [
            -scale * (math.cos(angle) * dx + math.sin(angle) * dy),
            -scale * (math.cos(angle) * dy - math.sin(angle) * dx),
        ]
        given = {"angle": -20 * turn, "translate": translate, "scale": scale, "shear": [0.0, 0.0]}
        film = v2.functional.affine(
            tv_tensors.Image(x[i]), interpolation=v2.InterpolationMode.BILINEAR, **given
        )
        mask = v2.functional.affine(tv_tensors.Mask(masks[i]), **given)
        torch.testing.assert_close(moved[i], film.as_subclass(torch.Tensor), rtol=0, atol=1e-4)
        assert (warped[i] != mask.as_subclass(torch.Tensor)).float().mean() <= 1e-3
        assert (warped[i] != masks[i]).float().mean() > 0.01


@pytest.mark.parametrize(("channels", "side", "fill"), [(1, 32, 0), (3, 45, 255), (14, 64, 7)])
def test_masks_are_those_of_grid_sample_to_the_bit(channels: int, side: int, fill: int) -> None:
    rng = torch.Generator().manual_seed(side)
    masks = torch.randint(0, 256, (6, channels, side, side), generator=rng, dtype=torch.uint8)
    x = torch.zeros(6, 1, side, side)
    how = Augmentation(40.0, 0.3, 0.3, 0.0, 0.0)
    _, warped = augment(x, masks, how, compute.generator(1), fill_mask=fill)
    u = torch.rand(6, 6, generator=compute.generator(1)) * 2 - 1
    zoom, angle = 1 + u[1] * 0.3, u[0] * math.radians(40)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = [[cos, -sin, u[2] * 2 * 0.3], [sin, cos, u[3] * 2 * 0.3]]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, [6, 1, side, side], align_corners=False)
    whole = F.grid_sample(masks.float() - fill, grid, mode="nearest", align_corners=False) + fill
    assert warped is not None
    assert torch.equal(warped, whole.to(torch.uint8))
    assert (warped == fill).float().mean() > 0.1
