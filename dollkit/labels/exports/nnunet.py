"""nnU-Net v2's raw folder: a data set per finding.

Findings of one film overlap, and a pixel of an nnU-Net label file holds one integer; its regions
nest labels but cannot hold any overlap of 14. So each finding is a data set of its own, with 0
background, 1 finding, 2 ``ignore``: the name and the highest value that nnU-Net gives a partial
loss to (its documentation of the data set format and of the ignore label).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
