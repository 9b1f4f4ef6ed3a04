"""Where the films, masks and readings of Montgomery and Shenzhen lie in a tree."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, reject
from dollkit.data.film_table import blank_films
from dollkit.data.folders import child, descend, files_of, holds
from dollkit.data.masks import Mask, MaskFile, Union
from dollkit.data.splits import share

PREFIXES = {"montgomery": "MCUCXR", "shenzhen": "CHNCXR"}
"""How the names of a set's films start."""

_FILM = {n: re.compile(rf"({p}_(\d{{4}})_([01]))\.PNG", re.I) for n, p in PREFIXES.items()}
_MASK = {n: re.compile(rf"({p}_\d{{4}}_[01])(_MASK)?\.PNG", re.I) for n, p in PREFIXES.items()}
_MONTGOMERY = (
    (),
    ("MontgomerySet",),
    ("Montgomery",),
    ("Montgomery", "MontgomerySet"),
    ("NLM-MontgomeryCXRSet", "MontgomerySet"),
    ("Montgomery-County-CXR-Set", "MontgomerySet"),
)
_SHENZHEN = (
    (),
    ("ChinaSet_AllFiles",),
    ("ChinaSet_AllFiles", "ChinaSet_AllFiles"),
    ("Shenzhen",),
    ("Shenzhen", "ChinaSet_AllFiles"),
    ("Shenzhen-Hospital-CXR-Set",),
)
_MIXED = ((), ("Lung Segmentation",), ("Lung Segmentation", "Lung Segmentation"))
_MASK_FOLDERS = (
    ("mask",),
    ("mask", "mask"),
    ("masks",),
    ("masks", "masks"),
    ("shcxr-lung-mask", "mask"),
    ("shcxr-lung-mask", "mask", "mask"),
)
_SEX = re.compile(r"\bSex\s*:\s*(M|F)\b|\b(male|female)\b", re.I)
# Right after the sex only: what follows may tell of "fever for 3 days".
_AGE = re.compile(
    r"\bAge\s*:\s*(\d{1,3})\s*([YMWD]?)|\b(?:fe)?male\W{1,3}(\d{1,3})\s*-?\s*(y|mo|mth|w|d)", re.I
)
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


TRAIN, VALID = 0.7, 0.1
"""Expected shares of the films; the rest is test. Ours: the sets have no split."""


@dataclass
class Part:
    """Films of one of the two sets.

    Attributes:
        source: montgomery or shenzhen.
        films: file by film; films and masks by id, such as ``MCUCXR_0001_0``.
        masks: lungs of the films that have a whole mask.
        others: files that are not read.
        halves: films with the mask of one lung only.
        readings: folder of the clinical readings.
    """

    source: str
    films: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Mask] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    halves: int = 0
    readings: Path | None = None


def locate_montgomery(folder: Path) -> Path | None:
    """The folder of ``CXR_png`` and ``ManualMask``, at or below `folder`."""
    for names in _MONTGOMERY:
        root = descend(folder, names)
        if root is not None and child(root, "CXR_png") and child(root, "ManualMask"):
            return root
    return None


def locate_shenzhen(folder: Path) -> Path | None:
    """The folder of ``CXR_png`` with Shenzhen's films alone, at or below `folder`."""
    for names in _SHENZHEN:
        root = descend(folder, names)
        images = child(root, "CXR_png") if root is not None else None
        if holds(images, _FILM["shenzhen"]) and not holds(images, _FILM["montgomery"]):
            return root
    return None


def shenzhen_masks(root: Path) -> Path | None:
    """Folder of Shenzhen's masks: in the set's own folder, or beside it, for they come apart."""
    doubled = root.parent.name.casefold() == root.name.casefold()
    for base in (root, root.parent, *([root.parent.parent] if doubled else [])):
        for names in _MASK_FOLDERS:
            masks = descend(base, names)
            if holds(masks, _MASK["shenzhen"]):
                return masks
    return None


def locate_mixed(folder: Path) -> Path | None:
    """The folder of ``CXR_png`` with films of both sets and ``masks``, at or below `folder`."""
    for names in _MIXED:
        root = descend(folder, names)
        if root is None or child(root, "masks") is None:
            continue
        if all(holds(child(root, "CXR_png"), form) for form in _FILM.values()):
            return root
    return None


def read_montgomery(root: Path, bad: BadRows | None) -> Part:
    """Montgomery as released: left and right lung are joined, one alone is no mask."""
    part = _films("montgomery", root, bad)
    manual = child(root, "ManualMask") or root / "ManualMask"
    left, right = (_masks("montgomery", child(manual, f"{s}Mask"), bad) for s in ("left", "right"))
    for name in part.films:
        if name in left and name in right:
            part.masks[name] = Union((MaskFile(left[name]), MaskFile(right[name])))
        elif name in left or name in right:
            part.halves += 1
            part.others.append(left.get(name) or right[name])
    return part


def read_joined(source: str, root: Path, masks: Path | None, bad: BadRows | None) -> Part:
    """A set with one mask file per film: Shenzhen, or either set in the mixed copy."""
    part = _films(source, root, bad)
    inside = (255,) if source == "montgomery" else (1, 255)
    for name, file in _masks(source, masks, bad).items():
        if name in part.films:
            part.masks[name] = MaskFile(file, inside=inside)
    return part


def _patient(part: Part, name: str) -> tuple[str, float]:
    """Sex (M, F, "") and age (years, NaN) from a film's reading; whatever is unclear is unknown."""
    if part.readings is None:
        return "", np.nan
    try:
        text = (part.readings / f"{name}.txt").read_bytes().decode("utf-8-sig", errors="replace")
    except OSError:
        return "", np.nan
    return parse_reading(text)


def parse_reading(text: str) -> tuple[str, float]:
    """Sex and age of ``Patient's Sex: F``, ``Patient's Age: 027Y`` or of ``male 35yrs``."""
    sex, age = _SEX.search(text), _AGE.search(text)
    years = np.nan
    if age:
        unit = (age[2] if age[1] else age[4][0]).upper()
        years = int(age[1] or age[3]) * _YEARS[unit]
    return ((sex[1] or sex[2])[0].upper() if sex else ""), years


def films_table(part: Part) -> pd.DataFrame:
    """Films of a set in the store's columns."""
    names = list(part.films)
    films = blank_films(len(names))
    for column in ("image_id", "patient_id", "study_id"):
        films[column] = names
    patients = [_patient(part, name) for name in names]
    films["sex"] = [sex for sex, _ in patients]
    films["age"] = np.array([age for _, age in patients], float)
    films["view"] = "PA" if part.source == "montgomery" else ""
    films["split"] = [split_of(name) for name in names]
    films["fold"] = 0
    films["source"] = part.source
    films["No Finding"] = [1.0 if name.endswith("_0") else np.nan for name in names]
    films["path"] = [str(file) for file in part.films.values()]
    films["where"] = [f"film {name}" for name in names]
    return films


def split_of(image_id: str) -> str:
    """Part that a film is in: train, valid or test."""
    place = share(image_id)
    if place < TRAIN:
        return "train"
    return "valid" if place < TRAIN + VALID else "test"


def neighbours(root: Path, own: tuple[Path, ...]) -> tuple[str, ...]:
    """Patterns of what lies in `root` beside a set's own folders: it is of other data sets."""
    kept = {folder.relative_to(root).parts[0] for folder in own if root in folder.parents}
    patterns = []
    with os.scandir(root) as entries:
        beside = sorted((e.name, e.is_dir()) for e in entries if e.name not in kept)
    for name, is_folder in beside:
        plain = glob.escape(name)
        patterns += [plain + "/*" * k for k in range(1, 9)] if is_folder else [plain]
    return tuple(patterns)


def _films(source: str, root: Path, bad: BadRows | None) -> Part:
    part = Part(source, readings=child(root, "ClinicalReadings"))
    by_number: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    images = child(root, "CXR_png")
    for match, file in files_of(images, _FILM[source]):
        by_number[match[2]].append((match[1].upper(), file))
    for rows in by_number.values():
        name, file = rows[0]
        if len(rows) > 1:
            both = f"{file} and {rows[1][1]}"
            why = "twice" if rows[1][0] == name else "both as normal (_0) and as tuberculosis (_1)"
            reject(bad, rows[1][1], f"film {name}", f"there {why}, {both}: keep one")
            part.others += [f for _, f in rows]
        else:
            part.films[name] = file
    if not by_number:
        where = images or root / "CXR_png"
        known = f"{PREFIXES[source]}_0001_0.png (_1: tuberculosis)"
        raise InputError(f"{where}: no film of {source.title()}: expected {known}")
    return part


def _masks(source: str, folder: Path | None, bad: BadRows | None) -> dict[str, Path]:
    """Mask files by film; the film's name alone or with ``_mask``."""
    out: dict[str, Path] = {}
    twice: set[str] = set()
    for match, file in files_of(folder, _MASK[source]):
        name = match[1].upper()
        if name in out:
            reject(bad, file, f"film {name}", f"mask twice, {out[name]} and {file}: keep one")
            twice.add(name)
        else:
            out[name] = file
    return {name: file for name, file in out.items() if name not in twice}
