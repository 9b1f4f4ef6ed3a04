"""What every image file has to pass, whatever its format: there, of a film's size and depth."""

from __future__ import annotations

import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dollkit.errors import InputError

MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own threshold); a 4020 x 4892 film has 19.7 million."""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file opened: the largest image without compression, and room for its header."""

AGAIN = "fetch it again or use skip_bad"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise InputError(f"{path}: cannot be read (a folder): name an image file")
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: cannot be read (not a regular file): name an image file")
        if found.st_size > MAX_BYTES:
            raise InputError(
                f"{path}: {found.st_size} bytes, more than {MAX_BYTES}: not a radiograph; "
                "leave it out"
            )
        if not found.st_size:
            raise InputError(f"{path}: empty file: {AGAIN}")
        with path.open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image: check the path in its table") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def check_pixels(path: Path, height: int, width: int) -> None:
    """`InputError` if an image has more pixels than a film can have."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path}: {width}x{height} pixels, more than {MAX_PIXELS}: not a radiograph; "
            "leave it out"
        )


def check_depth(path: Path, bits: int, depths: Sequence[int]) -> None:
    """`InputError` unless grey values of `bits` are what the data set has (8: up to 8 bits)."""
    bits = 8 if bits <= 8 else 16
    if bits not in depths:
        raise InputError(
            f"{path}: {bits}-bit where {' or '.join(map(str, depths))} are expected: "
            "fetch the file as it was released"
        )


@contextmanager
def mending(path: Path) -> Iterator[None]:
    """Turn what Pillow raises over a damaged file into one line; its warnings are silenced."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # a plug-in may raise anything over damaged bytes
        raise InputError(
            f"{path}: corrupt or cut off ({error or type(error).__name__}): {AGAIN}"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Pillow and pydicom: what matters about a file is an error of ours.

    Filters belong to the process, not to a thread: the first in sets them, the last out restores.
    """
    with _quiet.lock:
        if not _quiet.inside:
            _quiet.filters = warnings.catch_warnings()
            _quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        _quiet.inside += 1
    try:
        yield
    finally:
        with _quiet.lock:
            _quiet.inside -= 1
            if not _quiet.inside:
                _quiet.filters.__exit__(None, None, None)


class _Quiet:
    filters: warnings.catch_warnings[None]

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0


_quiet = _Quiet()
