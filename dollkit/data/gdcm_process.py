"""DICOM frames decoded by GDCM, in processes of its own.

GDCM is the one free decoder of JPEG lossless that has wheels. A damaged frame may make it end its
process, and of lesser damage it tells on stderr only. So this module runs once more as a script,
one process for many films; a frame that it stumbles over takes that process down and no other.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

SECONDS = 120
"""After which a frame is given up; the largest film takes a few."""

# -P: the modules beside this one have names of the standard library's.
_COMMAND = (sys.executable, "-P", "-W", "ignore", __file__)
_idle: list[subprocess.Popen[bytes]] = []
# Two programs that write to one process would get each other's films.
os.register_at_fork(after_in_child=_idle.clear)


def decode_frame(film: Dataset) -> npt.NDArray[Any]:
    """Stored values of a film of one frame; OSError or ValueError if it is damaged."""
    process = _take()
    asked, answer = cast(Any, process.stdin), cast(Any, process.stdout)
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    pixels = None
    try:
        head = [film.file_meta.TransferSyntaxUID, len(film.PixelData), as_pixel_options(film)]
        asked.write(json.dumps(head).encode() + b"\n" + film.PixelData)
        asked.flush()
        kind, *shape = json.loads(answer.readline())
        size = math.prod(shape) * np.dtype(kind).itemsize
        pixels = np.frombuffer(answer.read(size), kind).reshape(shape)
        return pixels
    finally:
        timer.cancel()
        if pixels is None:  # whatever stumbled once may be damaged inside
            _end(process)
        else:
            _idle.append(process)


def _take() -> subprocess.Popen[bytes]:
    with suppress(IndexError):
        while True:
            process = _idle.pop()
            if process.poll() is None:
                return process
            _end(process)
    return subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError), process:
        process.kill()


def _serve() -> None:
    """Answer each film on stdin with its pixels on stdout; end at the first that is damaged."""
    import gdcm

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the program that started this
    logging.disable()
    gdcm.Trace.WarningOff()
    with tempfile.TemporaryFile() as complaints, os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(complaints.fileno(), 1)
        os.dup2(complaints.fileno(), 2)
        while not complaints.seek(0, os.SEEK_END):
            syntax, length, options = json.loads(sys.stdin.buffer.readline())
            code = sys.stdin.buffer.read(length)
            pixels, _ = get_decoder(UID(syntax)).as_array(
                code, index=0, raw=True, decoding_plugin="gdcm", **options
            )
            if not complaints.seek(0, os.SEEK_END):
                head = json.dumps([pixels.dtype.str, *pixels.shape])
                answer.write(head.encode() + b"\n" + pixels.tobytes())
                answer.flush()


if __name__ == "__main__":
    _serve()
