"""The open pack: real frontal radiographs that may be shared, for trying the whole chain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import BadRows, CsvTable, read_csv
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import BOX_COLUMNS, FilmTable, blank_films
from dollkit.data.masks import MaskFile
from dollkit.data.sets.nih_names import NIH_FINDINGS, finding_boxes, nih_states, present_in_columns
from dollkit.data.splits import draw_parts, read_split, write_split

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

SHARES = (0.75, 0.10, 0.15)
"""Train, valid, test shares of the patients without boxes."""

DOCUMENTED: dict[str, int] = {
    "films": 691,
    "patients": 485,
    "boxes": 164,
    "boxed films": 104,
    **{"lungs films": 145, "lungs patients": 79, "lungs masks": 145},
    **{"infection films": 29, "infection patients": 24, "infection masks": 29},
    **{"organs films": 29, "organs patients": 24, "organs masks": 85},
}

SIDE = ("*.csv", "*.md", "MANIFEST.sha256", "images_64/*")


def read_films(
    data_dir: Path | str, splits: Path | str | None = None, skip_bad: bool = False
) -> FilmTable:
    """Films with findings: the pack's NIH ChestX-ray14 films under CheXpert's 14 names.

    Counts: 691 films (256 x 256) of 485 patients; 104 of them have boxes (28 Pneumonia, one each
    of Cardiomegaly, Infiltrate, Pneumothorax in NIH's list; 133 opacities on 84 films in RSNA's).
    The findings are mapped as `dollkit.data.sets.nih_names` says.

    Masks: unions of boxes as mask classes, for judging labels only; valid only where a film has a
    box of that finding.

    Splits: ``data/splits/open_films.csv``. All films of patients with a box are in the test
    split, so that no classifier or label that is judged on a box was made with its patient.

    Traps: not a random sample: 334 films were picked for Pneumonia, the other 357 for No Finding.
    So Lung Opacity and Pneumonia are positive on the same films and No Finding on all others, and
    every other finding comes with Pneumonia: an AUROC on this pack says how well sick is told from
    healthy more than which finding is there. Labels are text-mined and noisy, and
    give no uncertain state. A box is coarser than a mask: overlaps with it are bounded below 1.

    Licence: NIH: unrestricted with attribution to the NIH Clinical Center and a link to the
    original download site; RSNA: annotations with attribution (delete ``rsna_*.csv`` if in doubt;
    this reader then goes without).

    Cite: Wang et al., "ChestX-ray8", CVPR 2017; Shih et al., Radiology: AI 2019 (RSNA boxes).

    Args:
        data_dir: folder with ``images.csv``.
        splits: folder of the split CSV files; None: the repository's ``data/splits``.
        skip_bad: note wrong rows in ``bad`` and go on.
    """
    root, bad = Path(data_dir), BadRows()
    notes = bad if skip_bad else None
    images, patient_of = read_images(root, notes)
    images = only(images, images.frame["image_id"].str.startswith("nih_"))
    states = read_states(root, notes)
    lacking = ~images.frame["image_id"].isin(states.index)
    images.require(~lacking, "image_id", "a film with a row in findings_nih.csv")
    judged = boxes(root, notes)
    films = films_of(root, images)
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
    others = left_out(root, films["path"])
    return FilmTable(
        "open", films, root, boxes=judged, others=others, side=SIDE, facts=facts, bad=bad
    )


def read_task(
    data_dir: Path | str, task: str, splits: Path | str | None = None, skip_bad: bool = False
) -> FilmTable:
    """Films with masks of one downstream task, from ieee8023/covid-chestxray-dataset.

    Counts: lungs 145 films of 79 patients (V7 Labs masks); infection 29 films of 24 patients
    (ground glass or consolidation, General Blockchain); organs 29 films of 24 patients, one of
    which lacks its left and one its right lung (unknown, not empty).

    Splits: cross-validation by patient, ``data/splits/open_<task>.csv``, `FOLDS` folds: fold k is
    tested by the network trained on the others; the column split is "train" throughout.

    Traps: the two sets of masks draw lungs by different rules (see `TASKS`): do not mix them.
    Many films are figures from publications: other windows, arrows, cropped borders.

    Licence: per image (column ``licence`` of ``images.csv``; all but three infection masks lie on
    films for non-commercial use); masks CC BY 4.0.

    Cite: Cohen et al., arXiv 2006.11988; V7 Labs, covid-19-xray-dataset; General Blockchain Inc.,
    El Hajjami, Soliman, covid-19-chest-xray-segmentations-dataset.

    Args:
        data_dir: folder with ``images.csv``.
        task: lungs, infection or organs.
        splits: folder of the split CSV files; None: the repository's ``data/splits``.
        skip_bad: note wrong rows in ``bad`` and go on.
    """
    root, bad = Path(data_dir), BadRows()
    images, masks, patient_of = _task_images(root, task, bad if skip_bad else None)
    films = films_of(root, images)
    path = Path(splits or paths.SPLITS) / f"open_{task}.csv"
    fold = pd.to_numeric(read_split(path, patient_of, "fold"), errors="coerce")
    if fold.isna().any() or sorted(set(fold)) != list(range(fold.nunique())):
        raise InputError(f"{path}: column 'fold': use the integers 0 to K-1: restore the file")
    films["fold"] = fold.loc[films["image_id"]].to_numpy().astype(int)
    films["split"] = "train"
    facts = {
        f"{task} films": len(films),
        f"{task} patients": films["patient_id"].nunique(),
        f"{task} masks": int(masks.notna().sum().sum()),
    }
    used = [*films["path"], *(str(m.path) for name in masks for m in masks[name] if m is not None)]
    others = left_out(root, used)
    return FilmTable(
        f"open-{task}", films, root, masks=masks, others=others, side=SIDE, facts=facts, bad=bad
    )


def boxes(data_dir: Path | str, bad: BadRows | None = None) -> pd.DataFrame:
    """Boxes of findings: image_id, finding, x, y, w, h in pixels of the pack's resized films.

    NIH's own boxes, and RSNA's opacities where ``rsna_boxes.csv`` is there; lung boxes are no
    findings and left out. Names are mapped by `dollkit.data.sets.nih_names.BOX_LABELS`.

    Args:
        data_dir: folder of the pack.
        bad: where wrong rows go; None: the first is an error.
    """
    root = Path(data_dir)
    parts = []
    for name in ("boxes.csv", "rsna_boxes.csv"):
        if name == "boxes.csv" or (root / name).is_file():
            table = read_csv(root / name, ("image_id", "set", "label", *"xywh"), bad, hint=HINT)
            table = only(table, table.column("set") != "GB_lung_bbox")
            parts.append(finding_boxes(table, "image_id", "label")[list(BOX_COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def draw_splits(data_dir: Path | str, out: Path | str, folds: int | None = None) -> list[Path]:
    """Draw the four split CSV files; they are committed, and this is how they were made.

    Args:
        data_dir: folder with ``images.csv``.
        out: folder for the CSV files.
        folds: number of folds of every task; None: as in `FOLDS`.

    Returns:
        paths written.
    """
    root, out = Path(data_dir), Path(out)
    listed, _ = read_images(root)
    images = only(listed, listed.frame["image_id"].str.startswith("nih_")).frame
    states = read_states(root)
    boxed = set(boxes(root)["image_id"])
    held = images["patient_id"].isin(set(images["patient_id"][images["image_id"].isin(boxed)]))
    images["split"] = "test"
    rest = images[~held]
    positive = (states.loc[rest["image_id"]] == 1).to_numpy()
    part = draw_parts(rest["patient_id"].tolist(), positive, SHARES)
    images.loc[~held, "split"] = np.array(["train", "valid", "test"])[part]
    written = [out / "open_films.csv"]
    write_split(written[0], images, "split")
    for task, default in FOLDS.items():
        table, masks, _ = _task_images(root, task)
        chosen = table.frame
        k = folds or default
        traits = masks.notna().to_numpy()
        chosen["fold"] = draw_parts(chosen["patient_id"].tolist(), traits, [1.0] * k)
        written.append(out / f"open_{task}.csv")
        write_split(written[-1], chosen, "fold")
    return written


def _task_images(
    root: Path, task: str, bad: BadRows | None = None
) -> tuple[CsvTable, pd.DataFrame, dict[str, str]]:
    """Rows of ``images.csv`` with any mask of a task, the masks by class, patients by film."""
    if task not in TASKS:
        raise InputError(f"parameter 'task' is {task!r}: use one of {', '.join(TASKS)}")
    listed = read_masks(root, bad)
    paths_of = dict(
        zip(
            zip(listed.frame["kind"], listed.frame["image_id"], strict=True),
            listed.files("file", root),
            strict=True,
        )
    )
    masked = {i for kind, i in paths_of if kind in TASKS[task].values()}
    images, patient_of = read_images(root, bad)
    images = only(images, images.frame["image_id"].isin(masked))
    columns = {
        # The pack's masks were resized with smoothing.
        name: [
            MaskFile(paths_of[kind, i], threshold=True) if (kind, i) in paths_of else None
            for i in images.frame["image_id"]
        ]
        for name, kind in TASKS[task].items()
    }
    known = {i: p for i, p in patient_of.items() if i in masked}
    return images, pd.DataFrame(columns, dtype=object), known


def find_root(folder: Path) -> Path | None:
    """`folder`, or ``cxr_open`` below it, that holds the pack's tables."""
    return first_with(folder, ("images.csv", "masks.csv", "findings_nih.csv"), ("cxr_open",))


def _read(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    tables = {"films": read_films(root, skip_bad=skip_bad)}
    return tables | {task: read_task(root, task, skip_bad=skip_bad) for task in TASKS}


DATASET = DataSet(
    name="open",
    title="open pack",
    stores=("films", *TASKS),
    find=find_root,
    read=_read,
    documented=DOCUMENTED,
    tree="images.csv, masks.csv and findings_nih.csv",
    licence="per image (images.csv): NIH with attribution; ieee8023 mostly non-commercial",
    cite="Wang et al., CVPR 2017; Cohen et al., arXiv 2006.11988; V7 Labs; General Blockchain",
    size="30 MB",
)


# Tables of the open pack: ``images.csv``, ``masks.csv``, ``findings_nih.csv``.


VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}
HINT = "give the folder of the open pack, or fetch the file again"
NEEDED = ("image_id", "file", "source", "patient_id", "view", "sex", "age", "width", "height")


def films_of(root: Path, images: CsvTable) -> pd.DataFrame:
    """Films table, without findings and split, of rows of ``images.csv``."""
    files = images.files("file", root)
    rows = images.frame
    films = blank_films(len(rows))
    for column in ("image_id", "patient_id", "sex", "source"):
        films[column] = rows[column]
    films["study_id"] = films["image_id"]
    films["view"] = images.column("view").map(VIEWS).fillna("")
    films["age"] = images.numbers("age")
    for column in ("width", "height"):
        films[column] = images.numbers(column, blank=False).astype(int)
    films["path"] = [str(file) for file in files]
    films["where"] = images.where()
    return films


def read_images(root: Path, bad: BadRows | None = None) -> tuple[CsvTable, dict[str, str]]:
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


def read_masks(root: Path, bad: BadRows | None = None) -> CsvTable:
    """Sound rows of ``masks.csv``."""
    masks = read_csv(root / "masks.csv", ("image_id", "kind", "file"), bad, hint=HINT)
    twice = masks.frame[["image_id", "kind"]].duplicated()
    masks.require(~twice, "image_id", "one mask of each kind per film")
    masks.files("file", root)
    return masks


def read_states(root: Path, bad: BadRows | None = None) -> pd.DataFrame:
    """CheXpert label states by image id."""
    needed = ("image_id", *NIH_FINDINGS)
    findings = read_csv(root / "findings_nih.csv", needed, bad, hint=HINT)
    findings.require(~findings.frame["image_id"].duplicated(), "image_id", "each film once")
    states = nih_states(present_in_columns(findings))
    return states.set_axis(findings.frame["image_id"])


def only(table: CsvTable, kept: pd.Series[bool]) -> CsvTable:
    """Some rows of a table, in a table of their own."""
    return CsvTable(table.path, table.frame[kept].reset_index(drop=True), table.bad)


def left_out(root: Path, used: Iterable[str]) -> tuple[Path, ...]:
    """Images and masks that the pack lists and one table does not use."""
    bad = BadRows()  # told already
    listed = [
        *read_images(root, bad)[0].files("file", root),
        *read_masks(root, bad).files("file", root),
    ]
    known = set(used)
    return tuple(file for file in listed if str(file) not in known)
