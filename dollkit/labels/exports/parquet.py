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

from dollkit.errors import InputError
from dollkit.labels.exports.selection import Selection, write_png

GROUP = 256
"""Rows per row group: what a reader decodes at once."""

FILE = 50_000
"""Rows per file; about 100 MB of masks."""

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Our name of a split -> the Hub's."""

FILES = """\
## Files

`data/<split>-*.parquet`, a row per label: `mask` (PNG; 0 background, 1 finding, 255 ignore),
`image` (the film, if films were exported: once per label) and the columns of the label store's
table. Films' own splits are known only if films were exported; else all is `train`."""


def write(chosen: Selection, out: Path) -> str:
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
    return FILES


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
