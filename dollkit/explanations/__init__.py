"""Explanations of classifiers: Integrated Gradients at the speed of the machine, and others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dollkit.common.errors import InputError
from dollkit.explanations.attribution import (
    Attribution,
    Targets,
    check_films,
    gradcam,
    gradient,
    occlusion,
)
from dollkit.explanations.engine import integrated_gradients

EXPLAINERS: dict[str, Callable[..., Attribution]] = {
    "ig": integrated_gradients,
    "gradient": gradient,
    "gradcam": gradcam,
    "occlusion": occlusion,
}


def explain(
    explainer: str, model: nn.Module, x: torch.Tensor, targets: Targets, **how: object
) -> Attribution:
    """Maps of each film's targets by one of `EXPLAINERS`; `how` is for IG (and a precision)."""
    if explainer not in EXPLAINERS:
        names = ", ".join(EXPLAINERS)
        raise InputError(f"parameter 'explainer' is {explainer!r}: use one of {names}")
    check_films(x)
    return EXPLAINERS[explainer](model, x, targets, **how)
