"""Integrated Gradients measured against captum: seconds, labels and memory, in one run.

Times belong to a machine and to its load, so both ways take turns and only ratios are told.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Attribution
from dollkit.explanations.engine import BUDGET_MB, baseline, integrated_gradients, masks

CAPTUM_STEPS = 50
"""captum's default, with its default rule (Gauss-Legendre)."""

WIDE = ("float32", "float64")


def modes_of(where: torch.device) -> dict[str, dict[str, Any]]:
    """Settings of `integrated_gradients` to measure on a device, by name.

    ``fast`` walks in what the device computes fastest; where that is bfloat16, ``fast_float32``
    stands beside it. ``exact`` is float32.
    """
    fast = {"mode": "fast", "precision": "float32"}
    exact = {"mode": "exact", "precision": "float32"}
    if compute.computes_bfloat16(where):
        short = fast | {"precision": "bfloat16"}
        return {"fast": short, "fast_float32": fast, "exact": exact}
    return {"fast": fast, "exact": exact}


def measure(
    models: Mapping[str, nn.Module],
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    *,
    kind: str = "black",
    rounds: int = 3,
    captum_films: int = 2,
    reference_steps: int = 512,
    budget_mb: int = BUDGET_MB,
    modes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compare the engine with captum's defaults, one target at a time, float32.

    Args:
        models: classifiers by name.
        x: (n, 1, S, S) normalised films on the classifiers' device.
        targets: per film, the outputs to explain.
        rounds: measured rounds, after a warm-up, in which all ways take turns.
        captum_films: films that captum explains in a round, others in each round.
        reference_steps: midpoint steps, in float32, of the maps that labels are held against.
        modes: settings of `integrated_gradients` by name; None: `modes_of` the device.

    Returns:
        JSON-able: `models` -> name -> ``captum`` and each mode -> ``seconds_per_pair`` (median of
        rounds), ``dice`` (mean over pairs of both masks of `settle.masks`, against the
        reference), ``dice_min``; for a mode also ``ratio`` (captum's seconds over its own),
        ``error_median``, ``error_p95``, ``steps_mean``, ``unsettled`` (share of pairs) and
        ``peak_mb`` (above what was held before; None where the system does not tell);
        `overall` -> mode -> ``ratio`` (geometric mean over models), ``dice`` (mean);
        `pairs`, `films`, `size`, `threads`, `rounds`, `reference_steps`.
    """
    wanted = [i for i, some in enumerate(targets) if some]
    if not wanted or rounds < 1 or not models:
        raise InputError("nothing to measure: give classifiers, films with targets, and rounds")
    x = x[wanted]
    targets = [targets[i] for i in wanted]
    modes = modes_of(x.device) if modes is None else modes
    table = {
        name: _one(model, x, targets, kind, rounds, captum_films, reference_steps, budget_mb, modes)
        for name, model in models.items()
    }
    overall = {
        mode: {
            "ratio": statistics.geometric_mean(row[mode]["ratio"] for row in table.values()),
            "dice": statistics.fmean(row[mode]["dice"] for row in table.values()),
        }
        for mode in modes
    }
    return {
        "models": table,
        "overall": overall,
        "pairs": sum(map(len, targets)),
        "films": len(x),
        "size": x.shape[-1],
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "reference_steps": reference_steps,
    }


def _one(
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    kind: str,
    rounds: int,
    captum_films: int,
    reference_steps: int,
    budget_mb: int,
    modes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    def run(how: Mapping[str, Any]) -> Attribution:
        return integrated_gradients(model, x, targets, kind=kind, budget_mb=budget_mb, **how)

    reference = masks(run({"steps": reference_steps}).maps)
    offset = np.cumsum([0] + [len(some) for some in targets])
    made = {mode: run(how) for mode, how in modes.items()}
    peaks = {mode: peak_mb(lambda how=how: run(how), x.device) for mode, how in modes.items()}  # type: ignore[misc]
    _captum(model, x[:1], targets[:1], kind)
    seconds: dict[str, list[float]] = {way: [] for way in ("captum", *modes)}
    dice: list[torch.Tensor] = []
    for turn in range(rounds):
        films = sorted({(turn * captum_films + i) % len(x) for i in range(captum_films)})
        some = [targets[i] for i in films]
        took, theirs = timed(lambda s=some, f=films: _captum(model, x[f], s, kind), x.device)  # type: ignore[misc]
        seconds["captum"].append(took / sum(map(len, some)))
        own = [p for i in films for p in range(offset[i], offset[i + 1])]
        dice.append(_dice(masks(theirs), reference[own]))
        for mode, how in modes.items():
            took, _ = timed(lambda how=how: run(how), x.device)  # type: ignore[misc]
            seconds[mode].append(took / int(offset[-1]))
    median = {way: statistics.median(values) for way, values in seconds.items()}
    row: dict[str, Any] = {"captum": {"seconds_per_pair": median["captum"], **_told(dice)}}
    for mode, a in made.items():
        row[mode] = {
            "seconds_per_pair": median[mode],
            "ratio": statistics.median(
                c / e for c, e in zip(seconds["captum"], seconds[mode], strict=True)
            ),
            **_told([_dice(masks(a.maps), reference)]),
            "error_median": a.error.quantile(0.5).item(),
            "error_p95": a.error.quantile(0.95).item(),
            "steps_mean": a.steps.double().mean().item(),
            "unsettled": (~a.settled).double().mean().item(),
            "peak_mb": peaks[mode],
        }
    return row


def _captum(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], kind: str
) -> torch.Tensor:
    method = IntegratedGradients(model)
    base = baseline(x, kind)
    maps = [
        method.attribute(x[i : i + 1], base[i : i + 1], target=t, n_steps=CAPTUM_STEPS)
        for i, some in enumerate(targets)
        for t in some
    ]
    return torch.cat(maps).sum(1).detach()


def differences(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], kind: str = "black"
) -> dict[str, torch.Tensor]:
    """How far maps are from captum's of the same rule and steps, pair by pair.

    In float32, two layers that round differently may pick different places of a max pooling where
    two nearly tie, and the gradients then differ for good. So captum's own rounding stands beside.

    Args:
        model, x, targets: as in `measure`; every film and target is explained by captum.

    Returns:
        Each (pairs,) float64, norm of the difference over the norm of captum's map: ``float32``
        and ``float64``, the same precision on both sides; ``captum``, its float32 maps against
        its own in float64.
    """
    double = copy.deepcopy(model).double()
    how: dict[str, Any] = {"kind": kind, "steps": CAPTUM_STEPS, "rule": "gausslegendre"}
    single, whole = _captum(model, x, targets, kind), _captum(double, x.double(), targets, kind)
    maps = {p: integrated_gradients(model, x, targets, precision=p, **how).maps for p in WIDE}
    return {
        "float32": _far(maps["float32"], single),
        "float64": _far(maps["float64"], whole),
        "captum": _far(single, whole),
    }


def _far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    norm = torch.linalg.vector_norm
    far: torch.Tensor = norm(a - b, dim=1) / norm(b, dim=1).clamp_min(1e-30)
    return far


def _dice(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dice of both masks: (pairs, 2, places) bool twice -> (pairs, 2)."""
    both, size = (a & b).sum(2), a.sum(2) + b.sum(2)
    return torch.where(size > 0, 2 * both / size.clamp_min(1), 1.0)


def _told(dice: list[torch.Tensor]) -> dict[str, float]:
    values = torch.cat(dice)
    return {"dice": values.mean().item(), "dice_min": values.min().item()}


def timed(work: Callable[[], Any], where: torch.device) -> tuple[float, Any]:
    """Seconds that `work` takes, a GPU's own included, and what it gives back."""
    compute.synchronize(where)
    began = time.perf_counter()
    out = work()
    compute.synchronize(where)
    return time.perf_counter() - began, out


def peak_mb(work: Callable[[], Any], where: torch.device) -> float | None:
    """Most memory held while `work` runs, above what was held before, in MiB.

    None where the system does not tell (neither CUDA nor Linux).
    """
    if where.type == "cuda":
        compute.synchronize(where)
        compute.reset_peak(where)
        held = compute.allocated_bytes(where)
        work()
        compute.synchronize(where)
        return (compute.peak_bytes(where) - held) / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still held would hide the peak
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_mb("VmRSS")
        work()
        return _status_mb("VmHWM") - before
    except (OSError, StopIteration):  # not Linux
        work()
        return None


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) / 1024
