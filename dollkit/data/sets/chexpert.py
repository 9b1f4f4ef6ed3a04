"""CheXpert, original or down-sampled (the phantom takes its form), and CheXlocalize."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, PATHOLOGIES, POSITIVE, UNCERTAIN
from dollkit.data.csvfile import AGAIN, BadRows, CsvTable, clean, is_inside, read_csv, reject
from dollkit.data.dataset import first_with
from dollkit.data.film_table import FilmTable, states_of
from dollkit.data.masks import Mask, MaskFile, Runs
from dollkit.data.sets import common_steps as steps

HEADER: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
POSITIONS = ("AP", "PA", "LL", "RL")
SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
ROOTS = ("CheXpert-v1.0-small", "CheXpert-v1.0")
STATES = {"positive": POSITIVE, "negative": NEGATIVE, "uncertain": UNCERTAIN}

LOCALIZED: tuple[str, ...] = tuple(
    finding
    for finding in FINDINGS
    if finding not in ("No Finding", "Pneumonia", "Pleural Other", "Fracture")
)
"""The ten findings that were drawn, in CheXpert's order."""

TRUTH = "gt_segmentations_{}.json"
"""Name of the file of run lengths for ``val`` or ``test``."""

_OTHER_NAMES = {"Airspace Opacity": "Lung Opacity"}
_KEY = re.compile(r"[a-z]+\d+_study\d+_view\d+_[a-z]+")
_PATH = re.compile(
    r"(?P<lead>(?:.*/)?)(?P<patient>[a-z]+\d+)/(?P<study>study\d+)/"
    r"(?P<file>(?P<view>view\d+_(?P<side>frontal|lateral))\.\w+)"
)
_PARTS = list(_PATH.groupindex)


def read_rows(
    path: Path, folder: Path, part: str = "", bad: BadRows | None = None, plain: bool = False
) -> pd.DataFrame:
    """All rows of a CSV file with CheXpert's header: films, with columns frontal and position.

    `folder` holds the patients' folders. `part` must stand before the patient in ``Path`` ("":
    anything may). `plain`: only ``Path`` and the findings need be there.
    """
    needed = ("Path", *FINDINGS) if plain else HEADER
    table = read_csv(path, needed, bad, hint="use the CSV file as CheXpert released it")
    for column in HEADER:
        if column not in table.frame:
            table.frame[column] = ""
    _check(table, part, plain)
    frame = table.frame
    study = frame["patient"] + "_" + frame["study"]
    inner = frame["patient"] + "/" + frame["study"] + "/" + frame["file"]
    position, kind = frame["AP/PA"], frame["Frontal/Lateral"]
    films = steps.films_of(
        "chexpert",
        study + "_" + frame["view"],
        f"{folder}/" + inner,
        table.where(),
        patient_id=frame["patient"],
        study_id=study,
        view=position.where(position.isin(["AP", "PA"]), ""),
        sex=frame["Sex"].map(SEXES),
        age=frame["Age"],
        position=position,
        frontal=kind.eq("Frontal") | (kind.eq("") & frame["side"].eq("frontal")),
    )
    for finding in FINDINGS:
        films[finding] = frame[finding]
    return films


def _check(table: CsvTable, part: str, plain: bool) -> None:
    """Drop or refuse wrong rows; states and ages become numbers, the parts of ``Path`` columns."""
    for column in ("Path", "Sex", "Frontal/Lateral", "AP/PA"):
        table.frame[column] = table.column(column)
    kinds = ["Frontal", "Lateral", *([""] if plain else [])]
    for column, allowed, known in (
        ("Frontal/Lateral", kinds, "Frontal, Lateral"),
        ("AP/PA", [*POSITIONS, ""], f"{', '.join(POSITIONS)} or blank"),
        ("Sex", list(SEXES), "Male, Female, Unknown or blank"),
    ):
        table.require(table.frame[column].isin(allowed), column, known)
    for column in FINDINGS:
        table.frame[column] = table.states(column)
    table.frame["Age"] = table.numbers("Age")
    found = [_PATH.fullmatch(path.replace("\\", "/")) for path in table.frame["Path"]]
    parts = [match.groups() if match else ("",) * len(_PARTS) for match in found]
    table.frame[_PARTS] = pd.DataFrame(parts, columns=_PARTS, dtype=str)
    leads = {lead: _leads(lead, part) for lead in table.frame["lead"].unique()}
    good = table.frame["lead"].map(leads).astype(bool) & table.frame["file"].ne("")
    table.require(
        good, "Path", f"a path .../{part or 'valid'}/patientNNNNN/studyN/viewN_frontal.jpg"
    )
    twice = table.frame[["patient", "study", "view"]].duplicated()
    table.require(~twice, "Path", "each film once")


def _leads(lead: str, part: str) -> bool:
    """Whether what stands before the patient stays inside the root and ends in `part`."""
    if not lead:
        return not part
    return is_inside(lead) and part in ("", clean(lead).name)


def _apart(
    rows: pd.DataFrame, path: Path, others: pd.DataFrame, other: Path, bad: BadRows | None
) -> pd.DataFrame:
    """`rows` (of `path`) without patients who stand in `others` too: those are rejected."""
    both = rows["patient_id"].isin(others["patient_id"])
    for patient, where in rows.loc[both, ["patient_id", "where"]].itertuples(index=False):
        fault = f"patient {patient!r} stands in {path.name} and in {other.name}"
        reject(bad, path, str(where), f"{fault}: remove all its rows from one of them")
    return rows[~both].reset_index(drop=True)


def _frontal(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["frontal"]].drop(columns=["frontal", "position"])


def _laterals(*parts: pd.DataFrame) -> tuple[Path, ...]:
    return tuple(Path(path) for rows in parts for path in rows["path"][~rows["frontal"]])


def read_chexpert(
    data_dir: Path | str, valid_fraction: float = 0.1, skip_bad: bool = False
) -> FilmTable:
    """Frontal films of ``train.csv``, then of ``valid.csv``, which is the test split here.

    A share `valid_fraction` of the training patients validates. Masks come from files beside the
    films, as the phantom writes them, and from CheXlocalize's truth, where it lies in or beside
    the root, on the films of ``valid.csv`` that it holds. With `skip_bad` a patient of both files
    stays in ``valid.csv``.
    """
    steps.check_fraction(valid_fraction)
    # One table is enough here, so that the message names the other.
    root = first_with(Path(data_dir), ("train.csv",), ROOTS)
    if root is None:
        raise InputError(
            f"{data_dir}: no train.csv here or in {' or '.join(ROOTS)}: give the folder that holds "
            "CheXpert's train.csv and valid.csv"
        )
    bad = BadRows()
    notes = bad if skip_bad else None
    of_train, of_valid = root / "train.csv", root / "valid.csv"
    train = read_rows(of_train, root / "train", "train", notes)
    valid = read_rows(of_valid, root / "valid", "valid", notes)
    facts = _facts(train, valid)
    train = _apart(train, of_train, valid, of_valid, notes)
    train["split"] = steps.hold_out(train["patient_id"], valid_fraction)
    valid["split"] = "test"
    films = pd.concat([_frontal(train), _frontal(valid)], ignore_index=True)
    if films.empty:
        raise InputError(f"{root}: train.csv and valid.csv list no frontal film")
    file = find_truth(root)
    drawn = pd.DataFrame()
    if file:
        truth = load_truth(file, notes)
        drawn = truth_masks(films, truth, file, set(valid["image_id"]), notes)
        facts["valid films with truth"] = int(films["image_id"].isin(list(truth)).sum())
    masks = _with_masks_beside(films["path"].tolist(), drawn)
    others = _laterals(train, valid)
    beside = (file,) if file and root not in file.parents else ()
    return steps.make_table(
        "chexpert", films, root, masks, others=others, facts=facts, bad=bad, beside=beside
    )


def _facts(train: pd.DataFrame, valid: pd.DataFrame) -> dict[str, int]:
    counts = {
        "rows": len(train),
        "frontal": train["frontal"].sum(),
        "lateral": (~train["frontal"]).sum(),
        **{p: (train["position"] == p).sum() for p in POSITIONS},
        "male": (train["sex"] == "M").sum(),
        "female": (train["sex"] == "F").sum(),
        "sex unknown": (train["sex"] == "").sum(),
    }
    states = states_of(train)
    for channel, finding in enumerate(FINDINGS):
        for state, code in STATES.items():
            counts[f"{finding} {state}"] = (states[:, channel] == code).sum()
    counts |= {"valid rows": len(valid), "valid patients": valid["patient_id"].nunique()}
    return {name: int(count) for name, count in counts.items()}


def mask_path(image: Path, finding: str) -> Path:
    """Where the mask of a finding lies beside its film."""
    return image.with_name(f"{image.stem}_mask_{finding.replace(' ', '_')}.png")


def _with_masks_beside(paths: Sequence[str], drawn: pd.DataFrame) -> pd.DataFrame:
    """Masks that lie beside the films, and `drawn` ones where a film has none beside it."""
    # Looked for on a few films first: 13 look-ups for each of CheXpert's films would be slow.
    if not any(mask_path(Path(p), f).is_file() for p in paths[:64] for f in PATHOLOGIES):
        return drawn
    columns: dict[str, list[Mask | None]] = {}
    for finding in PATHOLOGIES:
        files = [mask_path(Path(p), finding) for p in paths]
        beside = [MaskFile(f) if f.is_file() else None for f in files]
        columns[finding] = [a or b for a, b in zip(beside, drawn.get(finding, beside), strict=True)]
    return pd.DataFrame(columns, dtype=object)


def _read_chexpert(
    root: Path, *, skip_bad: bool = False, valid_fraction: float = 0.1
) -> dict[str, FilmTable]:
    return {"films": read_chexpert(root, valid_fraction, skip_bad)}


DATASET = steps.data_set(
    "chexpert",
    ("films",),
    lambda folder: first_with(folder, ("train.csv", "valid.csv"), ROOTS),
    _read_chexpert,
)


# CheXlocalize: ten findings outlined on the films of CheXpert's validation and test sets.


def find_truth(root: Path) -> Path | None:
    """Truth file of CheXpert's own ``valid.csv``, in or beside its root; None if there is none."""
    above = root.absolute().parent
    for folder in (root, root / "CheXlocalize", above / "CheXlocalize", above):
        if os.path.lexists(folder / TRUTH.format("val")):  # a broken link is reported
            return folder / TRUTH.format("val")
    return None


def load_truth(path: Path, bad: BadRows | None = None) -> dict[str, dict[str, Mask]]:
    """Masks by image key (``patient64541_study1_view1_frontal``) and finding.

    A finding that an entry lacks is unknown.
    """
    data = steps.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no JSON object of image keys: {AGAIN}")
    out: dict[str, dict[str, Mask]] = {}
    for key, entry in data.items():
        try:
            out[key] = _entry(path, key, entry)
        except InputError as error:
            if bad is None:
                raise
            bad.append((str(path), f"{path}, key {key!r}", str(error)))
    return out


def truth_masks(
    films: pd.DataFrame,
    truth: Mapping[str, Mapping[str, Mask]],
    path: Path,
    listed: Collection[str],
    bad: BadRows | None = None,
) -> pd.DataFrame:
    """Masks of the `LOCALIZED` findings, one row per film; None where `truth` has none.

    `listed` are all image ids that `path` may name, those of films that were left out included.
    """
    if truth and not any(key in listed for key in truth):
        fault = f"none of its {len(truth)} keys is a listed film (first: {next(iter(truth))!r})"
        reject(bad, path, str(path), f"{fault}: put the truth file of these films there")
    columns = {
        finding: [truth.get(i, {}).get(finding) for i in films["image_id"]] for finding in LOCALIZED
    }
    return pd.DataFrame(columns, index=films.index, dtype=object)


def _entry(path: Path, key: str, entry: object) -> dict[str, Mask]:
    where = f"{path}, key {key!r}"
    if not _KEY.fullmatch(key):
        raise InputError(f"{where}: use the form patient64541_study1_view1_frontal")
    if not isinstance(entry, dict) or not entry:
        raise InputError(f"{where}: holds no findings but {entry!r:.60}: {AGAIN}")
    masks: dict[str, Mask] = {}
    for name, value in entry.items():
        finding = _OTHER_NAMES.get(name, name)
        if finding not in LOCALIZED:
            known = ", ".join(LOCALIZED)
            raise InputError(f"{where}: unknown finding {name!r}: use one of {known}")
        if finding in masks:
            raise InputError(f"{where}: finding {finding!r} stands there under two names: {AGAIN}")
        if not isinstance(value, dict) or set(value) != {"size", "counts"}:
            fault = f"no size and counts but {value!r:.60}"
            raise InputError(f"{where}, {name}: {fault}: {AGAIN}")
        size = tuple(value["size"]) if isinstance(value["size"], list) else value["size"]
        runs = Runs(path, f"key {key!r}, {name}", size, value["counts"])
        runs.check()
        masks[finding] = runs
    return {finding: masks[finding] for finding in FINDINGS if finding in masks}


def read_chexlocalize(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """``films``: frontal ones of val (the valid split), then of test; nothing to train on.

    A film that the truth file holds has a mask of each of the ten findings, empty where the
    finding is not there; any other film has no masks. Masks are on the grid of the full-size
    films.
    """
    bad = BadRows()
    notes = bad if skip_bad else None
    table_of = {part: root / "CheXpert" / f"{part}_labels.csv" for part in ("val", "test")}
    rows = {
        part: read_rows(path, root / "CheXpert" / part, bad=notes, plain=True)
        for part, path in table_of.items()
    }
    rows["val"] = _apart(rows["val"], table_of["val"], rows["test"], table_of["test"], notes)
    facts: dict[str, int] = {}
    films, masks = [], []
    for part, split in (("val", "valid"), ("test", "test")):
        file = root / "CheXlocalize" / TRUTH.format(part)
        drawn = load_truth(file, notes)
        listed = set(rows[part]["image_id"])
        facts |= {
            f"{part} rows": len(rows[part]),
            f"{part} patients": rows[part]["patient_id"].nunique(),
            f"{part} films with truth": len(listed & set(drawn)),
            f"{part} truth without a film": len(set(drawn) - listed),
        }
        films.append(_frontal(rows[part]).assign(split=split))
        masks.append(truth_masks(films[-1], drawn, file, listed, notes))
    table = pd.concat(films, ignore_index=True)
    if table.empty:
        raise InputError(f"{root}: val_labels.csv and test_labels.csv list no frontal film")
    drawings = pd.concat(masks, ignore_index=True)
    others = _laterals(*rows.values())
    out = steps.make_table(
        "chexlocalize", table, root, drawings, others=others, facts=facts, bad=bad
    )
    return {"films": out}


CHEXLOCALIZE = steps.data_set(
    "chexlocalize",
    ("films",),
    lambda folder: first_with(
        folder, ("CheXpert/val_labels.csv", "CheXlocalize"), ("cheXlocalize", "chexlocalize")
    ),
    read_chexlocalize,
)
