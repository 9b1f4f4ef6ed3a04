"""Losses for multi-label pixels with an ignore value and down-weighted background."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dollkit.data.images import IGNORE

__all__ = ["IGNORE", "weighted_bce_dice"]


def weighted_bce_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    background: float = 1.0,
    dice: float = 0.5,
) -> torch.Tensor:
    """Binary cross-entropy plus soft Dice over independent sigmoid channels.

    ``L = (1 - dice) * sum(w * BCE) / sum(w) + dice * mean_c(1 - D_c)`` with ``w = 1`` on object,
    ``w = background`` on background and ``w = 0`` on ignored pixels. `background` 0.1 is PSSL's
    class weight (arXiv 2207.03335). The Dice mean runs only over the (film, channel) planes that
    have an object: an empty plane has no Dice gradient worth having, and the cross-entropy
    already teaches it.

    Args:
        logits: (n, C, S, S).
        target: (n, C, S, S) uint8: 0 background, 1 object, 255 ignore.
        background: weight of background pixels, in (0, 1].
        dice: share of the Dice term, in [0, 1].

    Returns:
        Scalar float32.
    """
    logits = logits.float()
    object_ = (target == 1).float()
    weight = torch.where(target == 1, 1.0, background).masked_fill(target == IGNORE, 0.0)
    bce = F.binary_cross_entropy_with_logits(logits, object_, weight=weight, reduction="sum")
    value = (1 - dice) * bce / weight.sum().clamp_min(1.0)
    if dice > 0:
        known = (target != IGNORE).float()
        p = torch.sigmoid(logits) * known
        overlap = (p * object_).sum((2, 3))
        total = p.sum((2, 3)) + object_.sum((2, 3))
        present = (object_.sum((2, 3)) > 0).float()
        planes = 1 - (2 * overlap + 1) / (total + 1)
        value = value + dice * (planes * present).sum() / present.sum().clamp_min(1.0)
    return value
