"""Is a data set on disk what its authors released? Counts, and every file that is off."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.data.dataset import DataSet
from dollkit.data.film_table import FilmTable, Lookup, lost_files
from dollkit.data.images import load_image
from dollkit.data.store_builder import map_ahead

PROBLEMS: tuple[str, ...] = ("kind", "file", "reason")
LITTER: tuple[str, ...] = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""What file managers leave behind, beside names that start with a dot: never surplus."""


@dataclass(frozen=True)
class Report:
    """What `survey` found.

    Attributes:
        root: folder that was read.
        counts: columns what, here, documented (NaN: not stated), ok.
        problems: columns `PROBLEMS`; kind is count, row, missing, surplus or broken.
        stores: number of films per store that it would give.
        decoded: number of films whose pixels were read.
    """

    root: Path
    counts: pd.DataFrame
    problems: pd.DataFrame
    stores: Mapping[str, int]
    decoded: int

    @property
    def sound(self) -> bool:
        """Whether nothing is off."""
        return self.problems.empty


def survey(
    data_set: DataSet,
    folder: Path | str,
    *,
    options: Mapping[str, str] | None = None,
    decode: bool = False,
    subset: bool = False,
    workers: int | None = None,
) -> Report:
    """Read a data set's tree and hold it against what is documented.

    Args:
        folder: its folder, or the one above.
        decode: read the pixels of every film and mask too; else only names and tables.
        subset: fewer films than documented are no fault (more still are).
        workers: decoding threads; None: one per core.
    """
    tables = data_set.tables(Path(folder), options, skip_bad=True)
    facts = {what: n for table in tables.values() for what, n in table.facts.items()}
    counts = compare(facts, data_set.documented, subset)
    problems = [
        ("count", "", f"{what}: {here} here, {stated} documented")
        for what, here, stated, ok in counts.itertuples(index=False)
        if not ok
    ]
    for table in tables.values():
        problems += [("row", str(r.file), str(r.reason)) for r in table.bad.frame().itertuples()]
        problems += [("missing", *row) for row in _missing(table)]
    problems += [("surplus", str(f), "no table or folder rule names it") for f in surplus(tables)]
    for name, table in tables.items() if decode else ():
        problems += [("broken", *row) for row in _broken(table, name, workers or cores())]
    stores = {name: len(table) for name, table in tables.items()}
    return Report(
        root=next(iter(tables.values())).root,
        counts=counts,
        problems=pd.DataFrame(problems, columns=list(PROBLEMS)).drop_duplicates(ignore_index=True),
        stores=stores,
        decoded=sum(stores.values()) if decode else 0,
    )


def compare(
    facts: Mapping[str, int], documented: Mapping[str, int], subset: bool = False
) -> pd.DataFrame:
    """Counts found beside documented ones: columns what, here, documented, ok.

    What is documented but was not counted is there 0 times; what nobody documents is always ok.
    """
    rows = []
    for what in dict.fromkeys((*documented, *facts)):
        here, stated = facts.get(what, 0), documented.get(what)
        ok = stated is None or here == stated or (subset and here < stated)
        rows.append((what, here, stated, ok))
    frame = pd.DataFrame(rows, columns=["what", "here", "documented", "ok"])
    return frame.astype({"documented": "Int64", "ok": bool})


def surplus(tables: Mapping[str, FilmTable]) -> list[Path]:
    """Files under the data set's folder that none of its tables or rules names, sorted."""
    known: set[str] = set()
    for table in tables.values():
        masks = (mask for i in range(len(table)) for _, mask in table.masks_of(i))
        files = (*table.films["path"], *table.others, *(f for mask in masks for f in mask.files))
        known.update(map(os.path.normpath, files))
    side = {pattern for table in tables.values() for pattern in table.side}
    out = set()
    for root in {table.root for table in tables.values()}:
        for folder, below, names in os.walk(root):
            below[:] = [d for d in below if not _litter(d)]
            for path in (Path(folder, name) for name in names if not _litter(name)):
                inner = path.relative_to(root)
                if os.path.normpath(path) not in known and not any(map(inner.match, side)):
                    out.add(path)
    return sorted(out)


def _litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _missing(table: FilmTable) -> list[tuple[str, str]]:
    rows = [(str(r.file), str(r.reason)) for r in lost_files(table).itertuples()]
    look = Lookup(table.root)
    return rows + [(str(f), why) for f in table.others if (why := look.fault(f))]


def _broken(table: FilmTable, name: str, workers: int) -> list[tuple[str, str]]:
    absent = set(lost_files(table)["film"])
    todo = [i for i in range(len(table)) if i not in absent]
    with ThreadPoolExecutor(workers) as pool:
        faults = map_ahead(pool, lambda i: _faults(table, i), todo, 64)
        bar = tqdm(faults, desc=name, total=len(todo), unit="film")
        return [fault for film in bar for fault in film]


def _faults(table: FilmTable, film: int) -> list[tuple[str, str]]:
    path = Path(str(table.films["path"].iloc[film]))
    try:
        height, width = load_image(path, table.depths, table.any_ending).shape
    except InputError as error:
        return [(str(path), str(error))]
    out = []
    for _, mask in table.masks_of(film):
        try:
            mask.load(height, width)
        except InputError as error:
            out.append((str(mask.files[0]), str(error)))
    return out
