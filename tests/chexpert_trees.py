"""Small trees in the form of CheXpert and CheXlocalize, with made-up films and truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from dollkit.common.findings import FINDINGS
from dollkit.data.sets.chexpert import HEADER, LOCALIZED
from tests.small_files import save

FULL = (60, 80)  # height and width of the full-size films that truth is drawn on
KEY = "patient64541_study1_view1_frontal"


def square() -> np.ndarray:
    """20 x 30 pixels: x 10 to 40, y 15 to 35."""
    mask = np.zeros(FULL, np.uint8)
    mask[15:35, 10:40] = 1
    return mask


def film_row(path: str, **values: str) -> dict[str, str]:
    row = dict.fromkeys(HEADER, "")
    row |= {"Path": path, "Sex": "Female", "Age": "61", "Frontal/Lateral": "Frontal", "AP/PA": "PA"}
    return row | {"Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"} | values


def write_csv(path: Path, rows: list[dict[str, str]], header: tuple[str, ...] = HEADER) -> None:
    pd.DataFrame(rows)[list(header)].to_csv(path, index=False)


def write_chexpert(root: Path, **changed: str) -> Path:
    """Six patients in train.csv (the first with a lateral film, too), two in valid.csv.

    `changed` replaces values of row 4 of train.csv, the film of patient 2.
    """
    for part, patients in (("train", range(1, 7)), ("valid", range(7, 9))):
        rows = []
        for k in patients:
            path = f"{part}/patient{k:05d}/study1/view1_frontal.jpg"
            save(root / path, np.full((40, 32), 20 * k))
            rows.append(film_row(f"CheXpert-v1.0-small/{path}"))
        if part == "train":
            lateral = "train/patient00001/study1/view2_lateral.jpg"
            kind = {"Frontal/Lateral": "Lateral", "AP/PA": ""}
            save(root / lateral, np.full((40, 32), 100))
            rows.insert(1, film_row(f"CheXpert-v1.0-small/{lateral}", **kind))
            rows[2] |= changed
        write_csv(root / f"{part}.csv", rows)
    return root


def runs(mask: np.ndarray) -> dict[str, Any]:
    """A mask as CheXlocalize's segmentations hold it."""
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in coded["size"]], "counts": coded["counts"].decode()}


def segmented(size: tuple[int, int] = FULL, **masks: np.ndarray) -> dict[str, dict[str, Any]]:
    """One entry of a segmentations file: all ten findings, zeros but for `masks`."""
    empty = np.zeros(size, np.uint8)
    coded = {f: runs(masks.get(f.replace(" ", "_"), empty)) for f in LOCALIZED}
    coded["Airspace Opacity"] = coded.pop("Lung Opacity")
    return coded


def write_truth(path: Path, entries: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def localized_tree(folder: Path) -> Path:
    """Two val films (one lateral beside them) and two test films; one of each has truth."""
    tree = folder / "chexlocalize"
    val, test = ("CheXpert-v1.0/valid/", 64541, HEADER), ("test/", 64741, ("Path", *FINDINGS))
    for part, (lead, first, header) in {"val": val, "test": test}.items():
        rows = []
        for patient, view in ((first, "view1_frontal"), (first, "view2_lateral"), (first + 1, "")):
            inner = f"patient{patient}/study1/{view or 'view1_frontal'}.jpg"
            kind = {"Frontal/Lateral": "Lateral"} if "lateral" in inner else {}
            rows.append(film_row(lead + inner, Pneumonia="0.0", **kind))
            save(tree / "CheXpert" / part / inner, np.full((30, 40), 100))
        write_csv(tree / "CheXpert" / f"{part}_labels.csv", rows, header)
        drawn = segmented(Edema=square(), Lung_Opacity=1 - square())
        study = f"patient{first}_study1"
        entries = {f"{study}_view1_frontal": drawn, f"{study}_view2_lateral": segmented()}
        write_truth(tree / "CheXlocalize" / f"gt_segmentations_{part}.json", entries)
    return tree
