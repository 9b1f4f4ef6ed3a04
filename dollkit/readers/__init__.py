"""Readers: each data set's original layout -> one table -> packed stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dollkit.errors import InputError
from dollkit.readers.build import build_store
from dollkit.readers.chexpert import read_chexpert
from dollkit.readers.open_pack import TASKS, read_films, read_task
from dollkit.readers.phantom import COHORT_OF, PhantomPlan, build_phantom
from dollkit.readers.table import FilmTable, check_files, require_positives
from dollkit.store import unwritable

__all__ = ["SOURCES", "FilmTable", "PhantomPlan", "build", "read", "require_positives"]

SOURCES = ("phantom", "chexpert", "open")


def read(source: str, data_dir: Path | str, valid_fraction: float = 0.1) -> dict[str, FilmTable]:
    """Tables of a data set on disk, by the name of the store that they become.

    Args:
        source: ``chexpert`` (films) or ``open`` (films, lungs, infection, organs).
        data_dir: folder of the data set.
        valid_fraction: share of CheXpert's training patients that validate.

    Raises:
        InputError: unknown source, no such folder, or what the reader finds wrong.
    """
    if source not in SOURCES[1:]:
        raise InputError(f"source {source!r} is not read from disk: use {' or '.join(SOURCES[1:])}")
    root = Path(data_dir)
    if not str(data_dir) or not root.is_dir():
        raise InputError(
            f"parameter 'data_dir' is {str(data_dir)!r}: no such folder; give the folder of the "
            f"{source} data (DATA=...)"
        )
    if source == "chexpert":
        return {"films": read_chexpert(root, valid_fraction)}
    return {"films": read_films(root), **{task: read_task(root, task) for task in TASKS}}


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
    phantom: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Build all stores that a source has.

    Args:
        source: ``phantom`` or ``open`` (films, lungs, infection, organs) or ``chexpert`` (films).
        data_dir: folder of the data set; not used by the phantom.
        out: folder that gets one store per name.
        size: side of the films in pixels, a multiple of 8.
        skip_bad: leave single bad films out and list them in ``skipped.csv`` in the store.
        workers: threads or processes; None: one per core.
        seed: of the phantom.
        valid_fraction: share of CheXpert's training patients that validate.
        phantom: fields of `PhantomPlan` that differ from its defaults.

    Returns:
        path of each store by name.

    Raises:
        InputError: the first thing that is wrong, as far as possible before any long work.
    """
    if source not in SOURCES:
        raise InputError(f"parameter 'source' is {source!r}: use one of {', '.join(SOURCES)}")
    if size < 8 or size % 8:
        raise InputError(f"parameter 'size' is {size}: use a positive multiple of 8")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    if source == "phantom":
        plan = _plan(phantom or {})
        return {s: build_phantom(out / s, s, size, plan, seed, workers) for s in COHORT_OF}
    tables = read(source, data_dir, valid_fraction)
    if not skip_bad:
        for table in tables.values():
            check_files(table)
    return {
        name: build_store(table, out / name, size, skip_bad, workers)
        for name, table in tables.items()
    }


def fill_tasks(
    source: str,
    built: Mapping[str, Path],
    out: Path | str,
    size: int,
    *,
    seed: int = 0,
    phantom: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Phantom films for the downstream tasks that a data set brings no masks for.

    Args:
        source: ``phantom``, the only one that has masks of every task.
        built: stores that are there.
        out, size, seed, phantom: as in `build`.

    Returns:
        path of each new store by name.
    """
    if source != "phantom":
        raise InputError(f"parameter 'tasks_from' is {source!r}: use phantom, or leave it empty")
    plan = _plan(phantom or {})
    missing = [s for s in COHORT_OF if s not in built]
    return {s: build_phantom(Path(out) / s, s, size, plan, seed) for s in missing}


def _plan(values: Mapping[str, Any]) -> PhantomPlan:
    known = PhantomPlan.__dataclass_fields__
    for name in values:
        if name not in known:
            raise InputError(f"parameter 'phantom' has no {name!r}: use {', '.join(known)}")
    return PhantomPlan(**values)
