"""Who is filmed and what they have: a factor model with CheXpert's label logic.

Each pathology is present where a standard normal latent exceeds a threshold, so that prevalences
are exact; the latents share factors (heart failure, infection, intensive care, trauma), so that
findings go together as on wards. Part of factors and residuals stays with the patient. On
request, true states become those that a report labeller would write.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from dollkit.common.errors import InputError
from dollkit.common.findings import (
    FINDINGS,
    NOT_MENTIONED,
    OPACITY_CHILDREN,
    PATHOLOGIES,
    UNCERTAIN,
)
from dollkit.data.phantom.geometry import generator
from dollkit.data.phantom.protocol import Protocol

Cohort = Literal["ward", "organs", "lungs", "covid"]
COHORTS: tuple[Cohort, ...] = ("ward", "organs", "lungs", "covid")

# Loadings on heart failure, infection, intensive care, trauma; in PATHOLOGIES order.
_LOADINGS: dict[str, tuple[float, float, float, float]] = {
    "Enlarged Cardiomediastinum": (0.25, 0.0, 0.15, 0.15),
    "Cardiomegaly": (0.55, 0.0, 0.0, 0.0),
    "Lung Opacity": (0.0, 0.2, 0.2, 0.0),
    "Lung Lesion": (-0.05, 0.0, -0.15, 0.0),
    "Edema": (0.55, 0.0, 0.35, 0.0),
    "Consolidation": (0.0, 0.5, 0.2, 0.0),
    "Pneumonia": (0.0, 0.5, 0.1, 0.0),
    "Atelectasis": (0.0, 0.15, 0.35, 0.15),
    "Pneumothorax": (0.0, 0.0, 0.15, 0.35),
    "Pleural Effusion": (0.4, 0.25, 0.3, 0.0),
    "Pleural Other": (0.0, 0.15, -0.05, 0.1),
    "Fracture": (0.0, 0.0, 0.0, 0.45),
    "Support Devices": (0.25, 0.05, 0.55, 0.15),
}
_VIEW = (0.15, 0.1, 0.55, 0.15)
_AP_SHARE = {"ward": 0.6, "organs": 0.0, "lungs": 0.05, "covid": 0.6}
_CHRONIC = ("Cardiomegaly", "Lung Lesion", "Pleural Other", "Fracture")

# Factor on the ward's prevalences.
_SCALE: dict[str, dict[str, float]] = {
    "ward": {},
    "organs": {**dict.fromkeys(PATHOLOGIES, 0.12), "Lung Lesion": 1.5},
    "lungs": {
        **dict.fromkeys(PATHOLOGIES, 0.3),
        "Consolidation": 1.2,
        "Pneumonia": 1.2,
        "Pleural Other": 0.8,
        "Support Devices": 0.1,
    },
    "covid": {**dict.fromkeys(PATHOLOGIES, 0.25), "Support Devices": 0.8, "Lung Opacity": 0.0},
}


def sample_population(
    n: int, seed: int, cohort: str = "ward", protocol: Protocol | None = None
) -> pd.DataFrame:
    """Draw `n` films of as many patients as it takes.

    Patient *k* depends only on `seed`, `cohort` and *k*: the first rows of a larger population
    are the rows of a smaller one. Patients of different cohorts are different people.

    Args:
        cohort: "ward" (CheXpert-like), "organs" (mostly healthy, JSRT-like), "lungs" (half
            tuberculosis-like, Montgomery-like), "covid" (all infected).

    Returns:
        one row per film: image_id, patient_id, study_id, view ("PA" or "AP"), sex, age, cohort,
        infection (0 or 1), and the 14 findings by name, true states 0 or 1.
    """
    if n < 0:
        raise InputError(f"parameter 'n' is {n}: use 0 or more films")
    if seed < 0:
        raise InputError(f"parameter 'seed' is {seed}: use 0 or more")
    if cohort not in COHORTS:
        raise InputError(f"unknown cohort {cohort!r}: use one of {', '.join(COHORTS)}")
    protocol = protocol or Protocol()
    loadings = np.array([*_LOADINGS.values(), _VIEW])
    own = np.sqrt(1 - (loadings**2).sum(1))
    share = np.array(
        [
            *(min(0.95, protocol.prevalence[f] * _SCALE[cohort].get(f, 1.0)) for f in PATHOLOGIES),
            _AP_SHARE[cohort],
        ]
    )
    # The films made healthy below would lower the prevalences: compensate.
    healthy = protocol.healthy if cohort == "ward" else 0.0
    share[:-2] = np.minimum(share[:-2] / (1 - healthy), 0.95)
    threshold = -ndtri(np.maximum(share, 1e-12))
    stay = np.array([*(0.9 if f in _CHRONIC else 0.6 for f in PATHOLOGIES), 0.5])
    prefix = "patient" if cohort == "ward" else cohort

    rows: list[dict[str, object]] = []
    number = 0
    while len(rows) < n:
        number += 1
        rng = generator(seed, "population", cohort, number)
        sex = "M" if rng.random() < 0.58 else "F"
        age0 = float(np.clip(rng.normal(61, 16), 18, 90))
        studies = min(5, int(rng.geometric(0.5))) if cohort in ("ward", "covid") else 1
        fixed_factor, fixed_own = rng.normal(size=4), rng.normal(size=14)
        patient_id = f"{prefix}{number:05d}"
        for study in range(1, studies + 1):
            factor = np.sqrt(0.6) * fixed_factor + np.sqrt(0.4) * rng.normal(size=4)
            rest = np.sqrt(stay) * fixed_own + np.sqrt(1 - stay) * rng.normal(size=14)
            present = loadings @ factor + own * rest > threshold
            state = dict(zip(PATHOLOGIES, present[:-1].astype(int).tolist(), strict=True))
            if rng.random() < healthy:
                state = {f: v if f == "Support Devices" else 0 for f, v in state.items()}
            if cohort == "covid":
                state["Pneumonia"] = 1
            _logic(state)
            rows.append(
                {
                    "image_id": f"{patient_id}_study{study}_view1_frontal",
                    "patient_id": patient_id,
                    "study_id": f"{patient_id}_study{study}",
                    "view": "AP" if present[-1] else "PA",
                    "sex": sex,
                    "age": round(min(90.0, age0 + study - 1)),
                    "cohort": cohort,
                    "infection": int(cohort == "covid"),
                    **{f: state[f] for f in FINDINGS},
                }
            )
    columns = ["image_id", "patient_id", "study_id", "view", "sex", "age", "cohort", "infection"]
    return pd.DataFrame(rows[:n], columns=[*columns, *FINDINGS])


def _logic(state: dict[str, int]) -> None:
    """CheXpert's hierarchy and No Finding, in place (Irvin et al. 2019, figure 1 and section 2)."""
    if any(state[f] for f in OPACITY_CHILDREN):
        state["Lung Opacity"] = 1
    if state["Cardiomegaly"]:
        state["Enlarged Cardiomediastinum"] = 1
    state["No Finding"] = int(not any(state[f] for f in PATHOLOGIES if f != "Support Devices"))


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
