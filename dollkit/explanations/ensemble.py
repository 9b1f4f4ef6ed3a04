"""What K classifiers say about the positive findings of some films: maps and probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
from dollkit.explanations import EXPLAINERS, explain
from dollkit.explanations.attribution import check_logits
from dollkit.explanations.engine import BASELINES, BUDGET_MB, MAX_ERROR, MOST_STEPS

# Which baseline shows which finding: a path from black is blind to what is black.
#
# Integrated Gradients multiplies by ``x - b``: where the film has the baseline's own grey there is
# nothing to attribute. Air in the pleural space is dark, so with a black baseline a pneumothorax
# gets no evidence at its own place; from white, it does. All else that CheXpert names is brighter
# than the lung around it, or brightens it.


BY_FINDING = "finding"
"""Kind of baseline that stands for: each finding its own."""

OF_FINDING: dict[str, str] = {"Pneumothorax": "white"}
"""Baseline of the findings that are darker than what surrounds them; ``black`` for all others."""


def of(finding: str) -> str:
    """Baseline of one finding."""
    return OF_FINDING.get(finding, "black")


def baseline_parts(
    targets: Sequence[Sequence[int]],
) -> list[tuple[str, list[list[int]], npt.NDArray[np.int64]]]:
    """Targets apart by baseline, to explain them one baseline at a time.

    Args:
        targets: per film, the channels to explain.

    Returns:
        For each baseline that occurs: its name; per film, its channels (lists may be empty); and
        the places of its pairs among all pairs, film by film and target by target.
    """
    pairs = [(i, t) for i, wanted in enumerate(targets) for t in wanted]
    kinds = [of(FINDINGS[t]) for _, t in pairs]
    out = []
    for kind in sorted(set(kinds)):
        own = [[t for t in wanted if of(FINDINGS[t]) == kind] for wanted in targets]
        out.append((kind, own, np.flatnonzero(np.array(kinds) == kind)))
    return out


FloatMaps = npt.NDArray[np.float32]
FILMS = 8
"""Films that one thread explains at a time on a CPU."""


@dataclass(frozen=True)
class Explain:
    """Settings of the explainer; all but `explainer` and `unsettled` are IG's.

    Attributes:
        explainer: one of `attribution.EXPLAINERS`.
        kind: baseline of the path: one of `attribution.BASELINES`, or ``finding``: each finding
            its own, see `dollkit.explanations.ensemble`.
        steps: integration steps; 0: as many as each pair needs, see
            `dollkit.explanations.engine`.
        rule: ``midpoint``, or ``gausslegendre`` with a number of steps.
        precision: of the path's gradients: ``bfloat16``, ``float32``, or ``auto``, which becomes
            one of the two (`compute.resolve_precision`), so that labels know what computed them.
        mode: ``fast`` or ``exact``, see `dollkit.explanations.engine`.
        max_error: completeness error above which a map has not settled; 0: the mode's, and
            becomes that.
        most_steps: of a pair, if `steps` is 0.
        budget_mb: memory of one pass, in MiB; changes maps by rounding only.
        unsettled: what becomes of a label whose maps have not settled: ``ignore`` makes it all
            ignore, so that nothing is trained on it; ``keep`` leaves it. Either way the pair
            stays in the table, with `settled` False.
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
        if self.explainer not in EXPLAINERS:
            raise InputError(
                f"parameter 'explainer' is {self.explainer!r}: use one of {', '.join(EXPLAINERS)}"
            )
        kinds = (*BASELINES, BY_FINDING)
        if self.kind not in kinds:
            raise InputError(
                f"parameter 'baseline' is {self.kind!r}: use one of {', '.join(kinds)}"
            )
        if self.unsettled not in ("ignore", "keep"):
            raise InputError(f"parameter 'unsettled' is {self.unsettled!r}: use ignore or keep")
        if self.mode not in MAX_ERROR:
            raise InputError(f"parameter 'mode' is {self.mode!r}: use {' or '.join(MAX_ERROR)}")
        object.__setattr__(self, "max_error", self.max_error or MAX_ERROR[self.mode])
        if self.precision != "float64":  # to check against
            object.__setattr__(self, "precision", compute.resolve_precision(self.precision))


def positives(states: npt.NDArray[np.int8]) -> list[list[int]]:
    """Channels to explain per film: its positive labels, No Finding among them. (n, 14) -> n."""
    return [[int(c) for c in np.flatnonzero(row == POSITIVE)] for row in states]


class Explained(NamedTuple):
    """What K classifiers say about the pairs of some films.

    Attributes:
        maps: (K, pairs, S, S) float32, signed.
        probability: (K, pairs) of each finding.
        error: (K, pairs) completeness error; NaN for explainers without.
        steps: (K, pairs) int64, gradients in a map.
        settled: (K, pairs) bool, see `dollkit.explanations.engine`.
    """

    maps: FloatMaps
    probability: FloatMaps
    error: FloatMaps
    steps: npt.NDArray[np.int64]
    settled: npt.NDArray[np.bool_]


def explain_all(
    models: Mapping[str, nn.Module], x: torch.Tensor, targets: list[list[int]], how: Explain
) -> Explained:
    """Explain some films with every classifier.

    Args:
        x: (n, 1, S, S) films as `compute.to_input` makes them.
        targets: per film, the findings to explain.
    """
    _check_films(x)
    for name, model in models.items():
        with _named(name):
            _check_outputs(model, x)
    step = FILMS if x.device.type == "cpu" else max(1, len(x))
    parts = [slice(i, i + step) for i in range(0, max(1, len(x)), step)]

    free = {name: Lock() for name in models}  # hooks would mix the passes of two threads

    def explain_part(job: tuple[slice, str]) -> Explained:
        part, name = job
        with _named(name), free[name]:
            return _explain(models[name], x[part], targets[part], how)

    made = compute.side_by_side(explain_part, list(product(parts, models)), x.device)
    whole = [_joined(made[i :: len(models)]) for i in range(len(models))]
    return Explained._make(np.stack(field) for field in zip(*whole, strict=True))


def _explain(
    model: nn.Module, x: torch.Tensor, targets: list[list[int]], how: Explain
) -> Explained:
    """What one classifier says: `Explained` without the first axis."""
    options = {k: v for k, v in asdict(how).items() if k not in ("explainer", "unsettled")}
    if how.kind != BY_FINDING or how.explainer != "ig":
        a = explain(how.explainer, model, x, targets, **options)
        return Explained(
            a.maps.float().cpu().numpy(),
            torch.sigmoid(a.logit).cpu().numpy(),
            a.error.cpu().numpy(),
            a.steps.cpu().numpy(),
            a.settled.cpu().numpy(),
        )
    parts = baseline_parts(targets)
    if not parts:
        return _explain(model, x, targets, replace(how, kind="black"))
    made = [_explain(model, x, own, replace(how, kind=kind)) for kind, own, _ in parts]
    order = np.argsort(np.concatenate([places for _, _, places in parts]))
    return Explained._make(field[order] for field in _joined(made))


def _joined(parts: list[Explained]) -> Explained:
    """Pairs of several parts below each other."""
    return Explained._make(np.concatenate(field) for field in zip(*parts, strict=True))


@contextlib.contextmanager
def _named(classifier: str) -> Iterator[None]:
    """Errors inside say whose they are."""
    try:
        yield
    except InputError as error:
        raise InputError(f"classifier {classifier}: {error}") from None


def _check_films(x: torch.Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != x.shape[3]:
        raise InputError(f"films have shape {tuple(x.shape)}: give (n, 1, S, S)")
    if not len(x):
        return
    darkest, brightest = (compute.normalise(torch.tensor(v)).item() for v in (0.0, 1.0))
    wrong = ~((x >= darkest - 1e-3) & (x <= brightest + 1e-3)).flatten(1).all(1)
    if wrong.any():
        i = int(wrong.nonzero()[0, 0])
        lo, hi = x[i].amin().item(), x[i].amax().item()
        raise InputError(
            f"film {i}: values from {lo:g} to {hi:g}; normalised films lie in {darkest:g} to "
            f"{brightest:g}: make them with compute.to_input"
        )


def _check_outputs(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        logits = check_logits(model(x[:1]), len(x[:1]))
    if logits.shape[1] != len(FINDINGS):
        raise InputError(
            f"it has {logits.shape[1]} outputs; labels need one for each of the "
            f"{len(FINDINGS)} findings, in the order of dollkit.common.findings.FINDINGS"
        )


def pair_settled(made: Explained, trust: str) -> npt.NDArray[np.bool_]:
    """Whether all maps have settled that a label is made of (`trust` as in `Distil`): (pairs,)."""
    counts = made.probability >= 0.5
    if trust != "agree":
        counts = np.ones_like(counts)
    counts |= ~counts.any(0)
    return np.asarray((made.settled | ~counts).all(0))
