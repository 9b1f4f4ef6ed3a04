"""Explanations of classifiers: Integrated Gradients at the speed of the machine, and others.

``integrated_gradients`` (engine.py) walks a prepared classifier (prepared.py) in passes that fit
in memory (walk.py) until maps and labels settle (settle.py); ``gradient`` and ``gradcam``
(others.py) and ``occlusion`` (occlusion.py) stand beside it; ``bench.measure`` holds it against
captum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from dollkit.common.errors import InputError
from dollkit.explanations.attribution import Attribution, check_films, check_targets
from dollkit.explanations.engine import (
    BASELINES,
    baseline,
    gaussian,
    integrated_gradients,
    path_rule,
)
from dollkit.explanations.others import CAM_PLACES, gradcam, gradient, occlusion
from dollkit.explanations.prepared import Prepared, prepare

__all__ = [
    "BASELINES",
    "CAM_PLACES",
    "EXPLAINERS",
    "Attribution",
    "Prepared",
    "baseline",
    "check_targets",
    "explain",
    "gaussian",
    "gradcam",
    "gradient",
    "integrated_gradients",
    "occlusion",
    "path_rule",
    "prepare",
]

EXPLAINERS = ("ig", "gradient", "gradcam", "occlusion")


def explain(
    explainer: str,
    model: nn.Module,
    x: torch.Tensor,
    targets: Sequence[Sequence[int]],
    **how: object,
) -> Attribution:
    """One interface over the explainers in `EXPLAINERS`.

    `how` (keywords of `integrated_gradients`) is used by IG alone, but for occlusion's `precision`.
    """
    table: dict[str, Callable[..., Attribution]] = {
        "ig": integrated_gradients,
        "gradient": gradient,
        "gradcam": gradcam,
        "occlusion": occlusion,
    }
    if explainer not in table:
        raise InputError(f"parameter 'explainer' is {explainer!r}: use one of {', '.join(table)}")
    check_films(x)
    return table[explainer](model, x, targets, **how)
