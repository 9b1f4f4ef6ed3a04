"""Integrated Gradients against the machine: the share of its matrix product rate."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Targets
from dollkit.explanations.cost import timed
from dollkit.explanations.integrated_gradients import BUDGET_MB, integrated_gradients
from dollkit.explanations.prepared_classifier import PRECISIONS, prepare

GOAL_SHARE = 0.40
"""Of a GPU's measured matrix product rate."""


def work(model: nn.Module, x: torch.Tensor, precision: str) -> tuple[int, int]:
    """Operations of a film-step: of a pass up for all its targets, and of one down for each.

    PyTorch's own count for the prepared classifier on the first film; a multiply-add is 2.
    """
    prepared = prepare(model, precision, x[:1])
    with torch.no_grad():
        points = prepared.enter(x[:1].to(prepared.wide)).to(prepared.narrow)
    points.requires_grad_()
    with torch.enable_grad():
        with FlopCounterMode(display=False) as up:
            logit = prepared.body(points)[0, 0]
        with FlopCounterMode(display=False) as down:
            torch.autograd.grad(logit, points)
    return up.get_total_flops(), down.get_total_flops()


def use(
    models: Mapping[str, nn.Module],
    x: torch.Tensor,
    targets: Targets,
    *,
    baseline: str = "black",
    precision: str,
    steps: int,
    sides: Sequence[int],
    rounds: int = 3,
    budget_mb: int = BUDGET_MB,
) -> pd.DataFrame:
    """Share of the machine's matrix product rate that the walk reaches, in turns with it.

    `precision` is of walk and product, `steps` of every pair; the fastest of the matrices with
    these `sides` counts, in each round. Per classifier: classifier, gflop_forward, gflop_backward
    (per film-step), gflop_pair, seconds_per_pair, tflops, matmul_tflops, share (medians).
    """
    if rounds < 1 or not sides or min(sides) < 1:
        raise InputError("give at least one round and one side of a matrix")
    squares = [torch.randn(n, n, device=x.device).to(PRECISIONS[precision]) for n in sides]
    settings: Any = {"baseline": baseline, "steps": steps, "precision": precision}
    films, pairs = sum(map(bool, targets)), sum(map(len, targets))
    rows = []
    for name, model in models.items():
        forward, backward = work(model, x, precision)
        total = steps * (films * forward + pairs * backward)
        turns = []
        for _ in range(rounds + 1):
            best = max(
                2 * len(m) ** 3 / timed(partial(torch.matmul, m, m), x.device)[0]
                for m in squares
                for _ in range(2)
            )
            walk = partial(integrated_gradients, model, x, targets, budget_mb=budget_mb, **settings)
            took = timed(walk, x.device)[0]
            turns.append((took / pairs, best, total / took / best))
        seconds, peak, share = map(statistics.median, zip(*turns[1:], strict=True))
        flops, each = (forward, backward, total / pairs), total / pairs / seconds
        rows.append((name, *(n / 1e9 for n in flops), seconds, each / 1e12, peak / 1e12, share))
    columns = ["classifier", "gflop_forward", "gflop_backward", "gflop_pair", "seconds_per_pair"]
    return pd.DataFrame(rows, columns=[*columns, "tflops", "matmul_tflops", "share"])
