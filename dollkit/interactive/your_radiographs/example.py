"""A folder as a user may have it, out of the phantom: films as PNG and DICOM, a table, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.images import U8
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.render import ORGANS, render

COLUMNS = {"Effusion": "Pleural Effusion"}
"""What the table calls otherwise, as parameter 'columns' has it."""

CLASSES = {"lungs": ("left lung", "right lung"), "heart": ("heart",)}


def write_example(
    folder: Path, n: int = 96, masked: int = 24, dicom: int = 4, size: int = 64, seed: int = 3
) -> dict[str, str]:
    """Write ``films/``, ``findings.csv`` and ``masks/``, and return their paths by these names.

    Of `n` films the last `masked` have masks, but for one patient's; the last `dicom` of these are
    DICOM (12 bits, one MONOCHROME1). An example that is there is kept.
    """
    out = {name: str(folder / name) for name in ("films", "findings", "masks")}
    out["findings"] += ".csv"
    settings, mark = f"{n} {masked} {size} {seed} {dicom}\n", folder / "example.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == settings:
        return out
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise InputError(f"{folder}: holds something else: name another folder for the example")
    mark.unlink(missing_ok=True)
    people = sample_population(n, seed)
    first = people["patient_id"].iloc[n - masked]
    rendered = render(people, size, seed)
    rows, names = [], {ours: theirs for theirs, ours in COLUMNS.items()}
    for i, person in enumerate(people.to_dict("records")):
        box = slice(size - i % 3 * 8), slice(size - i % 4 * 8)
        inner = Path(str(person["patient_id"]), f"film{i:04d}")
        has_masks = i >= n - masked and person["patient_id"] != first
        as_dicom = has_masks and n - 1 - i < dicom
        film = Path(out["films"], inner.with_suffix(".dcm" if as_dicom else ".png"))
        film.parent.mkdir(parents=True, exist_ok=True)
        if as_dicom:
            _save_dicom(film, rendered.images[i][box], inverted=i == n - 1)
        else:
            Image.fromarray(rendered.images[i][box]).save(film)
        if has_masks:
            for name, organs in CLASSES.items():
                mask = rendered.organs[i][[ORGANS.index(o) for o in organs]].any(axis=0)[box]
                path = Path(out["masks"], name, inner.with_suffix(".png"))
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        states = {names.get(f, f): person[f] for f in FINDINGS if f != "No Finding"}
        name = film.relative_to(out["films"]).as_posix()
        rows.append({"image": name, "patient": person["patient_id"], "sex": person["sex"]} | states)
    pd.DataFrame(rows).to_csv(out["findings"], index=False, lineterminator="\n")
    mark.write_text(settings, encoding="utf-8")
    return out


def _save_dicom(path: Path, film: U8, inverted: bool) -> None:
    """A computed radiograph of 12 bits; the patient is nobody."""
    grey = film.astype(np.uint16) * 16
    about = Dataset()
    about.file_meta = FileMetaDataset()
    about.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    about.SOPClassUID = ComputedRadiographyImageStorage
    about.SOPInstanceUID, about.StudyInstanceUID, about.SeriesInstanceUID = (
        str(generate_uid(entropy_srcs=[level, path.stem])) for level in ("film", "study", "series")
    )
    about.Modality, about.PatientName, about.PatientID = "CR", "Phantom^Chest", path.stem
    about.PatientBirthDate = about.PatientSex = about.StudyDate = about.StudyTime = ""
    about.AccessionNumber = about.StudyID = about.ReferringPhysicianName = ""
    about.PixelSpacing = [4.0, 4.0]  # mm: 64 of them cover a chest
    shown = (4080 - grey, "MONOCHROME1") if inverted else (grey, "MONOCHROME2")
    about.set_pixel_data(*shown, bits_stored=12, generate_instance_uid=False)
    about.save_as(path, enforce_file_format=True)
