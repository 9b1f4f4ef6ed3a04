"""A stranger's films, findings and masks: three places read as one, and checked first."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import FINDINGS
from dollkit.own.listing import films_below, near, plain
from dollkit.own.maskfiles import read_masks
from dollkit.readers.csvfile import CsvTable, read_csv
from dollkit.readers.own import FIELDS, HINT, read_own
from dollkit.readers.splits import draw_parts
from dollkit.readers.steps import draw_task_split
from dollkit.readers.table import FilmTable, lost_files

FEW = 10
"""Positive films below which a finding is told as too rare to learn."""

MANY, SHARES = 300, (0.75, 0.15, 0.1)
"""Patients from which splits are drawn by hash, and the shares of fewer (train, valid, test)."""

ALIKE = {
    "effusion": "Pleural Effusion",
    "cardiac enlargement": "Cardiomegaly",
    "enlarged heart": "Cardiomegaly",
    "infiltration": "Lung Opacity",
    "infiltrate": "Lung Opacity",
    "opacity": "Lung Opacity",
    "mass": "Lung Lesion",
    "nodule": "Lung Lesion",
    "pleural thickening": "Pleural Other",
    "oedema": "Edema",
    "pulmonary edema": "Edema",
    "normal": "No Finding",
    "devices": "Support Devices",
    "rib fracture": "Fracture",
}
"""Names that other label sets give to findings; offered, never taken without being asked."""

_KNOWN = {name.lower(): name for name in (*FIELDS, *FINDINGS)}


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

    Raises:
        InputError: the first thing that is wrong, by file, row or parameter.
    """
    there = films_below(films)
    text, names = _renamed(findings, columns or {})
    table = _read(films, findings, text)
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


def _renamed(path: Path, columns: Mapping[str, str]) -> tuple[str, set[str]]:
    """The CSV file's text with its header put into the reader's words, and those words.

    Rows stay as they are, so that the reader's messages name the user's own rows.
    """
    table = read_csv(path, hint=HINT)
    header = [c for c in table.frame.columns if c != "row"]
    for theirs, ours in columns.items():
        if theirs not in header:
            raise InputError(f"{path}: no column {theirs!r}, parameter 'columns' names it"
                             f"{near(theirs, header)}")  # fmt: skip
        if ours and ours.lower() not in _KNOWN:
            raise InputError(
                f"parameter 'columns' takes {theirs!r} for {ours!r}{near(ours, _KNOWN.values())}: "
                f"use one of {', '.join(_KNOWN.values())}, or '' to leave it out"
            )
    names = {c: _name(c, columns) for c in header}
    odd = [c for c in header if names[c] is None and _like_finding(table, c)]
    if odd:
        offer = ", ".join(f"{c!r}: {_offer(c)!r}" for c in odd)
        raise InputError(
            f"{path}: column {odd[0]!r} looks like a finding and is none of the 14: say what it "
            f"is by parameter 'columns', such as {{{offer}}} ('' leaves it out; several columns of "
            "one finding are joined)"
        )
    used = {n for n in names.values() if n}
    if len(header) > 1 and not used & set(FINDINGS):
        raise InputError(
            f"{path}: no column of a finding among {', '.join(header)}: use {', '.join(FINDINGS)}, "
            "or say by parameter 'columns' what a column is"
        )
    return _rewritten(path, names, {c for c in columns if not columns[c]}), used


def _rewritten(path: Path, names: Mapping[str, str | None], left_out: Collection[str]) -> str:
    """The file with the reader's words as header, record by record.

    Several columns of one finding become one: positive where any is, else uncertain where any
    is, else negative where any is.
    """
    text = path.read_bytes().decode("utf-8-sig")
    records = list(csv.reader(io.StringIO(text, newline="")))
    first = [c.strip() for c in records[0]]
    same: dict[str, list[int]] = {}
    for i, column in enumerate(first):
        same.setdefault(names.get(column) or "", []).append(i)
    joined = {f: at for f, at in same.items() if f in FINDINGS and len(at) > 1}
    head = [f"note {c}" if c in left_out else names.get(c) or c for c in first]
    for at in joined.values():
        for i in at[1:]:
            head[i] = f"note {first[i]}"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for cells in records[1:]:
        for at in joined.values():
            if len(cells) == len(first):
                cells[at[0]] = _any([cells[i].strip() for i in at])
        writer.writerow(cells)
    return out.getvalue()


def _any(values: Sequence[str]) -> str:
    """One state for several; what is no state comes first, so that the reader refuses it."""
    plain_values = [v.removesuffix(".0") for v in values]
    odd = [v for v in plain_values if v not in ("1", "-1", "0", "")]
    return next((v for v in (*odd, "1", "-1", "0") if v in plain_values), "")


def _name(column: str, columns: Mapping[str, str]) -> str | None:
    """What a column is to the reader; "" if left out, None if nobody said."""
    if column in columns:
        return _KNOWN[columns[column].lower()] if columns[column] else ""
    words = " ".join(column.lower().replace("_", " ").split())
    return "" if words.startswith("note") else _KNOWN.get(words)


def _like_finding(table: CsvTable, column: str) -> bool:
    values = {v.strip().removesuffix(".0") for v in table.frame[column].unique()}
    return bool(column) and "1" in values and values <= {"1", "0", "-1", ""}


def _offer(column: str) -> str:
    """The finding that a strange column may mean; "" if none is alike."""
    words = " ".join(column.lower().replace("_", " ").split())
    alike = near(words, [f.lower() for f in FINDINGS]).split("'")
    return ALIKE.get(words) or (_KNOWN[alike[1]] if len(alike) > 1 else "")


def _read(films: Path, findings: Path, text: str) -> FilmTable:
    """Films as `readers.own` reads them, from the table as the user wrote it."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "films.csv").write_text(text, encoding="utf-8", newline="")
        (root / "images").symlink_to(films.resolve(), target_is_directory=True)
        try:
            table = read_own(root)["films"]
        except InputError as error:
            raise InputError(str(error).replace(str(root / "films.csv"), str(findings))) from None
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
    if len(lost) == len(table):
        raise InputError(
            f"{findings}: none of its {len(table)} films is in {films}: its first is "
            f"{Path(table.films['path'].iloc[0]).relative_to(films).as_posix()!r}, the folder's "
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
            raise InputError(
                f"parameter 'folds' is {folds}: masks of {len(set(patients))} patients can be "
                f"divided into 2 to {len(set(patients))} parts ({masks})"
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
    train = frame[frame["split"] == "train"]
    if not len(train) or not (train[list(FINDINGS)] == 1).any(axis=None):
        raise InputError(
            f"{len(train)} films with findings are left to learn from, none with a positive one: "
            "give films of patients without masks, with findings"
        )
    if not (frame["split"] == "valid").any():
        raise InputError(
            "no film with findings is left for validation: give films of more patients"
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
    if rare := [f"{f} ({n})" for f, n in counts.items() if 0 < n < FEW]:
        notes.append(f"fewer than {FEW} positive films to learn from: {', '.join(rare)}")
    return notes
