"""Memory that a run takes, and batches with the time spent waiting for them."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from dollkit import compute
from dollkit.training.recipe import Batch

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
