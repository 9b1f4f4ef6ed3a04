"""A stranger's table in the reader's words: which column is what, and findings of other names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError, near
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import clean, read_csv, words
from dollkit.data.sets.own_folder import FIELDS, HINT
from dollkit.interactive.your_radiographs.find_films import Spelling

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

LIST = "findings"
"""What parameter 'columns' calls a column that names a film's findings, as NIH's tables do."""

BETWEEN = re.compile(r"[|;]")
"""Between the findings of such a column."""

MOST = 60
"""Names in such a column above which it is no list of findings but free text."""

YES = {"1", "yes", "y", "true", "positive", "pos", "present", "x", "+"}
NO = {"0", "no", "n", "false", "negative", "neg", "absent", "-1", "uncertain"}
NOTHING = {"", "-", "?", ".", "na", "n/a", "nan", "none", "null", "unknown"}
"""Words of a column that says what is there, what is not (or not surely), and what was not said;
in small letters."""

_KNOWN = {name.lower(): name for name in (*FIELDS, *FINDINGS)}


def renamed(path: Path, columns: Mapping[str, str]) -> tuple[str, set[str]]:
    """The CSV file's text with its header put into the reader's words, and those words.

    Rows stay as they are, so that the reader's messages name the user's own rows.

    Args:
        path: the file.
        columns: column of the file to what it is; "" leaves it out, `LIST` is a column that names
            a film's findings (``Effusion|Mass``), whose names may be mapped like columns.
    """
    table = read_csv(path, hint=HINT)
    listed = [
        c
        for c in map(str, table.frame)
        if columns.get(c, "").lower() == LIST or _is_list(c, columns)
    ]
    text, frame = _spread(path, table.frame, listed)
    columns = {**columns, **dict.fromkeys(listed, "")}
    header = [c for c in frame.columns if c not in ("row", "")]  # spreadsheets leave nameless ones
    for theirs, ours in columns.items():
        # A label set's names are mapped as a whole, though not each may occur in this file.
        unseen = bool(listed) and (not ours or _KNOWN.get(ours.lower()) in FINDINGS)
        if theirs not in header and not unseen:
            raise InputError(f"{path}: no column {theirs!r}, parameter 'columns' names it"
                             f"{near(theirs, header)}")  # fmt: skip
        if ours and ours.lower() not in _KNOWN:
            raise InputError(
                f"parameter 'columns' takes {theirs!r} for {ours!r}{near(ours, _KNOWN.values())}: "
                f"use one of {', '.join(_KNOWN.values())}, {LIST!r} for a column that lists "
                "findings (A|B), or '' to leave it out"
            )
    names = {c: _name(c, columns) for c in header}
    odd = [c for c in header if names[c] is None and _like_finding(frame[c])]
    if odd:
        offer = ", ".join(f"{c!r}: {_offer(c)!r}" for c in odd)
        raise InputError(
            f"{path}: column {odd[0]!r} looks like a finding and is none of the 14: say what it "
            f"is by parameter 'columns', such as {{{offer}}} ('' leaves it out; several columns of "
            "one finding are joined)"
        )
    used = {n for n in names.values() if n}
    if not used & set(FINDINGS):
        raise InputError(
            f"{path}: no column of a finding among {', '.join(header)}: use {', '.join(FINDINGS)}, "
            "or say by parameter 'columns' what a column is"
        )
    return _rewritten(text, names, {c for c in columns if not columns[c]}), used


def as_listed(text: str, there: Sequence[str]) -> str:
    """A table in the reader's words with its films spelt as in the folder, see `Spelling`.

    Args:
        text: from `renamed`.
        there: the folder's films.
    """
    if text.isascii():  # such names have one form
        return text
    records = list(csv.reader(io.StringIO(text, newline="")))
    head = [c.strip() for c in records[0]]
    if "image" not in head:
        return text
    at, spelt = head.index("image"), Spelling([*there, *(f"images/{name}" for name in there)])
    for cells in records[1:]:
        if len(cells) == len(head) and (found := spelt(name := str(clean(cells[at])))) != name:
            cells[at] = found
    return _written(records)


def _is_list(column: str, columns: Mapping[str, str]) -> bool:
    """NIH's own column, unless the user says what it is."""
    return column not in columns and " ".join(column.lower().split()) == "finding labels"


def _spread(path: Path, frame: pd.DataFrame, listed: Sequence[str]) -> tuple[str, pd.DataFrame]:
    """The file's text and cells, with a column of 1 and 0 for every finding that a list names.

    A film whose list is blank has blanks: nothing was said about it.
    """
    text = path.read_bytes().decode("utf-8-sig")
    if not listed:
        return text, frame
    records = list(csv.reader(io.StringIO(text, newline="")))
    first, header = [c.strip() for c in records[0]], list(frame.columns)
    frame = frame.copy()
    for column in listed:
        lists = [[w.strip() for w in BETWEEN.split(v) if w.strip()] for v in frame[column]]
        names = list(dict.fromkeys(name for some in lists for name in some))
        if len(names) > MOST:
            raise InputError(
                f"{path}: column {column!r} names {len(names)} findings: a list of findings has "
                "A|B in a cell; is this free text?"
            )
        twice = [name for name in names if name in header]
        if twice:
            raise InputError(
                f"{path}: column {column!r} names {twice[0]!r}, which is a column too: leave one "
                "of them out by parameter 'columns'"
            )
        header += names
        at, width = first.index(column), len(records[0])
        records[0] += names
        for cells in records[1:]:
            if len(cells) == width:  # shorter ones are blank: `read_csv` refuses all others
                some = {w.strip() for w in BETWEEN.split(cells[at]) if w.strip()}
                cells += [str(int(name in some)) if some else "" for name in names]
        for name in names:
            frame[name] = [str(int(name in some)) if some else "" for some in lists]
    return _written(records), frame


def _written(records: Sequence[Sequence[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(records)
    return out.getvalue()


def _rewritten(text: str, names: Mapping[str, str | None], left_out: Collection[str]) -> str:
    """The file with the reader's words as header, record by record.

    Several columns of one finding become one: positive where any is, else uncertain where any
    is, else negative where any is.
    """
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
    for cells in records[1:]:
        for at in joined.values():
            if len(cells) == len(first):
                cells[at[0]] = _any([cells[i].strip() for i in at])
    return _written([head, *records[1:]])


def _any(values: Sequence[str]) -> str:
    """One state for several; what is no state comes first, so that the reader refuses it."""
    plain_values = [v.removesuffix(".0") for v in values]
    odd = [v for v in plain_values if v not in ("1", "-1", "0", "")]
    return next((v for v in (*odd, "1", "-1", "0") if v in plain_values), "")


def _name(column: str, columns: Mapping[str, str]) -> str | None:
    """What a column is to the reader; "" if left out, None if nobody said."""
    if column in columns:
        return _KNOWN[columns[column].lower()] if columns[column] else ""
    return "" if words(column).startswith("note") else _KNOWN.get(words(column))


def _like_finding(cells: pd.Series) -> bool:
    """Whether a column that nobody explained may be a finding.

    By its name: one of `ALIKE`, or its plural, with more than `NOTHING` in its cells. By its
    cells: words of `YES`, `NO` and `NOTHING` alone, of `YES` one at least. A name that is
    only similar to a finding's does not count: so are ``race``, ``position`` and ``condition``.
    """
    values = {re.sub(r"\.0+$", "", v.strip().lower()) for v in cells.unique()}
    if _synonym(str(cells.name)):
        return not values <= NOTHING
    return not values.isdisjoint(YES) and values <= YES | NO | NOTHING


def _offer(column: str) -> str:
    """The finding that a strange column may mean; "" if none is alike."""
    alike = near(words(column), [f.lower() for f in FINDINGS]).split("'")
    return _synonym(column) or (_KNOWN[alike[1]] if len(alike) > 1 else "")


def _synonym(column: str) -> str:
    """The finding that other label sets call so, or by the singular; "" if none does."""
    plain = words(column)
    return ALIKE.get(plain) or ALIKE.get(plain.removesuffix("s"), "")
