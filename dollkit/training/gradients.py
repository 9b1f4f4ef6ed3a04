"""The gradient of a batch, in as few passes as memory allows.

A batch cut into parts of n_i of n films has the gradient ``sum(n_i / n * gradient_i)``: that of
the whole, up to rounding, where the loss is a mean over films. It is not where something spans the
batch: statistics of batch norm in training mode (each part has its own, and running ones move once
a part), a loss divided by a sum over the batch (Dice over the planes with an object, weights of
classes or pixels); and dropout draws other masks.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable

import torch
from torch import nn

from dollkit import compute
from dollkit.errors import InputError, brief
from dollkit.training.recipe import Batch, Recipe

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Batch], torch.Tensor]


class Gradients:
    """Leaves the gradient of a batch in the parameters.

    Args:
        model: on its device.
        loss: mean over the films of a batch.
        recipe: precision, seed, films at once.
        label: of messages.

    Attributes:
        at_once: most films of one pass; 0: no limit yet. It only falls.
    """

    def __init__(self, model: nn.Module, loss: Loss, recipe: Recipe, label: str = "") -> None:
        self.model, self.loss, self.recipe = model, loss, recipe
        self.label = label or "training"
        self.at_once = recipe.at_once
        self._where = next(model.parameters()).device
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._buffers = list(model.buffers())
        self._kept = [b.detach().clone() for b in self._buffers]

    def of(self, batch: Batch, step: int) -> torch.Tensor:
        """Gradient of `batch`, all of it, in step `step`.

        When memory runs out, the batch starts afresh with half the films at once, and so do
        later ones.

        Returns:
            The loss of the batch, a detached scalar.
        """
        films = len(batch[0])
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, self._buffers)
        while True:
            passes = math.ceil(films / self.at_once) if self.at_once else 1
            try:
                return self._passes(batch, passes, step)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(
                    f"{self.label}: one film at once is too few for this network's batch norm: "
                    "use a larger 'batch' or smaller films"
                ) from None
            except RuntimeError as error:
                if not compute.out_of_memory(error):
                    raise
                reason = brief(error)
            # Not within `except`: there the traceback holds on to the tensors.
            self._halve(-(-films // passes), reason)

    def _passes(self, batch: Batch, passes: int, step: int) -> torch.Tensor:
        for p in self._trained:
            p.grad = None
        films = len(batch[0])
        bounds = [films * i // passes for i in range(passes + 1)]
        total: torch.Tensor | None = None
        with compute.seeded(self.recipe.seed, 2, step):
            for first, stop in itertools.pairwise(bounds):
                part = batch if passes == 1 else tuple(t[first:stop] for t in batch)
                with compute.autocast(self._where, self.recipe.precision):
                    value = self.loss(self.model, part)
                if passes > 1:
                    value = value * ((stop - first) / films)
                value.backward()
                total = value.detach() if total is None else total + value.detach()
        assert total is not None
        return total

    def _halve(self, size: int, reason: str) -> None:
        for p in self._trained:
            p.grad = None
        if self._buffers:  # passes that got through moved running statistics
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._kept)
        compute.release_memory(self._where)
        if size == 1:
            raise InputError(
                f"{self.label}: out of memory with one film at once ({reason}): use smaller "
                "films, a smaller network or precision bfloat16"
            )
        self.at_once = size // 2
        log.warning(
            "%s: out of memory with %d films at once (%s): %d from here on, their gradients "
            "accumulated to the same batch", self.label, size, reason, self.at_once,
        )  # fmt: skip
