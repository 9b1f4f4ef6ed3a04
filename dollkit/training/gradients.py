"""The gradient of a batch, in as few passes as memory allows.

A batch cut into parts of n_i of n films has the gradient ``sum(n_i / n * gradient_i)``: that of
the whole, up to rounding, where the loss is a mean over films. It is not where something spans the
batch: statistics of batch norm in training mode (each part has its own, and running ones move once
a part), a loss divided by a sum over the batch (Dice over the planes with an object, weights of
classes or pixels); and dropout draws other masks.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError, brief
from dollkit.training.recipe import Batch, Recipe

log = logging.getLogger(__name__)

# Memory that a run takes, and batches with the time spent waiting for them.


MB = 1024**2


class Memory:
    """Peak memory since its making.

    CUDA: the largest sum of tensors (``max_memory_allocated``), what was there before included.
    CPU: the largest resident memory of the process above that at the start; what the process
    held free from earlier work and uses again does not show. Linux can set the mark back;
    elsewhere it is that of the whole process so far.

    Args:
        where: device.
    """

    def __init__(self, where: torch.device) -> None:
        self._where = where
        if where.type == "cuda":
            compute.reset_peak(where)
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start: float = psutil.Process().memory_info().rss / MB

    def peak_mb(self) -> float:
        """Peak in MB (2**20 bytes)."""
        if self._where.type == "cuda":
            return round(compute.peak_bytes(self._where) / MB, 1)
        return round(max(0.0, _highest() - self._start), 1)


def _highest() -> float:
    """Largest resident memory of this process, in MB."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 1024
    import resource  # not on Windows

    unit = MB if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Feed:
    """Batches of steps in order.

    Args:
        sample: step number to batch. With `ahead` it runs in another thread, so it must not use
            torch's global generator.
        first, stop: steps.
        where: device of the batches.
        ahead: prepare the next batch while the device works on this one.
    """

    def __init__(
        self, sample: Callable[[int], Batch], first: int, stop: int, where: torch.device,
        ahead: bool,
    ) -> None:  # fmt: skip
        self._sample, self._stop = sample, stop
        enter = partial(compute.use_in_thread, where)
        self._pool = ThreadPoolExecutor(1, initializer=enter) if ahead else None
        self._next: Future[Batch] | None = None
        if self._pool is not None and first < stop:
            self._next = self._pool.submit(sample, first)

    def take(self, step: int) -> tuple[Batch, float]:
        """Batch of a step, and the seconds waited for it (all of `sample` if not `ahead`)."""
        began = time.perf_counter()
        if self._pool is None or self._next is None:
            batch = self._sample(step)
        else:
            batch = self._next.result()
            more = step + 1 < self._stop
            self._next = self._pool.submit(self._sample, step + 1) if more else None
        return batch, time.perf_counter() - began

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


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
