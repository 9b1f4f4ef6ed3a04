"""A folder of films, a table of findings, a folder of masks: read as one, and checked first."""

from __future__ import annotations

import csv
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from dollkit.common.errors import InputError, near
from dollkit.common.findings import FINDINGS
from dollkit.data import images
from dollkit.data.csvfile import read_csv, words
from dollkit.data.film_table import FilmTable, lost_files
from dollkit.data.masks import MaskFile, check_grid
from dollkit.data.sets.own_folder import ENDINGS, FIELDS, HINT, read_own
from dollkit.data.splits import draw_parts, draw_task_split

KNOWN = {name.lower(): name for name in (*FIELDS, *FINDINGS)}
PLACED = [name for name in FINDINGS if name != "No Finding"]
"""Findings that lie somewhere in the film."""

MANY, SHARES = 300, (0.75, 0.15, 0.1)
"""Patients from which splits are drawn by hash; of fewer, shares of train, valid and test."""

LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
MASK_ENDINGS = (".png", ".tif", ".tiff", ".gif")
LARGE = 0.6
"""Share of a film above which no anatomy reaches: inside and outside may have changed places."""


@dataclass(frozen=True)
class Radiographs:
    """Films with findings, each of split ``train``, ``valid`` or ``test``; films that have all
    masks (`task`), with the table's own split or with folds for cross-validation by patient;
    counts by name; and what you should know before starting."""

    films: FilmTable
    task: FilmTable
    facts: Mapping[str, int]
    notes: tuple[str, ...]


def read_radiographs(
    films: Path,
    findings: Path,
    masks: Path,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    folds: int = 4,
) -> Radiographs:
    """Read films, findings and masks, and check that they go together; decodes nothing.

    Films of patients with masks are kept out of what classifiers and pre-training learn from
    (split ``test``), so that no film is judged on that any of its networks has seen. Where the
    table has a column ``split``, that column rules instead.

    Args:
        findings: CSV file; column ``image`` (path below `films`), perhaps ``patient``, ``split``
            and others of `read_own`, and any of the 14 findings.
        masks: folder with ``<class>/<path of the film>.png`` (or TIFF, GIF).
        columns: column of the file to what it is, a name above; "" leaves it out.
        classes: to segment; none: all folders of masks.
        folds: parts for cross-validation, if the table has no split.
    """
    there = list_films(films)
    frame, passed = read_findings(findings, columns or {})
    table = _read_films(films, findings, frame)
    if len(lost := lost_files(table)):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(
            f"{lost.iloc[0]['reason']}{more}: column 'image' holds paths below {films}: put the "
            "film there or mend the row"
        )
    names = [Path(p).relative_to(films).as_posix() for p in table.films["path"]]
    found = read_masks(masks, films, names, classes)
    whole = found.notna().all(axis=1).to_numpy()
    if not whole.any():
        raise InputError(f"{masks}: no film has all of the masks {', '.join(found.columns)}")
    split = "split" in frame
    task = _task(table, found, whole, folds, split)
    kept, notes = _classification(table, set(task.films["patient_id"]), split)
    if passed:
        notes.append(
            f"columns that are not read: {', '.join(passed)} (if one is a finding, tell which by "
            "parameter 'columns')"
        )
    if "patient" not in frame:
        notes.append(
            "the table has no column 'patient': each film counts as a patient of its own, so that "
            "films of one person may be trained and judged on; intervals are then too narrow"
        )
    if len(table) > len(kept):
        notes.append(f"{len(table) - len(kept)} films without any finding teach no classifier")
    if missing := len(set(map(stem, there)) - set(map(stem, names))):
        notes.append(f"{missing} films of the folder have no row: they are only predicted")
    if partly := int(found.notna().any(axis=1).sum() - whole.sum()):
        notes.append(f"{partly} films have some of the masks only: they are left out")
    learning = kept.films.loc[kept.films["split"] == "train", list(FINDINGS)] == 1
    if alike := learning.columns[learning.all()].tolist():
        notes.append(f"every film to learn from has {', '.join(alike)}: give films without, too")
    if rare := [f"{f} ({n})" for f, n in learning.sum().items() if 0 < n < 10]:
        notes.append(f"fewer than 10 positive films to learn from: {', '.join(rare)}")
    facts = {
        "films in the folder": len(there),
        "films with a row": len(table),
        "films with findings": len(kept),
        "patients": table.films["patient_id"].nunique(),
        "films with all masks": len(task),
        "patients with masks": task.films["patient_id"].nunique(),
    }
    facts |= {f"positive: {f}": int((kept.films[f] == 1).sum()) for f in FINDINGS}
    return Radiographs(kept, task, facts, tuple(notes))


# Files below a folder.


def stem(name: str) -> str:
    """A film's name without the ending of an image, which masks are named by; ``1.2.840`` stays."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in ENDINGS else name


def list_films(folder: Path) -> list[str]:
    """Films below a folder by relative path: files with an image's ending, and DICOM without."""
    names = [
        name
        for name in _list_files(folder)
        # DICOMDIR, the table of contents of a CD, is DICOM and no film.
        if PurePosixPath(name).name != "DICOMDIR"
        and (PurePosixPath(name).suffix.lower() in ENDINGS or images.is_dicom(folder / name))
    ]
    if not names:
        raise InputError(f"{folder}: no film here ({', '.join(ENDINGS)}): check the folder")
    first: dict[str, str] = {}
    for name in names:
        if (twin := first.setdefault(stem(name), name)) != name:
            raise InputError(f"{folder}: {twin!r} and {name!r} would share one mask: rename one")
    return names


def _list_files(folder: Path) -> list[str]:
    """Files below a folder by relative path, sorted; hidden ones and litter left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of the films or masks")

    def closed(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})")

    names = []
    for here, below, files in os.walk(folder, onerror=closed):
        below[:], files = ([n for n in all_ if not n.startswith(".") and n not in LITTER]
                           for all_ in (below, files))  # fmt: skip
        for name in below:
            if (link := Path(here, name)).is_symlink():
                raise InputError(f"{link}: links to folders are not followed: put the folder there")
        names += [Path(here, file).relative_to(folder).as_posix() for file in files]
    return sorted(names)


# The table.


def read_findings(path: Path, columns: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """The table under the names that `read_own` knows, as text, and the columns it does not.

    The index is the row as a spreadsheet counts.
    """
    frame = read_csv(path, hint=HINT).frame.set_index("row")
    header = [str(c) for c in frame if c]  # spreadsheets leave nameless ones
    for theirs, ours in columns.items():
        if theirs not in header:
            raise InputError(f"{path}: no column {theirs!r}, parameter 'columns' names it"
                             f"{near(theirs, header)}")  # fmt: skip
        if ours and words(ours) not in KNOWN:
            raise InputError(
                f"parameter 'columns' takes {theirs!r} for {ours!r}{near(ours, KNOWN.values())}: "
                f"use one of {', '.join(KNOWN.values())}, or '' to leave it out"
            )
    kept = [c for c in header if columns.get(c) != ""]
    frame = frame[kept].rename(columns=lambda c: KNOWN.get(words(columns.get(c, c)), c))
    for needed, what in ((["image"], "'image' (path of the film)"), (FINDINGS, "of a finding")):
        if not set(frame) & set(needed):
            raise InputError(
                f"{path}: no column {what} among {', '.join(header)}: name one "
                f"{' or '.join(needed[:3])}, or tell by parameter 'columns' which it is, such as "
                f"{{'theirs': {needed[0]!r}}}"
            )
    unknown = [c for c in kept if c in frame and c not in KNOWN.values()]
    return frame, [c for c in unknown if not words(c).startswith("note")]


def _read_films(films: Path, findings: Path, frame: pd.DataFrame) -> FilmTable:
    """Films as `read_own` reads them, in a folder like its own that lasts as long as that takes."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "images").symlink_to(films.resolve(), target_is_directory=True)
        with (root / "films.csv").open("w", encoding="utf-8", newline="") as file:
            rows = dict(zip(frame.index, frame.to_numpy().tolist(), strict=True))
            out = csv.writer(file, lineterminator="\n")
            out.writerow(frame.columns)
            out.writerows(rows.get(row, []) for row in range(2, max(rows, default=1) + 1))
        log = logging.getLogger(read_own.__module__)
        level = log.level
        log.setLevel(logging.ERROR)  # our notes tell the same, without the temporary file
        try:
            table = read_own(root)["films"]
        except InputError as error:
            raise InputError(str(error).replace(str(root / "films.csv"), str(findings))) from None
        finally:
            log.setLevel(level)
        inside = [Path(path).relative_to(root / "images") for path in table.films["path"]]
        where = [w.replace(str(root / "films.csv"), str(findings)) for w in table.films["where"]]
    read = table.films.assign(path=[str(films / path) for path in inside], where=where)
    return replace(table, films=read, root=films, side=(), facts={})


# Masks, and what each part of the work gets.


def read_masks(
    masks: Path, films: Path, names: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """A column per class with a `MaskFile` or None for each of the films `names`.

    Sizes are read from the headers of masks and films; no pixel is decoded.
    """
    row_of = {stem(name): i for i, name in enumerate(names)}
    # `predict` leaves its index beside the folders of classes.
    files = [f for f in _list_files(masks) if not f.startswith("predictions.")]
    folders = {words(PurePosixPath(f).parts[0]): PurePosixPath(f).parts[0] for f in files}
    wanted = [words(name) for name in classes] or list(folders)
    if len(set(wanted)) < len(wanted):
        raise InputError(f"parameter 'classes' is {list(classes)}: each class once")
    columns: dict[str, list[MaskFile | None]] = {}
    for name in wanted:
        column: list[MaskFile | None] = [None] * len(names)
        for file in files:
            top, _, inner = file.partition("/")
            if words(top) != name:
                continue
            path, ending = masks / file, PurePosixPath(file).suffix
            if not inner or ending.lower() not in MASK_ENDINGS:
                raise InputError(
                    f"{path}: no mask of a class: use <class>/<path of the film>{MASK_ENDINGS[0]} "
                    f"(or {', '.join(MASK_ENDINGS[1:])}), and move other files elsewhere"
                )
            film = inner.removesuffix(ending)
            if film not in row_of:
                raise InputError(
                    f"{path}: no film {film!r} has a row in the CSV file{near(film, row_of)}: name "
                    "masks like their films, and give each a row, for its patient"
                )
            i = row_of[film]
            if column[i] is not None:
                raise InputError(f"{path}: a second mask of film {film!r}: keep one")
            size = images.probe(path, depths=(8,))
            check_grid(path, size, images.probe(films / names[i]), own_grid=False)
            column[i] = MaskFile(path, threshold=True)
        if not any(column):
            raise InputError(f"{masks}: no mask of the class {name!r}{near(name, folders)}: put "
                             "them into a folder of that name")  # fmt: skip
        columns[name] = column
    if not columns:
        raise InputError(f"{masks}: no mask here: use one folder per class")
    return pd.DataFrame(columns, index=range(len(names)), dtype=object)


def _task(
    table: FilmTable, found: pd.DataFrame, whole: npt.NDArray[np.bool_], folds: int, split: bool
) -> FilmTable:
    frame, masks = (f[whole].reset_index(drop=True) for f in (table.films, found))
    patients = frame["patient_id"].tolist()
    if not split and not 2 <= folds <= len(set(patients)):
        raise InputError(
            f"parameter 'folds' is {folds}: films of {len(set(patients))} patients have all masks "
            f"({', '.join(map(str, masks))}): use 2 folds or more, and no more than patients"
        )
    parts = 1 if split else folds
    frame["fold"] = draw_parts(patients, np.zeros((len(frame), 0)), [1.0] * parts)
    files = tuple(f for row in masks.to_numpy() for mask in row for f in mask.files)
    return replace(table, films=frame, masks=masks, beside=files)


def _classification(table: FilmTable, masked: set[str], split: bool) -> tuple[FilmTable, list[str]]:
    """Films with findings, in splits that keep the patients with masks out of learning."""
    known = table.films[list(FINDINGS)].notna().any(axis=1)
    frame = table.films[known].reset_index(drop=True)
    held = frame["patient_id"].isin(masked)
    if split:
        seen = int((held & (frame["split"] != "test")).sum())
        note = (
            "the column 'split' rules: parameter 'folds' is not used, and classifiers and "
            f"pre-training see {seen} films of patients with masks"
        )
    else:
        rest = frame.loc[~held, "patient_id"]
        if 0 < rest.nunique() < MANY:  # by hash, a part of few may be all but empty
            traits = (frame.loc[~held, list(FINDINGS)] == 1).to_numpy()
            frame.loc[~held, "split"] = draw_task_split(rest.tolist(), traits, SHARES)
        frame.loc[held, "split"] = "test"
        note = (
            f"{int(held.sum())} films with findings belong to patients with masks: classifiers "
            "and pre-training do not see them"
        )
    for part in ("train", "valid"):
        films = frame[frame["split"] == part]
        if not (films[PLACED] == 1).any(axis=None):
            raise InputError(
                f"split {part!r}: {len(films)} films with findings are left, none with a positive "
                "one that can be drawn (No Finding has no place): give films of more patients "
                "without masks, with findings"
            )
    return replace(table, films=frame), [note]


def measure_masks(table: FilmTable) -> tuple[pd.DataFrame, list[str]]:
    """Decode films and masks: number of masks, of empty ones, and share of the film that the others
    cover, per class; and notes on what looks wrong."""
    names = [str(name) for name in table.masks]
    shares = np.zeros((len(table), len(names)))
    for i, path in enumerate(tqdm(table.films["path"], desc="masks", unit="film", disable=None)):
        height, width = images.load_image(path, table.depths, table.any_ending).shape
        masks = (table.masks[name].iloc[i].load(height, width) for name in names)
        shares[i] = [float((mask == 1).mean()) for mask in masks]
    frame = pd.DataFrame({"class": names, "masks": len(table), "empty": (shares == 0).sum(0)})
    frame["share"] = shares.sum(0) / np.maximum(len(table) - frame["empty"], 1)
    for name in frame.loc[frame["share"] == 0, "class"]:
        raise InputError(
            f"no mask of {name} has a pixel inside: mend them (255 inside), or leave the class out "
            "by parameter 'classes'"
        )
    notes = [
        f"masks of {row['class']} cover {row['share']:.0%} of their films: is 255 inside in them?"
        for row in frame[frame["share"] > LARGE].to_dict("records")
    ]
    return frame, notes
