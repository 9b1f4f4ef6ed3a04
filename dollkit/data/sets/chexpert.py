"""CheXpert's tree, original or down-sampled, or the phantom written in its form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import (
    FINDINGS,
    NEGATIVE,
    NOT_MENTIONED,
    PATHOLOGIES,
    POSITIVE,
    UNCERTAIN,
)
from dollkit.data.csvfile import BadRows, CsvTable, clean, is_inside, read_csv, reject
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.films import states_of
from dollkit.data.masks import Mask, MaskFile
from dollkit.data.sets.chexlocalize_masks import find_truth, load_truth, truth_masks
from dollkit.data.splits import share

# Rows of a CSV file with CheXpert's header: ``train.csv``, ``valid.csv``, CheXlocalize's two.


HEADER: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
POSITIONS = ("AP", "PA", "LL", "RL")
SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
_PATH = re.compile(
    r"(?P<lead>(?:.*/)?)(?P<patient>[a-z]+\d+)/(?P<study>study\d+)/"
    r"(?P<file>(?P<view>view\d+_(?P<side>frontal|lateral))\.\w+)"
)
_PARTS = list(_PATH.groupindex)
HINT = "use the CSV file as CheXpert released it"


@dataclass(frozen=True)
class Rows:
    """All rows of one CSV file: films table with path, where, and what only counting needs."""

    path: Path
    films: pd.DataFrame
    frontal: pd.Series[bool]
    position: pd.Series[str]

    def laterals(self) -> list[Path]:
        """Files of the films that are left out."""
        return [Path(p) for p in self.films["path"][~self.frontal]]


def read_rows(
    path: Path, folder: Path, part: str = "", bad: BadRows | None = None, plain: bool = False
) -> Rows:
    """Rows of a CSV file with CheXpert's header.

    Args:
        path: of the CSV file.
        folder: that holds the patients' folders.
        part: what must stand before the patient in ``Path``; "": anything.
        bad: where wrong rows go; None: the first is an error.
        plain: only ``Path`` and the findings need be there.
    """
    needed = ("Path", *FINDINGS) if plain else HEADER
    table = read_csv(path, needed, bad, hint=HINT)
    for column in HEADER:
        if column not in table.frame:
            table.frame[column] = ""
    _check(table, part, plain)
    frame = table.frame
    films = blank_films(len(frame))
    for finding in FINDINGS:
        films[finding] = frame[finding]
    films["patient_id"] = frame["patient"]
    films["study_id"] = frame["patient"] + "_" + frame["study"]
    films["image_id"] = films["study_id"] + "_" + frame["view"]
    position = frame["AP/PA"]
    films["view"] = position.where(position.isin(["AP", "PA"]), "")
    films["sex"] = frame["Sex"].map(SEXES)
    films["age"] = frame["Age"]
    films["source"] = "chexpert"
    inner = frame["patient"] + "/" + frame["study"] + "/" + frame["file"]
    films["path"] = f"{folder}/" + inner
    films["where"] = table.where()
    kind = frame["Frontal/Lateral"]
    frontal = kind.eq("Frontal") | (kind.eq("") & frame["side"].eq("frontal"))
    return Rows(path, films, frontal.astype(bool), position)


def _check(table: CsvTable, part: str, plain: bool) -> None:
    """Drop or refuse wrong rows; states and ages become numbers, the parts of ``Path`` columns."""
    for column in ("Path", "Sex", "Frontal/Lateral", "AP/PA"):
        table.frame[column] = table.column(column)
    kinds = ["Frontal", "Lateral", *([""] if plain else [])]
    kind = table.frame["Frontal/Lateral"]
    table.require(kind.isin(kinds), "Frontal/Lateral", "Frontal, Lateral")
    position = table.frame["AP/PA"]
    table.require(position.isin([*POSITIONS, ""]), "AP/PA", f"{', '.join(POSITIONS)} or blank")
    sex = table.frame["Sex"]
    table.require(sex.isin(list(SEXES)), "Sex", "Male, Female, Unknown or blank")
    for column in FINDINGS:
        table.frame[column] = table.states(column)
    table.frame["Age"] = table.numbers("Age")
    form = f"a path .../{part or 'valid'}/patientNNNNN/studyN/viewN_frontal.jpg"
    found = [_PATH.fullmatch(path.replace("\\", "/")) for path in table.frame["Path"]]
    parts = [match.groups() if match else ("",) * len(_PARTS) for match in found]
    table.frame[_PARTS] = pd.DataFrame(parts, columns=_PARTS, dtype=str)
    leads = {lead: _leads(lead, part) for lead in table.frame["lead"].unique()}
    good = table.frame["lead"].map(leads).astype(bool) & table.frame["file"].ne("")
    table.require(good, "Path", form)
    twice = table.frame[["patient", "study", "view"]].duplicated()
    table.require(~twice, "Path", "each film once")


def _leads(lead: str, part: str) -> bool:
    """Whether what stands before the patient stays inside the root and ends in `part`."""
    if not lead:
        return not part
    return is_inside(lead) and part in ("", clean(lead).name)


def apart(train: Rows, valid: Rows, bad: BadRows | None) -> Rows:
    """`train` without the rows of patients who stand in `valid` too; an error without `bad`."""
    both = train.films["patient_id"].isin(valid.films["patient_id"])
    for patient, where in train.films.loc[both, ["patient_id", "where"]].itertuples(index=False):
        fault = f"patient {patient!r} stands in {train.path.name} and in {valid.path.name}"
        reject(bad, train.path, str(where), f"{fault}: remove all its rows from one of them")
    kept = ~both
    return replace(
        train,
        films=train.films[kept].reset_index(drop=True),
        frontal=train.frontal[kept].reset_index(drop=True),
        position=train.position[kept].reset_index(drop=True),
    )


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
    it holds; see `dollkit.data.sets.chexlocalize` for how they were drawn.

    Traps: ``Path`` is relative to the parent of the root, and has backslashes in copies made on
    Windows. One row of ``train.csv`` has the sex Unknown; 17 frontal rows have LL or RL in AP/PA
    (read as no view). No Finding is never 0.0 in ``train.csv``. CheXlocalize's masks are on the
    grid of the full-size films, also where the films are the small ones. What uncertain and blank
    count as is a policy of training (`dollkit.common.findings.apply_policy`), not of reading.

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
