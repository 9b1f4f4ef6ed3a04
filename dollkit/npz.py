"""Reading .npz archives that may be broken."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an archive; pickled objects are refused.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: it is not a whole .npz archive.
    """
    # A stream of our own: np.load leaves its file open when the archive is broken.
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, AttributeError) as error:
        # AttributeError: np.load took the file for a bare array.
        raise ValueError(f"not a whole .npz archive: {error}") from error
