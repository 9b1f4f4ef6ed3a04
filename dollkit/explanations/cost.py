"""What explanations cost: against captum, against the machine's own arithmetic, for CheXpert.

Seconds belong to a machine and to its load. So ratios are taken of things measured in turns, and
what is derived for another size, set or machine says from what.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dollkit.classifiers.model import split_rows
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import index
from dollkit.data.store import Store
from dollkit.explanations.captum_benchmark import timed
from dollkit.explanations.engine import BUDGET_MB, integrated_gradients
from dollkit.explanations.ensemble import positives
from dollkit.explanations.prepared import PRECISIONS, prepare

NO_FINDING = index("No Finding")
CHEXPERT_FILMS, CHEXPERT_PAIRS = 191_027, 458_465
"""Frontal training films of CheXpert, and their positive findings: 2.4 a film."""
GOAL_SHARE, GOAL_HOURS, GOAL_CLASSIFIERS = 0.40, 3.0, 5
"""Of a GPU: share of its measured matrix product rate; hours for CheXpert-small."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of the walk, per film and step; a multiply-add is two.

    Attributes:
        forward: of one pass up, shared by all targets; backward: of one pass down per target.
    """

    forward: int
    backward: int

    def of(self, films: int, pairs: int, steps: float) -> float:
        """Operations of a walk with `steps` points for each of the films' pairs."""
        return steps * (films * self.forward + pairs * self.backward)


def work(model: nn.Module, x: torch.Tensor, precision: str) -> Work:
    """Count the operations of the prepared classifier by PyTorch's own counter.

    Args:
        model: classifier in eval mode.
        x: (n, 1, S, S) films; one is used.
        precision: of the walk.
    """
    prepared = prepare(model, precision, x[:1])
    with torch.no_grad():
        points = prepared.enter(x[:1].to(prepared.wide)).to(prepared.narrow)
    points.requires_grad_()
    with prepared.quiet(), torch.enable_grad():
        with FlopCounterMode(display=False) as up:
            logit = prepared.body(points)[0, 0]
        with FlopCounterMode(display=False) as down:
            torch.autograd.grad(logit, points)
    return Work(up.get_total_flops(), down.get_total_flops())


def per_pair(used: pd.DataFrame, points: Sequence[float], films_per_pair: float) -> list[float]:
    """Billions of operations of a pair, of each classifier.

    Args:
        used: of `use`.
        points: of a path, mean over pairs, of each classifier.
        films_per_pair: share of a film's pass up that one pair bears.
    """
    up, down = used["gflop_forward"].tolist(), used["gflop_backward"].tolist()
    return [n * (films_per_pair * a + b) for n, a, b in zip(points, up, down, strict=True)]


def matmul_work(side: int) -> int:
    """Operations of the product of two square matrices; a multiply-add is two."""
    return 2 * side**3


def use(
    models: Mapping[str, nn.Module],
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    *,
    kind: str = "black",
    precision: str,
    steps: int,
    sides: Sequence[int],
    rounds: int = 3,
    budget_mb: int = BUDGET_MB,
) -> pd.DataFrame:
    """Share of the machine's matrix product rate that the walk reaches, in turns with it.

    Args:
        models: classifiers by name; x, targets: as in `integrated_gradients`.
        kind: baseline; precision: of walk and product; steps: of every pair.
        sides: of the matrices; the fastest of them counts, in each round.
        rounds: measured ones.

    Returns:
        Per classifier: classifier, gflop_forward, gflop_backward (per film-step), gflop_pair,
        seconds_per_pair, tflops, matmul_tflops, share (medians over rounds).
    """
    if rounds < 1 or not sides or min(sides) < 1:
        raise InputError("give at least one round and one side of a matrix")
    where, dtype = x.device, PRECISIONS[precision]
    squares = {n: torch.randn(n, n, device=where).to(dtype) for n in sides}
    pairs = sum(map(len, targets))
    rows = []
    for name, model in models.items():
        count = work(model, x, precision)
        total = count.of(sum(map(bool, targets)), pairs, steps)
        seconds, peaks, shares = [], [], []
        for turn in range(rounds + 1):
            best = max(
                matmul_work(n) / timed(lambda m=m: m @ m, where)[0]  # type: ignore[misc]
                for n, m in squares.items()
                for _ in range(2)
            )
            took = walk_seconds(model, x, targets, precision, steps, budget_mb, kind)
            if turn:
                seconds.append(took / pairs)
                peaks.append(best)
                shares.append(total / took / best)
        median = statistics.median
        rows.append(
            {
                "classifier": name,
                "gflop_forward": count.forward / 1e9,
                "gflop_backward": count.backward / 1e9,
                "gflop_pair": total / pairs / 1e9,
                "seconds_per_pair": median(seconds),
                "tflops": total / pairs / median(seconds) / 1e12,
                "matmul_tflops": median(peaks) / 1e12,
                "share": median(shares),
            }
        )
    return pd.DataFrame(rows)


def walk_seconds(
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    precision: str,
    steps: int,
    budget_mb: int,
    kind: str = "black",
) -> float:
    """Seconds of one walk with `steps` points for every pair."""

    def walk() -> None:
        integrated_gradients(
            model, x, targets, kind=kind, steps=steps, precision=precision, budget_mb=budget_mb
        )

    return timed(walk, x.device)[0]


def films_of(
    store: Store, split: str, count: int, where: torch.device
) -> tuple[torch.Tensor, list[list[int]]]:
    """First films of a split with a positive finding, and those findings (No Finding is none).

    Returns:
        (n, 1, S, S) normalised films on `where`, and n lists of channels.
    """
    rows = split_rows(store, split)
    wanted = [[c for c in w if c != NO_FINDING] for w in positives(store.states[rows])]
    keep = [i for i, w in enumerate(wanted) if w][: max(0, count)]
    if not keep:
        raise InputError(f"{store.path}: no film of split {split!r} has a finding to explain")
    return compute.to_input(store.images[rows[keep]], where), [wanted[i] for i in keep]


def scaled(seconds: float, size: int, to: int, exponent: float) -> float:
    """Seconds of a film of `size` carried over to side `to`: ``seconds * (to / size) ** 2 e``."""
    return float(seconds * (to / size) ** (2 * exponent))


def chexpert(
    seconds: Sequence[float],
    size: int,
    exponent: float,
    gflop_pair: Sequence[float],
    gpu_tflops: float,
    to: int = 224,
    measured_on: str = "this machine",
) -> pd.DataFrame:
    """Hours to explain all positive findings of CheXpert's frontal films; labels are not in it.

    Args:
        seconds: per pair, of each classifier, as measured at side `size` in pixels.
        exponent: of seconds against pixels, as measured.
        gflop_pair: operations of a pair, of each classifier, at `size`; they grow with pixels.
        gpu_tflops: sustained rate that is assumed of another machine, not measured.
        to: side that is scaled to.
        measured_on: name of the machine that `seconds` are of.

    Returns:
        where, size, classifiers, hours, basis (``measured``: seconds per pair times pairs;
        ``scaled``: by the exponent; ``assumed rate``: from operations alone). Classifiers: those
        of the run, and `GOAL_CLASSIFIERS` of their mean.
    """
    if not gpu_tflops > 0:
        raise InputError(f"parameter 'gpu_tflops' is {gpu_tflops}: it must be above 0")
    share = statistics.fmean(seconds)
    flops = 1e9 * statistics.fmean(gflop_pair)
    rows = []
    for k in dict.fromkeys((len(seconds), GOAL_CLASSIFIERS)):
        for side in dict.fromkeys((size, to)):
            basis = "measured" if side == size else "scaled"
            spent = scaled(share, size, side, exponent)
            rows.append((measured_on, side, k, spent * k * CHEXPERT_PAIRS / 3600, basis))
            guess = scaled(flops, size, side, 1.0) / (gpu_tflops * 1e12)
            name = f"{gpu_tflops:g} TFLOP/s"
            rows.append((name, side, k, guess * k * CHEXPERT_PAIRS / 3600, "assumed rate"))
    return pd.DataFrame(rows, columns=["where", "size", "classifiers", "hours", "basis"])


def goals(share: float, hours: float, where: torch.device) -> pd.DataFrame:
    """The two goals, which are asked of a GPU, beside what was found here.

    Args:
        share: of the matrix product rate; hours: for CheXpert with `GOAL_CLASSIFIERS`.
        where: device of both.
    """
    rows = [
        ("share of the measured matrix product rate", share, GOAL_SHARE, share >= GOAL_SHARE),
        (f"hours, {GOAL_CLASSIFIERS} classifiers", hours, GOAL_HOURS, hours < GOAL_HOURS),
    ]
    table = pd.DataFrame(rows, columns=["what", "here", "goal", "met"])
    if where.type != "cuda":
        table["met"] = "asked of a GPU"
    return table
