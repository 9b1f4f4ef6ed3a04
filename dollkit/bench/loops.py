"""What the training loop costs beside the step that it wraps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dollkit import classifiers, compute, loop
from dollkit.augment import Augmentation, augment
from dollkit.bench.attribution import TrainedRun
from dollkit.bench.rounds import interleaved, median, ratio
from dollkit.findings import apply_policy
from dollkit.loop import Batch, Recipe


def run(
    run: TrainedRun,
    steps: int = 6,
    rounds: int = 3,
    architecture: str = "tu-resnet10t",
    where: torch.device | None = None,
) -> dict[str, Any]:
    """Films per second of `loop.fit` over those of a bare step on one batch held in memory.

    The loop reads its batches from the run's store; evaluation is off. The bare step is forward,
    backward and optimiser, at the same batch and precision. With augmentation beside it.

    Args:
        run: whose store, batch and precision are taken.
        steps: of each turn; rounds: measured ones.
        architecture: of the small classifier.
        where: device; None: `compute.device`.

    Returns:
        JSON-able record; keys start with ``loop_``, ratios are medians over rounds.
    """
    where = compute.device() if where is None else where
    given, store = run.parameters, run.store
    rows = classifiers.split_rows(store, "train")
    known, _ = apply_policy(store.states[rows], given["policy"])
    y = torch.from_numpy(known).to(where)
    recipe = Recipe(
        steps=steps, batch=min(given["batch"], len(rows)), lr=given["lr"],
        evaluate_every=steps, precision=given["precision"],
    )  # fmt: skip
    model = classifiers.create(architecture, 5, "silu", "lse", recipe.seed, where)

    def sample(step: int) -> Batch:
        pick = loop.order(len(rows), recipe.batch, step, recipe.seed)
        x = compute.to_input(store.images[rows[pick.numpy()]], where)
        return x, y[pick.to(where)]

    def augmented(step: int) -> Batch:
        x, target = sample(step)
        rng = compute.generator(recipe.seed, 3, step)
        return augment(x, None, Augmentation(), rng)[0], target

    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(net(batch[0]).float(), batch[1])

    def fitting(draw: Callable[[int], Batch]) -> int:
        # The last step is always evaluated: by nothing.
        loop.fit(
            own, draw, loss, recipe, evaluate=lambda net: {"none": 0.0}, score="none", quiet=True
        )
        return steps * recipe.batch

    own, bare = copy.deepcopy(model), copy.deepcopy(model).train()
    groups = loop.parameter_groups(bare, recipe.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    held = sample(0)

    def stepping() -> int:
        for _ in range(steps):
            with compute.autocast(where, recipe.precision):
                value = loss(bare, held)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return steps * recipe.batch

    tasks = {
        "loop": lambda: fitting(sample),
        "augmented": lambda: fitting(augmented),
        "bare": stepping,
    }
    rates = interleaved(tasks, rounds)
    return {
        "loop_ratio": round(ratio(rates, "loop", "bare"), 3),
        "loop_ratio_augmented": round(ratio(rates, "augmented", "bare"), 3),
        "loop_films_per_s": median(rates["loop"]),
        "loop_bare_films_per_s": median(rates["bare"]),
        "loop_setting": {
            "architecture": architecture, "batch": recipe.batch, "size": store.size,
            "precision": recipe.precision, "threads": torch.get_num_threads(), "run": run.name,
        },
    }  # fmt: skip
