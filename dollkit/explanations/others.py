"""Explainers beside Integrated Gradients: plain input gradient and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import nn

from dollkit.classifiers.model import Classifier
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Attribution, check_targets, without_path

CAM_PLACES = 8


def gradient(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], **_: object
) -> Attribution:
    """Plain input gradient of each target's logit (Simonyan et al. 2013), signed."""
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(points).float()
    check_targets(x, targets, logits.shape[1])
    maps = []
    for r in range(max((len(w) for w in targets), default=0)):
        chosen = torch.stack([logits[i, w[r]] for i, w in enumerate(targets) if len(w) > r]).sum()
        (grad,) = torch.autograd.grad(chosen, points, retain_graph=True)
        maps.append(grad.sum(1))
    order = [(r, i, w[r]) for i, w in enumerate(targets) for r in range(len(w))]
    if not order:
        return without_path(x.new_zeros(0, *x.shape[2:]), x.new_zeros(0))
    stacked = torch.stack([maps[r][i] for r, i, _ in order])
    logit = torch.stack([logits[i, t].detach() for _, i, t in order])
    return without_path(stacked, logit)


def gradcam(
    model: nn.Module, x: torch.Tensor, targets: Sequence[Sequence[int]], **_: object
) -> Attribution:
    """Grad-CAM (Selvaraju et al. 2017), upsampled bilinearly.

    On the encoder's deepest features of at least `CAM_PLACES` places a side. The paper's last
    layer has that on films of 256 px and more; on small films it has three places, and its map
    can point at nothing.
    """
    if not isinstance(model, Classifier):
        raise InputError("Grad-CAM needs a dollkit classifier: it reads the encoder's features")
    kept: list[list[torch.Tensor]] = []
    hook = model.encoder.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        with torch.enable_grad():
            logits = model(x.detach().clone().requires_grad_()).float()
    finally:
        hook.remove()
    check_targets(x, targets, logits.shape[1])
    fine = [f for f in kept[0][1:] if f.shape[-1] >= min(CAM_PLACES, x.shape[-1] // 2)]
    features = fine[-1]
    # Rounds of one target per film: films do not mix in eval mode, so they share a pass.
    maps: dict[tuple[int, int], torch.Tensor] = {}
    for r in range(max((len(w) for w in targets), default=0)):
        asked = [(i, w[r]) for i, w in enumerate(targets) if len(w) > r]
        chosen = torch.stack([logits[i, t] for i, t in asked]).sum()
        (grad,) = torch.autograd.grad(chosen, features, retain_graph=True)
        weight = grad.mean((2, 3), keepdim=True)
        grid = F.relu((weight * features).sum(1)).detach().float()
        maps |= {(i, r): grid[i] for i, _ in asked}
    order = [(i, r, t) for i, w in enumerate(targets) for r, t in enumerate(w)]
    if not order:
        return without_path(x.new_zeros(0, *x.shape[2:]), x.new_zeros(0))
    grid = torch.stack([maps[i, r] for i, r, _ in order])[:, None]
    up = F.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    logit = torch.stack([logits[i, t].detach() for i, _, t in order])
    return without_path(up, logit)


# Occlusion (Zeiler and Fergus 2014): how far the logit falls when a square of the film is hidden.
#
# The work is captum's. All outputs of all films of a batch share the forward pass of a window
# place. It is slow all the same, and judged on few films only.


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
