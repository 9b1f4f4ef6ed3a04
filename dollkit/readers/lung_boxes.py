"""General Blockchain's boxes of both lungs on films of ieee8023/covid-chestxray-dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.errors import InputError
from dollkit.readers.steps import read_json

log = logging.getLogger(__name__)

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
