"""ieee8023/covid-chestxray-dataset: films of COVID-19 and other pneumonias from publications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, CsvTable, read_csv, reject
from dollkit.data.dataset import first_with
from dollkit.data.film_table import FilmTable
from dollkit.data.sets import common_steps as steps
from dollkit.data.splits import split_by_share

ROOTS = ("covid-chestxray-dataset", "covid-chestxray-dataset-master")
NEEDED = ("patientid", "finding", "view", "modality", "filename")

FRONTAL = {"pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "ap semi erect": "AP"}
"""Views that are read (lower case), and what they count as."""

_PNEUMONIAS = (
    "pneumonia/viral/viral pneumonia/covid-19/sars/mers/mers-cov/influenza/h1n1/"
    "swine-origin influenza a (h1n1) viral pneumonia/herpes/herpes pneumonia/varicella/"
    "bacterial/bacterial pneumonia/streptococcus/staphylococcus/mrsa/klebsiella/legionella/"
    "mycoplasma/mycoplasma bacterial pneumonia/chlamydophila/e.coli/nocardia/"
    "fungal/fungal pneumonia/pneumocystis/aspergillosis/aspiration/aspiration pneumonia/lipoid"
)
FINDING_OF: dict[str, str | None] = {
    **dict.fromkeys(_PNEUMONIAS.split("/"), "Pneumonia"),
    "no finding": "No Finding",
    **dict.fromkeys(("ards", "tuberculosis", "todo", "unknown", "")),
}
"""Our mapping of the diagnoses (lower case, each level of "A/B/C" by itself) to CheXpert's names.

Diagnoses come from the publications, not from the films, so a positive says what the patient had.
None: known, and none of CheXpert's observations.
"""

SAME_PATIENT = {"97": "178"}
"""Patient ids under which the same films stand as under another id."""


def read_ieee8023(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """``films``: the frontal radiographs of ``metadata.csv``; diagnoses mapped by `FINDING_OF`.

    ``image_id`` is the file's stem (with its ending where two files share one), ``patient_id``
    is ``ieee_<patientid>``. No split was released: patients are drawn by the hash of their id.
    """
    bad = BadRows()
    notes = bad if skip_bad else None
    table = read_metadata(root / "metadata.csv", notes)
    facts = {"rows": len(table)}
    paths = table.files("filename", root / "images")
    frame = people(table)
    frame["path"], frame["where"] = [str(p) for p in paths], table.where()
    known = table.frame.columns
    frame["licence"] = table.column("license") if "license" in known else ""
    frame["finding"] = table.column("finding")
    volume = table.column("folder") == "volumes" if "folder" in known else False
    once = _once(frame, notes)
    chosen = frame[once & frame["frontal"]].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"{table.path}: no frontal film is listed: fetch the data set again")
    left = frame[~frame["frontal"] & ~volume & ~frame["path"].isin(set(chosen["path"]))]
    named = [named_findings(text) for text in chosen["finding"]]
    films = steps.films_of(
        "ieee8023",
        unique_stems(chosen["file"].tolist()),
        chosen["path"],
        chosen["where"],
        split=split_by_share(chosen["patient_id"]),
        **{column: chosen[column] for column in ("patient_id", "sex", "age", "view")},
    )
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
    others = map(Path, dict.fromkeys(left["path"]))
    return {"films": steps.make_table("ieee8023", films, root, others=others, facts=facts, bad=bad)}


def read_metadata(path: Path, bad: BadRows | None = None) -> CsvTable:
    """Rows of a ``metadata.csv`` in this data set's form; each has a patient."""
    table = read_csv(path, NEEDED, bad, hint="fetch covid-chestxray-dataset's metadata.csv")
    table.require(table.column("patientid") != "", "patientid", "the patient's id")
    return table


def people(table: CsvTable) -> pd.DataFrame:
    """Whose film each row is: file, patient_id, sex, age, view ("" unless frontal), frontal."""
    known = table.frame.columns
    view = table.column("view").str.lower().map(FRONTAL)
    film = table.column("modality").str.lower() == "x-ray"
    columns = {
        "file": table.column("filename"),
        "patient_id": "ieee_" + table.column("patientid").replace(SAME_PATIENT),
        "sex": sexes(table.column("sex")) if "sex" in known else "",
        "age": pd.to_numeric(table.column("age"), errors="coerce") if "age" in known else np.nan,
        "view": view.fillna("").where(film, ""),
        "frontal": view.notna() & film,
    }
    return pd.DataFrame(columns).astype({"age": "float64"})


def sexes(texts: Iterable[str]) -> list[str]:
    """M and F; whatever else stands there is unknown."""
    return [text.upper() if text.upper() in ("M", "F") else "" for text in texts]


def named_findings(text: str) -> tuple[set[str], bool]:
    """CheXpert's names for a diagnosis, and whether `FINDING_OF` lists every part of it."""
    parts = [p.strip().lower() for p in text.replace(",", "/").split("/")]
    found = {name for p in parts if (name := FINDING_OF.get(p)) is not None}
    # A disease beside "No Finding" is a finding.
    return found - {"No Finding"} or found, all(p in FINDING_OF for p in parts)


def unique_stems(files: Sequence[str]) -> list[str]:
    """Ids of files: the stem, with the ending (``a_png``) where several share it."""
    count = Counter(Path(f).stem for f in files)
    names = [Path(f) for f in files]
    return [p.stem if count[p.stem] == 1 else p.name.replace(".", "_") for p in names]


def _once(frame: pd.DataFrame, bad: BadRows | None) -> pd.Series[bool]:
    """Rows to use: the first of each file; a later one with another patient is wrong."""
    again = frame["path"].duplicated()
    owner = frame.drop_duplicates("path").set_index("path")["patient_id"]
    later = frame.loc[again, ["path", "patient_id", "where"]]
    for path, patient, where in later.itertuples(index=False):
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


DATASET = steps.data_set("ieee8023", ("films",), _find, read_ieee8023)
