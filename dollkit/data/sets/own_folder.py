"""A folder of your own: a table of films, their images, and masks if there are any."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dollkit.common.errors import InputError, near
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.csvfile import BadRows, CsvTable, clean, read_csv, reject, words
from dollkit.data.film_table import SPLITS, FilmTable, is_there
from dollkit.data.masks import MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.splits import draw_task_split, split_by_share

log = logging.getLogger(__name__)

FIELDS: tuple[str, ...] = ("image", "patient", "study", "view", "sex", "age", "split")
HEADER = "image,patient,view,sex,age,split,No Finding,Cardiomegaly,Pleural Effusion"
HINT = f"write a CSV file (commas, UTF-8) whose first line is like {HEADER}"
ENDINGS: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".gif")

ANATOMY: tuple[str, ...] = (
    *("lungs", "left lung", "right lung", "heart", "cardiomediastinum"),
    *("clavicles", "left clavicle", "right clavicle"),
)
"""Classes of the organs task. Left is the patient's left."""

CLASSES: tuple[str, ...] = (*ANATOMY, "infection", *PATHOLOGIES)
"""Classes of masks: names of the folders below ``masks/``."""

_CODES: dict[str, tuple[dict[str, str], str]] = {
    "split": ({name.upper(): name for name in SPLITS}, "train, valid or test"),
    "view": ({"AP": "AP", "PA": "PA", "": ""}, "AP, PA or blank; leave lateral films out"),
    "sex": ({"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "": ""}, "M, F or blank"),
}
_KNOWN_COLUMNS = {name.lower(): name for name in (*FIELDS, *FINDINGS)}
_KNOWN_CLASSES = {name.lower(): name for name in CLASSES} | {"lung": "lungs"}


def read_own(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """``films``, and ``lungs``, ``infection``, ``organs`` if at least one film has such a mask.

    The layout is in data/README.md. ``image_id`` is the path without its ending, ``__`` for
    ``/``. A film without a file of masks has no such mask (unknown); an all-black file says that
    nothing is there. Without a column ``split`` patients are drawn by the hash of their id, and
    films with masks for each task again.
    """
    bad = BadRows()
    table = _read_table(root / "films.csv", bad if skip_bad else None)
    _check_values(table, root)
    films = _films(table)
    if films.empty:
        raise InputError(f"{table.path}: no film is left: {HINT}")
    masks, loose = _read_masks(root, [_plain_name(n) for n in table.frame["name"]], table.bad)
    facts = {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        **{f"masks of {name}": int(masks[name].notna().sum()) for name in masks},
        "mask files without film": loose,
    }
    of_films = masks[[f for f in FINDINGS if f in masks]]
    out = {"films": steps.make_table("folder", films, root, of_films, facts=facts, bad=bad)}
    for store, classes in _task_masks(masks).items():
        has = classes.notna().any(axis=1).to_numpy()
        chosen, marked = (frame[has].reset_index(drop=True) for frame in (films, classes))
        chosen["fold"] = 0
        if "split" not in table.frame:
            patients = chosen["patient_id"].tolist()
            chosen["split"] = draw_task_split(patients, marked.notna().to_numpy())
        out[store] = steps.make_table(
            "folder", chosen, root, marked, facts=facts, bad=bad, store=store
        )
    return out


def _read_table(path: Path, bad: BadRows | None) -> CsvTable:
    """Rows with the columns that are read; those that the file lacks are blank.

    But ``patient`` and ``split`` are there only if the file has them.
    """
    table = read_csv(path, (), bad, hint=HINT)
    names: dict[str, str] = {}
    passed = []
    for column in (c for c in table.frame.columns if c not in ("row", "")):
        name = _column(path, column)
        if name is None:
            passed.append(column)
        elif name in names.values():
            raise InputError(f"{path}: column {name!r} stands there twice: keep one")
        else:
            names[column] = name
    if "image" not in names.values():
        raise InputError(f"{path}: column 'image' is missing: {HINT}")
    if passed:
        log.info("%s: columns passed over: %s", path, ", ".join(passed))
    if "patient" not in names.values():
        log.warning(
            "%s: no column 'patient': each film counts as a patient of its own, so films of one "
            "person may land in train and in test",
            path,
        )
    lacking = {*FIELDS, *FINDINGS} - {*names.values(), "patient", "split"}
    blank = dict.fromkeys(lacking, "")
    table.frame = table.frame[[*names, "row"]].rename(columns=names).assign(**blank)
    return table


def _column(path: Path, column: str) -> str | None:
    """What a column is; None if it is to be passed over."""
    plain = words(column)
    if plain in _KNOWN_COLUMNS:
        return _KNOWN_COLUMNS[plain]
    alike = difflib.get_close_matches(plain, _KNOWN_COLUMNS, 3, 0.8)
    # A misspelt finding would be read as absent from every film.
    if alike and not plain.startswith("note"):
        meant = " or ".join(repr(_KNOWN_COLUMNS[name]) for name in alike)
        raise InputError(
            f"{path}: unknown column {column!r}: did you mean {meant}? A column of another "
            "meaning needs a name less alike, or one that starts with 'note'"
        )
    return None


def _check_values(table: CsvTable, root: Path) -> None:
    """Drop or refuse rows with a wrong value; adds columns ``name`` and ``path`` of the film."""
    table.files("image", root)
    if "patient" in table.frame:
        table.require(table.column("patient") != "", "patient", "the patient's id")
    for column, (codes, allowed) in _CODES.items():
        if column in table.frame:
            table.require(table.column(column).str.upper().isin(list(codes)), column, allowed)
    age = table.numbers("age")
    table.require(age.isna() | age.between(0, 130), "age", "years from 0 to 130, or blank")
    for finding in FINDINGS:
        table.states(finding)
    placed = [_place(root, clean(text)) for text in table.frame["image"]]
    table.frame["name"] = [str(rel) for rel, _ in placed]
    table.frame["path"] = [str(path) for _, path in placed]
    frame = table.frame
    ids = [_image_id(name) for name in frame["name"]]

    def same_film(i: int, j: int) -> str:
        name, other, row = frame["name"][i], frame["name"][j], frame["row"][j]
        if name == other:
            return f"{name!r} stands in row {row} too: keep one row"
        return f"{name!r} and {other!r} of row {row} would both be film {ids[i]!r}: rename one"

    _drop_repeats(table, ids, same_film)
    if {"split", "patient"} <= {*table.frame}:
        rows, split = table.frame, table.column("split").str.lower()

        def other_split(i: int, j: int) -> str:
            here = f"patient {rows['patient'][i]!r} is in split {split[i]!r} here"
            there = f"in {split[j]!r} in row {rows['row'][j]}"
            return "" if split[i] == split[j] else f"{here} and {there}: use one split per patient"

        _drop_repeats(table, table.column("patient").tolist(), other_split)


def _drop_repeats(table: CsvTable, keys: Sequence[str], fault: Callable[[int, int], str]) -> None:
    """Drop or refuse rows whose key stands further up, if `fault` of both positions says why."""
    first: dict[str, int] = {}
    wrong = []
    for i, key in enumerate(keys):
        j = first.setdefault(key, i)
        if i != j and (reason := fault(i, j)):
            reject(table.bad, table.path, f"{table.path}, row {table.frame['row'][i]}", reason)
            wrong.append(i)
    table.frame = table.frame.drop(index=wrong).reset_index(drop=True)


def _place(root: Path, rel: PurePosixPath) -> tuple[PurePosixPath, Path]:
    """Path of an image below ``images/`` or below the folder itself, and the file."""
    images = root / "images"
    if is_there(images / rel):
        return rel, images / rel
    if rel.parts[0] == "images" and len(rel.parts) > 1:
        return rel.relative_to("images"), root / rel
    if is_there(root / rel) or not images.is_dir():
        return rel, root / rel
    return rel, images / rel


def _plain_name(name: str) -> str:
    """Path below ``images/`` without the image's ending."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in ENDINGS else name


def _image_id(name: str) -> str:
    return _plain_name(name).replace("/", "__")


def _films(table: CsvTable) -> pd.DataFrame:
    ids = [_image_id(name) for name in table.frame["name"]]
    films = steps.films_of("folder", ids, table.frame["path"], table.where())
    if "patient" in table.frame:
        films["patient_id"] = table.column("patient")
    study = table.column("study")
    films["study_id"] = study.where(study != "", films["image_id"])
    films["split"] = split_by_share(films["patient_id"])
    for column, (codes, _) in _CODES.items():
        if column in table.frame:
            films[column] = table.column(column).str.upper().map(codes)
    films["age"] = table.numbers("age")
    for finding in FINDINGS:
        films[finding] = table.states(finding)
    return films


def _read_masks(root: Path, names: Sequence[str], bad: BadRows | None) -> tuple[pd.DataFrame, int]:
    """Masks below ``masks/``: a column per class that a film of `names` has, a row per film.

    Also the number of files there that belong to no film.
    """
    folder = root / "masks"
    found: dict[str, dict[str, Path]] = {}
    loose: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = _KNOWN_CLASSES.get(words(path.name))
        if _litter(path.name):
            continue
        if not path.is_dir():
            loose.append(path)
        elif name is None or name in found:
            twice = f"a second folder of the class {name!r}: keep one"
            known = f"no class of masks{near(path.name.lower(), CLASSES) or ';'} use one of "
            reject(bad, path, str(path), twice if name else known + ", ".join(CLASSES))
        else:
            files = _files(path)
            found[name] = {n: f for n in names if (f := files.get(f"{n}.png")) is not None}
            used = set(found[name].values())
            loose += [f for f in files.values() if f not in used]
    if loose:
        log.warning(
            "%s: %d files belong to no film of films.csv (first: %s); a mask has the name and "
            "sub-folders of its film, ending .png",
            folder, len(loose), loose[0].relative_to(folder),
        )  # fmt: skip
    columns = {
        name: [MaskFile(f, threshold=True) if (f := found[name].get(n)) else None for n in names]
        for name in CLASSES
        if found.get(name)
    }
    return pd.DataFrame(columns, index=range(len(names)), dtype=object), len(loose)


def _task_masks(masks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mask classes of each downstream task that any film has masks for; rows as in `masks`."""
    out: dict[str, pd.DataFrame] = {}
    whole, left, right = (masks.get(name, [None] * len(masks)) for name in ANATOMY[:3])
    halves = map(steps.joined, zip(left, right, strict=True))
    lungs = [both or parts for both, parts in zip(whole, halves, strict=True)]
    if any(lungs):
        out["lungs"] = pd.DataFrame({"lungs": lungs}, index=masks.index, dtype=object)
    if "infection" in masks:
        out["infection"] = masks[["infection"]]
    organs = [name for name in ANATOMY if name in masks]
    return out | ({"organs": masks[organs]} if len(organs) > 1 else {})


def _files(folder: Path) -> dict[str, Path]:
    """Files below a folder by their path in it, with slashes; the ending in lower case."""
    out: dict[str, Path] = {}
    for here, below, names in os.walk(folder):
        below[:] = [b for b in below if not _litter(b)]
        for name in (n for n in below if n.lower().endswith(".png")):
            raise InputError(f"{here}/{name}: a folder with the name of a mask: rename it")
        for path in (Path(here, name) for name in names if not _litter(name)):
            inner = path.relative_to(folder)
            out[inner.with_suffix(inner.suffix.lower()).as_posix()] = path
    return dict(sorted(out.items()))


def _litter(name: str) -> bool:
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _find(folder: Path) -> Path | None:
    # A packed store has a films.csv of its own.
    store = any((folder / name).exists() for name in ("store.json", "images.npy"))
    return folder if (folder / "films.csv").is_file() and not store else None


DATASET = steps.data_set("folder", ("films", "lungs", "infection", "organs"), _find, read_own)
