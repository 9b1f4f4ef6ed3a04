"""Writing a store: films one after the other, and going on where a killed process stopped.

Arrays grow under ``.part`` names. A writer with a key notes in ``journal.part`` how far they are
good; the next writer with that key goes on there. The older store in the folder stays whole until
`StoreWriter.finish`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.machine import sha256
from dollkit.data.build_key import KEY, Journal, Key
from dollkit.data.films import COLUMNS, check_films
from dollkit.data.images import IGNORE

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

OPTIONAL = ("masks.npy", "ignore.npy", "mask_valid.npy")
"""Arrays that not every store has."""

JOURNAL = "journal.part"

U8 = npt.NDArray[np.uint8]
Shapes = dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]
Bools = npt.NDArray[np.bool_]


class StoreWriter:
    """Writes a store; use as a context manager and end with `finish`.

    Args:
        path: folder of the store; made if missing.
        size: side S of the square films in pixels, a multiple of 8.
        mask_classes: names of the C mask channels, may be empty.
        n: number of films to make room for; `finish` may keep fewer (the first ones).
        made_from: JSON-serialisable account of what the films came from. Keep times out of it:
            the same input must give the same store.
        ignore: whether masks may hold pixels to ignore; the store then has ``ignore.npy``.
        key: what makes the store. With a key, an interrupted writer leaves what it has `note`d.

    Attributes:
        notes: what an interrupted writer with this key had noted, in order.
        films: number of films that it had written then; go on from there.
    """

    def __init__(
        self,
        path: Path | str,
        size: int,
        mask_classes: Sequence[str],
        n: int,
        made_from: Mapping[str, Any],
        *,
        ignore: bool = False,
        key: Key | None = None,
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
        self.notes: list[dict[str, Any]] = []
        self.films = 0
        self._key = key
        self._journal: Journal | None = None
        self._arrays: dict[str, NpyRows] = {}
        self._done = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if key is not None:
                self._journal = Journal(self.path / JOURNAL, key.rule_hash, key.steps)
            self._open(self._shapes(ignore))
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from None
            raise
        self._written = np.zeros(n, bool)
        self._written[: self.films] = True

    def _shapes(self, ignore: bool) -> Shapes:
        c, s = len(self.mask_classes), self.size
        shapes: Shapes = {"images.npy": (np.uint8, (s, s))}
        if c:
            shapes["masks.npy"] = (np.uint8, (c, s, s // 8))
            shapes["mask_valid.npy"] = (np.bool_, (c,))
        if c and ignore:
            shapes["ignore.npy"] = (np.uint8, (c, s, s // 8))
        return shapes

    def _open(self, shapes: Shapes) -> None:
        """Open the arrays, and find out how much of them an earlier writer left whole."""
        found = self._journal.found if self._journal else []
        unfinished = not (self.path / "store.json").exists()
        for name, (dtype, shape) in shapes.items():
            final, part = self.path / name, self.path / f"{name}.part"
            if found and unfinished and final.exists() and not part.exists():
                final.replace(part)  # killed within `finish`
            self._arrays[name] = NpyRows(final, dtype, self.n, shape, resume=bool(found))
        for line in found:
            seen = {name: array.look_over(line["films"]) for name, array in self._arrays.items()}
            if {name: one.hexdigest() for name, one in seen.items()} != line["sha256"]:
                break
            for name, array in self._arrays.items():
                array.take_over(line["films"], seen[name])
            self.notes.append(line["note"])
            self.films = line["films"]
        if self._journal:
            self._journal.keep(len(self.notes))
        for array in self._arrays.values():
            array.cut(self.films)

    def write(
        self,
        start: int,
        images: U8,
        masks: U8 | Bools | None = None,
        mask_valid: Bools | None = None,
    ) -> None:
        """Write films start .. start+k-1.

        Args:
            start: index of the first of them.
            images: (k, S, S) uint8.
            masks: (k, C, S, S) bool or uint8 in {0, 1, 255 = ignore}; None: no film has any.
            mask_valid: (k, C) bool; None: all valid if `masks` is given. Masks that are not valid
                are written as 0.
        """
        k, c = len(images), len(self.mask_classes)
        if mask_valid is None:
            mask_valid = np.full((k, c), masks is not None)
        if masks is None:
            masks = np.zeros((k, c, self.size, self.size), np.uint8)
        if masks.shape != (k, c, self.size, self.size) or mask_valid.shape != (k, c):
            raise ValueError(f"masks must be (k, {c}, {self.size}, {self.size})")
        inside, ignored = pack(masks, mask_valid)
        self.write_bits(start, images, inside, ignored, mask_valid)

    def write_bits(
        self, start: int, images: U8, inside: U8, ignored: U8 | None, mask_valid: Bools
    ) -> None:
        """Write films start .. start+k-1 whose masks are packed.

        Args:
            start, images, mask_valid: as for `write`.
            inside, ignored: (k, C, S, S/8) uint8, see `pack`.
        """
        k = len(images)
        if images.shape != (k, self.size, self.size) or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (k, {self.size}, {self.size})")
        if start < 0 or start + k > self.n:
            raise ValueError(f"films {start}..{start + k - 1} do not fit into {self.n}")
        if ignored is not None and "ignore.npy" not in self._arrays:
            raise ValueError("masks with pixels to ignore need a writer with ignore=True")
        rows = {"images.npy": images, "masks.npy": inside, "mask_valid.npy": mask_valid}
        rows["ignore.npy"] = np.zeros_like(inside) if ignored is None else ignored
        try:
            for name, array in self._arrays.items():
                array.write(start, rows[name])
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._written[start : start + k] = True

    def note(self, what: Mapping[str, Any]) -> None:
        """Mark the key's next step as finished: its films are written, one after the other.

        Args:
            what: JSON-able facts that the one who goes on will need.
        """
        if self._journal is None:
            raise ValueError("a writer without a key has nothing to note")
        sums = {name: array.hash.hexdigest() for name, array in self._arrays.items()}
        line = {"films": int(self._written.sum()), "sha256": sums, "note": dict(what)}
        try:
            self._journal.add(line)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def finish(self, films: pd.DataFrame, left_out: int = 0) -> None:
        """Write ``films.csv`` and, last, ``store.json``; films beyond ``len(films)`` are cut off.

        Args:
            films: table of the films, in their order.
            left_out: number of films that were too bad to be read.

        Raises:
            ValueError: a film of the table was never written.
        """
        n = len(films)
        if not 1 <= n <= self.n or not self._written[:n].all():
            raise ValueError(f"{n} films in the table, {int(self._written.sum())} written")
        check_films(films, str(self.path / "films.csv"))
        table = films.loc[:, list(COLUMNS)].copy()
        table[list(FINDINGS)] = table[list(FINDINGS)].astype("float64").astype("Int8")
        texts = {} if self._key is None else {KEY: _text(self._key.to_json())}
        try:
            sums = {name: array.close(n) for name, array in self._arrays.items()}
            table.to_csv(self.path / "films.csv.part", index=False, lineterminator="\n")
            sums["films.csv"] = sha256(self.path / "films.csv.part")
            meta = {
                "size": self.size,
                "mask_classes": list(self.mask_classes),
                "n": n,
                "left_out": left_out,
                "made_from": self.made_from,
                "sha256": sums,
            }
            for name, text in (texts | {"store.json": _text(meta)}).items():
                (self.path / f"{name}.part").write_text(text, encoding="utf-8")
            # From here on there is no store, until all of the new one is in place.
            for name in ("store.json", KEY, *OPTIONAL):
                if name not in self._arrays:
                    (self.path / name).unlink(missing_ok=True)
            for name in (*sums, *texts, "store.json"):
                (self.path / f"{name}.part").replace(self.path / name)
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._done = True
        sweep(self.path, keep=JOURNAL if self._journal else "")
        if self._journal:  # last: it says what the other parts are
            self._journal.close(drop=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self._leave()

    def _leave(self) -> None:
        """Close the files; without anything noted they are of no use."""
        noted = self._journal is not None and self._journal.count > 0
        for array in self._arrays.values():
            with contextlib.suppress(OSError):
                array.file.close()
                if not noted:
                    array.part.unlink(missing_ok=True)
        if self._journal:
            self._journal.close(drop=not noted)


def pack(masks: U8 | Bools, mask_valid: Bools) -> tuple[U8, U8 | None]:
    """Bits of masks as a store holds them.

    Args:
        masks: (k, C, S, S) bool or uint8 in {0, 1, 255 = ignore}.
        mask_valid: (k, C) bool; masks that are not valid become 0.

    Returns:
        (k, C, S, S/8) uint8, pixels inside; the same of pixels to ignore, None if there are none.
    """
    known = mask_valid[:, :, None, None]
    inside = np.packbits((masks == 1) & known, axis=-1)
    ignored = (masks == IGNORE) & known
    return inside, np.packbits(ignored, axis=-1) if ignored.any() else None


def sweep(folder: Path, keep: str = "") -> None:
    """Remove what interrupted writers left in a folder."""
    for part in folder.glob("*.part"):
        if part.name != keep:
            part.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> InputError:
    """The `InputError` for an output folder that cannot be written."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{path}: cannot write here ({reason}): choose a folder you can write to")


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


# Writing a ``.npy`` file row by row, with the number of rows settled at the end.


BLOCK = 1 << 24
"""Bytes read at once when a file is looked over."""


class NpyRows:
    """One ``.npy`` file under a ``.part`` name, hashed as it grows.

    Plain writes and no memory map, so that a full disk is an `OSError`, not a bus fault; and no
    buffer, so that what is written outlives a killed process.

    Args:
        path: final name; the caller renames `part` to `final` after `close`.
        dtype, row_shape: of one row.
        n: rows to make room for.
        resume: keep the `part` that is there, if there is one; see `look_over`.

    Attributes:
        rows: number of rows written (or looked over) one after the other.
        hash: SHA-256 of the header for `n` rows and these rows.
    """

    def __init__(
        self,
        path: Path,
        dtype: npt.DTypeLike,
        n: int,
        row_shape: tuple[int, ...],
        resume: bool = False,
    ) -> None:
        self.final = path
        self.part = path.with_name(path.name + ".part")
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        self.n, self.rows = n, 0
        header = self._header(n)
        self.offset = len(header)
        self.hash: Hash = hashlib.sha256(header)
        mode = "rb+" if resume and self.part.is_file() else "wb+"
        self.file = self.part.open(mode, buffering=0)
        self._put(0, header)

    def _header(self, n: int) -> bytes:
        # numpy pads the header so that its length does not depend on the first axis.
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (n, *self.row_shape),
            },
        )
        return header.getvalue()

    def _put(self, at: int, data: bytes | memoryview) -> None:
        left = memoryview(data)
        self.file.seek(at)
        while left:
            left = left[self.file.write(left) :]

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write rows from `start` on."""
        data = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1).view(np.uint8).data
        self._put(self.offset + start * self.row_bytes, data)
        if start == self.rows:
            self.hash.update(data)
            self.rows += len(rows)
        else:
            self.n = -1  # out of order: the hash is of no use

    def look_over(self, stop: int) -> Hash:
        """What `hash` would be with the rows up to `stop` that lie in the file."""
        seen = self.hash.copy()
        self.file.seek(self.offset + self.rows * self.row_bytes)
        left = (stop - self.rows) * self.row_bytes
        while left > 0 and (block := self.file.read(min(left, BLOCK))):
            seen.update(block)
            left -= len(block)
        return seen

    def take_over(self, stop: int, seen: Hash) -> None:
        """Count the rows up to `stop`, which `look_over` has seen, as written."""
        self.rows, self.hash = stop, seen

    def cut(self, n: int) -> None:
        """Drop all rows from `n` on."""
        self.file.truncate(self.offset + n * self.row_bytes)

    def close(self, n: int) -> str:
        """End the file with `n` rows; returns its SHA-256."""
        self._put(0, self._header(n))
        self.cut(n)
        self.file.close()
        return self.hash.hexdigest() if self.rows == self.n == n else sha256(self.part)
