"""V7 Labs' lung masks on COVID-19 films and on films of children with and without pneumonia."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, clean, is_inside, read_csv, reject
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.masks import MaskFile
from dollkit.data.sets import covid_chestxray
from dollkit.data.sets.covid_chestxray import FRONTAL, SAME_PATIENT, named_findings
from dollkit.data.splits import read_json, split_by_share

ROOTS = ("covid-19-xray-dataset", "covid-19-xray-dataset-master")
MASKS = Path("annotations", "all-images-semantic-masks")
NOTES = Path("annotations", "all-images")
CODES: dict[int, str] = {0: "__background__", 127: "Ignore", 255: "Lung"}
"""Grey values of the masks, as ``class_mapping.csv`` states them."""

_ENDINGS = (".jpg", ".jpeg", ".png")
_TAG = re.compile(r"(view|sex|patientid|age)\s*[/:]\s*(.+)", re.IGNORECASE)
_NAMED_PATIENT = re.compile(r"(person|IM-|(?:BACTERIA|VIRUS|NORMAL)-)(\d+)")


@dataclass(frozen=True)
class _Note:
    """What one annotation file says of its image."""

    id: str
    path: Path
    original: str
    height: int
    width: int
    lungs: int
    tags: Mapping[str, str]
    labels: tuple[str, ...]

    @property
    def frontal(self) -> bool:
        view = self.tags.get("view", "").replace("_", " ").lower()
        return view in FRONTAL or (not view and "CT" not in self.labels)


def read_v7(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """COVID-19 chest X-ray dataset of V7 Labs: lung masks, images from two other collections.

    Counts: about 6,500 images: 517 of COVID-19 from ieee8023/covid-chestxray-dataset, 5,863 of
    Kermany's paediatric pneumonia set. Not checked: the repository brings no list.

    Masks: drawn by people with a tool, reviewed by people: both lungs with the part behind the
    heart and what shows through the diaphragm. 255 lung, 0 background, 127 "Ignore" (pacemakers
    and markings over the lung), which is read as 255 = ignore.

    Splits: none released. Drawn by the sha256 of the patient id: 0.7 train, 0.1 valid, 0.2 test.

    Folder variants: the repository's root; it holds no image. Images are looked for as
    ``images/<id>.*``, as ``images/<original name>``, then in ``images/`` of an ieee8023 copy beside
    the root. Masks without an image are left out and counted, and so are CT slices, laterals
    and films without any lung.

    Traps: the patient is the tag PatientID (an id of ieee8023), else the ieee8023 row of the
    original name, if a copy lies beside the root, else the number in a name of Kermany's
    (``person12_virus_3``), else unknown: then a film counts as a patient of its own. Kermany's
    films show children of one to five years. The same films and patients as in ieee8023,
    General Blockchain and the open pack; the lungs there leave out what is behind the heart.

    Licence: masks CC BY 4.0; images of ieee8023 per image, of Kermany CC BY 4.0.

    Cite: V7 Labs, covid-19-xray-dataset, 2020; Cohen et al., arXiv 2006.11988; Kermany, Zhang,
    Goldbaum, Mendeley Data 2018, doi 10.17632/rscbjbr9sj.2.

    Args:
        root: folder with ``annotations/``.
        skip_bad: leave masks with a wrong annotation file out and note them.

    Returns:
        ``lungs``; ``image_id`` is the number of the annotation file.
    """
    bad = BadRows()
    _check_codes(root / MASKS / "class_mapping.csv")
    masks = sorted((root / MASKS).glob("*.png"))
    notes = list(_notes(root, masks, bad if skip_bad else None))
    near = _ieee8023_beside(root)
    listed = _patients_of(near)
    films_of = _images_of(root, near)
    kept, paths, left = [], [], {"views": 0, "lungs": 0, "film": 0}
    others: list[Path] = []
    for note in notes:
        path = films_of(note)
        reason = "views" if not note.frontal else "lungs" if not note.lungs else ""
        reason = reason or ("" if path else "film")
        if path and not reason:
            kept.append(note)
            paths.append(path)
            continue
        left[reason] += 1
        others += [root / MASKS / f"{note.id}.png"]
        others += [path] if path and root in path.parents else []
    if not kept:
        raise InputError(
            f"{root}: none of {len(masks)} masks has its film: put the images into "
            f"{root / 'images'} under their original names"
        )
    films = _films(kept, paths, listed)
    facts = {
        "masks": len(masks),
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "masks of laterals or CT": left["views"],
        "masks without lung": left["lungs"],
        "masks without film": left["film"],
    }
    columns = {"lungs": [_mask(root / MASKS / f"{note.id}.png") for note in kept]}
    table = FilmTable(
        "v7",
        films,
        root,
        masks=pd.DataFrame(columns, dtype=object),
        any_ending=True,
        others=tuple(others),
        side=("*.md", "*.json", "class_mapping.csv", "LICENSE*", "media/*"),
        facts=facts,
        bad=bad,
        beside=tuple(p for p in paths if root not in p.parents),
    )
    return {"lungs": table}


def _mask(path: Path) -> MaskFile:
    return MaskFile(path, inside=(255,), outside=(0,), ignore=(127,))


def _check_codes(path: Path) -> None:
    """The codes are the documented ones, where the export states them."""
    if not path.is_file():
        return
    table = read_csv(path, ("class_idx", "class_name"))
    found = dict(zip(table.column("class_idx"), table.column("class_name"), strict=True))
    if found != {str(code): name for code, name in CODES.items()}:
        raise InputError(
            f"{path}: classes are {found}: use the export with 0 background, 127 Ignore, 255 Lung"
        )


def _notes(root: Path, masks: list[Path], bad: BadRows | None) -> Iterator[_Note]:
    for mask in masks:
        path = root / NOTES / f"{mask.stem}.json"
        try:
            note = _note(mask.stem, path)
        except InputError as error:
            reject(bad, path, str(mask), str(error))
        else:
            yield note


def _note(name: str, path: Path) -> _Note:
    data = read_json(path)
    image = data.get("image") if isinstance(data, dict) else None
    entries = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(image, dict) or not isinstance(entries, list):
        raise InputError(f"{path}: 'image' or 'annotations' is missing: fetch the file again")
    original, height, width = (image.get(k) for k in ("original_filename", "height", "width"))
    if not isinstance(original, str) or not is_inside(original):
        raise InputError(f"{path}: original_filename {original!r} is no file name: mend it")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise InputError(f"{path}: width and height are {width!r} and {height!r}: mend them")
    names = [_text(path, i, entry) for i, entry in enumerate(entries)]
    tags = {m[1].lower(): m[2].strip() for n in names if (m := _TAG.fullmatch(n.strip()))}
    lungs = sum(n == "Lung" and "tag" not in e for n, e in zip(names, entries, strict=True))
    return _Note(name, path, original, height, width, lungs, tags, tuple(names))


def _text(path: Path, i: int, entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{path}, annotations[{i}]: no name: fetch the file again")
    return name


def _ieee8023_beside(root: Path) -> Path | None:
    """A copy of ieee8023 in the folder that holds `root`."""
    around = root.absolute().parent
    try:
        places = [around, *sorted(p for p in around.iterdir() if p.is_dir())]
    except OSError:
        return None
    return next((found for p in places if (found := covid_chestxray.DATASET.find(p))), None)


def _patients_of(near: Path | None) -> dict[str, str]:
    """Patient id by file name, from the copy of ieee8023."""
    if near is None:
        return {}
    # Its own wrong rows are not this data set's.
    people = covid_chestxray.people(
        covid_chestxray.read_metadata(near / "metadata.csv", BadRows())
    ).drop_duplicates("file")
    return dict(zip(people["file"], people["patient_id"], strict=True))


def _images_of(root: Path, near: Path | None) -> Callable[[_Note], Path | None]:
    """Looks the image of an annotation file up, in the order that `read_v7` states."""
    folder = root / "images"
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    by_id = {p.stem: p for p in here if p.suffix.lower() in _ENDINGS}
    by_name = {p.name: p for p in here}

    def look(note: _Note) -> Path | None:
        name = clean(note.original).name
        found = by_id.get(note.id) or by_name.get(name)
        if found is None and near is not None and (near / "images" / name).is_file():
            return near / "images" / name
        return found

    return look


def _films(notes: list[_Note], paths: list[Path], listed: Mapping[str, str]) -> pd.DataFrame:
    films = blank_films(len(notes))
    films["image_id"] = films["study_id"] = [note.id for note in notes]
    films["patient_id"] = [_patient(note, listed) for note in notes]
    films["split"] = split_by_share(films["patient_id"])
    films["fold"] = 0
    films["source"] = "v7"
    views = [note.tags.get("view", "").replace("_", " ").lower() for note in notes]
    films["view"] = [FRONTAL.get(view, "") for view in views]
    sexes = [note.tags.get("sex", "").upper() for note in notes]
    films["sex"] = [sex if sex in ("M", "F") else "" for sex in sexes]
    ages = pd.Series([note.tags.get("age", "") for note in notes], dtype=str)
    films["age"] = pd.to_numeric(ages, errors="coerce").astype("float64")
    found = [set().union(*(named_findings(text)[0] for text in note.labels)) for note in notes]
    films["Pneumonia"] = [1.0 if "Pneumonia" in names else np.nan for names in found]
    films["height"] = [note.height for note in notes]
    films["width"] = [note.width for note in notes]
    films["path"] = [str(path) for path in paths]
    films["where"] = [str(note.path) for note in notes]
    return films


def _patient(note: _Note, listed: Mapping[str, str]) -> str:
    tag, name = note.tags.get("patientid", ""), clean(note.original).name
    if tag:
        return f"ieee_{SAME_PATIENT.get(tag, tag)}"
    if name in listed:
        return listed[name]
    # One number may stand for two children there: they then share a split, which is no leak.
    kermany = _NAMED_PATIENT.search(name)
    return f"kermany_{kermany[1].rstrip('-').lower()}{kermany[2]}" if kermany else f"v7_{note.id}"


def _find(folder: Path) -> Path | None:
    return first_with(folder, (str(MASKS),), ROOTS)


DATASET = DataSet(
    name="v7",
    title="COVID-19 chest X-ray dataset (V7 Labs)",
    stores=("lungs",),
    find=_find,
    read=read_v7,
    documented={},
    tree="annotations/all-images-semantic-masks/ and annotations/all-images/",
    licence="masks CC BY 4.0; images per image (ieee8023) or CC BY 4.0 (Kermany)",
    cite="V7 Labs, covid-19-xray-dataset, 2020; Cohen et al., arXiv 2006.11988; Kermany et al.",
)
