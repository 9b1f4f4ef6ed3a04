"""One run at a time in a folder, on however many machines it is seen.

Snakemake's own lock stays behind when its process is killed, and does not say whose it was. Here
the holder is named in a file that it touches every few seconds: on the same machine its process
is looked for, on another one the age of the file tells. Locks of the system are not used, since
many shared folders keep them to one machine or do not know them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from dollkit.common.errors import InputError

FILE = ".running.json"
BEAT = 10.0
"""Seconds between two signs of life."""
SILENCE = 60.0
"""Seconds without one after which the holder on another machine is taken for dead."""
_held: set[Path] = set()
"""Notes of this very process."""


def here() -> str:
    """This machine since it was started, and the processes that are seen from here: a container
    may share its host's name and not its processes."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one run that works in `folder`, until the block ends or this process dies.

    Raises:
        OSError: the folder cannot be written.
    """
    path, own = folder / FILE, _self()
    while not _created(path, own):
        _remove_stale(path, _dead(path, folder))
    _held.add(path)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, own, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _held.discard(path)
        ended.set()
        thread.join()
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _self() -> dict[str, Any]:
    # Not the time it was started at: that moves with the clock.
    process = psutil.Process()
    own = {"pid": process.pid, "command": process.cmdline()}
    return {"host": platform.node(), "where": here(), **own}


def _created(path: Path, own: dict[str, Any]) -> bool:
    """Put our name there if no name is: whole or not at all."""
    fresh = path.with_name(f"{FILE}.{platform.node()}.{os.getpid()}")
    fresh.write_text(json.dumps(own), encoding="utf-8")
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links there
        with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            json.dump(own, file)
            return True
        return False
    finally:
        fresh.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _dead(path: Path, folder: Path) -> dict[str, Any] | None:
    """The note of a holder that is no more; `InputError` if it lives."""
    note = _read(path)
    holder = note or {}
    who = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("where") == here():
        # A container that starts again gives the same command the same number.
        reborn = holder.get("pid") == os.getpid() and path not in _held
        with contextlib.suppress(psutil.Error):
            if not reborn and psutil.Process(holder["pid"]).cmdline() == holder["command"]:
                raise InputError(f"another run works in {folder} ({who}): wait for it or stop it")
        return note
    age = _age(path)
    if age < SILENCE:
        raise InputError(
            f"another run works in {folder} ({who}, last sign of it {age:.0f} s ago): wait for it "
            f"or stop it there; if it was killed, try again in {SILENCE:.0f} s"
        )
    return note


def _age(path: Path) -> float:
    """Seconds since the last sign, by the clock of the disk: those of machines differ."""
    probe = path.with_name(f"{FILE}.{platform.node()}.{os.getpid()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return SILENCE
    finally:
        probe.unlink(missing_ok=True)


def _remove_stale(path: Path, dead: dict[str, Any] | None) -> None:
    """Take away the name of a dead run, unless somebody was faster and holds it now."""
    aside = path.with_name(f"{FILE}.{platform.node()}.{os.getpid()}.old")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
        if _read(aside) != dead:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _beat(path: Path, own: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        if _read(path) not in (own, None):
            # This machine slept, and another run has taken over: two must not write.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with contextlib.suppress(OSError):
            os.utime(path)
