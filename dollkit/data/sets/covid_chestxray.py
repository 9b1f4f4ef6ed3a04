"""ieee8023/covid-chestxray-dataset: films of COVID-19 and other pneumonias from publications.

And General Blockchain's masks on these films.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import STRICT, BadRows, CsvTable, clean, is_inside, read_csv
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Crop, Mask
from dollkit.data.sets import common_steps as steps
from dollkit.data.splits import draw_parts, split_by_share

ROOTS = ("covid-chestxray-dataset", "covid-chestxray-dataset-master")
NEEDED = ("patientid", "finding", "view", "modality", "filename")
OPTIONAL = ("sex", "age", "license", "folder")

FRONTAL = {"pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "ap semi erect": "AP"}
"""Views that are read (lower case), and what they count as."""

_PNEUMONIAS = (
    "pneumonia/viral/viral pneumonia/covid-19/sars/mers/mers-cov/influenza/h1n1/"
    "swine-origin influenza a (h1n1) viral pneumonia/herpes/herpes pneumonia/varicella/"
    "bacterial/bacterial pneumonia/streptococcus/staphylococcus/mrsa/klebsiella/legionella/"
    "mycoplasma/mycoplasma bacterial pneumonia/chlamydophila/e.coli/nocardia/"
    "fungal/fungal pneumonia/pneumocystis/aspergillosis/aspiration/aspiration pneumonia/lipoid"
)
FINDING_OF: dict[str, str | None] = {
    **dict.fromkeys(_PNEUMONIAS.split("/"), "Pneumonia"),
    "no finding": "No Finding",
    **dict.fromkeys(("ards", "tuberculosis", "todo", "unknown", "")),
}
"""Our mapping of the diagnoses (lower case, each level of "A/B/C" by itself) to CheXpert's names.

Diagnoses come from the publications, not from the films, so a positive says what the patient had.
None: known, and none of CheXpert's observations.
"""

SAME_PATIENT = {"97": "178"}
"""Patient ids under which the same films stand as under another id."""


def read_ieee8023(root: Path, bad: BadRows = STRICT) -> dict[str, FilmTable]:
    """``films``: the frontal radiographs of ``metadata.csv``; diagnoses mapped by `FINDING_OF`.

    ``image_id`` is the file's stem (with its ending where two files share one), ``patient_id``
    is ``ieee_<patientid>``. No split was released: patients are drawn by the hash of their id.
    """
    table = read_metadata(root / "metadata.csv", bad)
    facts = {"rows": len(table)}
    paths = table.files("filename", root / "images")
    frame = people(table)
    frame["path"], frame["where"] = [str(p) for p in paths], table.where()
    again = frame["path"].duplicated()
    owner = frame.groupby("path")["patient_id"].transform("first")
    for path, where in frame.loc[owner != frame["patient_id"], ["path", "where"]].to_numpy():
        reason = f"file {Path(path).name!r} stands under another patient too: mend one row"
        bad.reject(path, where, reason)
    rows = frame["frontal"] & ~again
    chosen = frame[rows].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"{table.path}: no frontal film is listed: fetch the data set again")
    named = [named_findings(text) for text in table.column("finding")[rows]]
    films = steps.films_of(
        "ieee8023",
        unique_stems(chosen["file"].tolist()),
        chosen["path"],
        chosen["where"],
        split=split_by_share(chosen["patient_id"]),
        **{column: chosen[column] for column in ("patient_id", "sex", "age", "view")},
    )
    for finding in ("Pneumonia", "No Finding"):
        films[finding] = [1.0 if finding in found else np.nan for found, _ in named]
    facts |= {
        "films": len(films),
        "patients": films["patient_id"].nunique(),
        "rows of CT or lateral views": int((~frame["frontal"]).sum()),
        "rows that repeat a file": int(again.sum()),
        "films with a diagnosis not mapped": sum(not known for _, known in named),
    }
    licences = Counter(table.column("license")[rows].replace("", "not stated"))
    facts |= {f"films, licence {name}": n for name, n in sorted(licences.items())}
    others = map(Path, frame["path"][table.column("folder") != "volumes"])
    return {"films": steps.make_table("ieee8023", films, root, others=others, facts=facts, bad=bad)}


def read_metadata(path: Path, bad: BadRows) -> CsvTable:
    """Rows of a ``metadata.csv`` in this data set's form; each has a patient."""
    hint = "fetch covid-chestxray-dataset's metadata.csv"
    table = read_csv(path, NEEDED, bad, hint=hint, optional=OPTIONAL)
    table.require(table.column("patientid") != "", "patientid", "the patient's id")
    return table


def people(table: CsvTable) -> pd.DataFrame:
    """Whose film each row is: file, patient_id, sex, age, view ("" unless frontal), frontal."""
    view = table.column("view").str.lower().map(FRONTAL)
    film = table.column("modality").str.lower() == "x-ray"
    columns = {
        "file": table.column("filename"),
        "patient_id": "ieee_" + table.column("patientid").replace(SAME_PATIENT),
        "sex": sexes(table.column("sex")),
        "age": pd.to_numeric(table.column("age"), errors="coerce").astype("float64"),
        "view": view.fillna("").where(film, ""),
        "frontal": view.notna() & film,
    }
    return pd.DataFrame(columns)


def sexes(texts: Iterable[str]) -> list[str]:
    """M and F; whatever else stands there is unknown."""
    return [text.upper() if text.upper() in ("M", "F") else "" for text in texts]


def named_findings(text: str) -> tuple[set[str], bool]:
    """CheXpert's names for a diagnosis, and whether `FINDING_OF` lists every part of it."""
    parts = [p.strip().lower() for p in text.replace(",", "/").split("/")]
    found = {name for p in parts if (name := FINDING_OF.get(p)) is not None}
    # A disease beside "No Finding" is a finding.
    return found - {"No Finding"} or found, all(p in FINDING_OF for p in parts)


def unique_stems(files: Sequence[str]) -> list[str]:
    """Ids of files: the stem, with the ending (``a_png``) where several share it."""
    count = Counter(Path(f).stem for f in files)
    names = [Path(f) for f in files]
    return [p.stem if count[p.stem] == 1 else p.name.replace(".", "_") for p in names]


def _find(folder: Path) -> Path | None:
    root = steps.marked(("metadata.csv", "images"), ROOTS)(folder)
    # General Blockchain's masks come with a copy of this table.
    if root is None or (root / "structure.csv").exists():
        return None
    try:
        with (root / "metadata.csv").open("rb") as file:
            header = file.readline(4096).lower()
    except OSError:
        return None
    return root if b"patientid" in header and b"filename" in header else None


DATASET = steps.data_set("ieee8023", ("films",), _find, read_ieee8023)


# General Blockchain: masks on these films.

BLOCKCHAIN = "generalblockchain"
STRUCTURE = ("Class", "Filename", "Image", "Mask", "Resolution", "Top", "Left", "Width", "Height")

KIND_OF: dict[str, str] = {
    "Left Lung": "left lung",
    "Right Lung": "right lung",
    "Cardiomediastinum": "cardiomediastinum",
    "Ground Glass Opacities": "ground glass opacity",
    "Consolidation": "consolidation",
}
"""Classes that are read (the column writes "COVID-19 Left Lung"), and our names for them."""

INFECTION = ("ground glass opacity", "consolidation")
ORGANS = ("left lung", "right lung", "cardiomediastinum")
FOLDS = 4


def read_generalblockchain(root: Path, bad: BadRows = STRICT) -> dict[str, FilmTable]:
    """``infection``, ``organs`` and ``lungs``, each with the frontal films that have such a mask.

    ``infection`` is ground glass opacity or consolidation; a film with neither is unknown, not
    empty. ``lungs`` joins both lungs, on films that have both. A wrong row costs its whole film,
    whose mask might be incomplete. Folds are drawn for each store from the films that are there.
    """
    # No collector yet: whose mask a torn row was cannot be told.
    table = read_csv(
        root / "structure.csv", STRUCTURE, hint="fetch the segmentations dataset again"
    )
    table.bad = bad
    mask_names = table.column("Mask")
    facts = {
        "films": table.column("Filename").nunique(),
        "masks": int((mask_names != "").sum()),
        "rows without mask": int((mask_names == "").sum()),
    }
    places = _places(table, root)
    table = table.part(_kinds(table) != "")
    masks = _masks(table, root)
    films = _films(root, {name: places[name] for name in masks}, bad)
    of_film = [masks[name] for name in films.pop("file")]
    facts |= {"frontal films": len(films), "patients": films["patient_id"].nunique()}
    facts |= {f"films with {k}": sum(k in m for m in of_film) for k in KIND_OF.values()}
    others = [root / clean(name) for name in mask_names if is_inside(name)]
    others += [path for path, _ in places.values()]
    infections = [[m[k] for k in INFECTION if k in m] for m in of_film]
    columns: dict[str, dict[str, list[Mask | None]]] = {
        "infection": {"infection": [steps.joined(parts) for parts in infections]},
        "organs": {kind: [m.get(kind) for m in of_film] for kind in ORGANS},
        "lungs": {"lungs": [steps.joined([m.get(k) for k in ORGANS[:2]]) for m in of_film]},
    }
    out = {}
    for store, classes in columns.items():
        marked = pd.DataFrame(classes, dtype=object)
        has = marked.notna().any(axis=1)
        if not has.any():
            continue
        marked, chosen = (frame[has].reset_index(drop=True) for frame in (marked, films))
        patients = chosen["patient_id"].tolist()
        folds = min(FOLDS, len(set(patients)))
        chosen["fold"] = draw_parts(patients, marked.notna().to_numpy(), [1.0] * folds)
        out[store] = steps.make_table(
            BLOCKCHAIN, chosen, root, marked, others=others, facts=facts, bad=bad, store=store
        )
    if not out:
        raise InputError(f"{table.path}: no film with a mask is left: fetch the data set again")
    return out


def _kinds(table: CsvTable) -> pd.Series[str]:
    """Our name of each row's class, "" for those that are not read."""
    return table.column("Class").str.removeprefix("COVID-19 ").map(KIND_OF).fillna("")


def _masks(table: CsvTable, root: Path) -> dict[str, dict[str, Mask | None]]:
    """Masks by film and kind; films with a wrong row are left out altogether."""
    listed = table.frame.copy()
    for column in ("Top", "Left", "Width", "Height"):
        whole = table.column(column).str.fullmatch(r"\d{1,6}")
        table.require(whole, column, "a whole number of pixels, 0 or more")
    size = table.column("Resolution").str.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}")
    table.require(size, "Resolution", "width x height, as 1024x1024")
    for column, folder in (("Filename", root / "images"), ("Image", root), ("Mask", root)):
        table.files(column, folder)
    crops = [_crop(row, root) for row in table.frame[list(STRUCTURE)].to_dict("records")]
    fits = [crop is not None for crop in crops]
    table.require(fits, "Mask", "a crop that lies inside its film")
    wrong = listed[~listed["row"].isin(table.frame["row"])]
    # By both names: either may be what is wrong.
    broken = listed["Filename"].isin(wrong["Filename"]) | listed["Image"].isin(wrong["Image"])
    lost = set(listed["Filename"][broken].str.strip())
    drawn: dict[str, dict[str, list[Mask | None]]] = {}
    kept = (crop for crop in crops if crop is not None)
    for file, kind, crop in zip(table.column("Filename"), _kinds(table), kept, strict=True):
        if file not in lost:
            drawn.setdefault(file, {}).setdefault(kind, []).append(crop)
    return {
        file: {kind: steps.joined(parts) for kind, parts in kinds.items()}
        for file, kinds in drawn.items()
    }


def _crop(row: Mapping[Hashable, str], root: Path) -> Crop | None:
    """The mask of a row; None if it has no area or leaves its film."""
    top, left, height, width = (int(row[c]) for c in ("Top", "Left", "Height", "Width"))
    film_width, film_height = map(int, row["Resolution"].split("x"))
    if min(height, width) < 1 or top + height > film_height or left + width > film_width:
        return None
    path = root / clean(row["Mask"])
    return Crop(path, top, left, height, width, (film_height, film_width))


def _places(table: CsvTable, root: Path) -> dict[str, tuple[Path, str]]:
    """Image of each film, under its own or its hashed name, and the first row that names it."""
    out: dict[str, tuple[Path, str]] = {}
    listed = zip(table.column("Filename"), table.column("Image"), table.where(), strict=True)
    for name, image, where in listed:
        if name not in out and is_inside(name):
            path, hashed = root / "images" / clean(name), root / clean(image)
            instead = is_inside(image) and hashed.is_file() and not path.is_file()
            out[name] = (hashed if instead else path, where)
    return out


def _films(root: Path, places: Mapping[str, tuple[Path, str]], bad: BadRows) -> pd.DataFrame:
    """Frontal films: a films table with the column ``file``."""
    metadata = people(read_metadata(root / "metadata.csv", bad))
    metadata = metadata.drop_duplicates("file").set_index("file")
    kept: list[str] = []
    for file, (path, where) in places.items():
        if file not in metadata.index:
            bad.reject(path, where, f"film {file!r} is not in metadata.csv: fetch it again")
        elif metadata.loc[file, "frontal"]:
            kept.append(file)
    columns = ("patient_id", "sex", "age", "view")
    return steps.films_of(
        BLOCKCHAIN,
        unique_stems(kept),
        [places[file][0] for file in kept],
        [places[file][1] for file in kept],
        split="train",
        file=kept,
        **{column: metadata.loc[kept, column].to_numpy() for column in columns},
    )


_ROOT = "covid-19-chest-xray-segmentations-dataset"
GENERALBLOCKCHAIN = steps.data_set(
    BLOCKCHAIN,
    ("infection", "organs", "lungs"),
    steps.marked(("structure.csv",), (_ROOT, f"{_ROOT}-master")),
    read_generalblockchain,
)
