"""The one training loop: classifiers, pre-training and fine-tuning all run through `fit`.

A step is a pure function of (seed, step), which key all that is drawn. So a run killed at any
moment and resumed from its checkpoint ends bit-equal to one that was not.

When memory runs out, a batch is cut into parts of n_i of its n films, and ``sum(n_i / n *
gradient_i)`` is its gradient: up to rounding where the loss is a mean over films, and not where
something spans the batch (statistics of batch norm, a loss divided by a sum over the batch).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from dollkit.common import compute
from dollkit.common.errors import InputError, brief
from dollkit.training.loss_and_optimiser import MAX_GRADIENT_NORM, Batch, Recipe, optimiser_of

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Batch], torch.Tensor]


@dataclass
class TrainingResult:
    """What a run leaves."""

    history: list[dict[str, float]] = field(default_factory=list)  # a row per evaluation
    best_step: int = 0
    best_score: float = -math.inf
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # evaluations included
    at_once: int = 0  # most films of one pass; it only falls. 0: the whole batch


def fit(
    model: nn.Module, sample: Callable[[int], Batch], loss: Loss, recipe: Recipe, *,
    evaluate: Callable[[nn.Module], dict[str, float]], score: str, folder: Path | None = None,
    train_mode: Callable[[nn.Module], object] = nn.Module.train, label: str = "training",
    key: str = "",
) -> TrainingResult:  # fmt: skip
    """Train `model` in place; it ends with the *last* weights, `best_state` holds the best.

    A loss that is not finite is a `FloatingPointError`.

    Args:
        sample: step number to batch. On CUDA it runs in another thread during the step before, so
            it must not use torch's global generator.
        loss: mean over the films of a batch.
        evaluate: scores of the model in eval mode, under the recipe's autocast, without gradients.
        score: which of them is to be high.
        folder: where ``history.csv`` and the checkpoint go; a checkpoint found there is resumed
            from if the same recipe and `key` made it, else the run starts afresh. Without a folder
            the run is quiet, too.
        train_mode: puts the model in training mode: frozen batch norms must stay in eval mode.
        key: fingerprint of all else that decides the result: data, code, the loss's settings.
    """
    device = next(model.parameters()).device
    done, optimiser = TrainingResult(), optimiser_of(model, recipe)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    gradients = Gradients(model, loss, recipe, done, label)
    made_by = {"key": key, **asdict(recipe)}
    start = resume(folder, made_by, model, optimiser, done) if folder is not None else 0
    began = time.perf_counter() - done.seconds
    steps = range(start, recipe.steps)
    # A bar for people at a terminal; one line per evaluation in logs.
    bar = tqdm(steps, label, recipe.steps, initial=start, disable=True if folder is None else None)
    running = waited = trained = 0.0
    train_mode(model)
    with contextlib.closing(batches(sample, steps, ahead=device.type == "cuda")) as feed:
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            clock = time.perf_counter()
            batch = next(feed)
            waited += time.perf_counter() - clock
            value = gradients.of(batch, step)
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimiser.step()
            running += float(value)  # waits for the device, so that the clock sees the whole step
            trained += time.perf_counter() - clock
            if (step + 1) % recipe.evaluate_every and step + 1 < recipe.steps:
                continue
            if not math.isfinite(running):
                raise FloatingPointError(f"{label}: loss is not finite at step {step + 1}")
            model.eval()
            with torch.inference_mode(), compute.autocast(device, recipe.precision):
                scores = evaluate(model)
            train_mode(model)
            if scores[score] > done.best_score:
                done.best_score, done.best_step = scores[score], step + 1
                done.best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            done.seconds = time.perf_counter() - began
            row = {
                "step": step + 1,
                "seconds": round(done.seconds, 3),
                "films": (step + 1) * recipe.batch,
                "train_loss": running / (step + 1 - start),
                **scores,
                "wait_share": round(waited / trained, 4),
                "images_per_s": round((step + 1 - start) * recipe.batch / trained, 1),
            }
            done.history.append(row)
            if folder is not None:
                shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "films")
                log.info("%s  %s / %d", label, shown, recipe.steps)
                save_checkpoint(folder, made_by, model, optimiser, done)
            running, waited, trained, start = 0.0, 0.0, 0.0, step + 1
    return done


def batches(sample: Callable[[int], Batch], steps: range, ahead: bool) -> Generator[Batch]:
    """Batches of some steps; `ahead`: a thread prepares the next while the device works on one."""
    if not ahead:
        yield from map(sample, steps)
        return
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(sample, steps[0])
        for step in steps:
            batch = following.result()
            if step + 1 in steps:
                following = pool.submit(sample, step + 1)
            yield batch


class Gradients:
    """Leaves the gradient of a batch in the parameters, in as few passes as memory allows."""

    def __init__(
        self, model: nn.Module, loss: Loss, recipe: Recipe, done: TrainingResult, label: str
    ) -> None:
        self.model, self.loss, self.recipe, self.done, self.label = model, loss, recipe, done, label
        self.device = next(model.parameters()).device
        self.buffers = list(model.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]

    def of(self, batch: Batch, step: int) -> torch.Tensor:
        """The loss of a batch, a detached scalar, and its gradient in the parameters.

        When memory runs out, the batch starts afresh with half the films at once, and so do
        later ones.
        """
        films, done = len(batch[0]), self.done
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)
        while True:
            passes = math.ceil(films / done.at_once) if done.at_once else 1
            try:
                return self._passes(batch, passes, step)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(
                    f"{self.label}: one film at once is too few for this network's batch norm: "
                    "use a larger 'batch' or smaller films"
                ) from None
            except RuntimeError as error:
                if not compute.out_of_memory(error):
                    raise
                reason = brief(error)
            # Not within `except`: there the traceback holds on to the tensors.
            for buffer, kept in zip(self.buffers, self.kept, strict=True):
                buffer.copy_(kept)  # passes that got through moved running statistics
            self.model.zero_grad()
            compute.release_memory(self.device)
            size = math.ceil(films / passes)
            if size == 1:
                raise InputError(
                    f"{self.label}: out of memory with one film at once ({reason}): use smaller "
                    "films, a smaller network or precision bfloat16"
                )
            done.at_once = size // 2
            log.warning(
                "%s: out of memory with %d films at once (%s): %d from here on, their gradients "
                "accumulated to the same batch", self.label, size, reason, done.at_once,
            )  # fmt: skip

    def _passes(self, batch: Batch, passes: int, step: int) -> torch.Tensor:
        self.model.zero_grad()
        films, values = len(batch[0]), []
        bounds = [films * i // passes for i in range(passes + 1)]
        with compute.seeded(self.recipe.seed, 2, step):
            for first, stop in itertools.pairwise(bounds):
                with compute.autocast(self.device, self.recipe.precision):
                    value = self.loss(self.model, tuple(t[first:stop] for t in batch))
                value = value * ((stop - first) / films)
                value.backward()
                values.append(value.detach())
        return sum(values[1:], values[0])


def save_checkpoint(
    folder: Path, made_by: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer,
    done: TrainingResult,
) -> None:  # fmt: skip
    """Write ``history.csv`` and ``checkpoints/last.pt``, each whole or not at all."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    part = folder / "history.csv.part"
    pd.DataFrame(done.history).to_csv(part, index=False, lineterminator="\r\n", na_rep="nan")
    part.replace(folder / "history.csv")
    state = {
        "recipe": made_by,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "fit": vars(done),
    }
    part = folder / "checkpoints" / "last.pt.part"
    torch.save(state, part)
    part.replace(folder / "checkpoints" / "last.pt")


def resume(
    folder: Path, made_by: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer,
    done: TrainingResult,
) -> int:  # fmt: skip
    """Continue from the checkpoint in a folder: steps done, 0 if none or `made_by` others."""
    path = folder / "checkpoints" / "last.pt"
    if not path.exists():
        return 0
    try:  # on the CPU first: another machine may have no GPU
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same, step = state["recipe"] == made_by, int(state["fit"]["history"][-1]["step"])
    except Exception as error:
        why = brief(error)
        raise InputError(f"{path}: not a readable checkpoint ({why}); delete it") from error
    if not same:
        log.info("%s was made by other settings, data or code: starting afresh", path)
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    device = next(model.parameters()).device
    vars(done).update(state["fit"])
    done.best_state = {k: v.to(device) for k, v in done.best_state.items()}
    log.info("resumed at step %d of %d from %s", step, made_by["steps"], path)
    return step
