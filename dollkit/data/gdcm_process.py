"""DICOM frames decoded by GDCM, in processes of its own.

GDCM is the one free decoder of JPEG lossless that has wheels. A damaged frame may make it end its
process, and of lesser damage it tells on stderr only. So this module runs once more as a script,
one process for many films; a frame that it stumbles over takes that process down and no other.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
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

SECONDS = 120
"""After which a frame is given up; the largest film takes a few."""

# -P: the modules beside this one have names of the standard library's.
_COMMAND = (sys.executable, "-P", "-W", "ignore", __file__)
_idle: list[subprocess.Popen[bytes]] = []
# Two programs that write to one process would get each other's films.
os.register_at_fork(after_in_child=_idle.clear)


def decode_frame(film: Dataset) -> npt.NDArray[Any]:
    """Stored values of a film of one frame; OSError or EOFError if it is damaged."""
    process = _take()
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    pixels = None
    try:
        asked, answer = cast(Any, process.stdin), cast(Any, process.stdout)
        pickle.dump(film, asked)
        asked.flush()
        pixels = pickle.load(answer)
        return np.asarray(pixels)
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


@atexit.register
def _end_all() -> None:
    while _idle:
        _end(_idle.pop())


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
            film = pickle.load(sys.stdin.buffer)
            decoder = get_decoder(film.file_meta.TransferSyntaxUID)
            pixels, _ = decoder.as_array(film, raw=True, decoding_plugin="gdcm")
            if not complaints.seek(0, os.SEEK_END):
                pickle.dump(pixels, answer)
                answer.flush()


if __name__ == "__main__":
    _serve()
