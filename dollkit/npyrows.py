"""Writing a ``.npy`` file row by row, with the number of rows settled at the end."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 24
"""Bytes read at once when a file is looked over."""


class NpyRows:
    """One ``.npy`` file under a ``.part`` name.

    Plain writes and no memory map, so that a full disk is an `OSError`, not a bus fault; and no
    buffer, so that what is written outlives a killed process.

    Args:
        path: final name; the caller renames `part` to `final` after `close`.
        dtype, row_shape: of one row.
        n: rows to make room for.
        resume: go on with the `part` that is there, if there is one.

    Attributes:
        crc: CRC-32 of what was written since it was last set to 0.
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
        self.crc = 0
        mode = "rb+" if resume and self.part.is_file() else "wb+"
        self.file = self.part.open(mode, buffering=0)
        self.offset = self._header(n)

    def _header(self, n: int) -> int:
        # numpy pads the header so that its length does not depend on the first axis.
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(
            self.file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (n, *self.row_shape),
            },
        )
        return self.file.tell()

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write rows from `start` on."""
        left = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1).view(np.uint8).data
        self.crc = zlib.crc32(left, self.crc)
        self.file.seek(self.offset + start * self.row_bytes)
        while left:
            left = left[self.file.write(left) :]

    def crc_of(self, start: int, stop: int) -> int:
        """CRC-32 of rows start .. stop-1 as they lie in the file, which may hold fewer."""
        self.file.seek(self.offset + start * self.row_bytes)
        left, crc = (stop - start) * self.row_bytes, 0
        while left and (block := self.file.read(min(left, BLOCK))):
            left, crc = left - len(block), zlib.crc32(block, crc)
        return crc

    def cut(self, n: int) -> None:
        """Drop all rows from `n` on."""
        self.file.truncate(self.offset + n * self.row_bytes)

    def close(self, n: int) -> None:
        """End the file with `n` rows."""
        assert self._header(n) == self.offset
        self.cut(n)
        self.file.close()
