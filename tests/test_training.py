"""Losses, augmentation and scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import affine

from dollkit.common import compute
from dollkit.data.images import IGNORE
from dollkit.training import metrics
from dollkit.training.augment import NONE, Augmentation, _nearest, augment
from dollkit.training.loss_and_optimiser import weighted_bce_dice


def random_case() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=rng)
    return logits, (torch.rand(2, 3, 8, 8, generator=rng) > 0.7).to(torch.uint8)


def test_the_loss_agrees_with_cross_entropy_and_smps_dice() -> None:
    logits, y = random_case()
    ours = weighted_bce_dice(logits, y, 1.0, 0.0)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, y.float()))
    logits, y = logits[:1, :1], y[:1, :1]
    theirs = smp.losses.DiceLoss("multilabel", smooth=0.5)(logits, y.float())
    torch.testing.assert_close(weighted_bce_dice(logits, y, 1.0, 1.0), theirs)


def test_background_weight_scales_the_background_alone() -> None:
    logits, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    y[..., 0] = 1
    logits.requires_grad_()
    weighted_bce_dice(logits, y, 0.1, 0.0).backward()
    gradient = logits.grad[0, 0]  # type: ignore[index]
    assert float(gradient[0, 0] / gradient[0, 1]) == pytest.approx(-10.0)


def test_ignored_pixels_have_no_gradient_and_empty_channels_have() -> None:
    logits, y = random_case()
    y[:, :, :4] = IGNORE
    y[0, 1, 4:] = 0
    logits.requires_grad_()
    weighted_bce_dice(logits, y, 0.5, 0.5).backward()
    assert (logits.grad[:, :, :4] == 0).all()  # type: ignore[index]
    assert (logits.grad[0, 1, 4:] > 0).all()  # type: ignore[index]
    nothing = torch.full((1, 1, 4, 4), IGNORE, dtype=torch.uint8)
    assert float(weighted_bce_dice(torch.randn(1, 1, 4, 4), nothing)) == 0


def test_a_film_and_its_mask_are_moved_as_torchvision_moves_them() -> None:
    """Films within 1e-4 of their range of 4; masks equal but for ties (one pixel in 1000)."""
    side = 97
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
        film = affine(tv_tensors.Image(x[i]), interpolation=InterpolationMode.BILINEAR, **given)
        mask = affine(tv_tensors.Mask(masks[i]), **given)
        torch.testing.assert_close(moved[i], film.as_subclass(torch.Tensor), rtol=0, atol=1e-4)
        assert (warped[i] != mask.as_subclass(torch.Tensor)).float().mean() <= 1e-3
        assert (warped[i] != masks[i]).float().mean() > 0.01


def test_masks_are_those_of_grid_sample_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(45)
    masks = torch.randint(0, 256, (6, 14, 45, 45), generator=rng, dtype=torch.uint8)
    theta = torch.eye(2, 3) + 0.4 * (torch.rand(6, 2, 3, generator=rng) - 0.5)
    grid = F.affine_grid(theta, [6, 1, 45, 45], align_corners=False)
    whole = F.grid_sample(masks.float() - 255, grid, mode="nearest", align_corners=False) + 255
    assert torch.equal(_nearest(masks, grid, 255), whole.to(torch.uint8))
    assert (whole == 255).float().mean() > 0.05


def test_augmentation_off_is_the_identity_and_the_seed_decides() -> None:
    x = torch.randn(2, 1, 16, 16)
    assert augment(x, None, NONE, compute.generator(0))[0] is x
    a = augment(x, None, Augmentation(), compute.generator(1))[0]
    assert torch.equal(a, augment(x, None, Augmentation(), compute.generator(1))[0])
    assert not torch.equal(a, augment(x, None, Augmentation(), compute.generator(2))[0])
    grey = Augmentation(0.0, 0.0, 0.0, 0.5, 0.1)
    u = torch.rand(6, 2, generator=compute.generator(3)).mul(2).sub(1).view(6, 2, 1, 1, 1)
    toned = augment(x, None, grey, compute.generator(3), fill=0.0)[0]
    torch.testing.assert_close(toned, x * (1 + 0.5 * u[4]) + 0.4 * u[5])


def test_auroc_agrees_with_scikit_learn_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60) > 0.6
    scores = np.round(rng.normal(size=60) + truth, 1)
    weights = rng.integers(0, 4, (15, 60)).astype(float)
    theirs = [roc_auc_score(truth, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(metrics.weighted_auroc(truth, scores, weights), theirs, rtol=1e-12)


def test_auroc_interval_holds_the_value_and_needs_both_classes() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) > 0.5
    area, values = metrics.auroc(truth, truth + rng.normal(size=200), np.arange(200))
    lo, hi = metrics.interval(values)
    assert lo < area < hi
    assert 0.03 < hi - lo < 0.2
    assert np.isnan(metrics.auroc(np.ones(5), np.arange(5), np.arange(5))[0])


def test_overlap_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    p, t = ((rng.random((1, 12, 12)) > c).astype(np.uint8) for c in (0.5, 0.6))
    counted = metrics.counts(p, t)
    assert metrics.iou(*counted)[0] == pytest.approx(jaccard_score(t.ravel(), p.ravel()))
    assert metrics.dice(*counted)[0] == pytest.approx(f1_score(t.ravel(), p.ravel()))


def test_empty_masks_do_not_count_and_one_sided_ones_are_zero() -> None:
    masks = np.zeros((2, 4, 4), np.uint8)
    values = metrics.iou(*metrics.counts(masks, np.stack([masks[0], masks[0] + 1])))
    np.testing.assert_array_equal(values, [np.nan, 0])
    assert metrics.mean_iou(np.array([[1.0, np.nan], [0.5, np.nan]])) == 0.75
    assert np.isnan(metrics.mean_iou(np.full((2, 2), np.nan)))


def test_ignored_pixels_count_neither_way() -> None:
    truth = np.array([[[1, 1, 255], [0, 0, 255], [1, 0, 255]]], np.uint8)
    drawn = np.array([[[1, 0, 1], [1, 0, 0], [0, 0, 1]]], np.uint8)
    assert [int(c[0]) for c in metrics.counts(drawn, truth)] == [1, 1, 2]
    assert metrics.iou(*metrics.counts(drawn, truth))[0] == 0.25
    # A bool truth has no ignored pixels.
    assert [int(c[0]) for c in metrics.counts(drawn, truth == 1)] == [1, 3, 2]
