"""The label set in other ecosystems' formats: COCO, PNG masks, nnU-Net v2, parquet."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, index
from dollkit.data.drawn_masks import OURS
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.data.store_writer import writing
from dollkit.labels.store import LabelStore

FIRST = 500
"""nnU-Net data set of channel c has the id FIRST + c; ids to 500 are often taken."""
LICENCE = "the terms of the films' data set"
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Our name of a split -> the Hugging Face Hub's."""
README = """\
DoLL labels of chest radiographs
================================

Weak labels from explanations of classifiers, which no person drew or checked: to pre-train
networks, not for decisions about patients. They inherit the terms of the data set that the films
are from. {films}

Values: 0 background, 1 finding, 255 ignore (left out of any loss or score). A film without a label
of a finding may still show it.

{files}
"""


@dataclass(frozen=True)
class Selection:
    """Part of a label store.

    `pairs` are rows of its table, with their own numbers as index; `films` is the film store if
    film pixels are to go along; `names` has for each `image_id` one that every file system takes.
    """

    store: LabelStore
    pairs: pd.DataFrame
    films: Store | None
    names: dict[str, str]

    def rows(self) -> Iterator[tuple[int, pd.Series[Any], str]]:
        """Number in the store, row of the table, and file name of each label."""
        for pair, row in self.pairs.iterrows():
            yield int(str(pair)), row, self.names[row["image_id"]]

    def write_films(self, folder: Path, ending: str = ".png") -> None:
        """Films as grey PNG files, if films are to go along."""
        if self.films is not None:
            folder.mkdir(parents=True)
            for image_id, row in self.pairs.groupby("image_id", sort=False)["row"].first().items():
                name = self.names[str(image_id)]
                Image.fromarray(self.films.images[row]).save(folder / f"{name}{ending}")


def file_names(image_ids: Sequence[str]) -> dict[str, str]:
    """A file name without ending for each film: letters, digits, ``.``, ``_`` and ``-`` only."""
    names = {i: re.sub(r"[^A-Za-z0-9._-]", "_", i).lstrip(".-") or "_" for i in image_ids}
    taken: dict[str, str] = {}
    for image_id, name in names.items():  # some file systems do not tell letters by case
        other = taken.setdefault(name.lower(), image_id)
        if other != image_id:
            both = f"films {other!r} and {image_id!r}"
            raise InputError(f"{both} would both be written as {name!r}: rename one")
    return names


def write_coco(chosen: Selection, out: Path) -> str:
    """Write ``annotations.json`` and, with films, ``images/``; returns a text on the files.

    Pixels to ignore are of ``iscrowd`` 1, where COCO's own scoring counts a detection neither way.
    """
    chosen.write_films(out / "images")
    size = {"width": chosen.store.size, "height": chosen.store.size}
    numbers = {name: i for i, name in enumerate(chosen.pairs["image_id"].unique(), start=1)}
    head = {
        "info": {"description": "DoLL labels of chest radiographs", "version": "1"},
        "licenses": [{"id": 1, "name": LICENCE, "url": ""}],
        "categories": [
            {"id": i, "name": name, "supercategory": "finding"}
            for i, name in enumerate(FINDINGS, start=1)
        ],
        "images": [
            {"id": i, "file_name": f"{chosen.names[name]}.png", **size, "film": name}
            for name, i in numbers.items()
        ],
    }
    with (out / "annotations.json").open("w", encoding="utf-8") as file:
        # Piece by piece: the annotations of a large set are more than memory should hold.
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        number = 0
        for pair, row, _ in chosen.rows():
            label = chosen.store.label(pair)
            for value, crowd in ((1, 0), (IGNORE, 1)):
                if (label == value).any():
                    number += 1
                    runs = coco_mask.encode(np.asfortranarray(label == value, np.uint8))
                    counts = runs["counts"].decode("ascii")
                    annotation = {
                        "id": number, "image_id": numbers[row["image_id"]],
                        "category_id": 1 + index(row["finding"]),
                        "segmentation": {"size": [*label.shape], "counts": counts},
                        "area": int(coco_mask.area(runs)),
                        "bbox": [float(v) for v in coco_mask.toBbox(runs)],
                        "iscrowd": crowd, "label": pair,
                    }  # fmt: skip
                    comma = "," if number > 1 else ""
                    file.write(f"{comma}\n{json.dumps(annotation)}")
        file.write("]}\n")
    return "annotations.json: COCO instances; iscrowd 1 marks the pixels to ignore."


def write_png(chosen: Selection, out: Path) -> str:
    """Write ``masks/``, ``masks.csv`` and, with films, ``images/``; returns a text on the files."""
    chosen.write_films(out / "images")
    files = []
    meaning = PngImagePlugin.PngInfo()
    meaning.add_text("Comment", OURS)
    for pair, row, name in chosen.rows():
        files.append(f"masks/{row['finding'].lower().replace(' ', '_')}/{name}.png")
        (out / files[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chosen.store.label(pair)).save(out / files[-1], pnginfo=meaning)
    table = pd.concat([pd.Series(files, name="file"), chosen.pairs], axis=1)
    table.to_csv(out / "masks.csv", index=False, lineterminator="\n", na_rep="nan")
    return "masks/<finding>/<film>.png: 8-bit grey (1 looks black). masks.csv: what each one is."


def write_nnunet(chosen: Selection, out: Path) -> str:
    """Write an nnU-Net v2 data set per finding; returns a text on the files.

    Findings of one film overlap, and a pixel of an nnU-Net label file holds one integer. The name
    ``ignore`` and the highest value are what nnU-Net gives a partial loss to.
    """
    for finding, pairs in chosen.pairs.groupby("finding"):
        part = replace(chosen, pairs=pairs)
        number, camel = FIRST + index(str(finding)), str(finding).title().replace(" ", "")
        folder = out / f"Dataset{number}_DoLL_{camel}"
        (folder / "labelsTr").mkdir(parents=True)
        part.write_films(folder / "imagesTr", "_0000.png")
        for pair, _, name in part.rows():
            label = part.store.label(pair)
            label[label == IGNORE] = 2
            Image.fromarray(label).save(folder / "labelsTr" / f"{name}.png")
        description = {
            "channel_names": {"0": "radiograph"},
            "labels": {"background": 0, finding: 1, "ignore": 2},
            "numTraining": len(pairs),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
            "name": f"DoLL {finding}",
            "licence": LICENCE,
        }
        _write_json(folder / "dataset.json", description)
        if chosen.films is not None:
            split = chosen.films.films["split"].to_numpy()
            sides = {
                side: [name for _, row, name in part.rows() if split[row["row"]] == ours]
                for side, ours in (("train", "train"), ("val", "valid"))
            }
            if all(sides.values()):
                _write_json(folder / "splits_final.json", [sides])
    return """\
One nnU-Net v2 data set per finding, for nnUNet_raw; here 2 is ignore. Without films, put your own
into imagesTr/<film>_0000.png. Copy splits_final.json to nnUNet_preprocessed/<data set>, so that no
patient is on both sides, and train fold 0."""


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_parquet(chosen: Selection, out: Path) -> str:
    """Write ``data/<split>.parquet`` by the package `datasets`; returns a text on the files."""
    try:
        import datasets
    except ImportError:
        raise InputError("parquet needs the package datasets: pip install datasets") from None
    kinds = chosen.pairs.dtypes.astype(str).replace({"object": "string", "str": "string"})
    features = {str(name): datasets.Value(kind) for name, kind in kinds.items()}
    features["mask"] = datasets.Image()
    split = pd.Series("train", chosen.pairs.index)
    if chosen.films is not None:
        features["image"] = datasets.Image()
        split[:] = chosen.films.films["split"].to_numpy()[chosen.pairs["row"]]

    def examples(pairs: pd.DataFrame) -> Iterator[dict[str, Any]]:
        for pair, row in pairs.iterrows():
            example = {**row, "mask": Image.fromarray(chosen.store.label(int(str(pair))))}
            if chosen.films is not None:
                example["image"] = Image.fromarray(chosen.films.images[row["row"]])
            yield example

    (out / "data").mkdir()
    for ours, theirs in SPLITS.items():
        if (split == ours).any():
            table = datasets.Dataset.from_generator(
                examples, datasets.Features(features), cache_dir=str(out / "cache"),
                gen_kwargs={"pairs": chosen.pairs[split == ours]},
            )  # fmt: skip
            table.to_parquet(out / "data" / f"{theirs}.parquet")
            del table
    shutil.rmtree(out / "cache")
    return "data/<split>.parquet: a label a row; without films all is train."


FORMATS: dict[str, Callable[[Selection, Path], str]] = {
    "coco": write_coco, "png": write_png, "nnunet": write_nnunet, "parquet": write_parquet,
}  # fmt: skip


def export(store: LabelStore, out: Path, to: str, films: Store | None = None) -> Path:
    """Write a label store in one of `FORMATS`, whole or not at all, to a new or empty folder.

    With the film store `films` film pixels are written too; most data sets may not be passed on.
    """
    if to not in FORMATS:
        raise InputError(f"format {to!r}: use one of {', '.join(FORMATS)}")
    if films is not None:
        store.check_films(films)
    names = file_names(store.pairs["image_id"].unique().tolist())
    chosen = Selection(store, store.pairs, films, names)
    out = out.resolve()
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: not an empty folder: choose a new one")
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)  # of an export that was stopped
        part.mkdir(parents=True)
        files = FORMATS[to](chosen, part)
        pixels = "They hold no film pixels." if films is None else "FILM PIXELS ARE IN HERE."
        text = README.format(films=pixels, files=files)
        (part / "README.md").write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        part.replace(out)
    return out
