"""Runs of `fit` that processes share; each process writes what it ended with.

Started by `tests.test_loop`, as ``python -m torch.distributed.run`` or plainly.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dollkit import compute
from dollkit.loop import Batch, Recipe, fit, order
from dollkit.training import processes

STEPS = 12


class Net(nn.Module):
    """Without batch norm, or with its statistics frozen; out of memory above `most` films."""

    def __init__(self, most: int, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.last = nn.Conv2d(4, 1, 1)
        self.unused = nn.Linear(2, 2)  # has no gradient in any process
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(x))
        if len(x) > self.most and self.training:
            raise torch.OutOfMemoryError(f"no room for {len(x)} films")
        out: torch.Tensor = self.last(F.silu(hidden))
        return out


def freeze(net: nn.Module) -> None:
    net.train()
    assert isinstance(net, Net)
    net.norm.eval()


def train(folder: Path, most: int = 99, steps: int = STEPS, norm: bool = True) -> dict[str, object]:
    """Loss curve, weights and settings after a run of 7 films a step."""
    rank = processes.here().rank
    with compute.seeded(1, rank):  # the first process's weights are taken
        net = Net(most, norm).to(compute.device())
    x = torch.randn(24, 1, 8, 8, generator=compute.generator(0))
    y = (x > 0.3).float()
    evaluations: list[int] = []
    recipe = Recipe(
        steps=steps, batch=7, lr=0.03, evaluate_every=3, precision="float32", ema=0.9, warmup=0.0
    )

    def sample(step: int) -> Batch:
        pick = order(len(x), recipe.batch, step, recipe.seed)
        return x[pick], y[pick]

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> dict[str, float]:
        evaluations.append(rank)
        return {"score": -float(loss(model, (x, y)))}

    done = fit(
        net, sample, loss, recipe, evaluate=evaluate, score="score", folder=folder,
        set_mode=freeze, label="shared",
    )  # fmt: skip
    return {
        "train_loss": [row["train_loss"] for row in done.history],
        "score": [row["score"] for row in done.history],
        "best_step": done.best_step,
        "at_once": done.at_once,
        "evaluations": len(evaluations),
        "weights": torch.cat([v.flatten() for v in net.state_dict().values()]).tolist(),
        "best": torch.cat([v.flatten() for v in done.best_state.values()]).tolist(),
    }


def main(out: str) -> None:
    """All runs, into ``<rank>.json``."""
    folder, rank = Path(out), processes.here().rank
    record = {"plain": train(folder / "plain")}
    # One process alone has no room for its share: both must halve.
    record["tight"] = train(folder / "tight", most=3 if rank == 1 else 99)
    record["again"] = train(folder / "plain")  # from the checkpoint: nothing is left to do
    try:
        fit(
            nn.Linear(2, 1), lambda step: (torch.zeros(1, 2),), lambda m, b: m(b[0]).sum(),
            Recipe(steps=1, batch=1, lr=0.1, precision="float32"),
            evaluate=lambda m: {"score": 0.0}, score="score",
        )  # fmt: skip
        refused = ""
    except ValueError as error:
        refused = str(error)
    (folder / f"{rank}.json").write_text(json.dumps({**record, "refused": refused}))


if __name__ == "__main__":
    main(sys.argv[1])
