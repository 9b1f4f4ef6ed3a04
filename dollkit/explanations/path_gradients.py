"""Gradients along the paths of many (film, target) pairs, in passes that fit in memory.

A pass takes some films with equally many targets, so that no backward pass has idle rows, and
all or some of the path's points. One forward pass serves all targets of its films; each target
costs one backward pass more.
"""

from __future__ import annotations

import logging
from collections import deque

import numpy as np
import numpy.typing as npt
import torch

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Targets
from dollkit.explanations.prepared import Prepared

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
CPU_ROWS = 48
"""Most film-steps in one pass on a CPU: more is no faster, its caches are full."""


class Walker:
    """Sums of path gradients for films that share a baseline and a budget.

    Args:
        x, base: (n, C, S, S) films and baselines in `prepared.wide`.
        budget_mb: memory that a pass may take, in MiB; changes results by rounding only.

    Attributes:
        rows: film-steps in one pass now; halved when memory runs out.
    """

    def __init__(
        self, prepared: Prepared, x: torch.Tensor, base: torch.Tensor, budget_mb: int
    ) -> None:
        if budget_mb < 1:
            raise InputError(f"parameter 'budget_mb' is {budget_mb}: it must be at least 1")
        self.prepared, self.x, self.base = prepared, x, base
        fits = (budget_mb << 20) // max(1, row_bytes(prepared, x[:1]))
        self.rows = max(1, fits if x.is_cuda else min(fits, CPU_ROWS))

    def sums(self, targets: Targets, nodes: Floats, columns: Floats) -> list[torch.Tensor]:
        """Weighted sums of the maps at the path's points, times ``x - b``.

        Args:
            nodes: (k,) points in [0, 1].
            columns: (k, c) weights of c different sums.

        Returns:
            Per film (targets, c, S, S), summed over input channels.
        """
        size = self.x.shape[2:]
        out = [self.x.new_zeros(len(w), columns.shape[1], *size) for w in targets]
        work = self._plan(targets, len(nodes))
        while work:
            films, part = work.popleft()
            try:
                with self.prepared.frozen_weights():
                    made = self._pass(films, targets, nodes[part], columns[part])
            except (MemoryError, RuntimeError) as problem:
                if not compute.out_of_memory(problem):
                    raise
                made = None
            if made is None:  # outside the handler: it would keep the failed pass alive
                work.extendleft(reversed(self._halves(films, part)))
                continue
            for film, maps in zip(films, made, strict=True):
                out[film] += maps
        return out

    def _plan(self, targets: Targets, k: int) -> deque[tuple[list[int], slice]]:
        """Films and points of each pass."""
        by_count: dict[int, list[int]] = {}
        for film, channels in enumerate(targets):
            if channels:
                by_count.setdefault(len(channels), []).append(film)
        group, part = max(1, self.rows // k), min(k, self.rows)
        return deque(
            (films[g : g + group], slice(s, min(s + part, k)))
            for _, films in sorted(by_count.items())
            for g in range(0, len(films), group)
            for s in range(0, k, part)
        )

    def _halves(self, films: list[int], part: slice) -> list[tuple[list[int], slice]]:
        """Two passes in place of one that memory did not hold."""
        points = part.stop - part.start
        if len(films) == points == 1:
            raise InputError(
                "memory does not hold one film at one point of the path: use smaller films, a "
                "smaller classifier or a machine with more memory"
            )
        self.rows = max(1, min(self.rows, len(films) * points) // 2)
        compute.release_memory(self.x.device)
        log.warning("out of memory: %d film-steps in a pass from here on", self.rows)
        if len(films) > 1:
            half = len(films) // 2
            return [(films[:half], part), (films[half:], part)]
        middle = part.start + points // 2
        return [(films, slice(part.start, middle)), (films, slice(middle, part.stop))]

    def _pass(
        self, films: list[int], targets: Targets, nodes: Floats, columns: Floats
    ) -> torch.Tensor:
        """Maps of some films with equally many targets: (films, targets, c, S, S)."""
        p, k, device = self.prepared, len(nodes), self.x.device
        index = torch.tensor(films, device=device)
        x, base = self.x[index].requires_grad_(), self.base[index]
        with torch.enable_grad():
            top = p.enter(x)  # its graph is the adjoint of the first layer
        with torch.no_grad():
            start = p.enter(base)
            a = torch.tensor(nodes, dtype=p.wide, device=device).view(1, k, 1, 1, 1)
            points = torch.lerp(start[:, None], top.detach()[:, None], a).flatten(0, 1)
        points = points.to(p.narrow).contiguous(memory_format=torch.channels_last)
        points.requires_grad_()
        with torch.enable_grad():
            logits = p.body(points)
        channels = torch.tensor([targets[i] for i in films], device=device)
        maps = self.x.new_empty(*channels.shape, columns.shape[1], *self.x.shape[2:])
        last = channels.shape[1] - 1
        for r in range(last + 1):
            chosen = logits.gather(1, channels[:, r].repeat_interleave(k)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, points, retain_graph=r < last)
            gradient = gradient.unflatten(0, (len(films), k))
            for c, weights in enumerate(columns.T):
                total = torch.zeros_like(gradient[:, 0], dtype=p.wide)
                for j in np.flatnonzero(weights):
                    total.add_(gradient[:, j], alpha=float(weights[j]))
                if p.stem is not None:
                    (total,) = torch.autograd.grad(top, x, total, retain_graph=True)
                maps[:, r, c] = ((x.detach() - base) * total).sum(1)
        return maps


def row_bytes(prepared: Prepared, x: torch.Tensor) -> int:
    """Memory of one film-step, measured once: what backward keeps, and its largest neighbours.

    Args:
        x: (1, C, S, S) one film in `prepared.wide`.
    """
    key = tuple(x.shape[1:])
    if key in prepared.row_bytes:
        return prepared.row_bytes[key]
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.no_grad():
        z = prepared.enter(x)
    points = z.to(prepared.narrow).requires_grad_()
    saved = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with prepared.frozen_weights(), saved, torch.enable_grad():
        prepared.body(points)
    for p in (*prepared.body.parameters(), *prepared.body.buffers()):
        kept.pop(p.untyped_storage().data_ptr(), None)
    largest = max(kept.values(), default=0)
    prepared.row_bytes[key] = sum(kept.values()) + 3 * largest + 3 * z.untyped_storage().nbytes()
    return prepared.row_bytes[key]
