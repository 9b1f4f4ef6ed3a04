"""ieee8023/covid-chestxray-dataset: films of COVID-19 and other pneumonias from publications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, CsvTable, read_csv, reject
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.splits import split_by_share

ROOTS = ("covid-chestxray-dataset", "covid-chestxray-dataset-master")
NEEDED = ("patientid", "finding", "view", "modality", "filename")

FRONTAL: dict[str, str] = {
    "pa": "PA",
    "ap": "AP",
    "ap supine": "AP",
    "ap erect": "AP",
    "ap semi erect": "AP",
}
"""Views that are read (lower case), and what they count as."""

FINDING_OF: dict[str, str | None] = {
    "no finding": "No Finding",
    "pneumonia": "Pneumonia",
    # Viral.
    "viral": "Pneumonia",
    "viral pneumonia": "Pneumonia",
    "covid-19": "Pneumonia",
    "sars": "Pneumonia",
    "mers": "Pneumonia",
    "mers-cov": "Pneumonia",
    "influenza": "Pneumonia",
    "h1n1": "Pneumonia",
    "swine-origin influenza a (h1n1) viral pneumonia": "Pneumonia",
    "herpes": "Pneumonia",
    "herpes pneumonia": "Pneumonia",
    "varicella": "Pneumonia",
    # Bacterial.
    "bacterial": "Pneumonia",
    "bacterial pneumonia": "Pneumonia",
    "streptococcus": "Pneumonia",
    "staphylococcus": "Pneumonia",
    "mrsa": "Pneumonia",
    "klebsiella": "Pneumonia",
    "legionella": "Pneumonia",
    "mycoplasma": "Pneumonia",
    "mycoplasma bacterial pneumonia": "Pneumonia",
    "chlamydophila": "Pneumonia",
    "e.coli": "Pneumonia",
    "nocardia": "Pneumonia",
    # Fungal.
    "fungal": "Pneumonia",
    "fungal pneumonia": "Pneumonia",
    "pneumocystis": "Pneumonia",
    "aspergillosis": "Pneumonia",
    # By what was breathed in.
    "aspiration": "Pneumonia",
    "aspiration pneumonia": "Pneumonia",
    "lipoid": "Pneumonia",
    # Known, and none of CheXpert's observations.
    "ards": None,
    "tuberculosis": None,
    "todo": None,
    "unknown": None,
    "": None,
}
"""Our mapping of the diagnoses (lower case, each level of "A/B/C" by itself) to CheXpert's names.

Diagnoses come from the publications, not from the films, so a positive says what the patient had.
"""

SAME_PATIENT: dict[str, str] = {"97": "178"}
"""Patient ids under which the same films stand as under another id."""

SIDE: tuple[str, ...] = (
    "metadata.csv",
    "LICENSE*",
    "*.md",
    "*.py",
    "*.ipynb",
    "annotations/*",
    "annotations/*/*",
    "docs/*",
    "scripts/*",
    "tests/*",
    "volumes/*",
)


def read_ieee8023(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """COVID-19 image data collection: films and CT slices from publications and web sites.

    Counts: a living table, so none is documented: the commit that was fetched decides. Only
    frontal radiographs are read (modality X-ray, view as in `FRONTAL`).

    Labels: one diagnosis per image, flat ("COVID-19, ARDS") in older commits, a path
    ("Pneumonia/Viral/COVID-19") in newer ones. The mapping is ours, `FINDING_OF`: Pneumonia is 1
    for every pneumonia, No Finding is 1 for "No Finding", all else is blank. Diagnoses that it
    does not list are blank too, and counted.

    Splits: none released. Drawn by the sha256 of the patient id: 0.7 train, 0.1 valid, 0.2 test.

    Folder variants: the repository's root (or a download named ``...-master``), with
    ``metadata.csv`` and ``images/``; extra columns and a 29th without a name are ignored, line
    ends may be Windows' or stand inside quotes. CT volumes (``volumes/``) are not looked for.

    Traps: endings and modes of the images are mixed (JPEG, PNG; grey, colour, with alpha), some
    endings lie (PNG in ``.jpg``; read as what they are), and a file stem may occur with two
    endings. Many are figures: other windows, arrows, cropped borders. Patients 97 and 178 are the
    same person (`SAME_PATIENT`). Sex and age that are not as expected are read as unknown.
    Hardly any film is without finding.

    Licence: per image, column ``license``, often blank; many are non-commercial (CC BY-NC-SA).
    Counted in the facts of the table; credit each image's source.

    Cite: Cohen, Morrison, Dao, Roth, Duong, Ghassemi, "COVID-19 Image Data Collection:
    Prospective Predictions Are the Future", arXiv 2006.11988.

    Args:
        root: folder with ``metadata.csv``.
        skip_bad: leave wrong rows out and note them.

    Returns:
        ``films``; ``image_id`` is the file's stem (with its ending where two files share one),
        ``patient_id`` is ``ieee_<patientid>``.
    """
    bad = BadRows()
    table = read_metadata(root / "metadata.csv", bad if skip_bad else None)
    facts = {"rows": len(table)}
    paths = table.files("filename", root / "images")
    frame = people(table)
    frame["path"], frame["where"] = [str(p) for p in paths], table.where()
    frame["licence"] = table.column("license") if "license" in table.frame else ""
    frame["finding"] = table.column("finding")
    volume = table.column("folder") == "volumes" if "folder" in table.frame else False
    once = _once(frame, bad if skip_bad else None)
    chosen = frame[once & frame["frontal"]].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"{table.path}: no frontal film is listed: fetch the data set again")
    left = frame[~frame["frontal"] & ~volume & ~frame["path"].isin(set(chosen["path"]))]
    films = blank_films(len(chosen))
    for column in ("patient_id", "sex", "age", "view", "path", "where"):
        films[column] = chosen[column]
    films["image_id"] = films["study_id"] = unique_stems(chosen["file"].tolist())
    films["source"] = "ieee8023"
    films["split"] = split_by_share(films["patient_id"])
    named = [named_findings(text) for text in chosen["finding"]]
    for finding in ("Pneumonia", "No Finding"):
        films[finding] = [1.0 if finding in found else np.nan for found, _ in named]
    facts |= {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "rows of CT or lateral views": int((~frame["frontal"]).sum()),
        "rows that repeat a file": int((~once).sum()),
        "films with a diagnosis not mapped": sum(not known for _, known in named),
    }
    licences = Counter(chosen["licence"].replace("", "not stated"))
    facts |= {f"films, licence {name}": n for name, n in sorted(licences.items())}
    others = tuple(Path(p) for p in dict.fromkeys(left["path"]))
    read = FilmTable(
        "ieee8023",
        films,
        root,
        any_ending=True,
        others=others,
        side=SIDE,
        facts=facts,
        bad=bad,
    )
    return {"films": read}


def read_metadata(path: Path, bad: BadRows | None = None) -> CsvTable:
    """Rows of a ``metadata.csv`` in this data set's form; each has a patient."""
    table = read_csv(path, NEEDED, bad, hint="fetch covid-chestxray-dataset's metadata.csv")
    table.require(table.column("patientid") != "", "patientid", "the patient's id")
    return table


def people(table: CsvTable) -> pd.DataFrame:
    """Whose film each row is: file, patient_id, sex, age, view ("" unless frontal), frontal."""
    known = table.frame.columns
    patient = table.column("patientid").replace(SAME_PATIENT)
    sex = table.column("sex").str.upper() if "sex" in known else pd.Series("", table.frame.index)
    age = pd.to_numeric(table.column("age"), errors="coerce") if "age" in known else np.nan
    view = table.column("view").str.lower().map(FRONTAL)
    film = table.column("modality").str.lower() == "x-ray"
    return pd.DataFrame(
        {
            "file": table.column("filename"),
            "patient_id": "ieee_" + patient,
            "sex": sex.where(sex.isin(["M", "F"]), ""),
            "age": age,
            "view": view.fillna("").where(film, ""),
            "frontal": view.notna() & film,
        }
    ).astype({"age": "float64"})


def named_findings(text: str) -> tuple[set[str], bool]:
    """CheXpert's names for a diagnosis, and whether `FINDING_OF` lists every part of it."""
    parts = [p.strip().lower() for p in text.replace(",", "/").split("/")]
    found = {name for p in parts if (name := FINDING_OF.get(p)) is not None}
    # A disease beside "No Finding" is a finding.
    return found - {"No Finding"} or found, all(p in FINDING_OF for p in parts)


def unique_stems(files: Sequence[str]) -> list[str]:
    """Ids of files: the stem, with the ending (``a_png``) where several share it."""
    stems = [Path(f).stem for f in files]
    count = Counter(stems)
    return [
        stem if count[stem] == 1 else Path(file).name.replace(".", "_")
        for stem, file in zip(stems, files, strict=True)
    ]


def _once(frame: pd.DataFrame, bad: BadRows | None) -> pd.Series[bool]:
    """Rows to use: the first of each file; a later one with another patient is wrong."""
    again = frame["path"].duplicated()
    owner = frame.drop_duplicates("path").set_index("path")["patient_id"]
    for path, patient, where in frame.loc[again, ["path", "patient_id", "where"]].itertuples(
        index=False
    ):
        if owner[path] != patient:
            reason = f"file {Path(path).name!r} stands under another patient too: mend one row"
            reject(bad, path, where, reason)
    return ~again


def _find(folder: Path) -> Path | None:
    root = first_with(folder, ("metadata.csv", "images"), ROOTS)
    # General Blockchain's masks come with a copy of this table.
    if root is None or (root / "structure.csv").exists():
        return None
    try:
        with (root / "metadata.csv").open("rb") as file:
            header = file.readline(4096).lower()
    except OSError:
        return None
    return root if b"patientid" in header and b"filename" in header else None


DATASET = DataSet(
    name="ieee8023",
    title="COVID-19 image data collection (ieee8023)",
    stores=("films",),
    find=_find,
    read=read_ieee8023,
    documented={},
    tree="metadata.csv (patientid, finding, view, modality, filename, ...) and images/",
    licence="per image (metadata.csv), many non-commercial",
    cite="Cohen et al., arXiv 2006.11988",
)
