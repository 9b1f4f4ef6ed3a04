"""Where JSRT's films, SCR's masks and the clinical lines lie in a tree."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dollkit.errors import InputError
from dollkit.readers.csvfile import BadRows, reject
from dollkit.readers.folders import child, descend, files_of, holds

NODULES, WITHOUT = 154, 93
NAMES: tuple[str, ...] = (
    *(f"JPCLN{k:03d}" for k in range(1, NODULES + 1)),
    *(f"JPCNN{k:03d}" for k in range(1, WITHOUT + 1)),
)
"""All films: those with a nodule, then those without."""

ORGANS = ("left lung", "right lung", "heart", "left clavicle", "right clavicle")
"""SCR's organs, as its folders are called; left and right are the patient's."""

_FILM = re.compile(r"(JPC[LN]N\d{3})\.(IMG|PNG)", re.IGNORECASE)
_MASK = re.compile(r"(JPC[LN]N\d{3})\.(?:GIF|PNG)", re.IGNORECASE)
_CLINICAL = re.compile(r"C[LN]NDAT_EN\.TXT", re.IGNORECASE)
_LINE = re.compile(
    r"(JPC[LN]N\d{3})\S*\s(?:.*?\s)??(\d{1,3}|\?|)(?:\t| +)(male|female)\b.*", re.IGNORECASE
)
_FILM_FOLDERS = ((), ("All247images",), ("All247images",) * 2, ("images",), ("images",) * 2)
_ABOVE_MASKS = ((), ("scratch",), ("scr",), ("scr", "scratch"))


class Masks(NamedTuple):
    """SCR's masks in a tree.

    Attributes:
        of: film -> organ -> file.
        folds: film -> fold (0, 1) that the folder says; none where the folds are merged.
        wrong: films left out -> their files.
    """

    of: dict[str, dict[str, Path]]
    folds: dict[str, int]
    wrong: dict[str, list[Path]]

    def fold(self, film: str) -> int | None:
        """Fold of a film that has masks: as the folders say, else by its number."""
        return self.folds.get(film, parity_fold(film)) if film in self.of else None


def parity_fold(film: str) -> int:
    """SCR's fold of a film by its number: 0 (fold1) if odd, 1 (fold2) if even; inferred."""
    return 1 - int(film[5:]) % 2


def find_root(folder: Path) -> Path | None:
    """The folder that holds the films or their folder: `folder`, its ``JSRT/`` or its parent.

    The parent, where `folder` is the films' own and holds no masks.
    """
    for root in (folder, child(folder, "JSRT")):
        if root is None or not any(holds(f, _FILM) for f in _film_folders(root)):
            continue
        of_parent = root.name.casefold() in ("all247images", "images")
        return root.parent if of_parent and not mask_folders(root) else root
    return None


def _film_folders(root: Path) -> list[Path]:
    found = [descend(root, names) for names in _FILM_FOLDERS]
    # Films in JSRT/ are this folder's only where the masks lie beside it: else JSRT/ is the root.
    beside = child(root, "JSRT")
    if beside is not None and holds(beside, _FILM) and mask_folders(root):
        found.append(beside)
    return list(dict.fromkeys(f for f in found if f is not None))


def list_films(root: Path, bad: BadRows | None) -> tuple[dict[str, Path], list[Path]]:
    """Film files by name, in the order of `NAMES`, and conversions that have their raw film."""
    kinds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"IMG": [], "PNG": []})
    for folder in _film_folders(root):
        for match, file in files_of(folder, _FILM):
            kinds[match[1].upper()][match[2].upper()].append(file)
    films: dict[str, Path] = {}
    others: list[Path] = []
    for name in sorted(kinds):
        files = kinds[name]["IMG"] or kinds[name]["PNG"]
        others += kinds[name]["PNG"] if kinds[name]["IMG"] else []
        if name not in NAMES:
            known = "JPCLN001 to JPCLN154, JPCNN001 to JPCNN093"
            reject(bad, files[0], str(files[0]), f"no film of JSRT: names run {known}; remove it")
            others += files
        elif len(files) > 1:
            reject(bad, files[1], f"film {name}", f"{files[0]} and {files[1]}: keep one")
            others += files
        else:
            films[name] = files[0]
    return films, others


def mask_folders(root: Path) -> list[tuple[int | None, Path]]:
    """Folders of the organs' folders, with their fold; those with folds before merged ones."""
    bases = [b for names in _ABOVE_MASKS if (b := descend(root, names)) is not None]
    for base in bases:
        found: list[tuple[int | None, Path]] = [
            (fold - 1, folder)
            for fold in (1, 2)
            for names in ((f"fold{fold}", "masks"), (f"fold{fold}",))
            if (folder := _with_organs(descend(base, names))) is not None
        ]
        if found:
            return found
    merged = (_with_organs(child(base, "masks")) for base in bases)
    first = next((folder for folder in merged if folder is not None), None)
    return [(None, first)] if first is not None else []


def _with_organs(folder: Path | None) -> Path | None:
    return folder if folder and any(child(folder, organ) for organ in ORGANS) else None


def list_masks(root: Path, bad: BadRows | None) -> Masks:
    """Masks by film and organ; a film with masks in both folds or twice in one is wrong."""
    listed: dict[str, list[tuple[int | None, str, Path]]] = defaultdict(list)
    for fold, folder in mask_folders(root):
        for organ in ORGANS:
            for match, file in files_of(child(folder, organ), _MASK):
                listed[match[1].upper()].append((fold, organ, file))
    scr = Masks({}, {}, {})
    for name, rows in listed.items():
        first_fold, _, first = rows[0]
        other = [file for fold, _, file in rows if fold != first_fold]
        files = {organ: file for _, organ, file in rows}
        twice = [f for _, organ, f in rows if files[organ] != f]
        if other:
            reason = f"masks in both folds ({first} and {other[0]}): keep one"
            reject(bad, other[0], f"film {name}", reason)
        elif twice:
            again = next(files[organ] for _, organ, f in rows if f == twice[0])
            reject(bad, again, f"film {name}", f"mask twice ({twice[0]} and {again}): keep one")
        if other or twice:
            scr.wrong[name] = [file for _, _, file in rows]
            continue
        scr.of[name] = files
        if first_fold is not None:
            scr.folds[name] = first_fold
    return scr


def list_patients(root: Path, bad: BadRows | None) -> dict[str, tuple[str, float]]:
    """Sex (M, F) and age (years, NaN if unknown) by film, from the clinical files that are there.

    Lines end in any way; what stands before the age and after the sex is not read.
    """
    places = [root, child(root, "Clinical Information"), *_film_folders(root)]
    files: dict[str, Path] = {}
    for place in places:
        for _, file in files_of(place, _CLINICAL):
            files.setdefault(file.name.casefold(), file)
    out: dict[str, tuple[str, float]] = {}
    for file in files.values():
        try:
            text = file.read_bytes().decode("utf-8-sig", errors="replace")
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}): fetch it again") from None
        for row, line in enumerate(text.splitlines(), start=1):
            match = _LINE.fullmatch(line.strip())
            if match and match[1].upper() not in out:
                age = float(match[2]) if match[2].isdecimal() else np.nan
                out[match[1].upper()] = (match[3][0].upper(), age)
            elif line.strip():
                why = "film twice" if match else "no film name, age and 'male' or 'female'"
                reject(bad, file, f"{file}, row {row}", f"{why}: mend the line or drop the file")
    return out
