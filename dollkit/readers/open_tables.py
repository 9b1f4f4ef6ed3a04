"""Tables of the open pack: ``images.csv``, ``masks.csv``, ``findings_nih.csv``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dollkit.readers.csvfile import BadRows, CsvTable, read_csv
from dollkit.readers.open_mapping import NIH_FINDINGS, nih_states, present_in_columns
from dollkit.readers.table import blank_films

VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}
HINT = "give the folder of the open pack, or fetch the file again"
NEEDED = ("image_id", "file", "source", "patient_id", "view", "sex", "age", "width", "height")


def films_of(root: Path, images: CsvTable) -> pd.DataFrame:
    """Films table, without findings and split, of rows of ``images.csv``."""
    files = images.files("file", root)
    rows = images.frame
    films = blank_films(len(rows))
    for column in ("image_id", "patient_id", "sex", "source"):
        films[column] = rows[column]
    films["study_id"] = films["image_id"]
    films["view"] = images.column("view").map(VIEWS).fillna("")
    films["age"] = images.numbers("age")
    for column in ("width", "height"):
        films[column] = images.numbers(column, blank=False).astype(int)
    films["path"] = [str(file) for file in files]
    films["where"] = images.where()
    return films


def read_images(root: Path, bad: BadRows | None = None) -> tuple[CsvTable, dict[str, str]]:
    """Sound rows of ``images.csv``, and the patient of every film, of wrong rows too."""
    images = read_csv(root / "images.csv", NEEDED, bad, hint=HINT)
    patient_of = dict(zip(images.frame["image_id"], images.frame["patient_id"], strict=True))
    images.require(~images.frame["image_id"].duplicated(), "image_id", "each film once")
    images.require(images.column("sex").isin(["M", "F", ""]), "sex", "M, F or blank")
    images.numbers("age")
    for side in ("width", "height"):
        size = images.numbers(side, blank=False)
        images.require((size > 0) & (size % 1 == 0), side, "a number of pixels")
    images.files("file", root)
    return images, patient_of


def read_masks(root: Path, bad: BadRows | None = None) -> CsvTable:
    """Sound rows of ``masks.csv``."""
    masks = read_csv(root / "masks.csv", ("image_id", "kind", "file"), bad, hint=HINT)
    twice = masks.frame[["image_id", "kind"]].duplicated()
    masks.require(~twice, "image_id", "one mask of each kind per film")
    masks.files("file", root)
    return masks


def read_states(root: Path, bad: BadRows | None = None) -> pd.DataFrame:
    """CheXpert label states by image id."""
    needed = ("image_id", *NIH_FINDINGS)
    findings = read_csv(root / "findings_nih.csv", needed, bad, hint=HINT)
    findings.require(~findings.frame["image_id"].duplicated(), "image_id", "each film once")
    states = nih_states(present_in_columns(findings))
    return states.set_axis(findings.frame["image_id"])


def only(table: CsvTable, kept: pd.Series[bool]) -> CsvTable:
    """Some rows of a table, in a table of their own."""
    return CsvTable(table.path, table.frame[kept].reset_index(drop=True), table.bad)


def left_out(root: Path, used: Iterable[str]) -> tuple[Path, ...]:
    """Images and masks that the pack lists and one table does not use."""
    bad = BadRows()  # told already
    listed = [
        *read_images(root, bad)[0].files("file", root),
        *read_masks(root, bad).files("file", root),
    ]
    known = set(used)
    return tuple(file for file in listed if str(file) not in known)
