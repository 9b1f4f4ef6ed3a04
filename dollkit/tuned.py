"""What a job of fine-tuning needs in memory, and the network that it left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dollkit import adapters, compute, networks, weights
from dollkit.finetuning import Films, Job, Start, network
from dollkit.loop import Recipe
from dollkit.losses import weighted_bce_dice
from dollkit.training.footprint import footprint


def step_mb(
    job: Job, data: Films, config: Mapping[str, Any], recipe: Recipe, where: torch.device,
    rank: int = adapters.RANK,
) -> float:  # fmt: skip
    """Memory of one training step of a job, in MB; NaN where it does not fit.

    See `training.footprint`; it depends on the tuning and the batch, not on the start.
    """
    net, _ = network(job, config, len(data.classes), Start(lambda net: []), rank)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    picked = np.resize(np.arange(len(data.images)), recipe.batch)
    x = compute.to_input(data.images[picked], where)
    y = torch.from_numpy(data.targets[picked]).to(where)
    try:
        return footprint(
            net,
            lambda m: weighted_bce_dice(m(x), y),
            recipe,
            lambda m: adapters.train_mode(m, job.tuning),
        )
    except RuntimeError as error:
        if not compute.out_of_memory(error):
            raise
        return float("nan")


def restored(
    path: Path, job: Job, config: Mapping[str, Any], classes: int, start: Start
) -> nn.Module:
    """The network that a job trained, in eval mode: its start, and the file of what it trained.

    Args:
        path: a file that `run` kept; it holds the trained tensors alone.
        job, config, classes, start: as for `run`.
    """
    with compute.seeded(job.seed, 7):
        net = networks.build(job.network, classes=classes, **config)
        start.of(job.seed).load(net)
        weights.load_tuned(net, path, made_by=job.made_by(start))
    return net.eval()
