"""All knobs of the phantom in one frozen, JSON-serialisable record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES


def _ones() -> dict[str, float]:
    return dict.fromkeys(PATHOLOGIES, 1.0)


def _prevalence() -> dict[str, float]:
    return {
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


@dataclass(frozen=True)
class Protocol:
    """How films are populated, drawn and labelled.

    Attributes:
        prevalence: share of ward films on which each pathology is drawn for its own sake; what
            follows by CheXpert's logic (Lung Opacity from its children, Enlarged
            Cardiomediastinum from Cardiomegaly) comes on top.
        contrast: factor on the attenuation that each finding adds.
        extent: factor on the size of each finding.
        healthy: share of ward patients-films forced to be without pathology, on top of those
            that the factor model leaves empty.
        label_noise: 0 gives clean labels, 1 CheXpert's rates of uncertain and not mentioned.
        turn, zoom, shift: standard deviation of rotation (degrees), magnification (relative) and
            position (film widths).
        photons: mean number of quanta per film area without patient; noise follows from it.
        scatter: mean share of scattered radiation behind the chest.
        blur: mean detector blur, standard deviation in film widths.
        unevenness: standard deviation (dm of soft tissue) of broad shadows of skin, folds, clothes
            and heel effect, with no finding behind them.
        window_jitter: standard deviation of display window edges, relative to the window.
    """

    prevalence: dict[str, float] = field(default_factory=_prevalence)
    contrast: dict[str, float] = field(default_factory=_ones)
    extent: dict[str, float] = field(default_factory=_ones)
    healthy: float = 0.06
    label_noise: float = 0.0
    turn: float = 4.0
    zoom: float = 0.06
    shift: float = 0.03
    photons: float = 1.5e9
    scatter: float = 0.25
    blur: float = 0.0025
    window_jitter: float = 0.05
    unevenness: float = 0.14

    def __post_init__(self) -> None:
        for name in ("prevalence", "contrast", "extent"):
            given: dict[str, float] = getattr(self, name)
            unknown = sorted(set(given) - set(PATHOLOGIES))
            if unknown:
                raise InputError(
                    f"protocol {name!r} names unknown finding {unknown[0]!r}: "
                    f"use {', '.join(PATHOLOGIES)}"
                )
            default = _prevalence() if name == "prevalence" else _ones()
            object.__setattr__(self, name, {**default, **given})
        for name in ("healthy", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"protocol {name!r} is {getattr(self, name)}: use a value from 0 to 1"
                )
        for finding, p in self.prevalence.items():
            if not 0 <= p < 1:
                raise InputError(
                    f"protocol 'prevalence' of {finding!r} is {p}: use a value from 0 to below 1"
                )
        for name in ("turn", "zoom", "shift", "scatter", "blur", "window_jitter", "unevenness"):
            if getattr(self, name) < 0:
                raise InputError(f"protocol {name!r} is {getattr(self, name)}: use 0 or more")
        if self.photons <= 0:
            raise InputError(f"protocol 'photons' is {self.photons}: use a positive number")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Protocol:
        """Protocol from a plain dictionary; names that it does not know are an `InputError`."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"protocol has no knob {unknown[0]!r}: use one of {', '.join(sorted(known))}"
            )
        return cls(**values)
