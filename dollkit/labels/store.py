"""The label set on disk: one packed label per (film, positive finding), and what made them.

A label store is a folder::

    planes.npy    uint8 (bytes,)       the labels, each packed as in `dollkit.labels.shards`
    ends.npy      int64 (n,)           where in planes.npy each ends
    pairs.csv     n rows               film, finding, threshold, error, probabilities, areas
    maps.npy      float16 (n, S, S)    the maps that were cut, only if asked for
    labels.json   S, n, what made the labels, the sha256 of each file above

``labels.json`` is written last: a folder without it is not a label store. A film's 14-channel
target is put together on reading: its labelled findings from the planes, uncertain findings all
ignore, everything else background. So a negative film costs nothing. At 224 px a label takes
about 1 kB: the 460,000 of CheXpert's frontal films half a gigabyte.
"""

from __future__ import annotations

import csv
import functools
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import findings
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.common.machine import sha256
from dollkit.data.images import IGNORE
from dollkit.labels.shards import PAIR_COLUMNS, TEXT, by_classifier, decode, merge_into, shard_key
from dollkit.labels.shards import write_shard as write_shard

if TYPE_CHECKING:
    from dollkit.data.store import Store

__all__ = [
    "PAIR_COLUMNS",
    "LabelStore",
    "by_classifier",
    "merge",
    "open",
    "shard_key",
    "write_shard",
]

U8 = npt.NDArray[np.uint8]
AGAIN = "make the labels again"


class LabelStore:
    """Labels of some films of one film store; see `open`.

    Labels stay on disk, and memory does not grow with reading. Pickles as its path.

    Attributes:
        path: its folder.
        pairs: one row per (film, finding): `row` of the film store, `image_id`, `finding`,
            `threshold` (of the map), completeness `error` (the worst classifier's) and mean
            `probability` over classifiers, `area` and `ignored` (shares of pixels); then what
            else was noted, such as ``error:NAME`` and ``probability:NAME`` per classifier.
        maps: (n, S, S) float16 in [0, 1], mapped; None if they were not kept.
        meta: size, settings, classifiers and their weights' hashes, digest of the film store.
    """

    def __init__(self, path: Path, pairs: pd.DataFrame, meta: dict[str, Any]) -> None:
        self.path, self.pairs, self.meta = path, pairs, meta
        self.size = int(meta["size"])
        n = len(pairs)
        self._planes = _map(path / "planes.npy", np.uint8)
        ends = np.array(_map(path / "ends.npy", np.int64))
        self._bounds = np.concatenate([[0], ends])
        if ends.shape != (n,) or (np.diff(self._bounds) <= 0).any():
            raise _broken(path / "ends.npy", f"does not end the {n} labels of pairs.csv")
        if len(self._planes) != self._bounds[-1]:
            ended = f"{self._bounds[-1]} by ends.npy"
            raise _broken(path / "planes.npy", f"has {len(self._planes)} bytes, {ended}")
        self.maps: npt.NDArray[np.float16] | None = None
        if "maps.npy" in meta["sha256"]:
            self.maps = _map(path / "maps.npy", np.float16, (n, self.size, self.size))
        row = pairs["row"].to_numpy(np.int64)
        self._order = np.argsort(row, kind="stable")
        self._sorted = row[self._order]
        self._channel = np.array([findings.index(f) for f in pairs["finding"]], np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path,)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Labelled rows of the film store, ascending."""
        return np.unique(self._sorted)

    @property
    def classifiers(self) -> list[str]:
        """Names of the classifiers that were explained."""
        return sorted(self.meta.get("classifiers", {}))

    def label(self, pair: int) -> U8:
        """One label: (S, S) uint8 in {0, 1, 255}, by its row in `pairs`.

        Raises:
            IndexError: no such pair.
        """
        n = len(self.pairs)
        if not -n <= pair < n:
            raise IndexError(f"pair {pair} of {n}")
        pair %= n
        start, stop = self._bounds[pair], self._bounds[pair + 1]
        try:
            return decode(self._planes[start:stop].tobytes(), self.size)
        except ValueError as error:
            raise _broken(self.path / "planes.npy", f"label {pair}: {error}") from None

    def pairs_of(self, row: int) -> npt.NDArray[np.int64]:
        """Rows of `pairs` that belong to a row of the film store; none if it has no label."""
        first, stop = np.searchsorted(self._sorted, [row, row + 1])
        return self._order[first:stop]

    def targets(
        self, rows: npt.NDArray[np.int64], states: npt.NDArray[np.int8] | None = None
    ) -> U8:
        """14-channel targets: (n, 14, S, S) uint8 in {0, 1, 255}.

        Args:
            rows: rows of the film store; a film without label is all background.
            states: (n, 14) label states of these films; uncertain channels become ignore.
        """
        out = np.zeros((len(rows), len(FINDINGS), self.size, self.size), np.uint8)
        if states is not None:
            out[states == UNCERTAIN] = IGNORE
        for i, row in enumerate(rows):
            for pair in self.pairs_of(int(row)):
                out[i, self._channel[pair]] = self.label(int(pair))
        self._release()
        return out

    def for_image(self, image_id: str) -> dict[str, U8]:
        """Labels of one film: finding -> (S, S) uint8 in {0, 1, 255}."""
        if image_id not in self._images:
            raise InputError(f"{self.path}: no label of film {image_id!r}: see pairs.csv there")
        pairs = self._images[image_id]
        return {FINDINGS[self._channel[p]]: self.label(int(p)) for p in pairs}

    def of_finding(self, finding: str) -> npt.NDArray[np.int64]:
        """Rows of `pairs` of one finding; an unknown name is an `InputError`."""
        return np.flatnonzero(self._channel == findings.index(finding))

    def by_classifier(self, value: str) -> pd.DataFrame:
        """``error`` or ``probability`` per pair, a column per classifier; none if not noted."""
        start = f"{value}:"
        names = [str(c) for c in self.pairs.columns if str(c).startswith(start)]
        return self.pairs[names].set_axis([c.removeprefix(start) for c in names], axis=1)

    def check_films(self, films: Store) -> None:
        """Raise `InputError` unless these are the films that the labels were made of."""
        if films.size != self.size:
            raise InputError(
                f"{self.path}: labels of {self.size} px, films of {films.size} px in "
                f"{films.path}: use the film store that they were made of"
            )
        made_of = self.meta.get("films", "")
        if made_of != films.digest:
            raise InputError(
                f"{self.path}: made of other films (digest {made_of[:12] or 'unknown'}) than "
                f"those in {films.path} ({films.digest[:12]}): use the film store that they "
                "were made of"
            )

    @functools.cached_property
    def _images(self) -> dict[str, npt.NDArray[np.int64]]:
        groups = self.pairs.groupby("image_id").indices
        return {str(image_id): np.asarray(at, np.int64) for image_id, at in groups.items()}

    def _release(self) -> None:
        """Give mapped pages back: they would count as this process's memory."""
        file = self._planes._mmap
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def merge(shards: list[Path], out: Path, meta: Mapping[str, Any]) -> LabelStore:
    """Join shards into one store, one shard in memory at a time; `labels.json` is written last.

    The same shards and `meta` give the same bytes, whoever wrote the shards and when.

    Args:
        shards: files of `write_shard`, in the order that their labels are to have.
        out: folder of the store; an older one in it stays whole until the new one is.
        meta: JSON-able account of what made the labels; with ``size``.
    """
    merge_into(shards, Path(out), meta)
    return open(out)


def open(path: Path | str, verify: bool = False, films: Store | None = None) -> LabelStore:
    """Open a label store: ``open(path).targets(rows)``, ``.label(i)``, ``.for_image(image_id)``.

    Args:
        path: its folder.
        verify: also hash the planes and maps (reads all of them); the table is always hashed.
        films: the film store; with it, that the labels were made of these films is checked.
    """
    path = Path(path)
    try:
        meta = json.loads((path / "labels.json").read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{path}: not a label store (labels.json is missing): make labels first"
        ) from None
    except ValueError:
        raise _broken(path / "labels.json", "is not a label store's description") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("sha256"), dict):
        raise _broken(path / "labels.json", "is of an older version or not a label store's")
    try:
        for name, expected in sorted(meta["sha256"].items()):
            if (verify or name in ("pairs.csv", "ends.npy")) and sha256(path / name) != expected:
                raise _broken(path / name, "does not match its sha256 in labels.json")
        # The table holds a film named NA or 007 as what it is.
        pairs = pd.read_csv(
            path / "pairs.csv",
            dtype=dict.fromkeys(TEXT, str),
            keep_default_na=False,
            na_values={c: [""] for c in _header(path / "pairs.csv") if c not in TEXT},
        )
        if len(pairs) != meta["n"] or not set(PAIR_COLUMNS) <= set(pairs):
            raise _broken(path / "pairs.csv", f"has not the columns and {meta['n']} rows it had")
        store = LabelStore(path, pairs, meta)
    except OSError as error:
        raise _broken(path, f"{Path(error.filename or path).name} cannot be read") from None
    except (KeyError, TypeError):
        raise _broken(path / "labels.json", "is not a label store's description") from None
    if films is not None:
        store.check_films(films)
    return store


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _map(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...] | None = None) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _broken(path, "is missing") from None
    except (OSError, ValueError, EOFError):
        raise _broken(path, "is cut off or not a .npy file") from None
    right = array.ndim == 1 if shape is None else array.shape == shape
    if array.dtype != np.dtype(dtype) or not right:
        raise _broken(path, f"is {array.dtype} {array.shape}, not what labels.json describes")
    return array


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}: {AGAIN}")
