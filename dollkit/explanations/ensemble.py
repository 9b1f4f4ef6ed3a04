"""What K classifiers say about the positive findings of some films: maps and probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, POSITIVE
from dollkit.explanations.attribution import (
    Attribution,
    Targets,
    check_logits,
    gradcam,
    gradient,
    occlusion,
)
from dollkit.explanations.integrated_gradients import (
    BASELINES,
    BUDGET_MB,
    MAX_ERROR,
    MOST_STEPS,
    check_path,
    integrated_gradients,
)

FloatMaps = npt.NDArray[np.float32]

EXPLAINERS: dict[str, Callable[..., Attribution]] = {
    "ig": integrated_gradients,
    "gradient": gradient,
    "gradcam": gradcam,
    "occlusion": occlusion,
}
BY_FINDING = "finding"
"""Baseline that stands for: each finding its own, see `baseline_of`."""
FILMS = 8
"""Films that one thread explains at a time on a CPU."""


def baseline_of(finding: str) -> str:
    """Baseline that shows a finding: ``white`` for what is darker than its surroundings.

    Where the film has the baseline's own grey, ``x - b`` is zero and there is nothing to attribute:
    from black, air in the pleural space gets no evidence at its own place.
    """
    return "white" if finding == "Pneumothorax" else "black"


@dataclass(frozen=True)
class ExplainerSettings:
    """Settings of the explainer; all but `explainer` and `unsettled` are IG's.

    `kind` is one of `BASELINES`, or ``finding``: each finding its own. `precision` ``auto`` becomes
    ``bfloat16`` or ``float32``, so that labels know what computed them; `max_error` 0 the mode's.
    `unsettled` ``ignore`` makes a label whose maps have not settled all ignore, ``keep`` leaves it.
    """

    explainer: str = "ig"
    kind: str = BY_FINDING
    steps: int = 0
    rule: str = "midpoint"
    precision: str = "auto"
    max_error: float = 0.0
    most_steps: int = MOST_STEPS
    budget_mb: int = BUDGET_MB
    unsettled: str = "ignore"
    mode: str = "fast"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("explainer", self.explainer, EXPLAINERS),
            ("baseline", self.kind, (*BASELINES, BY_FINDING)),
            ("unsettled", self.unsettled, ("ignore", "keep")),
        ):
            if value not in known:
                names = ", ".join(known)
                raise InputError(f"parameter {name!r} is {value!r}: use one of {names}")
        check_path(self.steps, self.rule, self.max_error, self.most_steps, self.mode)
        object.__setattr__(self, "max_error", self.max_error or MAX_ERROR[self.mode])
        if self.precision != "float64":  # to check against
            object.__setattr__(self, "precision", compute.resolve_precision(self.precision))


def positives(states: npt.NDArray[np.int8]) -> list[list[int]]:
    """Channels to explain per film: its positive labels, No Finding among them. (n, 14) -> n."""
    return [[int(c) for c in np.flatnonzero(row == POSITIVE)] for row in states]


class Explained(NamedTuple):
    """What K classifiers say: (K, pairs, S, S) maps, (K, pairs) all else; see `Attribution`."""

    maps: FloatMaps
    probability: FloatMaps
    error: FloatMaps
    steps: npt.NDArray[np.int64]
    settled: npt.NDArray[np.bool_]


def explain_all(
    models: Mapping[str, nn.Module], x: torch.Tensor, targets: Targets, settings: ExplainerSettings
) -> Explained:
    """What every classifier says about the targets of (n, 1, S, S) films of `compute.to_input`."""
    _check_films(x)
    for name, model in models.items():
        with _named(name), torch.no_grad():
            outputs = check_logits(model(x[:1].clone()), len(x[:1])).shape[1]
            if outputs != len(FINDINGS):  # another order of findings would go unnoticed
                raise InputError(f"it has {outputs} outputs; labels need those of the 14 findings")
    step = FILMS if x.device.type == "cpu" else max(1, len(x))
    parts = [slice(i, i + step) for i in range(0, max(1, len(x)), step)]
    free = {name: Lock() for name in models}  # hooks would mix the passes of two threads

    def explain_part(job: tuple[slice, str]) -> Explained:
        part, name = job
        with _named(name), free[name]:
            return _explain(models[name], x[part], targets[part], settings)

    explained = compute.side_by_side(explain_part, list(product(parts, models)), x.device)
    whole = [_joined(explained[i :: len(models)]) for i in range(len(models))]
    return Explained._make(np.stack(field) for field in zip(*whole, strict=True))


def _explain(
    model: nn.Module, x: torch.Tensor, targets: Targets, settings: ExplainerSettings
) -> Explained:
    """What one classifier says: `Explained` without the first axis."""
    if not any(targets):
        none = np.zeros(0, np.float32)
        return Explained(none.reshape(0, *x.shape[2:]), none, none, none.astype(int), none > 0)
    if settings.explainer == "ig" and settings.kind == BY_FINDING:
        baselines = [baseline_of(FINDINGS[t]) for channels in targets for t in channels]
        parts, places = [], []
        for baseline in sorted(set(baselines)):
            channels = [[t for t in w if baseline_of(FINDINGS[t]) == baseline] for w in targets]
            parts.append(_explain(model, x, channels, replace(settings, kind=baseline)))
            places.append(np.flatnonzero(np.array(baselines) == baseline))
        order = np.argsort(np.concatenate(places))
        return Explained._make(field[order] for field in _joined(parts))
    options = {
        k: v for k, v in asdict(settings).items() if k not in ("explainer", "kind", "unsettled")
    }
    a = EXPLAINERS[settings.explainer](model, x, targets, baseline=settings.kind, **options)
    fields = (a.maps.float(), torch.sigmoid(a.logit), a.error, a.steps, a.settled)
    return Explained._make(field.cpu().numpy() for field in fields)


def _joined(parts: Sequence[Explained]) -> Explained:
    return Explained._make(np.concatenate(field) for field in zip(*parts, strict=True))


@contextlib.contextmanager
def _named(classifier: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"classifier {classifier}: {error}") from None


def _check_films(x: torch.Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != x.shape[3]:
        raise InputError(f"films have shape {tuple(x.shape)}: give (n, 1, S, S)")
    darkest, brightest = (compute.normalise(torch.tensor(v)).item() for v in (0.0, 1.0))
    wrong = ~((x >= darkest - 1e-3) & (x <= brightest + 1e-3)).flatten(1).all(1)
    if wrong.any():
        i = int(wrong.nonzero()[0, 0])
        lo, hi = x[i].amin().item(), x[i].amax().item()
        raise InputError(
            f"film {i}: values from {lo:g} to {hi:g}; normalised films lie in {darkest:g} to "
            f"{brightest:g}: make them with compute.to_input"
        )


def pair_settled(explained: Explained, trust: str) -> npt.NDArray[np.bool_]:
    """Whether all maps that a label is made of have settled (`trust`, `LabelSettings`): (n,)."""
    counts = explained.probability >= 0.5
    if trust != "agree":
        counts = np.ones_like(counts)
    counts |= ~counts.any(0)
    return np.asarray((explained.settled | ~counts).all(0))
