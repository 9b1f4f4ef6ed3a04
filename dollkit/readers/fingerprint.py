"""Fingerprints of what a store is built from, without reading a pixel."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dollkit.buildkey import code_of, digest, versions
from dollkit.films import COLUMNS
from dollkit.readers.decoding import CHUNK, Film, Rule
from dollkit.readers.table import FilmTable

BUILDER = "dollkit.readers.build"
LIBRARIES = ("numpy", "pandas", "pillow", "pycocotools", "pydicom", "python-gdcm")
"""Packages that decode, resize or write."""

Item = TypeVar("Item")


def rule_of(table: FilmTable, rule: Rule, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what becomes of a table's films, for `dollkit.buildkey.Key`.

    The reader's own code is not in it: all that it decides stands in the table.
    """
    kinds = {type(m).__module__ for name in table.masks for m in table.masks[name] if m is not None}
    relative = _relative_to(table.root)
    rows = [[relative(str(cell)) for cell in row[:2]] for row in table.bad.frame().to_numpy()]
    return {
        "source": table.source,
        "made_from": dict(made_from),
        "setting": {**dataclasses.asdict(rule), "ignore": table.ignoring(), "chunk": CHUNK},
        "classes": list(table.mask_classes),
        "rows left out": digest(rows),
        "version of": versions(LIBRARIES),
        "code": code_of([BUILDER, *sorted(kinds)]),
    }


def fingerprints(table: FilmTable, films: Iterable[Film]) -> list[str]:
    """One fingerprint per chunk of films.

    Of each film: its row of the table, what describes its masks and boxes, and the size and time
    of change of its files. Paths count relative to the data set's folder.
    """
    relative = _relative_to(table.root)
    describe = functools.partial(_describe, relative)
    state = functools.lru_cache(1024)(_state)  # one JSON file may hold the masks of many films
    rows = zip(*(table.films[name].tolist() for name in COLUMNS), strict=True)
    out = []
    for chunk in batched(zip(films, rows, strict=True), CHUNK):
        taken = hashlib.sha256()
        for film, row in chunk:
            files = [film.path, *(str(f) for _, mask in film.masks for f in mask.files)]
            states = [(relative(f), *state(f)) for f in files]
            about = [row, film.masks, film.boxes, bool(film.lost), states]
            taken.update(json.dumps(about, default=describe).encode())
        out.append(taken.hexdigest()[:32])
    return out


def batched(items: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Lists of `n` items, the last one maybe shorter."""
    source = iter(items)
    while chunk := list(itertools.islice(source, n)):
        yield chunk


def _relative_to(root: Path) -> Callable[[str], str]:
    top = os.path.join(root, "")  # noqa: PTH118
    return lambda path: path.removeprefix(top)


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _describe(relative: Callable[[str], str], value: Any) -> Any:
    """What JSON has no form for: paths, masks, arrays."""
    if isinstance(value, Path):
        return relative(str(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if dataclasses.is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__name__, parts]
    raise TypeError(f"a mask must be a dataclass of plain values, not hold {type(value).__name__}")
