"""Packed stores: films, exact masks and labels that training reads without decoding.

A store is a folder with ``images.npy`` (uint8, N x S x S), ``masks.npy`` (uint8, bits packed along
the last axis, N x C x S x S/8), ``mask_valid.npy`` (bool, N x C), ``films.csv`` and ``store.json``.
Arrays are memory-mapped on reading. ``store.json`` is written last and names the sha256 of each
file: a folder without it is not a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.errors import InputError
from dollkit.films import COLUMNS, check_films, read_films, states_of
from dollkit.findings import FINDINGS
from dollkit.npyrows import NpyRows

Rows = slice | Sequence[int] | npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]


class StoreWriter:
    """Writes a store; use as a context manager and end with `finish`.

    Args:
        path: folder of the store; made if missing. An older store there stays whole until
            `finish` replaces it.
        size: side S of the square films in pixels, a multiple of 8.
        mask_classes: names of the C mask channels, may be empty.
        n: number of films to make room for; `finish` may keep fewer (the first ones).
        made_from: JSON-serialisable account of what the films came from. Keep times out of it:
            the same input must give the same store.

    Raises:
        InputError: bad size, or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        size: int,
        mask_classes: Sequence[str],
        n: int,
        made_from: Mapping[str, Any],
    ) -> None:
        if size < 8 or size % 8:
            raise InputError(f"parameter 'size' is {size}: use a positive multiple of 8")
        if n < 1:
            raise InputError(f"{path}: a store needs at least one film")
        if len(set(mask_classes)) != len(mask_classes):
            raise InputError(f"{path}: mask classes {list(mask_classes)} name one class twice")
        self.path, self.size, self.n = Path(path), size, n
        self.mask_classes = tuple(mask_classes)
        self.made_from = dict(made_from)
        c = len(self.mask_classes)
        shapes: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
            "images.npy": (np.uint8, (size, size))
        }
        if c:
            shapes["masks.npy"] = (np.uint8, (c, size, size // 8))
            shapes["mask_valid.npy"] = (np.bool_, (c,))
        self._arrays: dict[str, NpyRows] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name, (dtype, shape) in shapes.items():
                self._arrays[name] = NpyRows(self.path / name, dtype, n, shape)
        except OSError as error:
            self._drop()
            raise unwritable(self.path, error) from None
        self._written = np.zeros(n, bool)
        self._done = False

    def write(
        self,
        start: int,
        images: U8,
        masks: U8 | None = None,
        mask_valid: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Write films start .. start+k-1.

        Args:
            start: index of the first of them.
            images: (k, S, S) uint8.
            masks: (k, C, S, S) uint8 or bool, non-zero inside; None: no film has any.
            mask_valid: (k, C) bool; None: all valid if `masks` is given. Bits of masks that are
                not valid are written as 0.
        """
        k, c = len(images), len(self.mask_classes)
        if images.shape != (k, self.size, self.size) or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (k, {self.size}, {self.size})")
        if start < 0 or start + k > self.n:
            raise ValueError(f"films {start}..{start + k - 1} do not fit into {self.n}")
        try:
            self._arrays["images.npy"].write(start, images)
            if c:
                if mask_valid is None:
                    mask_valid = np.full((k, c), masks is not None)
                if masks is None:
                    masks = np.zeros((k, c, self.size, self.size), np.uint8)
                if masks.shape != (k, c, self.size, self.size) or mask_valid.shape != (k, c):
                    raise ValueError(f"masks must be (k, {c}, {self.size}, {self.size})")
                inside = (masks != 0) & mask_valid[:, :, None, None]
                self._arrays["masks.npy"].write(start, np.packbits(inside, axis=-1))
                self._arrays["mask_valid.npy"].write(start, mask_valid)
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._written[start : start + k] = True

    def finish(self, films: pd.DataFrame) -> None:
        """Write ``films.csv`` and, last, ``store.json``; films beyond ``len(films)`` are cut off.

        Raises:
            InputError: the table does not hold together (see `check_films`).
            ValueError: a film of the table was never written.
        """
        n = len(films)
        if not 1 <= n <= self.n or not self._written[:n].all():
            raise ValueError(f"{n} films in the table, {int(self._written.sum())} written")
        check_films(films, str(self.path / "films.csv"))
        table = films.loc[:, list(COLUMNS)].copy()
        table[list(FINDINGS)] = table[list(FINDINGS)].astype("float64").astype("Int8")
        try:
            for array in self._arrays.values():
                array.close(n)
            part = self.path / "films.csv.part"
            table.to_csv(part, index=False, lineterminator="\n")
            (self.path / "store.json").unlink(missing_ok=True)
            for stale in ("masks.npy", "mask_valid.npy"):
                if stale not in self._arrays:
                    (self.path / stale).unlink(missing_ok=True)
            part.replace(self.path / "films.csv")
            for array in self._arrays.values():
                array.part.replace(array.final)
            meta = {
                "size": self.size,
                "mask_classes": list(self.mask_classes),
                "n": n,
                "made_from": self.made_from,
                "sha256": {f: _sha256(self.path / f) for f in sorted([*self._arrays, "films.csv"])},
            }
            part = self.path / "store.json.part"
            part.write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            part.replace(self.path / "store.json")
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._done = True

    def _drop(self) -> None:
        for array in self._arrays.values():
            array.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self._drop()


class Store:
    """A store opened for reading; see `open_store`. Pickles as its path, so workers re-open it.

    Attributes:
        images: uint8 memory map (N, S, S).
        films: table with the columns `COLUMNS`; findings as float 1, 0, -1 or NaN, age NaN if
            unknown, view and sex "" if unknown.
        states: int8 (N, 14) label states, blank as ``NOT_MENTIONED``.
        size: S; mask_classes: C names; path; digest: sha256 of ``store.json``; made_from.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], digest: str) -> None:
        self.path, self.digest = path, digest
        self.size = int(meta["size"])
        self.mask_classes: tuple[str, ...] = tuple(meta["mask_classes"])
        self.made_from: dict[str, Any] = dict(meta["made_from"])
        n, c = int(meta["n"]), len(self.mask_classes)
        self.images: U8 = _map(path / "images.npy", np.uint8, (n, self.size, self.size))
        self._bits: U8 | None = None
        self._valid: npt.NDArray[np.bool_] = np.zeros((n, 0), bool)
        if c:
            self._bits = _map(path / "masks.npy", np.uint8, (n, c, self.size, self.size // 8))
            self._valid = np.array(_map(path / "mask_valid.npy", np.bool_, (n, c)))
        self.films = read_films(path / "films.csv")
        if len(self.films) != n:
            raise _broken(path / "films.csv", f"holds {len(self.films)} films, store.json says {n}")
        self.states = states_of(self.films)

    def __len__(self) -> int:
        return len(self.films)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.path,)

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
        """Masks (n, C, S, S) uint8 in {0, 1} of the films `rows` and the named classes."""
        channels = self.channels(classes)
        if self._bits is None or not channels:
            return np.zeros((len(self._valid[rows]), 0, self.size, self.size), np.uint8)
        bits = np.asarray(self._bits[rows][:, channels])
        return np.unpackbits(bits, axis=-1)

    def mask_valid(self, rows: Rows, classes: Sequence[str] | None = None) -> npt.NDArray[np.bool_]:
        """(n, C) bool: whether the film has this mask at all (False: unknown, bits are 0)."""
        return self._valid[rows][:, self.channels(classes)]


def open_store(path: Path | str, verify: bool = False) -> Store:
    """Open a store; shapes, types and the table are checked against ``store.json``.

    Args:
        path: the store's folder.
        verify: also hash the arrays (reads all of them); the table is always hashed.

    Raises:
        InputError: no store there, or one of its files is missing, cut off or changed.
    """
    path = Path(path)
    try:
        text = (path / "store.json").read_bytes()
    except OSError:
        raise InputError(
            f"{path}: no store here (store.json is missing): run the data stage first"
        ) from None
    try:
        meta = json.loads(text)
        hashes: dict[str, str] = dict(meta["sha256"])
        for name, expected in sorted(hashes.items()):
            if (verify or name == "films.csv") and _sha256(path / name) != expected:
                raise _broken(path / name, "does not match its sha256 in store.json")
        return Store(path, meta, hashlib.sha256(text).hexdigest())
    except OSError as error:
        raise _broken(path, f"{error.filename or path} cannot be read") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise _broken(path / "store.json", "is not a store's description") from None


def unwritable(path: Path, error: OSError) -> InputError:
    """The `InputError` for an output folder that cannot be written."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{path}: cannot write here ({reason}): choose a folder you can write to")


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}: build the store again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _broken(path, "is missing") from None
    except (OSError, ValueError, EOFError):
        raise _broken(path, "is cut off or not a .npy file") from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise _broken(path, f"is {array.dtype} {array.shape}, store.json says {shape}")
    return array
