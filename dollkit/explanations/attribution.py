"""What every explainer gives back, and the explainers that walk no path.

Plain gradient, Grad-CAM and occlusion stand beside Integrated Gradients (integrated_gradients.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training.classifiers import Classifier

CAM_PLACES = 8
"""Fewest places a side of the features that Grad-CAM reads."""
WINDOW, STRIDE = 8, 10
"""Occlusion's window is S / 8 pixels wide and moves by S / 10."""

Targets = Sequence[Sequence[int]]
"""Per film, the output channels to explain; lists may be empty."""


@dataclass(frozen=True)
class Attribution:
    """Maps of (film, target) pairs, film by film and target by target.

    `maps` are (pairs, S, S) float32 (float64 where that was asked for), signed; all else (pairs,).
    `error`: ``|sum(IG) - (f(x) - f(b))| / |f(x) - f(b)|``, NaN without a path; `logit`: f_t(x);
    `steps`: gradients the map is made of, 0 without a path; `settled`: whether more steps would
    leave map and label as they are; without a path, whether the map is finite and not constant.
    """

    maps: torch.Tensor
    error: torch.Tensor
    logit: torch.Tensor
    steps: torch.Tensor
    settled: torch.Tensor


def without_path(maps: torch.Tensor, logits: torch.Tensor, targets: Targets) -> Attribution:
    """Attribution of an explainer that integrates nothing: no error, no steps."""
    logit = logits.detach()[film_and_channel(targets, maps.device)]
    flat = maps.flatten(1)
    settled = torch.isfinite(flat).all(1) & (flat.amax(1) > flat.amin(1))
    steps = torch.zeros_like(logit, dtype=torch.int64)
    return Attribution(maps, torch.full_like(logit, float("nan")), logit, steps, settled)


def check_targets(x: torch.Tensor, targets: Targets, outputs: int) -> None:
    """Raise `InputError` unless each film has a list of valid target channels, one at least."""
    if x.ndim != 4 or len(targets) != len(x) or not any(targets):
        raise InputError(
            f"films have shape {tuple(x.shape)} and there are {len(targets)} target lists: "
            "give (n, 1, S, S) films and one list of targets for each, not all of them empty"
        )
    for film, channels in enumerate(targets):
        for t in channels:
            if not 0 <= t < outputs:
                raise InputError(f"film {film}: target {t} is not in 0..{outputs - 1}")


def check_logits(logits: torch.Tensor, n: int, what: str = "the films") -> torch.Tensor:
    """Logits as a (n, outputs) tensor without NaN or infinity."""
    if logits.ndim != 2 or len(logits) != n:
        raise InputError(
            f"the classifier gives {tuple(logits.shape)} for {n} films: it must give (n, outputs)"
        )
    wrong = (~torch.isfinite(logits)).any(1).nonzero()[:, 0].tolist()
    if wrong:
        raise InputError(
            f"the classifier's logits of {what}, row {wrong[0]}, hold NaN or infinity: check its "
            "weights, and that film's values"
        )
    return logits


def _checked(logits: torch.Tensor, x: torch.Tensor, targets: Targets) -> torch.Tensor:
    check_targets(x, targets, check_logits(logits, len(x)).shape[1])
    return logits


def film_and_channel(targets: Targets, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Film and channel of each pair: (pairs,) int64 each."""
    film = [i for i, channels in enumerate(targets) for _ in channels]
    channel = list(chain.from_iterable(targets))
    return torch.tensor(film, device=device), torch.tensor(channel, device=device)


def _gradients(logits: torch.Tensor, by: torch.Tensor, targets: Targets) -> list[torch.Tensor]:
    """Gradients by a tensor: the r-th of each film's r-th target; films do not mix in eval mode."""
    passes = []
    for r in range(max(map(len, targets))):
        chosen = torch.stack([logits[i, w[r]] for i, w in enumerate(targets) if len(w) > r]).sum()
        passes.append(torch.autograd.grad(chosen, by, retain_graph=True)[0])
    return passes


def _of_pairs(passes: Sequence[torch.Tensor], targets: Targets) -> torch.Tensor:
    """Values of each pair from those of passes: r times (n, ...) -> (pairs, ...)."""
    return torch.stack([passes[r][i] for i, w in enumerate(targets) for r in range(len(w))])


def gradient(model: nn.Module, x: torch.Tensor, targets: Targets, **_: object) -> Attribution:
    """Plain input gradient of each target's logit (Simonyan et al. 2013), signed."""
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = _checked(model(points.clone()).float(), x, targets)
    maps = [grad.sum(1) for grad in _gradients(logits, points, targets)]
    return without_path(_of_pairs(maps, targets), logits, targets)


def gradcam(model: nn.Module, x: torch.Tensor, targets: Targets, **_: object) -> Attribution:
    """Grad-CAM (Selvaraju et al. 2017), upsampled bilinearly.

    On the encoder's deepest features of at least `CAM_PLACES` places a side: on small films the
    paper's last layer has three places, and its map can point at nothing.
    """
    if not isinstance(model, Classifier):
        raise InputError("Grad-CAM needs a dollkit classifier: it reads the encoder's features")
    kept: list[list[torch.Tensor]] = []
    hook = model.encoder.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        with torch.enable_grad():
            logits = _checked(model(x.detach().clone().requires_grad_()).float(), x, targets)
    finally:
        hook.remove()
    fewest = min(CAM_PLACES, x.shape[-1] // 2)
    features = [f for f in kept[0][1:] if f.shape[-1] >= fewest][-1]
    grids = [
        F.relu((grad.mean((2, 3), keepdim=True) * features).sum(1)).detach().float()
        for grad in _gradients(logits, features, targets)
    ]
    grid = _of_pairs(grids, targets)[:, None]
    maps = F.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return without_path(maps, logits, targets)


def occlusion(
    model: nn.Module, x: torch.Tensor, targets: Targets, precision: str = "float32", **_: object
) -> Attribution:
    """How far each target's logit falls when a square of the film is hidden, by captum.

    Zeiler and Fergus 2014; hidden squares get the film's mean. `precision` is that of the forward
    passes, each of which serves all outputs of a batch; it is slow all the same.
    """
    with torch.no_grad():
        logits = _checked(model(x.clone()).float(), x, targets)
    side = x.shape[-1]
    window, stride = max(1, side // WINDOW), max(1, side // STRIDE)

    def outputs_of(films: torch.Tensor) -> torch.Tensor:
        with compute.autocast(x.device, precision):
            out: torch.Tensor = model(films.clone(memory_format=torch.channels_last))
        return out.float().flatten()

    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    shape = {"sliding_window_shapes": (1, window, window), "strides": (1, stride, stride)}
    maps = []
    # A few films at a time: captum keeps one map for every film and output.
    for films, fill in zip(x.split(8), mean.split(8), strict=True):
        falls = Occlusion(outputs_of).attribute(films, baselines=fill, **shape)
        # One row per film and output: hiding a film's part moves its own outputs alone.
        maps.append(falls.view(len(films), -1, *falls.shape[1:]).sum(2))
    of_pairs = torch.cat(maps).float()[film_and_channel(targets, x.device)]
    return without_path(of_pairs, logits, targets)
