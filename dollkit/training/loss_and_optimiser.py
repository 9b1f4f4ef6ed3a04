"""How a network is optimised: settings, learning rate, batch order, parameter groups, loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.data.images import IGNORE

Batch = tuple[torch.Tensor, ...]
"""Films and targets of a step; films come first in every tensor."""
WARMUP = 0.15  # share of the steps with rising rate
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Recipe:
    """How to optimise; every arm of a comparison gets the same one but for its learning rate."""

    steps: int
    batch: int  # films per step
    lr: float  # peak learning rate
    weight_decay: float = 1e-2  # AdamW's, decoupled; not of biases and norms
    evaluate_every: int = 100  # steps; the last step is always evaluated
    precision: str = "auto"  # becomes bfloat16 or float32: a checkpoint knows what computed it
    seed: int = 0  # of batch order, augmentation and dropout

    def __post_init__(self) -> None:
        for name, fits, words in (
            ("steps", self.steps >= 1, "use 1 or more"),
            ("batch", self.batch >= 1, "use 1 or more"),
            ("evaluate_every", self.evaluate_every >= 1, "use 1 or more"),
            ("lr", 0 < self.lr < math.inf, "it must be a positive number"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "use 0 or more"),
        ):
            if not fits:
                raise InputError(f"parameter {name!r} is {getattr(self, name)!r}: {words}")
        object.__setattr__(self, "precision", compute.resolve_precision(self.precision))

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (0-based): linear warm-up, then cosine."""
        ramp = max(1, round(WARMUP * self.steps))
        if step < ramp:
            return self.lr * (step + 1) / ramp
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


def batch_indices(n: int, batch: int, step: int, seed: int) -> torch.Tensor:
    """Film indices of batch `step`: (batch,) int64, from random permutations of ``range(n)``.

    Films are drawn without replacement within a pass; a batch may span two passes, so that no film
    is dropped when `batch` does not divide `n`.
    """
    first, stop = step * batch, (step + 1) * batch
    passes = range(first // n, (stop - 1) // n + 1)
    drawn = [torch.randperm(n, generator=compute.generator(seed, 1, number)) for number in passes]
    return torch.cat(drawn)[first - passes[0] * n :][:batch]


def optimiser_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters: matrices and kernels decay, vectors do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def weighted_bce_dice(
    logits: torch.Tensor, target: torch.Tensor, background: float = 1.0, dice: float = 0.5
) -> torch.Tensor:
    """Binary cross-entropy plus soft Dice over independent sigmoid channels: a scalar float32.

    ``L = (1 - dice) * sum(w * BCE) / sum(w) + dice * mean_c(1 - D_c)`` with ``w = 1`` on object,
    ``w = background`` on background and ``w = 0`` on ignored pixels. `background` 0.1 is PSSL's
    class weight (arXiv 2207.03335). The Dice mean runs only over the (film, channel) planes that
    have an object: an empty one has no Dice gradient worth having. Both are (n, C, S, S), the
    target uint8: 0 background, 1 object, 255 ignore.
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
