"""Scripted trial: ``kill -9`` at random moments over the smoke run, then what is left.

    python -m tests.endurance.kills --kills 50 --seed 0 --folder /tmp/kills

Runs the smoke profile once in peace. Then starts it again and again, each time killing one of its
processes (the caller, Snakemake, a stage, a kernel, a rendering worker) or all of them at once
after a random time, which grows while no stage gets done, so that kills meet all stages; once it
has come to its end, the next one begins in a new folder. Every folder is finished in the end, and
its tables compared with those of the run in peace. Ends with 0 if nothing was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil

from dollkit.common import paths
from dollkit.data import store
from dollkit.labels.store import open as open_labels

PROFILE = "smoke"
KINDS = {
    "caller": "dollkit reproduce",
    "snakemake": "-m snakemake",
    "stage": "dollkit run",
    "kernel": "ipykernel",
    "worker": "multiprocessing.spawn",
}
"""Kinds of processes of a run, by a part of their command line."""
TIMED = r"second|_s$|hours|share_of_wait|images_per_s"
"""Columns and rows that tell how long something took."""


class Run:
    """The smoke profile in a folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "runs" / PROFILE
        self.made_again: list[str] = []

    def start(self) -> psutil.Popen:
        """`make reproduce PROFILE=smoke` without make."""
        self.place.mkdir(parents=True, exist_ok=True)
        own = {"DOLLKIT_RUNS": f"{self.place}/runs", "DOLLKIT_FIGURES": f"{self.place}/figures",
               "PYTHONPATH": str(paths.ROOT)}  # fmt: skip
        command = [sys.executable, "-m", "dollkit", "reproduce", "--profile", PROFILE]
        with (self.place / "log.txt").open("ab") as log:
            return psutil.Popen(
                [*command, "--jobs", "2"], env=os.environ | own, stdout=log, stderr=log
            )

    def finish(self) -> bool:
        """Run it to its end; True if it came to it."""
        before = self.manifests()
        ended = self.start().wait() == 0
        self.compare(before)
        return ended

    def manifests(self) -> dict[str, int]:
        """Finished stages and when their manifest was written (ns)."""
        found = self.folder.rglob("manifest.json")
        return {f.parent.relative_to(self.folder).as_posix(): f.stat().st_mtime_ns for f in found}

    def compare(self, before: dict[str, int]) -> int:
        """Note stages that were there `before` and were made again; how many are there now."""
        after = self.manifests()
        self.made_again += [n for n, stamp in before.items() if after.get(n) != stamp]
        return len(after)

    def tables(self) -> dict[str, str]:
        """Every CSV of the results as text, without columns and rows of seconds."""
        out = {}
        for path in sorted((self.place / "figures" / PROFILE).glob("*.csv*")):
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            kept = [c for c in frame if not pd.Series([c]).str.contains(TIMED).item()]
            timed = "measure" in frame and frame["measure"].str.contains(TIMED)
            rows = frame[~timed] if "measure" in frame else frame
            out[path.name] = rows[kept].to_csv(index=False)
        return out

    def half_written(self) -> list[str]:
        """Left-over parts, and stores that cannot be opened."""
        found = [p.name for p in self.folder.rglob("*") if ".part" in p.name or p.suffix == ".tmp"]
        for path in (*self.folder.glob("data/*/store.json"),
                     *self.folder.glob("labels/store/labels.json")):  # fmt: skip
            try:
                (store.open_store if path.name == "store.json" else open_labels)(path.parent)
            except Exception as error:  # whatever it is, it counts
                found.append(f"{path}: {error}")
        return found


def line(process: psutil.Process) -> str:
    """Command line of a process; "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Killer:
    """Kills, and what came of them."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.orphans: list[str] = []
        self.seconds: list[float] = []

    def kill(self, running: psutil.Popen) -> None:
        """Kill one process of a run, or all, and see that none stays."""
        tree = [running, *running.children(recursive=True)]
        lines = {p.pid: line(p) for p in tree}
        kinds = {k: [p for p in tree if word in lines[p.pid]] for k, word in KINDS.items()}
        kind = self.draw.choice([*(k for k, found in kinds.items() if found), "all"])
        for process in tree if kind == "all" else [self.draw.choice(kinds[kind])]:
            with suppress(psutil.Error):
                process.kill()
        self.killed[kind] += 1
        began = time.monotonic()
        _, left = psutil.wait_procs(tree, timeout=300)
        self.seconds.append(time.monotonic() - began)
        for process in left:
            self.orphans.append(lines[process.pid])
            with suppress(psutil.Error):
                process.kill()

    def disturb(self, run: Run, kills: int, longest: float) -> None:
        """Kill in one folder until the run has come to its end, or `kills` are done."""
        most = longest
        for _ in range(kills):
            before, running = run.manifests(), run.start()
            try:
                if running.wait(timeout=self.draw.uniform(1.0, most)) == 0:
                    return
                raise SystemExit((run.place / "log.txt").read_text(errors="replace")[-2000:])
            except psutil.TimeoutExpired:
                self.kill(running)
            done = run.compare(before)
            most = longest if done > len(before) else 1.4 * most
            print(f"{sum(self.killed.values()):3d} kills, {done} stages are done", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="gets what is run")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds until a kill")
    given = parser.parse_args()
    folder, killer = given.folder.resolve(), Killer(given.seed)
    peace, runs = Run(folder / "peace"), []
    if not peace.finish():
        raise SystemExit((peace.place / "log.txt").read_text(errors="replace")[-2000:])
    wanted = peace.tables()
    while (left := given.kills - sum(killer.killed.values())) > 0:
        runs.append(Run(folder / f"run{len(runs)}"))
        killer.disturb(runs[-1], left, given.longest)
    failed = [run.place.name for run in runs if not run.finish()]
    lost = {
        "tables_that_differ": [
            f"{run.place.name}/{n}" for run in runs for n, text in wanted.items()
            if run.tables().get(n) != text
        ],
        "runs_that_failed": failed,
        "stages_made_again": [name for run in runs for name in run.made_again],
        "orphans": killer.orphans,
        "half_written": [name for run in runs for name in run.half_written()],
    }  # fmt: skip
    most = round(max(killer.seconds, default=0.0), 1)
    print(json.dumps({"killed": killer.killed, "seconds_until_gone": most, **lost}, indent=1))
    return int(any(lost.values()))


if __name__ == "__main__":
    sys.exit(main())
