"""Label noise on request: true states as a report labeller would write them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, UNCERTAIN
from dollkit.data.phantom.geometry import generator
from dollkit.data.phantom.protocol import Protocol

CHEXPERT_ROWS = 223_414
CHEXPERT_COUNTS: dict[str, tuple[int, int, int]] = {
    "Enlarged Cardiomediastinum": (10798, 21638, 12403),
    "Cardiomegaly": (27000, 11116, 8087),
    "Lung Opacity": (105581, 6599, 5598),
    "Lung Lesion": (9186, 1270, 1488),
    "Edema": (52246, 20726, 12984),
    "Consolidation": (14783, 28097, 27742),
    "Pneumonia": (6039, 2799, 18770),
    "Atelectasis": (33376, 1328, 33739),
    "Pneumothorax": (19448, 56341, 3145),
    "Pleural Effusion": (86187, 35396, 11628),
    "Pleural Other": (3523, 316, 2653),
    "Fracture": (9040, 2512, 642),
    "Support Devices": (116001, 6137, 1079),
}
"""Rows of CheXpert's train.csv that hold 1.0, 0.0, -1.0; the rest of its 223,414 rows is blank.

Source: value counts of the label columns of CheXpert's own ``train.csv`` (Irvin et al. 2019).
"""


def rates(finding: str) -> tuple[float, float]:
    """CheXpert's rates (uncertain, blank) of a finding.

    The first is the share of all rows that are uncertain, ``n(-1) / N``. The second is the share
    of blanks among rows that are neither positive nor uncertain, ``n(blank) / (n(blank) + n(0))``:
    a report that does not mention a finding is read as its absence. "No Finding" is never
    uncertain and never 0: rates 0 and 1.
    """
    if finding == "No Finding":
        return 0.0, 1.0
    positive, negative, uncertain = CHEXPERT_COUNTS[finding]
    blank = CHEXPERT_ROWS - positive - negative - uncertain
    return uncertain / CHEXPERT_ROWS, blank / (blank + negative)


def observe_labels(
    true: npt.ArrayLike, seed: int, protocol: Protocol | None = None
) -> npt.NDArray[np.int8]:
    """States that a report labeller would give.

    Every film becomes uncertain with probability ``label_noise * rate``, whatever its true state;
    of the remaining true negatives, the share ``label_noise * rate`` is not mentioned.

    Args:
        true: (n, 14) of 0 and 1, in `FINDINGS` order.
        seed: non-negative integer.
        protocol: its ``label_noise`` in [0, 1] scales the rates; 0 returns `true`.

    Returns:
        (n, 14) int8 of 1, 0, -1 (uncertain), -2 (not mentioned).
    """
    states = np.array(true, dtype=np.int8)
    if states.ndim != 2 or states.shape[1] != len(FINDINGS):
        raise InputError(f"true labels have shape {states.shape}: give (n, {len(FINDINGS)})")
    if not np.isin(states, (0, 1)).all():
        raise InputError("true labels hold values other than 0 and 1: give true states")
    noise = (protocol or Protocol()).label_noise
    draws = generator(seed, "labels").random((len(states), len(FINDINGS), 2))
    out = states.copy()
    for k, finding in enumerate(FINDINGS):
        uncertain, blank = rates(finding)
        hedge = draws[:, k, 0] < noise * uncertain
        drop = (draws[:, k, 1] < noise * blank) & (states[:, k] == 0) & ~hedge
        out[hedge, k] = UNCERTAIN
        out[drop, k] = NOT_MENTIONED
    return out
