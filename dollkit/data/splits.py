"""Splits by patient: drawn once, committed as CSV, read and checked from then on."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import read_csv
from dollkit.data.film_table import SPLITS, FilmTable

log = logging.getLogger(__name__)


def draw_parts(
    patients: Sequence[str], traits: npt.ArrayLike, shares: Sequence[float]
) -> npt.NDArray[np.int64]:
    """Divide patients into parts that resemble each other; greedy and without random state.

    Patients with most films come first (ties by the sha256 of the id). Each goes to the part
    where it most reduces the squared distance of the trait counts from what the shares ask for,
    each trait weighted by the inverse of its total, so that rare traits are spread as well.

    `traits` (n, T) are 0/1; the number of films always counts too. Part p gets about ``shares[p] /
    sum(shares)`` of all. Returns the part (n,) of each film; all films of a patient are in one.
    """
    table = np.asarray(traits, np.float64).reshape(len(patients), -1)
    table = np.column_stack([np.ones(len(patients)), table])
    table = table[:, table.sum(axis=0) > 0] / table.sum(axis=0)[table.sum(axis=0) > 0]
    inverse, unique = pd.factorize(np.asarray(patients, dtype=object), sort=True)
    names = [str(name) for name in unique]
    counts = np.zeros((len(names), table.shape[1]))
    np.add.at(counts, inverse, table)
    want = np.asarray(shares, np.float64) / np.sum(shares)
    order = sorted(range(len(names)), key=lambda i: (-counts[i].sum(), share(names[i])))
    have = np.zeros((len(want), table.shape[1]))
    part = np.zeros(len(names), np.int64)
    for i in order:
        # Relative to what the part should hold: a full part gains little from one more.
        gap = (want[:, None] - have) / want[:, None]
        after = (want[:, None] - have - counts[i]) / want[:, None]
        gain = ((gap**2 - after**2) * want[:, None]).sum(axis=1)
        part[i] = int(np.argmax(gain))
        have[part[i]] += counts[i]
    return part[inverse]


PATIENT_ID = ("merge", "keep")
"""What becomes of ids that differ in writing alone: they are one patient, or as many as ids."""


def unify_patients(
    ids: pd.Series[str], decision: str = PATIENT_ID[0]
) -> tuple[pd.Series[str], str]:
    """Ids of patients by film, and what to tell of those that differ in writing alone.

    Spreadsheets write 0012 as ``12`` or ``12.0``: some films would train what the others judge.
    """
    if decision not in PATIENT_ID:
        raise InputError(f"parameter 'patient_id' is {decision!r}: use {' or '.join(PATIENT_ID)}")
    first = ids.groupby(ids.map(_plain_id)).transform("first")
    others = dict(zip(ids[ids != first], first[ids != first], strict=True))
    if not others:
        return ids, ""
    shown = ", ".join(f"{one!r} and {other!r}" for other, one in list(others.items())[:2])
    merged = "count as one patient" if decision == "merge" else "are kept apart"
    note = (
        f"{len(others)} ids of patients differ from another one only in leading zeros, blanks, "
        f"case or '.0' ({shown}): they {merged}; parameter 'patient_id' decides, merge or keep"
    )
    return (first if decision == "merge" else ids), note


def _plain_id(patient: str) -> str:
    plain = unicodedata.normalize("NFKC", patient).casefold().strip()
    plain = re.sub(r"(?<=\d)\s+(?=\d)", "-", plain)  # two numbers stay two
    # No blanks, marks that nobody sees, or signs that make a spreadsheet take a number for a text.
    seen = (c for c in plain if unicodedata.category(c) not in ("Cc", "Cf", "Zs"))
    plain = "".join(str(unicodedata.digit(c, c)) for c in seen).strip("'\"=+")
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(?<=\d)[.,]0+$", "", plain))


def share(patient_id: str) -> float:
    """A patient's place in [0, 1), from the sha256 of its id alone: the same everywhere."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8]) / 2.0**64


def read_split(
    path: Path, patient_of: Mapping[str, str], column: str, *, subset: bool = False
) -> pd.Series[str]:
    """Split or fold (str) by image_id, checked against the data set at hand.

    `patient_of` has the patient of each film that the file, with the columns image_id, patient_id
    and `column`, must cover. With `subset`, further films of the file are left out, and no error.
    """
    hint = "restore the file from the repository"
    table = read_csv(path, ("image_id", "patient_id", column), hint=hint).frame
    for image_id in table["image_id"][table["image_id"].duplicated()]:
        raise InputError(f"{path}: image_id {image_id!r} stands there twice")
    if subset:
        table = table[table["image_id"].isin(list(patient_of))]
    for image_id, patient in zip(table["image_id"], table["patient_id"], strict=True):
        if image_id not in patient_of:
            raise InputError(f"{path}: film {image_id!r} is not in the data set: {hint}")
        if patient_of[image_id] != patient:
            raise InputError(
                f"{path}: film {image_id!r} is of patient {patient!r} there, of "
                f"{patient_of[image_id]!r} in the data set: {hint}"
            )
    for image_id in sorted(set(patient_of) - set(table["image_id"])):
        raise InputError(f"{path}: film {image_id!r} of the data set is missing: {hint}")
    return table.set_index("image_id")[column]


TRAIN, VALID = 0.7, 0.1
"""Shares where many patients are drawn one by one; the rest are the test split."""


def split_by_share(patients: Iterable[str]) -> list[str]:
    """Split of each film from the sha256 of its patient's id alone: the same in any copy."""
    names = list(patients)
    drawn = {name: share(name) for name in set(names)}
    return [SPLITS[(drawn[n] >= TRAIN) + (drawn[n] >= TRAIN + VALID)] for n in names]


def draw_task_split(
    patients: Sequence[str], traits: npt.ArrayLike, shares: Sequence[float] = (0.6, 0.15, 0.25)
) -> list[str]:
    """Split of a few films with masks: none of train, valid, test empty if patients suffice.

    All films of a patient are in one. The draw has no random state, but it depends on which films
    there are; `patients`, `traits` (which masks each film has) and `shares` as for `draw_parts`.
    """
    part = draw_parts(patients, traits, shares)
    names = np.asarray(patients, dtype=object)
    if len(set(patients)) >= len(shares):
        for empty in sorted(set(range(len(shares))) - set(part.tolist())):
            sizes = [len(set(names[part == p])) for p in range(len(shares))]
            largest = set(names[part == int(np.argmax(sizes))])
            # The patient with fewest films: it changes the shares least.
            moved = min(largest, key=lambda p: ((names == p).sum(), share(str(p))))
            part[names == moved] = empty
    return [SPLITS[p] for p in part]


def keep_apart(tables: Mapping[str, FilmTable]) -> dict[str, FilmTable]:
    """Tables by store, where films of patients whom a task holds out are ``test`` in ``films``.

    Each store draws its splits by itself. Where two of them show the same patients, a film that
    judges fine-tuning may else have taught the classifiers: the arms that start from them would
    have seen it, a random start would not. Held out are validation and test films of a task; of a
    task with folds all. Where no film has a finding, there is no store ``films``.
    """
    held: dict[str, str] = {}
    for store, table in tables.items():
        films = table.films
        if store != "films" and len(films):
            judged = films if films["fold"].nunique() > 1 else films[films["split"] != "train"]
            held |= dict.fromkeys(judged["patient_id"], store)
    if "films" not in tables:
        return dict(tables)
    table = tables["films"]
    films = table.films
    if len(tables) > 1 and films[list(FINDINGS)].isna().all(axis=None):
        log.warning("%s: no film has a finding, masks of tasks alone are read", table.root)
        return {store: other for store, other in tables.items() if store != "films"}
    moved = films["patient_id"].isin(list(held)) & (films["split"] != "test")
    if not moved.any():
        return dict(tables)
    split = films["split"].mask(moved, "test")
    stores = ", ".join(sorted({held[p] for p in films.loc[moved, "patient_id"]}))
    for part in ("train", "valid"):
        if not (split == part).any():
            raise InputError(
                f"{table.root}: every {part} film with findings shows a patient whose masks judge "
                f"{stores}: give films of other patients, or take {stores} from another set by "
                "parameter 'stores'"
            )
    log.info(
        "%d of %d films to train and validate on are set aside: their patients judge %s",
        int(moved.sum()), int((films["split"] != "test").sum()), stores,
    )  # fmt: skip
    return {**tables, "films": replace(table, films=films.assign(split=split))}
