"""Which films lie in a folder, and what their masks are called."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dollkit.common.errors import InputError, near
from dollkit.data import images
from dollkit.data.sets.own_folder import ENDINGS

BESIDE = (".csv", ".txt", ".json", ".md", ".xml", ".zip")
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
DIRECTORY = "DICOMDIR"
"""Table of contents of a CD from a hospital: DICOM, and no film."""


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, as `images.load_image` takes it."""
    try:
        return images.is_dicom(path)
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

    Links to folders are not followed. One that leads to what is listed anyway is passed over.
    """
    try:
        there = folder.is_dir()
    except OSError as error:
        raise unreadable(folder, error) from None
    if not there:
        raise InputError(f"{folder}: no such folder: give the folder of the films or masks")
    found = []
    for here, below, names in os.walk(folder, onerror=_closed):
        below[:] = sorted(b for b in below if not _litter(b))
        for name in below:
            link = Path(here) / name
            if os.path.islink(link):  # noqa: PTH114 (`is_symlink` fails in a folder half closed)
                _check_link(link, folder)
        inner = Path(here).relative_to(folder)
        found += [(inner / name).as_posix() for name in names if not _litter(name)]
    return sorted(found)


def films_below(folder: Path) -> list[str]:
    """Films below a folder by relative path: files with an image's ending, and DICOM without."""
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
    """The films that someone names, by relative path with or without ending; none: all."""
    by_name = {plain(name): name for name in names} | {name: name for name in names}
    spelt = Spelling(by_name)
    out: dict[str, None] = {}
    for text in wanted:
        asked = spelt(text.strip().replace("\\", "/"))
        if asked not in by_name:
            raise InputError(f"{folder}: no film {text!r}{near(asked, by_name)}")
        out[by_name[asked]] = None
    return list(out) or list(names)


class Spelling:
    """Finds names as a folder has them, whichever Unicode form they are asked for in.

    A Mac's files often have an umlaut as two characters, tables have it as one: both look the same.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._alike: dict[str, list[str]] = {}
        for name in self._names:
            self._alike.setdefault(composed(name), []).append(name)

    def __call__(self, name: str) -> str:
        """The name as it is there; as asked for, if none is alike or several are."""
        alike = [name] if name in self._names else self._alike.get(composed(name), [])
        return alike[0] if len(alike) == 1 else name


def composed(name: str) -> str:
    """A name in the Unicode form that most tables have (NFC)."""
    return unicodedata.normalize("NFC", name)


def _no_film(name: str) -> bool:
    # Tables and notes lie beside films; reading their first bytes would be for nothing.
    path = PurePosixPath(name)
    return path.name.upper() == DIRECTORY or path.suffix.lower() in BESIDE


def _litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def unreadable(path: Path | str, error: OSError) -> InputError:
    """What to raise for a file or folder that may not be looked at."""
    return InputError(f"{path}: cannot be read ({error.strerror}): let it be read, or move it "
                      "elsewhere")  # fmt: skip


def _closed(error: OSError) -> None:
    raise unreadable(error.filename, error) from None


def _check_link(link: Path, folder: Path) -> None:
    # What it leads to is listed under its own name, unless that is outside or passed over.
    top, real = Path(os.path.realpath(folder)), Path(os.path.realpath(link))
    if not real.is_relative_to(top) or any(map(_litter, real.relative_to(top).parts)):
        raise InputError(
            f"{link}: a link to a folder, and such links are not followed: put the folder itself "
            f"there, or the link outside of {folder}"
        )
