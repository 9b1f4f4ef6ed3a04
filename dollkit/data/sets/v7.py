"""V7 Labs' lung masks on COVID-19 films and on films of children with and without pneumonia."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import STRICT, BadRows, clean, is_inside
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets import covid_chestxray
from dollkit.data.sets.covid_chestxray import FRONTAL, SAME_PATIENT, named_findings, sexes
from dollkit.data.splits import split_by_share

MASKS = Path("annotations", "all-images-semantic-masks")
NOTES = Path("annotations", "all-images")

TAGS = ("view", "sex", "patientid", "age")

_TAG = re.compile(rf"({'|'.join(TAGS)})\s*[/:]\s*(.+)", re.IGNORECASE)
_NAMED_PATIENT = re.compile(r"(person|IM-|(?:BACTERIA|VIRUS|NORMAL)-)(\d+)")


def read_v7(root: Path, bad: BadRows = STRICT) -> dict[str, FilmTable]:
    """``lungs``: masks whose film is there, frontal, with a lung; 127 in the file is ignored.

    ``image_id`` is the number of the annotation file. The export holds no films: they are looked
    for as ``images/<id>.*``, as ``images/<original name>``, then in a copy of ieee8023 beside the
    root. The patient is the tag PatientID, else ieee8023's row of the original name, else the
    number in a name of Kermany's (``person12_virus_3``), else the film itself. No split was
    released: patients are drawn by the hash of their id.
    """
    masks = sorted((root / MASKS).glob("*.png"))
    near = _ieee8023_beside(root)
    notes = _read_notes(root, masks, bad)
    notes["film"] = pd.Series(_find_films(notes, root, near), dtype=object)
    frontal = notes["view"].isin(list(FRONTAL)) | (notes["view"].eq("") & ~notes["ct"])
    conditions = [~frontal, notes["lungs"].eq(0), notes["film"].isna()]
    reason = np.select(conditions, ["views", "lungs", "film"], "")
    kept = notes[reason == ""].reset_index(drop=True)
    if kept.empty:
        raise InputError(
            f"{root}: none of {len(masks)} masks has its film: put the images into "
            f"{root / 'images'} under their original names"
        )
    listed = _patients_of(near)
    names = [mask.stem for mask in kept["mask"]]
    keys = zip(names, kept["name"], kept["patientid"], strict=True)
    patients = [_patient(*key, listed) for key in keys]
    films = steps.films_of(
        "v7",
        names,
        kept["film"],
        kept["where"],
        patient_id=patients,
        split=split_by_share(patients),
        fold=0,
        view=kept["view"].map(FRONTAL).fillna(""),
        sex=sexes(kept["sex"]),
        age=pd.to_numeric(kept["age"], errors="coerce").astype("float64"),
        Pneumonia=np.where(kept["pneumonia"], 1.0, np.nan),
        height=kept["height"],
        width=kept["width"],
    )
    facts = {
        "masks": len(masks),
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "masks of laterals or CT": int((reason == "views").sum()),
        "masks without lung": int((reason == "lungs").sum()),
        "masks without film": int((reason == "film").sum()),
    }
    found = [film for film in notes["film"] if film]
    table = steps.make_table(
        "v7",
        films,
        root,
        {"lungs": [MaskFile(mask, ignore=(127,)) for mask in kept["mask"]]},
        others=[*notes["mask"], *(film for film in found if root in film.parents)],
        facts=facts,
        bad=bad,
        beside=tuple(film for film in found if root not in film.parents),
    )
    return {"lungs": table}


def _read_notes(root: Path, masks: Sequence[Path], bad: BadRows) -> pd.DataFrame:
    """What the annotation files say, a row for each mask."""
    rows = []
    for mask in masks:
        path = root / NOTES / f"{mask.stem}.json"
        try:
            rows.append({"mask": mask, "where": str(path), **_read_note(path)})
        except InputError as error:
            bad.reject(path, str(mask), str(error))
    columns = ("mask", "where", "name", "height", "width", "lungs", "ct", "pneumonia", *TAGS)
    return pd.DataFrame(rows, columns=list(columns))


def _read_note(path: Path) -> dict[str, object]:
    data = steps.read_json(path)
    image = data.get("image") if isinstance(data, dict) else None
    entries = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(image, dict) or not isinstance(entries, list):
        raise InputError(f"{path}: 'image' or 'annotations' is missing: fetch the file again")
    original, height, width = (image.get(k) for k in ("original_filename", "height", "width"))
    if not isinstance(original, str) or not is_inside(original):
        raise InputError(f"{path}: original_filename {original!r} is no file name: mend it")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise InputError(f"{path}: width and height are {width!r} and {height!r}: mend them")
    labels: list[str] = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError(f"{path}, annotations[{i}]: no name: fetch the file again")
        labels.append(entry["name"])
    found = (_TAG.fullmatch(label.strip()) for label in labels)
    tags = dict.fromkeys(TAGS, "") | {m[1].lower(): m[2].strip() for m in found if m}
    return {
        "name": clean(original).name,
        "height": height,
        "width": width,
        "lungs": sum(entry["name"] == "Lung" and "tag" not in entry for entry in entries),
        "ct": "CT" in labels,
        "pneumonia": any("Pneumonia" in named_findings(label)[0] for label in labels),
        **tags,
        "view": tags["view"].replace("_", " ").lower(),
    }


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
    table = covid_chestxray.read_metadata(near / "metadata.csv", BadRows())
    people = covid_chestxray.people(table).drop_duplicates("file")
    return dict(zip(people["file"], people["patient_id"], strict=True))


def _find_films(notes: pd.DataFrame, root: Path, near: Path | None) -> list[Path | None]:
    folder = root / "images"
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    by_id = {p.stem: p for p in here if p.suffix.lower() in (".jpg", ".jpeg", ".png")}
    by_name = {p.name: p for p in here}
    films: list[Path | None] = []
    for mask, name in zip(notes["mask"], notes["name"], strict=True):
        film = by_id.get(mask.stem) or by_name.get(name)
        if film is None and near is not None and (near / "images" / name).is_file():
            film = near / "images" / name
        films.append(film)
    return films


def _patient(film: str, name: str, tag: str, listed: Mapping[str, str]) -> str:
    if tag:
        return f"ieee_{SAME_PATIENT.get(tag, tag)}"
    if name in listed:
        return listed[name]
    # One number may stand for two children there: they then share a split, which is no leak.
    kermany = _NAMED_PATIENT.search(name)
    return f"kermany_{kermany[1].rstrip('-').lower()}{kermany[2]}" if kermany else f"v7_{film}"


DATASET = steps.data_set(
    "v7",
    ("lungs",),
    steps.marked((str(MASKS),), ("covid-19-xray-dataset", "covid-19-xray-dataset-master")),
    read_v7,
)
