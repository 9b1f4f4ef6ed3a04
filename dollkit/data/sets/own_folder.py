"""A folder of one's own: a table of films, their images, and masks if there are any."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.csvfile import BadRows, CsvTable, clean, read_csv, reject, words
from dollkit.data.dataset import DataSet
from dollkit.data.film_table import FilmTable, blank_films, is_there
from dollkit.data.films import SPLITS
from dollkit.data.masks import Mask, MaskFile, Union
from dollkit.data.splits import draw_task_split, split_by_share

log = logging.getLogger(__name__)

FIELDS: tuple[str, ...] = ("image", "patient", "study", "view", "sex", "age", "split")
HEADER = "image,patient,view,sex,age,split,No Finding,Cardiomegaly,Pleural Effusion"
HINT = f"write a CSV file (commas, UTF-8) whose first line is like {HEADER}"
ENDINGS: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".gif")
ALIKE = 0.8
"""Similarity (`difflib`) from which an unknown column counts as a misspelt one."""

_CODES: dict[str, tuple[dict[str, str], str]] = {
    "split": ({name.upper(): name for name in SPLITS}, "train, valid or test"),
    "view": ({"AP": "AP", "PA": "PA", "": ""}, "AP, PA or blank; leave lateral films out"),
    "sex": ({"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "": ""}, "M, F or blank"),
}


def read_own(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """A data set of one's own, in the layout below.

    Counts: whatever is there::

        mydata/
          films.csv                  one row per film; the first line names the columns
          images/...                 any depth; PNG, JPEG, TIFF or DICOM, 8 or 16 bit
          masks/<class>/....png      optional; the name and sub-folders of the film

    ``films.csv`` needs the column ``image`` only: path below ``images/`` (or below the folder
    itself). It may have ``patient``, ``study``, ``view`` (AP or PA), ``sex`` (M or F), ``age``
    (years), ``split`` (train, valid or test) and any of the 14 findings. Names of columns and of
    mask folders: letters in any case, ``_`` for blanks.

    Labels: findings in CheXpert's spelling: 1 positive, 0 negative, -1 uncertain, blank not
    mentioned; a finding without a column is blank throughout. An unknown column close to a known
    name is an error, since a misspelt finding would be read as absent from every film;
    columns that start with ``note``, and others, are passed over (told once in the log).

    Masks: grey, one class per file, on the grid of their film. Of two values the one beside 0 is
    inside (1, 77 or 255), of more all above 127; a file of several labels (0, 1, 2) is refused.
    ``masks/<finding>/`` gives mask classes of ``films``; ``masks/lungs/`` (or left and right
    lung, joined where a film has both) the store ``lungs``; ``masks/infection/`` the store
    ``infection``; two classes or more of lungs, left lung, right lung, heart, cardiomediastinum,
    clavicles, left clavicle, right clavicle give the store ``organs``. A film without a file has
    no such mask (unknown); an all-black file says that nothing is there.

    Splits: the column ``split``, never blank, or else drawn by the sha256 of the patient: 0.7
    train, 0.1 valid, 0.2 test. Films with masks are then drawn for each task (0.6, 0.15, 0.25;
    each has some from three patients on), and `readers.read` keeps who judges one out of training.

    Folder variants: none but the above.

    Traps: without ``patient`` each film counts as a patient of its own, and films of one person
    may land in train and in test: told in the log. Tags of DICOM files (names, sex, age) are not
    read, only pixels. A mask file without a film is surplus, told in the log. ``a.png`` and
    ``a.jpg`` would be one film ``a``: an error. Names that end in what is no image's ending (a
    DICOM ``1.2.840``) are kept whole, and the mask is then ``1.2.840.png``.

    Licence: yours.

    Cite: yours.

    Args:
        root: folder with ``films.csv``.
        skip_bad: leave wrong rows and mask folders out and note them.

    Returns:
        ``films``, and ``lungs``, ``infection``, ``organs`` if at least one film has such a mask;
        ``image_id`` is the path without ending, ``__`` for ``/``.
    """
    bad = BadRows()
    table, given = _read_table(root / "films.csv", bad if skip_bad else None)
    _check_values(table, root, given)
    _place_all(table, root)
    if {"split", "patient"} <= given:
        _one_split(table)
    films = _films(table, given)
    if films.empty:
        raise InputError(f"{table.path}: no film is left: {HINT}")
    masks, loose = read_masks(root, [_plain_name(name) for name in table.frame["name"]], table.bad)
    facts = {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        **{f"masks of {name}": int(masks[name].notna().sum()) for name in masks},
        "mask files without film": loose,
    }
    of_findings = masks[[f for f in FINDINGS if f in masks]]
    out = {"films": _table(root, "folder", films, of_findings, facts, bad)}
    for store, found in task_masks(masks).items():
        has = found.notna().any(axis=1).to_numpy()
        some, found = films[has].reset_index(drop=True), found[has].reset_index(drop=True)
        some["fold"] = 0
        if "split" not in given:
            some["split"] = draw_task_split(some["patient_id"].tolist(), found.notna().to_numpy())
        out[store] = _table(root, f"folder-{store}", some, found, facts, bad)
    return out


def _table(
    root: Path,
    source: str,
    films: pd.DataFrame,
    masks: pd.DataFrame,
    facts: dict[str, int],
    bad: BadRows,
) -> FilmTable:
    side = ("films.csv", "*.md", "*.txt", "LICENSE*")
    return FilmTable(source, films, root, masks=masks, side=side, facts=facts, bad=bad)


def _read_table(path: Path, bad: BadRows | None) -> tuple[CsvTable, set[str]]:
    """Rows with the columns that are read, under their own names, and which those are."""
    table = read_csv(path, (), bad, hint=HINT)
    header = [c for c in table.frame.columns if c != "row"]
    names: dict[str, str] = {}
    passed = []
    for column in header:
        name = _column(path, column)
        if name is None:
            passed += [column] if column else []
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
    table.frame = table.frame[[*names, "row"]].rename(columns=names)
    return table, set(names.values())


def _column(path: Path, column: str) -> str | None:
    """What a column is; None if it is to be passed over."""
    known = {name.lower(): name for name in (*FIELDS, *FINDINGS)}
    plain = words(column)
    if plain in known:
        return known[plain]
    if plain and not plain.startswith("note"):
        near = difflib.get_close_matches(plain, known, 3, ALIKE)
        if near:
            meant = " or ".join(repr(known[name]) for name in near)
            raise InputError(
                f"{path}: unknown column {column!r}: did you mean {meant}? A column of another "
                "meaning needs a name less alike, or one that starts with 'note'"
            )
    return None


def _check_values(table: CsvTable, root: Path, given: set[str]) -> None:
    """Drop or refuse the rows with a wrong value; what is left can be read without a check."""
    table.files("image", root)
    if "patient" in given:
        table.require(table.column("patient") != "", "patient", "the patient's id")
    for column, (codes, allowed) in _CODES.items():
        if column in given:
            table.require(table.column(column).str.upper().isin(list(codes)), column, allowed)
    if "age" in given:
        age = table.numbers("age")
        table.require(age.isna() | age.between(0, 130), "age", "years from 0 to 130, or blank")
    for finding in FINDINGS:
        if finding in given:
            table.states(finding)


def _place_all(table: CsvTable, root: Path) -> None:
    """Columns ``name`` (path below ``images/``) and ``path``; a film's second row is wrong."""
    placed = [_place(root, clean(text)) for text in table.frame["image"]]
    table.frame["name"] = [str(rel) for rel, _ in placed]
    table.frame["path"] = [str(path) for _, path in placed]
    ids = [_image_id(name) for name in table.frame["name"]]
    wrong: dict[int, str] = {}
    for i, j in _repeats(ids):
        name, other = table.frame["name"][i], table.frame["name"][j]
        row = table.frame["row"][j]
        wrong[i] = f"{name!r} stands in row {row} too: keep one row"
        if name != other:
            both = f"{name!r} and {other!r} of row {row}"
            wrong[i] = f"{both} would both be film {ids[i]!r}: rename one"
    _drop(table, wrong)


def _one_split(table: CsvTable) -> None:
    """Rows whose patient stands in another split further up are wrong."""
    split = table.column("split").str.lower()
    wrong: dict[int, str] = {}
    for i, j in _repeats(table.column("patient").tolist()):
        if split[i] != split[j]:
            here = f"patient {table.frame['patient'][i]!r} is in split {split[i]!r} here"
            there = f"in {split[j]!r} in row {table.frame['row'][j]}"
            wrong[i] = f"{here} and {there}: use one split per patient"
    _drop(table, wrong)


def _repeats(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Positions of keys that stand further up too, and where they do first."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) != i:
            yield i, first[key]


def _drop(table: CsvTable, wrong: dict[int, str]) -> None:
    for i, reason in wrong.items():
        reject(table.bad, table.path, f"{table.path}, row {table.frame['row'][i]}", reason)
    table.frame = table.frame.drop(index=list(wrong)).reset_index(drop=True)


def _place(root: Path, rel: PurePosixPath) -> tuple[PurePosixPath, Path]:
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


def _films(table: CsvTable, given: set[str]) -> pd.DataFrame:
    films = blank_films(len(table))
    films["image_id"] = [_image_id(name) for name in table.frame["name"]]
    films["patient_id"] = table.column("patient") if "patient" in given else films["image_id"]
    films["study_id"] = films["image_id"]
    if "study" in given:
        study = table.column("study")
        films["study_id"] = study.where(study != "", films["image_id"])
    for column, (codes, _) in _CODES.items():
        if column in given:
            films[column] = table.column(column).str.upper().map(codes)
    if "split" not in given:
        films["split"] = split_by_share(films["patient_id"])
    if "age" in given:
        films["age"] = table.numbers("age")
    for finding in FINDINGS:
        if finding in given:
            films[finding] = table.states(finding)
    films["source"] = "folder"
    films["path"] = table.frame["path"]
    films["where"] = table.where()
    return films


def _find(folder: Path) -> Path | None:
    # A packed store has a films.csv of its own.
    store = any((folder / name).exists() for name in ("store.json", "images.npy"))
    return folder if (folder / "films.csv").is_file() and not store else None


DATASET = DataSet(
    name="folder",
    title="folder of your own",
    stores=("films", "lungs", "infection", "organs"),
    find=_find,
    read=read_own,
    documented={},
    tree=f"films.csv (first line like {HEADER}) and images/",
    licence="yours",
    cite="yours",
)


# Masks of a folder of one's own: one sub-folder per class, files named like their films.


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
