"""Which baseline shows which finding: a path from black is blind to what is black.

Integrated Gradients multiplies by ``x - b``: where the film has the baseline's own grey there is
nothing to attribute. Air in the pleural space is dark, so with a black baseline a pneumothorax
gets no evidence at its own place; from white, it does. All else that CheXpert names is brighter
than the lung around it, or brightens it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dollkit.findings import FINDINGS

BY_FINDING = "finding"
"""Kind of baseline that stands for: each finding its own."""

OF_FINDING: dict[str, str] = {"Pneumothorax": "white"}
"""Baseline of the findings that are darker than what surrounds them; ``black`` for all others."""


def of(finding: str) -> str:
    """Baseline of one finding."""
    return OF_FINDING.get(finding, "black")


def parts(
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
