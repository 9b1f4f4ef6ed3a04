"""The tuberculosis films of Montgomery County and Shenzhen with their lung masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import STRICT, BadRows
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Mask, MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.common_steps import child, files_of, first_folder, holds
from dollkit.data.splits import split_by_share

PREFIXES = {"montgomery": "MCUCXR", "shenzhen": "CHNCXR"}
"""How the names of a set's films start; they end in _0 (normal) or _1 (tuberculosis)."""

ONE_LUNG = "Montgomery films with the mask of one lung"

_FILM = {n: re.compile(rf"({p}_(\d{{4}})_([01]))\.PNG", re.I) for n, p in PREFIXES.items()}
_MASK = {n: re.compile(rf"({p}_\d{{4}}_[01])(_MASK)?\.PNG", re.I) for n, p in PREFIXES.items()}
_MONTGOMERY = (
    *("", "MontgomerySet", "Montgomery", "Montgomery/MontgomerySet"),
    *("NLM-MontgomeryCXRSet/MontgomerySet", "Montgomery-County-CXR-Set/MontgomerySet"),
)
_SHENZHEN = (
    *("", "ChinaSet_AllFiles", "ChinaSet_AllFiles/ChinaSet_AllFiles", "Shenzhen"),
    *("Shenzhen/ChinaSet_AllFiles", "Shenzhen-Hospital-CXR-Set"),
)
_MASK_FOLDERS = (
    *("mask", "mask/mask", "masks", "masks/masks"),
    *("shcxr-lung-mask/mask", "shcxr-lung-mask/mask/mask"),
)
_SEX = re.compile(r"\bSex\s*:\s*(M|F)\b|\b(male|female)\b", re.I)
# Right after the sex only: what follows may tell of "fever for 3 days".
_AGE = re.compile(
    r"\bAge\s*:\s*(\d{1,3})\s*([YMWD]?)|\b(?:fe)?male\W{1,3}(\d{1,3})\s*-?\s*(y|mo|mth|w|d)", re.I
)
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def find_montgomery(folder: Path) -> Path | None:
    """The folder of ``CXR_png`` and ``ManualMask``, at or below `folder`."""
    return first_folder(
        folder, _MONTGOMERY, lambda root: child(root, "CXR_png") and child(root, "ManualMask")
    )


def find_shenzhen(folder: Path) -> Path | None:
    """The folder of ``CXR_png`` with Shenzhen's films alone, at or below `folder`."""

    def alone(root: Path) -> bool:
        films = child(root, "CXR_png")
        return [name for name, form in _FILM.items() if holds(films, form)] == ["shenzhen"]

    return first_folder(folder, _SHENZHEN, alone)


def read_nlm(
    root: Path, bad: BadRows = STRICT, *, sets: Sequence[str] = tuple(PREFIXES)
) -> dict[str, FilmTable]:
    """``lungs``: both sets or one of them; films["source"] tells them apart, Montgomery's first.

    One film per patient is assumed; a film is drawn into a split by the hash of its id, the same
    whichever `sets` are read. A film with the mask of one lung only has none (it is unknown).
    """
    tables, others, places = [], [], []
    facts: dict[str, int] = {}
    for source in sets:
        here = (find_montgomery if source == "montgomery" else find_shenzhen)(root) or root
        folders = _mask_folders(source, here)
        films, files, counts = _read_set(source, here, folders, bad)
        tables.append(films)
        others += files
        facts |= counts
        places += [here, *(folder for folder in folders if folder is not None)]
    films = pd.concat(tables, ignore_index=True)
    if films.empty:
        raise InputError(f"{root}: no film is left: every one is there twice")
    masks = films.pop("mask").tolist()
    if not any(masks):
        raise InputError(
            f"{root}: {len(films)} films, but no whole lung mask of any: expected mask/ with "
            "CHNCXR_0001_0_mask.png, or ManualMask/ with both lungs; data/README.md shows the tree"
        )
    both = len(sets) > 1
    root = root if both else places[0]
    table = steps.make_table(
        "nlm" if both else sets[0],
        films,
        root,
        {"lungs": masks},
        others=others,
        facts=facts,
        bad=bad,
        beside=tuple(
            file for mask in masks if mask for file in mask.files if root not in file.parents
        ),
        # What lies beside the sets' own folders is of other data sets.
        folders=tuple(
            root / place.relative_to(root).parts[0]
            for place in places
            if both and root in place.parents
        ),
    )
    return {"lungs": table}


def _mask_folders(source: str, root: Path) -> list[Path | None]:
    """Folders whose masks are joined; Shenzhen's may lie beside the set, for they come apart."""
    if source == "montgomery":
        manual = child(root, "ManualMask") or root / "ManualMask"
        return [child(manual, "leftMask"), child(manual, "rightMask")]
    doubled = root.parent.name.casefold() == root.name.casefold()
    bases = (root, root.parent, *([root.parent.parent] if doubled else []))
    places = (
        first_folder(base, _MASK_FOLDERS, lambda folder: holds(folder, _MASK["shenzhen"]))
        for base in bases
    )
    return [next((place for place in places if place is not None), None)]


def _read_set(
    source: str, root: Path, folders: Sequence[Path | None], bad: BadRows
) -> tuple[pd.DataFrame, list[Path], dict[str, int]]:
    """Films of a set with the column ``mask``, all its files, and counts."""
    files, others = _list_films(source, root, bad)
    sides = [_list_masks(source, folder, bad) for folder in folders]
    names, title = list(files), source.title()
    inside = (255,) if source == "montgomery" else (1, 255)
    masks: list[Mask | None] = []
    halves = 0
    for name in names:
        drawn = [side[name] for side in sides if name in side]
        whole = len(drawn) == len(sides)
        masks.append(steps.joined([MaskFile(f, inside) for f in drawn]) if whole else None)
        halves += bool(drawn) and not whole
        others += drawn
    readings = child(root, "ClinicalReadings")
    patients = [_patient(readings, name) for name in names]
    films = steps.films_of(
        source,
        names,
        files.values(),
        [f"film {name}" for name in names],
        sex=[sex for sex, _ in patients],
        age=np.array([age for _, age in patients], float),
        # Shenzhen's children are AP, and which those are is not told.
        view="PA" if source == "montgomery" else "",
        split=split_by_share(names),
        fold=0,
        mask=pd.Series(masks, dtype=object),
        **{"No Finding": [1.0 if name.endswith("_0") else np.nan for name in names]},
    )
    normal = sum(name.endswith("_0") for name in names)
    facts = {
        f"{title} films": len(names),
        f"{title} normal": normal,
        f"{title} tuberculosis": len(names) - normal,
        f"{title} lung masks": sum(mask is not None for mask in masks),
    }
    facts |= {ONE_LUNG: halves} if source == "montgomery" else {}
    return films, others, facts


def _list_films(source: str, root: Path, bad: BadRows) -> tuple[dict[str, Path], list[Path]]:
    """The file of each film, and all files."""
    by_number: dict[str, list[Path]] = defaultdict(list)
    images = child(root, "CXR_png")
    for match, file in files_of(images, _FILM[source]):
        by_number[match[2]].append(file)
    if not by_number:
        known = f"{PREFIXES[source]}_0001_0.png (_1: tuberculosis)"
        place = images or root / "CXR_png"
        raise InputError(f"{place}: no film of {source.title()}: expected {known}")

    def fault(one: Path, other: Path) -> str:
        both = one.stem.upper() != other.stem.upper()
        return "there both as normal (_0) and as tuberculosis (_1)" if both else "there twice"

    listed = {files[0].stem.upper(): files for files in by_number.values()}
    return steps.keep_single(listed, bad, fault), [f for files in listed.values() for f in files]


def _list_masks(source: str, folder: Path | None, bad: BadRows) -> dict[str, Path]:
    """Mask files by film; the film's name alone or with ``_mask``."""
    listed: dict[str, list[Path]] = defaultdict(list)
    for match, file in files_of(folder, _MASK[source]):
        listed[match[1].upper()].append(file)
    return steps.keep_single(listed, bad, lambda one, other: "mask twice")


def parse_reading(text: str) -> tuple[str, float]:
    """Sex and age of ``Patient's Sex: F``, ``Patient's Age: 027Y`` or of ``male 35yrs``."""
    sex, age = _SEX.search(text), _AGE.search(text)
    years = np.nan
    if age:
        unit = (age[2] if age[1] else age[4][0]).upper()
        years = int(age[1] or age[3]) * _YEARS[unit]
    return ((sex[1] or sex[2])[0].upper() if sex else ""), years


def _patient(readings: Path | None, name: str) -> tuple[str, float]:
    """Sex (M, F, "") and age (years, NaN) from a film's reading; whatever is unclear is unknown."""
    try:
        text = (readings / f"{name}.txt").read_bytes() if readings is not None else b""
    except OSError:
        return "", np.nan
    return parse_reading(text.decode("utf-8-sig", errors="replace"))


MONTGOMERY = steps.data_set(
    "montgomery", ("lungs",), find_montgomery, partial(read_nlm, sets=("montgomery",))
)
SHENZHEN = steps.data_set(
    "shenzhen", ("lungs",), find_shenzhen, partial(read_nlm, sets=("shenzhen",))
)
DATASET = steps.data_set(
    "nlm", ("lungs",), lambda f: f if find_montgomery(f) and find_shenzhen(f) else None, read_nlm
)
