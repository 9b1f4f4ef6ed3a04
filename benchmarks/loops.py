"""What the training loop costs beside the step that it wraps, and what bfloat16 gains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import interleaved, median, ratio
from benchmarks.attribution import TrainedRun
from dollkit.common import compute
from dollkit.common.findings import apply_policy
from dollkit.training import classifiers, fit
from dollkit.training.augment import Augmentation, augment
from dollkit.training.fit import TrainingResult
from dollkit.training.loss_and_optimiser import Batch, Recipe, batch_indices, optimiser_of


def run(
    run: TrainedRun,
    steps: int = 12,
    rounds: int = 5,
    architecture: str = "tu-resnet10t",
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Films per second of `fit.fit` and of a bare PyTorch loop, in turns of some steps.

    The loop reads its batches from the run's store; evaluation is off. The bare loop does
    forward, backward and optimiser on one batch held in memory: the same network, batch and
    precision, without clipping. JSON-able; ratios are medians over rounds:

    - ``loop_ratio``: loop over bare loop (goal: at least 0.95); ``loop_ratio_augmented``: with
      augmentation in the loop.
    - ``loop_films_per_s``, ``loop_bare_films_per_s``: their rates.
    - ``loop_wait_share``: share of training time spent waiting for data, with augmentation
      (goal: below 0.05).
    - ``loop_bf16_speedup``: loop in bfloat16 with channels last over loop in float32 with
      channels first, films held in memory; None where the hardware computes no bfloat16.
    - ``loop_setting``: what was measured.
    """
    device = compute.device() if device is None else device
    settings, store = run.parameters, run.store
    rows = classifiers.split_rows(store, "train")
    known, _ = apply_policy(store.states[rows], settings["policy"])
    y = torch.from_numpy(known).to(device)
    recipe = Recipe(
        steps=steps, batch=min(settings["batch"], len(rows)), lr=settings["lr"],
        evaluate_every=steps, precision=settings["precision"],
    )  # fmt: skip
    model = classifiers.create(architecture, 5, "silu", "lse", recipe.seed, device)

    def sample(step: int) -> Batch:
        pick = batch_indices(len(rows), recipe.batch, step, recipe.seed)
        x = compute.to_input(store.images[rows[pick.numpy()]], device)
        return x, y[pick.to(device)]

    def augmented(step: int) -> Batch:
        x, target = sample(step)
        rng = compute.generator(recipe.seed, 3, step)
        return augment(x, None, Augmentation(), rng)[0], target

    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(net(batch[0]).float(), batch[1])

    fits: dict[str, list[TrainingResult]] = {}

    def fitting(
        name: str, net: nn.Module, draw: Callable[[int], Batch], recipe: Recipe = recipe
    ) -> Callable[[], int]:
        def once() -> int:
            score = {"none": 0.0}  # the last step is always evaluated: by nothing
            done = fit.fit(net, draw, loss, recipe, evaluate=lambda net: score, score="none")
            fits.setdefault(name, []).append(done)
            return steps * recipe.batch

        return once

    bare = copy.deepcopy(model).train()
    optimiser = optimiser_of(bare, recipe)
    held = sample(0)

    def stepping() -> int:
        for _ in range(steps):
            with compute.autocast(device, recipe.precision):
                value = loss(bare, held)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
        compute.synchronize(device)
        return steps * recipe.batch

    plain, half, full = (copy.deepcopy(model) for _ in range(3))
    full.to(memory_format=torch.contiguous_format)
    first = held[0].contiguous(), held[1]
    tasks = {
        "loop": fitting("loop", plain, sample),
        "augmented": fitting("augmented", plain, augmented),
        "bare": stepping,
    }
    both = compute.computes_bfloat16(device)
    if both:
        narrow, wide = (replace(recipe, precision=p) for p in ("bfloat16", "float32"))
        tasks["bf16"] = fitting("bf16", half, lambda _: held, narrow)
        tasks["float32"] = fitting("float32", full, lambda _: first, wide)
    rates = interleaved(tasks, rounds)
    measured = fits["augmented"][1:]  # as in `interleaved`, the first turn is not
    return {
        "loop_ratio": round(ratio(rates, "loop", "bare"), 3),
        "loop_ratio_augmented": round(ratio(rates, "augmented", "bare"), 3),
        "loop_films_per_s": median(rates["loop"]),
        "loop_bare_films_per_s": median(rates["bare"]),
        "loop_wait_share": round(fmean(f.history[-1]["wait_share"] for f in measured), 4),
        "loop_bf16_speedup": round(ratio(rates, "bf16", "float32"), 3) if both else None,
        "loop_setting": {
            "architecture": architecture, "batch": recipe.batch, "size": store.size,
            "precision": recipe.precision, "device": device.type, "steps": steps, "rounds": rounds,
            "threads": torch.get_num_threads(), "run": run.name,
        },
    }  # fmt: skip
