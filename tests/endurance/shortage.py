"""Scripted trial: the smoke run on a disk that is too small, read-only, and with few open files.

    python -m tests.endurance.shortage --folder /tmp/shortage

Needs root and Linux: the disk is a tmpfs, which grows from try to try. Each start that lacks
something must end by itself and say so in a line of its own; the next one must keep every stage
that stood, and the last one must give the tables of a run in peace.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.endurance.kills import PROFILE, Trial, half_written, manifests, tables

SIZES = (2, 60, 80, 120, 180, 260, 400, 900)
"""MiB of the disk, one after the other."""

FILES = (48, 256)
"""Limits on open files: one below what a run needs, and what it asks for."""

ROOM, READ_ONLY, OPEN = "no room left", "read-only", "open files are allowed"


def tmpfs(place: Path, mb: int, *, again: bool = False, mode: str = "rw") -> None:
    options = f"{'remount,' if again else ''}{mode},size={mb}m"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True)


class Shortage(Trial):
    """Starts that lack something, and what they said."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0)
        self.told: list[dict[str, Any]] = []

    def attempt(self, place: Path, what: str, *words: str, during: Callable[[], None] | None = None,
                files: int = 0) -> int:  # fmt: skip
        """Start once more; note how it ended, what it said, and what stands.

        Its log lies on another disk, for that of the run may be full.
        """
        before, log = manifests(place), self.folder / f"{place.name}-{len(self.told)}.txt"
        own = {"DOLLKIT_RUNS": f"{place}/runs", "DOLLKIT_FIGURES": f"{place}/figures"}
        began = time.monotonic()
        running = self.started(own, log, files)
        if during is not None:
            threading.Timer(15, during).start()
        status = running.wait(timeout=1800)
        text = log.read_text(errors="replace")
        lines = [x for x in text.splitlines() if any(w in x for w in words)]
        after = manifests(place)
        self.remade += [n for n, stamp in before.items() if after.get(n) != stamp]
        self.told.append({
            "what": what, "status": status, "seconds": round(time.monotonic() - began),
            "told": bool(lines), "line": lines[-1][-160:] if lines else text[-300:] * bool(status),
            "tracebacks": len(re.findall(r"^Traceback", text, re.MULTILINE)), "stand": len(after),
        })  # fmt: skip
        print(self.told[-1], flush=True)
        return int(status)

    def started(self, own: dict[str, str], log: Path, files: int) -> psutil.Popen:
        import os

        from dollkit import paths

        def limited() -> None:
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with log.open("wb") as stream:
            return psutil.Popen(
                [sys.executable, "-m", "dollkit.reproduce", "--profile", PROFILE, "--jobs", "2"],
                env=os.environ | own | {"PYTHONPATH": str(paths.ROOT)}, cwd=self.folder,
                stdout=stream, stderr=subprocess.STDOUT, preexec_fn=limited,
            )  # fmt: skip


def main() -> int:
    """Run the trial; 0 if every shortage was told and nothing lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file for the summary (JSON)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    trial = Shortage(given.folder.resolve())
    peace, disk = trial.folder / "peace", trial.folder / "disk"
    peace.mkdir(exist_ok=True)
    disk.mkdir(exist_ok=True)
    if trial.attempt(peace, "in peace"):
        return 1
    wanted = tables(peace)
    tmpfs(disk, SIZES[0])
    try:
        for number, mb in enumerate(SIZES):
            tmpfs(disk, mb, again=number > 0)
            if trial.attempt(disk, f"disk of {mb} MiB", ROOM) == 0:
                break
        differing = [n for n in wanted if tables(disk).get(n) != wanted[n]]
        broken = half_written(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    tmpfs(disk, 900)
    try:
        lock = lambda: tmpfs(disk, 900, again=True, mode="ro")  # noqa: E731
        trial.attempt(disk, "disk that becomes read-only", READ_ONLY, during=lock)
        tmpfs(disk, 900, again=True)
        for files in FILES:
            trial.attempt(disk, f"{files} open files", OPEN, files=files)
        first = trial.started(
            {"DOLLKIT_RUNS": f"{disk}/runs", "DOLLKIT_FIGURES": f"{disk}/figures"},
            trial.folder / "first.txt", 0,
        )  # fmt: skip
        time.sleep(12)
        trial.attempt(disk, "two at once", "another run works in")
        first.wait()
        trial.attempt(disk, "what was left")
        differing += [n for n in wanted if tables(disk).get(n) != wanted[n]]
        broken += half_written(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    failed = [t for t in trial.told if t["status"]]
    result = {
        "starts": trial.told, "tables_compared": 2 * len(wanted), "tables_that_differ": differing,
        "half_written": broken, "stages_run_twice": trial.remade,
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    untold = [t["what"] for t in failed if not t["told"]]
    return int(bool(differing or broken or trial.remade or untold or trial.told[-1]["status"]))


if __name__ == "__main__":
    sys.exit(main())
