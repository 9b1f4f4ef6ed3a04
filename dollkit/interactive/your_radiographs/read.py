"""A folder of films, a table of findings, a folder of masks: read as one, and checked first."""

from __future__ import annotations

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
from dollkit.data.csvfile import CsvTable, read_csv, words
from dollkit.data.film_table import FilmTable, lost_files
from dollkit.data.masks import MaskFile, check_grid
from dollkit.data.sets.own_folder import (
    ENDINGS,
    HINT,
    KNOWN_COLUMNS,
    list_files,
    name_columns,
    read_films,
    stem,
)
from dollkit.data.splits import draw_parts, draw_task_split

PLACED = [name for name in FINDINGS if name != "No Finding"]
"""Findings that lie somewhere in the film."""

MANY, SHARES = 300, (0.75, 0.15, 0.1)
"""Patients from which splits are drawn by hash; of fewer, shares of train, valid and test."""

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

    `findings` is a CSV file with the columns of `own_folder.read_own`, or `columns` tells what they
    are; `masks` a folder with ``<class>/<path of the film>.png`` (or TIFF, GIF) of all `classes`
    (none: of every folder there). `folds` counts if the table has no split.
    """
    there = list_films(films)
    listed, passed = _read_findings(findings, columns or {})
    split, has_patient = ("split" in listed.frame), ("patient" in listed.frame)
    table = FilmTable("folder", read_films(listed, films), films)
    if lost := lost_files(table):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(
            f"{lost[0].reason}{more}: column 'image' holds paths below {films}: put the "
            "film there or mend the row"
        )
    names = [Path(p).relative_to(films).as_posix() for p in table.films["path"]]
    found = read_masks(masks, films, names, classes)
    whole = found.notna().all(axis=1).to_numpy()
    if not whole.any():
        raise InputError(f"{masks}: no film has all of the masks {', '.join(found.columns)}")
    task = _task(table, found, whole, folds, split)
    kept, notes = _classification(table, set(task.films["patient_id"]), split)
    if passed:
        notes.append(
            f"columns that are not read: {', '.join(passed)} (if one is a finding, tell which by "
            "parameter 'columns')"
        )
    if not has_patient:
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


def list_films(folder: Path) -> list[str]:
    """Films below a folder by relative path: files with an image's ending, and DICOM without."""
    names = [
        name
        for name in list_files(folder)
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


def _read_findings(path: Path, columns: Mapping[str, str]) -> tuple[CsvTable, list[str]]:
    """The table under the names that `read_films` knows, and the columns that it does not."""
    table = read_csv(path, hint=HINT)
    header = [str(c) for c in table.frame if c not in ("row", "")]
    known = KNOWN_COLUMNS.values()
    for theirs, ours in columns.items():
        if theirs not in header:
            raise InputError(f"{path}: no column {theirs!r}, parameter 'columns' names it"
                             f"{near(theirs, header)}")  # fmt: skip
        if ours and words(ours) not in KNOWN_COLUMNS:
            raise InputError(
                f"parameter 'columns' takes {theirs!r} for {ours!r}{near(ours, known)}: "
                f"use one of {', '.join(known)}, or '' to leave it out"
            )
    passed = [c for c in name_columns(table, columns) if not words(c).startswith("note")]
    for needed, what in ((["image"], "'image' (path of the film)"), (FINDINGS, "of a finding")):
        if not set(table.frame) & set(needed):
            raise InputError(
                f"{path}: no column {what} among {', '.join(header)}: name one "
                f"{' or '.join(needed[:3])}, or tell by parameter 'columns' which it is, such as "
                f"{{'theirs': {needed[0]!r}}}"
            )
    return table, passed


# Masks, and what each part of the work gets.


def read_masks(
    masks: Path, films: Path, names: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """A column per class with a `MaskFile` or None for each of the films `names`.

    Sizes are read from the headers of masks and films; no pixel is decoded.
    """
    row_of = {stem(name): i for i, name in enumerate(names)}
    # `predict` leaves its index beside the folders of classes.
    files = [f for f in list_files(masks) if not f.startswith("predictions.")]
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
