"""How a network is optimised: settings, learning rate, batch order, parameter groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError

Batch = tuple[torch.Tensor, ...]
"""Films and targets of a step; films come first in every tensor."""
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """How to optimise; every arm of a comparison gets the same one but for its learning rate.

    Attributes:
        steps: optimiser steps.
        batch: films per step.
        lr: peak learning rate (linear warm-up, then down to zero by `schedule`).
        backbone: rate of the encoder as a share of `lr` (PSSL: 0.1).
        weight_decay: decoupled for AdamW, L2 for SGD; not applied to biases and norms.
        warmup: share of the steps with rising rate.
        schedule: ``cosine``; or ``constant``, which has no warm-up either, as PSSL pre-trains.
        optimizer: ``adamw``, or ``sgd`` with momentum 0.9 (PSSL).
        clip: largest gradient norm.
        evaluate_every: steps between evaluations (the last step is always evaluated).
        precision: ``bfloat16`` (autocast) or ``float32``; given as ``auto``, it becomes what
            `compute.resolve_precision` says, so that a checkpoint knows what computed it.
        at_once: most films in one pass; a larger batch is accumulated. 0: the whole batch, and
            half of it each time that memory runs out.
        seed: of batch order, augmentation and dropout.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 1e-2
    warmup: float = 0.15
    optimizer: str = "adamw"
    clip: float = 1.0
    evaluate_every: int = 100
    precision: str = "auto"
    seed: int = 0
    schedule: str = "cosine"
    at_once: int = 0
    backbone: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("evaluate_every", 1), ("at_once", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"parameter {name!r} is {getattr(self, name)}: it must be at least {least}"
                )
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise InputError(f"parameter 'lr' is {self.lr}: it must be a positive number")
        if not self.weight_decay >= 0 or not math.isfinite(self.weight_decay):
            raise InputError(f"parameter 'weight_decay' is {self.weight_decay}: give 0 or more")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"parameter 'warmup' is {self.warmup}: it must lie in [0, 1]")
        if not self.clip > 0:
            raise InputError(f"parameter 'clip' is {self.clip}: it must be above 0")
        if not 0 < self.backbone <= 1:
            raise InputError(f"parameter 'backbone' is {self.backbone}: it must lie in (0, 1]")
        if self.optimizer not in {"adamw", "sgd"}:
            raise InputError(f"parameter 'optimizer' is {self.optimizer!r}: use adamw or sgd")
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"parameter 'schedule' is {self.schedule!r}: use one of {', '.join(SCHEDULES)}"
            )
        object.__setattr__(self, "precision", compute.resolve_precision(self.precision))

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step` (0-based)."""
        if self.schedule == "constant":
            return self.lr
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return self.lr * (step + 1) / ramp
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


def order(n: int, batch: int, step: int, seed: int) -> torch.Tensor:
    """Film indices of batch `step`: passes over random permutations of ``range(n)``, cut anew.

    Returns:
        (batch,) int64. Films are drawn without replacement within a pass; a batch may span two
        passes, so that no film is dropped when `batch` does not divide `n`.
    """
    first = step * batch
    parts: list[torch.Tensor] = []
    while first < (step + 1) * batch:
        epoch, at = divmod(first, n)
        stop = min(n, at + (step + 1) * batch - first)
        parts.append(torch.randperm(n, generator=compute.generator(seed, 1, epoch))[at:stop])
        first += stop - at
    return torch.cat(parts)


def parameter_groups(
    model: nn.Module, weight_decay: float, backbone: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices and kernels decay, vectors do not.

    With `backbone` below one the encoder's have groups of their own, marked by ``scale``: the
    share of the rate that they get.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    scales = (1.0,) if backbone == 1 else (1.0, backbone)

    def group(scale: float, vectors: bool) -> list[nn.Parameter]:
        return [
            p
            for n, p in named
            if (p.ndim <= 1) == vectors
            and (len(scales) == 1 or n.startswith("encoder.") == (scale != 1))
        ]

    return [
        {"params": group(s, vectors), "weight_decay": 0.0 if vectors else weight_decay, "scale": s}
        for s in scales
        for vectors in (False, True)
    ]


def optimiser_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Optimiser of the model's trainable parameters."""
    groups = parameter_groups(model, recipe.weight_decay, recipe.backbone)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
