"""Shards: labels of a few films in one file each, and how they are joined.

Any number of processes may write shards of one set, each its own; `merge_into` joins them.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import findings
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data import store
from dollkit.data.images import IGNORE
from dollkit.data.store_writer import NpyRows, unwritable

PAIR_COLUMNS = ["row", "image_id", "finding", "threshold", "error", "probability"]
"""Columns that every pair has; others may follow."""

TEXT = ("image_id", "finding")
REDO = "delete it and make it again"
U8 = npt.NDArray[np.uint8]


def by_classifier(names: Iterable[str], **values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Columns of values that each classifier gave: ``error=(K, n)`` -> ``error:NAME`` -> (n,)."""
    listed = list(names)
    return {
        f"{value}:{name}": part
        for value, parts in values.items()
        for name, part in zip(listed, parts, strict=True)
    }


def write_shard(
    path: Path,
    pairs: pd.DataFrame,
    labels: U8,
    key: str = "",
    maps: npt.NDArray[Any] | None = None,
) -> None:
    """Write one shard in one move: a killed run leaves it whole or not at all.

    Args:
        pairs: rows with `PAIR_COLUMNS`, and any further columns of numbers; `area` and `ignored`,
            the shares of pixels that are finding and ignored, are added.
        labels: (len(pairs), S, S) uint8 in {0, 1, 255}.
        key: fingerprint of what made it, compared on resume.
        maps: (len(pairs), S, S) in [0, 1], kept as float16; None: not kept.

    Raises:
        ValueError: shapes or values that are not those above.
    """
    if len(labels) != len(pairs) or not len(pairs) or labels.ndim != 3:
        raise ValueError(f"{len(pairs)} pairs with labels of shape {labels.shape}")
    if maps is not None and maps.shape != labels.shape:
        raise ValueError(f"maps of shape {maps.shape} with labels of shape {labels.shape}")
    for finding in pairs["finding"].unique():
        findings.index(finding)
    twice = pairs.duplicated(["image_id", "finding"])
    if twice.any():
        _, image_id, finding, *_ = pairs.loc[twice, PAIR_COLUMNS].iloc[0]
        raise InputError(f"{path}: film {image_id!r} has two labels of {finding!r}: keep one")
    table = pairs[PAIR_COLUMNS].copy()
    table["area"] = (labels == 1).mean((1, 2), dtype=np.float32)
    table["ignored"] = (labels == IGNORE).mean((1, 2), dtype=np.float32)
    for column in pairs.columns.difference(table.columns, sort=False):
        table[column] = pairs[column]
    records = [encode(label) for label in labels]
    content: dict[str, Any] = {
        "key": np.array(key),
        "size": np.array(labels.shape[-1]),
        "planes": np.frombuffer(b"".join(records), np.uint8),
        "ends": np.cumsum([len(r) for r in records]),
        "columns": np.array(list(table.columns)),
    }
    for number, column in enumerate(table.columns):
        values = table[column].to_numpy()
        content[f"column{number}"] = values.astype("U") if column in TEXT else values
    if maps is not None:
        content["maps"] = maps.astype(np.float16)
    # A name of its own: two processes at the same shard must not write into one file.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    try:
        np.savez(part, **content)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from None


def shard_key(path: Path) -> str | None:
    """Fingerprint of a finished shard, None if there is none or it cannot be read."""
    try:
        return str(store.read(path)["key"])
    except (OSError, ValueError, KeyError):
        return None


class _Shard:
    """One shard in memory."""

    def __init__(self, path: Path) -> None:
        try:
            content = store.read(path)
            self.size = int(content["size"])
            self.planes: U8 = content["planes"]
            self.ends: npt.NDArray[np.int64] = content["ends"]
            names = content["columns"].tolist()
            self.pairs = pd.DataFrame({c: content[f"column{i}"] for i, c in enumerate(names)})
            self.maps = content.get("maps")
        except (OSError, ValueError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise InputError(f"{path}: not a readable label shard ({reason}): {REDO}") from None
        self.path = path

    @property
    def kind(self) -> dict[str, Any]:
        """What all shards of a store have in common."""
        return {
            "size": self.size,
            "columns": list(self.pairs.columns),
            "maps": self.maps is not None,
        }


class _Films:
    """Films seen so far, to tell one that comes in a second shard."""

    def __init__(self) -> None:
        self._seen: dict[object, Path] = {}

    def add(self, shard: _Shard) -> None:
        """Take a shard's films in; `InputError` if one was there before."""
        films = shard.pairs[["image_id", "row"]].drop_duplicates()
        for what, column, kind in (("film", "image_id", str), ("row", "row", int)):
            if films[column].duplicated().any():
                raise InputError(f"{shard.path}: one film under two rows or two under one: {REDO}")
            for value in map(kind, films[column]):
                other = self._seen.setdefault(value, shard.path)
                if other is not shard.path:
                    raise InputError(
                        f"{shard.path}: {what} {value!r} is in {other.name} too: merge the shards "
                        "of one film store, each once"
                    )


def merge_into(shards: list[Path], out: Path, meta: Mapping[str, Any]) -> None:
    """Join shards into the files of a store; see `dollkit.labels.store.merge`."""
    if not shards:
        raise InputError(f"{out}: no shard to merge: make labels first")
    arrays: dict[str, NpyRows] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(shards, out, dict(meta), arrays)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        for array in arrays.values():
            array.file.close()
        for name in ("planes.npy", "ends.npy", "maps.npy", "pairs.csv", "labels.json"):
            with contextlib.suppress(OSError):
                (out / f"{name}.part").unlink(missing_ok=True)


def _write(shards: list[Path], out: Path, meta: dict[str, Any], arrays: dict[str, NpyRows]) -> None:
    kind: dict[str, Any] = {}
    films = _Films()
    n = planes = 0
    table = (out / "pairs.csv.part").open("w", encoding="utf-8", newline="")
    with table:
        for path in shards:
            shard = _Shard(path)
            if not kind:
                kind = shard.kind
                if kind["size"] != meta.get("size", kind["size"]):
                    raise InputError(
                        f"{path}: labels of {shard.size} px, {meta['size']} px are wanted: "
                        "make the labels again"
                    )
                arrays["planes.npy"] = NpyRows(out / "planes.npy", np.uint8, ())
                arrays["ends.npy"] = NpyRows(out / "ends.npy", np.int64, ())
                if shard.maps is not None:
                    side = (shard.size, shard.size)
                    arrays["maps.npy"] = NpyRows(out / "maps.npy", np.float16, side)
            for what, value in shard.kind.items():
                if value != kind[what]:
                    raise InputError(f"{path}: other {what} than {shards[0].name}: {REDO}")
            films.add(shard)
            shard.pairs.to_csv(table, index=False, header=not n, lineterminator="\n")
            arrays["planes.npy"].write(planes, shard.planes)
            arrays["ends.npy"].write(n, shard.ends + planes)
            if shard.maps is not None:
                arrays["maps.npy"].write(n, shard.maps)
            planes += len(shard.planes)
            n += len(shard.pairs)
    for name, array in arrays.items():
        array.close(planes if name == "planes.npy" else n)
    names = [*arrays, "pairs.csv"]
    text = {
        **meta,
        "size": kind["size"],
        "n": n,
        "sha256": {name: sha256(out / f"{name}.part") for name in sorted(names)},
    }
    written = json.dumps(text, indent=1, sort_keys=True) + "\n"
    (out / "labels.json.part").write_text(written, encoding="utf-8")
    # From here on there is no store, until all of the new one is in place.
    for name in ("labels.json", "maps.npy"):
        (out / name).unlink(missing_ok=True)
    for name in (*names, "labels.json"):
        (out / f"{name}.part").replace(out / name)
    for path in shards:  # what killed writers of these shards left
        for part in path.parent.glob(f"{path.stem}.*.part.npz"):
            part.unlink(missing_ok=True)


# One label as a few bytes: two bit planes, deflated.
#
# The planes are *finding* and *not background* (finding or ignore), S * S bits each. The ring of
# ignored pixels around a finding then costs one outline and not two: at 224 px and the default
# smoothing 0.9 to 1.2 kB a label, a quarter less than with a plane of the ignored pixels. zlib
# comes
# with Python; zstd decodes two to three times as fast, but loading a batch is not what training
# waits for.


LEVEL = 6
"""zlib's level; 9 takes ten times as long for 5 % less."""


def encode(label: U8) -> bytes:
    """A label (S, S) uint8 in {0, 1, 255} as bytes; other values are a `ValueError`."""
    one, known = label == 1, label != 0
    if (known & ~one & (label != IGNORE)).any():
        raise ValueError("label values are 0, 1 and 255")
    planes = np.packbits(np.stack([one, known]).reshape(2, -1), axis=-1)
    return zlib.compress(planes.tobytes(), LEVEL)


def decode(record: bytes, size: int) -> U8:
    """The label that `encode` was given: (size, size) uint8 in {0, 1, 255}.

    Raises:
        ValueError: these bytes are damaged, or of a label of another size.
    """
    try:
        planes = np.frombuffer(zlib.decompress(record), np.uint8)
    except zlib.error as error:
        raise ValueError(f"damaged bytes ({error})") from None
    if len(planes) != 2 * (-(-size * size // 8)):
        raise ValueError(f"not a label of {size} x {size} pixels")
    one, known = np.unpackbits(planes.reshape(2, -1), axis=-1, count=size * size)
    # 0 - 0, 1 - 0, and 0 - 1, which wraps to 255.
    label: U8 = (one - (known ^ one)).reshape(size, size)
    return label
