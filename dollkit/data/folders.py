"""Folders of data sets that have no table: names without case, files by the form of their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from dollkit.common.errors import InputError

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
    wanted = _plain(name)
    return next((p for p in _below(folder) if _plain(p.name) == wanted), None)


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
    if folder is None or not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, _is_folder(e)) for e in entries if form.fullmatch(e.name))
    except OSError as error:
        raise _unreadable(folder, error) from None
    wrong = [name for name, is_folder in found if is_folder]
    if wrong:
        raise InputError(f"{folder / wrong[0]}: a folder with the name of a file: rename it")
    names = [name for name, _ in found]
    return [(match, folder / name) for name in names if (match := form.fullmatch(name))]


def holds(folder: Path | None, form: re.Pattern[str]) -> bool:
    """Whether a folder has any file whose whole name has a form."""
    if folder is None or not folder.is_dir():
        return False
    try:
        with os.scandir(folder) as entries:
            return any(form.fullmatch(e.name) for e in entries)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            few = list(islice(entries, MANY + 1))
    except OSError as error:
        raise _unreadable(folder, error) from None
    names = sorted(e.name for e in few if _is_folder(e)) if len(few) <= MANY else []
    return [folder / name for name in names]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; whoever opens it tells
        return False


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")


def _unreadable(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be read ({error.strerror}): allow reading it")
