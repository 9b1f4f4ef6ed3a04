"""NIH ChestX-ray14's findings under CheXpert's 14 names, and what has no counterpart.

The two label sets were mined from reports by different rules, so equal names mean similar, not
equal things. NIH writes 1 for mentioned as present and 0 for everything else; a 0 is read as
negative, because NIH's own baseline does so, except where it says nothing about the CheXpert
finding (then blank).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import CsvTable

NIH_FINDINGS: tuple[str, ...] = (
    "No_Finding",
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""NIH's 14 findings and No_Finding (written ``No Finding`` in its own table)."""

NIH_TO_CHEXPERT: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Lesion": ("Mass", "Nodule"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Lung Opacity": (
        "Infiltration",
        "Mass",
        "Nodule",
        "Edema",
        "Consolidation",
        "Pneumonia",
        "Atelectasis",
    ),
}
"""CheXpert finding -> NIH findings, any of which makes it positive; otherwise it is negative.

Lung Opacity is Infiltration or any of its children in CheXpert's hierarchy.
"""

IMPLIED: dict[str, str] = {"Enlarged Cardiomediastinum": "Cardiomegaly", "No Finding": "No_Finding"}
"""CheXpert finding -> NIH finding that makes it positive; otherwise it is blank.

NIH says nothing of a mediastinum that is wide for other reasons; No Finding is 1 or blank in
CheXpert as well.
"""

UNMAPPED_CHEXPERT: tuple[str, ...] = ("Fracture", "Support Devices")
"""CheXpert findings without an NIH counterpart: blank on every film."""

UNMAPPED_NIH: tuple[str, ...] = ("Emphysema", "Fibrosis", "Hernia")
"""NIH findings without a CheXpert counterpart: dropped. A film with only these is positive for
nothing, and not for No Finding either."""

BOX_LABELS: dict[str, str] = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Infiltrate": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Lung Opacity (RSNA)": "Lung Opacity",
}
"""Labels of NIH's eight boxed classes and of RSNA's boxes -> CheXpert finding."""


NIH_BOX_LABELS: tuple[str, ...] = tuple(n for n in BOX_LABELS if not n.endswith("(RSNA)"))
"""The eight labels of ``BBox_List_2017.csv``; its Infiltrate is Infiltration in the findings."""


def nih_states(present: pd.DataFrame) -> pd.DataFrame:
    """CheXpert label states from NIH findings.

    Args:
        present: bool columns `NIH_FINDINGS`, one row per film.

    Returns:
        float columns `FINDINGS` with 1, 0 or NaN (blank), on the same index.
    """
    out = pd.DataFrame(np.nan, index=present.index, columns=list(FINDINGS))
    for finding, names in NIH_TO_CHEXPERT.items():
        out[finding] = present[list(names)].any(axis=1).astype(float)
    for finding, name in IMPLIED.items():
        out[finding] = np.where(present[name], 1.0, np.nan)
    return out


def present_in_columns(table: CsvTable) -> pd.DataFrame:
    """NIH findings of a table with one column of 0 and 1 per finding: bool `NIH_FINDINGS`.

    Rows with another value are wrong (see `CsvTable.require`).
    """
    for name in NIH_FINDINGS:
        table.require(table.column(name).isin(["0", "1"]), name, "0 or 1")
    return pd.DataFrame({name: table.column(name) == "1" for name in NIH_FINDINGS})


def present_in_lists(table: CsvTable, column: str) -> pd.DataFrame:
    """NIH findings of a table with one column ``A|B|C`` or ``No Finding``: bool `NIH_FINDINGS`.

    Rows with an unknown name, none, one twice, or No Finding beside another are wrong (see
    `CsvTable.require`).
    """
    # By distinct cell: there are few among NIH's 112,120.
    names = {cell: _names(cell) for cell in table.frame[column].unique()}
    sound = [cell for cell, found in names.items() if found]
    table.require(table.frame[column].isin(sound), column, "NIH's findings as A|B|C or No Finding")
    cells = table.frame[column]
    return pd.DataFrame(
        {name: cells.isin([c for c in sound if name in names[c]]) for name in NIH_FINDINGS}
    )


def _names(cell: str) -> Collection[str]:
    """NIH findings in one cell; none if anything is wrong with it."""
    listed = [part.strip().replace(" ", "_") for part in cell.split("|")]
    found = set(listed)
    alone = "No_Finding" not in found or len(found) == 1
    good = alone and len(found) == len(listed) and found <= set(NIH_FINDINGS)
    return found if good else ()


def finding_boxes(
    table: CsvTable,
    image: str,
    label: str,
    sides: Sequence[str] = ("x", "y", "w", "h"),
    allowed: Sequence[str] = tuple(BOX_LABELS),
    limit: float = np.inf,
) -> pd.DataFrame:
    """Boxes of a table under CheXpert's names.

    Args:
        table: one box per row.
        image, label, sides: columns of the film, of its label, and of left, top, width, height.
        allowed: labels that may stand there; any other makes a wrong row, like a side that is no
            number or a box without area (see `CsvTable.require`).
        limit: side of the square frame that boxes count in; 1 % beyond it is still inside.

    Returns:
        `BOX_COLUMNS` and label (as the table has it), in the table's own pixels.
    """
    known = f"a label with a counterpart in CheXpert: {', '.join(allowed)}"
    table.require(table.column(label).isin(list(allowed)), label, known)
    inside = "a box with area inside its film"
    for side in sides:
        table.numbers(side, blank=False)
    for start, length in zip(sides[:2], sides[2:], strict=True):
        table.require(table.numbers(start) >= 0, start, inside)
        table.require(table.numbers(length) > 0, length, inside)
        end = table.numbers(start) + table.numbers(length)
        table.require(end <= 1.01 * limit, length, inside)
    labels = table.column(label)
    out = pd.DataFrame({"image_id": table.column(image), "finding": labels.map(BOX_LABELS)})
    for name, side in zip("xywh", sides, strict=True):
        out[name] = table.numbers(side)
    return out.assign(label=labels)


def mapping_table() -> pd.DataFrame:
    """The mapping to show: columns chexpert, nih, otherwise ("negative", "blank" or "dropped")."""
    rows = []
    for finding in FINDINGS:
        if finding in NIH_TO_CHEXPERT:
            rows.append((finding, " or ".join(NIH_TO_CHEXPERT[finding]), "negative"))
        else:
            rows.append((finding, IMPLIED.get(finding, ""), "blank"))
    rows += [("", name, "dropped") for name in UNMAPPED_NIH]
    return pd.DataFrame(rows, columns=["chexpert", "nih", "otherwise"])
