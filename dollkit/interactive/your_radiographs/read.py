"""A stranger's films, findings and masks: three places read as one, and checked first."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.film_table import FilmTable, lost_files
from dollkit.data.images import load_image
from dollkit.data.sets.own_folder import read_own
from dollkit.data.splits import draw_parts, draw_task_split
from dollkit.interactive.your_radiographs.columns import as_listed, renamed
from dollkit.interactive.your_radiographs.find_films import films_below, plain
from dollkit.interactive.your_radiographs.mask_files import read_masks
from dollkit.interactive.your_radiographs.predictions import JOURNAL, Journal

FEW = 10
"""Positive films below which a finding is told as too rare to learn."""

PLACED = [name for name in FINDINGS if name != "No Finding"]
"""Findings that lie somewhere in the film."""

MANY, SHARES = 300, (0.75, 0.15, 0.1)
"""Patients from which splits are drawn by hash, and the shares of fewer (train, valid, test)."""


@dataclass(frozen=True)
class Own:
    """What was found.

    Attributes:
        films: films with findings; split ``train``, ``valid`` or ``test``.
        task: films that have all masks; with a split of their own or, where the table gives
            none, with folds for cross-validation by patient.
        facts: counts, by name.
        notes: what its owner should know before starting, in sentences.
    """

    films: FilmTable
    task: FilmTable
    facts: Mapping[str, int]
    notes: tuple[str, ...]


def read(
    films: Path,
    findings: Path,
    masks: Path,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    folds: int = 4,
) -> Own:
    """Read films, findings and masks, and check that they go together; decodes nothing.

    Films of patients with masks are kept out of what classifiers and pre-training learn from
    (split ``test``), so that no film is judged on that any of its networks has seen. Where the
    table has a column ``split``, that column rules instead.

    Args:
        films: folder of films, any depth.
        findings: CSV file; column ``image`` (path below `films`), perhaps ``patient``,
            ``split`` and others of `readers.own`, and any of the 14 findings.
        masks: ``<class>/<same relative name>.png`` (TIFF or GIF); of a single class the files
            may lie in the folder itself.
        columns: column of the file to what it is: a name above, or "" to leave it out.
        classes: classes to segment; none: all folders there.
        folds: parts for cross-validation, if the table has no split.
    """
    there = films_below(films)
    text, names = renamed(findings, columns or {})
    table = _read(films, findings, as_listed(text, there))
    _check_there(table, findings, films, there)
    given = films_names(table, films)
    found = read_masks(masks, films, given, there, classes)
    whole = found.notna().all(axis=1).to_numpy()
    if not whole.any():
        raise InputError(f"{masks}: no film has all of the masks {', '.join(found.columns)}")
    task = _task(table, found, whole, "split" in names, folds, masks)
    kept, notes = _classification(table, set(task.films["patient_id"]), "split" in names)
    notes += _notes(kept, table, there, given, found, whole, names)
    facts = {
        "films in the folder": len(there),
        "films with a row": len(table),
        "films with findings": len(kept),
        "patients": table.films["patient_id"].nunique(),
        "films with all masks": len(task),
        "patients with masks": task.films["patient_id"].nunique(),
    }
    facts |= {f"positive: {f}": int((kept.films[f] == 1).sum()) for f in FINDINGS}
    return Own(kept, task, facts, tuple(notes))


def films_names(table: FilmTable, films: Path) -> list[str]:
    """Relative path of each film of a table, as its folder has it."""
    return [Path(p).relative_to(films).as_posix() for p in table.films["path"]]


def _read(films: Path, findings: Path, text: str) -> FilmTable:
    """Films as `readers.own` reads them, from the table as the user wrote it."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "films.csv").write_text(text, encoding="utf-8", newline="")
        (root / "images").symlink_to(films.resolve(), target_is_directory=True)
        told = logging.getLogger(read_own.__module__)
        before = told.level
        told.setLevel(logging.ERROR)  # `Own.notes` tell the same, without the temporary file
        try:
            table = read_own(root)["films"]
        except InputError as error:
            raise InputError(str(error).replace(str(root / "films.csv"), str(findings))) from None
        finally:
            told.setLevel(before)
        frame = table.films.copy()
        inside = [Path(p).relative_to(root) for p in frame["path"]]
        frame["path"] = [str(films.joinpath(*p.parts[p.parts[0] == "images" :])) for p in inside]
        frame["where"] = [
            str(w).replace(str(root / "films.csv"), str(findings)) for w in frame["where"]
        ]
    frame["source"] = "own"
    return replace(table, source="own", films=frame, root=films, side=(), facts={})


def _check_there(table: FilmTable, findings: Path, films: Path, there: Sequence[str]) -> None:
    lost = lost_files(table)
    first = Path(str(table.films["path"].iloc[0]))
    # Films that are listed and cannot be had have a fault of their own, which the reason tells.
    nowhere = len(lost) == len(table) and set(films_names(table, films)).isdisjoint(there)
    if len(lost) == len(table) and os.path.islink(first):  # noqa: PTH114 (never raises)
        raise InputError(
            f"{first}: a link that leads out of {films}, and such links are not followed: name the "
            "folder that the films themselves lie in"
        )
    if nowhere:
        raise InputError(
            f"{findings}: none of its {len(table)} films is in {films}: its first is "
            f"{first.relative_to(films).as_posix()!r}, the folder's "
            f"is {there[0]!r}: column 'image' holds paths below the folder"
        )
    if len(lost):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"{lost.iloc[0]['reason']}{more}: put the film there or mend the row")


def _task(
    table: FilmTable, found: pd.DataFrame, whole: np.ndarray, split: bool, folds: int, masks: Path
) -> FilmTable:
    frame = table.films[whole].reset_index(drop=True)
    own = found[whole].reset_index(drop=True)
    if split:
        frame["fold"] = 0
    else:
        patients = frame["patient_id"].tolist()
        if not 2 <= folds <= len(set(patients)):
            count = len(set(patients))
            use = f"use 2 to {count}" if count > 1 else "draw masks of at least 2 patients"
            some = int(found.notna().any(axis=1).sum()) - len(frame)
            why = (
                f"; {some} films more have some of {', '.join(found.columns)} only" if some else ""
            )
            raise InputError(
                f"parameter 'folds' is {folds}: all masks are there for films of {count} "
                f"{'patient' if count == 1 else 'patients'} "
                f"({masks}{why}): {use}"
            )
        frame["fold"] = draw_parts(patients, np.zeros((len(frame), 0)), [1.0] * folds)
    files = tuple(f for row in own.to_numpy() for mask in row for f in mask.files)
    return replace(table, films=frame, masks=own, beside=files)


def _classification(table: FilmTable, masked: set[str], split: bool) -> tuple[FilmTable, list[str]]:
    """Films with findings, in splits that keep the patients with masks out of learning."""
    known = table.films[list(FINDINGS)].notna().any(axis=1).to_numpy()
    frame = table.films[known].reset_index(drop=True)
    notes = []
    if not split:
        held = frame["patient_id"].isin(masked).to_numpy()
        rest = frame.loc[~held, ["patient_id", "split"]]
        if 0 < rest["patient_id"].nunique() < MANY:  # by hash, a part of few may be all but empty
            traits = (frame.loc[~held, list(FINDINGS)] == 1).to_numpy()
            drawn = draw_task_split(rest["patient_id"].tolist(), traits, SHARES)
            frame.loc[~held, "split"] = drawn
        frame.loc[held, "split"] = "test"
        if held.any():
            notes.append(
                f"{int(held.sum())} films with findings belong to patients with masks: classifiers "
                "and pre-training do not see them"
            )
    else:
        seen = frame["patient_id"].isin(masked) & frame["split"].ne("test")
        notes.append(
            "the column 'split' rules: parameter 'folds' is not used, and classifiers and "
            f"pre-training see {int(seen.sum())} films of patients with masks"
        )
    for part, use in (("train", "to learn from"), ("valid", "for validation")):
        films = frame[frame["split"] == part]
        if not len(films) or not (films[PLACED] == 1).any(axis=None):
            raise InputError(
                f"{len(films)} films with findings are left {use}, none with a positive one that "
                "can be drawn (No Finding has no place): give films of more patients without "
                "masks, with findings"
            )
    return replace(table, films=frame), notes


def _notes(
    kept: FilmTable, table: FilmTable, there: Sequence[str], given: Sequence[str],
    found: pd.DataFrame, whole: np.ndarray, names: set[str],
) -> list[str]:  # fmt: skip
    notes = []
    if "patient" not in names:
        notes.append(
            "the table has no column 'patient': each film counts as a patient of its own, so that "
            "films of one person may be trained and judged on; intervals are then too narrow"
        )
    if len(table) > len(kept):
        notes.append(f"{len(table) - len(kept)} films without any finding teach no classifier")
    if missing := len({plain(n) for n in there} - {plain(n) for n in given}):
        notes.append(f"{missing} films of the folder have no row: they are only predicted")
    if partly := int(found.notna().any(axis=1).sum() - whole.sum()):
        notes.append(f"{partly} films have some of the masks only: they are left out")
    counts = {f: int((kept.films.loc[kept.films["split"] == "train", f] == 1).sum())
              for f in FINDINGS}  # fmt: skip
    n = int((kept.films["split"] == "train").sum())
    if alike := [f for f, count in counts.items() if count == n]:
        notes.append(f"every film to learn from has {', '.join(alike)}: give films without, too")
    if rare := [f"{f} ({n})" for f, n in counts.items() if 0 < n < FEW]:
        notes.append(f"fewer than {FEW} positive films to learn from: {', '.join(rare)}")
    return notes


# What only decoding tells about one's own films and masks, before anything is computed.


MOST = 0.6
"""Share of a film above which a class covers more than anatomy would: inside and outside may have
changed places."""


def at_masks(own: Own) -> tuple[pd.DataFrame, list[str]]:
    """Decode the films with masks, and their masks.

    Args:
        own: from `source.read`.

    Returns:
        Per class: masks, empty (those without a pixel inside), share (of the film that the others
        cover, mean); and notes on what looks wrong.
    """
    table = own.task
    names = [str(name) for name in table.masks.columns]
    shares = np.zeros((len(table), len(names)))
    for film in tqdm(range(len(table)), desc="masks", unit="film", disable=None):
        size = _size(table, film)
        shares[film] = [
            float((table.masks[name].iloc[film].load(*size) == 1).mean()) for name in names
        ]
    empty = (shares == 0).sum(0)
    drawn = np.divide(shares.sum(0), len(shares) - empty, where=empty < len(shares),
                      out=np.zeros(len(names)))  # fmt: skip
    if (drawn == 0).any():
        name = names[int(np.argmax(drawn == 0))]
        raise InputError(
            f"no mask of {name} has a pixel inside: mend them (255 inside), or leave the class out "
            "by parameter 'classes'"
        )
    frame = pd.DataFrame({"class": names, "masks": len(table), "empty": empty, "share": drawn})
    notes = [
        f"masks of {row['class']} cover {row['share']:.0%} of their films: is 255 inside in them?"
        for row in frame[drawn > MOST].to_dict("records")
    ]
    return frame, notes


def at_films(folder: Path) -> int:
    """Decode all films of a folder, as predictions will; returns how many."""
    wrong: list[str] = []
    names = films_below(folder)
    for name in tqdm(names, desc="films", unit="film", disable=None):
        try:
            load_image(folder / name)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError(wrong[0] + (f" (and {len(wrong) - 1} films more)" if wrong[1:] else ""))
    return len(names)


def at_drawn(folder: Path) -> list[str]:
    """What to know before masks are drawn below a folder again: those corrected by hand."""
    out = []
    for path in sorted(folder.glob(f"*/{JOURNAL}")):
        if found := Journal(path.parent, "").corrected():
            out.append(
                f"{len(found)} masks in {path.parent} were corrected by hand, the first is "
                f"{found[0]}: another network will not draw there until you have moved them to "
                "your masks"
            )
    return out


def _size(table: FilmTable, film: int) -> tuple[int, int]:
    path = Path(str(table.films["path"].iloc[film]))
    height, width = load_image(path, table.depths, table.any_ending).shape
    return height, width
