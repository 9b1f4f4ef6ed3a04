"""NIH ChestX-ray14's findings under CheXpert's 14 names, and what has no counterpart.

The two label sets were mined from reports by different rules, so equal names mean similar, not
equal things. NIH writes 1 for mentioned as present and 0 for everything else; a 0 is read as
negative, because NIH's own baseline does so, except where it says nothing about the CheXpert
finding (then blank).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import FINDINGS

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


def nih_states(findings: pd.DataFrame, path: Path | str = "findings table") -> pd.DataFrame:
    """CheXpert label states from NIH findings.

    Args:
        findings: image_id and NIH's columns (`No_Finding` and 14 others) with 0 or 1.
        path: named in errors.

    Returns:
        float columns `FINDINGS` with 1, 0 or NaN (blank), indexed by image_id.

    Raises:
        InputError: a column is missing, or a value is neither 0 nor 1.
    """
    used = {name for names in NIH_TO_CHEXPERT.values() for name in names}
    present: dict[str, pd.Series[bool]] = {}
    for name in sorted(used | set(IMPLIED.values())):
        if name not in findings.columns:
            raise InputError(f"{path}: column {name!r} is missing: fetch the file again")
        values = findings[name].astype(str)
        bad = ~values.isin(["0", "1"])
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{path}, row {row + 2}, column {name!r}: value {values.iloc[row]!r}: use 0 or 1"
            )
        present[name] = values == "1"
    out = pd.DataFrame(np.nan, index=findings["image_id"], columns=list(FINDINGS))
    for finding, names in NIH_TO_CHEXPERT.items():
        out[finding] = np.any([present[n] for n in names], axis=0).astype(float)
    for finding, name in IMPLIED.items():
        out[finding] = np.where(present[name], 1.0, np.nan)
    return out


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
