"""The open pack: real frontal radiographs that may be shared, for trying the whole chain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import BadRows, CsvTable, read_csv
from dollkit.data.dataset import first_with
from dollkit.data.film_table import BOX_COLUMNS, FilmTable
from dollkit.data.masks import MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.nih import NIH_FINDINGS, finding_boxes, nih_states
from dollkit.data.splits import read_split

TASKS: dict[str, dict[str, str]] = {
    "lungs": {"lungs": "lungs_v7"},
    "infection": {"infection": "infection_gb"},
    "organs": {
        "left lung": "gb_left_lung",
        "right lung": "gb_right_lung",
        "cardiomediastinum": "gb_cardiomediastinum",
    },
}
"""Mask classes of each task, and the pack's kind of mask behind each.

``lungs_v7`` includes the lung behind the heart, the others do not; in the organs task the
cardiomediastinum overlaps the lungs.
"""

FOLDS: dict[str, int] = {"lungs": 5, "infection": 4, "organs": 4}
"""Number of cross-validation folds of the committed CSV files."""

VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}
HINT = "give the folder of the open pack, or fetch the file again"
NEEDED = ("image_id", "file", "source", "patient_id", "view", "sex", "age", "width", "height")


def read_films(
    data_dir: Path | str, splits: Path | str | None = None, skip_bad: bool = False
) -> FilmTable:
    """The pack's NIH ChestX-ray14 films under CheXpert's 14 names, with boxes of findings.

    All films of patients with a box are in the test split, so that no classifier or label that is
    judged on a box was made with its patient. Not a random sample: every film was picked for
    Pneumonia or for No Finding. `splits` is the folder of the split CSV files (None: the
    repository's).
    """
    root, bad = Path(data_dir), BadRows()
    notes = bad if skip_bad else None
    images, patient_of = _read_images(root, notes)
    images = _only(images, images.frame["image_id"].str.startswith("nih_"))
    states = _read_states(root, notes)
    known = images.frame["image_id"].isin(states.index)
    images.require(known, "image_id", "a film with a row in findings_nih.csv")
    judged = read_boxes(root, notes)
    films = _films(root, images)
    films[list(FINDINGS)] = states.loc[films["image_id"]].to_numpy()
    nih = {i: p for i, p in patient_of.items() if i.startswith("nih_")}
    path = Path(splits or paths.SPLITS) / "open_films.csv"
    films["split"] = read_split(path, nih, "split").loc[films["image_id"]].to_numpy()
    judged = judged[judged["image_id"].isin(films["image_id"])].reset_index(drop=True)
    patients = set(films["patient_id"][films["image_id"].isin(judged["image_id"])])
    seen = films["patient_id"].isin(patients) & (films["split"] != "test")
    if seen.any():
        raise InputError(
            f"{path}: patient {films['patient_id'][seen].iloc[0]!r} has a film with a box and is "
            "not in the test split: restore the file"
        )
    facts = {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "boxes": len(judged),
        "boxed films": judged["image_id"].nunique(),
    }
    others = _left_out(root, films["path"])
    return steps.make_table("open", films, root, boxes=judged, others=others, facts=facts, bad=bad)


def read_task(
    data_dir: Path | str, task: str, splits: Path | str | None = None, skip_bad: bool = False
) -> FilmTable:
    """Films of ieee8023 with masks of one of `TASKS`, in folds by patient (`FOLDS`)."""
    root, bad = Path(data_dir), BadRows()
    images, masks, patient_of = _task_images(root, task, bad if skip_bad else None)
    films = _films(root, images)
    path = Path(splits or paths.SPLITS) / f"open_{task}.csv"
    fold = read_split(path, patient_of, "fold")
    films["fold"] = fold.loc[films["image_id"]].to_numpy().astype(int)
    films["split"] = "train"
    facts = {
        f"{task} films": len(films),
        f"{task} patients": films["patient_id"].nunique(),
        f"{task} masks": int(masks.notna().sum().sum()),
    }
    used = [*films["path"], *(str(m.path) for name in masks for m in masks[name] if m is not None)]
    others = _left_out(root, used)
    return steps.make_table(
        "open", films, root, masks, others=others, facts=facts, bad=bad, store=task
    )


def read_boxes(root: Path, bad: BadRows | None = None) -> pd.DataFrame:
    """`BOX_COLUMNS` in pixels of the pack's films: NIH's boxes, and RSNA's if they are there."""
    parts = []
    for name in ("boxes.csv", "rsna_boxes.csv"):
        if name == "boxes.csv" or (root / name).is_file():
            table = read_csv(root / name, ("image_id", "set", "label", *"xywh"), bad, hint=HINT)
            # Lungs are no findings.
            table = _only(table, table.column("set") != "GB_lung_bbox")
            parts.append(finding_boxes(table, "image_id", "label")[list(BOX_COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def _task_images(
    root: Path, task: str, bad: BadRows | None = None
) -> tuple[CsvTable, pd.DataFrame, dict[str, str]]:
    """Rows of ``images.csv`` with any mask of a task, the masks by class, patients by film."""
    if task not in TASKS:
        raise InputError(f"parameter 'task' is {task!r}: use one of {', '.join(TASKS)}")
    listed = _read_masks(root, bad)
    keys = zip(listed.frame["kind"], listed.frame["image_id"], strict=True)
    file_of = dict(zip(keys, listed.files("file", root), strict=True))
    masked = {i for kind, i in file_of if kind in TASKS[task].values()}
    images, patient_of = _read_images(root, bad)
    images = _only(images, images.frame["image_id"].isin(masked))
    columns: dict[str, list[MaskFile | None]] = {}
    for name, kind in TASKS[task].items():
        files = [file_of.get((kind, i)) for i in images.frame["image_id"]]
        # The pack's masks were resized with smoothing.
        columns[name] = [MaskFile(f, threshold=True) if f else None for f in files]
    known = {i: p for i, p in patient_of.items() if i in masked}
    return images, pd.DataFrame(columns, dtype=object), known


def _films(root: Path, images: CsvTable) -> pd.DataFrame:
    """Films table, without findings and split, of rows of ``images.csv``."""
    rows = images.frame
    films = steps.films_of(
        "open",
        rows["image_id"],
        images.files("file", root),
        images.where(),
        patient_id=rows["patient_id"],
        sex=rows["sex"],
        view=images.column("view").map(VIEWS).fillna(""),
        age=images.numbers("age"),
        **{side: images.numbers(side, blank=False).astype(int) for side in ("width", "height")},
    )
    return films.assign(source=rows["source"])


def _read_images(root: Path, bad: BadRows | None = None) -> tuple[CsvTable, dict[str, str]]:
    """Sound rows of ``images.csv``, and the patient of every film, of wrong rows too."""
    images = read_csv(root / "images.csv", NEEDED, bad, hint=HINT)
    patient_of = dict(zip(images.frame["image_id"], images.frame["patient_id"], strict=True))
    images.require(~images.frame["image_id"].duplicated(), "image_id", "each film once")
    images.require(images.column("sex").isin(["M", "F", ""]), "sex", "M, F or blank")
    images.numbers("age")
    for side in ("width", "height"):
        size = images.numbers(side, blank=False)
        images.require((size > 0) & (size % 1 == 0), side, "a number of pixels")
    images.files("file", root)
    return images, patient_of


def _read_masks(root: Path, bad: BadRows | None = None) -> CsvTable:
    """Sound rows of ``masks.csv``."""
    masks = read_csv(root / "masks.csv", ("image_id", "kind", "file"), bad, hint=HINT)
    twice = masks.frame[["image_id", "kind"]].duplicated()
    masks.require(~twice, "image_id", "one mask of each kind per film")
    masks.files("file", root)
    return masks


def _read_states(root: Path, bad: BadRows | None = None) -> pd.DataFrame:
    """CheXpert label states by image id, of ``findings_nih.csv``: a column of 0 and 1 each."""
    needed = ("image_id", *NIH_FINDINGS)
    table = read_csv(root / "findings_nih.csv", needed, bad, hint=HINT)
    table.require(~table.frame["image_id"].duplicated(), "image_id", "each film once")
    for name in NIH_FINDINGS:
        table.require(table.column(name).isin(["0", "1"]), name, "0 or 1")
    present = pd.DataFrame({name: table.column(name) == "1" for name in NIH_FINDINGS})
    return nih_states(present).set_axis(table.frame["image_id"])


def _only(table: CsvTable, kept: pd.Series[bool]) -> CsvTable:
    return CsvTable(table.path, table.frame[kept].reset_index(drop=True), table.bad)


def _left_out(root: Path, used: Iterable[str]) -> tuple[Path, ...]:
    """Images and masks that the pack lists and one table does not use."""
    bad = BadRows()  # reported already
    tables = (_read_images(root, bad)[0], _read_masks(root, bad))
    known = set(used)
    return tuple(f for table in tables for f in table.files("file", root) if str(f) not in known)


def _read(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    tables = {"films": read_films(root, skip_bad=skip_bad)}
    return tables | {task: read_task(root, task, skip_bad=skip_bad) for task in TASKS}


DATASET = steps.data_set(
    "open",
    ("films", *TASKS),
    lambda folder: first_with(
        folder, ("images.csv", "masks.csv", "findings_nih.csv"), ("cxr_open",)
    ),
    _read,
)
