"""Steps that several readers share: folders looked through, films and tables made."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import AGAIN, BadRows, read_text, words
from dollkit.data.film_table import DataSet, FilmTable, blank_films, catalogue
from dollkit.data.masks import Boxes, Mask, Union
from dollkit.data.splits import share

Strings: TypeAlias = "Sequence[str] | pd.Series[str]"

DEPTHS = dict.fromkeys(("chexpert", "chexlocalize", "nih", "covid_qu_ex"), (8,))
"""Bits per grey value that the films of a data set may have, where it is not 8 or 16."""
ANY_ENDING = ("ieee8023", "generalblockchain", "v7")
"""Data sets whose films are read as what they are: endings of their names may lie."""


def data_set(
    name: str, stores: Sequence[str], find: Callable[[Path], Path | None],
    read: Callable[..., dict[str, FilmTable]], **options: tuple[str, ...],
) -> DataSet:  # fmt: skip
    """A data set as ``catalogue.yaml`` describes it; `options` have their allowed values."""
    entry = {key: value for key, value in catalogue()[name].items() if key != "side"}
    return DataSet(name=name, stores=tuple(stores), find=find, read=read, options=options, **entry)


def make_table(
    name: str, films: pd.DataFrame, root: Path,
    masks: Mapping[str, Sequence[Mask | None]] | pd.DataFrame | None = None, *,
    others: Iterable[Path] = (), store: str = "", **more: Any,
) -> FilmTable:  # fmt: skip
    """Table of data set `name` (of one `store` of it); `masks` by class, one for each film."""
    return FilmTable(
        f"{name}-{store}" if store else name,
        films,
        root,
        pd.DataFrame(masks, dtype=object),
        depths=DEPTHS.get(name, (8, 16)),
        any_ending=name in ANY_ENDING,
        others=tuple(others),
        side=tuple(catalogue()[name]["side"]),
        **more,
    )


def films_of(
    source: str, names: Strings, files: Iterable[object], where: Strings, /, **columns: Any
) -> pd.DataFrame:
    """Films called `names`; each is a patient and a study of its own unless `columns` differ."""
    films = blank_films(len(names))
    for column in ("image_id", "patient_id", "study_id"):
        films[column] = names
    films["source"] = source
    films["path"] = [str(file) for file in files]
    films["where"] = where
    for column, values in columns.items():
        films[column] = values
    return films


def hold_out(patients: pd.Series[str], valid_fraction: float) -> pd.Series[str]:
    """``valid`` or ``train`` for each film, from the sha256 of its patient's id alone."""
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")
    held = {p: "valid" if share(p) < valid_fraction else "train" for p in patients.unique()}
    return patients.map(held).astype(str)


def boxed(films: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """Masks of `boxes`, of columns image_id, finding, x, y, w, h: a column per finding."""
    drawn = {
        key: Boxes(
            tuple((x, y, w, h) for x, y, w, h in same[list("xywh")].to_numpy(float).tolist())
        )
        for key, same in boxes.groupby(["finding", "image_id"])
    }
    there = set(boxes["finding"])
    columns = {f: [drawn.get((f, i)) for i in films["image_id"]] for f in FINDINGS if f in there}
    return pd.DataFrame(columns, dtype=object)


def joined(parts: Sequence[Mask | None]) -> Mask | None:
    """Several masks of a film as one; None (unknown) where one of them is missing."""
    there = tuple(part for part in parts if part is not None)
    if not there or len(there) < len(parts):
        return None
    return there[0] if len(there) == 1 else Union(there)


def keep_single(
    listed: Mapping[str, Sequence[Path]],
    bad: BadRows,
    fault: Callable[[Path, Path], str] = lambda one, other: "there twice",
) -> dict[str, Path]:
    """The file of each film; films that have several are rejected."""
    for name, (one, *others) in listed.items():
        for other in others[:1]:
            bad.reject(other, f"film {name}", f"{fault(one, other)}, {one} and {other}: keep one")
    return {name: files[0] for name, files in listed.items() if len(files) == 1}


def read_json(path: Path) -> Any:
    """What a JSON file holds; a name that stands twice in one object is an error."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error}): {AGAIN}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return out


def marked(marks: Sequence[str], below: Sequence[str] = ()) -> Callable[[Path], Path | None]:
    """Finds a folder that holds every one of `marks`, or a sub-folder `below` names that does."""

    def find(folder: Path) -> Path | None:
        roots = (folder, *(folder / name for name in below))
        return next((r for r in roots if all((r / mark).exists() for mark in marks)), None)

    return find


MANY = 1000
Found = tuple[re.Match[str], Path]


def child(folder: Path, name: str) -> Path | None:
    """Sub-folder of that name; None if there is none.

    Letters may be in any case and ``_`` stand for blanks, but in a folder of more than `MANY`
    entries, which is one of films or patients, the name must be exact: to look is cheap.
    """
    exact = folder / name
    if name in (".", "") or exact.is_dir():
        return exact
    alike = (e for e in _entries(folder, MANY) if words(e.name) == words(name) and _is_folder(e))
    return next((folder / entry.name for entry in alike), None)


def descend(folder: Path, below: str) -> Path | None:
    """Sub-folder of a sub-folder and so on, ``a/b``; each step as `child`."""
    here: Path | None = folder
    for name in below.split("/"):
        here = child(here, name) if here is not None else None
    return here if here is not None and here.is_dir() else None


def first_folder(
    folder: Path, choices: Iterable[str], good: Callable[[Path], object]
) -> Path | None:
    """The first of some folders below `folder`, as `descend` takes them, that is `good`."""
    below = (descend(folder, choice) for choice in choices)
    return next((place for place in below if place is not None and good(place)), None)


def files_of(folder: Path | None, form: re.Pattern[str]) -> list[Found]:
    """Files of a folder whose whole name has a form, by name.

    Broken links count as files: they are told when they are looked for, not passed over.
    """
    files: list[Found] = []
    for entry in _entries(folder):
        if match := form.fullmatch(entry.name):
            if _is_folder(entry):
                raise InputError(f"{entry.path}: a folder with the name of a file: rename it")
            files.append((match, Path(entry.path)))
    return files


def is_litter(name: str) -> bool:
    """Whether file managers leave such a file or folder behind; names with a dot first count."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def holds(folder: Path | None, form: re.Pattern[str]) -> bool:
    """Whether a folder has any file whose whole name has a form."""
    return any(form.fullmatch(entry.name) for entry in _entries(folder))


def _entries(folder: Path | None, most: int | None = None) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it is none, or has more than `most` entries."""
    if folder is None or not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as scan:
            entries = list(islice(scan, most + 1 if most else None))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}): allow reading it") from None
    return [] if most and len(entries) > most else sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; whoever opens it tells
        return False
