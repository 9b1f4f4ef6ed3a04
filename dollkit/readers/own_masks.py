"""Masks of a folder of one's own: one sub-folder per class, files named like their films."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import PATHOLOGIES
from dollkit.readers.csvfile import BadRows, reject, words
from dollkit.readers.masks import Mask, MaskFile, Union

log = logging.getLogger(__name__)

ANATOMY: tuple[str, ...] = (
    "lungs",
    "left lung",
    "right lung",
    "heart",
    "cardiomediastinum",
    "clavicles",
    "left clavicle",
    "right clavicle",
)
"""Classes of the organs task. Left is the patient's left."""

CLASSES: tuple[str, ...] = (*ANATOMY, "infection", *PATHOLOGIES)
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")

_KNOWN = {name.lower(): name for name in CLASSES} | {"lung": "lungs"}


def read_masks(root: Path, names: Sequence[str], bad: BadRows | None) -> tuple[pd.DataFrame, int]:
    """Masks below ``masks/`` by class.

    Args:
        root: the folder of one's own.
        names: of the films: path below ``images/``, without the ending.
        bad: where wrong folders go; None: the first is an error.

    Returns:
        one column per class that any film has, in the order of `CLASSES`, with a `MaskFile` or
        None per film; and the number of files below ``masks/`` that belong to no film.
    """
    folder = root / "masks"
    found: dict[str, dict[str, Path]] = {}
    loose: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _litter(path.name):
            continue
        if not path.is_dir():
            loose.append(path)
            continue
        name = _KNOWN.get(words(path.name))
        if name is None or name in found:
            reject(bad, path, str(path), _wrong(path.name, name))
            continue
        files = _files(path)
        found[name] = {n: f for n in names if (f := files.get(f"{n}.png")) is not None}
        used = set(found[name].values())
        loose += [f for f in files.values() if f not in used]
    if loose:
        log.warning(
            "%s: %d files belong to no film of films.csv (first: %s); a mask has the name and "
            "sub-folders of its film, ending .png",
            folder,
            len(loose),
            loose[0].relative_to(folder),
        )
    columns = {
        name: [_mask(found[name].get(n)) for n in names] for name in CLASSES if found.get(name)
    }
    return pd.DataFrame(columns, index=range(len(names)), dtype=object), len(loose)


def task_masks(masks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mask classes of each downstream task that any film has masks for; rows as in `masks`."""
    out: dict[str, pd.DataFrame] = {}
    lungs = [_lungs(dict(zip(masks.columns, row, strict=True))) for row in masks.to_numpy()]
    if any(lungs):
        out["lungs"] = pd.DataFrame({"lungs": lungs}, index=masks.index, dtype=object)
    if "infection" in masks:
        out["infection"] = masks[["infection"]]
    organs = [name for name in ANATOMY if name in masks]
    if len(organs) > 1:
        out["organs"] = masks[organs]
    return out


def _lungs(film: Mapping[str, Mask | None]) -> Mask | None:
    """Both lungs of a film as one mask."""
    left, right = film.get("left lung"), film.get("right lung")
    joined = Union((left, right)) if left is not None and right is not None else None
    return film.get("lungs") or joined


def _mask(path: Path | None) -> MaskFile | None:
    return MaskFile(path, threshold=True) if path is not None else None


def _wrong(folder: str, name: str | None) -> str:
    if name is not None:
        return f"a second folder of the class {name!r}: keep one"
    near = difflib.get_close_matches(folder.lower(), _KNOWN, 1)
    meant = f"did you mean {_KNOWN[near[0]]!r}? " if near else ""
    return f"no class of masks: {meant}Use one of {', '.join(CLASSES)}"


def _files(folder: Path) -> dict[str, Path]:
    """Files below a folder by their path in it, with slashes; the ending in lower case."""
    out: dict[str, Path] = {}
    for here, below, names in os.walk(folder):
        below[:] = [b for b in below if not _litter(b)]
        for name in below:
            if name.lower().endswith(".png"):
                raise InputError(f"{here}/{name}: a folder with the name of a mask: rename it")
        for name in names:
            if not _litter(name):
                path = Path(here, name)
                inner = path.relative_to(folder)
                out[inner.with_suffix(inner.suffix.lower()).as_posix()] = path
    return dict(sorted(out.items()))


def _litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
