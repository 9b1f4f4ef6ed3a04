"""What a data set is to the rest: where it lies, how it is read, what its papers say it holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dollkit.common.errors import InputError
from dollkit.data.film_table import FilmTable

STORES: tuple[str, ...] = ("films", "lungs", "infection", "organs")
"""Stores of a run: films with findings, and one per downstream task."""


@dataclass(frozen=True)
class DataSet:
    """One data set that can be read in its original layout."""

    name: str
    title: str
    """Its name for people."""
    stores: tuple[str, ...]
    """Which of `STORES` it can give."""
    find: Callable[[Path], Path | None]
    """Its root at or just below a folder, by a cheap look; None if it is not there."""
    read: Callable[..., dict[str, FilmTable]]
    """``read(root, *, skip_bad=False, **options)`` -> table by store name."""
    documented: Mapping[str, int]
    """Counts that its authors state, by the names that `FilmTable.facts` uses."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option -> allowed values, the default first."""
    tree: str = ""
    """What marks its folder, for the message when it is not found."""
    licence: str = ""
    cite: str = ""
    size: str = ""

    def locate(self, folder: Path) -> Path:
        """Root of the data set at or below `folder`; `InputError` if it is not there."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give the folder of the {self.title} data")
        root = self.find(folder)
        if root is None:
            raise InputError(
                f"{folder}: no {self.title} here: expected {self.tree}; data/README.md shows the "
                "tree"
            )
        return root

    def tables(
        self,
        folder: Path,
        options: Mapping[str, str] | None = None,
        skip_bad: bool = False,
        **more: Any,
    ) -> dict[str, FilmTable]:
        """Tables of the data set at or below `folder`, by store name; `more` goes to its reader.

        With `skip_bad`, wrong rows are noted in the tables' ``bad``; else the first is an error.
        """
        for option, value in (options or {}).items():
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"data set {self.name} has no option {option!r}; it has: {known}")
            if value not in self.options[option]:
                raise InputError(
                    f"option {self.name}.{option} is {value!r}: use one of "
                    f"{', '.join(self.options[option])}"
                )
        return self.read(self.locate(folder), skip_bad=skip_bad, **(options or {}), **more)


def first_with(folder: Path, marks: tuple[str, ...], below: tuple[str, ...] = ()) -> Path | None:
    """`folder`, or a sub-folder `below` names, that holds every one of `marks`; None if neither."""
    for root in (folder, *(folder / name for name in below)):
        if all((root / mark).exists() for mark in marks):
            return root
    return None


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
    alike = (e for e in _entries(folder, MANY) if _plain(e.name) == _plain(name) and _is_folder(e))
    return next((folder / entry.name for entry in alike), None)


def descend(folder: Path, names: Iterable[str]) -> Path | None:
    """Sub-folder of a sub-folder and so on; each step as `child`."""
    here: Path | None = folder
    for name in names:
        here = child(here, name) if here is not None else None
    return here if here is not None and here.is_dir() else None


def files_of(folder: Path | None, form: re.Pattern[str]) -> list[Found]:
    """Files of a folder whose whole name has a form, by name.

    Broken links count as files: they are told when they are looked for, not passed over.
    """
    found: list[Found] = []
    for entry in _entries(folder):
        if match := form.fullmatch(entry.name):
            if _is_folder(entry):
                raise InputError(f"{entry.path}: a folder with the name of a file: rename it")
            found.append((match, Path(entry.path)))
    return found


def holds(folder: Path | None, form: re.Pattern[str]) -> bool:
    """Whether a folder has any file whose whole name has a form."""
    return any(form.fullmatch(entry.name) for entry in _entries(folder))


def _entries(folder: Path | None, most: int | None = None) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it is none, or has more than `most` entries."""
    if folder is None or not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            some = list(islice(entries, most + 1 if most else None))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}): allow reading it") from None
    return [] if most and len(some) > most else sorted(some, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; whoever opens it tells
        return False


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")
