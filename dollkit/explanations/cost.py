"""What explanations cost, against captum.

Seconds belong to a machine and to its load. So ratios are taken of things measured in turns.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.store import Store
from dollkit.explanations.attribution import Targets, film_and_channel
from dollkit.explanations.ensemble import positives
from dollkit.explanations.integrated_gradients import (
    BUDGET_MB,
    baseline_films,
    integrated_gradients,
    mask_dice,
)
from dollkit.training.classifiers import split_rows

log = logging.getLogger(__name__)

CAPTUM_STEPS = 50
"""captum's default, with its default rule (Gauss-Legendre)."""
CAPTUM_ROWS = 64
"""Film-steps in one of captum's passes where it explains several pairs at once."""
CHEXPERT_FILMS, CHEXPERT_PAIRS = 191_027, 458_465
"""Frontal training films of CheXpert, and their positive findings: 2.4 a film."""


def measure(
    models: Mapping[str, nn.Module],
    x: torch.Tensor,
    targets: Targets,
    *,
    baseline: str = "black",
    rounds: int = 3,
    captum_films: int = 2,
    reference_steps: int = 512,
    budget_mb: int = BUDGET_MB,
    modes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Ours beside captum's defaults, one target at a time in float32, all ways in turns.

    After a warm-up, captum explains other `captum_films` in each round. Labels are held against
    those of `reference_steps` midpoint steps in float32. `modes` None: ``fast`` in what the device
    computes fastest, and ``exact`` in float32.

    JSON-able: `models` -> name -> ``captum`` and each mode -> ``seconds_per_pair`` (median of
    rounds), ``dice`` (mean over pairs of both `masks`, against the reference), ``dice_min``; for a
    mode also ``ratio`` (captum's seconds over its own), ``error_median``, ``error_p95``,
    ``steps_mean``, ``unsettled`` (share of pairs); `overall` -> mode -> ``ratio`` (geometric mean
    over models), ``dice`` (mean); and what was measured.
    """
    explained = [i for i, channels in enumerate(targets) if channels]
    if not explained or rounds < 1 or not models:
        raise InputError("nothing to measure: give classifiers, films with targets, and rounds")
    x, targets = x[explained], [targets[i] for i in explained]
    if modes is None:
        fastest = "bfloat16" if compute.computes_bfloat16(x.device) else "float32"
        precisions = {"fast": fastest, "exact": "float32"}
        modes = {mode: {"mode": mode, "precision": p} for mode, p in precisions.items()}
    first = list(accumulate(map(len, targets), initial=0))
    table = {}
    for name, model in models.items():
        began = time.perf_counter()
        walk = partial(
            integrated_gradients, model, x, targets, baseline=baseline, budget_mb=budget_mb
        )
        walks = {mode: partial(walk, **settings) for mode, settings in modes.items()}
        reference = walk(steps=reference_steps).maps
        attributions = {mode: run() for mode, run in walks.items()}
        captum_maps(model, x[:1], targets[:1], baseline)
        seconds: dict[str, list[float]] = {way: [] for way in ("captum", *walks)}
        dice: list[torch.Tensor] = []
        for turn in range(rounds):
            films = sorted({(turn * captum_films + i) % len(x) for i in range(captum_films)})
            channels = [targets[i] for i in films]
            took, maps = timed(partial(captum_maps, model, x[films], channels, baseline), x.device)
            seconds["captum"].append(took / sum(map(len, channels)))
            same = torch.cat([reference[first[i] : first[i + 1]] for i in films])
            dice.append(mask_dice(maps, same))
            for mode, run in walks.items():
                seconds[mode].append(timed(run, x.device)[0] / len(reference))
        row: dict[str, dict[str, Any]]
        row = {way: {"seconds_per_pair": statistics.median(s)} for way, s in seconds.items()}
        row["captum"] |= _mean_min(torch.cat(dice))
        for mode, a in attributions.items():
            ratios = [c / e for c, e in zip(seconds["captum"], seconds[mode], strict=True)]
            row[mode] |= {
                "ratio": statistics.median(ratios),
                **_mean_min(mask_dice(a.maps, reference)),
                "error_median": a.error.quantile(0.5).item(),
                "error_p95": a.error.quantile(0.95).item(),
                "steps_mean": a.steps.double().mean().item(),
                "unsettled": (~a.settled).double().mean().item(),
            }
        table[name] = row
        text = ", ".join(f"{mode} {row[mode]['ratio']:.1f}" for mode in modes)
        log.info("%s: %s times captum (%.0f s)", name, text, time.perf_counter() - began)
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


def captum_maps(
    model: nn.Module, x: torch.Tensor, targets: Targets, baseline: str, at_once: int = 1
) -> torch.Tensor:
    """captum's maps with its defaults, `at_once` pairs in a call: (pairs, S, S)."""
    method, base = IntegratedGradients(model), baseline_films(x, baseline)
    pairs = (part.split(at_once) for part in film_and_channel(targets, x.device))
    rows = CAPTUM_ROWS if at_once > 1 else None
    attribute = partial(method.attribute, n_steps=CAPTUM_STEPS, internal_batch_size=rows)
    maps = [attribute(x[f], base[f], target=channel) for f, channel in zip(*pairs, strict=True)]
    return torch.cat(maps).sum(1).detach()


def _mean_min(dice: torch.Tensor) -> dict[str, float]:
    return {"dice": dice.mean().item(), "dice_min": dice.min().item()}


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that `work` takes, a GPU's own included, and what it gives back."""
    compute.synchronize(device)
    began = time.perf_counter()
    out = work()
    compute.synchronize(device)
    return time.perf_counter() - began, out


def films_of(
    store: Store, split: str, count: int, device: torch.device
) -> tuple[torch.Tensor, list[list[int]]]:
    """First films of a split with a positive finding, normalised, and these findings' channels."""
    rows = split_rows(store, split)
    channels = [
        [c for c in w if FINDINGS[c] != "No Finding"] for w in positives(store.states[rows])
    ]
    keep = [i for i, w in enumerate(channels) if w][: max(0, count)]
    if not keep:
        raise InputError(f"{store.path}: no film of split {split!r} has a finding to explain")
    return compute.to_input(store.images[rows[keep]], device), [channels[i] for i in keep]
