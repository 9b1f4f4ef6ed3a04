"""Processes of a run: one run at a time in a folder, signals that reach all, and what they lack.

Snakemake on SIGTERM starts nothing new and waits for what runs, which may take longer than a
scheduler's notice. So the signal goes to its whole process group: each stage shuts its kernel
down and keeps its checkpoints.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from dollkit.common.errors import InputError

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PR_SET_PDEATHSIG = 1
GRACE = 25.0
"""Seconds for an orderly end: less than the 30 that schedulers give."""
OURS = ("-m snakemake", "-m dollkit run", "ipykernel")
"""Command lines of what works in the folder of a run."""
KEPT = "all that is done is kept, the same command goes on"
SHORTAGES = (
    (r"Errno (28|122)\b|os error 28|No space left", "no room left on the disk: free some"),
    (r"Errno (5|30|116)\b", "the disk cannot be read or written: mend it, or set DOLLKIT_RUNS"),
    (r"Errno (23|24)\b|Too many open files", "too many open files: try 'ulimit -n 4096'"),
    (r"Errno 12\b|MemoryError|allocate|CUDA out of memory|failed to map segment",
     "out of memory: take fewer JOBS, or a smaller 'batch' or 'budget_mb' in the profile"),
    (r"^BrokenProcessPool", "a worker was killed, most often for want of memory: take fewer JOBS"),
)  # fmt: skip


def shortage(error: str) -> str:
    """What the machine lacks, and the cure, from ``type: message``; "" if it says nothing of it."""
    for pattern, words in SHORTAGES:
        if re.search(pattern, error):
            file = re.search(r": '([^']+)'$", error)
            return f"{file[1] + ': ' if file else ''}{words}; {KEPT}"
    return ""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one run that works in `folder`, until the block ends or this process dies."""
    try:
        lock = FileLock(folder / ".running.lock").acquire(timeout=0)
    except Timeout:
        raise InputError(f"another run works in {folder}: wait for it or stop it") from None
    with lock:
        at_work = [
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cwd"] == str(folder)
            and any(word in " ".join(process.info["cmdline"] or ()) for word in OURS)
        ]
        # What a killed run has left ends by itself within seconds.
        if alive := psutil.wait_procs(at_work, timeout=GRACE)[1]:
            raise InputError(
                f"process {alive[0].pid} of an earlier run still works in {folder}: stop it"
            )
        yield


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """`handler` for signals that end, but for those that are ignored (``nohup``)."""
    earlier = {s: h for s in SIGNALS if (h := signal.getsignal(s)) is not signal.SIG_IGN}
    for signum in earlier:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Handler that unwinds, once, so that a kernel is shut down."""
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def run_group(
    command: Sequence[str], environment: Mapping[str, str], end: int = signal.SIGTERM
) -> int:
    """Run a command in a process group of its own; once asked to end, end all of the group.

    Returns its exit status, or 128 + the number of the signal.
    """
    with (
        handling(terminate),
        subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=_die_with_parent
        ) as running,
    ):
        try:
            return running.wait()
        except SystemExit as asked:
            with handling(lambda signum, frame: None):  # once is enough
                _end_group(running, end)
            return int(asked.code or 1)


def _end_group(running: subprocess.Popen[bytes], end: int) -> None:
    limit = time.monotonic() + GRACE
    os.killpg(running.pid, end)
    while _living(running.pid) and time.monotonic() < limit:
        running.poll()
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def _living(group: int) -> bool:
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """From now on, end this process by SIGTERM once its parent is gone: Snakemake was killed."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()
