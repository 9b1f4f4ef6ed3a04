"""COCO: one JSON file of run-length encoded masks.

Per label there is one annotation of the finding, and one with ``iscrowd`` 1 of the pixels to
ignore, if there are any. COCO's own scoring takes crowd regions of a category for places where a
detection counts neither way, which is what 255 means here; training code that drops crowds
treats these pixels as background unless told otherwise. A label without a pixel of finding has no
annotation of it. Field format: cocodataset.org, "Data format"; masks by pycocotools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as coco_mask

from dollkit.findings import FINDINGS
from dollkit.images import IGNORE
from dollkit.labels.exports.selection import Selection

FILES = """\
## Files

- `annotations.json`: COCO instances. Category ids are 1 to 14 in CheXpert's order; segmentations
  are compressed RLE. `iscrowd` 1 marks the pixels to ignore of the same film and category.
- `images/`: the films, if they were exported; else put them there under `file_name`."""


def write(chosen: Selection, out: Path) -> str:
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
    return FILES


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
