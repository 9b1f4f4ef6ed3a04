"""The films table: one row per radiograph, in the same columns for every data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN

COLUMNS: tuple[str, ...] = (
    "image_id",
    "patient_id",
    "study_id",
    "view",
    "sex",
    "age",
    "split",
    "fold",
    "source",
    "width",
    "height",
    *FINDINGS,
)
"""Columns of ``films.csv``, in this order."""

SPLITS: tuple[str, ...] = ("train", "valid", "test")


def states_of(films: pd.DataFrame) -> npt.NDArray[np.int8]:
    """Label states (n, 14) int8 of a films table; blank becomes ``NOT_MENTIONED`` (-2)."""
    values = films[list(FINDINGS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    blank = films[list(FINDINGS)].isna().to_numpy()
    states = np.where(blank, float(NOT_MENTIONED), values)
    bad = ~(blank | np.isin(states, (POSITIVE, NEGATIVE, UNCERTAIN)))
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        raise InputError(
            f"films table, row {row}, column {FINDINGS[column]!r}: label value "
            f"{films.iloc[row][FINDINGS[column]]!r}: use 1, 0, -1 or blank"
        )
    return states.astype(np.int8)


def check_films(films: pd.DataFrame, name: str = "films table") -> None:
    """Check a films table: columns, unique ids, known splits, no patient in two splits or folds."""
    missing = [c for c in COLUMNS if c not in films.columns]
    if missing:
        raise InputError(f"{name}: column {missing[0]!r} is missing; needed: {', '.join(COLUMNS)}")
    twice = films["image_id"].duplicated()
    if twice.any():
        raise InputError(
            f"{name}: image_id {films['image_id'][twice].iloc[0]!r} stands there twice"
        )
    odd = ~films["split"].isin(SPLITS)
    if odd.any():
        raise InputError(
            f"{name}: split {films['split'][odd].iloc[0]!r}: use one of {', '.join(SPLITS)}"
        )
    for column in ("split", "fold"):
        check_patients(films, column, name)
    states_of(films)


def check_patients(films: pd.DataFrame, column: str = "split", name: str = "films table") -> None:
    """Raise `InputError`, naming the patient, if one stands under two values of `column`."""
    pairs = films[["patient_id", column]].drop_duplicates()
    twice = pairs["patient_id"].duplicated()
    if twice.any():
        patient = pairs["patient_id"][twice].iloc[0]
        found = sorted(str(v) for v in pairs[column][pairs["patient_id"] == patient])
        raise InputError(
            f"{name}: patient {patient!r} stands in two {column}s ({' and '.join(found)}): "
            f"give all films of a patient the same {column}"
        )


def read_films(path: Path) -> pd.DataFrame:
    """Read a ``films.csv``: text columns as str with "" for unknown, findings and age as float."""
    text = ["image_id", "patient_id", "study_id", "view", "sex", "split", "source"]
    films = pd.read_csv(
        path,
        dtype=dict.fromkeys(text, str),
        na_values={name: [""] for name in COLUMNS if name not in text},
        keep_default_na=False,
    )
    missing = [c for c in COLUMNS if c not in films.columns]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing: build the store again")
    for name in ("age", *FINDINGS):
        films[name] = films[name].astype("float64")
    return films
