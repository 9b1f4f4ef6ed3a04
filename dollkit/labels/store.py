"""The label set on disk: one packed label per (film, positive finding), and what made them.

A label store is a folder::

    planes.npy    uint8 (bytes,)   the labels, each packed by `encode`
    ends.npy      int64 (n,)       where in planes.npy each ends
    pairs.csv     n rows           film, finding, threshold, error, probabilities, areas
    labels.json   S, n, what made the labels, the sha256 of each file above

``labels.json`` is written last: a folder without it is not a label store. It is joined by `merge`
from shards, which hold the same of a few films in one file each, and come from any processes.

A film's 14-channel target is put together on reading, so a negative film costs nothing. At 224 px
a label takes about 1 kB: the 460,000 of CheXpert's frontal films half a gigabyte.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import findings
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.common.machine import sha256
from dollkit.data.images import IGNORE
from dollkit.data.store import Store, read
from dollkit.data.store_writer import NpyRows, unwritable

PAIR_COLUMNS = ["row", "image_id", "finding", "threshold", "error", "probability"]
"""Columns that every pair has; others may follow."""
TEXT = {"image_id": str, "finding": str}
FILES = ("planes.npy", "ends.npy", "pairs.csv")
LEVEL = 6
"""zlib's level; 9 takes ten times as long for 5 % less."""
AGAIN = "make the labels again"

U8 = npt.NDArray[np.uint8]


class LabelStore:
    """Labels of some films of one film store, which stay on disk; see `open_labels`.

    `pairs` has one row per (film, finding): `PAIR_COLUMNS` (`row` of the film store, `threshold` of
    the map, completeness `error` of the worst classifier, mean `probability` over classifiers),
    `area` and `ignored` (shares of pixels), then what else was noted. `meta` has size, settings,
    hashes of the classifiers' weights, digest of the film store.
    """

    def __init__(self, path: Path, pairs: pd.DataFrame, meta: dict[str, Any]) -> None:
        self.path, self.pairs, self.meta = path, pairs, meta
        self.size = int(meta["size"])
        self._planes = _map(path / "planes.npy", np.uint8)
        self._bounds = np.concatenate([[0], _map(path / "ends.npy", np.int64)])
        self._pairs = pairs.groupby("row").indices
        self._channel = [findings.index(f) for f in pairs["finding"]]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Labelled rows of the film store, ascending."""
        return np.unique(self.pairs["row"].to_numpy(np.int64))

    def label(self, pair: int) -> U8:
        """One label: (S, S) uint8 in {0, 1, 255}, by its row in `pairs`."""
        if not 0 <= pair < len(self):
            raise IndexError(f"pair {pair} of {len(self)}")
        start, stop = self._bounds[pair : pair + 2]
        try:
            return decode(self._planes[start:stop].tobytes(), self.size)
        except ValueError as error:
            raise _broken(self.path / "planes.npy", f"label {pair}: {error}") from None

    def targets(
        self, rows: npt.NDArray[np.int64], states: npt.NDArray[np.int8] | None = None
    ) -> U8:
        """14-channel targets: (n, 14, S, S) uint8 in {0, 1, 255}; without label all is background.

        With the (n, 14) label `states` of these films, uncertain channels become ignore.
        """
        out = np.zeros((len(rows), len(FINDINGS), self.size, self.size), np.uint8)
        if states is not None:
            out[states == UNCERTAIN] = IGNORE
        for i, row in enumerate(rows):
            for pair in self._pairs.get(row, ()):
                out[i, self._channel[pair]] = self.label(int(pair))
        return out

    def check_films(self, films: Store) -> None:
        """Raise `InputError` unless these are the films that the labels were made of."""
        digest = self.meta.get("films", "unknown")
        if digest != films.digest:
            raise InputError(
                f"{self.path}: made of other films (digest {digest[:12]}) than those in "
                f"{films.path} ({films.digest[:12]}): use the film store that they were made of"
            )


def open_labels(path: Path | str, verify: bool = False) -> LabelStore:
    """Open a label store; the table is always hashed, with `verify` the planes too."""
    path = Path(path)
    description = path / "labels.json"
    if not description.is_file():
        raise InputError(f"{path}: not a label store (labels.json is missing): make labels first")
    try:
        meta = json.loads(description.read_text(encoding="utf-8"))
        for name in FILES:
            known = meta["sha256"][name]
            if (verify or name != "planes.npy") and sha256(path / name) != known:
                raise _broken(path / name, "does not match its sha256 in labels.json")
        return LabelStore(path, _read_pairs(path / "pairs.csv"), meta)
    except OSError as error:
        raise _broken(Path(error.filename or path), "is missing or cannot be read") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise _broken(description, "is of an older version or not a label store's") from None


def _read_pairs(file: Path) -> pd.DataFrame:
    """The table of pairs; a film named NA or 007 stays what it is."""
    return pd.read_csv(file, dtype=TEXT, keep_default_na=False, na_values=[""])


def _map(path: Path, dtype: npt.DTypeLike) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise _broken(path, "is cut off or not a .npy file") from None
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise _broken(path, f"is {array.dtype} {array.shape}, not what labels.json describes")
    return array


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}: {AGAIN}")


def write_shard(path: Path, pairs: pd.DataFrame, labels: U8, key: str = "") -> None:
    """Write one shard in one move: a killed run leaves it whole or not at all.

    `pairs` have `PAIR_COLUMNS` and any further columns of numbers; `area` and `ignored`, the shares
    of pixels that are finding and ignored, are added. `key` of what made it is compared on resume.
    """
    table = pairs[PAIR_COLUMNS].copy()
    table["area"] = (labels == 1).mean((1, 2), dtype=np.float32)
    table["ignored"] = (labels == IGNORE).mean((1, 2), dtype=np.float32)
    table = table.join(pairs.drop(columns=PAIR_COLUMNS))
    text = table.to_csv(index=False, lineterminator="\n").encode()
    records = [encode(label) for label in labels]
    # A name of its own: two processes at the same shard must not write into one file.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    try:
        np.savez(
            part, key=np.array(key), size=np.array(labels.shape[-1]),
            planes=np.frombuffer(b"".join(records), np.uint8),
            ends=np.cumsum([len(r) for r in records]), pairs=np.frombuffer(text, np.uint8),
        )  # fmt: skip
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from None


def shard_key(path: Path) -> str | None:
    """Key of a finished shard, None if there is none or it cannot be read."""
    try:
        return str(read(path)["key"])
    except (OSError, ValueError, KeyError):
        return None


def merge(shards: Mapping[Path, str], out: Path, meta: Mapping[str, Any]) -> LabelStore:
    """Join shards, given with their keys, into one store, one shard in memory at a time.

    The same shards and `meta` give the same bytes. `labels.json` is written last; an older store in
    `out` stays whole until the new one is.
    """
    parts = {name: out / f"{name}.part" for name in (*FILES, "labels.json")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        size = _join(shards, parts)
        pairs = _read_pairs(parts["pairs.csv"])
        twice = pairs[pairs.duplicated(["image_id", "finding"])]
        if len(twice):
            film, finding = twice.iloc[0][["image_id", "finding"]]
            raise InputError(f"{out}: film {film!r} has two labels of {finding!r}: merge it once")
        hashes = {name: sha256(parts[name]) for name in FILES}
        content = {**meta, "size": size, "n": len(pairs), "sha256": hashes}
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        parts["labels.json"].write_text(text, encoding="utf-8")
        # From here on there is no store, until all of the new one is in place.
        (out / "labels.json").unlink(missing_ok=True)
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        with contextlib.suppress(OSError):
            for part in parts.values():
                part.unlink(missing_ok=True)
    for path in shards:  # what killed writers of these shards left
        for left in path.parent.glob(f"{path.stem}.*.part.npz"):
            left.unlink(missing_ok=True)
    return open_labels(out)


def _join(shards: Mapping[Path, str], parts: Mapping[str, Path]) -> int:
    """Write planes, ends and pairs of all shards; returns the side of their labels."""
    kinds, ends = set(), [np.zeros(0, np.int64)]
    total = 0
    planes = NpyRows(parts["planes.npy"], np.uint8, (), keep=False)
    with planes.file, parts["pairs.csv"].open("wb") as table:
        for path, key in shards.items():
            try:
                shard = read(path)
                size = int(shard["size"])
                header, _, rows = shard["pairs"].tobytes().partition(b"\n")
                ends.append(shard["ends"] + total)
                if str(shard["key"]) != key:
                    raise ValueError("another process has written it since")
            except (OSError, ValueError, KeyError) as error:
                raise InputError(f"{path}: not a readable label shard ({error}): {AGAIN}") from None
            kinds.add((size, header))
            if len(kinds) > 1:
                raise InputError(f"{path}: other size or columns than those before: {AGAIN}")
            table.write(rows if total else shard["pairs"].data)
            planes.write(total, shard["planes"])
            total += len(shard["planes"])
        planes.close(total)
    with parts["ends.npy"].open("wb") as file:
        np.save(file, np.concatenate(ends))
    return size


def encode(label: U8) -> bytes:
    """A label (S, S) uint8 in {0, 1, 255} as bytes; other values are a `ValueError`.

    Two deflated bit planes: *finding*, and *not background* (finding or ignore). The ring of
    ignored pixels around a finding then costs one outline and not two, a quarter less.
    """
    one, known = label == 1, label != 0
    if (known & ~one & (label != IGNORE)).any():
        raise ValueError("label values are 0, 1 and 255")
    planes = np.packbits(np.stack([one, known]).reshape(2, -1), axis=-1)
    return zlib.compress(planes.tobytes(), LEVEL)


def decode(record: bytes, size: int) -> U8:
    """The label that `encode` was given: (size, size); damaged bytes are a `ValueError`."""
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
