"""Packed stores: films, exact masks and labels that training reads without decoding.

A store is a folder::

    images.npy      uint8 (N, S, S)       films, grey values
    masks.npy       uint8 (N, C, S, S/8)  pixels inside, one bit each, packed along the last axis
    ignore.npy      uint8 (N, C, S, S/8)  pixels that count neither way, likewise
    mask_valid.npy  bool  (N, C)          whether the film has this mask at all
    films.csv       N rows                who, which split, which findings
    store.json      S, the C names, what the films came from, the sha256 of each file above

The three mask arrays are there if C > 0, ``ignore.npy`` only if the data set has such pixels.
``store.json`` is written last: a folder without it is not a store. Beside it lie ``key.json``
(what built it, see `dollkit.common.build_key`) and ``skipped.csv`` (films left out, if any).
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dollkit.common.build_key import Key
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.film_table import read_films, states_of
from dollkit.data.images import IGNORE

log = logging.getLogger(__name__)

Rows = slice | Sequence[int] | npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


class Store:
    """A store opened for reading; see `open_store`.

    Arrays stay on disk. `films` has the columns `COLUMNS`: findings as float 1, 0, -1 or NaN, age
    NaN if unknown, view and sex "". `states` are int8 (N, 14), blank as ``NOT_MENTIONED``; indexing
    `images`, uint8 (N, S, S), reads these rows into an array of their own; `digest` is the sha256
    of ``store.json``; `left_out` films were too bad to be read.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], digest: str) -> None:
        self.path, self.digest = path, digest
        self.size = int(meta["size"])
        self.mask_classes: tuple[str, ...] = tuple(meta["mask_classes"])
        self.made_from: dict[str, Any] = dict(meta["made_from"])
        self.left_out = int(meta.get("left_out", 0))
        n, c = int(meta["n"]), len(self.mask_classes)
        packed = (n, c, self.size, self.size // 8)
        self.images: U8 = _map(path / "images.npy", np.uint8, (n, self.size, self.size))
        self._inside = _map(path / "masks.npy", np.uint8, packed) if c else None
        self._ignored: U8 | None = None
        if "ignore.npy" in meta["sha256"]:
            self._ignored = _map(path / "ignore.npy", np.uint8, packed)
        self._valid: Bools = np.zeros((n, 0), bool)
        if c:
            self._valid = np.array(_map(path / "mask_valid.npy", np.bool_, (n, c)))
        self.films = read_films(path / "films.csv")
        self.states = states_of(self.films)

    def __len__(self) -> int:
        return len(self.films)

    def channels(self, classes: Sequence[str] | None = None) -> list[int]:
        """Mask channels of the named classes (None: all); unknown names are an `InputError`."""
        if classes is None:
            return list(range(len(self.mask_classes)))
        for name in classes:
            if name not in self.mask_classes:
                known = ", ".join(self.mask_classes) or "none"
                raise InputError(f"{self.path}: no mask class {name!r}; it has: {known}")
        return [self.mask_classes.index(name) for name in classes]

    def masks(self, rows: Rows, classes: Sequence[str] | None = None) -> U8:
        """Pixels inside: (n, C, S, S) uint8 in {0, 1} of the films `rows` and the named classes."""
        return self._unpack(self._inside, rows, classes)

    def targets(self, rows: Rows, classes: Sequence[str] | None = None) -> U8:
        """What a network may be taught: (n, C, S, S) uint8 in {0, 1, 255 = ignore or unknown}."""
        out = self.masks(rows, classes)
        if self._ignored is not None:
            out[self._unpack(self._ignored, rows, classes) == 1] = IGNORE
        out[~self.mask_valid(rows, classes)] = IGNORE
        return out

    def mask_valid(self, rows: Rows, classes: Sequence[str] | None = None) -> Bools:
        """(n, C) bool: whether the film has this mask at all (False: unknown, bits are 0)."""
        return self._valid[rows][:, self.channels(classes)]

    def _unpack(self, bits: U8 | None, rows: Rows, classes: Sequence[str] | None) -> U8:
        channels = self.channels(classes)
        at = np.arange(len(self))[rows]
        if bits is None or not channels:
            return np.zeros((len(at), len(channels), self.size, self.size), np.uint8)
        return np.unpackbits(bits[at[:, None], channels], axis=-1)


def open_store(path: Path | str, verify: bool = False) -> Store:
    """Open a store; shapes, types and the table are checked, with `verify` all arrays' hashes."""
    path = Path(path)
    try:
        text = (path / "store.json").read_bytes()
    except OSError:
        raise InputError(
            f"{path}: no store here (store.json is missing): run the data stage first"
        ) from None
    try:
        meta = json.loads(text)
        for name, expected in sorted(dict(meta["sha256"]).items()):
            if (verify or name == "films.csv") and sha256(path / name) != expected:
                raise _broken(path / name, "does not match its sha256 in store.json")
        return Store(path, meta, hashlib.sha256(text).hexdigest())
    except OSError as error:
        raise _broken(path, f"{error.filename or path} cannot be read") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise _broken(path / "store.json", "is not a store's description") from None


def standing(path: Path, key: Key, whole: bool = False) -> bool:
    """Whether a folder's store was made by this very key and opens; the log says why not.

    `whole`: no film may have been left out.
    """
    made = key.made(path)
    if not made:
        if made is False:
            log.info("%s: rebuilt, because its films, settings or code changed", path)
        return False
    try:
        left_out = open_store(path).left_out
    except InputError as error:
        log.info("rebuilt: %s", error)
        return False
    if whole and left_out:
        log.info("%s: rebuilt, because films were left out (%d)", path, left_out)
        return False
    log.info("%s: kept, nothing that makes it has changed", path)
    return True


class _Mapped(np.memmap[Any, Any]):
    """A mapped array whose indexing copies, and then gives the pages that it touched back.

    They would count as this process's memory, up to the whole file; the system still caches them.
    """

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if not isinstance(found, np.ndarray):
            return found
        is_view = np.may_share_memory(found, self)
        rows: npt.NDArray[Any] = np.array(found) if is_view else np.asarray(found)
        file = self._mmap  # type: ignore[attr-defined]
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)
        return rows


def _map(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _broken(path, "is missing") from None
    except (OSError, ValueError, EOFError):
        raise _broken(path, "is cut off or not a .npy file") from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise _broken(path, f"is {array.dtype} {array.shape}, store.json says {shape}")
    return array.view(_Mapped)


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}: build the store again")


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an ``.npz`` archive; one that is broken or holds objects is a `ValueError`."""
    # A stream of our own: np.load leaves its file open when the archive is broken.
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, AttributeError) as error:
        # AttributeError: np.load took the file for a bare array.
        raise ValueError(f"not a whole .npz archive: {error}") from error
