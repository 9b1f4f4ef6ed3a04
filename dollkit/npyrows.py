"""Writing a ``.npy`` file row by row, with the number of rows settled at the end."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dollkit.machine import sha256

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

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
