"""SIGTERM and SIGHUP reach the stages: a scheduler's notice, ``kill``, a closed terminal.

Snakemake on SIGTERM starts nothing new and waits for what runs, which may take longer than any
notice. The stages are told too: each shuts its kernel down and keeps its checkpoints.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
GRACE = 25.0
"""Seconds for an orderly end: less than the 30 that schedulers give."""
Handler = Callable[[int, FrameType | None], Any]


class Asked(Exception):
    """Somebody asks this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def handle(handler: Handler) -> dict[int, Any]:
    """Set `handler` for the signals that are not ignored (``nohup`` ignores SIGHUP).

    Returns:
        The earlier handlers, for `restore`.
    """
    found: dict[int, Any] = {s: signal.getsignal(s) for s in SIGNALS}
    earlier = {s: h for s, h in found.items() if h is not signal.SIG_IGN}
    for signum in earlier:
        signal.signal(signum, handler)
    return earlier


def restore(earlier: dict[int, Any]) -> None:
    """Put back what `handle` replaced."""
    for signum, handler in earlier.items():
        signal.signal(signum, handler)


def run(
    command: Sequence[str], environment: Mapping[str, str], word: str, end: int = signal.SIGTERM
) -> int:
    """Run a process to its end; once asked to end, end it and those below it, and wait for that.

    Args:
        command: Snakemake's command line.
        environment: of the process.
        word: part of the command line of the processes below it that are told too.
        end: signal that ends it.

    Returns:
        Its exit status, or 128 + the number of the signal.
    """

    def ask(signum: int, frame: FrameType | None) -> None:
        raise Asked(signum)

    earlier = handle(ask)
    try:
        with subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent) as running:
            try:
                return _wait(running)
            except Asked as asked:
                handle(lambda signum, frame: None)  # once is enough
                _end(running, word, end)
                return 128 + asked.signum
    finally:
        restore(earlier)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent(seconds: float = 2.0) -> None:
    """From now on, end this process by SIGTERM once its parent is gone: Snakemake was killed.

    Args:
        seconds: between two looks.
    """
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()


def _wait(running: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return running.wait()
        except KeyboardInterrupt:
            continue  # it got Ctrl-C too: wait until it has stopped its jobs


def _end(running: subprocess.Popen[bytes], word: str, end: int) -> None:
    running.send_signal(end)
    told: set[int] = set()  # a second signal would cut the unwinding of the first short
    limit = time.monotonic() + GRACE
    while running.poll() is None:
        try:
            for process in psutil.Process(running.pid).children(recursive=True):
                late = time.monotonic() > limit
                if late or (process.pid not in told and word in process.cmdline()):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
                    told.add(process.pid)
            if time.monotonic() > limit:
                running.kill()
            running.wait(timeout=0.2)  # a stage may have been about to start: look again
        except (psutil.Error, subprocess.TimeoutExpired, KeyboardInterrupt):
            continue
