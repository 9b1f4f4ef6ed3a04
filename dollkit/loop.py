"""The one training loop: classifiers, pre-training and fine-tuning all run through `fit`.

A step is a pure function of (seed, step): batch order, augmentation and dropout are drawn from
generators keyed by both. So a run killed at any moment and resumed from its checkpoint ends
bit-equal to one that was not.
"""

from __future__ import annotations

import csv
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from dollkit import compute
from dollkit.errors import InputError

log = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Recipe:
    """How to optimise; every arm of a comparison gets the same one but for its learning rate.

    Attributes:
        steps: optimiser steps.
        batch: films per step.
        lr: peak learning rate (linear warm-up, then cosine to zero).
        weight_decay: decoupled for AdamW, L2 for SGD; not applied to biases and norms.
        warmup: share of the steps with rising rate.
        optimizer: ``adamw``, or ``sgd`` with momentum 0.9 (PSSL).
        clip: largest gradient norm.
        evaluate_every: steps between evaluations (the last step is always evaluated).
        precision: ``bfloat16`` (autocast) or ``float32``.
        seed: of batch order, augmentation and dropout.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 1e-2
    warmup: float = 0.15
    optimizer: str = "adamw"
    clip: float = 1.0
    evaluate_every: int = 100
    precision: str = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"parameter {name!r} is {getattr(self, name)}: it must be at least 1"
                )
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise InputError(f"parameter 'lr' is {self.lr}: it must be a positive number")
        if self.optimizer not in {"adamw", "sgd"}:
            raise InputError(f"parameter 'optimizer' is {self.optimizer!r}: use adamw or sgd")
        compute.check_precision(self.precision)

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step` (0-based)."""
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return self.lr * (step + 1) / ramp
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


@dataclass
class Fit:
    """What a run leaves: `history` rows, and the state with the best validation score."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_score: float = -math.inf
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def order(n: int, batch: int, step: int, seed: int) -> torch.Tensor:
    """Film indices of batch `step`: passes over random permutations of ``range(n)``, cut anew.

    Returns:
        (batch,) int64. Films are drawn without replacement within a pass; a batch may span two
        passes, so that no film is dropped when `batch` does not divide `n`.
    """
    first = step * batch
    parts: list[torch.Tensor] = []
    while first < (step + 1) * batch:
        epoch, at = divmod(first, n)
        stop = min(n, at + (step + 1) * batch - first)
        parts.append(torch.randperm(n, generator=compute.generator(seed, 1, epoch))[at:stop])
        first += stop - at
    return torch.cat(parts)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and kernels decay, vectors do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def fit(
    model: nn.Module,
    sample: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    recipe: Recipe,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]],
    score: str,
    folder: Path | None = None,
    set_mode: Callable[[nn.Module], None] | None = None,
    label: str = "",
    quiet: bool = False,
    key: str = "",
) -> Fit:
    """Train `model` in place.

    Args:
        model: on its device already.
        sample: step number to batch (films and targets on the model's device).
        loss: scalar training loss of a batch.
        recipe: steps, rate, precision, seed.
        evaluate: model in eval mode to a row of numbers; must hold `score`.
        score: key to maximise; the state at its best is kept in memory and in `folder`.
        folder: where `history.csv` and the checkpoint go; a checkpoint found there is resumed
            from if the same recipe and `key` made it, else the run starts afresh. None keeps
            nothing.
        set_mode: puts the model in training mode; the default is ``model.train()``. Adapters
            pass their own, because frozen batch norms must stay in eval mode.
        label: shown in progress lines.
        quiet: no progress lines.
        key: fingerprint of all else that decides the result: data, code, the loss's settings.

    Returns:
        The `Fit`. `model` ends with the *last* weights; load `best_state` for the best.

    Raises:
        InputError: a checkpoint in `folder` cannot be read.
        FloatingPointError: the loss stopped being finite.
    """
    where = next(model.parameters()).device
    optimiser: torch.optim.Optimizer
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    else:
        optimiser = torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    trainable = [p for g in groups for p in g["params"]]
    done = Fit()
    made_by = {"key": key, **asdict(recipe)}
    start = _resume(folder, made_by, model, optimiser, done)
    train_mode = set_mode or (lambda m: m.train() and None)
    running, seen, began = 0.0, 0, time.perf_counter() - done.seconds
    # A bar for people; one line per evaluation in logs.
    bar: Iterable[int] = range(start, recipe.steps)
    if not quiet and sys.stderr.isatty():
        bar = tqdm(bar, initial=start, total=recipe.steps, desc=label)
    train_mode(model)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        batch = sample(step)
        with (
            compute.seeded(recipe.seed, 2, step),
            compute.autocast(where, recipe.precision),
        ):
            value = loss(model, batch)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(trainable, recipe.clip)
        optimiser.step()
        running, seen = running + float(value.detach()), seen + 1
        last = step + 1 == recipe.steps
        if last or (step + 1) % recipe.evaluate_every == 0:
            if not math.isfinite(running):
                raise FloatingPointError(f"{label}: loss is not finite at step {step + 1}")
            model.eval()
            with torch.inference_mode(), compute.autocast(where, recipe.precision):
                row = evaluate(model)
            train_mode(model)
            done.seconds = time.perf_counter() - began
            row = {
                "step": step + 1,
                "seconds": round(done.seconds, 3),
                "films": (step + 1) * recipe.batch,
                "train_loss": running / seen,
                **row,
            }
            running, seen = 0.0, 0
            done.history.append(row)
            if row[score] > done.best_score:
                done.best_score, done.best_step = row[score], step + 1
                done.best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            if not quiet:
                shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "films")
                log.info("%s  %s / %d", label, shown, recipe.steps)
            _checkpoint(folder, made_by, model, optimiser, done)
    return done


def _checkpoint(
    folder: Path | None,
    made_by: dict[str, Any],
    model: nn.Module,
    opt: torch.optim.Optimizer,
    done: Fit,
) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history.csv.part").open("w", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=list(done.history[0]))
        writer.writeheader()
        writer.writerows(done.history)
    (folder / "history.csv.part").replace(folder / "history.csv")
    state = {
        "recipe": made_by,
        "model": model.state_dict(),
        "optimiser": opt.state_dict(),
        "fit": vars(done),
    }
    (folder / "checkpoints").mkdir(exist_ok=True)
    part = folder / "checkpoints" / "last.pt.part"
    torch.save(state, part)
    part.replace(folder / "checkpoints" / "last.pt")


def _resume(
    folder: Path | None,
    made_by: dict[str, Any],
    model: nn.Module,
    opt: torch.optim.Optimizer,
    done: Fit,
) -> int:
    path = folder / "checkpoints" / "last.pt" if folder is not None else None
    if path is None or not path.exists():
        return 0
    where = next(model.parameters()).device
    try:
        state = torch.load(path, map_location=where, weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}); delete it") from error
    if state["recipe"] != made_by:
        log.info("%s was made by other settings, data or code: starting afresh", path)
        return 0
    model.load_state_dict(state["model"])
    opt.load_state_dict(state["optimiser"])
    vars(done).update(state["fit"])
    step = int(done.history[-1]["step"])
    log.info("resumed at step %d of %d from %s", step, made_by["steps"], path)
    return step
