"""NIH ChestX-ray14 as released: films in numbered folders, findings, boxes, patient lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import FINDINGS
from dollkit.readers.csvfile import BadRows, reject
from dollkit.readers.dataset import DataSet
from dollkit.readers.nih_tables import (
    ENTRIES,
    HINT,
    LISTS,
    check_lists,
    read_boxes,
    read_entries,
    read_list,
)
from dollkit.readers.open_mapping import nih_states, present_in_lists
from dollkit.readers.splits import share
from dollkit.readers.table import BOX_COLUMNS, FilmTable, blank_films

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
    mapped to CheXpert's 14 as `dollkit.readers.open_mapping` says.

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
