"""Masks as DICOM segmentations (binary), one file per film, through highdicom."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

import dollkit
from dollkit.common.errors import InputError
from dollkit.data.csvfile import words
from dollkit.data.images import probe, quiet
from dollkit.interactive.your_radiographs.find_films import is_dicom

U8 = npt.NDArray[np.uint8]
NAME = "dollkit"

# It logs, and warns with, values of the file: names of patients too.
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)

# What an object of the standard cannot be without: it says which film is meant.
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# They must stand in the file but may be blank.
_BLANK = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def check(folder: Path, names: Sequence[str], classes: Sequence[str],
          given: Mapping[str, Sequence[str]] | None = None) -> list[Concept]:  # fmt: skip
    """Whether segmentations can be written for some films, before anything is computed.

    Returns:
        The concept of each class.
    """
    found = [concept(name, given) for name in classes]
    others = [name for name in names if not is_dicom(folder / name)]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise InputError(
            f"{folder / others[0]}{more}: no DICOM file, and a DICOM segmentation refers to one: "
            "ask for PNG, or give DICOM films alone"
        )
    for name in names:
        lacking: list[str] = []
        # One that cannot be read at all stops no other: who draws will tell.
        with contextlib.suppress(InputError):
            if absent := _lacking(folder / name):
                probe(folder / name)
                lacking = absent
        if lacking:
            raise InputError(
                f"{folder / name}: DICOM without {lacking[0]}, which a segmentation refers to: "
                "ask for PNG"
            )
    return found


def encode(
    source: Path, masks: Sequence[U8], classes: Sequence[str], concepts: Sequence[Concept],
    network: str,
) -> bytes:  # fmt: skip
    """The masks of one film as a DICOM file.

    The patient and study modules are those of the film, as the standard demands of derived
    objects: whoever gets this file can read whatever name stands in the film. Equal films, classes
    and network give equal UIDs.

    Args:
        source: the film's DICOM file.
        masks: one (Rows, Columns) uint8 in {0, 1} per class; they may overlap and be empty.
        classes: segment labels.
        concepts: from `check`.
        network: fingerprint of the weights.
    """
    film = _header(source)
    algorithm = hd.AlgorithmIdentificationSequence(
        NAME, codes.DCM.ArtificialIntelligence, dollkit.__version__
    )
    segments = []
    for number, (name, what) in enumerate(zip(classes, concepts, strict=True), start=1):
        segment = hd.seg.SegmentDescription(
            number, name, what.category, what.kind, "AUTOMATIC", algorithm
        )
        if what.modifier is not None:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [
                hd.sr.CodedConcept.from_code(what.modifier)
            ]
        segments.append(segment)
    hashes = [hashlib.sha256(mask.tobytes()).hexdigest() for mask in masks]
    about = [film.SOPInstanceUID, network, dollkit.__version__, *classes]
    try:
        made = _silently(
            source_images=[film],
            pixel_array=np.stack(masks, axis=-1)[None],
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=_uid(film.SeriesInstanceUID, *about[1:]),
            series_number=_series(film),
            sop_instance_uid=_uid(*about, *hashes),
            instance_number=1,
            manufacturer=NAME,
            manufacturer_model_name=NAME,
            software_versions=dollkit.__version__,
            device_serial_number=network[:16],
            content_label="DOLLKIT",
            content_description="Research software, not for clinical use",
            # A film without the class has a segment of zeros, not a missing one.
            omit_empty_frames=False,
        )
    except (AttributeError, TypeError, ValueError) as error:
        # Its message names attributes, no values of the film.
        raise InputError(
            f"{source}: no DICOM segmentation can refer to it ({type(error).__name__}): ask for PNG"
        ) from None
    if not "".join(classes).isascii():  # the film's own character set need not have them
        made.SpecificCharacterSet = "ISO_IR 192"
    file = io.BytesIO()
    made.save_as(file)
    return file.getvalue()


def _silently(**settings: Any) -> hd.seg.Segmentation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hd.seg.Segmentation(**settings)


def _header(source: Path) -> Dataset:
    """The film's header, with blanks where the standard demands an attribute that it lacks."""
    film = _read(source)
    if "SpecificCharacterSet" in film and not film.SpecificCharacterSet:
        del film.SpecificCharacterSet  # blank: the default, which highdicom refuses to copy
    for tag in _BLANK:
        if tag not in film:
            setattr(film, tag, None)
    if "SliceThickness" not in film and "PixelSpacing" in film:
        # highdicom would copy the spacing without a thickness and then refuse its own file. The
        # grid is that of the film that the segments refer to, and so is its spacing.
        del film.PixelSpacing
    return film


def _lacking(path: Path) -> list[str]:
    film = _read(path, list(_NEEDED))
    with _reading(path):  # pydicom makes values when they are asked for
        return [tag for tag in _NEEDED if not film.get(tag)]


def _read(path: Path, tags: list[str] | None = None) -> Dataset:
    with _reading(path):
        # By force: a film may lack the preamble.
        return dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:  # pydicom may raise anything over damaged bytes
        raise InputError(
            f"{path}: DICOM file corrupt or cut off ({type(error).__name__}): leave it out"
        ) from None


def _series(film: Dataset) -> int:
    """A series of its own beside the film's, by number."""
    try:
        return min(abs(int(film.get("SeriesNumber") or 0)), 9_999_999) + 9000
    except (TypeError, ValueError):
        return 9000


def _uid(*about: str) -> str:
    return str(generate_uid(entropy_srcs=[str(text) for text in about]))


# Coded concepts of mask classes, as DICOM segments demand them.


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
