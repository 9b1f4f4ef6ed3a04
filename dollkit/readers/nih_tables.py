"""Tables of NIH ChestX-ray14: findings, boxes, and the two lists of the split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.errors import InputError
from dollkit.images import probe
from dollkit.readers.csvfile import BadRows, CsvTable, read_csv, reject
from dollkit.readers.open_mapping import NIH_BOX_LABELS, finding_boxes, present_in_lists

ENTRIES: tuple[str, ...] = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
"""Names of the table of findings, the newer first."""

COLUMNS: tuple[str, ...] = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
)
"""Header of the table of findings, cut at its unquoted commas."""

BOX_HEADERS: tuple[tuple[str, ...], ...] = (
    ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"),
    ("Image Index", "Finding Label", "x", "y", "w", "h"),
)
"""Header of the table of boxes, cut at its unquoted commas, and as it was meant."""

FRAME = 1024
"""Side of the released films in pixels: what the boxes count in."""

LISTS: tuple[str, str] = ("train_val_list.txt", "test_list.txt")
HINT = "use the files as NIH released them"


def read_entries(root: Path, bad: BadRows | None) -> tuple[CsvTable, set[str]]:
    """Sound rows of the table of findings, and the names of all its films, of wrong rows too."""
    path = next((root / n for n in ENTRIES if (root / n).is_file()), root / ENTRIES[0])
    table = _read_by_place(path, COLUMNS, (COLUMNS,), bad)
    names = table.column("Image Index")
    listed = set(names)
    table.require(
        names.str.fullmatch(r"\d{8}_\d{3}\.png"), "Image Index", "a name like 00000001_000.png"
    )
    table.require(~table.column("Image Index").duplicated(), "Image Index", "each film once")
    patient = table.column("Image Index").str[:8].str.lstrip("0")
    given = table.column("Patient ID").str.lstrip("0")
    table.require(patient == given, "Patient ID", "the number in the film's name")
    sex = table.column("Patient Gender")
    table.require(sex.isin(["M", "F"]), "Patient Gender", "M or F")
    view = table.column("View Position")
    table.require(view.isin(["PA", "AP"]), "View Position", "PA or AP")
    # 058Y in the first release.
    table.frame["Patient Age"] = table.column("Patient Age").str.removesuffix("Y")
    table.numbers("Patient Age")
    present_in_lists(table, "Finding Labels")
    return table, listed


def _read_by_place(
    path: Path,
    names: Sequence[str],
    headers: Sequence[Sequence[str]],
    bad: BadRows | None,
) -> CsvTable:
    """A CSV file under `names`, if its own header is one of `headers` (blank cells aside)."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline=None) as file:
            first, second = file.readline(), file.readline()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {HINT}") from None
    header = tuple(cell.strip() for cell in first.rstrip("\n, ").split(","))
    if header not in [tuple(h) for h in headers]:
        raise InputError(f"{path}: header {first.strip()!r} is not NIH's: {HINT}")
    # Copies whose rows all end in commas: their blank cells need names too.
    width = max(len(second.split(",")), len(names))
    blanks = [f"blank {k}" for k in range(width - len(names))]
    return read_csv(path, names, bad, hint=HINT, names=(*names, *blanks))


def read_list(path: Path, bad: BadRows | None) -> set[str]:
    """File names of a list, one a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file: {HINT}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {HINT}") from None
    names: set[str] = set()
    for row, line in enumerate(lines, start=1):
        name = line.strip()
        if name in names:
            reject(bad, path, f"{path}, line {row}", f"film {name!r} stands there twice: remove it")
        elif name:
            names.add(name)
    return names


def check_lists(table: CsvTable, lists: Mapping[str, set[str]]) -> None:
    """Each film in one list, each patient in one list; wrong rows go as `CsvTable.require` says."""
    one, other = LISTS
    name = table.column("Image Index")
    table.require(
        name.isin(lists[one]) != name.isin(lists[other]),
        "Image Index",
        f"a film that is in one of {one} and {other}",
    )
    name = table.column("Image Index")
    patient = name.str[:8]
    tested = patient.isin(patient[name.isin(lists[other])])
    table.require(
        ~(name.isin(lists[one]) & tested),
        "Image Index",
        f"films of other patients in {one} than in {other}",
    )


def read_boxes(
    root: Path, films: pd.DataFrame, listed: Collection[str], bad: BadRows | None
) -> pd.DataFrame:
    """Boxes of `films` in pixels of their files: `BOX_COLUMNS` and label (NIH's own).

    Args:
        listed: names of the films that may have boxes: those of wrong rows are left out silently.
    """
    path = root / "BBox_List_2017.csv"
    table = _read_by_place(path, BOX_HEADERS[1], BOX_HEADERS, bad)
    name = table.column("Image Index")
    table.require(name.isin(listed), "Image Index", "a film of the table of findings")
    boxes = finding_boxes(
        table, "Image Index", "Finding Label", allowed=NIH_BOX_LABELS, limit=FRAME
    )
    boxes["image_id"] = boxes["image_id"].str.removesuffix(".png")
    path_of = dict(zip(films["image_id"], films["path"], strict=True))
    boxes = boxes[boxes["image_id"].isin(path_of)]
    for film in boxes["image_id"].unique():
        height, width = _size(Path(path_of[film]))
        of_film = boxes["image_id"] == film
        if height != width:
            fault = f"is {width}x{height}, but NIH's boxes count on square films: fetch it again"
            reject(bad, path_of[film], path_of[film], fault)
            boxes = boxes[~of_film]
        elif width != FRAME:
            boxes.loc[of_film, list("xywh")] *= width / FRAME
    return boxes.reset_index(drop=True)


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a film; the released size where it cannot be read (told elsewhere)."""
    try:
        return probe(path, depths=(8,))
    except InputError:
        return FRAME, FRAME
