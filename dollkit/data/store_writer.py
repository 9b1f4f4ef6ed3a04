"""Writing a store: films one after the other, and going on where a killed process stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.build_key import KEY, Key, digest
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.machine import sha256
from dollkit.data.film_table import COLUMNS, check_films
from dollkit.data.images import IGNORE

JOURNAL = "journal.part"
OPTIONAL = ("masks.npy", "ignore.npy", "mask_valid.npy")
"""Arrays that not every store has."""

U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


class StoreWriter:
    """Writes a store, film after film; use as a context manager and end with `finish`.

    Arrays grow under ``.part`` names, and an older store in the folder stays whole until `finish`.
    With a key, each `note` of a finished step goes into ``journal.part``; the next writer with
    that key goes on behind the last step whose input and written bytes are still the same.

    `made_from` is a JSON-able account of what the films came from, without times: the same input
    must give the same store. `ignore`: masks may hold pixels to ignore. `notes` has what was noted
    for each finished step, by an interrupted writer too; `films` is the number of their films.
    """

    def __init__(
        self, path: Path | str, size: int, mask_classes: Sequence[str],
        made_from: Mapping[str, Any], *, ignore: bool = False, key: Key | None = None,
    ) -> None:  # fmt: skip
        if size < 8 or size % 8:
            raise InputError(f"parameter 'size' is {size}: use a positive multiple of 8")
        self.path, self.size = Path(path), size
        self.mask_classes, self.made_from = list(mask_classes), dict(made_from)
        self.notes: list[dict[str, Any]] = []
        self.films = self._written = 0
        self._key = key
        self._arrays: dict[str, NpyRows] = {}
        self._done = False
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._journal = _Journal(self.path, digest(key.rule) if key else "")
            self._go_on(ignore)

    def _go_on(self, ignore: bool) -> None:
        """Open the arrays, and find out how much of them an earlier writer left whole."""
        c, s = len(self.mask_classes), self.size
        rows: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {"images.npy": (np.uint8, (s, s))}
        if c:
            rows["masks.npy"] = (np.uint8, (c, s, s // 8))
            rows["mask_valid.npy"] = (np.bool_, (c,))
        if c and ignore:
            rows["ignore.npy"] = (np.uint8, (c, s, s // 8))
        steps = self._journal.steps
        for name, (dtype, shape) in rows.items():
            part = self.path / f"{name}.part"
            self._arrays[name] = NpyRows(part, dtype, shape, keep=bool(steps))
        for fingerprint, step in zip(self._key.steps if self._key else (), steps, strict=False):
            if (step["input"], step["output"]) != (fingerprint, self._checksum(step["films"])):
                break
            self.notes.append(step["note"])
            self.films = self._written = step["films"]
        self._journal.keep(len(self.notes))

    def _checksum(self, stop: int) -> str:
        """SHA-256 of the bytes that lie in the arrays behind the last noted film."""
        taken = hashlib.sha256()
        for array in self._arrays.values():
            taken.update(array.read(self.films, stop))
        return taken.hexdigest()

    def write(
        self, images: U8, masks: U8 | Bools | None = None, mask_valid: Bools | None = None
    ) -> None:
        """Write films (k, S, S) uint8 behind the last one written.

        `masks` are (k, C, S, S) bool or uint8 in {0, 1, 255 = ignore}; `mask_valid` (k, C) bool,
        all if it is None and `masks` are given. Masks that are not valid are written as 0.
        """
        k, c = len(images), len(self.mask_classes)
        if mask_valid is None:
            mask_valid = np.full((k, c), masks is not None)
        if masks is None:
            masks = np.zeros((k, c, self.size, self.size), np.uint8)
        self.write_bits(images, *pack(masks, mask_valid), mask_valid)

    def write_bits(self, images: U8, inside: U8, ignored: U8, mask_valid: Bools) -> None:
        """As `write`, of masks that are packed, see `pack`."""
        rows = {"images.npy": images, "masks.npy": inside, "mask_valid.npy": mask_valid}
        rows["ignore.npy"] = ignored
        if ignored.any() and "ignore.npy" not in self._arrays:
            raise ValueError("masks with pixels to ignore need a writer with ignore=True")
        with writing(self.path):
            for name, array in self._arrays.items():
                array.write(self._written, rows[name])
        self._written += len(images)

    def note(self, what: Mapping[str, Any]) -> None:
        """Mark the key's next step as finished, with JSON-able facts for whoever goes on."""
        if self._key is None:
            raise ValueError("a writer without a key has nothing to note")
        step = {
            "input": self._key.steps[len(self.notes)],
            "films": self._written,
            "output": self._checksum(self._written),
            "note": dict(what),
        }
        with writing(self.path):
            self._journal.add(step)
        self.notes.append(dict(what))
        self.films = self._written

    def finish(self, films: pd.DataFrame, left_out: int = 0) -> None:
        """Write the table and, last, ``store.json``; films beyond ``len(films)`` are cut off."""
        n = len(films)
        if not 1 <= n <= self._written:
            raise ValueError(f"{n} films in the table, {self._written} written")
        check_films(films, str(self.path / "films.csv"))
        table = films[list(COLUMNS)].astype(dict.fromkeys(FINDINGS, "float64"))
        table = table.astype(dict.fromkeys(FINDINGS, "Int8"))
        names = [*self._arrays, "films.csv"]
        with writing(self.path):
            for array in self._arrays.values():
                array.close(n)
            table.to_csv(self.path / "films.csv.part", index=False, lineterminator="\n")
            meta = {
                "size": self.size,
                "mask_classes": self.mask_classes,
                "n": n,
                "left_out": left_out,
                "made_from": self.made_from,
                "sha256": {name: sha256(self.path / f"{name}.part") for name in names},
            }
            texts = ({KEY: self._key.to_json()} if self._key else {}) | {"store.json": meta}
            for name, content in texts.items():
                text = json.dumps(content, indent=1, sort_keys=True) + "\n"
                (self.path / f"{name}.part").write_text(text, encoding="utf-8")
            # From here on there is no store, until all of the new one is in place.
            for name in ("store.json", KEY, *OPTIONAL):
                if name not in self._arrays:
                    (self.path / name).unlink(missing_ok=True)
            for name in (*names, *texts):
                (self.path / f"{name}.part").replace(self.path / name)
        self._done = True
        for part in self.path.glob("*.part"):  # what other writers left
            if part.name != JOURNAL:
                part.unlink(missing_ok=True)
        self._journal.close(drop=True)  # last: it says what the other parts are

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._done:
            return
        # Without anything noted the files are of no use.
        for array in self._arrays.values():
            with contextlib.suppress(OSError):
                array.file.close()
                if not self.notes:
                    array.part.unlink(missing_ok=True)
        self._journal.close(drop=not self.notes)


class _Journal:
    """JSON lines, for one process at a time: first the key, then one for each finished step."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / JOURNAL
        self._file = self._path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"{folder}: another process is building this store: wait for it, or choose "
                "another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        self._head = {"key": key}
        self.steps: list[dict[str, Any]] = []
        self._file.seek(0)
        head, *rest = self._file.read().splitlines() or [b""]
        if head == json.dumps(self._head).encode():
            with contextlib.suppress(ValueError):  # a line that was cut off while it was written
                for text in rest:
                    self.steps.append(json.loads(text))

    def keep(self, n: int) -> None:
        self._file.truncate(0)
        for line in (self._head, *self.steps[:n]):
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def close(self, drop: bool) -> None:
        if drop:
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


class NpyRows:
    """One ``.npy`` file under a ``.part`` name, written row by row.

    Plain writes and no memory map, so that a full disk is an `OSError`, not a bus fault; and no
    buffer, so that what is written outlives a killed process. With `keep`, goes on in the file.
    """

    def __init__(
        self, part: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...], keep: bool
    ) -> None:
        self.part = part
        self.dtype, self.row_shape = np.dtype(dtype), row_shape
        self._row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        self.file = part.open("rb+" if keep and part.is_file() else "wb+", buffering=0)
        self._offset = self._write_header(0)

    def _write_header(self, n: int) -> int:
        """Bytes that the header takes: numpy pads it to as many for any number of rows."""
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (n, *self.row_shape)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write rows from place `start` on."""
        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            raise ValueError(f"{self.part} has rows of {self.dtype} {self.row_shape}")
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self.file.seek(self._offset + start * self._row_bytes)
        while data:
            data = data[self.file.write(data) :]

    def read(self, start: int, stop: int) -> bytes:
        """Rows start .. stop - 1 as bytes, fewer if the file ends before."""
        self.file.seek(self._offset + start * self._row_bytes)
        return self.file.read((stop - start) * self._row_bytes)

    def close(self, n: int) -> None:
        """End the array after `n` rows."""
        self._write_header(n)
        self.file.truncate(self._offset + n * self._row_bytes)
        self.file.close()


def pack(masks: U8 | Bools, mask_valid: Bools) -> tuple[U8, U8]:
    """Bits of masks (..., S, S), (..., S, S/8) uint8 each: pixels inside, and those to ignore."""
    known = mask_valid[..., None, None]
    inside, ignored = ((masks == value) & known for value in (1, IGNORE))
    return np.packbits(inside, axis=-1), np.packbits(ignored, axis=-1)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of an output folder that it cannot write into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> InputError:
    """The `InputError` for an output folder that cannot be written."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{path}: cannot write here ({reason}): choose a folder you can write to")
