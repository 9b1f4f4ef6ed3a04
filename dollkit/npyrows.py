"""Writing a ``.npy`` file row by row, with the number of rows settled at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


class NpyRows:
    """One ``.npy`` file under a ``.part`` name.

    Plain writes and no memory map, so that a full disk is an `OSError`, not a bus fault.

    Args:
        path: final name; the caller renames `part` to `final` after `close`.
        dtype, row_shape: of one row.
        n: rows to make room for.
    """

    def __init__(
        self, path: Path, dtype: npt.DTypeLike, n: int, row_shape: tuple[int, ...]
    ) -> None:
        self.final = path
        self.part = path.with_name(path.name + ".part")
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        self.file: BinaryIO = self.part.open("wb+")
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
        self.file.seek(self.offset + start * self.row_bytes)
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())

    def close(self, n: int) -> None:
        assert self._header(n) == self.offset
        self.file.truncate(self.offset + n * self.row_bytes)
        self.file.close()

    def drop(self) -> None:
        self.file.close()
        self.part.unlink(missing_ok=True)
