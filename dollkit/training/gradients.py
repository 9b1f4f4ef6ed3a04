"""The gradient of a batch, in as few passes as memory allows, over all processes.

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
from dollkit.training.processes import Batch, Processes
from dollkit.training.recipe import Recipe

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Batch], torch.Tensor]


class Gradients:
    """Leaves the gradient of a batch in the parameters.

    Args:
        model: on its device.
        loss: mean over the films of a batch.
        recipe: precision, seed, films at once.
        processes: those that share each batch.
        label: of messages.

    Attributes:
        at_once: most films of one pass in one process; 0: no limit yet. It only falls.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, recipe: Recipe, processes: Processes, label: str = ""
    ) -> None:
        self.model, self.loss, self.recipe = model, loss, recipe
        self.processes, self.label = processes, label or "training"
        self.at_once = recipe.at_once
        self._where = next(model.parameters()).device
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._buffers = list(model.buffers())
        self._kept = [b.detach().clone() for b in self._buffers]

    def of(self, batch: Batch, step: int) -> torch.Tensor:
        """Gradient of `batch`, all of it, in step `step`.

        When memory runs out in any process, all of them start the batch afresh with half the
        films at once, and keep to that.

        Returns:
            The loss of the batch, a detached scalar, the same in all processes.

        Raises:
            InputError: memory runs out with one film, or fewer films than processes.
        """
        whole = len(batch[0])
        own = self.processes.share(batch)
        widest = -(-whole // self.processes.count)
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, self._buffers)
        while True:
            passes = math.ceil(widest / self.at_once) if self.at_once else 1
            value, reason = None, "in another process"
            try:
                value = self._passes(own, passes, whole, step)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(
                    f"{self.label}: one film at once is too few for this network's batch norm: "
                    "use a larger 'batch', fewer processes or smaller films"
                ) from None
            except RuntimeError as error:
                if not compute.out_of_memory(error):
                    raise
                reason = brief(error)
            # Not within `except`: there the traceback holds on to the tensors.
            if self.processes.count > 1:
                value = self._total(value)
            if value is not None:
                return value
            self._halve(-(-widest // passes), reason)

    def _passes(self, own: Batch, passes: int, whole: int, step: int) -> torch.Tensor:
        for p in self._trained:
            p.grad = None
        rank, n = self.processes.rank, len(own[0])
        bounds = [n * i // passes for i in range(passes + 1)]
        total: torch.Tensor | None = None
        with compute.seeded(self.recipe.seed, 2, step, *([rank] if rank else [])):
            for first, stop in itertools.pairwise(bounds):
                if first == stop:  # this process has a film less than others
                    continue
                part = own if stop - first == n else tuple(t[first:stop] for t in own)
                with compute.autocast(self._where, self.recipe.precision):
                    value = self.loss(self.model, part)
                if stop - first != whole:
                    value = value * ((stop - first) / whole)
                value.backward()
                total = value.detach() if total is None else total + value.detach()
        assert total is not None
        return total

    def _total(self, value: torch.Tensor | None) -> torch.Tensor | None:
        """Sum over the processes of gradients and loss; None if memory ran out in any."""
        grads = [p.grad for p in self._trained]
        # One message: gradients, who has one, loss, who failed.
        flat = torch.cat(
            [
                *(
                    (torch.zeros_like(p) if g is None or value is None else g).flatten().float()
                    for p, g in zip(self._trained, grads, strict=True)
                ),
                torch.tensor([float(g is not None) for g in grads], device=self._where),
                torch.zeros(1, device=self._where) if value is None else value.float().view(1),
                torch.tensor([float(value is None)], device=self._where),
            ]
        )
        flat = self.processes.total(flat)
        count = len(self._trained)
        *has, failed = torch.cat([flat[-count - 2 : -2], flat[-1:]]).tolist()
        if failed:
            return None
        pieces = flat[: -count - 2].split([p.numel() for p in self._trained])
        for p, piece, any_has in zip(self._trained, pieces, has, strict=True):
            if not any_has:
                continue
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            p.grad.copy_(piece.view(p.shape))
        return flat[-2]

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
        if self.processes.first:
            log.warning(
                "%s: out of memory with %d films at once (%s): %d from here on, their gradients "
                "accumulated to the same batch", self.label, size, reason, self.at_once,
            )  # fmt: skip
