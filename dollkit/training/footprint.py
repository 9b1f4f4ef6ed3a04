"""Memory that training needs, counted from its tensors: the same on every machine.

What a process holds at its peak depends on its allocator and on what ran before; on a CPU it
tells little about one run. Counted here is what one step must hold at once: weights, gradients,
the optimiser's state, and what the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from dollkit.common import compute
from dollkit.training.recipe import Recipe

MB = 1024**2
STATES = {"adamw": 2, "sgd": 1}
"""Tensors of a parameter's size that an optimiser keeps."""


def footprint(
    model: nn.Module,
    loss: Callable[[nn.Module], torch.Tensor],
    recipe: Recipe,
    set_mode: Callable[[nn.Module], None],
) -> float:
    """Tensors of one training step, in MB (2**20 bytes); the model stays as it is.

    Args:
        model: prepared: what will not be trained is frozen.
        loss: of a whole batch, on the model it is given.
        recipe: its optimiser and precision.
        set_mode: puts a model in training mode.

    Returns:
        Weights and buffers, gradients and optimiser state of what is trained, and every tensor
        kept for the backward pass (a storage counts once, and not if it is a weight).
    """
    net = copy.deepcopy(model)
    set_mode(net)
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        bare = tensor.detach()  # with its history it would keep itself alive, for good
        if storage.data_ptr() not in own:
            # Held on to, so that no later tensor gets the same address.
            kept[storage.data_ptr()] = (storage.nbytes(), bare)
        return bare

    where = next(net.parameters()).device
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, compute.autocast(where, recipe.precision):
        loss(net)
    weights = _bytes([*net.parameters(), *net.buffers()])
    trained = _bytes([p for p in net.parameters() if p.requires_grad])
    held = sum(size for size, _ in kept.values())
    return (weights + trained * (1 + STATES[recipe.optimizer]) + held) / MB


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
