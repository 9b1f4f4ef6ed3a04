"""Exponential moving average of a network's weights and buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

State = dict[str, torch.Tensor]


def copy_of(model: nn.Module) -> State:
    """Copies of a model's tensors, by name."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


class Average:
    """Average of a model's tensors; whole numbers (counters) are taken as they are.

    A dictionary of tensors, not `torch.optim.swa_utils.AveragedModel`: that holds a second model,
    and its decay cannot warm up without a wait for the device in every step.

    Args:
        model: whose tensors the average starts from.
        decay: of the average in the long run; ``min(decay, (1 + t) / (10 + t))`` at update t.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = copy_of(model)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = model.state_dict()
        real = [k for k, v in self.state.items() if v.is_floating_point()]
        if real:
            torch._foreach_lerp_([self.state[k] for k in real], [live[k] for k in real], 1 - decay)
        for k, v in self.state.items():
            if not v.is_floating_point():
                v.copy_(live[k])

    @contextlib.contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """The model has the average within the block, and its own weights again after it."""
        own = copy_of(model)
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)
