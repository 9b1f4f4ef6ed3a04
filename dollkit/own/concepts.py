"""Coded concepts of mask classes, as DICOM segments demand them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dollkit.errors import InputError
from dollkit.readers.csvfile import words

LATERALITY = {"left": "Left", "right": "Right"}

_ANATOMY = {
    "lungs": "Lung",
    "lung": "Lung",
    "heart": "Heart",
    "clavicles": "Clavicle",
    "clavicle": "Clavicle",
    "cardiomediastinum": "Mediastinum",
    "mediastinum": "Mediastinum",
    "trachea": "Trachea",
    "aorta": "Aorta",
    "diaphragm": "Diaphragm",
    "rib": "Rib",
    "ribs": "Rib",
    "scapula": "Scapula",
    "breast": "Breast",
    "stomach": "Stomach",
}
_ABNORMAL = {
    "pleural effusion": "PleuralEffusion",
    "pneumothorax": "Pneumothorax",
    "cardiomegaly": "Cardiomegaly",
    "edema": "PulmonaryEdema",
    "lung lesion": "Lesion",
}


class Concept(NamedTuple):
    """What a segment shows: category, type, and a side if the type alone does not tell it."""

    category: Code
    kind: Code
    modifier: Code | None = None


def concept(name: str, given: Mapping[str, Sequence[str]] | None = None) -> Concept:
    """Concept of a mask class.

    SNOMED CT codes out of pydicom's dictionary, for those classes that it has: lungs, heart,
    clavicles, mediastinum and some more, with their side, and five findings.

    Args:
        name: of the class, such as ``left lung``.
        given: class to coding scheme, value and meaning, such as ``{"aortic arch": ["SCT",
            "57034009", "Aortic arch"]}``; they come first.
    """
    own = {words(k): v for k, v in (given or {}).items()}
    plain = words(name)
    if plain in own:
        parts = list(own[plain])
        if len(parts) != 3 or not all(isinstance(p, str) and p.strip() for p in parts):
            raise InputError(
                f"parameter 'codes' has {parts!r} for {name!r}: give coding scheme, value and "
                "meaning, such as ['SCT', '39607008', 'Lung']"
            )
        scheme, value, meaning = parts
        return Concept(codes.SCT.AnatomicalStructure, Code(value, scheme, meaning))
    side, _, rest = plain.partition(" ")
    if plain in _ABNORMAL:
        return Concept(
            codes.SCT.MorphologicallyAbnormalStructure, getattr(codes.SCT, _ABNORMAL[plain])
        )
    modifier = getattr(codes.SCT, LATERALITY[side]) if side in LATERALITY else None
    organ = _ANATOMY.get(rest if modifier is not None else plain)
    if organ is None:
        known = ", ".join((*_ANATOMY, *_ABNORMAL))
        raise InputError(
            f"class {name!r} has no code of a DICOM segment here (there are: {known}; with left or "
            "right): give one as scheme, value and meaning (parameter 'codes', or --code "
            "'CLASS=SCT:VALUE:MEANING'), or write PNG"
        )
    return Concept(codes.SCT.AnatomicalStructure, getattr(codes.SCT, organ), modifier)
