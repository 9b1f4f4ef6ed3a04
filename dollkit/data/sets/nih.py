"""NIH ChestX-ray14 as released: films in numbered folders, findings, boxes, patient lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import BadRows, CsvTable, read_csv, reject
from dollkit.data.dataset import DataSet
from dollkit.data.decode import probe
from dollkit.data.film_table import BOX_COLUMNS, FilmTable, blank_films
from dollkit.data.sets.nih_names import NIH_BOX_LABELS, finding_boxes, nih_states, present_in_lists
from dollkit.data.splits import share

# Tables of NIH ChestX-ray14: findings, boxes, and the two lists of the split.


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


BELOW = ("nih_chestxray14", "ChestX-ray14", "CXR8", "NIH", "nih")
SIDE = ("*.csv", "*.txt", "*.md", "*.pdf")
OLDEST = 120

DOCUMENTED: dict[str, int] = {
    "films": 112120,
    "patients": 30805,
    "train_val films": 86524,
    "test films": 25596,
    "boxes": 984,
    "boxed films": 880,
    "boxed labels": 8,
}


def read_nih(root: Path | str, *, valid_fraction: float = 0.1, skip_bad: bool = False) -> FilmTable:
    """NIH ChestX-ray14: frontal chest radiographs of the NIH Clinical Center, 1992 to 2015.

    Counts: 112,120 films (PNG, 1024 x 1024) of 30,805 patients; 984 boxes of 8 findings on 880
    films.

    Labels: 14 findings mined from the reports, mentioned or not; no uncertain state. They are
    mapped to CheXpert's 14 as `dollkit.data.sets.nih_names` says.

    Masks: unions of boxes as mask classes, for judging labels only; valid only where a film has a
    box of that finding. A radiologist drew them; a box is coarser than a mask.

    Splits: ``test_list.txt`` is the test split; the patients of ``train_val_list.txt`` are
    divided into train and valid by the sha256 of the patient id. Boxes are read wherever they lie:
    ``boxed films outside test`` counts those that a classifier may have been trained on.

    Folder variants: ``images_001/images/`` to ``images_012/images/``, or one folder ``images/``;
    ``Data_Entry_2017_v2020.csv`` or, if that is not there, ``Data_Entry_2017.csv``. Films of
    another size, if they are square: their boxes are scaled with them.

    Traps: the headers of both tables hold unquoted commas (``OriginalImage[Width,Height]``,
    ``Bbox [x,y,w,h],,,``), so they do not name the columns below them one by one; here the columns
    are named by place, after the header has been checked to be NIH's. Some copies end each row in
    commas. OriginalImage's width and height are those of the detector, not of the file. A box
    labelled Infiltrate is the finding Infiltration. Some ages in the older table are typing errors
    (above 120: read as unknown), and ages differ by 0 or 1 year between the two tables. A few
    films are RGBA; the file name is 8 digits of patient, 3 of follow-up. The numbers of the
    follow-ups are not always in order of time.

    Licence: unrestricted, with attribution to the NIH Clinical Center, a link to the original
    download site, and the citation below.

    Cite: Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on
    Weakly-Supervised Classification and Localization of Common Thorax Diseases", CVPR 2017.

    Args:
        root: folder that holds the tables.
        valid_fraction: expected share of the patients of ``train_val_list.txt`` in the validation
            split, in [0, 1).
        skip_bad: note wrong rows in ``bad`` and go on.

    Returns:
        films in the order of the table; ``image_id`` is ``00000001_000``.
    """
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")
    root, bad = Path(root), BadRows()
    notes = bad if skip_bad else None
    table, listed = read_entries(root, notes)
    lists = {name: read_list(root / name, notes) for name in LISTS}
    check_lists(table, lists)
    folders = _folders(root)
    places = _places(folders, notes)
    present = present_in_lists(table, "Finding Labels")
    films = blank_films(len(table))
    films[list(FINDINGS)] = nih_states(present)
    names = table.column("Image Index")
    films["image_id"] = films["study_id"] = names.str.removesuffix(".png")
    films["patient_id"] = names.str[:8]
    films["view"] = table.column("View Position")
    films["sex"] = table.column("Patient Gender")
    age = table.numbers("Patient Age")
    films["age"] = age.where(age <= OLDEST)
    films["source"] = "nih"
    films["where"] = table.where()
    absent = folders[0] if folders else root / "images"
    films["path"] = [str(places.get(name, absent / name)) for name in names]
    held = {p for p in films["patient_id"].unique() if share(p) < valid_fraction}
    train = np.where(films["patient_id"].isin(held), "valid", "train")
    films["split"] = np.where(names.isin(lists[LISTS[1]]), "test", train)
    if films.empty:
        raise InputError(f"{table.path}: lists no film: {HINT}")
    boxes = read_boxes(root, films, listed, notes)
    return FilmTable(
        "nih",
        films,
        root,
        boxes=boxes[list(BOX_COLUMNS)],
        depths=(8,),
        side=SIDE,
        facts=_facts(films, boxes),
        bad=bad,
    )


def _facts(films: pd.DataFrame, boxes: pd.DataFrame) -> dict[str, int]:
    boxed = films["image_id"].isin(boxes["image_id"])
    test = films["split"] == "test"
    return {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "train_val films": int((~test).sum()),
        "test films": int(test.sum()),
        "boxes": len(boxes),
        "boxed films": int(boxed.sum()),
        "boxed labels": boxes["label"].nunique(),
        "boxed films outside test": int((boxed & ~test).sum()),
    }


def _folders(root: Path) -> list[Path]:
    """Folders of films."""
    numbered = sorted(p / "images" for p in root.glob("images_*") if (p / "images").is_dir())
    single = root / "images"
    return [*numbered, *([single] if single.is_dir() else [])]


def _places(folders: Sequence[Path], bad: BadRows | None) -> dict[str, Path]:
    """Where each film lies; the first place counts where there are two."""
    places: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.name in places:
                fault = f"lies in {places[file.name].parent} too: remove one of the two"
                reject(bad, file, str(file), fault)
            else:
                places[file.name] = file
    return places


def find_root(folder: Path) -> Path | None:
    """`folder`, or one below it under a usual name, that holds the table of findings."""
    for root in (folder, *(folder / name for name in BELOW)):
        if any((root / name).is_file() for name in ENTRIES):
            return root
    return None


def _read(
    root: Path, *, skip_bad: bool = False, valid_fraction: float = 0.1
) -> dict[str, FilmTable]:
    return {"films": read_nih(root, skip_bad=skip_bad, valid_fraction=valid_fraction)}


DATASET = DataSet(
    name="nih",
    title="NIH ChestX-ray14",
    stores=("films",),
    find=find_root,
    read=_read,
    documented=DOCUMENTED,
    tree=f"{' or '.join(ENTRIES)}",
    licence="unrestricted with attribution",
    cite="Wang et al., CVPR 2017",
    size="42 GB",
)
