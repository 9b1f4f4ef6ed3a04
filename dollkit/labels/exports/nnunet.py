"""nnU-Net v2's raw folder: a data set per finding.

Findings of one film overlap, and a pixel of an nnU-Net label file holds one integer; its regions
nest labels but cannot hold any overlap of 14. So each finding is a data set of its own, with 0
background, 1 finding, 2 ``ignore``: the name and the highest value that nnU-Net gives a partial
loss to. `check` holds a folder against nnU-Net's rules (its documentation of the data set format
and of the ignore label).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dollkit.errors import InputError
from dollkit.findings import FINDINGS, NEGATIVE, NOT_MENTIONED
from dollkit.images import IGNORE
from dollkit.labels.exports.selection import Selection, write_png

FIRST = 500
"""Data set of the channel c has the id FIRST + c; ids to 500 are often taken."""

FILES = """\
## Files

One nnU-Net v2 data set per finding, to be put into `nnUNet_raw`: `DatasetNNN_DoLL_<Finding>` with
`labelsTr/<film>.png` (0 background, 1 finding, 2 ignore), `dataset.json`, and
`imagesTr/<film>_0000.png` if the films were exported. Without them put your own there, 8-bit grey
PNG on the grid of the labels: nnU-Net does not start without. With the films comes
`splits_final.json`, one fold by the data set's own split: copy it to
`nnUNet_preprocessed/<data set>` so that no patient stands on both sides, and train fold 0."""


def write(chosen: Selection, out: Path) -> str:
    """Write a data set folder per finding; returns the card's section."""
    for finding in chosen.findings:
        cases = _cases(chosen, finding)
        if cases:
            folder = out / f"Dataset{FIRST + FINDINGS.index(finding):03d}_DoLL_{_camel(finding)}"
            _write_one(chosen, finding, cases, folder)
            if chosen.films is not None:
                check(folder)
    return FILES


def _camel(finding: str) -> str:
    return "".join(word.capitalize() for word in finding.split())


def _cases(chosen: Selection, finding: str) -> list[tuple[int, str, int | None]]:
    """Film row, name and pair of each case; pair None for one without the finding."""
    table = chosen.store.pairs
    pairs = chosen.store.of_finding(finding)
    out: list[tuple[int, str, int | None]] = [
        (int(table["row"].iloc[p]), chosen.names[table["image_id"].iloc[p]], int(p)) for p in pairs
    ]
    if out and chosen.negatives:
        if chosen.films is None:
            raise InputError("--negatives needs --films: the film store knows who has no finding")
        known = chosen.films.states[:, FINDINGS.index(finding)]
        have = {row for row, _, _ in out}
        for row, image_id, _ in chosen.images():
            if row not in have and known[row] in (NEGATIVE, NOT_MENTIONED):
                out.append((row, chosen.names[image_id], None))
    return out


def _write_one(
    chosen: Selection, finding: str, cases: list[tuple[int, str, int | None]], folder: Path
) -> None:
    size = chosen.store.size
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for row, name, pair in cases:
        label = np.zeros((size, size), np.uint8) if pair is None else chosen.store.label(pair)
        label[label == IGNORE] = 2
        write_png(label, folder / "labelsTr" / f"{name}.png")
        if chosen.films is not None:
            chosen.write_film(row, folder / "imagesTr" / f"{name}_0000.png")
    description: dict[str, Any] = {
        "channel_names": {"0": "radiograph"},
        "labels": {"background": 0, finding: 1, "ignore": 2},
        "numTraining": len(cases),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": f"DoLL {finding}",
        "licence": "the terms of the films' data set",
    }
    _json(folder / "dataset.json", description)
    if chosen.films is not None:
        split = chosen.films.films["split"].to_numpy()
        sides = {
            key: [name for row, name, _ in cases if split[row] == part]
            for key, part in (("train", "train"), ("val", "valid"))
        }
        if all(sides.values()):
            _json(folder / "splits_final.json", [sides])


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check(folder: Path) -> int:
    """Hold a data set folder against nnU-Net v2's rules for raw data.

    Returns:
        number of training cases.
    """

    def require(good: bool, what: str) -> None:
        if not good:
            raise InputError(f"{folder}: {what}: nnU-Net would refuse it; export it again")

    require(bool(re.fullmatch(r"Dataset\d{3}_\w+", folder.name)), "is not named DatasetNNN_Name")
    try:
        given = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder}/dataset.json: missing or no JSON: export it again") from None
    for key in ("channel_names", "labels", "numTraining", "file_ending"):
        require(key in given, f"dataset.json lacks {key!r}")
    ending, labels = given["file_ending"], dict(given["labels"])
    require(ending in (".png", ".bmp", ".tif"), f"file ending {ending!r} is none of its 2D formats")
    require(labels.get("background") == 0, "label 'background' is not 0")
    values = list(range(len(labels)))
    require(sorted(labels.values()) == values, "labels are not consecutive integers from 0")
    require(labels.get("ignore", values[-1]) == values[-1], "label 'ignore' is not the highest")
    channels = sorted(given["channel_names"])
    require(channels == [str(c) for c in range(len(channels))], "channels are not '0', '1', ...")
    images = {f.name for f in (folder / "imagesTr").glob(f"*{ending}")}
    cases = sorted({name.removesuffix(ending)[:-5] for name in images})
    wanted = {f"{case}_{int(c):04d}{ending}" for case in cases for c in channels}
    require(images == wanted, "imagesTr holds other files than <case>_0000.png for each channel")
    require(len(cases) == given["numTraining"], f"{len(cases)} cases, not {given['numTraining']}")
    for case in cases:
        path = folder / "labelsTr" / f"{case}{ending}"
        require(path.is_file(), f"labelsTr lacks {path.name}")
        with Image.open(path) as opened:
            label = np.asarray(opened)
        require(label.ndim == 2, f"{path.name} has colours")
        require(set(np.unique(label).tolist()) <= set(values), f"{path.name} holds other labels")
        for channel in channels:
            with Image.open(folder / "imagesTr" / f"{case}_{int(channel):04d}{ending}") as image:
                same = image.size == (label.shape[1], label.shape[0])
            require(same, f"{path.name} is not of its image's size")
    return len(cases)
