"""Which films lie in a folder, and what their masks are called."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dollkit import decode
from dollkit.errors import InputError
from dollkit.readers.own import ENDINGS

BESIDE = (".csv", ".txt", ".json", ".md", ".xml", ".zip")
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
DIRECTORY = "DICOMDIR"
"""Table of contents of a CD from a hospital: DICOM, and no film."""


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, as `decode.load_image` takes it."""
    try:
        return decode.is_dicom(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def plain(name: str) -> str:
    """A film's name without the ending of an image: masks are named by it.

    What is no image's ending stays: a DICOM file may be called ``1.2.840``.
    """
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in ENDINGS else name


def files_below(folder: Path) -> list[str]:
    """All files below a folder by relative path, with slashes; hidden ones and litter left out.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of the films or masks")
    found = []
    for here, below, names in os.walk(folder):
        below[:] = sorted(b for b in below if not _litter(b))
        inner = Path(here).relative_to(folder)
        found += [(inner / name).as_posix() for name in names if not _litter(name)]
    return sorted(found)


def films_below(folder: Path) -> list[str]:
    """Films below a folder by relative path: files with an image's ending, and DICOM without.

    Raises:
        InputError: no such folder, no film in it, or two films that would share a mask's name.
    """
    found = [
        name
        for name in files_below(folder)
        if PurePosixPath(name).suffix.lower() in ENDINGS
        or (not _no_film(name) and is_dicom(folder / name))
    ]
    if not found:
        raise InputError(f"{folder}: no film here ({', '.join(ENDINGS)}): check the folder")
    first: dict[str, str] = {}
    for name in found:
        other = first.setdefault(plain(name), name)
        if other != name:
            raise InputError(
                f"{folder}: {other!r} and {name!r} would share one mask: rename one of them"
            )
    return found


def chosen(names: Sequence[str], wanted: Iterable[str], folder: Path) -> list[str]:
    """The films that someone names, by relative path with or without ending; none: all.

    Raises:
        InputError: a name that no film has.
    """
    by_name = {plain(name): name for name in names} | {name: name for name in names}
    out: dict[str, None] = {}
    for text in wanted:
        asked = text.strip().replace("\\", "/")
        if asked not in by_name:
            raise InputError(f"{folder}: no film {text!r}{near(asked, by_name)}")
        out[by_name[asked]] = None
    return list(out) or list(names)


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the end of a message, "" if nothing is alike."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _no_film(name: str) -> bool:
    # Tables and notes lie beside films; reading their first bytes would be for nothing.
    path = PurePosixPath(name)
    return path.name.upper() == DIRECTORY or path.suffix.lower() in BESIDE


def _litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
