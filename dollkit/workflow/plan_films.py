"""Which films a run will have, counted from tables: no picture is decoded, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit import data
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.common.machine import Json
from dollkit.data.check import Report, survey
from dollkit.data.dataset import STORES
from dollkit.data.datasets import DATASETS, PHANTOM, check_stores, found
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.films import SPLITS, states_of
from dollkit.data.sets.phantom import CLASSES, PhantomPlan, phantom_films

PLAN = ("n_films", "valid_fraction", "test_fraction", "n_train_pool", "n_valid", "n_test")
TOLD = 5
"""Faults of a data set that are told in words; the others are counted."""


@dataclass(frozen=True)
class Films:
    """One store to be.

    Attributes:
        source: data set, or ``phantom``.
        films: table with patient_id, split, fold and the 14 findings.
        classes: mask classes.
        known: (films, classes) bool: whether the film has this mask.
        ignores: whether the store will have a plane of ignored pixels.
    """

    source: str
    films: pd.DataFrame
    classes: tuple[str, ...]
    known: npt.NDArray[np.bool_]
    ignores: bool = False

    @property
    def masked(self) -> pd.DataFrame:
        """Films with all their masks: those that a task can use, see `finetuning.load_films`."""
        keep = self.known.all(1) if len(self.classes) else np.zeros(len(self.films), bool)
        return self.films.iloc[np.flatnonzero(keep)].reset_index(drop=True)

    @property
    def tested(self) -> int:
        """Films that one fold of a task tests; without folds, those of split ``test``."""
        masked = self.masked
        folds = masked["fold"].nunique()
        return len(masked) // folds if folds > 1 else int((masked["split"] == "test").sum())

    @property
    def states(self) -> npt.NDArray[np.int8]:
        return states_of(self.films)

    def count(self, split: str) -> int:
        return int((self.films["split"] == split).sum())

    def labelled(self, n_train: int, n_valid: int) -> tuple[int, int]:
        """Films and positive findings that `labelling.rows_to_label` would take."""
        positive = (self.states == POSITIVE).sum(1)
        split = self.films["split"].to_numpy()
        rows = [np.flatnonzero((positive > 0) & (split == s)) for s in SPLITS[:2]]
        chosen = np.concatenate([rows[0][:n_train], rows[1][:n_valid]])
        return len(chosen), int(positive[chosen].sum())

    def judged(self, split: str, limit: int) -> tuple[int, int, bool]:
        """Films and findings that labels are judged on, and whether there are masks to judge by."""
        inside = (self.films["split"] == split).to_numpy()
        names = [f for f in PATHOLOGIES if f in self.classes]
        truth = bool(names)
        names = names or list(PATHOLOGIES)
        usable = self.states[:, [FINDINGS.index(f) for f in names]] == POSITIVE
        if truth:
            usable &= self.known[:, [self.classes.index(f) for f in names]]
        rows = np.flatnonzero(inside & usable.any(1))[:limit]
        return len(rows), int(usable[rows].sum()), truth


def stores_of(given: Mapping[str, Any]) -> tuple[dict[str, Films], dict[str, FilmTable]]:
    """Stores that a run with these parameters of notebook 01 will have.

    Args:
        given: its parameters.

    Returns:
        Stores by name, and the tables of those that come from data sets.
    """
    source, wanted = given["source"], given["stores"]
    check_stores(wanted, source)
    if given["fill_from"] not in ("", PHANTOM):
        raise InputError(f"parameter 'fill_from' is {given['fill_from']!r}: use phantom, or \"\"")
    tables: dict[str, FilmTable] = {}
    if source != PHANTOM:
        tables = data.read(
            source, given["data_dir"], given["valid_fraction"], skip_bad=given["skip_bad"],
            options=given["options"], stores=wanted,
        )  # fmt: skip
        if not given["skip_bad"]:
            for table in tables.values():
                check_files(table)
    rendered = {store for store, name in wanted.items() if name == PHANTOM}
    if PHANTOM in (source, given["fill_from"]):
        rendered = {store for store in STORES if store not in tables}
    plan = PhantomPlan(**{k: given[k] for k in PLAN}, protocol=given["protocol"])
    out = {}
    for store in STORES:
        if store in tables:
            out[store] = _of_table(tables[store])
        elif store in rendered:
            films, _ = phantom_films(store, plan, given["seed"])
            known = np.ones((len(films), len(CLASSES[store])), bool)
            out[store] = Films(PHANTOM, films, CLASSES[store], known)
    return out, tables


def _of_table(table: FilmTable) -> Films:
    known = {str(name): table.masks[name].notna().to_numpy(bool) for name in table.masks}
    for finding in table.mask_classes[len(known) :]:
        boxed = table.boxes.loc[table.boxes["finding"] == finding, "image_id"]
        known[finding] = table.films["image_id"].isin(boxed).to_numpy(bool)
    planes = np.column_stack(list(known.values())) if known else np.zeros((len(table), 0), bool)
    return Films(table.source, table.films, table.mask_classes, planes, table.ignoring())


def sets(given: Mapping[str, Any], tables: Mapping[str, FilmTable]) -> list[Json]:
    """The data sets of the folder: what each gives, and whether it is whole.

    Args:
        given: parameters of notebook 01.
        tables: from `stores_of`.

    Returns:
        Per data set: name, title, folder, gives (stores; none: not used by this run), whole
        (null if not used, so not looked into), off (first faults), files_off (files and rows that
        are missing, surplus or wrong) and counts_off (counts unlike the documented ones).
    """
    if given["source"] == PHANTOM:
        return []
    root = Path(given["data_dir"])
    places = found(root) if given["source"] == "auto" else {}
    for table in tables.values():
        places.setdefault(_set_of(table), table.root)
    out: list[Json] = []
    for name, place in places.items():
        gives = [store for store, table in tables.items() if _set_of(table) == name]
        report = _report(name, place, given) if gives else None
        faults, counts = ([], []) if report is None else _faults(report)
        out.append(
            {
                "name": name,
                "title": DATASETS[name].title,
                "folder": str(place),
                "gives": list(gives),
                "whole": None if report is None else report.sound,
                "off": [*(faults + counts)[:TOLD]],
                "files_off": len(faults),
                "counts_off": len(counts),
            }
        )
    return out


def _set_of(table: FilmTable) -> str:
    """Data set of a table, some of which say which of its tasks they are (``open-lungs``)."""
    return table.source if table.source in DATASETS else table.source.partition("-")[0]


def _report(name: str, place: Path, given: Mapping[str, Any]) -> Report:
    own = {k.split(".", 1)[1]: v for k, v in given["options"].items() if k.startswith(f"{name}.")}
    return survey(DATASETS[name], place, options=own)


def _faults(report: Report) -> tuple[list[str], list[str]]:
    counted = report.problems["kind"] == "count"
    files = [f"{r.reason} ({r.kind}: {r.file})" for r in report.problems[~counted].itertuples()]
    return files, [str(r) for r in report.problems.loc[counted, "reason"]]


def films_account(stores: Mapping[str, Films]) -> list[Json]:
    """What stores will hold, as JSON: source, films, patients, splits, folds, masks, positives."""
    out: list[Json] = []
    for name, store in stores.items():
        masked, states = store.masked, store.states
        split = store.films["split"].to_numpy()
        row: dict[str, Json] = {
            "name": name,
            "from": store.source,
            "films": len(store.films),
            "patients": int(store.films["patient_id"].nunique()),
            "splits": {s: int((split == s).sum()) for s in SPLITS},
            "folds": int(masked["fold"].nunique()) if name != "films" else 0,
            "classes": list(store.classes),
            "masks": {
                c: {s: int(store.known[split == s, i].sum()) for s in SPLITS}
                for i, c in enumerate(store.classes)
            },
            "with_all_masks": {s: int((masked["split"] == s).sum()) for s in SPLITS},
        }
        if name == "films":
            row["positives"] = {
                f: {s: int((states[split == s, i] == POSITIVE).sum()) for s in SPLITS}
                for i, f in enumerate(FINDINGS)
            }
        out.append(row)
    return out
