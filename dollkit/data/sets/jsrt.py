"""JSRT's films with the SCR masks of lungs, heart and clavicles."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, read_text, reject
from dollkit.data.dataset import child, descend, files_of, holds
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Mask, MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.splits import read_split

NAMES: tuple[str, ...] = (
    *(f"JPCLN{k:03d}" for k in range(1, 155)),
    *(f"JPCNN{k:03d}" for k in range(1, 94)),
)
"""All films: those with a nodule, then those without. One film per patient is assumed."""

ORGANS = ("left lung", "right lung", "heart", "left clavicle", "right clavicle")
"""SCR's organs, as its folders are called; left and right are the patient's."""

LUNGS = ORGANS[:2]
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "merged": {"lungs": LUNGS, "heart": ("heart",), "clavicles": ORGANS[3:]},
    "apart": {organ: (organ,) for organ in ORGANS},
}
"""Mask classes of the store organs and SCR's organs behind each, by the option ``organs``."""

SPLITS: dict[str, tuple[str, str]] = {
    "172_25_50": ("jsrt_172_25_50.csv", "split"),
    "scr_folds": ("jsrt_scr_folds.csv", "fold"),
}
"""File in ``data/splits`` and its column, by the option ``split``."""


_FILM = re.compile(r"(JPC[LN]N\d{3})\.(IMG|PNG)", re.IGNORECASE)
_MASK = re.compile(r"(JPC[LN]N\d{3})\.(?:GIF|PNG)", re.IGNORECASE)
_CLINICAL = re.compile(r"C[LN]NDAT_EN\.TXT", re.IGNORECASE)
# What stands before the age and after the sex is not read: words cut in two by tabs.
_LINE = re.compile(
    r"(JPC[LN]N\d{3})\S*\s(?:.*?\s)??(\d{1,3}|\?|)(?:\t| +)(male|female)\b.*", re.IGNORECASE
)
_FILM_FOLDERS = ("", "All247images", "All247images/All247images", "images", "images/images")
_ABOVE_MASKS = ("", "scratch", "scr", "scr/scratch")


class Masks(NamedTuple):
    """SCR's masks in a tree: `of` film and organ; `folds` of films (0, 1) where folders tell it.

    `wrong` holds the files of films that are left out.
    """

    of: dict[str, dict[str, Path]]
    folds: dict[str, int]
    wrong: dict[str, list[Path]]


def parity_fold(film: str) -> int:
    """SCR's fold of a film by its number: 0 (fold1) if odd, 1 (fold2) if even; inferred."""
    return 1 - int(film[5:]) % 2


def read_jsrt(
    root: Path,
    *,
    skip_bad: bool = False,
    organs: str = "merged",
    split: str = "172_25_50",
    splits: Path | None = None,
) -> dict[str, FilmTable]:
    """``organs`` and ``lungs`` (both lungs as one class) of the same films, in `NAMES`' order.

    Masks are on a grid of their own (1024 pixels). A class of which one half is missing is unknown
    on that film. `organs` and `split` are as in `CLASSES` and `SPLITS`, whose CSV files lie in the
    folder `splits` (None: the repository's).
    """
    bad = BadRows()
    notes = bad if skip_bad else None
    files, others = _list_films(root, notes)
    scr = _list_masks(root, notes)
    if not scr.of and not scr.wrong:
        raise InputError(
            f"{root}: no SCR mask with the films: expected scratch/fold1/masks/<organ>/"
            "JPCLN001.gif and fold2; data/README.md shows the tree"
        )
    part = _parts(scr, files, split, splits or paths.SPLITS, notes)
    for name in set(files) - set(part):
        others += [files[name], *scr.wrong.get(name, scr.of.get(name, {}).values())]
    if not part:
        raise InputError(f"{root}: no film of JSRT is left, of those that are sound")
    films = _films(part, files, _list_patients(root, notes), SPLITS[split][1])
    for need in CLASSES[organs].values():
        there = [[f for o in need if (f := scr.of.get(name, {}).get(o))] for name in part]
        others += [f for halves in there if len(halves) < len(need) for f in halves]
    facts = _facts(list(part), scr)
    out = {}
    for store, classes in (("lungs", {"lungs": LUNGS}), ("organs", CLASSES[organs])):
        masks = {c: [_mask(scr, name, need) for name in part] for c, need in classes.items()}
        out[store] = steps.make_table(
            "jsrt", films, root, masks, others=others, facts=facts, bad=bad
        )
    return out


def _list_films(root: Path, bad: BadRows | None) -> tuple[dict[str, Path], list[Path]]:
    """Film files by name, in the order of `NAMES`, and conversions that have their raw film."""
    kinds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"IMG": [], "PNG": []})
    for folder in _film_folders(root):
        for match, file in files_of(folder, _FILM):
            kinds[match[1].upper()][match[2].upper()].append(file)
    listed: dict[str, list[Path]] = {}
    others: list[Path] = []
    for name, of in sorted(kinds.items()):
        listed[name] = of["IMG"] or of["PNG"]
        others += of["PNG"] if of["IMG"] else []
        if name not in NAMES:
            files = listed.pop(name)
            known = "JPCLN001 to JPCLN154, JPCNN001 to JPCNN093"
            reject(bad, files[0], str(files[0]), f"no film of JSRT: names run {known}; remove it")
            others += files
    films, several = steps.keep_single(listed, bad)
    return films, others + several


def _film_folders(root: Path) -> list[Path]:
    found = [descend(root, names.split("/")) for names in _FILM_FOLDERS]
    # Films in JSRT/ are this folder's only where the masks lie beside it: else JSRT/ is the root.
    beside = child(root, "JSRT")
    if beside is not None and holds(beside, _FILM) and _mask_folders(root):
        found.append(beside)
    return list(dict.fromkeys(f for f in found if f is not None))


def _mask_folders(root: Path) -> list[tuple[int | None, Path]]:
    """Folders of the organs' folders, with their fold; those with folds before merged ones."""
    bases = [b for names in _ABOVE_MASKS if (b := descend(root, names.split("/"))) is not None]
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


def _list_masks(root: Path, bad: BadRows | None) -> Masks:
    """Masks by film and organ; a film with masks in both folds or twice in one is wrong."""
    listed: dict[str, list[tuple[int | None, str, Path]]] = defaultdict(list)
    for fold, folder in _mask_folders(root):
        for organ in ORGANS:
            for match, file in files_of(child(folder, organ), _MASK):
                listed[match[1].upper()].append((fold, organ, file))
    scr = Masks({}, {}, {})
    for name, rows in listed.items():
        pairs = combinations(rows, 2)
        clash = next(((a, b) for a, b in pairs if a[0] != b[0] or a[1] == b[1]), None)
        if clash:
            one, other = clash
            what = "mask twice" if one[0] == other[0] else "masks in both folds"
            reason = f"{what} ({one[2]} and {other[2]}): keep one"
            reject(bad, other[2], f"film {name}", reason)
            scr.wrong[name] = [file for _, _, file in rows]
            continue
        scr.of[name] = {organ: file for _, organ, file in rows}
        if rows[0][0] is not None:
            scr.folds[name] = rows[0][0]
    return scr


def _list_patients(root: Path, bad: BadRows | None) -> dict[str, tuple[str, float]]:
    """Sex (M, F) and age (years, NaN: unknown) by film, from the clinical files that are there."""
    places = [root, child(root, "Clinical Information"), *_film_folders(root)]
    files: dict[str, Path] = {}
    for _, file in (found for place in places for found in files_of(place, _CLINICAL)):
        files.setdefault(file.name.casefold(), file)
    out: dict[str, tuple[str, float]] = {}
    for file in files.values():
        for row, line in enumerate(read_text(file, errors="replace").splitlines(), start=1):
            match = _LINE.fullmatch(line.strip())
            if match and match[1].upper() not in out:
                age = float(match[2]) if match[2].isdecimal() else np.nan
                out[match[1].upper()] = (match[3][0].upper(), age)
            elif line.strip():
                why = "film twice" if match else "no film name, age and 'male' or 'female'"
                reject(bad, file, f"{file}, row {row}", f"{why}: mend the line or drop the file")
    return out


def _parts(
    scr: Masks, films: Iterable[str], split: str, folder: Path, bad: BadRows | None
) -> dict[str, str]:
    """Split or fold of each film that is right, in the order of `NAMES`."""
    file, column = SPLITS[split]
    parts = read_split(folder / file, {name: name for name in films}, column, subset=True)
    out: dict[str, str] = {}
    for name in sorted(set(films) - set(scr.wrong)):
        if column == "fold" and str(scr.folds.get(name, parts[name])) != parts[name]:
            at = next(iter(scr.of[name].values()))
            reason = (
                f"its mask {at} is in fold{scr.folds[name] + 1}, {file} has it in "
                f"fold{int(parts[name]) + 1}: put it there, or use split=172_25_50"
            )
            reject(bad, at, f"film {name}", reason)
        else:
            out[name] = parts[name]
    return out


def _films(
    part: Mapping[str, str],
    files: Mapping[str, Path],
    patients: Mapping[str, tuple[str, float]],
    column: str,
) -> pd.DataFrame:
    names = list(part)
    known = [patients.get(name, ("", np.nan)) for name in names]
    nodule = np.array([name[3] == "L" for name in names])
    return steps.films_of(
        "jsrt",
        names,
        [files[name] for name in names],
        [f"film {name}" for name in names],
        view="PA",
        sex=[sex for sex, _ in known],
        age=[age for _, age in known],
        split=list(part.values()) if column == "split" else "train",
        fold=0 if column == "split" else [int(fold) for fold in part.values()],
        **{"Lung Lesion": nodule.astype(float), "No Finding": np.where(nodule, np.nan, 1.0)},
    )


def _mask(scr: Masks, name: str, need: Sequence[str]) -> Mask | None:
    files = [scr.of.get(name, {}).get(organ) for organ in need]
    return steps.joined([MaskFile(file, own_grid=True) if file else None for file in files])


def _facts(names: list[str], scr: Masks) -> dict[str, int]:
    folds = [scr.folds.get(name, parity_fold(name)) for name in names if name in scr.of]
    return {
        "films": len(names),
        "films with a nodule": sum(name[3] == "L" for name in names),
        "films without": sum(name[3] == "N" for name in names),
        **{f"{o} masks": sum(o in scr.of.get(name, {}) for name in names) for o in ORGANS},
        "films of fold1": folds.count(0),
        "films of fold2": folds.count(1),
    }


def find_root(folder: Path) -> Path | None:
    """The folder that holds the films or their folder: `folder`, its ``JSRT/`` or its parent.

    The parent, where `folder` is the films' own and holds no masks.
    """
    for root in (folder, child(folder, "JSRT")):
        if root is None or not any(holds(f, _FILM) for f in _film_folders(root)):
            continue
        of_parent = root.name.casefold() in ("all247images", "images")
        return root.parent if of_parent and not _mask_folders(root) else root
    return None


DATASET = steps.data_set(
    "jsrt",
    ("lungs", "organs"),
    find_root,
    read_jsrt,
    organs=tuple(CLASSES),
    split=tuple(SPLITS),
)
