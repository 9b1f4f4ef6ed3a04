"""A folder of your own: a table of films, their images, and masks if there are any."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dollkit.common.errors import InputError, near
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.csvfile import STRICT, BadRows, CsvTable, clean, read_csv, words
from dollkit.data.drawn_masks import DrawnMask, drawn_masks
from dollkit.data.film_table import SPLITS, FilmTable
from dollkit.data.images import is_dicom
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.common_steps import is_litter
from dollkit.data.splits import PATIENT_ID, draw_task_split, split_by_share, unify_patients

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
KNOWN_COLUMNS = {name.lower(): name for name in (*FIELDS, *FINDINGS)}
_KNOWN_CLASSES = {name.lower(): name for name in CLASSES} | {"lung": "lungs"}


def read_own(
    root: Path, bad: BadRows = STRICT, patient_id: str = PATIENT_ID[0]
) -> dict[str, FilmTable]:
    """``films``, and ``lungs``, ``infection``, ``organs`` if at least one film has such a mask.

    The layout is in data/README.md. ``image_id`` is the path without its ending, ``__`` for
    ``/``. A film without a file of masks has no such mask (unknown); an all-black file says that
    nothing is there. Without a column ``split`` patients are drawn by the hash of their id, and
    films with masks for each task again. `patient_id`: see `unify_patients`.
    """
    table = read_csv(root / "films.csv", (), bad, hint=HINT)
    passed = name_columns(table)
    if "image" not in table.frame:
        raise InputError(f"{table.path}: column 'image' is missing: {HINT}")
    if passed:
        log.info("%s: columns passed over: %s", table.path, ", ".join(passed))
    if "patient" not in table.frame:
        log.warning(
            "%s: no column 'patient': each film counts as a patient of its own, so films of one "
            "person may land in train and in test",
            table.path,
        )
    films, note = read_films(table, root / "images", root, patient_id)
    if note:
        log.warning("%s: %s", table.path, note)
    masks, loose = _read_masks(root, [stem(n) for n in table.frame["name"]], bad)
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


def name_columns(table: CsvTable, columns: Mapping[str, str] | None = None) -> list[str]:
    """Keep the columns that are read, under the names of `FIELDS` and `FINDINGS`; returns the rest.

    `columns`: what a column is in place of its own name; "" leaves it out.
    """
    meant = columns or {}
    names: dict[str, str] = {}
    passed = []
    for column in (c for c in table.frame.columns if c not in ("row", "") and meant.get(c) != ""):
        name = _column(table.path, meant.get(column, column))
        if name is None:
            passed.append(column)
        elif name in names.values():
            raise InputError(f"{table.path}: column {name!r} stands there twice: keep one")
        else:
            names[column] = name
    table.frame = table.frame[[*names, "row"]].rename(columns=names)
    return passed


def _column(path: Path, column: str) -> str | None:
    """What a column is; None if it is to be passed over."""
    plain = words(column)
    if plain in KNOWN_COLUMNS:
        return KNOWN_COLUMNS[plain]
    alike = difflib.get_close_matches(plain, KNOWN_COLUMNS, 3, 0.8)
    # A misspelt finding would be read as absent from every film.
    if alike and not plain.startswith("note"):
        meant = " or ".join(repr(KNOWN_COLUMNS[name]) for name in alike)
        raise InputError(
            f"{path}: unknown column {column!r}: did you mean {meant}? A column of another "
            "meaning needs a name less alike, or one that starts with 'note'"
        )
    return None


def read_films(
    table: CsvTable, images: Path, root: Path | None = None, patient_id: str = PATIENT_ID[0]
) -> tuple[pd.DataFrame, str]:
    """Films table of the images below a folder, or else below `root`, and what to tell of the ids
    of patients (`unify_patients`); wrong rows are dropped or refused. Without a column ``split``
    patients are drawn by the hash of their id."""
    note = ""
    if "patient" in table.frame:
        table.frame["patient"], note = unify_patients(table.column("patient"), patient_id)
    lacking = {*FIELDS, *FINDINGS} - {*table.frame, "patient", "split"}
    table.frame = table.frame.assign(**dict.fromkeys(lacking, ""))
    _check_values(table, images, root)
    if not len(table):
        raise InputError(f"{table.path}: no film is left: {HINT}")
    names = [image_id(name) for name in table.frame["name"]]
    films = steps.films_of("folder", names, table.frame["path"], table.where())
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
    return films, note


def _check_values(table: CsvTable, images: Path, root: Path | None) -> None:
    """Drop or refuse rows with a wrong value; adds columns ``name`` and ``path`` of the film."""
    table.files("image", images)
    if "patient" in table.frame:
        table.require(table.column("patient") != "", "patient", "the patient's id")
    for column, (codes, allowed) in _CODES.items():
        if column in table.frame:
            table.require(table.column(column).str.upper().isin(list(codes)), column, allowed)
    age = table.numbers("age")
    table.require(age.isna() | age.between(0, 130), "age", "years from 0 to 130, or blank")
    for finding in FINDINGS:
        table.states(finding)
    placed = [_place(images, root, clean(text)) for text in table.frame["image"]]
    table.frame["name"] = [str(name) for name, _ in placed]
    table.frame["path"] = [str(path) for _, path in placed]
    ids = table.frame["name"].map(image_id)
    table.require(~ids.duplicated(), "image", "each film once (endings do not count, / is __)")
    if {"split", "patient"} <= {*table.frame}:
        split = table.column("split").str.lower()
        first = split.groupby(table.column("patient")).transform("first")
        table.require(split == first, "split", "one split per patient, that of its first row")


def _place(images: Path, root: Path | None, name: PurePosixPath) -> tuple[PurePosixPath, Path]:
    """Path of an image below ``images/`` or below the folder itself, and the file."""
    # os.path: where nobody may look nothing is found, and `film_table.placing` tells why.
    if not os.path.isfile(images / name):  # noqa: PTH113
        if name.parts[0] == "images" and len(name.parts) > 1:
            name = name.relative_to("images")
        elif root and (os.path.isfile(root / name) or not images.is_dir()):  # noqa: PTH113
            return name, root / name
    return name, images / name


def stem(name: str) -> str:
    """A film's name without the ending of an image, which masks are named by; ``1.2.840`` stays."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in ENDINGS else name


def image_id(name: str) -> str:
    """A film's id: its name without the ending of an image, ``__`` for ``/``."""
    return stem(name).replace("/", "__")


def _read_masks(root: Path, names: Sequence[str], bad: BadRows) -> tuple[pd.DataFrame, int]:
    """Masks below ``masks/``: a column a class, a row a film of `names`; how many fit no film."""
    folder = root / "masks"
    drawn: dict[str, list[DrawnMask | None]] = {}
    loose: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        cls = _KNOWN_CLASSES.get(words(path.name))
        if is_litter(path.name):
            continue
        if not path.is_dir():
            loose.append(path)
        elif cls is None:
            known = f"no class of masks{near(path.name.lower(), CLASSES) or ';'} use one of "
            bad.reject(path, str(path), known + ", ".join(CLASSES))
        elif cls in drawn:
            bad.reject(path, str(path), f"a second folder of the class {cls!r}: keep one")
        else:
            paths = (PurePosixPath(file) for file in list_files(path))
            files = {str(p.with_suffix(p.suffix.lower())): path / p for p in paths}
            of_films = [files.pop(f"{name}.png", None) for name in names]
            drawn[cls] = drawn_masks(of_films, bad.skip)
            loose += files.values()
    if loose:
        log.warning(
            "%s: %d files belong to no film of films.csv (first: %s); a mask has the name and "
            "sub-folders of its film, ending .png",
            folder, len(loose), loose[0].relative_to(folder),
        )  # fmt: skip
    columns = {name: drawn[name] for name in CLASSES if any(drawn.get(name, ()))}
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


def list_files(folder: Path) -> list[str]:
    """Files below a folder by relative path, sorted; hidden ones and litter left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of the films or masks")

    def closed(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})")

    names = []
    for here, below, files in os.walk(folder, onerror=closed):
        below[:] = [name for name in below if not is_litter(name)]
        for name in below:
            if (link := Path(here, name)).is_symlink():
                raise InputError(f"{link}: links to folders are not followed: put the folder there")
        inside = Path(here).relative_to(folder)
        names += [(inside / name).as_posix() for name in files if not is_litter(name)]
    return sorted(names)


def list_films(folder: Path) -> list[str]:
    """Films below a folder by relative path: files with an image's ending, and DICOM without."""
    names = [
        name
        for name in list_files(folder)
        # DICOMDIR, the table of contents of a CD, is DICOM and no film.
        if PurePosixPath(name).name != "DICOMDIR"
        and (PurePosixPath(name).suffix.lower() in ENDINGS or is_dicom(folder / name))
    ]
    if not names:
        raise InputError(f"{folder}: no film here ({', '.join(ENDINGS)}): check the folder")
    first: dict[str, str] = {}
    for name in names:
        if (twin := first.setdefault(stem(name), name)) != name:
            raise InputError(f"{folder}: {twin!r} and {name!r} would share one mask: rename one")
    return names


def _find(folder: Path) -> Path | None:
    # A packed store has a films.csv of its own.
    store = any((folder / name).exists() for name in ("store.json", "images.npy"))
    return folder if (folder / "films.csv").is_file() and not store else None


DATASET = steps.data_set(
    "folder", ("films", "lungs", "infection", "organs"), _find, read_own, patient_id=PATIENT_ID
)
