"""Masks as DICOM segmentations (binary), one file per film, through highdicom."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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

NAME = "dollkit"

# It logs values of the file, names of patients too.
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)

BLANK = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What must stand in a DICOM object but may be blank."""

ANATOMY = (
    "lung", "heart", "clavicle", "mediastinum", "trachea", "aorta", "diaphragm", "rib", "scapula",
    "breast", "stomach",
)  # fmt: skip
FINDINGS = ("pleural effusion", "pneumothorax", "cardiomegaly", "pulmonary edema", "lesion")
SYNONYMS = {"cardiomediastinum": "mediastinum", "edema": "pulmonary edema", "lung lesion": "lesion"}


class Concept(NamedTuple):
    """What a segment shows: category, type, and its side if it has one."""

    category: Code
    kind: Code
    modifier: Code | None = None


def find_concept(name: str, chosen: Mapping[str, Sequence[str]] | None = None) -> Concept:
    """SNOMED CT codes of a mask class, such as ``left lung``, from pydicom's dictionary.

    `chosen` come first: class to coding scheme, value and meaning, such as ``{"aortic arch":
    ["SCT", "57034009", "Aortic arch"]}``.
    """
    plain = words(name)
    code = {words(k): v for k, v in (chosen or {}).items()}.get(plain)
    if code is not None:
        if len(code) != 3 or not all(isinstance(part, str) and part.strip() for part in code):
            raise InputError(
                f"parameter 'codes' has {list(code)!r} for {name!r}: give coding scheme, value and "
                "meaning, such as ['SCT', '39607008', 'Lung']"
            )
        scheme, value, meaning = code
        return Concept(codes.SCT.AnatomicalStructure, Code(value, scheme, meaning))
    side, _, rest = plain.partition(" ")
    sided = side in ("left", "right")
    what = rest if sided else plain
    what = SYNONYMS.get(what, what)
    if what in FINDINGS and not sided:
        return Concept(codes.SCT.MorphologicallyAbnormalStructure, _snomed(what))
    organ = what if what in ANATOMY else what.removesuffix("s")
    if organ not in ANATOMY:
        raise InputError(
            f"class {name!r} has no code of a DICOM segment here (there are: "
            f"{', '.join((*ANATOMY, *FINDINGS))}; with left or right): give one as scheme, value "
            "and meaning (parameter 'codes', or --code 'CLASS=SCT:VALUE:MEANING'), or write PNG"
        )
    modifier = _snomed(side) if sided else None
    return Concept(codes.SCT.AnatomicalStructure, _snomed(organ), modifier)


def _snomed(name: str) -> Code:
    return getattr(codes.SCT, name.title().replace(" ", ""))  # type: ignore[no-any-return]


def encode(
    source: Path, masks: Sequence[npt.NDArray[np.uint8]], classes: Sequence[str],
    concepts: Sequence[Concept], network: str,
) -> bytes:  # fmt: skip
    """Masks of one film, (Rows, Columns) in {0, 1} per class, as a DICOM file.

    The patient and study modules are those of the film, as the standard demands of derived
    objects: whoever gets this file can read whatever name stands in the film. Equal films, classes
    and network (its fingerprint) give equal UIDs.
    """
    about = [network, dollkit.__version__, *classes]
    hashes = [hashlib.sha256(mask.tobytes()).hexdigest() for mask in masks]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the file
            film = _read_header(source)
            segmentation = hd.seg.Segmentation(
                [film], np.stack(masks, axis=-1)[None], "BINARY", _segments(classes, concepts),
                series_instance_uid=generate_uid(entropy_srcs=[film.SeriesInstanceUID, *about]),
                series_number=9000 + int(film.get("SeriesNumber") or 0) % 10**6,
                sop_instance_uid=generate_uid(entropy_srcs=[film.SOPInstanceUID, *about, *hashes]),
                instance_number=1, manufacturer=NAME, manufacturer_model_name=NAME,
                software_versions=dollkit.__version__, device_serial_number=network[:16],
                content_label="DOLLKIT",
                content_description="Research software, not for clinical use",
                # A film without the class has a segment of zeros, not a missing one.
                omit_empty_frames=False,
            )  # fmt: skip
            file = io.BytesIO()
            segmentation.save_as(file)
    except Exception as error:  # pydicom may raise anything over damaged bytes, and quotes them
        raise InputError(
            f"{source}: no DICOM segmentation can refer to it ({type(error).__name__}: damaged, a "
            "name in no known character set, or no UIDs of study, series and image): ask for PNG"
        ) from None
    return file.getvalue()


def _segments(
    classes: Sequence[str], concepts: Sequence[Concept]
) -> list[hd.seg.SegmentDescription]:
    made_by = NAME, codes.DCM.ArtificialIntelligence, dollkit.__version__
    automatic = "AUTOMATIC", hd.AlgorithmIdentificationSequence(*made_by)
    segments = []
    for number, (name, what) in enumerate(zip(classes, concepts, strict=True), start=1):
        segment = hd.seg.SegmentDescription(number, name, what.category, what.kind, *automatic)
        if what.modifier is not None:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            side = hd.sr.CodedConcept.from_code(what.modifier)
            kind.SegmentedPropertyTypeModifierCodeSequence = [side]
        segments.append(segment)
    return segments


def _read_header(source: Path) -> Dataset:
    """The film's header, with blanks where the standard demands an attribute that it lacks."""
    film = dcmread(source, stop_before_pixels=True, force=True)  # it may lack the preamble
    # In UTF-8, which has all names of patients and of classes; highdicom copies few other sets.
    film.decode()
    film.SpecificCharacterSet = "ISO_IR 192"
    for tag in BLANK:
        if tag not in film:
            setattr(film, tag, None)
    if "SliceThickness" not in film and "PixelSpacing" in film:
        # highdicom would copy the spacing without a thickness and then refuse its own file. The
        # grid is that of the film that the segments refer to, and so is its spacing.
        del film.PixelSpacing
    return film
