"""JSRT's films with the SCR masks of lungs, heart and clavicles."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.csvfile import STRICT, BadRows, read_text
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Mask, MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.common_steps import child, descend, files_of, holds
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
"""File in ``splits`` and its column, by the option ``split``."""

_FILM = re.compile(r"(JPC[LN]N\d{3})\.(IMG|PNG)", re.IGNORECASE)
_MASK = re.compile(r"(JPC[LN]N\d{3})\.(?:GIF|PNG)", re.IGNORECASE)
_CLINICAL = re.compile(r"C[LN]NDAT_EN\.TXT", re.IGNORECASE)
# What stands before the age and after the sex is not read: words cut in two by tabs.
_LINE = re.compile(
    r"(JPC[LN]N\d{3})\S*\s(?:.*?\s)??(\d{1,3}|\?|)(?:\t| +)(male|female)\b.*", re.IGNORECASE
)
_FILM_FOLDERS = ("", "All247images", "All247images/All247images", "images", "images/images")
_ABOVE_MASKS = ("", "scratch", "scr", "scr/scratch")


Drawn = dict[str, list[tuple[int, str, Path]]]
"""SCR's masks by film: fold (0, 1), organ and file of each."""


def parity_fold(film: str) -> int:
    """SCR's fold of a film by its number: 0 (fold1) if odd, 1 (fold2) if even; inferred."""
    return 1 - int(film[5:]) % 2


def read_jsrt(
    root: Path, bad: BadRows = STRICT, *, organs: str = "merged", split: str = "172_25_50"
) -> dict[str, FilmTable]:
    """``organs`` and ``lungs`` (both lungs as one class) of the same films, in `NAMES`' order.

    Masks are on a grid of their own (1024 pixels). A class of which one half is missing is unknown
    on that film. `organs` and `split` are as in `CLASSES` and `SPLITS`.
    """
    files, others = _list_films(root, bad)
    scr, wrong = _list_masks(root, bad)
    part = _parts(scr, wrong, list(files), split, bad)
    names = list(part)
    if not names:
        raise InputError(f"{root}: no film of JSRT is left, of those that are sound")
    patients = _list_patients(root, bad)
    known = [patients.get(name, ("", np.nan)) for name in names]
    nodule = np.array([name[3] == "L" for name in names])
    whole = SPLITS[split][1] == "split"
    films = steps.films_of(
        "jsrt",
        names,
        [files[name] for name in names],
        [f"film {name}" for name in names],
        view="PA",
        sex=[sex for sex, _ in known],
        age=[age for _, age in known],
        split=list(part.values()) if whole else "train",
        fold=0 if whole else [int(fold) for fold in part.values()],
        **{"Lung Lesion": nodule.astype(float), "No Finding": np.where(nodule, np.nan, 1.0)},
    )
    drawn = {name: {organ: file for _, organ, file in scr.get(name, [])} for name in names}
    folds = [scr[name][0][0] for name in names if name in scr]
    facts = {
        "films": len(names),
        "films with a nodule": int(nodule.sum()),
        "films without": int((~nodule).sum()),
        **{f"{organ} masks": sum(organ in drawn[name] for name in names) for organ in ORGANS},
        **{f"films of fold{fold + 1}": folds.count(fold) for fold in (0, 1)},
    }
    others += [file for name in files for _, _, file in scr.get(name, [])]
    out = {}
    for store, classes in (("lungs", {"lungs": LUNGS}), ("organs", CLASSES[organs])):
        masks = {cls: [_mask(drawn[name], need) for name in names] for cls, need in classes.items()}
        out[store] = steps.make_table(
            "jsrt", films, root, masks, others=others, facts=facts, bad=bad
        )
    return out


def _mask(drawn: Mapping[str, Path], need: Sequence[str]) -> Mask | None:
    files = [drawn.get(organ) for organ in need]
    return steps.joined([MaskFile(file, own_grid=True) if file else None for file in files])


def _list_films(root: Path, bad: BadRows) -> tuple[dict[str, Path], list[Path]]:
    """Film files by name, in the order of `NAMES`, the raw one where there is one; all files."""
    raw: dict[str, list[Path]] = defaultdict(list)
    converted: dict[str, list[Path]] = defaultdict(list)
    for folder in _film_folders(root):
        for match, file in files_of(folder, _FILM):
            (raw if match[2].upper() == "IMG" else converted)[match[1].upper()].append(file)
    names = sorted({*raw, *converted})
    listed = {name: raw.get(name, converted[name]) for name in names}
    for name in sorted(set(names) - set(NAMES)):
        file, known = listed.pop(name)[0], "JPCLN001 to JPCLN154, JPCNN001 to JPCNN093"
        bad.reject(file, str(file), f"no film of JSRT: names run {known}; remove it")
    files = [file for kind in (raw, converted) for same in kind.values() for file in same]
    return steps.keep_single(listed, bad), files


def _film_folders(root: Path) -> list[Path]:
    places = [descend(root, below) for below in _FILM_FOLDERS]
    # Films in JSRT/ are this folder's only where the masks lie beside it: else JSRT/ is the root.
    beside = child(root, "JSRT")
    if beside is not None and holds(beside, _FILM) and _mask_folders(root):
        places.append(beside)
    return list(dict.fromkeys(place for place in places if place is not None))


def _mask_folders(root: Path) -> list[tuple[int | None, Path]]:
    """Folders of the organs' folders, with their fold; those with folds before merged ones."""
    bases = [base for below in _ABOVE_MASKS if (base := descend(root, below)) is not None]
    for base in bases:
        places: list[tuple[int | None, Path]] = [
            (fold - 1, folder)
            for fold in (1, 2)
            for below in (f"fold{fold}/masks", f"fold{fold}")
            if (folder := _with_organs(descend(base, below))) is not None
        ]
        if places:
            return places
    merged = (_with_organs(child(base, "masks")) for base in bases)
    first = next((folder for folder in merged if folder is not None), None)
    return [(None, first)] if first is not None else []


def _with_organs(folder: Path | None) -> Path | None:
    return folder if folder and any(child(folder, organ) for organ in ORGANS) else None


def _list_masks(root: Path, bad: BadRows) -> tuple[Drawn, set[str]]:
    """SCR's masks; and films that are wrong, for masks in both folds or twice in one."""
    scr: Drawn = {}
    for fold, folder in _mask_folders(root):
        for organ in ORGANS:
            for match, file in files_of(child(folder, organ), _MASK):
                name = match[1].upper()
                of = parity_fold(name) if fold is None else fold
                scr.setdefault(name, []).append((of, organ, file))
    if not scr:
        raise InputError(
            f"{root}: no SCR mask with the films: expected scratch/fold1/masks/<organ>/"
            "JPCLN001.gif and fold2; data/README.md shows the tree"
        )
    wrong = set()
    for name, masks in scr.items():
        pairs = combinations(masks, 2)
        for one, other in (p for p in pairs if p[0][0] != p[1][0] or p[0][1] == p[1][1]):
            what = "mask twice" if one[0] == other[0] else "masks in both folds"
            bad.reject(other[2], f"film {name}", f"{what} ({one[2]} and {other[2]}): keep one")
            wrong.add(name)
            break
    return scr, wrong


def _list_patients(root: Path, bad: BadRows) -> dict[str, tuple[str, float]]:
    """Sex (M, F) and age (years, NaN: unknown) by film, from the clinical files that are there."""
    places = [root, child(root, "Clinical Information"), *_film_folders(root)]
    files: dict[str, Path] = {}
    for _, file in (pair for place in places for pair in files_of(place, _CLINICAL)):
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
                bad.reject(file, f"{file}, row {row}", f"{why}: mend the line or drop the file")
    return out


def _parts(
    scr: Drawn, wrong: set[str], films: Sequence[str], split: str, bad: BadRows
) -> dict[str, str]:
    """Split or fold of each film that is right, in the order of `NAMES`."""
    file, column = SPLITS[split]
    parts = read_split(paths.SPLITS / file, {name: name for name in films}, column, subset=True)
    for name in sorted(set(films) - wrong) if column == "fold" else ():
        for fold, _, mask in scr.get(name, [])[:1]:
            if str(fold) != parts[name]:
                reason = (
                    f"its mask {mask} is in fold{fold + 1}, {file} has it in "
                    f"fold{int(parts[name]) + 1}: put it there, or use split=172_25_50"
                )
                bad.reject(mask, f"film {name}", reason)
                wrong.add(name)
    return {name: parts[name] for name in sorted(set(films) - wrong)}


def find_root(folder: Path) -> Path | None:
    """The folder that holds the films or their folder: `folder`, its ``JSRT/`` or its parent."""
    for root in (folder, child(folder, "JSRT")):
        if root is None or not any(holds(f, _FILM) for f in _film_folders(root)):
            continue
        of_parent = root.name.casefold() in ("all247images", "images")
        return root.parent if of_parent and not _mask_folders(root) else root
    return None


DATASET = steps.data_set(
    "jsrt", ("lungs", "organs"), find_root, read_jsrt, organs=tuple(CLASSES), split=tuple(SPLITS)
)
