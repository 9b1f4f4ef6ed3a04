"""The open pack: real frontal radiographs that may be shared, for trying the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit import paths
from dollkit.errors import InputError
from dollkit.findings import FINDINGS
from dollkit.readers.open_mapping import BOX_LABELS, nih_states
from dollkit.readers.splits import draw_parts, read_split, write_split
from dollkit.readers.table import BOX_COLUMNS, FilmTable, blank_films

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


def read_films(data_dir: Path | str, splits: Path | str | None = None) -> FilmTable:
    """Films with findings: the pack's NIH ChestX-ray14 films under CheXpert's 14 names.

    Counts: 691 films (256 x 256) of 485 patients; 104 of them have boxes (28 Pneumonia, one each
    of Cardiomegaly, Infiltrate, Pneumothorax in NIH's list; 133 opacities on 84 films in RSNA's).
    The findings are mapped as `dollkit.readers.open_mapping` says.

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

    Raises:
        InputError: a file or column is missing, or the split does not match the pack.
    """
    root = Path(data_dir)
    images = _images(root)
    images = images[images["image_id"].str.startswith("nih_")]
    states = nih_states(_csv(root / "findings_nih.csv"), root / "findings_nih.csv")
    lacking = sorted(set(images["image_id"]) - set(states.index))
    if lacking:
        raise InputError(f"{root / 'findings_nih.csv'}: film {lacking[0]!r} has no row")
    films = _films(root, images)
    films[list(FINDINGS)] = states.loc[films["image_id"]].to_numpy()
    patient_of = dict(zip(films["image_id"], films["patient_id"], strict=True))
    path = Path(splits or paths.SPLITS) / "open_films.csv"
    films["split"] = read_split(path, patient_of, "split").loc[films["image_id"]].to_numpy()
    judged = boxes(root)
    patients = set(films["patient_id"][films["image_id"].isin(judged["image_id"])])
    seen = films["patient_id"].isin(patients) & (films["split"] != "test")
    if seen.any():
        raise InputError(
            f"{path}: patient {films['patient_id'][seen].iloc[0]!r} has a film with a box and is "
            "not in the test split: restore the file"
        )
    return FilmTable("open", films, root, boxes=judged)


def read_task(data_dir: Path | str, task: str, splits: Path | str | None = None) -> FilmTable:
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

    Raises:
        InputError: unknown task, a file or column is missing, or the folds do not match the pack.
    """
    root = Path(data_dir)
    images, masks = _task_images(root, task)
    films = _films(root, images)
    patient_of = dict(zip(films["image_id"], films["patient_id"], strict=True))
    path = Path(splits or paths.SPLITS) / f"open_{task}.csv"
    fold = pd.to_numeric(read_split(path, patient_of, "fold"), errors="coerce")
    if fold.isna().any() or sorted(set(fold)) != list(range(fold.nunique())):
        raise InputError(f"{path}: column 'fold': use the integers 0 to K-1: restore the file")
    films["fold"] = fold.loc[films["image_id"]].to_numpy().astype(int)
    films["split"] = "train"
    return FilmTable(f"open-{task}", films, root, masks=masks)


def boxes(data_dir: Path | str) -> pd.DataFrame:
    """Boxes of findings: image_id, finding, x, y, w, h in pixels of the pack's resized films.

    NIH's own boxes, and RSNA's opacities where ``rsna_boxes.csv`` is there; lung boxes are no
    findings and left out. Names are mapped by `BOX_LABELS`.

    Raises:
        InputError: a file or column is missing, or a label without counterpart.
    """
    root = Path(data_dir)
    needed = ("image_id", "set", "label", "x", "y", "w", "h")
    files = [root / "boxes.csv"]
    if (root / "rsna_boxes.csv").is_file():
        files.append(root / "rsna_boxes.csv")
    parts = []
    for file in files:
        table = _csv(file, needed)
        table = table[table["set"] != "GB_lung_bbox"].copy()
        unknown = ~table["label"].isin(list(BOX_LABELS))
        if unknown.any():
            raise InputError(
                f"{file}: box label {table['label'][unknown].iloc[0]!r} has no counterpart among "
                f"CheXpert's findings: known are {', '.join(BOX_LABELS)}"
            )
        table["finding"] = table["label"].map(BOX_LABELS)
        parts.append(table[list(BOX_COLUMNS)])
    joined = pd.concat(parts, ignore_index=True)
    return joined.astype(dict.fromkeys("xywh", float))


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
    images = _images(root)
    images = images[images["image_id"].str.startswith("nih_")].reset_index(drop=True)
    states = nih_states(_csv(root / "findings_nih.csv"), root / "findings_nih.csv")
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
        chosen, masks = _task_images(root, task)
        k = folds or default
        traits = (masks != "").to_numpy()
        chosen["fold"] = draw_parts(chosen["patient_id"].tolist(), traits, [1.0] * k)
        written.append(out / f"open_{task}.csv")
        write_split(written[-1], chosen, "fold")
    return written


def _task_images(root: Path, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``images.csv`` with any mask of a task, and the mask files by class."""
    if task not in TASKS:
        raise InputError(f"parameter 'task' is {task!r}: use one of {', '.join(TASKS)}")
    listed = _csv(root / "masks.csv", ("image_id", "kind", "file"))
    files = {
        name: listed[listed["kind"] == kind].set_index("image_id")["file"]
        for name, kind in TASKS[task].items()
    }
    images = _images(root)
    masked = images["image_id"].isin(set().union(*(f.index for f in files.values())))
    images = images[masked].reset_index(drop=True)
    columns = {
        name: [str(root / f[i]) if i in f.index else "" for i in images["image_id"]]
        for name, f in files.items()
    }
    return images, pd.DataFrame(columns)


def _films(root: Path, images: pd.DataFrame) -> pd.DataFrame:
    films = blank_films(len(images))
    for column in ("image_id", "patient_id", "sex", "source"):
        films[column] = images[column].to_numpy()
    films["study_id"] = films["image_id"]
    films["view"] = (
        images["view"].map({"PA": "PA", "AP": "AP", "AP Supine": "AP"}).fillna("").values
    )
    films["age"] = pd.to_numeric(images["age"], errors="coerce").to_numpy(float)
    for column in ("width", "height"):
        films[column] = images[column].astype(int).to_numpy()
    films["path"] = [str(root / file) for file in images["file"]]
    films["where"] = [f"{root / 'images.csv'}, row {row}" for row in images["row"]]
    return films


def _images(root: Path) -> pd.DataFrame:
    needed = ["image_id", "file", "source", "patient_id", "view", "sex", "age", "width", "height"]
    images = _csv(root / "images.csv", needed)
    # As a spreadsheet shows them: the header is row 1.
    images["row"] = np.arange(2, len(images) + 2)
    return images


def _csv(path: Path, needed: Sequence[str] = ("image_id",)) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give the folder of the open pack") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error}): fetch it again") from None
    for name in needed:
        if name not in table.columns:
            raise InputError(f"{path}: column {name!r} is missing: fetch the file again")
    return table
