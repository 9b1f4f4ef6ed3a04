"""What a machine runs out of, in words that say what to do: disk, files, memory."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from dollkit.common.errors import InputError

KEPT = "all that is done is kept, the same command goes on"

_ROOM = "no room left on the disk: free some ('make plan' says what a run takes)"
_FILES = "too many open files: raise the limit ('ulimit -n 4096') or take fewer JOBS"
_MEMORY = "out of memory: take fewer JOBS, or a smaller 'batch' or 'budget_mb' in the profile"
_WORKER = "a worker process was killed from outside, most often for want of memory: take fewer JOBS"
_BY_NUMBER = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM.replace("on the disk", "in your quota"),
    errno.EFBIG: "a file grew beyond the limit for files: raise it ('ulimit -f unlimited')",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EROFS: "the disk is read-only: choose another folder by DOLLKIT_RUNS, or mend the disk",
    errno.EIO: "the disk cannot be read or written (input/output error): look after it",
    errno.ESTALE: "a shared folder went away meanwhile: mount it again",
}
_NUMBER = re.compile(r"\[Errno (\d+)\]|os error (\d+)")
_SAID = (
    (re.compile(r"No space left on device|disk is full", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"Too many open files"), errno.EMFILE),
    (re.compile(r"^MemoryError|can't allocate memory|CUDA out of memory|Cannot allocate memory"
                r"|failed to map segment from shared object"
                r"|^(numpy\.\S*)?_ArrayMemoryError|Unable to allocate"), errno.ENOMEM),
)  # fmt: skip


POOL = "BrokenProcessPool"
"""Error of a pool one of whose processes was killed."""

FILES = 256
"""Open files that a run may need at once, kernels and their sockets included."""

LITTLE = 50
"""MB of free disk below which no run is started: its bookkeeping alone would not fit."""


def check_room(folder: Path) -> None:
    """Refuse a folder on a disk that is all but full, before anything is begun."""
    free = shutil.disk_usage(folder).free // 10**6
    if free < LITTLE:
        raise InputError(f"{folder}: {free} MB left, {_ROOM}; {KEPT}")


def check_files() -> None:
    """Raise the limit on open files to what a run needs; where that is forbidden, say so."""
    try:
        import resource
    except ImportError:  # not POSIX: no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < FILES:
        if hard != unlimited and hard < FILES:
            raise InputError(
                f"only {hard} open files are allowed here, a run may need {FILES}: raise the hard "
                "limit ('ulimit -Hn 4096', or ask who runs the machine)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def words(error: str) -> str:
    """What an error says of the machine, and the cure; "" if it says nothing of it.

    Args:
        error: ``type: message``, as the last line of a traceback.
    """
    number = _NUMBER.search(error)
    code = int(number[1] or number[2]) if number else 0
    if code not in _BY_NUMBER:
        code = next((c for pattern, c in _SAID if pattern.search(error)), 0)
    if error.startswith(POOL):
        return f"{_WORKER}; {KEPT}"
    if not code:
        return ""
    place = re.search(r": '([^']+)'$", error)
    return f"{place[1] + ': ' if place else ''}{_BY_NUMBER[code]}; {KEPT}"
