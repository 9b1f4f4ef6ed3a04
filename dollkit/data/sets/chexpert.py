"""CheXpert, original or down-sampled (the phantom takes its form), and CheXlocalize."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, PATHOLOGIES, POSITIVE, UNCERTAIN
from dollkit.data.csvfile import AGAIN, STRICT, BadRows, CsvTable, clean, is_inside, read_csv
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Mask, MaskFile, Runs
from dollkit.data.sets import common_steps as steps

HEADER: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
POSITIONS = ("AP", "PA", "LL", "RL")
SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
ROOTS = ("CheXpert-v1.0-small", "CheXpert-v1.0", "CheXpert-v1.0 batch 1 (validate & csv)")
_BATCH = re.compile(r"(CheXpert-v1\.0 )?batch \d+ \(train \d+\)")
"""Folders that the archives of the full-size films unpack to."""
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
    r"\A(?P<lead>(?:.*/)?)(?P<patient>[a-z]+\d+)/(?P<study>study\d+)/"
    r"(?P<file>(?P<view>view\d+_(?P<side>frontal|lateral))\.\w+)\Z"
)


def read_rows(
    path: Path, folder: Path, bad: BadRows, part: str = "", plain: bool = False,
    elsewhere: Mapping[str, Path] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """All rows of a CSV file with CheXpert's header: films, with columns frontal and position.

    `folder` holds the patients' folders but for those `elsewhere`. `part` must stand before the
    patient in ``Path`` ("": anything may). `plain`: only ``Path`` and the findings need be there.
    """
    needed = ("Path", *FINDINGS) if plain else HEADER
    hint = "use the CSV file as CheXpert released it"
    table = read_csv(path, needed, bad, hint=hint, optional=HEADER)
    _check(table, part, plain)
    rows = table.frame
    study = rows["patient"] + "_" + rows["study"]
    position, kind = rows["AP/PA"], rows["Frontal/Lateral"]
    above, parts = elsewhere or {}, rows[["patient", "study", "file"]].itertuples(index=False)
    return steps.films_of(
        "chexpert",
        study + "_" + rows["view"],
        [f"{above.get(p, folder)}/{p}/{s}/{file}" for p, s, file in parts],
        table.where(),
        patient_id=rows["patient"],
        study_id=study,
        view=position.where(position.isin(["AP", "PA"]), ""),
        sex=rows["Sex"].map(SEXES),
        age=rows["Age"],
        position=position,
        frontal=kind.eq("Frontal") | (kind.eq("") & rows["side"].eq("frontal")),
        **{finding: rows[finding] for finding in FINDINGS},
    )


def _check(table: CsvTable, part: str, plain: bool) -> None:
    """Drop or refuse wrong rows; states and ages become numbers, the parts of ``Path`` columns."""
    for column in ("Path", "Sex", "Frontal/Lateral", "AP/PA"):
        table.frame[column] = table.column(column)
    table.among("Frontal/Lateral", ("Frontal", "Lateral", *([""] if plain else [])))
    table.among("AP/PA", (*POSITIONS, ""))
    table.among("Sex", tuple(SEXES))
    for column in FINDINGS:
        table.frame[column] = table.states(column)
    table.frame["Age"] = table.numbers("Age")
    parts = table.frame["Path"].str.replace("\\", "/").str.extract(_PATH).fillna("")
    table.frame[parts.columns] = parts
    # What stands before the patient stays inside the root and ends in `part`.
    leads = {
        lead: is_inside(lead) and part in ("", clean(lead).name) if lead else not part
        for lead in table.frame["lead"].unique()
    }
    good = table.frame["lead"].map(leads).astype(bool) & table.frame["file"].ne("")
    table.require(
        good, "Path", f"a path .../{part or 'valid'}/patientNNNNN/studyN/viewN_frontal.jpg"
    )
    twice = table.frame[["patient", "study", "view"]].duplicated()
    table.require(~twice, "Path", "each film once")


def _apart(
    rows: pd.DataFrame, path: Path, others: pd.DataFrame, other: Path, bad: BadRows
) -> pd.DataFrame:
    """`rows` (of `path`) without patients who stand in `others` too: those are rejected."""
    both = rows["patient_id"].isin(others["patient_id"])
    for patient, where in rows.loc[both, ["patient_id", "where"]].itertuples(index=False):
        fault = f"patient {patient!r} stands in {path.name} and in {other.name}"
        bad.reject(path, str(where), f"{fault}: remove all its rows from one of them")
    return rows[~both]


def _parted(rows: Sequence[pd.DataFrame], where: str) -> tuple[pd.DataFrame, list[Path]]:
    """Frontal films, a table, and the files of the others; `where` is for the message."""
    table = pd.concat(rows, ignore_index=True)
    films = table[table["frontal"]].drop(columns=["frontal", "position"]).reset_index(drop=True)
    if films.empty:
        raise InputError(f"{where} list no frontal film")
    return films, [Path(path) for path in table["path"][~table["frontal"]]]


def read_chexpert(
    root: Path, bad: BadRows = STRICT, *, valid_fraction: float = 0.1
) -> dict[str, FilmTable]:
    """``films``: frontal ones of ``train.csv``, then of ``valid.csv``, the test split here.

    A share `valid_fraction` of the training patients validates. Masks come from files beside the
    films, as the phantom writes them, and from CheXlocalize's truth, where it lies in or beside
    the root, on the films of ``valid.csv`` that it holds. Of a patient of both files the rows in
    ``train.csv`` are wrong. Training films may lie as the full-size archives unpack, in folders
    ``batch 2 (train 1)`` and on in or beside the root.
    """
    batches = _batches(root)
    root = root.absolute() if batches else root
    of_train, of_valid = root / "train.csv", root / "valid.csv"
    in_batches = {p.name: batch for batch in batches for p in batch.iterdir() if p.is_dir()}
    train = read_rows(of_train, root / "train", bad, "train", elsewhere=in_batches)
    valid = read_rows(of_valid, root / "valid", bad, "valid").assign(split="test")
    facts = _facts(train, valid)
    train = _apart(train, of_train, valid, of_valid, bad)
    train = train.assign(split=steps.hold_out(train["patient_id"], valid_fraction))
    films, others = _parted([train, valid], f"{root}: train.csv and valid.csv")
    file = find_truth(root)
    drawn = pd.DataFrame()
    if file:
        listed = _listed(load_truth(file, bad), valid, file, bad)
        drawn = truth_masks(films, listed)
        facts["valid films with truth"] = int(films["image_id"].isin(list(listed)).sum())
    masks = _with_masks_beside(films["path"].tolist(), drawn)
    beside = (file,) if file and root not in file.parents else ()
    apart = [batch for batch in batches if batch.parent != root]
    top, folders = (root.parent, (root, *apart)) if apart else (root, ())
    table = steps.make_table(
        "chexpert", films, top, masks, others=others, facts=facts, bad=bad, beside=beside,
        folders=folders,
    )  # fmt: skip
    return {"films": table}


def _batches(root: Path) -> list[Path]:
    """Folders of training films, where the archives were unpacked as they are."""
    if (root / "train").is_dir():
        return []
    found: list[Path] = []
    for top in (root.absolute(), root.absolute().parent):
        with contextlib.suppress(OSError):  # a folder that may be passed through alone
            found += [p for p in sorted(top.iterdir()) if _BATCH.fullmatch(p.name) and p.is_dir()]
    return found


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
    for state, code in STATES.items():
        here = (train[list(FINDINGS)] == code).sum()
        counts |= {f"{finding} {state}": here[finding] for finding in FINDINGS}
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


DATASET = steps.data_set(
    "chexpert", ("films",), steps.marked(("train.csv", "valid.csv"), ROOTS), read_chexpert
)


# CheXlocalize: ten findings outlined on the films of CheXpert's validation and test sets.


def find_truth(root: Path) -> Path | None:
    """Truth file of CheXpert's own ``valid.csv``, in or beside its root; None if there is none."""
    above = root.absolute().parent
    for folder in (root, root / "CheXlocalize", above / "CheXlocalize", above):
        if os.path.lexists(folder / TRUTH.format("val")):  # a broken link is reported
            return folder / TRUTH.format("val")
    return None


def load_truth(path: Path, bad: BadRows = STRICT) -> dict[str, dict[str, Mask]]:
    """Masks by image key (``patient64541_study1_view1_frontal``) and finding, of those listed."""
    data = steps.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no JSON object of image keys: {AGAIN}")
    out: dict[str, dict[str, Mask]] = {}
    for key, entry in data.items():
        try:
            out[key] = _entry(path, key, entry)
        except InputError as error:
            if not bad.skip:
                raise
            bad.append((str(path), f"{path}, key {key!r}", str(error)))
    return out


def _listed(
    truth: Mapping[str, Mapping[str, Mask]], rows: pd.DataFrame, path: Path, bad: BadRows
) -> dict[str, Mapping[str, Mask]]:
    """What the truth of `path` holds of `rows`; if nothing, it is the truth of other films."""
    ids = set(rows["image_id"])
    listed = {key: masks for key, masks in truth.items() if key in ids}
    if truth and not listed:
        fault = f"none of its {len(truth)} keys is a listed film (first: {next(iter(truth))!r})"
        bad.reject(path, str(path), f"{fault}: put the truth file of these films there")
    return listed


def truth_masks(films: pd.DataFrame, truth: Mapping[str, Mapping[str, Mask]]) -> pd.DataFrame:
    """Masks of the `LOCALIZED` findings, one row per film; None where `truth` has none."""
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


def read_chexlocalize(root: Path, bad: BadRows = STRICT) -> dict[str, FilmTable]:
    """``films``: frontal ones of val (the valid split), then of test; nothing to train on.

    A film that the truth file holds has a mask of each of the ten findings, empty where the finding
    is not there; any other film has no masks. Masks are on the grid of full-size films.
    """
    tables = {part: root / "CheXpert" / f"{part}_labels.csv" for part in ("val", "test")}
    val, test = (
        read_rows(path, root / "CheXpert" / part, bad, plain=True) for part, path in tables.items()
    )
    val = _apart(val, tables["val"], test, tables["test"], bad)
    facts: dict[str, int] = {}
    truth: dict[str, Mapping[str, Mask]] = {}
    for part, rows in (("val", val), ("test", test)):
        file = root / "CheXlocalize" / TRUTH.format(part)
        drawn = load_truth(file, bad)
        listed = _listed(drawn, rows, file, bad)
        truth |= listed
        facts |= {
            f"{part} rows": len(rows),
            f"{part} patients": rows["patient_id"].nunique(),
            f"{part} films with truth": len(listed),
            f"{part} truth without a film": len(drawn) - len(listed),
        }
    films, others = _parted(
        [val.assign(split="valid"), test.assign(split="test")],
        f"{root}: val_labels.csv and test_labels.csv",
    )
    table = steps.make_table(
        "chexlocalize", films, root, truth_masks(films, truth), others=others, facts=facts, bad=bad
    )
    return {"films": table}


CHEXLOCALIZE = steps.data_set(
    "chexlocalize",
    ("films",),
    steps.marked(("CheXpert/val_labels.csv", "CheXlocalize"), ("cheXlocalize", "chexlocalize")),
    read_chexlocalize,
)
