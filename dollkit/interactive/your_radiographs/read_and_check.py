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
from dollkit.data.drawn_masks import drawn_masks
from dollkit.data.film_table import FilmTable, check_files
from dollkit.data.masks import check_grid
from dollkit.data.sets import own_folder
from dollkit.data.sets.own_folder import list_files, list_films, stem
from dollkit.data.splits import PATIENT_ID, draw_parts, draw_task_split

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
    films: Path, findings: Path, masks: Path, columns: Mapping[str, str] | None = None,
    classes: Sequence[str] = (), folds: int = 4, patient_id: str = PATIENT_ID[0],
) -> Radiographs:  # fmt: skip
    """Read films, findings and masks, and check that they go together; decodes masks alone.

    Films of patients with masks are kept out of what classifiers and pre-training learn from
    (split ``test``), so that no film is judged on that any of its networks has seen. Where the
    table has a column ``split``, that column rules instead.

    `findings` is a CSV file with the columns of `own_folder.read_own`, or `columns` tells what they
    are; `masks` a folder with ``<class>/<path of the film>.png`` (or TIFF, GIF) of all `classes`
    (none: of every folder there). `folds` counts if the table has no split. `patient_id`: see
    `unify_patients`.
    """
    in_folder = list_films(films)
    findings_table, passed = _read_findings(findings, columns or {})
    split, has_patient = ({name} <= {*findings_table.frame} for name in ("split", "patient"))
    frame, alike = own_folder.read_films(findings_table, films, patient_id=patient_id)
    table = FilmTable("folder", frame, films)
    check_files(
        table, cure=f"column 'image' holds paths below {films}: put the film there or mend the row"
    )
    names = [Path(p).relative_to(films).as_posix() for p in table.films["path"]]
    masked = read_masks(masks, films, names, classes)
    whole = masked.notna().all(axis=1).to_numpy()
    if not whole.any():
        raise InputError(f"{masks}: no film has all of the masks {', '.join(masked.columns)}")
    task = _task(table, masked, whole, folds, split)
    kept, note = _classification(table, set(task.films["patient_id"]), split)
    notes = [note, *filter(None, [alike])]
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
    if missing := len(set(map(stem, in_folder)) - set(map(stem, names))):
        notes.append(f"{missing} films of the folder have no row: they are only predicted")
    if partly := int(masked.notna().any(axis=1).sum()) - len(task):
        notes.append(f"{partly} films have some of the masks only: they are left out")
    learning = kept.films.loc[kept.films["split"] == "train", list(FINDINGS)] == 1
    if always := learning.columns[learning.all()].tolist():
        notes.append(f"every film to learn from has {', '.join(always)}: give films without, too")
    if rare := [f"{f} ({n})" for f, n in learning.sum().items() if 0 < n < 10]:
        notes.append(f"fewer than 10 positive films to learn from: {', '.join(rare)}")
    facts = {
        "films in the folder": len(in_folder),
        "films with a row": len(table),
        "films with findings": len(kept),
        "patients": table.films["patient_id"].nunique(),
        "films with all masks": len(task),
        "patients with masks": task.films["patient_id"].nunique(),
    }
    facts |= {f"positive: {f}": int((kept.films[f] == 1).sum()) for f in FINDINGS}
    return Radiographs(kept, task, facts, tuple(notes))


def _read_findings(path: Path, columns: Mapping[str, str]) -> tuple[CsvTable, list[str]]:
    """The table under the names that `read_films` knows, and the columns that it does not."""
    table = read_csv(path, hint=own_folder.HINT)
    header = [str(c) for c in table.frame if c not in ("row", "")]
    known = own_folder.KNOWN_COLUMNS.values()
    for theirs, ours in columns.items():
        if theirs not in header:
            raise InputError(f"{path}: no column {theirs!r}, parameter 'columns' names it"
                             f"{near(theirs, header)}")  # fmt: skip
        if ours and words(ours) not in own_folder.KNOWN_COLUMNS:
            raise InputError(
                f"parameter 'columns' takes {theirs!r} for {ours!r}{near(ours, known)}: "
                f"use one of {', '.join(known)}, or '' to leave it out"
            )
    passed = [c for c in own_folder.name_columns(table, columns) if not words(c).startswith("note")]
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
    """A column per class with a `DrawnMask` or None for each of the films `names`."""
    row_of = {stem(name): i for i, name in enumerate(names)}
    # `predict` leaves its index beside the folders of classes.
    files = [f for f in list_files(masks) if not f.startswith("predictions.")]
    folders = [words(PurePosixPath(file).parts[0]) for file in files]
    columns: dict[str, list[Path | None]] = {
        name: [None] * len(names) for name in dict.fromkeys(map(words, classes or folders))
    }
    if len(columns) < len(classes):
        raise InputError(f"parameter 'classes' is {list(classes)}: each class once")
    for file, folder in zip(files, folders, strict=True):
        if folder not in columns:
            continue
        path, inner = masks / file, file.partition("/")[2]
        if not inner or path.suffix.lower() not in MASK_ENDINGS:
            raise InputError(
                f"{path}: no mask of a class: use <class>/<path of the film>{MASK_ENDINGS[0]} "
                f"(or {', '.join(MASK_ENDINGS[1:])}), and move other files elsewhere"
            )
        film = inner.removesuffix(path.suffix)
        if film not in row_of:
            raise InputError(
                f"{path}: no film {film!r} has a row in the CSV file{near(film, row_of)}: name "
                "masks like their films, and give each a row, for its patient"
            )
        i = row_of[film]
        if columns[folder][i] is not None:
            raise InputError(f"{path}: a second mask of film {film!r}: keep one")
        size = images.probe(path, depths=(8,))
        check_grid(path, size, images.probe(films / names[i]), own_grid=False)
        columns[folder][i] = path
    for name, column in columns.items():
        if not any(column):
            raise InputError(f"{masks}: no mask of the class {name!r}{near(name, folders)}: put "
                             "them into a folder of that name")  # fmt: skip
    if not columns:
        raise InputError(f"{masks}: no mask here: use one folder per class")
    masks_of = {name: drawn_masks(column) for name, column in columns.items()}
    return pd.DataFrame(masks_of, index=range(len(names)), dtype=object)


def _task(
    table: FilmTable, masked: pd.DataFrame, whole: npt.NDArray[np.bool_], folds: int, split: bool
) -> FilmTable:
    """The `whole` films, which have all masks, in one fold if the table has a split."""
    films, masks = (frame[whole].reset_index(drop=True) for frame in (table.films, masked))
    patients = films["patient_id"].tolist()
    if not split and not 2 <= folds <= len(set(patients)):
        raise InputError(
            f"parameter 'folds' is {folds}: films of {len(set(patients))} patients have all masks "
            f"({', '.join(map(str, masks))}): use 2 folds or more, and no more than patients"
        )
    films["fold"] = draw_parts(patients, np.zeros((len(films), 0)), [1.0] * (1 if split else folds))
    files = tuple(file for row in masks.to_numpy() for mask in row for file in mask.files)
    return replace(table, films=films, masks=masks, beside=files)


def _classification(table: FilmTable, masked: set[str], split: bool) -> tuple[FilmTable, str]:
    """Films with findings, in splits that keep the patients with masks out of learning, and what
    to know of them."""
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
        rest = frame[~held]
        if 0 < rest["patient_id"].nunique() < MANY:  # by hash, a part of few may be all but empty
            traits = (rest[list(FINDINGS)] == 1).to_numpy()
            frame.loc[~held, "split"] = draw_task_split(rest["patient_id"].tolist(), traits, SHARES)
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
    return replace(table, films=frame), note


def measure_masks(table: FilmTable) -> tuple[pd.DataFrame, list[str]]:
    """Decode films and masks: number of masks, of empty ones, share of the film that the others
    cover, and share that is ignored, per class; and notes on what looks wrong."""
    names = [str(name) for name in table.masks]
    shares, ignored = np.zeros((2, len(table), len(names)))
    notes: list[str] = []
    for i, path in enumerate(tqdm(table.films["path"], desc="masks", unit="film", disable=None)):
        film = images.load_image(path, table.depths, table.any_ending)
        notes += filter(None, [images.range_note(Path(path), film)])
        masks = [table.masks[name].iloc[i].load(*film.shape) for name in names]
        shares[i] = [float((mask == 1).mean()) for mask in masks]
        ignored[i] = [float((mask == images.IGNORE).mean()) for mask in masks]
    frame = pd.DataFrame({"class": names, "masks": len(table), "empty": (shares == 0).sum(0)})
    frame["share"] = shares.sum(0) / np.maximum(len(table) - frame["empty"], 1)
    frame["ignored"] = ignored.mean(0)
    for name in frame.loc[frame["share"] == 0, "class"]:
        raise InputError(
            f"no mask of {name} has a pixel inside: mend them (255 inside), or leave the class out "
            "by parameter 'classes'"
        )
    notes += [
        f"masks of {row['class']} cover {row['share']:.0%} of their films: is inside inside?"
        for row in frame[frame["share"] > LARGE].to_dict("records")
    ]
    return frame, notes
