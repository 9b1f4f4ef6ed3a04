"""What a run keeps of itself on disk, and how it goes on from there."""

from __future__ import annotations

import csv
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dollkit.common.errors import InputError, brief
from dollkit.training.gradients import Gradients

log = logging.getLogger(__name__)


@dataclass
class Fit:
    """What a run leaves.

    Attributes:
        history: a row per evaluation; ``wait_share`` and ``images_per_s`` are of the steps since
            the one before.
        best_step: optimiser steps at the best validation score.
        best_score: that score.
        best_state: tensors then, by name.
        seconds: of the run, evaluations included.
        waited: seconds spent waiting for batches.
        trained: seconds of steps, waiting included, evaluations not.
        films: shown in those.
        peak_mb: most memory, see `dollkit.training.gradients.Memory`.
        at_once: most films of one pass; 0: the whole batch.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_score: float = -math.inf
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    trained: float = 0.0
    films: int = 0
    peak_mb: float = 0.0
    at_once: int = 0

    @property
    def wait_share(self) -> float:
        """Share of the training time spent waiting for data, in [0, 1]."""
        return self.waited / self.trained if self.trained else 0.0

    @property
    def images_per_s(self) -> float:
        """Films per second of training time."""
        return self.films / self.trained if self.trained else 0.0

    @property
    def told(self) -> str:
        """Speed and memory of the run in a line."""
        return (
            f"{100 * self.wait_share:.1f} % of the training time spent waiting for data, "
            f"{self.images_per_s:.1f} films/s, peak {self.peak_mb:.0f} MB"
        )


@dataclass
class Checkpoint:
    """The parts of a run that decide how it goes on.

    Attributes:
        folder: of the run; None keeps nothing.
        made_by: all that decides the result; another value is another run.
        model, optimiser, gradients, done: what is stored.
    """

    folder: Path | None
    made_by: dict[str, Any]
    model: nn.Module
    optimiser: torch.optim.Optimizer
    gradients: Gradients
    done: Fit

    def save(self) -> None:
        """Write ``history.csv`` and ``checkpoints/last.pt``, each whole or not at all."""
        if self.folder is None:
            return
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        rows = self.done.history
        part = self.folder / "history.csv.part"
        with part.open("w", newline="") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.folder / "history.csv")
        state = {
            "recipe": self.made_by,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "fit": vars(self.done),
        }
        part = self.folder / "checkpoints" / "last.pt.part"
        torch.save(state, part)
        part.replace(self.folder / "checkpoints" / "last.pt")

    def resume(self) -> int:
        """Continue from the checkpoint in the folder, if there is one.

        Returns:
            Steps done already; 0 without a checkpoint, or if other settings made it.
        """
        state = self._read()
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        vars(self.done).update(state["fit"])
        where = next(self.model.parameters()).device
        self.done.best_state = {k: v.to(where) for k, v in self.done.best_state.items()}
        self.gradients.at_once = self.done.at_once
        return int(self.done.history[-1]["step"])

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "checkpoints" / "last.pt" if self.folder is not None else None
        if path is None or not path.exists():
            return None
        try:  # on the CPU first: another machine may have no GPU
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            made_by, step = state["recipe"], int(state["fit"]["history"][-1]["step"])
        except Exception as error:
            what = f"not a readable checkpoint ({brief(error)})"
            raise InputError(f"{path}: {what}; delete it") from error
        if made_by != self.made_by:
            log.info("%s was made by other settings, data or code: starting afresh", path)
            return None
        log.info("resumed at step %d of %d from %s", step, self.made_by["steps"], path)
        return state
