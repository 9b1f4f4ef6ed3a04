"""The label set on disk: two bit planes per (film, positive finding), and what made them.

A film's 14-channel target is put together on reading: its labelled findings from the planes,
uncertain findings all ignore, everything else background. So a negative film costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit import npz
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, UNCERTAIN
from dollkit.losses import IGNORE

PAIR_COLUMNS = ["row", "image_id", "finding", "threshold", "error", "probability"]


@dataclass
class LabelStore:
    """Labels of some films of one film store.

    Attributes:
        path: its folder.
        pairs: one row per (film, finding): `row` of the film store, `image_id`, `finding`,
            `threshold`, completeness `error` and mean `probability` over classifiers.
        planes: (pairs, 2, S, S / 8) uint8, packed bits: finding, ignore.
        meta: size, settings, classifiers and their weights' hashes, digest of the film store.
    """

    path: Path
    pairs: pd.DataFrame
    planes: npt.NDArray[np.uint8]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        self._first: dict[int, list[int]] = {}
        for i, row in enumerate(self.pairs["row"]):
            self._first.setdefault(int(row), []).append(i)
        self._channel = np.array([FINDINGS.index(f) for f in self.pairs["finding"]], int)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Labelled rows of the film store, ascending."""
        return np.array(sorted(self._first), np.int64)

    def label(self, pair: int) -> npt.NDArray[np.uint8]:
        """One label: (S, S) uint8 in {0, 1, 255}."""
        one, ignored = np.unpackbits(self.planes[pair], axis=-1)
        return np.where(ignored > 0, IGNORE, one).astype(np.uint8)

    def targets(
        self, rows: npt.NDArray[np.int64], states: npt.NDArray[np.int8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """14-channel targets: (n, 14, S, S) uint8 in {0, 1, 255}.

        Args:
            rows: rows of the film store; a film without label is all background.
            states: (n, 14) label states of these films; uncertain channels become ignore.
        """
        s = int(self.meta["size"])
        out = np.zeros((len(rows), len(FINDINGS), s, s), np.uint8)
        if states is not None:
            out[states == UNCERTAIN] = IGNORE
        for i, row in enumerate(rows):
            for pair in self._first.get(int(row), []):
                out[i, self._channel[pair]] = self.label(pair)
        return out


def write_shard(
    path: Path, pairs: pd.DataFrame, labels: npt.NDArray[np.uint8], key: str = ""
) -> None:
    """Write one shard in one move: a killed run leaves it whole or not at all.

    Args:
        pairs: rows with `PAIR_COLUMNS`.
        labels: (len(pairs), S, S) uint8 in {0, 1, 255}.
        key: fingerprint of what made it, compared on resume.
    """
    planes = np.packbits(np.stack([labels == 1, labels == IGNORE], axis=1), axis=-1)
    part = path.with_suffix(".part.npz")
    columns: dict[str, Any] = {
        c: pairs[c].to_numpy().astype("U") if c in {"image_id", "finding"} else pairs[c].to_numpy()
        for c in PAIR_COLUMNS
    }
    np.savez(part, planes=planes, key=np.array(key), **columns)
    part.replace(path)


def shard_key(path: Path) -> str | None:
    """Fingerprint of a finished shard, None if there is none or it cannot be read."""
    try:
        return str(npz.read(path)["key"])
    except (OSError, ValueError, KeyError):
        return None


def merge(shards: list[Path], out: Path, meta: Mapping[str, Any]) -> LabelStore:
    """Join shards into one store; `labels.json` is written last.

    Raises:
        InputError: a shard is missing or unreadable.
    """
    out.mkdir(parents=True, exist_ok=True)
    planes, tables = [], []
    for path in shards:
        try:
            z = npz.read(path)
            planes.append(z["planes"])
            tables.append(pd.DataFrame({c: z[c] for c in PAIR_COLUMNS}))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not a readable label shard ({error}); delete it") from error
    pairs = pd.concat(tables, ignore_index=True)
    joined = np.concatenate(planes)
    np.save(out / "planes.npy", joined)
    pairs.to_csv(out / "pairs.csv", index=False)
    digest = hashlib.sha256(joined.tobytes()).hexdigest()
    text = json.dumps({**meta, "n": len(pairs), "sha256": digest}, indent=1, sort_keys=True)
    (out / "labels.json.part").write_text(text + "\n")
    (out / "labels.json.part").replace(out / "labels.json")
    return LabelStore(out, pairs, joined, json.loads(text))


def open(path: Path | str) -> LabelStore:
    """Open a label store.

    Raises:
        InputError: not a label store, or its files do not belong together.
    """
    path = Path(path)
    try:
        meta = json.loads((path / "labels.json").read_text())
        pairs = pd.read_csv(path / "pairs.csv")
        planes = np.load(path / "planes.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a label store ({error})") from error
    if len(pairs) != len(planes) or len(pairs) != meta["n"]:
        raise InputError(
            f"{path}: pairs.csv has {len(pairs)} rows, planes.npy {len(planes)}, labels.json says "
            f"{meta['n']}; make the labels again"
        )
    return LabelStore(path, pairs, planes, meta)
