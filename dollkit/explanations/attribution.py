"""What every explainer gives back: maps of (film, target) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dollkit.common.errors import InputError


@dataclass(frozen=True)
class Attribution:
    """Maps of (film, target) pairs.

    Attributes:
        maps: (pairs, S, S) float32 (float64 where that was asked for), signed, summed over input
            channels (eq. 1 for IG).
        error: (pairs,) float32, ``|sum(IG) - (f(x) - f(b))| / |f(x) - f(b)|``, see
            `dollkit.explanations.engine`; NaN for explainers without completeness.
        logit: (pairs,) float32, f_t(x).
        steps: (pairs,) int64, gradients the map is made of; 0 for explainers that do not integrate.
        settled: (pairs,) bool, whether more steps would leave map and label as they are; for
            explainers that do not integrate, whether the map is finite and not constant.
    """

    maps: torch.Tensor
    error: torch.Tensor
    logit: torch.Tensor
    steps: torch.Tensor
    settled: torch.Tensor


def without_path(maps: torch.Tensor, logit: torch.Tensor) -> Attribution:
    """Attribution of an explainer that integrates nothing: no error, no steps.

    Only a map that is not finite, or constant, has not settled.
    """
    n = len(logit)
    settled = torch.isfinite(maps).flatten(1).all(1)
    if n:
        settled &= maps.flatten(1).amax(1) > maps.flatten(1).amin(1)
    return Attribution(
        maps,
        torch.full_like(logit, float("nan")),
        logit,
        torch.zeros(n, dtype=torch.int64, device=logit.device),
        settled,
    )


def check_targets(x: torch.Tensor, targets: Sequence[Sequence[int]], outputs: int) -> None:
    """Raise `InputError` unless there is one list of valid target channels per film."""
    if x.ndim != 4 or len(targets) != len(x):
        raise InputError(
            f"films have shape {tuple(x.shape)} and there are {len(targets)} target lists: "
            "give (n, 1, S, S) films and one list of targets for each"
        )
    for row, wanted in enumerate(targets):
        for t in wanted:
            if not 0 <= t < outputs:
                raise InputError(f"film {row}: target {t} is not in 0..{outputs - 1}")


def check_films(x: torch.Tensor) -> None:
    """Raise `InputError` unless all films are finite, naming the first that is not."""
    if x.ndim == 4 and len(x):
        bad = ~torch.isfinite(x).flatten(1).all(1)
        if bad.any():
            raise InputError(
                f"film {int(bad.nonzero()[0, 0])}: holds NaN or infinity; repair or leave it out"
            )


def check_logits(logits: object, n: int, what: str = "the films") -> torch.Tensor:
    """Logits as a (n, outputs) tensor without NaN or infinity."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != n:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the classifier gives {shape} for {n} films: it must give (n, outputs) logits"
        )
    if not torch.isfinite(logits).all():
        raise InputError(
            f"the classifier's logits of {what} hold NaN or infinity: check its weights"
        )
    return logits
