"""Who is filmed and what they have: a factor model with CheXpert's label logic.

Each pathology is present where a standard normal latent exceeds a threshold, so that prevalences
are exact; the latents share factors (heart failure, infection, intensive care, trauma), so that
findings go together as on wards. Part of factors and residuals stays with the patient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

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
from dollkit.data.film_table import catalogue
from dollkit.data.phantom.geometry import generator

COHORTS = ("ward", "organs", "lungs", "covid")


PREVALENCE: dict[str, float] = {
    "Enlarged Cardiomediastinum": 0.10,
    "Cardiomegaly": 0.20,
    "Lung Opacity": 0.12,
    "Lung Lesion": 0.16,
    "Edema": 0.19,
    "Consolidation": 0.15,
    "Pneumonia": 0.15,
    "Atelectasis": 0.19,
    "Pneumothorax": 0.15,
    "Pleural Effusion": 0.26,
    "Pleural Other": 0.14,
    "Fracture": 0.15,
    "Support Devices": 0.36,
}
_ONES = dict.fromkeys(PATHOLOGIES, 1.0)
_NOT_NEGATIVE = ("turn", "zoom", "shift", "scatter", "blur", "window_jitter", "unevenness")


@dataclass(frozen=True)
class Protocol:
    """All knobs of the phantom: how films are populated, drawn and labelled.

    `prevalence` is the share of ward films on which a pathology is drawn for its own sake; what
    follows by CheXpert's logic (Lung Opacity from its children, Enlarged Cardiomediastinum from
    Cardiomegaly) comes on top. A finding that is left out keeps its default.
    """

    prevalence: dict[str, float] = field(default_factory=dict)
    contrast: dict[str, float] = field(default_factory=dict)  # factor on a finding's attenuation
    extent: dict[str, float] = field(default_factory=dict)  # factor on a finding's size
    healthy: float = 0.06  # share of ward films forced to be without pathology
    label_noise: float = 0.0  # 1: CheXpert's rates of uncertain and not mentioned; 0: clean
    turn: float = 4.0  # SD of rotation, degrees
    zoom: float = 0.06  # SD of magnification, relative
    shift: float = 0.03  # SD of position, film widths
    photons: float = 1.5e9  # mean quanta per film area without patient
    scatter: float = 0.25  # mean share of scattered radiation behind the chest
    blur: float = 0.0025  # mean SD of the detector's blur, film widths
    window_jitter: float = 0.05  # SD of the display window's edges, relative to the window
    unevenness: float = 0.14  # SD of broad shadows (skin, clothes, heel effect), dm of soft tissue

    def __post_init__(self) -> None:
        for name, default in (("prevalence", PREVALENCE), ("contrast", _ONES), ("extent", _ONES)):
            values: dict[str, float] = getattr(self, name)
            for finding in sorted(set(values) - set(PATHOLOGIES)):
                raise InputError(
                    f"protocol {name!r} names unknown finding {finding!r}: "
                    f"use {', '.join(PATHOLOGIES)}"
                )
            object.__setattr__(self, name, default | values)
        for finding, p in self.prevalence.items():
            if not 0 <= p < 1:
                raise InputError(
                    f"protocol 'prevalence' of {finding!r} is {p}: use a value from 0 to below 1"
                )
        for name in ("healthy", "label_noise"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"protocol {name!r} is {value}: use a value from 0 to 1")
        for name in _NOT_NEGATIVE:
            if (value := getattr(self, name)) < 0:
                raise InputError(f"protocol {name!r} is {value}: use 0 or more")
        if self.photons <= 0:
            raise InputError(f"protocol 'photons' is {self.photons}: use a positive number")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Protocol:
        """Protocol from a plain dictionary; names that it does not know are an `InputError`."""
        known = {f.name for f in fields(cls)}
        for name in sorted(set(values) - known):
            raise InputError(
                f"protocol has no knob {name!r}: use one of {', '.join(sorted(known))}"
            )
        return cls(**values)


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
    """Draw `n` films of as many patients as it takes: one row per film, true states 0 or 1.

    Patient *k* depends only on `seed`, `cohort` and *k*: the first rows of a larger population
    are the rows of a smaller one. Patients of different cohorts are different people: "ward" is
    CheXpert-like, "organs" mostly healthy (JSRT-like), "lungs" half tuberculosis-like
    (Montgomery-like), "covid" all infected.
    """
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
                    "infection": int(cohort == "covid"),
                    **{f: state[f] for f in FINDINGS},
                }
            )
    columns = ["image_id", "patient_id", "study_id", "view", "sex", "age", "infection"]
    return pd.DataFrame(rows[:n], columns=[*columns, *FINDINGS])


def _logic(state: dict[str, int]) -> None:
    """CheXpert's hierarchy and No Finding, in place (Irvin et al. 2019, figure 1 and section 2)."""
    if any(state[f] for f in OPACITY_CHILDREN):
        state["Lung Opacity"] = 1
    if state["Cardiomegaly"]:
        state["Enlarged Cardiomediastinum"] = 1
    state["No Finding"] = int(not any(state[f] for f in PATHOLOGIES if f != "Support Devices"))


def rates(finding: str) -> tuple[float, float]:
    """Rates (uncertain, blank) of a finding in CheXpert's own ``train.csv``.

    Uncertain are ``n(-1) / N`` of all rows; blank ``n(blank) / (n(blank) + n(0))`` of those that
    are neither positive nor uncertain: a report that does not mention a finding is read as its
    absence. "No Finding" is never uncertain and never 0.
    """
    if finding == "No Finding":
        return 0.0, 1.0
    counts = catalogue()["chexpert"]["documented"]
    states = ("positive", "negative", "uncertain")
    positive, negative, uncertain = (counts[f"{finding} {state}"] for state in states)
    blank = counts["rows"] - positive - negative - uncertain
    return uncertain / counts["rows"], blank / (blank + negative)


def observe_labels(
    true: npt.ArrayLike, seed: int, protocol: Protocol | None = None
) -> npt.NDArray[np.int8]:
    """States that a report labeller would give: (n, 14) int8 of 1, 0, -1 (uncertain), -2 (blank).

    Of the `true` ones, (n, 14) of 0 and 1, every film becomes uncertain with probability
    ``label_noise * rate``, whatever its state; of the remaining negatives, the share
    ``label_noise * rate`` is not mentioned. See `rates`.
    """
    states = np.array(true, dtype=np.int8)
    if states.ndim != 2 or states.shape[1] != len(FINDINGS):
        raise InputError(f"true labels have shape {states.shape}: give (n, {len(FINDINGS)})")
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
