"""General Blockchain's masks on films of ieee8023/covid-chestxray-dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, CsvTable, clean, is_inside, read_csv, reject
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.masks import U8, Crop, Mask, Union
from dollkit.data.sets.covid_chestxray import people, read_metadata, unique_stems
from dollkit.data.splits import draw_parts, read_json

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class FilmCrop(Crop):
    """A crop that knows the size of its film: on another grid it would land elsewhere.

    Attributes:
        film: (height, width) that the crop's row states.
    """

    film: tuple[int, int] = (0, 0)

    def load(self, height: int, width: int) -> U8:
        if (height, width) != self.film:
            raise InputError(
                f"{self.path}: its row is for a film of {self.film[1]}x{self.film[0]}, the image "
                f"is {width}x{height}: use the image as released, not resized"
            )
        return super().load(height, width)


def read_generalblockchain(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """COVID-19 chest X-ray segmentations by General Blockchain: lungs, heart, infection.

    Counts: 602 rows on 100 films, 588 with a mask file.

    Masks: drawn by radiologists (El Hajjami, Soliman). Classes overlap: the cardiomediastinum lies
    over the lungs. ``infection`` is ours: ground glass opacity or consolidation; a film with
    neither was not marked for it (unknown, not empty). ``organs`` are left lung, right lung and
    cardiomediastinum; ``lungs`` is both lungs joined, on films that have both. Lungs leave out
    what is behind the heart.

    Splits: none released. Cross-validation by patient, 4 folds, drawn for each store without
    random state from the films that are there (`dollkit.data.splits.draw_parts`), so copies
    with other films have other folds; the column split is "train" throughout. The folds of the
    open pack are others: its films have other ids.

    Folder variants: the repository's root. Images lie in ``images/`` under their own names, as
    ``Filename`` says; the hashed names of the column ``Image`` serve where that is missing.

    Traps: a mask file is only the crop around the mask, any colour inside, black outside, to be
    put at ``Top``, ``Left`` of a film of exactly ``Resolution`` (width x height). 14 rows
    ("Monitoring Probes") have no mask file. Tubes, airways, effusions and the like are left out.
    The same patients as in ieee8023, V7 and the open pack: do not train on one and test on
    another.

    Licence: masks CC BY 4.0; images as in ``metadata.csv``, most non-commercial.

    Cite: General Blockchain Inc., A. El Hajjami, M. Soliman,
    covid-19-chest-xray-segmentations-dataset, 2020; Cohen et al., arXiv 2006.11988 (films).

    Args:
        root: folder with ``structure.csv`` and ``metadata.csv``.
        skip_bad: leave films with a wrong row out (all of the film: a mask might be incomplete)
            and note them.

    Returns:
        ``infection``, ``organs`` and ``lungs``, each with the films that have such a mask.
    """
    bad = BadRows()
    collect = bad if skip_bad else None
    # No collector yet: whose mask a torn row was cannot be told.
    table = read_csv(root / "structure.csv", NEEDED, hint="fetch the segmentations dataset again")
    table.bad = collect
    facts = {
        "films": table.column("Filename").nunique(),
        "masks": int((table.column("Mask") != "").sum()),
        "rows without mask": int((table.column("Mask") == "").sum()),
    }
    listed = [root / clean(m) for m in table.column("Mask") if is_inside(m)]
    places = _places(table, root)
    table.frame = table.frame[(_kinds(table) != "").to_numpy()].reset_index(drop=True)
    masks = _masks(table, root)
    films = _films(root, {name: places[name] for name in masks}, collect)
    facts |= {"frontal films": len(films), "patients": films["patient_id"].nunique()}
    for kind in KIND_OF.values():
        facts[f"films with {kind}"] = sum(kind in masks[f] for f in films["file"])
    per_film = [masks[f] for f in films["file"]]
    used = {f for m in per_film for mask in m.values() for f in mask.files}
    used.update(map(Path, films["path"]))
    listed += [path for path, _ in places.values()]
    others = tuple(path for path in dict.fromkeys(listed) if path not in used)
    columns: dict[str, dict[str, list[Mask | None]]] = {
        "infection": {"infection": [_joined(m, INFECTION, every=False) for m in per_film]},
        "organs": {kind: [_joined(m, (kind,)) for m in per_film] for kind in ORGANS},
        "lungs": {"lungs": [_joined(m, ORGANS[:2]) for m in per_film]},
    }
    out = {}
    for store, classes in columns.items():
        marked = pd.DataFrame(classes, dtype=object)
        has = marked.notna().any(axis=1)
        if has.any():
            out[store] = _table(root, store, films[has], marked[has], others, facts, bad)
    if not out:
        raise InputError(f"{table.path}: no film with a mask is left: fetch the data set again")
    return out


def _kinds(table: CsvTable) -> pd.Series[str]:
    """Our name of each row's class, "" for those that are not read."""
    return table.column("Class").str.removeprefix("COVID-19 ").map(KIND_OF).fillna("")


def _masks(table: CsvTable, root: Path) -> dict[str, dict[str, Mask]]:
    """Masks by film and kind; films with a wrong row are left out altogether."""
    listed = table.frame.copy()
    numbers = ("Top", "Left", "Width", "Height")
    for column in numbers:
        whole = table.column(column).str.fullmatch(r"\d{1,6}")
        table.require(whole, column, "a whole number of pixels, 0 or more")
    size = table.column("Resolution").str.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}")
    table.require(size, "Resolution", "width x height, as 1024x1024")
    table.files("Filename", root / "images")
    table.files("Image", root)
    paths = table.files("Mask", root)
    box = {c: table.column(c).astype(int).tolist() for c in numbers}
    films = [tuple(map(int, text.split("x")))[::-1] for text in table.column("Resolution")]
    crops = [
        FilmCrop(path, top, left, height, width, (film[0], film[1]))
        for path, top, left, height, width, film in zip(
            paths, box["Top"], box["Left"], box["Height"], box["Width"], films, strict=True
        )
    ]
    fits = [
        min(c.height, c.width) > 0
        and c.top + c.height <= c.film[0]
        and c.left + c.width <= c.film[1]
        for c in crops
    ]
    crops = [crop for crop, good in zip(crops, fits, strict=True) if good]
    table.require(fits, "Mask", "a crop that lies inside its film")
    wrong = listed[~listed["row"].isin(table.frame["row"])]
    # By both names: either may be what is wrong.
    broken = listed["Filename"].isin(wrong["Filename"]) | listed["Image"].isin(wrong["Image"])
    lost = set(listed["Filename"][broken].str.strip())
    out: dict[str, dict[str, list[FilmCrop]]] = {}
    for file, kind, crop in zip(table.column("Filename"), _kinds(table), crops, strict=True):
        if file not in lost:
            out.setdefault(file, {}).setdefault(kind, []).append(crop)
    return {
        file: {k: c[0] if len(c) == 1 else Union(tuple(c)) for k, c in by_kind.items()}
        for file, by_kind in out.items()
    }


def _places(table: CsvTable, root: Path) -> dict[str, tuple[Path, str]]:
    """Image of each film, and the first row that names it."""
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
    kept = []
    for file, (path, where) in places.items():
        if file not in metadata.index:
            reject(bad, path, where, f"film {file!r} is not in metadata.csv: fetch it again")
        elif metadata.loc[file, "frontal"]:
            kept.append((file, str(path), where))
    films = blank_films(len(kept))
    films[["file", "path", "where"]] = np.array(kept, dtype=object).reshape(-1, 3)
    for column in ("patient_id", "sex", "age", "view"):
        films[column] = metadata.loc[films["file"], column].to_numpy()
    films["image_id"] = films["study_id"] = unique_stems(films["file"].tolist())
    films["source"] = "generalblockchain"
    return films


def _joined(masks: Mapping[str, Mask], kinds: Sequence[str], every: bool = True) -> Mask | None:
    """The masks of some kinds as one; None where one (or all, unless `every`) is unknown."""
    parts = tuple(masks[k] for k in kinds if k in masks)
    if not parts or (every and len(parts) < len(kinds)):
        return None
    return parts[0] if len(parts) == 1 else Union(parts)


def _table(
    root: Path,
    store: str,
    films: pd.DataFrame,
    masks: pd.DataFrame,
    others: tuple[Path, ...],
    facts: Mapping[str, int],
    bad: BadRows,
) -> FilmTable:
    films = films.drop(columns="file").reset_index(drop=True)
    masks = masks.reset_index(drop=True)
    folds = min(FOLDS, films["patient_id"].nunique())
    traits = masks.notna().to_numpy()
    films["fold"] = draw_parts(films["patient_id"].tolist(), traits, [1.0] * folds)
    films["split"] = "train"
    return FilmTable(
        f"generalblockchain-{store}",
        films,
        root,
        masks=masks,
        any_ending=True,
        others=others,
        side=("structure.csv", "metadata.csv", "README.md", "LICENSE*", "tags/*", "annotations/*"),
        facts=facts,
        bad=bad,
    )


def _find(folder: Path) -> Path | None:
    return first_with(folder, ("structure.csv",), ROOTS)


DATASET = DataSet(
    name="generalblockchain",
    title="COVID-19 chest X-ray segmentations (General Blockchain)",
    stores=("infection", "organs", "lungs"),
    find=_find,
    read=read_generalblockchain,
    documented={"films": 100, "masks": 588, "rows without mask": 14},
    tree="structure.csv, metadata.csv, images/ and masks/",
    licence="masks CC BY 4.0; images per image (metadata.csv), most non-commercial",
    cite="General Blockchain Inc., El Hajjami, Soliman; Cohen et al., arXiv 2006.11988",
)


# General Blockchain's boxes of both lungs on films of ieee8023/covid-chestxray-dataset.


BOX_COLUMNS = ("image", "side", "x", "y", "w", "h")


def read_lung_boxes(json_path: Path) -> pd.DataFrame:
    """Boxes of both lungs from General Blockchain's COCO file; anatomy, so no finding's box.

    One annotation of the released file has no ``category_id``: it is left out, counted in
    ``.attrs["without category"]`` and logged.

    Args:
        json_path: ``annotations/annotations.json``.

    Returns:
        `BOX_COLUMNS`: file name of the image, ``left`` or ``right`` (the patient's), and x, y, w,
        h in pixels of the image.
    """
    data = read_json(json_path)
    images = {entry["id"]: entry for entry in _entries(json_path, data, "images", ("id",))}
    sides = {}
    for entry in _entries(json_path, data, "categories", ("id", "name")):
        side = re.fullmatch(r"(left|right) lung", str(entry["name"]).strip().lower())
        if side:
            sides[entry["id"]] = side[1]
    rows, without = [], 0
    for i, entry in enumerate(_entries(json_path, data, "annotations", ("image_id", "bbox"))):
        where = f"{json_path}, annotations[{i}]"
        if entry.get("category_id") is None:
            without += 1
            continue
        if entry["category_id"] not in sides:
            raise InputError(f"{where}: category {entry['category_id']!r} is neither lung")
        image = images.get(entry["image_id"])
        if image is None:
            raise InputError(f"{where}: no image has the id {entry['image_id']!r}")
        box = _box(where, entry["bbox"], image)
        rows.append((str(image.get("file_name", "")), sides[entry["category_id"]], *box))
    frame = pd.DataFrame(rows, columns=list(BOX_COLUMNS))
    frame = frame.astype(dict.fromkeys(BOX_COLUMNS[2:], "float64"))
    frame.attrs["without category"] = without
    if without:
        log.info("%s: %d boxes without category left out", json_path, without)
    return frame


def _entries(
    path: Path, data: Any, name: str, needed: tuple[str, ...]
) -> Sequence[Mapping[str, Any]]:
    entries = data.get(name) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}: no list {name!r}: use the COCO file annotations.json")
    for i, entry in enumerate(entries):
        for key in needed:
            if not isinstance(entry, dict) or key not in entry:
                raise InputError(f"{path}, {name}[{i}]: {key!r} is missing: fetch the file again")
    return entries


def _box(where: str, box: Any, image: Mapping[str, Any]) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(v) for v in box)
        width, height = float(image["width"]), float(image["height"])
    except (TypeError, ValueError, KeyError):
        raise InputError(f"{where}: box {box!r} or its image's size is no numbers") from None
    # Half a pixel: some tools round the far corner up.
    if not (
        w > 0 and h > 0 and min(x, y) >= -0.5 and x + w <= width + 0.5 and y + h <= height + 0.5
    ):
        raise InputError(f"{where}: box {box!r} leaves its {width:g}x{height:g} image")
    return x, y, w, h
