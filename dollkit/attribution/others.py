"""Explainers beside Integrated Gradients: plain input gradient and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from dollkit.attribution.pairs import Attribution, check_targets, without_path
from dollkit.classifiers import Classifier
from dollkit.errors import InputError

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
