"""The one training loop: classifiers, pre-training and fine-tuning all run through `fit`.

A step is a pure function of (seed, step): batch order, augmentation and dropout are drawn from
generators keyed by both. So a run killed at any moment and resumed from its checkpoint ends
bit-equal to one that was not.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from dollkit.common import compute
from dollkit.training.checkpoint import Checkpoint, Fit
from dollkit.training.gradients import Feed, Gradients, Memory
from dollkit.training.recipe import Batch, Recipe, optimiser_of, order, parameter_groups

__all__ = ["Batch", "Fit", "Recipe", "fit", "order", "parameter_groups"]

log = logging.getLogger(__name__)


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
    ahead: bool | None = None,
) -> Fit:
    """Train `model` in place.

    When memory runs out, the batch is cut in halves and its gradient accumulated (see
    `dollkit.training.gradients`, also for where that is not exact).

    Args:
        model: on its device already.
        sample: step number to batch (films and targets on the model's device, films first in
            every tensor), always the whole one.
        loss: scalar training loss of a batch, a mean over its films.
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
        ahead: draw the next batch in a thread during a step, the same batches; None: on CUDA.

    Returns:
        The `Fit`. `model` ends with the *last* weights;
        load `best_state` for the best.

    Raises:
        FloatingPointError: the loss stopped being finite.
    """
    where = next(model.parameters()).device
    began = time.perf_counter()
    done, optimiser = Fit(at_once=recipe.at_once), optimiser_of(model, recipe)
    memory = Memory(where)  # a first optimiser loads much of torch: no memory of this run
    trainable = [p for g in optimiser.param_groups for p in g["params"]]
    gradients = Gradients(model, loss, recipe, label)
    made_by = {"key": key, **asdict(recipe)}
    checkpoint = Checkpoint(folder, made_by, model, optimiser, gradients, done)
    start = checkpoint.resume()
    began, peak = began - done.seconds, done.peak_mb
    train_mode = set_mode or (lambda m: m.train() and None)
    # A bar for people; one line per evaluation in logs.
    bar: Iterable[int] = range(start, recipe.steps)
    if not quiet and sys.stderr.isatty():
        bar = tqdm(bar, initial=start, total=recipe.steps, desc=label)
    ahead = where.type == "cuda" if ahead is None else ahead
    feed = Feed(sample, start, recipe.steps, where, ahead)
    running, before = 0.0, (done.waited, done.trained, done.films)
    train_mode(model)
    try:
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step) * group["scale"]
            clock = time.perf_counter()
            batch, waited = feed.take(step)
            value = gradients.of(batch, step)
            nn.utils.clip_grad_norm_(trainable, recipe.clip)
            optimiser.step()
            running += float(value)  # waits for the device, so that the clock sees the whole step
            done.waited += waited
            done.trained += time.perf_counter() - clock
            done.films += len(batch[0])
            last = step + 1 == recipe.steps
            if not last and (step + 1) % recipe.evaluate_every:
                continue
            if not math.isfinite(running):
                raise FloatingPointError(f"{label}: loss is not finite at step {step + 1}")
            found = _judge(model, step + 1, evaluate, score, recipe, done)
            train_mode(model)
            done.seconds = time.perf_counter() - began
            done.peak_mb, done.at_once = max(peak, memory.peak_mb()), gradients.at_once
            now = (done.waited, done.trained, done.films)
            waiting, taken, films = (b - a for a, b in zip(before, now, strict=True))
            row = {
                "step": step + 1,
                "seconds": round(done.seconds, 3),
                "films": (step + 1) * recipe.batch,
                "train_loss": running / (step + 1 - start),
                **found,
                "wait_share": round(waiting / taken, 4),
                "images_per_s": round(films / taken, 1),
            }
            running, start, before = 0.0, step + 1, now
            done.history.append(row)
            if not quiet:
                shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "films")
                log.info("%s  %s / %d", label, shown, recipe.steps)
            checkpoint.save()
    finally:
        feed.close()
    if not quiet:
        log.info("%s  %s", label, done.told)
    return done


def _judge(
    model: nn.Module, step: int,
    evaluate: Callable[[nn.Module], dict[str, float]], score: str, recipe: Recipe, done: Fit,
) -> dict[str, float]:  # fmt: skip
    """Evaluate the model, and keep its state in `done` if it is the best."""
    model.eval()
    where = next(model.parameters()).device
    with torch.inference_mode(), compute.autocast(where, recipe.precision):
        row = evaluate(model)
    if row[score] > done.best_score:
        done.best_score, done.best_step = row[score], step
        done.best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return row
