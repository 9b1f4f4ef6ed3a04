"""Rows of a CSV file with CheXpert's header: ``train.csv``, ``valid.csv``, CheXlocalize's two."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dollkit.findings import FINDINGS
from dollkit.readers.csvfile import BadRows, CsvTable, clean, is_inside, read_csv, reject
from dollkit.readers.table import blank_films

HEADER: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
POSITIONS = ("AP", "PA", "LL", "RL")
SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
_PATH = re.compile(
    r"(?P<lead>(?:.*/)?)(?P<patient>[a-z]+\d+)/(?P<study>study\d+)/"
    r"(?P<file>(?P<view>view\d+_(?P<side>frontal|lateral))\.\w+)"
)
_PARTS = list(_PATH.groupindex)
HINT = "use the CSV file as CheXpert released it"


@dataclass(frozen=True)
class Rows:
    """All rows of one CSV file: films table with path, where, and what only counting needs."""

    path: Path
    films: pd.DataFrame
    frontal: pd.Series[bool]
    position: pd.Series[str]

    def laterals(self) -> list[Path]:
        """Files of the films that are left out."""
        return [Path(p) for p in self.films["path"][~self.frontal]]


def read_rows(
    path: Path, folder: Path, part: str = "", bad: BadRows | None = None, plain: bool = False
) -> Rows:
    """Rows of a CSV file with CheXpert's header.

    Args:
        path: of the CSV file.
        folder: that holds the patients' folders.
        part: what must stand before the patient in ``Path``; "": anything.
        bad: where wrong rows go; None: the first is an error.
        plain: only ``Path`` and the findings need be there.
    """
    needed = ("Path", *FINDINGS) if plain else HEADER
    table = read_csv(path, needed, bad, hint=HINT)
    for column in HEADER:
        if column not in table.frame:
            table.frame[column] = ""
    _check(table, part, plain)
    frame = table.frame
    films = blank_films(len(frame))
    for finding in FINDINGS:
        films[finding] = frame[finding]
    films["patient_id"] = frame["patient"]
    films["study_id"] = frame["patient"] + "_" + frame["study"]
    films["image_id"] = films["study_id"] + "_" + frame["view"]
    position = frame["AP/PA"]
    films["view"] = position.where(position.isin(["AP", "PA"]), "")
    films["sex"] = frame["Sex"].map(SEXES)
    films["age"] = frame["Age"]
    films["source"] = "chexpert"
    inner = frame["patient"] + "/" + frame["study"] + "/" + frame["file"]
    films["path"] = f"{folder}/" + inner
    films["where"] = table.where()
    kind = frame["Frontal/Lateral"]
    frontal = kind.eq("Frontal") | (kind.eq("") & frame["side"].eq("frontal"))
    return Rows(path, films, frontal.astype(bool), position)


def _check(table: CsvTable, part: str, plain: bool) -> None:
    """Drop or refuse wrong rows; states and ages become numbers, the parts of ``Path`` columns."""
    for column in ("Path", "Sex", "Frontal/Lateral", "AP/PA"):
        table.frame[column] = table.column(column)
    kinds = ["Frontal", "Lateral", *([""] if plain else [])]
    kind = table.frame["Frontal/Lateral"]
    table.require(kind.isin(kinds), "Frontal/Lateral", "Frontal, Lateral")
    position = table.frame["AP/PA"]
    table.require(position.isin([*POSITIONS, ""]), "AP/PA", f"{', '.join(POSITIONS)} or blank")
    sex = table.frame["Sex"]
    table.require(sex.isin(list(SEXES)), "Sex", "Male, Female, Unknown or blank")
    for column in FINDINGS:
        table.frame[column] = table.states(column)
    table.frame["Age"] = table.numbers("Age")
    form = f"a path .../{part or 'valid'}/patientNNNNN/studyN/viewN_frontal.jpg"
    found = [_PATH.fullmatch(path.replace("\\", "/")) for path in table.frame["Path"]]
    parts = [match.groups() if match else ("",) * len(_PARTS) for match in found]
    table.frame[_PARTS] = pd.DataFrame(parts, columns=_PARTS, dtype=str)
    leads = {lead: _leads(lead, part) for lead in table.frame["lead"].unique()}
    good = table.frame["lead"].map(leads).astype(bool) & table.frame["file"].ne("")
    table.require(good, "Path", form)
    twice = table.frame[["patient", "study", "view"]].duplicated()
    table.require(~twice, "Path", "each film once")


def _leads(lead: str, part: str) -> bool:
    """Whether what stands before the patient stays inside the root and ends in `part`."""
    if not lead:
        return not part
    return is_inside(lead) and part in ("", clean(lead).name)


def apart(train: Rows, valid: Rows, bad: BadRows | None) -> Rows:
    """`train` without the rows of patients who stand in `valid` too; an error without `bad`."""
    both = train.films["patient_id"].isin(valid.films["patient_id"])
    for patient, where in train.films.loc[both, ["patient_id", "where"]].itertuples(index=False):
        fault = f"patient {patient!r} stands in {train.path.name} and in {valid.path.name}"
        reject(bad, train.path, str(where), f"{fault}: remove all its rows from one of them")
    kept = ~both
    return replace(
        train,
        films=train.films[kept].reset_index(drop=True),
        frontal=train.frontal[kept].reset_index(drop=True),
        position=train.position[kept].reset_index(drop=True),
    )
