"""CheXpert's tree, original or down-sampled, or the phantom written in its form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import FINDINGS, PATHOLOGIES
from dollkit.readers.table import FilmTable, blank_films

HEADER: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
ROOTS = ("CheXpert-v1.0-small", "CheXpert-v1.0")
STATES = {"1": 1.0, "0": 0.0, "-1": -1.0, "": np.nan}
_PATH = re.compile(r"(?P<patient>[a-z]+\d+)/(?P<study>study\d+)/(?P<view>view\d+_[a-z]+)\.\w+$")


def read_chexpert(data_dir: Path | str, valid_fraction: float = 0.1) -> FilmTable:
    """CheXpert: chest radiographs of Stanford Hospital, 2002 to 2017, with 14 observations.

    Counts: ``train.csv`` lists 223,414 films, 191,027 of them frontal
    (AP 161,590; PA 29,420; LL 16; RL 1); ``valid.csv`` 234 films of 200 patients. Only frontal
    films are read.

    Labels: in ``train.csv`` mined from the reports by the CheXpert labeller: 1.0 positive, 0.0
    negative, -1.0 uncertain, blank not mentioned (No Finding: 1.0 or blank). In ``valid.csv``
    by consensus of three radiologists: no uncertain, no blank.

    Splits: ``valid.csv`` is the test split here (its labels are the better ones). The validation
    split is drawn from the patients of ``train.csv`` by the sha256 of the patient id, so it is the
    same everywhere, whatever the rows or their order.

    Folder variants: ``CheXpert-v1.0-small/`` (down-sampled) and ``CheXpert-v1.0/`` (full size),
    or either under another name; ``data_dir`` is this folder or its parent. ``Path`` may start
    with the root's name (as released) or not. Masks beside the films, as the phantom writes them
    (``view1_frontal_mask_Pleural_Effusion.png``), become mask channels, unknown on films without
    the file; CheXpert itself has none.

    Traps: one row of ``train.csv`` has the sex Unknown; 17 frontal rows have LL or RL in AP/PA
    (read as no view). No Finding is never 0.0 in ``train.csv``. What uncertain and blank count as
    is a policy of training (`dollkit.findings.apply_policy`), not of reading.

    Licence: Stanford University Dataset Research Use Agreement; registration, non-commercial
    research, no redistribution.

    Cite: Irvin, Rajpurkar et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty
    Labels and Expert Comparison", AAAI 2019, arXiv 1901.07031.

    Args:
        data_dir: see above.
        valid_fraction: expected share of the training patients in the validation split, in [0, 1).

    Returns:
        films in the order of the two files; ``image_id`` is
        ``patient00001_study1_view1_frontal``.

    Raises:
        InputError: no such folder or CSV file, a missing column, a label outside
            {1, 0, -1, blank}, a path of another form, a patient in both files.
    """
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")
    root = _find_root(Path(data_dir))
    parts = [_read_csv(root, name) for name in ("train.csv", "valid.csv")]
    _check_disjoint(root, parts[0], parts[1])
    drawn = [_share(p) < valid_fraction for p in parts[0]["patient_id"]]
    parts[0]["split"] = np.where(drawn, "valid", "train")
    parts[1]["split"] = "test"
    films = pd.concat(parts, ignore_index=True)
    if films.empty:
        raise InputError(f"{root}: train.csv and valid.csv list no frontal film")
    return FilmTable("chexpert", films, root, masks=_masks_beside(films["path"].tolist()))


def mask_path(image: Path, finding: str) -> Path:
    """Where the mask of a finding lies beside its film."""
    return image.with_name(f"{image.stem}_mask_{finding.replace(' ', '_')}.png")


def _find_root(data_dir: Path) -> Path:
    candidates = [data_dir, *(data_dir / name for name in ROOTS)]
    for root in candidates:
        if (root / "train.csv").is_file():
            return root
    raise InputError(
        f"{data_dir}: no train.csv here or in {' or '.join(ROOTS)}: give the folder that holds "
        "CheXpert's train.csv and valid.csv"
    )


def _read_csv(root: Path, name: str) -> pd.DataFrame:
    path = root / name
    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: CheXpert has train.csv and valid.csv") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error}): fetch it again") from None
    for column in HEADER:
        if column not in raw.columns:
            extra = [c for c in raw.columns if c not in HEADER]
            hint = f"; instead of {extra[0]!r}?" if extra else ""
            raise InputError(f"{path}: column {column!r} is missing{hint} Use CheXpert's header")
    # Row numbers as a spreadsheet shows them: the header is row 1.
    raw["row"] = np.arange(2, len(raw) + 2)
    kind = raw["Frontal/Lateral"]
    _check_values(
        path, raw, "Frontal/Lateral", kind.isin(["Frontal", "Lateral"]), "Frontal, Lateral"
    )
    raw = raw[kind == "Frontal"].reset_index(drop=True)
    films = blank_films(len(raw))
    for finding in FINDINGS:
        text = raw[finding].str.strip().str.replace(r"\.0+$", "", regex=True)
        _check_values(path, raw, finding, text.isin(list(STATES)), "1, 0, -1 or blank")
        films[finding] = text.map(STATES).astype("float64")
    sex = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
    _check_values(path, raw, "Sex", raw["Sex"].isin(list(sex)), "Male, Female, Unknown or blank")
    age = pd.to_numeric(raw["Age"], errors="coerce")
    _check_values(path, raw, "Age", age.notna() | (raw["Age"].str.strip() == ""), "a number")
    ids = raw["Path"].str.extract(_PATH)
    form = "a path .../patientNNNNN/studyN/viewN_frontal.jpg"
    _check_values(path, raw, "Path", ids.notna().all(axis=1), form)
    films["patient_id"] = ids["patient"]
    films["study_id"] = ids["patient"] + "_" + ids["study"]
    films["image_id"] = films["study_id"] + "_" + ids["view"]
    twice = films["image_id"].duplicated()
    _check_values(path, raw, "Path", ~twice, "each film once")
    films["view"] = raw["AP/PA"].where(raw["AP/PA"].isin(["AP", "PA"]), "")
    films["sex"] = raw["Sex"].map(sex)
    films["age"] = age.astype("float64")
    films["source"] = "chexpert"
    films["path"] = [str(_locate(root, p)) for p in raw["Path"]]
    films["where"] = [f"{path}, row {row}" for row in raw["row"]]
    return films


def _check_values(
    path: Path, raw: pd.DataFrame, column: str, good: pd.Series[bool], allowed: str
) -> None:
    if not good.all():
        first = raw[~good].iloc[0]
        raise InputError(
            f"{path}, row {first['row']}, column {column!r}: value {first[column]!r}: use {allowed}"
        )


def _locate(root: Path, path: str) -> Path:
    parts = Path(path).parts
    return root.joinpath(*(parts if parts[0] in ("train", "valid") else parts[1:]))


def _check_disjoint(root: Path, train: pd.DataFrame, valid: pd.DataFrame) -> None:
    both = set(train["patient_id"]) & set(valid["patient_id"])
    if both:
        raise InputError(
            f"{root}: patient {min(both)!r} stands in train.csv and in valid.csv: "
            "remove all its rows from one of them"
        )


def _share(patient_id: str) -> float:
    """A patient's place in [0, 1), from its id alone."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8]) / 2.0**64


def _masks_beside(paths: Sequence[str]) -> pd.DataFrame:
    """Masks that lie beside the films; no columns where no film has any."""
    # Looked for on a few films first: 13 look-ups for each of CheXpert's films would be slow.
    if not any(mask_path(Path(p), f).is_file() for p in paths[:64] for f in PATHOLOGIES):
        return pd.DataFrame()
    columns = {}
    for finding in PATHOLOGIES:
        files = [mask_path(Path(p), finding) for p in paths]
        columns[finding] = [str(f) if f.is_file() else "" for f in files]
    return pd.DataFrame(columns)
