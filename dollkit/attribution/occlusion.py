"""Occlusion (Zeiler and Fergus 2014): how far the logit falls when a square of the film is hidden.

The work is captum's. All outputs of all films of a batch share the forward pass of a window
place. It is slow all the same, and judged on few films only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.attr import Occlusion
from torch import nn

from dollkit import compute
from dollkit.attribution.pairs import Attribution, check_targets, without_path

WINDOW, STRIDE = 8, 10
"""Side of the window and its step, as parts of the film's side: S / 8 and S / 10."""


def occlusion(
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    precision: str = "float32",
    **_: object,
) -> Attribution:
    """Occlusion maps of each film's own targets, windows filled with the film's mean.

    Args:
        model: (n, 1, S, S) -> (n, outputs) logits, in eval mode.
        x: (n, 1, S, S) normalised films.
        targets: per film, the output channels to explain.
        precision: of the forward passes, bfloat16 or float32.

    Returns:
        `Attribution` with pairs film by film, target by target.
    """
    with torch.no_grad():
        logits = model(x).float()
    check_targets(x, targets, logits.shape[1])
    n, outputs = logits.shape
    film = torch.tensor([i for i, wanted in enumerate(targets) for _ in wanted], dtype=torch.long)
    channel = torch.tensor([t for wanted in targets for t in wanted], dtype=torch.long)
    if not len(film):
        return without_path(x.new_zeros(0, *x.shape[2:]), x.new_zeros(0))
    side = x.shape[-1]
    window, stride = max(1, side // WINDOW), max(1, side // STRIDE)

    def outputs_of(z: torch.Tensor) -> torch.Tensor:
        films = z.contiguous(memory_format=torch.channels_last)
        with compute.autocast(x.device, precision):
            out: torch.Tensor = model(films)
        return out.float().flatten()

    explainer = Occlusion(outputs_of)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    made = []
    # A few films at a time: captum keeps one map for every film and output.
    for start in range(0, n, 8):
        some = x[start : start + 8]
        maps = explainer.attribute(
            some,
            sliding_window_shapes=(1, window, window),
            strides=(1, stride, stride),
            baselines=mean[start : start + 8],
        )
        # One row per film and output: hiding a film's part moves its own outputs alone.
        made.append(maps.view(len(some), outputs, *maps.shape[1:]).sum(2))
    whole = torch.cat(made).float()
    return without_path(whole[film, channel], logits[film, channel])
