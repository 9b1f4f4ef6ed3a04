"""A stranger's folder out of the phantom: films as PNG and DICOM, a table, a few masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.render import ORGANS, render

U8 = npt.NDArray[np.uint8]
SPACING = 4.0
"""mm between the pixels of a DICOM film of the example, so that 64 of them cover a chest."""

MADE = "example.txt"
NAMES = {"Pleural Effusion": "Effusion"}
"""Findings that the table calls otherwise, as a stranger's may."""

COLUMNS = {theirs: ours for ours, theirs in NAMES.items()}
"""The mapping that such a table needs."""

CLASSES = {"lungs": ("left lung", "right lung"), "heart": ("heart",)}


def write_example(folder: Path, n: int = 96, masked: int = 24, size: int = 64, seed: int = 3,
                  dicom: int = 4) -> dict[str, str]:  # fmt: skip
    """Write ``films/``, ``findings.csv`` and ``masks/`` of phantom films; one that stands is kept.

    Films are cropped to several shapes, wide and tall; the first `dicom` of those with masks are
    DICOM (12 bits, one of them MONOCHROME1). Findings stand under a stranger's names (`NAMES`).

    Args:
        folder: to write into.
        n: films.
        masked: of these, the last patients' films with masks.
        size: side before cropping, a multiple of 8 from 64.
        seed: of the phantom.
        dicom: films written as DICOM.

    Returns:
        ``films``, ``findings``, ``masks``: their paths, as text.
    """
    if not 8 <= masked < n or not 0 <= dicom <= masked:
        raise InputError(f"parameters n={n}, masked={masked}: use 8 <= masked < n")
    out = {k: str(folder / v) for k, v in
           {"films": "films", "findings": "findings.csv", "masks": "masks"}.items()}  # fmt: skip
    settings = f"n={n} masked={masked} size={size} seed={seed} dicom={dicom}\n"
    mark = folder / MADE
    if mark.is_file() and mark.read_text(encoding="utf-8") == settings:
        return out
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise InputError(f"{folder}: holds something else: name another folder for the example")
    mark.unlink(missing_ok=True)
    people = sample_population(n, seed)
    first = people["patient_id"].iloc[n - masked]
    made = render(people, size, seed)
    rows = []
    for i, person in enumerate(people.to_dict("records")):
        box = _crop(i, size)
        inner = Path(str(person["patient_id"]), f"film{i:04d}")
        has_masks = i >= n - masked and person["patient_id"] != first
        as_dicom = has_masks and n - 1 - i < dicom
        film = Path(out["films"], inner.with_suffix(".dcm" if as_dicom else ".png"))
        film.parent.mkdir(parents=True, exist_ok=True)
        if as_dicom:
            _save_dicom(film, made.images[i][box], inverted=i == n - 1)
        else:
            Image.fromarray(made.images[i][box]).save(film)
        if has_masks:
            for name, organs in CLASSES.items():
                mask = made.organs[i][[ORGANS.index(o) for o in organs]].any(axis=0)[box]
                path = Path(out["masks"], name, inner.with_suffix(".png"))
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        states = {NAMES.get(f, f): person[f] for f in FINDINGS if f != "No Finding"}
        name = film.relative_to(out["films"]).as_posix()
        rows.append({"image": name, "patient": person["patient_id"], "sex": person["sex"]} | states)
    pd.DataFrame(rows).to_csv(out["findings"], index=False, lineterminator="\n")
    mark.write_text(settings, encoding="utf-8")
    return out


def _crop(i: int, size: int) -> tuple[slice, slice]:
    """Whole, tall and wide films in turn, of odd sizes too."""
    thin = size // 8
    rows, columns = ((0, 0), (0, thin), (thin, 0), (1, thin - 1))[i % 4]
    return (
        slice(rows // 2, size - (rows - rows // 2)),
        slice(columns // 2, size - (columns - columns // 2)),
    )


def _save_dicom(path: Path, film: U8, inverted: bool) -> None:
    """A computed radiograph of 12 bits; the patient is nobody."""
    grey = film.astype(np.uint16) * 16
    about = Dataset()
    about.file_meta = FileMetaDataset()
    about.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    about.SOPClassUID = ComputedRadiographyImageStorage
    about.SOPInstanceUID, about.StudyInstanceUID, about.SeriesInstanceUID = (
        str(generate_uid(entropy_srcs=[kind, path.stem])) for kind in ("film", "study", "series")
    )
    about.Modality, about.PatientName, about.PatientID = "CR", "Phantom^Chest", path.stem
    about.PatientBirthDate = about.PatientSex = about.StudyDate = about.StudyTime = ""
    about.AccessionNumber = about.StudyID = about.ReferringPhysicianName = ""
    about.Rows, about.Columns = film.shape
    about.SamplesPerPixel, about.PixelRepresentation = 1, 0
    about.BitsAllocated, about.BitsStored, about.HighBit = 16, 12, 11
    about.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    about.PixelSpacing = [SPACING, SPACING]
    about.PixelData = (4080 - grey if inverted else grey).astype("<u2").tobytes()
    about.save_as(path, enforce_file_format=True)
