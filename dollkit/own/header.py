"""A stranger's table in the reader's words: which column is what, and findings of other names."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dollkit.errors import InputError
from dollkit.findings import FINDINGS
from dollkit.own.listing import near
from dollkit.readers.csvfile import CsvTable, read_csv
from dollkit.readers.own import FIELDS, HINT

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


def renamed(path: Path, columns: Mapping[str, str]) -> tuple[str, set[str]]:
    """The CSV file's text with its header put into the reader's words, and those words.

    Rows stay as they are, so that the reader's messages name the user's own rows.

    Args:
        path: the file.
        columns: column of the file to what it is; "" leaves it out.

    Raises:
        InputError: no table, a mapping that maps nothing, a column that looks like a finding and
            is none, or no finding at all.
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
