"""JSRT's films with the SCR masks of lungs, heart and clavicles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit import paths
from dollkit.errors import InputError
from dollkit.readers.csvfile import BadRows, reject
from dollkit.readers.dataset import DataSet
from dollkit.readers.jsrt_files import (
    NAMES,
    NODULES,
    ORGANS,
    WITHOUT,
    Masks,
    find_root,
    list_films,
    list_masks,
    list_patients,
    parity_fold,
)
from dollkit.readers.masks import Mask, MaskFile, Union
from dollkit.readers.splits import draw_parts, read_split, write_split
from dollkit.readers.table import FilmTable, blank_films

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
