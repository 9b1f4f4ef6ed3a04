"""Is a data set on disk what its authors released? Counts, and every file that is off."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd
from tqdm import tqdm

from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.data.dataset import DataSet
from dollkit.data.decode import load_image
from dollkit.data.film_table import FilmTable, Lookup, lost_files

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
        data_set: which one.
        folder: its folder, or the one above.
        options: of its reader.
        decode: read the pixels of every film and mask too; else only names and tables.
        subset: fewer films than documented are no fault (more still are).
        workers: decoding threads; None: one per core.
    """
    tables = data_set.tables(Path(folder), options, skip_bad=True)
    root = next(iter(tables.values())).root
    facts: dict[str, int] = {}
    for table in tables.values():
        facts |= table.facts
    counts = compare(facts, data_set.documented, subset)
    problems = [
        ("count", "", f"{what}: {here} here, {stated} documented")
        for what, here, stated, ok in counts.itertuples(index=False)
        if not ok
    ]
    seen: set[tuple[str, str, str]] = set()
    for table in tables.values():
        found = [("row", *row) for row in _bad(table)]
        found += [("missing", *row) for row in _missing(table)]
        problems += [p for p in found if p not in seen]
        seen.update(found)
    problems += [("surplus", str(f), "no table or folder rule names it") for f in surplus(tables)]
    decoded = 0
    if decode:
        for name, table in tables.items():
            decoded += len(table)
            problems += [("broken", *row) for row in _broken(table, name, workers or cores())]
    return Report(
        root,
        counts,
        pd.DataFrame(problems, columns=list(PROBLEMS)).drop_duplicates(ignore_index=True),
        {name: len(table) for name, table in tables.items()},
        decoded,
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
        known.update(map(str, table.films["path"]))
        known.update(map(str, table.others))
        for i in range(len(table)):
            known.update(str(f) for _, mask in table.masks_of(i) for f in mask.files)
    known = {os.path.normpath(name) for name in known}
    side = {pattern for table in tables.values() for pattern in table.side}
    out = []
    for root in {table.root for table in tables.values()}:
        for path in _walk(root):
            inner = PurePath(path).relative_to(root)
            if os.path.normpath(path) not in known and not any(map(inner.match, side)):
                out.append(Path(path))
    return sorted(set(out))


def _walk(root: Path) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        below[:] = [d for d in below if not _litter(d)]
        yield from (os.path.join(folder, name) for name in names if not _litter(name))  # noqa: PTH118


def _litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _bad(table: FilmTable) -> list[tuple[str, str]]:
    return [(str(r.file), str(r.reason)) for r in table.bad.frame().itertuples()]


def _missing(table: FilmTable) -> list[tuple[str, str]]:
    rows = [(str(r.file), str(r.reason)) for r in lost_files(table).itertuples()]
    look = Lookup(table.root)
    return rows + [(str(f), why) for f in table.others if (why := look.fault(f))]


def _broken(table: FilmTable, name: str, workers: int) -> list[tuple[str, str]]:
    absent = set(lost_files(table)["film"])
    todo = [i for i in range(len(table)) if i not in absent]
    out: list[tuple[str, str]] = []
    bar = tqdm(total=len(todo), desc=name, unit="film")
    with ThreadPoolExecutor(workers) as pool, bar:
        # In slices: a queue of all of CheXpert's films would hold them all.
        for start in range(0, len(todo), 1024):
            for faults in pool.map(lambda i: _faults(table, i), todo[start : start + 1024]):
                out += faults
                bar.update()
    return out


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
