"""What an export takes from a label store: which pairs, with or without film pixels."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, index
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.labels.store import LabelStore

U8 = npt.NDArray[np.uint8]


@dataclass
class Selection:
    """Part of a label store.

    Attributes:
        store: the label store.
        findings: which findings, in the order of the 14.
        films: the film store, if film pixels are to go along.
        negatives: whether films without a finding go along as all background (nnU-Net).
        names: `image_id` -> name that every file system takes.
    """

    store: LabelStore
    findings: tuple[str, ...] = FINDINGS
    films: Store | None = None
    negatives: bool = False
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        chosen = {index(f) for f in self.findings}
        self.findings = tuple(f for c, f in enumerate(FINDINGS) if c in chosen)
        if self.films is not None:
            self.store.check_films(self.films)
        if not len(self.pairs):
            raise InputError(
                f"{self.store.path}: no label of {', '.join(self.findings)}: see "
                "python -m dollkit.labels show"
            )
        self.names = file_names(self.store.pairs["image_id"].unique().tolist())

    @property
    def pairs(self) -> npt.NDArray[np.int64]:
        """Rows of the store's table, ascending."""
        return np.flatnonzero(self.store.pairs["finding"].isin(self.findings))

    def images(self) -> Iterator[tuple[int, str, npt.NDArray[np.int64]]]:
        """Films in the order of their first label: row, image_id, pairs."""
        table = self.store.pairs.iloc[self.pairs]
        at = self.pairs
        for image_id, inside in table.groupby("image_id", sort=False).indices.items():
            yield int(table["row"].iloc[inside[0]]), str(image_id), at[inside]

    def write_film(self, row: int, path: Path) -> None:
        """A film as a PNG file."""
        assert self.films is not None
        write_png(self.films.images[row], path)


def write_png(pixels: U8, path: Path | IO[bytes]) -> None:
    """An (S, S) uint8 array as a grey PNG file or stream."""
    Image.fromarray(pixels).save(path, format="PNG")


def file_names(image_ids: Sequence[str]) -> dict[str, str]:
    """A file name without ending for each film: letters, digits, ``.``, ``_`` and ``-`` only."""
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for image_id in image_ids:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".-") or "_"
        # Some file systems do not tell letters by case.
        other = taken.setdefault(name.lower(), image_id)
        if other != image_id:
            raise InputError(
                f"films {other!r} and {image_id!r} would both be written as {name!r}: rename one"
            )
        out[image_id] = name
    return out


# COCO: one JSON file of run-length encoded masks.
#
# Per label there is one annotation of the finding, and one with ``iscrowd`` 1 of the pixels to
# ignore, if there are any. COCO's own scoring takes crowd regions of a category for places where a
# detection counts neither way, which is what 255 means here; training code that drops crowds
# treats these pixels as background unless told otherwise. A label without a pixel of finding has no
# annotation of it. Field format: cocodataset.org, "Data format"; masks by pycocotools.


COCO_FILES = """\
## Files

- `annotations.json`: COCO instances. Category ids are 1 to 14 in CheXpert's order; segmentations
  are compressed RLE. `iscrowd` 1 marks the pixels to ignore of the same film and category.
- `images/`: the films, if they were exported; else put them there under `file_name`."""


def write_coco(chosen: Selection, out: Path) -> str:
    """Write ``annotations.json``, and ``images/`` with films; returns the card's section."""
    size = chosen.store.size
    if chosen.films is not None:
        (out / "images").mkdir()
    numbers: dict[str, int] = {}
    images = []
    for number, (row, image_id, _) in enumerate(chosen.images(), start=1):
        numbers[image_id] = number
        name = f"{chosen.names[image_id]}.png"
        images.append(
            {"id": number, "file_name": name, "width": size, "height": size, "film": image_id}
        )
        if chosen.films is not None:
            chosen.write_film(row, out / "images" / name)
    head = {
        "info": {"description": "DoLL labels of chest radiographs", "version": "1"},
        "licenses": [{"id": 1, "name": "the terms of the films' data set", "url": ""}],
        "categories": [
            {"id": 1 + c, "name": name, "supercategory": "finding"}
            for c, name in enumerate(FINDINGS)
            if name in chosen.findings
        ],
        "images": images,
    }
    with (out / "annotations.json").open("w", encoding="utf-8") as file:
        # Piece by piece: the annotations of a large set are more than memory should hold.
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        _write_list(file, _annotations(chosen, numbers))
        file.write("]}\n")
    return COCO_FILES


def _write_list(file: IO[str], items: Iterable[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        file.write(("," if number else "") + "\n" + json.dumps(item))


def _annotations(chosen: Selection, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    table = chosen.store.pairs
    number = 0
    for pair in chosen.pairs:
        row = table.iloc[pair]
        label = chosen.store.label(int(pair))
        for value, crowd in ((1, 0), (IGNORE, 1)):
            if not (label == value).any():
                continue
            number += 1
            runs = coco_mask.encode(np.asfortranarray(label == value, np.uint8))
            yield {
                "id": number,
                "image_id": numbers[row["image_id"]],
                "category_id": 1 + FINDINGS.index(row["finding"]),
                "segmentation": {
                    "size": [int(v) for v in runs["size"]],
                    "counts": runs["counts"].decode("ascii"),
                },
                "area": int(coco_mask.area(runs)),
                "bbox": [float(v) for v in coco_mask.toBbox(runs)],
                "iscrowd": crowd,
                "label": int(pair),
            }


# PNG masks: a file per film and finding, values 0, 1 and 255, and a table of them.


PNG_FILES = """\
## Files

- `masks/<finding>/<film>.png`: 8-bit grey, 0 background, 1 finding, 255 ignore. They look black
  in a viewer: 1 is next to black.
- `masks.csv`: `file`, then the columns of the label store's table.
- `images/<film>.png`: the films, if they were exported."""


def write_png_labels(chosen: Selection, out: Path) -> str:
    """Write ``masks/``, ``masks.csv``, and ``images/`` with films; returns the card's section."""
    if chosen.films is not None:
        (out / "images").mkdir()
        for row, image_id, _ in chosen.images():
            chosen.write_film(row, out / "images" / f"{chosen.names[image_id]}.png")
    folders = {f: f.lower().replace(" ", "_") for f in chosen.findings}
    table = chosen.store.pairs
    for folder in {folders[f] for f in table["finding"].iloc[chosen.pairs].unique()}:
        (out / "masks" / folder).mkdir(parents=True)
    with (out / "masks.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", *table.columns])
        for pair in chosen.pairs:
            row = table.iloc[pair]
            name = f"masks/{folders[row['finding']]}/{chosen.names[row['image_id']]}.png"
            write_png(chosen.store.label(int(pair)), out / name)
            rows.writerow([name, *row])
    return PNG_FILES
