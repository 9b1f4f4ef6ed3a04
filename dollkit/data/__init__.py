"""Readers: each data set's original layout -> one table -> packed stores."""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dollkit.common.errors import InputError
from dollkit.data.dataset import STORES, DataSet
from dollkit.data.datasets import DATASETS, PHANTOM, assign, check_stores, found, named, place
from dollkit.data.film_table import FilmTable, check_files, require_positives
from dollkit.data.phantom.protocol import Protocol
from dollkit.data.phantom.render import check_size
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.data.splits import keep_apart
from dollkit.data.store_builder import build_store
from dollkit.data.store_writer import unwritable

__all__ = ["SOURCES", "FilmTable", "PhantomPlan", "build", "read", "require_positives"]

log = logging.getLogger(__name__)

SOURCES = (PHANTOM, "auto", *DATASETS)
"""What ``source`` may be; names of data sets may be joined by ``+``."""


def read(
    source: str,
    data_dir: Path | str,
    valid_fraction: float = 0.1,
    *,
    skip_bad: bool = False,
    options: Mapping[str, str] | None = None,
    stores: Mapping[str, str] | None = None,
) -> dict[str, FilmTable]:
    """Tables of the data sets in a folder, by the name of the store that they become.

    Patients that judge a task are kept out of training on findings, see `apart.keep_apart`.

    Args:
        source: ``auto`` (every data set that lies in the folder or one below), or names of data
            sets joined by ``+``.
        data_dir: the folder.
        valid_fraction: share of the training patients that validate, for sets without a
            validation split of their own (chexpert, nih).
        skip_bad: note wrong rows in the table's ``bad`` instead of stopping at the first.
        options: ``<data set>.<option>`` -> value, see ``python -m dollkit.data list``.
        stores: store -> data set, where several could give it; a store whose name goes with
            ``phantom`` is read from none, and has no table here.
    """
    check_stores(stores)
    root = Path(data_dir)
    if not str(data_dir) or not root.is_dir():
        raise InputError(
            f"parameter 'data_dir' is {str(data_dir)!r}: no such folder; give the folder of the "
            f"{source} data (DATA=...)"
        )
    places = _places(source, root)
    chosen_options = _options(options or {}, places)
    tables: dict[str, dict[str, FilmTable]] = {}
    out: dict[str, FilmTable] = {}
    empty: set[tuple[str, str]] = set()
    while True:
        # A set may have a store in principle and not in this copy: the next one is asked then.
        # A set that somebody names is wanted for all that it has.
        chosen = assign(places, stores, empty, others=source != "auto")
        free = {s: n for s, n in chosen.items() if s not in out}
        if not free:
            break
        for store, name in free.items():
            if name not in tables:
                extra = _extra(DATASETS[name], valid_fraction)
                log.info("reading %s in %s", DATASETS[name].title, places[name])
                tables[name] = DATASETS[name].tables(
                    places[name], chosen_options.get(name), skip_bad, **extra
                )
            if store in tables[name]:
                out[store] = tables[name][store]
            else:
                empty.add((store, name))
    if not out and PHANTOM in (stores or {}).values():
        raise InputError(
            f"parameter 'stores' leaves {source} nothing to give but the phantom's: say "
            "'source': phantom, or give it fewer stores"
        )
    if not out:
        raise InputError(f"{root}: {source} gives no films; data/README.md shows the trees")
    return keep_apart({store: out[store] for store in STORES if store in out})


def build(
    source: str,
    data_dir: Path | str,
    out: Path | str,
    size: int,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    seed: int = 0,
    valid_fraction: float = 0.1,
    options: Mapping[str, str] | None = None,
    stores: Mapping[str, str] | None = None,
    fill_from: str = "",
    phantom: Mapping[str, Any] | None = None,
    alone: bool = False,
) -> dict[str, Path]:
    """Build the stores of a run.

    Args:
        source: ``phantom`` (films, lungs, infection, organs), ``auto``, or data sets as in `read`.
        data_dir: folder of the data sets; not used by the phantom.
        out: folder that gets one store per name.
        size: side of the films in pixels, a multiple of 8.
        skip_bad: leave bad rows and films out and list them in ``skipped.csv`` in the store.
        workers: decoding or rendering workers; None: one per core.
        seed: of the phantom.
        valid_fraction, options: as in `read`.
        stores: as in `read`; ``phantom`` for one of them renders it, and no data set's films of
            it are looked for or decoded.
        fill_from: ``phantom``: stores that the data sets do not give come from there; "": none.
        phantom: fields of `PhantomPlan` that differ from its defaults.
        alone: `out` is to hold these stores and no other: one of an earlier call, whose data set
            has gone since, is removed, so that nothing goes on learning from it.

    Returns:
        path of each store by name.
    """
    if size < 8 or size % 8:
        raise InputError(f"parameter 'size' is {size}: use a positive multiple of 8")
    if fill_from not in ("", PHANTOM):
        raise InputError(f"parameter 'fill_from' is {fill_from!r}: use phantom, or leave it empty")
    plan = _plan(phantom or {})
    check_stores(stores, source)
    tables: dict[str, FilmTable] = {}
    if source != PHANTOM:
        tables = read(
            source, data_dir, valid_fraction, skip_bad=skip_bad, options=options, stores=stores
        )
        if not skip_bad:
            for table in tables.values():
                check_files(table)
    asked = {store for store, name in (stores or {}).items() if name == PHANTOM}
    if PHANTOM in (source, fill_from):
        asked = {store for store in STORES if store not in tables}
    if asked:
        check_size(size)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    for name in STORES if alone else ():
        if name not in tables and name not in asked and (out / name).is_dir():
            shutil.rmtree(out / name)
            log.info("%s: removed, no data set gives it now", out / name)
    built: dict[str, Path] = {}
    for name in STORES:
        if name in tables:
            built[name] = build_store(tables[name], out / name, size, skip_bad, workers)
        elif name in asked:
            built[name] = build_phantom(out / name, name, size, plan, seed, workers)
    return built


def _places(source: str, root: Path) -> dict[str, Path]:
    """Data sets to read and where each lies."""
    if source == "auto":
        places = found(root)
        if not places:
            raise InputError(f"{root}: no known data set here; data/README.md shows the trees")
        return places
    places = {}
    for name in source.split("+"):
        data_set = named(name)
        places[name] = place(root, name) or data_set.locate(root)
    return places


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


def _extra(data_set: DataSet, valid_fraction: float) -> dict[str, float]:
    takes = "valid_fraction" in inspect.signature(data_set.read).parameters
    return {"valid_fraction": valid_fraction} if takes else {}


def _plan(values: Mapping[str, Any]) -> PhantomPlan:
    known = PhantomPlan.__dataclass_fields__
    for name in values:
        if name not in known:
            raise InputError(f"parameter 'phantom' has no {name!r}: use {', '.join(known)}")
    plan = PhantomPlan(**values)
    Protocol.from_json(dict(plan.protocol))  # a wrong knob is told before films are decoded
    return plan
