"""CheXpert's 14 observations, their four label states, and what training makes of them.

Source of names, order and value codes: the header and values of CheXpert's own ``train.csv``
(1.0 positive, 0.0 negative, -1.0 uncertain, blank not mentioned). The policies are those of
Irvin et al. 2019 (CheXpert), section 3: U-Ones, U-Zeros, U-Ignore.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dollkit.common.errors import InputError

FINDINGS: tuple[str, ...] = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
"""Channel order of every 14-channel array in this project."""

PATHOLOGIES: tuple[str, ...] = FINDINGS[1:]
"""The 13 observations that have a place in the film."""

OPACITY_CHILDREN = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
"""Children of Lung Opacity in CheXpert's label hierarchy (Irvin et al. 2019, figure 1)."""

MOBILE: tuple[str, ...] = (
    *("Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia", "Atelectasis"),
    *("Pneumothorax", "Pleural Effusion", "Fracture", "Support Devices"),
)
"""Findings whose place varies so much that an anatomy prior alone must fail on them."""

POSITIVE, NEGATIVE, UNCERTAIN, NOT_MENTIONED = 1, 0, -1, -2
"""Label states as stored (int8). CheXpert writes them 1.0, 0.0, -1.0 and blank."""

POLICIES = ("U-Ones", "U-Zeros", "U-Ignore")


def index(finding: str) -> int:
    """Channel of a finding; an unknown name is an `InputError` that lists the known ones."""
    try:
        return FINDINGS.index(finding)
    except ValueError:
        raise InputError(f"unknown finding {finding!r}: use one of {', '.join(FINDINGS)}") from None


def apply_policy(
    states: npt.NDArray[np.int8], policy: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Training targets and weights, each (n, 14) float32 in {0, 1}, from label states (n, 14).

    An uncertain label counts as positive (``U-Ones``), negative (``U-Zeros``) or nothing
    (``U-Ignore``: weight 0). Not mentioned counts as negative, as in CheXpert's own baseline.
    """
    if policy not in POLICIES:
        raise InputError(f"parameter 'policy' is {policy!r}: use one of {', '.join(POLICIES)}")
    targets = (states == POSITIVE).astype(np.float32)
    weights = np.ones_like(targets)
    if policy == "U-Ones":
        targets[states == UNCERTAIN] = 1.0
    elif policy == "U-Ignore":
        weights[states == UNCERTAIN] = 0.0
    return targets, weights
