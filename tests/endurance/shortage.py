"""Scripted trial: the smoke run short of disk, memory or files, and with processes that die.

    python -m tests.endurance.shortage --folder /tmp/shortage

Needs root and Linux: the disk is a tmpfs and the memory a cgroup, each of which grows from try to
try. Each start that lacks something must end by itself and say so in a line of its own; the next
one must keep every stage that stood, and the last one must give the tables of a run in peace.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.endurance.trial import Run, kinds, parser, tell

DISK = (2, 60, 80, 120, 180, 260, 400, 900)
"""MiB of the disk, one after the other."""

MEMORY = (600, 1200, 1800, 2400, 3600, 8000)
"""MiB of all processes of a run together."""

FILES = (48, 256)
"""Limits on open files: one below what a run needs, and what it asks for."""

PRIVATE_MB = 500
"""Memory of one process, of which importing torch takes most."""

ROOM, READ_ONLY, OPEN, SHORT = "no room left", "read-only", "open files are allowed", "memory"
GOES_ON = "the same command goes on"
Hit = Callable[[psutil.Popen], None]


def tmpfs(place: Path, mb: int, *, again: bool = False, mode: str = "rw") -> None:
    """Mount a disk of `mb` MiB, or change the one that is there."""
    options = f"{'remount,' if again else ''}{mode},size={mb}m"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True)


class Group:
    """A control group with a limit on memory, version 1 or 2."""

    def __init__(self, name: str) -> None:
        root = Path("/sys/fs/cgroup")
        old = (root / "memory").is_dir()
        self.path = (root / "memory" if old else root) / name
        self.limit = self.path / ("memory.limit_in_bytes" if old else "memory.max")
        self.path.mkdir(exist_ok=True)

    def allow(self, mb: int) -> None:
        """Set the limit."""
        self.limit.write_text(str(mb << 20))

    def remove(self) -> None:
        """Take it away, if nothing runs in it."""
        with suppress(OSError):
            self.path.rmdir()


class Shortage:
    """Starts that lack something, and what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[dict[str, Any]] = []

    def attempt(self, run: Run, what: str, *words: str, hit: Hit | None = None,
                after: float = 15.0, **limits: Any) -> int:  # fmt: skip
        """Start once more; note how it ended, what it said, and what stands.

        Its log lies on another disk, for that of the run may be full.

        Args:
            words: one of them stands in the line that tells what is wrong.
            hit: done to the run while it is under way, `after` seconds.
            limits: of `Run.start`.
        """
        before, log = run.manifests(), self.folder / f"{len(self.told):02d}.txt"
        log.unlink(missing_ok=True)
        began = time.monotonic()
        running = run.start(log, **limits)
        if hit is not None:
            threading.Timer(after, hit, [running]).start()
        status = int(running.wait(timeout=1800))
        text = log.read_text(errors="replace")
        lines = [x for x in text.splitlines() if any(w.lower() in x.lower() for w in words)]
        self.told.append({
            "what": what, "status": status, "seconds": round(time.monotonic() - began),
            "told": bool(lines), "line": lines[-1][-200:] if lines else text[-300:] * bool(status),
            "tracebacks": len(re.findall(r"^Traceback", text, re.MULTILINE)),
            "stood": len(before), "stand": run.compare(before),
        })  # fmt: skip
        print(self.told[-1], flush=True)
        return status

    def disk(self, run: Run) -> None:
        """A disk that grows."""
        run.place.mkdir(exist_ok=True)
        tmpfs(run.place, DISK[0])
        for mb in DISK:
            tmpfs(run.place, mb, again=True)
            if self.attempt(run, f"disk of {mb} MiB", ROOM) == 0:
                return

    def lock_and_files(self, run: Run) -> None:
        """A disk that is read-only when the run goes on, and few open files.

        A mount with files open for writing cannot be made read-only: the run is ended first.
        """
        run.place.mkdir(exist_ok=True)
        tmpfs(run.place, DISK[-1])
        end: Hit = lambda r: r.send_signal(signal.SIGTERM)  # noqa: E731
        self.attempt(run, "SIGTERM, before the disk is read-only", GOES_ON, hit=end)
        tmpfs(run.place, DISK[-1], again=True, mode="ro")
        self.attempt(run, "disk that is read-only", READ_ONLY)
        tmpfs(run.place, DISK[-1], again=True)
        for files in FILES:
            self.attempt(run, f"{files} open files", OPEN, files=files)

    def memory(self, run: Run) -> None:
        """Memory that grows: the kernel of the system kills what asks for too much."""
        group = Group(f"dollkit-{self.folder.name}")
        try:
            for mb in MEMORY:
                group.allow(mb)
                if self.attempt(run, f"memory of {mb} MiB", SHORT, group=group.path) == 0:
                    return
        finally:
            group.remove()

    def deaths(self, run: Run) -> None:
        """Processes that die, and a scheduler that asks to end."""
        self.attempt(run, f"{PRIVATE_MB} MiB for each process", SHORT, memory_mb=PRIVATE_MB)
        self.attempt(run, "a rendering worker dies", "worker", hit=lambda r: _end(r, "worker"),
                     after=9.0)  # fmt: skip
        self.attempt(run, "a kernel dies", "kernel died", hit=lambda r: _end(r, "kernel"))
        self.attempt(run, "SIGTERM", GOES_ON, hit=lambda r: r.send_signal(signal.SIGTERM))
        first = run.start(self.folder / "first.txt")
        time.sleep(12)
        self.attempt(run, "two at once", "another run works in")
        first.wait()
        self.attempt(run, "what was left")


def _end(running: psutil.Popen, kind: str) -> None:
    """Kill one process of a kind, once there is one."""
    for _ in range(600):
        found = kinds([running, *running.children(recursive=True)]).get(kind)
        if found:
            found[0].kill()
            return
        time.sleep(0.1)


def main() -> int:
    """Run the trial; 0 if every shortage was told and nothing lost."""
    known = parser(__doc__)
    steps = {"disk": Shortage.disk, "locked": Shortage.lock_and_files, "memory": Shortage.memory,
             "deaths": Shortage.deaths}  # fmt: skip
    known.add_argument("--only", nargs="+", choices=steps, default=list(steps))
    given = known.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    trial = Shortage(given.folder.resolve())
    peace, others = Run(trial.folder / "peace"), [Run(trial.folder / n) for n in given.only]
    if trial.attempt(peace, "in peace"):
        return 1
    wanted, differing, broken = peace.tables(), [], []
    for run, name in zip(others, given.only, strict=True):
        try:
            steps[name](trial, run)
            own = run.tables()
            differing += [f"{run.place.name}/{n}" for n in wanted if own.get(n) != wanted[n]]
            broken += run.half_written()
        finally:
            subprocess.run(["umount", "--quiet", str(run.place)], check=False)
    remade = [name for run in others for name in run.remade]
    untold = [t["what"] for t in trial.told if t["status"] and not t["told"]]
    lost = {"tables_that_differ": differing, "half_written": broken, "stages_run_twice": remade,
            "not_told": untold}  # fmt: skip
    tell({"starts": trial.told, "tables_compared": len(others) * len(wanted), **lost}, given.out)
    return int(any(lost.values()))


if __name__ == "__main__":
    sys.exit(main())
