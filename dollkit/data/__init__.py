"""Readers: each data set's original layout -> one table -> packed stores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dollkit.common.errors import InputError
from dollkit.data.film_table import STORES, DataSet, FilmTable, check_files
from dollkit.data.phantom.render import check_size
from dollkit.data.sets.chexpert import CHEXLOCALIZE
from dollkit.data.sets.chexpert import DATASET as CHEXPERT
from dollkit.data.sets.covid_chestxray import DATASET as IEEE8023
from dollkit.data.sets.covid_chestxray import GENERALBLOCKCHAIN
from dollkit.data.sets.covid_qu_ex import DATASET as COVID_QU_EX
from dollkit.data.sets.jsrt import DATASET as JSRT
from dollkit.data.sets.nih import DATASET as NIH
from dollkit.data.sets.nlm import DATASET as NLM
from dollkit.data.sets.nlm import MONTGOMERY, SHENZHEN
from dollkit.data.sets.open_pack import DATASET as OPEN
from dollkit.data.sets.own_folder import DATASET as FOLDER
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.data.sets.v7 import DATASET as V7
from dollkit.data.splits import keep_apart
from dollkit.data.store_builder import build_store

log = logging.getLogger(__name__)

DATASETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        *(CHEXPERT, CHEXLOCALIZE, NIH, JSRT, MONTGOMERY, SHENZHEN, NLM, COVID_QU_EX),
        *(IEEE8023, GENERALBLOCKCHAIN, V7, OPEN, FOLDER),
    )
}
"""Data sets that can be read, by name."""

PHANTOM = "phantom"
"""Stands where a data set's name may, for films that are rendered and lie in no folder."""

PREFERRED: dict[str, tuple[str, ...]] = {
    "films": ("chexpert", "nih", "open", "folder", "ieee8023"),
    "lungs": ("nlm", "montgomery", "shenzhen", "v7", "open", "folder", "covid_qu_ex", "jsrt"),
    "infection": ("covid_qu_ex", "open", "folder", "generalblockchain"),
    "organs": ("jsrt", "open", "folder", "generalblockchain"),
}
"""Which data set gives a store when several in one folder could: the paper's own come first."""


def named(name: str) -> DataSet:
    """A data set by name; `InputError` naming the known ones."""
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def found(folder: Path) -> dict[str, Path]:
    """Data sets in a folder or in one of its sub-folders: name -> where it was found."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; data/README.md shows the expected trees")
    places = {name: root for name, one in DATASETS.items() if (root := one.place(folder))}
    if not places:
        raise InputError(f"{folder}: no known data set here; data/README.md shows the trees")
    return places


def check_stores(wanted: Mapping[str, str] | None, source: str = "") -> None:
    """What parameter ``stores`` says of itself: known stores, no data set beside ``phantom``."""
    for store, name in (wanted or {}).items():
        if store not in STORES:
            raise InputError(f"parameter 'stores' has no {store!r}: use {', '.join(STORES)}")
        if source == PHANTOM and name != PHANTOM:
            raise InputError(
                f"parameter 'stores' wants {store} from {name!r}, but 'source' is phantom: name "
                "the data sets there, and phantom in 'stores' for what it shall give"
            )


def candidates(
    available: Collection[str], wanted: Mapping[str, str] | None = None, others: bool = False
) -> dict[str, list[str]]:
    """Data sets at hand that could give each store, the best first; the phantom's are left out.

    `wanted` names a data set for a store where the order of `PREFERRED` is not what is meant. With
    `others`, sets that `PREFERRED` leaves out for a store come last.
    """
    ranked: dict[str, list[str]] = {}
    for store in STORES:
        name = (wanted or {}).get(store)
        if name is None:
            spare = [other for other in available if others and store in DATASETS[other].stores]
            preferred = dict.fromkeys((*PREFERRED[store], *spare))
            ranked[store] = [other for other in preferred if other in available]
        elif name in available:
            ranked[store] = [name]
        elif name != PHANTOM:
            known = ", ".join(available) or "none"
            raise InputError(
                f"parameter 'stores': no {name!r} for {store} here; found: {known}; or say phantom"
            )
    return ranked


def read(
    source: str, data_dir: Path | str, valid_fraction: float = 0.1, *, skip_bad: bool = False,
    options: Mapping[str, str] | None = None, stores: Mapping[str, str] | None = None,
) -> dict[str, FilmTable]:  # fmt: skip
    """Tables of the data sets in a folder, by the name of the store that they become.

    Patients that judge a task are kept out of training on findings, see `keep_apart`.

    `source` is ``auto`` (every data set that lies in the folder or one below), or names joined by
    ``+``. `valid_fraction` is the share of the training patients that validate, for sets without a
    validation split of their own; `options` maps ``<data set>.<option>`` to values, and `stores` a
    store to its data set where several could give it (``phantom``: no table of it here). With
    `skip_bad` wrong rows are noted in the table's ``bad``.
    """
    check_stores(stores)
    root = Path(data_dir)
    if not str(data_dir) or not root.is_dir():
        raise InputError(
            f"parameter 'data_dir' is {str(data_dir)!r}: no such folder; give the folder of the "
            f"{source} data (DATA=...)"
        )
    if source == "auto":
        places = found(root)
    else:
        sets = [named(name) for name in source.split("+")]
        places = {one.name: one.locate(root) for one in sets}
    chosen_options = _options(options or {}, places)
    tables: dict[str, dict[str, FilmTable]] = {}
    out: dict[str, FilmTable] = {}
    # A set that somebody names is wanted for all that it has.
    for store, names in candidates(places, stores, others=source != "auto").items():
        for name in names:
            if name not in tables:
                log.info("reading %s in %s", DATASETS[name].title, places[name])
                tables[name] = DATASETS[name].tables(
                    places[name], chosen_options.get(name), skip_bad, valid_fraction
                )
            if store in tables[name]:
                out[store] = tables[name][store]
                break
            # It may have the store in principle and not in this copy: the next one is asked.
            if store in (stores or {}):
                raise InputError(f"parameter 'stores': data set {name!r} has no {store}")
    if not out and PHANTOM in (stores or {}).values():
        raise InputError(
            f"parameter 'stores' leaves {source} nothing to give but the phantom's: say "
            "'source': phantom, or give it fewer stores"
        )
    if not out:
        raise InputError(f"{root}: {source} gives no films; data/README.md shows the trees")
    return keep_apart(out)


def build(
    source: str, data_dir: Path | str, out: Path | str, size: int, *, skip_bad: bool = False,
    workers: int | None = None, seed: int = 0, valid_fraction: float = 0.1,
    options: Mapping[str, str] | None = None, stores: Mapping[str, str] | None = None,
    fill_from: str = "", phantom: Mapping[str, Any] | None = None, alone: bool = False,
) -> dict[str, Path]:  # fmt: skip
    """Build the stores of a run: path of each by name, a folder of `out`.

    `source` is ``phantom`` (all four stores; no `data_dir` needed), or as in `read`, like
    `valid_fraction`, `options` and `stores`. Stores that the data sets do not give come from
    `fill_from`: ``phantom``, or "" for none. `phantom` has the fields of `PhantomPlan` that differ
    from its defaults, and `seed` is its. With `skip_bad` bad rows and films are left out and listed
    in ``skipped.csv`` in the store. With `alone` a store of an earlier call, whose data set has
    gone since, is removed, so that nothing goes on learning from it.
    """
    if fill_from not in ("", PHANTOM):
        raise InputError(f"parameter 'fill_from' is {fill_from!r}: use phantom, or leave it empty")
    plan = _plan(phantom or {})
    check_stores(stores, source)
    tables: dict[str, FilmTable] = {}
    if source != PHANTOM:
        tables = read(
            source, data_dir, valid_fraction, skip_bad=skip_bad, options=options, stores=stores
        )
        for table in () if skip_bad else tables.values():
            check_files(table)
    asked = {store for store, name in (stores or {}).items() if name == PHANTOM}
    if PHANTOM in (source, fill_from):
        asked = set(STORES) - set(tables)
    if asked:
        check_size(size)
    built: dict[str, Path] = {}
    for name in STORES:
        path = Path(out, name)
        if name in tables:
            built[name] = build_store(tables[name], path, size, skip_bad, workers)
        elif name in asked:
            built[name] = build_phantom(path, name, size, plan, seed, workers)
        elif alone and path.is_dir():
            shutil.rmtree(path)
            log.info("%s: removed, no data set gives it now", path)
    return built


def _options(given: Mapping[str, str], places: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """``set.option`` -> value as one mapping per data set."""
    out: dict[str, dict[str, str]] = {}
    for key, value in given.items():
        name, _, option = key.partition(".")
        if not option or name not in DATASETS:
            raise InputError(f"parameter 'options' has {key!r}: write <data set>.<option>")
        if name not in places:
            raise InputError(f"parameter 'options' has {key!r}, but {name} is not read here")
        out.setdefault(name, {})[option] = value
    return out


def _plan(values: Mapping[str, Any]) -> PhantomPlan:
    known = PhantomPlan.__dataclass_fields__
    for name in values:
        if name not in known:
            raise InputError(f"parameter 'phantom' has no {name!r}: use {', '.join(known)}")
    return PhantomPlan(**values)
