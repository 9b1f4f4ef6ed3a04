"""CheXpert's tree, original or down-sampled, or the phantom written in its form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.films import states_of
from dollkit.findings import (
    FINDINGS,
    NEGATIVE,
    NOT_MENTIONED,
    PATHOLOGIES,
    POSITIVE,
    UNCERTAIN,
)
from dollkit.readers.chexpert_rows import HINT, POSITIONS, Rows, apart, read_rows
from dollkit.readers.csvfile import BadRows, read_csv
from dollkit.readers.dataset import DataSet, first_with
from dollkit.readers.masks import Mask, MaskFile
from dollkit.readers.splits import share
from dollkit.readers.table import FilmTable
from dollkit.readers.truth import find_truth, load_truth, truth_masks

ROOTS = ("CheXpert-v1.0-small", "CheXpert-v1.0")
SIDE = (
    *("*.csv", "*.md", "*.txt", "*.pdf", "gt_*.json", "CheXlocalize/*", "gradcam_maps_val/*"),
    # What the phantom writes beside its films, of no use to this reader.
    *("*_mask_left_*.png", "*_mask_right_*.png", "*_mask_heart.png", "*_mask_infection.png"),
)

STATES: tuple[str, ...] = ("positive", "negative", "uncertain", "not mentioned")
"""Columns of `prevalence`."""

PREVALENCE: dict[str, tuple[int, int, int]] = {
    "Enlarged Cardiomediastinum": (10798, 21638, 12403),
    "Cardiomegaly": (27000, 11116, 8087),
    "Lung Opacity": (105581, 6599, 5598),
    "Lung Lesion": (9186, 1270, 1488),
    "Edema": (52246, 20726, 12984),
    "Consolidation": (14783, 28097, 27742),
    "Pneumonia": (6039, 2799, 18770),
    "Atelectasis": (33376, 1328, 33739),
    "Pneumothorax": (19448, 56341, 3145),
    "Pleural Effusion": (86187, 35396, 11628),
    "Pleural Other": (3523, 316, 2653),
    "Fracture": (9040, 2512, 642),
    "Support Devices": (116001, 6137, 1079),
}
"""Rows of the released ``train.csv`` that are positive, negative, uncertain."""

DOCUMENTED: dict[str, int] = {
    "rows": 223414,
    "frontal": 191027,
    "lateral": 32387,
    **dict(zip(POSITIONS, (161590, 29420, 16, 1), strict=True)),
    "male": 132636,
    "female": 90777,
    "sex unknown": 1,
    "No Finding negative": 0,
    "No Finding uncertain": 0,
    **{
        f"{finding} {state}": count
        for finding, counts in PREVALENCE.items()
        for state, count in zip(STATES[:3], counts, strict=True)
    },
    "valid rows": 234,
    "valid patients": 200,
}


def read_chexpert(
    data_dir: Path | str, valid_fraction: float = 0.1, skip_bad: bool = False
) -> FilmTable:
    """CheXpert: chest radiographs of Stanford Hospital, 2002 to 2017, with 14 observations.

    Counts: ``train.csv`` lists 223,414 films, 191,027 of them frontal
    (AP 161,590; PA 29,420; LL 16; RL 1); ``valid.csv`` 234 films of 200 patients. Only frontal
    films are read; the lateral ones are checked and counted with them.

    Labels: in ``train.csv`` mined from the reports by the CheXpert labeller: 1.0 positive, 0.0
    negative, -1.0 uncertain, blank not mentioned (No Finding: 1.0 or blank). In ``valid.csv``
    by consensus of three radiologists: no uncertain, no blank.

    Splits: ``valid.csv`` is the test split here (its labels are the better ones). The validation
    split is drawn from the patients of ``train.csv`` by the sha256 of the patient id, so it is the
    same everywhere, whatever the rows or their order.

    Folder variants: ``CheXpert-v1.0-small/`` (down-sampled) and ``CheXpert-v1.0/`` (full size;
    the small one is taken where both lie), or either under another name; ``data_dir`` is this
    folder or its parent. ``Path`` may start with the root's name, new or old, or with ``train/``.
    Masks beside the films, as the phantom writes them
    (``view1_frontal_mask_Pleural_Effusion.png``), become mask channels, unknown on films without
    the file. CheXpert itself has none, but if CheXlocalize's ``gt_segmentations_val.json`` (or
    ``gt_annotations_val.json``) lies in the root, in ``CheXlocalize/`` there, or in either place
    one folder up, its ten findings become mask channels, known on the films of ``valid.csv`` that
    it holds; see `dollkit.readers.chexlocalize` for how they were drawn.

    Traps: ``Path`` is relative to the parent of the root, and has backslashes in copies made on
    Windows. One row of ``train.csv`` has the sex Unknown; 17 frontal rows have LL or RL in AP/PA
    (read as no view). No Finding is never 0.0 in ``train.csv``. CheXlocalize's masks are on the
    grid of the full-size films, also where the films are the small ones. What uncertain and blank
    count as is a policy of training (`dollkit.findings.apply_policy`), not of reading.

    Licence: Stanford University Dataset Research Use Agreement; registration, non-commercial
    research, no redistribution.

    Cite: Irvin, Rajpurkar et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty
    Labels and Expert Comparison", AAAI 2019, arXiv 1901.07031.

    Args:
        data_dir: see above.
        valid_fraction: expected share of the training patients in the validation split, in [0, 1).
        skip_bad: note wrong rows in ``bad`` and go on; a patient in both files stays in
            ``valid.csv``.

    Returns:
        films in the order of the two files; ``image_id`` is
        ``patient00001_study1_view1_frontal``.
    """
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")
    # One table is enough here, so that the message names the other.
    root = first_with(Path(data_dir), ("train.csv",), ROOTS)
    if root is None:
        raise InputError(
            f"{data_dir}: no train.csv here or in {' or '.join(ROOTS)}: give the folder that holds "
            "CheXpert's train.csv and valid.csv"
        )
    bad = BadRows()
    notes = bad if skip_bad else None
    train, valid = (
        read_rows(root / f"{part}.csv", root / part, part, notes) for part in ("train", "valid")
    )
    facts = _facts(train, valid)
    train = apart(train, valid, notes)
    patients = train.films["patient_id"]
    held = {p for p in patients.unique() if share(p) < valid_fraction}
    train.films["split"] = np.where(patients.isin(held), "valid", "train")
    valid.films["split"] = "test"
    films = pd.concat([r.films[r.frontal] for r in (train, valid)], ignore_index=True)
    if films.empty:
        raise InputError(f"{root}: train.csv and valid.csv list no frontal film")
    masks = _masks_beside(films["path"].tolist())
    file = find_truth(root)
    if file:
        truth = load_truth(file, notes)
        drawn = truth_masks(films, truth, file, set(valid.films["image_id"]), notes)
        facts["valid films with truth"] = int((films["image_id"].isin(list(truth))).sum())
        masks = _join(masks, drawn)
    return FilmTable(
        "chexpert",
        films,
        root,
        masks=masks,
        depths=(8,),
        others=(*train.laterals(), *valid.laterals()),
        side=SIDE,
        facts=facts,
        bad=bad,
        beside=(file,) if file and root not in file.parents else (),
    )


def prevalence(table: pd.DataFrame | Path | str) -> pd.DataFrame:
    """How often each finding is in each label state, over all rows.

    Args:
        table: label states as in a films table (1, 0, -1, NaN), or the path of a CSV file with
            CheXpert's findings as columns.

    Returns:
        index `FINDINGS`; int columns positive, negative, uncertain, not mentioned.
    """
    if not isinstance(table, pd.DataFrame):
        rows = read_csv(Path(table), FINDINGS, hint=HINT)
        table = pd.DataFrame({finding: rows.states(finding) for finding in FINDINGS})
    states = states_of(table)
    codes = (POSITIVE, NEGATIVE, UNCERTAIN, NOT_MENTIONED)
    counts = {name: (states == code).sum(axis=0) for name, code in zip(STATES, codes, strict=True)}
    return pd.DataFrame(counts, index=list(FINDINGS))


def _facts(train: Rows, valid: Rows) -> dict[str, int]:
    sex = train.films["sex"]
    counts = {
        "rows": len(train.films),
        "frontal": train.frontal.sum(),
        "lateral": (~train.frontal).sum(),
        **{p: (train.position == p).sum() for p in POSITIONS},
        "male": (sex == "M").sum(),
        "female": (sex == "F").sum(),
        "sex unknown": (sex == "").sum(),
    }
    for finding, row in prevalence(train.films).iterrows():
        for state in STATES[:3]:
            counts[f"{finding} {state}"] = row[state]
    counts |= {
        "valid rows": len(valid.films),
        "valid patients": valid.films["patient_id"].nunique(),
    }
    return {name: int(count) for name, count in counts.items()}


def mask_path(image: Path, finding: str) -> Path:
    """Where the mask of a finding lies beside its film."""
    return image.with_name(f"{image.stem}_mask_{finding.replace(' ', '_')}.png")


def find_root(folder: Path) -> Path | None:
    """`folder`, or the released folder below it, that holds both tables."""
    return first_with(folder, ("train.csv", "valid.csv"), ROOTS)


def _masks_beside(paths: Sequence[str]) -> pd.DataFrame:
    """Masks that lie beside the films; no columns where no film has any."""
    # Looked for on a few films first: 13 look-ups for each of CheXpert's films would be slow.
    if not any(mask_path(Path(p), f).is_file() for p in paths[:64] for f in PATHOLOGIES):
        return pd.DataFrame()
    columns: dict[str, list[MaskFile | None]] = {}
    for finding in PATHOLOGIES:
        files = [mask_path(Path(p), finding) for p in paths]
        columns[finding] = [MaskFile(f) if f.is_file() else None for f in files]
    return pd.DataFrame(columns, dtype=object)


def _join(beside: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Masks of both tables; those beside the films come first where a film has two."""
    if beside.empty:
        return drawn
    columns: dict[str, list[Mask | None]] = {}
    for finding in PATHOLOGIES:
        first = list(beside[finding])
        second = list(drawn[finding]) if finding in drawn else [None] * len(first)
        columns[finding] = [a or b for a, b in zip(first, second, strict=True)]
    return pd.DataFrame(columns, dtype=object)


def _read(
    root: Path, *, skip_bad: bool = False, valid_fraction: float = 0.1
) -> dict[str, FilmTable]:
    return {"films": read_chexpert(root, valid_fraction, skip_bad)}


DATASET = DataSet(
    name="chexpert",
    title="CheXpert",
    stores=("films",),
    find=find_root,
    read=_read,
    documented=DOCUMENTED,
    tree=f"train.csv and valid.csv, here or in {' or '.join(ROOTS)}",
    licence="Stanford research use agreement: registration, non-commercial, no redistribution",
    cite="Irvin, Rajpurkar et al., AAAI 2019, arXiv 1901.07031",
    size="11 GB down-sampled, 439 GB full size",
)
