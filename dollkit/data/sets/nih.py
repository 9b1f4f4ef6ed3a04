"""NIH ChestX-ray14 as released, and its findings under CheXpert's 14 names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import STRICT, BadRows, CsvTable, read_csv, read_text
from dollkit.data.film_table import FilmTable
from dollkit.data.images import probe
from dollkit.data.sets import common_steps as steps

# The two label sets were mined from reports by different rules, so equal names mean similar, not
# equal things. NIH writes 1 for mentioned as present and 0 for everything else; a 0 is read as
# negative, as NIH's own baseline does, unless it says nothing about the CheXpert finding (blank).

NIH_FINDINGS: tuple[str, ...] = (
    *("No_Finding", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule"),
    *("Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
    *("Pleural_Thickening", "Hernia"),
)
"""NIH's 14 findings and No_Finding (written ``No Finding`` in its own table).

Emphysema, Fibrosis and Hernia have no counterpart: a film with only these is positive for nothing,
and not for No Finding either. Of CheXpert's, Fracture and Support Devices have none: blank.
"""

_SAME = ("Cardiomegaly", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax")
NIH_TO_CHEXPERT: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in _SAME},
    "Lung Lesion": ("Mass", "Nodule"),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    # Or any of its children in CheXpert's hierarchy.
    "Lung Opacity": ("Infiltration", "Mass", "Nodule", *_SAME[1:5]),
}
"""CheXpert finding -> NIH findings, any of which makes it positive; otherwise it is negative."""

IMPLIED: dict[str, str] = {"Enlarged Cardiomediastinum": "Cardiomegaly", "No Finding": "No_Finding"}
"""CheXpert finding -> NIH finding that makes it positive; otherwise it is blank.

NIH says nothing of a mediastinum that is wide for other reasons; No Finding is 1 or blank in
CheXpert as well.
"""

NIH_BOX_LABELS: dict[str, str] = {
    **{name: name for name in ("Atelectasis", "Cardiomegaly", "Pneumonia", "Pneumothorax")},
    **{"Effusion": "Pleural Effusion", "Infiltrate": "Lung Opacity"},
    **{"Mass": "Lung Lesion", "Nodule": "Lung Lesion"},
}
"""Labels of ``BBox_List_2017.csv`` (its Infiltrate is Infiltration) -> CheXpert finding."""

BOX_LABELS = {**NIH_BOX_LABELS, "Lung Opacity (RSNA)": "Lung Opacity"}


def nih_states(present: pd.DataFrame) -> pd.DataFrame:
    """CheXpert label states (1, 0 or NaN for blank) from bool columns `NIH_FINDINGS`."""
    out = pd.DataFrame(np.nan, index=present.index, columns=list(FINDINGS))
    for finding, names in NIH_TO_CHEXPERT.items():
        out[finding] = present[list(names)].any(axis=1).astype(float)
    for finding, name in IMPLIED.items():
        out[finding] = np.where(present[name], 1.0, np.nan)
    return out


def finding_boxes(
    table: CsvTable, image: str, label: str, allowed: Mapping[str, str] = BOX_LABELS,
    limit: float = np.inf,
) -> pd.DataFrame:  # fmt: skip
    """Boxes of a table: image_id, finding, x, y, w, h, and label as the table has it.

    Refused: labels not `allowed`, boxes without area or over 1 % beyond a square of side `limit`.
    """
    known = f"a label with a counterpart in CheXpert: {', '.join(allowed)}"
    table.require(table.column(label).isin(list(allowed)), label, known)
    inside = "a box with area inside its film"
    for side in "xywh":
        table.numbers(side, blank=False)
    for start, length in ("xw", "yh"):
        table.require(table.numbers(start) >= 0, start, inside)
        size = table.numbers(length)
        within = (size > 0) & (table.numbers(start) + size <= 1.01 * limit)
        table.require(within, length, inside)
    labels = table.column(label)
    boxes = {"image_id": table.column(image), "finding": labels.map(allowed)}
    return pd.DataFrame(boxes | {s: table.numbers(s) for s in "xywh"} | {"label": labels})


ENTRIES: tuple[str, ...] = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
"""Names of the table of findings, the newer first."""

COLUMNS: tuple[str, ...] = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age"),
    *("Patient Gender", "View Position", "OriginalImage[Width", "Height]"),
    *("OriginalImagePixelSpacing[x", "y]"),
)
"""Header of the table of findings, cut at its unquoted commas."""

BOX_COLUMN_NAMES = ("Image Index", "Finding Label", "x", "y", "w", "h")
BOX_HEADERS = (("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"), BOX_COLUMN_NAMES)
"""Header of the table of boxes, cut at its unquoted commas, and as it was meant."""

FRAME = 1024
"""Side of the released films in pixels: what the boxes count in."""

LISTS: tuple[str, str] = ("train_val_list.txt", "test_list.txt")
HINT = "use the files as NIH released them"
OLDEST = 120
BELOW = ("", "nih_chestxray14", "ChestX-ray14", "CXR8", "NIH")


def read_nih(
    root: Path, bad: BadRows = STRICT, *, valid_fraction: float = 0.1
) -> dict[str, FilmTable]:
    """``films`` in the order of the table; ``image_id`` is ``00000001_000``.

    ``test_list.txt`` is the test split; a share `valid_fraction` of the patients of
    ``train_val_list.txt`` validates. Boxes are unions per finding, in pixels of the film's file.
    Ages above `OLDEST` are typing errors: unknown.
    """
    table, listed = _read_entries(root, bad)
    tested = _check_lists(table, root)
    folders = [p for p in (*sorted(root.glob("images_*/images")), root / "images") if p.is_dir()]
    places = _places(folders, bad)
    names, age = table.column("Image Index"), table.numbers("Patient Age")
    split = steps.hold_out(names.str[:8], valid_fraction).mask(names.isin(tested), "test")
    absent = folders[0] if folders else root / "images"
    films = steps.films_of(
        "nih",
        names.str.removesuffix(".png"),
        [places.get(name, absent / name) for name in names],
        table.where(),
        patient_id=names.str[:8],
        view=table.column("View Position"),
        sex=table.column("Patient Gender"),
        age=age.where(age <= OLDEST),
        split=split,
        **nih_states(_findings(table)),
    )
    if films.empty:
        raise InputError(f"{table.path}: lists no film: {HINT}")
    boxes = _read_boxes(root, films, listed, bad)
    boxed, test = films["image_id"].isin(boxes["image_id"]), films["split"] == "test"
    facts = {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "train_val films": int((~test).sum()),
        "test films": int(test.sum()),
        "boxes": len(boxes),
        "boxed films": int(boxed.sum()),
        "boxed labels": boxes["label"].nunique(),
        "boxed films outside test": int((boxed & ~test).sum()),
    }
    masks = steps.boxed(films, boxes)
    return {"films": steps.make_table("nih", films, root, masks, facts=facts, bad=bad)}


def _read_entries(root: Path, bad: BadRows) -> tuple[CsvTable, set[str]]:
    """Sound rows of the table of findings, and the names of all its films, of wrong rows too."""
    path = next((root / n for n in ENTRIES if (root / n).is_file()), root / ENTRIES[0])
    table = _read_by_place(path, COLUMNS, (COLUMNS,), bad)
    names = table.column("Image Index")
    listed = set(names)
    form = names.str.fullmatch(r"\d{8}_\d{3}\.png")
    table.require(form, "Image Index", "a name like 00000001_000.png")
    table.require(~table.column("Image Index").duplicated(), "Image Index", "each film once")
    patient = table.column("Image Index").str[:8].str.lstrip("0")
    same = patient == table.column("Patient ID").str.lstrip("0")
    table.require(same, "Patient ID", "the number in the film's name")
    table.among("Patient Gender", ("M", "F"))
    table.among("View Position", ("PA", "AP"))
    # 058Y in the first release.
    table.frame["Patient Age"] = table.column("Patient Age").str.removesuffix("Y")
    table.numbers("Patient Age")
    _findings(table)
    return table, listed


def _findings(table: CsvTable) -> pd.DataFrame:
    """bool `NIH_FINDINGS` of the column ``A|B|C`` or ``No Finding``; any other form is wrong."""
    column, names = "Finding Labels", {}
    # By distinct cell: there are few among NIH's 112,120.
    for cell in table.frame[column].unique():
        listed = [part.strip().replace(" ", "_") for part in cell.split("|")]
        alone = "No_Finding" not in listed or len(listed) == 1
        if alone and len(listed) == len(set(listed) & set(NIH_FINDINGS)):
            names[cell] = listed
    sound = table.frame[column].isin(list(names))
    table.require(sound, column, "NIH's findings as A|B|C or No Finding")
    cells = table.frame[column]
    return pd.DataFrame(
        {name: cells.isin([c for c in names if name in names[c]]) for name in NIH_FINDINGS}
    )


def _read_by_place(
    path: Path, names: Sequence[str], headers: Sequence[tuple[str, ...]], bad: BadRows
) -> CsvTable:
    """A CSV file under `names`, if its own header is one of `headers` (blank cells aside)."""
    first, second = [*read_text(path, HINT, "replace").splitlines()[:2], "", ""][:2]
    header = tuple(cell.strip() for cell in first.rstrip(", ").split(","))
    if header not in headers:
        raise InputError(f"{path}: header {first.strip()!r} is not NIH's: {HINT}")
    # Copies whose rows all end in commas: their blank cells need names too.
    width = max(len(second.split(",")), len(names))
    blanks = [f"blank {k}" for k in range(width - len(names))]
    return read_csv(path, names, bad, hint=HINT, names=(*names, *blanks))


def _check_lists(table: CsvTable, root: Path) -> set[str]:
    """Each film in one list, each patient in one list; returns the list of the test split."""
    one, other = LISTS
    train, test = (
        {line.strip() for line in read_text(root / name, HINT).splitlines()} for name in LISTS
    )
    name = table.column("Image Index")
    known = f"a film that is in one of {one} and {other}"
    table.require(name.isin(train) != name.isin(test), "Image Index", known)
    name = table.column("Image Index")
    both = name.isin(train) & name.str[:8].isin(name.str[:8][name.isin(test)])
    table.require(~both, "Image Index", f"films of other patients in {one} than in {other}")
    return test


def _places(folders: Sequence[Path], bad: BadRows) -> dict[str, Path]:
    """Where each film lies; the first place counts where there are two."""
    places: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.name in places:
                fault = f"lies in {places[file.name].parent} too: remove one of the two"
                bad.reject(file, str(file), fault)
            else:
                places[file.name] = file
    return places


def _read_boxes(
    root: Path, films: pd.DataFrame, listed: Collection[str], bad: BadRows
) -> pd.DataFrame:
    """Boxes of `films` in pixels of their files, as of `finding_boxes`.

    Boxes on `listed` films that are not among `films` (of wrong rows) are left out silently.
    """
    table = _read_by_place(root / "BBox_List_2017.csv", BOX_COLUMN_NAMES, BOX_HEADERS, bad)
    name = table.column("Image Index")
    table.require(name.isin(listed), "Image Index", "a film of the table of findings")
    boxes = finding_boxes(table, "Image Index", "Finding Label", NIH_BOX_LABELS, FRAME)
    boxes["image_id"] = boxes["image_id"].str.removesuffix(".png")
    path_of = dict(zip(films["image_id"], films["path"], strict=True))
    boxes = boxes[boxes["image_id"].isin(path_of)]
    for film in boxes["image_id"].unique():
        height, width = FRAME, FRAME
        with suppress(InputError):  # reported when the film is decoded
            height, width = probe(Path(path_of[film]), depths=(8,))
        of_film = boxes["image_id"] == film
        if height != width:
            fault = (
                f"is {width}x{height}, but NIH's boxes count on square films: use it as released"
            )
            bad.reject(path_of[film], path_of[film], fault)
            boxes = boxes[~of_film]
        elif width != FRAME:
            boxes.loc[of_film, list("xywh")] *= width / FRAME
    return boxes.reset_index(drop=True)


DATASET = steps.data_set(
    "nih",
    ("films",),
    lambda folder: steps.first_folder(
        folder, BELOW, lambda root: any((root / name).is_file() for name in ENTRIES)
    ),
    read_nih,
)
