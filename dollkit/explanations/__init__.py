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
from dollkit.explanations.engine import BASELINES, integrated_gradients

__all__ = ["BASELINES", "EXPLAINERS", "Attribution", "explain"]

_BY_NAME: dict[str, Callable[..., Attribution]] = {
    "ig": integrated_gradients,
    "gradient": gradient,
    "gradcam": gradcam,
    "occlusion": occlusion,
}
EXPLAINERS = tuple(_BY_NAME)


def explain(
    explainer: str, model: nn.Module, x: torch.Tensor, targets: Targets, **how: object
) -> Attribution:
    """Maps of each film's targets by one of `EXPLAINERS`.

    `how` (keywords of `integrated_gradients`) is used by IG alone, but for occlusion's `precision`.
    """
    if explainer not in EXPLAINERS:
        names = ", ".join(EXPLAINERS)
        raise InputError(f"parameter 'explainer' is {explainer!r}: use one of {names}")
    check_films(x)
    return _BY_NAME[explainer](model, x, targets, **how)
