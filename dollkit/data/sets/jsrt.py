"""JSRT's films with the SCR masks of lungs, heart and clavicles."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, reject
from dollkit.data.dataset import DataSet
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.folders import child, descend, files_of, holds
from dollkit.data.masks import Mask, MaskFile, Union
from dollkit.data.splits import draw_parts, read_split, write_split

# Where JSRT's films, SCR's masks and the clinical lines lie in a tree.


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


LUNGS = ("left lung", "right lung")
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "merged": {
        "lungs": LUNGS,
        "heart": ("heart",),
        "clavicles": ("left clavicle", "right clavicle"),
    },
    "apart": {organ: (organ,) for organ in ORGANS},
}
"""Mask classes of the store organs and SCR's organs behind each, by the option ``organs``."""

SPLITS: dict[str, tuple[str, str]] = {
    "172_25_50": ("jsrt_172_25_50.csv", "split"),
    "scr_folds": ("jsrt_scr_folds.csv", "fold"),
}
"""File in ``data/splits`` and its column, by the option ``split``."""

SHARES = {"train": 172, "valid": 25, "test": 50}
SIDE = ("*.txt", "*.TXT", "*.md", "*.pdf", "*.html", "*.npy", "landmarks/*", "points/*")
"""Clinical and other texts, SCR's contours, landmarks by others."""


def read_jsrt(
    root: Path,
    *,
    skip_bad: bool = False,
    organs: str = "merged",
    split: str = "172_25_50",
    splits: Path | None = None,
) -> dict[str, FilmTable]:
    """JSRT: posterior-anterior chest films of 13 institutions in Japan and one in the USA.

    Counts: 247 films, 154 with exactly one nodule (``JPCLN001`` to ``154``), 93 without
    (``JPCNN001`` to ``093``). Film scans of 2048 x 2048, 0.175 mm per pixel, 12 bits, in raw
    files of 8,388,608 bytes: big-endian 16 bit, no header, inverted (bone is dark). SCR has
    all five organs of all films, 1024 x 1024 GIF.

    Masks: SCR's first observer. Lungs without mediastinum, heart, aorta and what lies below the
    diaphragm; the heart's upper and lower border are drawn from anatomical knowledge. Left and
    right are the patient's. Inside 255, outside 0; on a grid of their own. A class of which one
    half is missing is unknown on that film, and so is every class of a film without masks.

    Findings: Lung Lesion 1 for films with a nodule, 0 for those without, and No Finding 1 for
    the latter; everything else is unknown.

    Splits: ``data/splits/jsrt_172_25_50.csv`` (train, valid, test; the sizes are published, who
    is where is our own draw, stratified by nodule) or, with ``split="scr_folds"``,
    ``data/splits/jsrt_scr_folds.csv``: SCR's two folds, 124 films of odd and 123 of even number.
    That parity decides is inferred; where the folders tell the fold, the film's number
    must agree.

    Folder variants: films in ``All247images/``, ``images/``, ``JSRT/`` (either of the first two
    doubled) or right here, as ``.IMG`` or converted to ``.PNG``, names in any case; a raw film
    comes before its conversion. Masks (GIF or PNG) in ``fold1/masks/<organ>/`` and ``fold2/``,
    ``fold1/<organ>/``, or ``masks/<organ>/`` with the folds merged; here or below ``scratch/``,
    ``scr/`` or ``scr/scratch/``; folders with blanks or underscores.

    Traps: one film per patient is assumed (the set has no patient ids), so patient_id is the
    film's name. Some leave JPCLN016 out: films may be missing. A conversion may have been
    inverted, equalised or not: films of both kinds do not look alike. Two ages are unknown.
    ``CLNDAT_EN.txt`` and ``CNNDAT_EN.TXT`` end lines with a carriage return only; they are
    optional, give age and sex, and hold words cut in two by tabs.

    Licence: films: registration at JSRT, no grant to pass them on was found. SCR: free for
    research and education, no redistribution, no commercial use, must be cited.

    Cite: Shiraishi et al., AJR 174, 2000 (JSRT); van Ginneken, Stegmann, Loog, Medical Image
    Analysis 10, 2006 (SCR).

    Args:
        root: folder of the films' and masks' folders.
        skip_bad: leave wrong films and lines out and note them in ``bad``.
        organs: "merged" (lungs, heart, clavicles) or "apart" (each lung and clavicle).
        split: "172_25_50" or "scr_folds".
        splits: folder of the split CSV files; None: the repository's ``data/splits``.

    Returns:
        ``organs`` and ``lungs`` (both lungs as one class), same films in the order of `NAMES`.
    """
    if organs not in CLASSES or split not in SPLITS:
        raise InputError(
            f"options organs={organs!r}, split={split!r}: use organs {' or '.join(CLASSES)}, "
            f"split {' or '.join(SPLITS)}"
        )
    bad = BadRows()
    told = bad if skip_bad else None
    files, others = list_films(root, told)
    if not files:
        raise InputError(f"{root}: no film of JSRT: expected {DATASET.tree}")
    scr = list_masks(root, told)
    if not scr.of and not scr.wrong:
        raise InputError(
            f"{root}: no SCR mask with the films: expected scratch/fold1/masks/<organ>/"
            "JPCLN001.gif and fold2; data/README.md shows the tree"
        )
    part = _parts(scr, files, split, splits or paths.SPLITS, told)
    for name in set(files) - set(part):
        others += [files[name], *scr.wrong.get(name, scr.of.get(name, {}).values())]
    if not part:
        raise InputError(f"{root}: no film of JSRT is left: every one has wrong masks")
    films = _table(part, files, list_patients(root, told), SPLITS[split][1])
    classes: dict[str, dict[str, tuple[str, ...]]] = {
        "lungs": {"lungs": LUNGS},
        "organs": CLASSES[organs],
    }
    for need in CLASSES[organs].values():
        others += [f for name in part for f in _half(scr, name, need)]
    return {
        store: FilmTable(
            "jsrt",
            films,
            root,
            masks=_mask_table(part, scr, of),
            others=tuple(others),
            side=SIDE,
            facts=_facts(part, scr),
            bad=bad,
        )
        for store, of in classes.items()
    }


def draw_splits(out: Path | str) -> list[Path]:
    """Write both split CSV files; they are committed, and this is how they were made.

    The films' names alone decide, no data are needed.

    Returns:
        paths written.
    """
    nodule = [[name[3] == "L"] for name in NAMES]
    part = draw_parts(NAMES, nodule, list(SHARES.values()))
    table = pd.DataFrame({"image_id": NAMES, "patient_id": NAMES})
    table["split"] = np.array(list(SHARES))[part]
    table["fold"] = [parity_fold(name) for name in NAMES]
    written = []
    for file, column in SPLITS.values():
        written.append(Path(out) / file)
        write_split(written[-1], table, column)
    return written


def _parts(
    scr: Masks, films: Iterable[str], split: str, folder: Path, bad: BadRows | None
) -> dict[str, str]:
    """Split or fold of each film that is right, in the order of `NAMES`."""
    file, column = SPLITS[split]
    given = read_split(folder / file, {name: name for name in films}, column, subset=True)
    allowed = list(SHARES) if column == "split" else ["0", "1"]
    odd = given[~given.isin(allowed)]
    if len(odd):
        raise InputError(
            f"{folder / file}: column {column!r}: {odd.iloc[0]!r}: use {', '.join(allowed)}: "
            "restore the file"
        )
    out: dict[str, str] = {}
    for name in sorted(set(films) - set(scr.wrong)):
        if column == "fold" and str(scr.folds.get(name, given[name])) != given[name]:
            at = next(iter(scr.of[name].values()))
            reason = (
                f"its mask {at} is in fold{scr.folds[name] + 1}, {file} has it in "
                f"fold{int(given[name]) + 1}: put it there, or use split=172_25_50"
            )
            reject(bad, at, f"film {name}", reason)
        else:
            out[name] = given[name]
    return out


def _table(
    part: Mapping[str, str],
    files: Mapping[str, Path],
    patients: Mapping[str, tuple[str, float]],
    column: str,
) -> pd.DataFrame:
    names = list(part)
    films = blank_films(len(names))
    for id_column in ("image_id", "patient_id", "study_id"):
        films[id_column] = names
    films["view"] = "PA"
    films["sex"] = [patients.get(name, ("", np.nan))[0] for name in names]
    films["age"] = [patients.get(name, ("", np.nan))[1] for name in names]
    films["split"] = list(part.values()) if column == "split" else "train"
    films["fold"] = 0 if column == "split" else [int(fold) for fold in part.values()]
    films["source"] = "jsrt"
    nodule = np.array([name[3] == "L" for name in names])
    films["Lung Lesion"] = nodule.astype(float)
    films["No Finding"] = np.where(nodule, np.nan, 1.0)
    films["path"] = [str(files[name]) for name in names]
    films["where"] = [f"film {name}" for name in names]
    return films


def _mask_table(
    names: Iterable[str], scr: Masks, classes: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    columns = {c: [_mask(scr, name, need) for name in names] for c, need in classes.items()}
    return pd.DataFrame(columns, dtype=object)


def _mask(scr: Masks, name: str, need: Sequence[str]) -> Mask | None:
    there = scr.of.get(name, {})
    parts = tuple(MaskFile(there[organ], own_grid=True) for organ in need if organ in there)
    if len(parts) < len(need):
        return None
    return parts[0] if len(parts) == 1 else Union(parts)


def _half(scr: Masks, name: str, need: Sequence[str]) -> list[Path]:
    """Masks that are read for no class, because the other half is missing."""
    there = [scr.of[name][organ] for organ in need if organ in scr.of.get(name, {})]
    return there if len(there) < len(need) else []


def _facts(names: Iterable[str], scr: Masks) -> dict[str, int]:
    names = list(names)
    return {
        "films": len(names),
        "films with a nodule": sum(name[3] == "L" for name in names),
        "films without": sum(name[3] == "N" for name in names),
        **{f"{o} masks": sum(o in scr.of.get(name, {}) for name in names) for o in ORGANS},
        **{f"films of fold{k + 1}": sum(scr.fold(name) == k for name in names) for k in (0, 1)},
    }


DATASET = DataSet(
    name="jsrt",
    title="JSRT with SCR masks",
    stores=("lungs", "organs"),
    find=find_root,
    read=read_jsrt,
    documented={
        "films": len(NAMES),
        "films with a nodule": NODULES,
        "films without": WITHOUT,
        **{f"{organ} masks": len(NAMES) for organ in ORGANS},
        "films of fold1": 124,
        "films of fold2": 123,
    },
    options={"organs": tuple(CLASSES), "split": tuple(SPLITS)},
    tree="All247images/ with JPCLN001.IMG (or .png), and SCR's scratch/fold1/masks/ and fold2/",
    licence="films by registration; SCR for research and education; neither to be passed on",
    cite="Shiraishi et al., AJR 2000; van Ginneken et al., Medical Image Analysis 2006 (SCR)",
    size="247 films of 2048x2048, 2.1 GB",
)
