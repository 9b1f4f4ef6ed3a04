"""General Blockchain's masks on films of ieee8023/covid-chestxray-dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, CsvTable, clean, is_inside, read_csv, reject
from dollkit.data.dataset import first_with
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import Crop, Mask
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.covid_chestxray import people, read_metadata, unique_stems
from dollkit.data.splits import draw_parts

ROOTS = (
    "covid-19-chest-xray-segmentations-dataset",
    "covid-19-chest-xray-segmentations-dataset-master",
)
NEEDED = ("Class", "Filename", "Image", "Mask", "Resolution", "Top", "Left", "Width", "Height")

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


def read_generalblockchain(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """``infection``, ``organs`` and ``lungs``, each with the frontal films that have such a mask.

    ``infection`` is ground glass opacity or consolidation; a film with neither is unknown, not
    empty. ``lungs`` joins both lungs, on films that have both. A wrong row costs its whole film,
    whose mask might be incomplete. Folds are drawn for each store from the films that are there.
    """
    bad = BadRows()
    notes = bad if skip_bad else None
    # No collector yet: whose mask a torn row was cannot be told.
    table = read_csv(root / "structure.csv", NEEDED, hint="fetch the segmentations dataset again")
    table.bad = notes
    mask_names = table.column("Mask")
    facts = {
        "films": table.column("Filename").nunique(),
        "masks": int((mask_names != "").sum()),
        "rows without mask": int((mask_names == "").sum()),
    }
    places = _places(table, root)
    table.frame = table.frame[(_kinds(table) != "").to_numpy()].reset_index(drop=True)
    masks = _masks(table, root)
    films = _films(root, {name: places[name] for name in masks}, notes)
    of_film = [masks[name] for name in films.pop("file")]
    facts |= {"frontal films": len(films), "patients": films["patient_id"].nunique()}
    facts |= {f"films with {k}": sum(k in m for m in of_film) for k in KIND_OF.values()}
    used = {f for m in of_film for mask in m.values() for f in mask.files}
    used.update(map(Path, films["path"]))
    listed = [root / clean(name) for name in mask_names if is_inside(name)]
    listed += [path for path, _ in places.values()]
    others = tuple(path for path in dict.fromkeys(listed) if path not in used)
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
        name = "generalblockchain"
        out[store] = steps.make_table(
            name, chosen, root, marked, others=others, facts=facts, bad=bad, store=store
        )
    if not out:
        raise InputError(f"{table.path}: no film with a mask is left: fetch the data set again")
    return out


def _kinds(table: CsvTable) -> pd.Series[str]:
    """Our name of each row's class, "" for those that are not read."""
    return table.column("Class").str.removeprefix("COVID-19 ").map(KIND_OF).fillna("")


def _masks(table: CsvTable, root: Path) -> dict[str, dict[str, Mask]]:
    """Masks by film and kind; films with a wrong row are left out altogether."""
    listed = table.frame.copy()
    for column in ("Top", "Left", "Width", "Height"):
        whole = table.column(column).str.fullmatch(r"\d{1,6}")
        table.require(whole, column, "a whole number of pixels, 0 or more")
    size = table.column("Resolution").str.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}")
    table.require(size, "Resolution", "width x height, as 1024x1024")
    table.files("Filename", root / "images")
    table.files("Image", root)
    table.files("Mask", root)
    fits = [_crop(row, root) is not None for row in _rows(table)]
    table.require(fits, "Mask", "a crop that lies inside its film")
    wrong = listed[~listed["row"].isin(table.frame["row"])]
    # By both names: either may be what is wrong.
    broken = listed["Filename"].isin(wrong["Filename"]) | listed["Image"].isin(wrong["Image"])
    lost = set(listed["Filename"][broken].str.strip())
    out: dict[str, dict[str, list[Mask | None]]] = {}
    for row, kind in zip(_rows(table), _kinds(table), strict=True):
        file = row["Filename"].strip()
        if file not in lost:
            out.setdefault(file, {}).setdefault(kind, []).append(_crop(row, root))
    return {
        file: {
            kind: mask for kind, crops in kinds.items() if (mask := steps.joined(crops)) is not None
        }
        for file, kinds in out.items()
    }


def _rows(table: CsvTable) -> list[dict[str, str]]:
    rows = table.frame[list(NEEDED)].itertuples(index=False)
    return [dict(zip(NEEDED, row, strict=True)) for row in rows]


def _crop(row: Mapping[str, str], root: Path) -> Crop | None:
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


def _films(root: Path, places: Mapping[str, tuple[Path, str]], bad: BadRows | None) -> pd.DataFrame:
    """Frontal films: a films table with the column ``file``."""
    metadata = people(read_metadata(root / "metadata.csv", bad))
    metadata = metadata.drop_duplicates("file").set_index("file")
    kept: list[str] = []
    for file, (path, where) in places.items():
        if file not in metadata.index:
            reject(bad, path, where, f"film {file!r} is not in metadata.csv: fetch it again")
        elif metadata.loc[file, "frontal"]:
            kept.append(file)
    columns = ("patient_id", "sex", "age", "view")
    return steps.films_of(
        "generalblockchain",
        unique_stems(kept),
        [places[file][0] for file in kept],
        [places[file][1] for file in kept],
        split="train",
        file=kept,
        **{column: metadata.loc[kept, column].to_numpy() for column in columns},
    )


DATASET = steps.data_set(
    "generalblockchain",
    ("infection", "organs", "lungs"),
    lambda folder: first_with(folder, ("structure.csv",), ROOTS),
    read_generalblockchain,
)
