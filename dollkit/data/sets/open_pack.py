"""The open pack: real frontal radiographs that may be shared, for trying the whole chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import STRICT, BadRows, CsvTable, read_csv
from dollkit.data.drawn_masks import drawn_masks
from dollkit.data.film_table import FilmTable
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


def read_open(root: Path, bad: BadRows = STRICT) -> dict[str, FilmTable]:
    """``films``, and a store for each of `TASKS`; splits and folds are the repository's.

    ``films`` are the pack's NIH ChestX-ray14 films under CheXpert's 14 names, with boxes of
    findings. All films of patients with a box are in the test split, so that no classifier or label
    that is judged on a box was made with its patient. Not a random sample: every film was picked
    for Pneumonia or for No Finding. The films with masks are ieee8023's, in `FOLDS` by patient.
    """
    images = read_csv(root / "images.csv", NEEDED, bad, hint=HINT)
    patient_of = dict(zip(images.frame["image_id"], images.frame["patient_id"], strict=True))
    images.require(~images.frame["image_id"].duplicated(), "image_id", "each film once")
    images.among("sex", ("M", "F", ""))
    images.numbers("age")
    for side in ("width", "height"):
        size = images.numbers(side, blank=False)
        images.require((size > 0) & (size % 1 == 0), side, "a number of pixels")
    images.files("file", root)
    masks = read_csv(root / "masks.csv", ("image_id", "kind", "file"), bad, hint=HINT)
    twice = masks.frame[["image_id", "kind"]].duplicated()
    masks.require(~twice, "image_id", "one mask of each kind per film")
    drawn = masks.frame.assign(file=pd.Series(masks.files("file", root), dtype=object))
    others = [*images.files("file", root), *drawn["file"]]
    out = {"films": _with_findings(root, images, patient_of, others)}
    files = drawn.pivot(index="image_id", columns="kind", values="file")
    return out | {
        task: _with_masks(root, task, images, files, patient_of, others) for task in TASKS
    }


def _with_findings(
    root: Path, images: CsvTable, patient_of: Mapping[str, str], others: Sequence[Path]
) -> FilmTable:
    bad = images.bad
    states = _read_states(root, bad)
    images = images.part(images.frame["image_id"].str.startswith("nih_"))
    known = images.frame["image_id"].isin(states.index)
    images.require(known, "image_id", "a film with a row in findings_nih.csv")
    films = _films(root, images)
    films[list(FINDINGS)] = states.loc[films["image_id"]].to_numpy()
    path = paths.SPLITS / "open_films.csv"
    nih = {i: p for i, p in patient_of.items() if i.startswith("nih_")}
    films["split"] = read_split(path, nih, "split").loc[films["image_id"]].to_numpy()
    boxes = read_boxes(root, bad)
    boxes = boxes[boxes["image_id"].isin(films["image_id"])].reset_index(drop=True)
    patients = films["patient_id"][films["image_id"].isin(boxes["image_id"])]
    leaks = films["patient_id"].isin(patients) & (films["split"] != "test")
    for patient in films["patient_id"][leaks]:
        raise InputError(
            f"{path}: patient {patient!r} has a film with a box and is not in the test split: "
            "restore the file"
        )
    facts = {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "boxes": len(boxes),
        "boxed films": boxes["image_id"].nunique(),
    }
    masks = steps.boxed(films, boxes)
    return steps.make_table("open", films, root, masks, others=others, facts=facts, bad=bad)


def _with_masks(
    root: Path, task: str, images: CsvTable, files: pd.DataFrame, patient_of: Mapping[str, str],
    others: Sequence[Path],
) -> FilmTable:  # fmt: skip
    """Films with any mask of a task; `files` of masks are by film and kind."""
    drawn = files.reindex(columns=list(TASKS[task].values())).dropna(how="all")
    films = _films(root, images.part(images.frame["image_id"].isin(drawn.index)))
    patients = {i: p for i, p in patient_of.items() if i in drawn.index}
    fold = read_split(paths.SPLITS / f"open_{task}.csv", patients, "fold")
    films["fold"] = fold.loc[films["image_id"]].to_numpy().astype(int)
    films["split"] = "train"
    # The pack's masks were resized with smoothing.
    files = drawn.loc[films["image_id"]].astype(object)
    files = files.where(files.notna(), None)
    masks = {name: drawn_masks(files[kind].tolist()) for name, kind in TASKS[task].items()}
    facts = {
        f"{task} films": len(films),
        f"{task} patients": films["patient_id"].nunique(),
        f"{task} masks": sum(mask is not None for column in masks.values() for mask in column),
    }
    return steps.make_table(
        "open", films, root, masks, others=others, facts=facts, bad=images.bad, store=task
    )


def read_boxes(root: Path, bad: BadRows = STRICT) -> pd.DataFrame:
    """Boxes in pixels of the pack's films: NIH's, and RSNA's if they are there."""
    parts = []
    for name in ("boxes.csv", "rsna_boxes.csv"):
        if name == "boxes.csv" or (root / name).is_file():
            table = read_csv(root / name, ("image_id", "set", "label", *"xywh"), bad, hint=HINT)
            # Lungs are no findings.
            table = table.part(table.column("set") != "GB_lung_bbox")
            parts.append(finding_boxes(table, "image_id", "label"))
    return pd.concat(parts, ignore_index=True)


def _films(root: Path, images: CsvTable) -> pd.DataFrame:
    """Films table, without findings and split, of rows of ``images.csv``."""
    rows = images.frame
    return steps.films_of(
        "open",
        rows["image_id"],
        images.files("file", root),
        images.where(),
        patient_id=rows["patient_id"],
        sex=rows["sex"],
        source=rows["source"],
        view=images.column("view").map(VIEWS).fillna(""),
        age=images.numbers("age"),
        **{side: images.numbers(side, blank=False).astype(int) for side in ("width", "height")},
    )


def _read_states(root: Path, bad: BadRows) -> pd.DataFrame:
    """CheXpert label states by image id, of ``findings_nih.csv``: a column of 0 and 1 each."""
    table = read_csv(root / "findings_nih.csv", ("image_id", *NIH_FINDINGS), bad, hint=HINT)
    table.require(~table.frame["image_id"].duplicated(), "image_id", "each film once")
    for name in NIH_FINDINGS:
        table.among(name, ("0", "1"))
    present = pd.DataFrame({name: table.column(name) == "1" for name in NIH_FINDINGS})
    return nih_states(present).set_axis(table.frame["image_id"])


DATASET = steps.data_set(
    "open",
    ("films", *TASKS),
    steps.marked(("images.csv", "masks.csv", "findings_nih.csv"), ("cxr_open",)),
    read_open,
)
