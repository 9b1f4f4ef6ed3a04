"""Parquet as the Hugging Face Hub has it: a row per label, the mask as a PNG image.

``datasets.load_dataset("parquet", ...)`` decodes the masks, as the schema says what they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NEGATIVE, NOT_MENTIONED
from dollkit.data.images import IGNORE
from dollkit.labels.export_formats import Selection, write_png

GROUP = 256
"""Rows per row group: what a reader decodes at once."""

FILE = 50_000
"""Rows per file; about 100 MB of masks."""

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Our name of a split -> the Hub's."""

PARQUET_FILES = """\
## Files

`data/<split>-*.parquet`, a row per label: `mask` (PNG; 0 background, 1 finding, 255 ignore),
`image` (the film, if films were exported: once per label) and the columns of the label store's
table. Films' own splits are known only if films were exported; else all is `train`."""


def write_parquet(chosen: Selection, out: Path) -> str:
    """Write ``data/``; returns the card's section."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("parquet needs the package pyarrow: pip install pyarrow") from None
    (out / "data").mkdir()
    schema = _schema(chosen, pa)
    for split, pairs in splits(chosen).items():
        files = -(-len(pairs) // FILE)
        for number in range(files):
            part = pairs[number * FILE : (number + 1) * FILE]
            name = f"{split}-{number:05d}-of-{files:05d}.parquet"
            with pq.ParquetWriter(out / "data" / name, schema) as writer:
                for start in range(0, len(part), GROUP):
                    rows = list(_rows(chosen, part[start : start + GROUP]))
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return PARQUET_FILES


def splits(chosen: Selection) -> dict[str, npt.NDArray[np.int64]]:
    """Pairs of each split that has any."""
    pairs = chosen.pairs
    if chosen.films is None:
        return {"train": pairs}
    rows = chosen.store.pairs["row"].to_numpy()[pairs]
    split = chosen.films.films["split"].to_numpy()[rows]
    return {
        theirs: pairs[split == ours] for ours, theirs in SPLITS.items() if (split == ours).any()
    }


def _schema(chosen: Selection, pa: Any) -> Any:
    """Schema, with the features as `datasets` keeps them."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("image_id", pa.string()), ("finding", pa.string()), ("mask", image)]
    if chosen.films is not None:
        fields.append(("image", image))
    for column, values in chosen.store.pairs.items():
        if column not in ("image_id", "finding"):
            fields.append((str(column), pa.int64() if _whole(values) else pa.float64()))
    kinds = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64"}
    features = {
        name: {"_type": "Image"} if kind == image else {"dtype": kinds[kind], "_type": "Value"}
        for name, kind in fields
    }
    note = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": note})


def _whole(values: pd.Series[Any]) -> bool:
    return bool(np.issubdtype(values.to_numpy().dtype, np.integer) or values.dtype == bool)


def _rows(chosen: Selection, pairs: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    table = chosen.store.pairs
    whole = {str(c): _whole(v) for c, v in table.items()}
    for pair in pairs:
        row = table.iloc[pair]
        name = f"{chosen.names[row['image_id']]}.png"
        out: dict[str, Any] = {"image_id": row["image_id"], "finding": row["finding"]}
        out["mask"] = {"bytes": _png(chosen.store.label(int(pair))), "path": name}
        if chosen.films is not None:
            out["image"] = {"bytes": _png(chosen.films.images[int(row["row"])]), "path": name}
        for column, is_whole in whole.items():
            if column not in out:
                out[column] = int(row[column]) if is_whole else float(row[column])
        yield out


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    write_png(pixels, stream)
    return stream.getvalue()


# nnU-Net v2's raw folder: a data set per finding.
#
# Findings of one film overlap, and a pixel of an nnU-Net label file holds one integer; its regions
# nest labels but cannot hold any overlap of 14. So each finding is a data set of its own, with 0
# background, 1 finding, 2 ``ignore``: the name and the highest value that nnU-Net gives a partial
# loss to (its documentation of the data set format and of the ignore label).


FIRST = 500
"""Data set of the channel c has the id FIRST + c; ids to 500 are often taken."""

NNUNET_FILES = """\
## Files

One nnU-Net v2 data set per finding, to be put into `nnUNet_raw`: `DatasetNNN_DoLL_<Finding>` with
`labelsTr/<film>.png` (0 background, 1 finding, 2 ignore), `dataset.json`, and
`imagesTr/<film>_0000.png` if the films were exported. Without them put your own there, 8-bit grey
PNG on the grid of the labels: nnU-Net does not start without. With the films comes
`splits_final.json`, one fold by the data set's own split: copy it to
`nnUNet_preprocessed/<data set>` so that no patient stands on both sides, and train fold 0."""


def write_nnunet(chosen: Selection, out: Path) -> str:
    """Write a data set folder per finding; returns the card's section."""
    for finding in chosen.findings:
        cases = _cases(chosen, finding)
        if cases:
            folder = out / f"Dataset{FIRST + FINDINGS.index(finding):03d}_DoLL_{_camel(finding)}"
            _write_one(chosen, finding, cases, folder)
    return NNUNET_FILES


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
