"""Scripted trial: ``kill -9`` at random moments over the smoke run, then what is left.

    python -m tests.endurance.kills --kills 50 --seed 0 --folder /tmp/kills

Runs the smoke profile once in peace. Then starts it again and again, each time killing one of its
processes (the caller, Snakemake, a stage, a kernel) or all of them at once after a random time;
once it has come to its end, the next one begins in a new folder. Every folder is finished in the
end, and its tables compared with those of the run in peace.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from dollkit import paths, store
from dollkit.labels import open as open_labels

PROFILE = "smoke"
KINDS = {
    "caller": "dollkit.reproduce",
    "snakemake": "-m snakemake",
    "stage": "dollkit.run",
    "kernel": "ipykernel",
}
TIMED = r"second|_s$|hours|share_of_wait|images_per_s"
"""Columns that tell how long something took."""


class Trial:
    """Kills and what came of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.during: Counter[str] = Counter()
        self.orphans: list[str] = []
        self.remade: list[str] = []
        self.seconds: list[float] = []

    def start(self, place: Path) -> psutil.Popen:
        """`make reproduce PROFILE=smoke` without make."""
        place.mkdir(parents=True, exist_ok=True)
        own = {"DOLLKIT_RUNS": f"{place}/runs", "DOLLKIT_FIGURES": f"{place}/figures"}
        with (place / "log.txt").open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", "dollkit.reproduce", "--profile", PROFILE, "--jobs", "2"],
                env=os.environ | own | {"PYTHONPATH": str(paths.ROOT)},
                cwd=place, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self, running: psutil.Popen) -> None:
        """Kill one process of a run, or all, and see that none stays."""
        tree = [running, *running.children(recursive=True)]
        names = {p.pid: _line(p) for p in tree}
        kinds = {k: [p for p in tree if w in names[p.pid]] for k, w in KINDS.items()}
        for line in names.values():
            if KINDS["stage"] in line:
                self.during[line.split(KINDS["stage"])[1].split()[0]] += 1
        kind = self.draw.choice([k for k in kinds if kinds[k]] + ["all"])
        for process in tree if kind == "all" else [self.draw.choice(kinds[kind])]:
            _kill(process)
        self.killed[kind] += 1
        began = time.monotonic()
        _, left = psutil.wait_procs(tree, timeout=120)
        self.seconds.append(time.monotonic() - began)
        for process in left:
            self.orphans.append(names[process.pid])
            _kill(process)

    def disturb(self, place: Path, kills: int, longest: float) -> int:
        """One folder: kill until the run has come to its end, or `kills` are done."""
        done, before = 0, manifests(place)
        while done < kills:
            running = self.start(place)
            try:
                if running.wait(timeout=self.draw.uniform(1.0, longest)) == 0:
                    return done
                raise SystemExit(f"failed by itself: {(place / 'log.txt').read_text()[-2000:]}")
            except psutil.TimeoutExpired:
                self.kill(running)
            done += 1
            after = manifests(place)
            self.remade += [n for n, stamp in before.items() if after.get(n) != stamp]
            before = after
            print(f"{sum(self.killed.values()):3d} kills, {len(after)} stages stand", flush=True)
        return done


def manifests(place: Path) -> dict[str, int]:
    """Finished stages and when their manifest was written (ns)."""
    run = place / "runs" / PROFILE
    found = run.rglob("manifest.json")
    return {f.parent.relative_to(run).as_posix(): f.stat().st_mtime_ns for f in found}


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def tables(place: Path) -> dict[str, str]:
    """Every CSV of the results as text, columns of seconds left out."""
    out = {}
    for path in sorted((place / "figures" / PROFILE).glob("*.csv*")):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        kept = [c for c in frame if not pd.Series([c]).str.contains(TIMED).item()]
        rows = frame if "measure" not in frame else frame[~frame["measure"].str.contains(TIMED)]
        out[path.name] = rows[kept].to_csv(index=False)
    return out


def half_written(place: Path) -> list[str]:
    """Left-over parts, and stores that cannot be opened."""
    run = place / "runs" / PROFILE
    found = [p.name for p in run.rglob("*") if ".part" in p.name or p.suffix == ".tmp"]
    for path in (*run.glob("data/*/store.json"), *run.glob("labels/store/labels.json")):
        opened = store.open_store if path.name == "store.json" else open_labels
        try:
            opened(path.parent)
        except Exception as error:  # whatever it is, it counts
            found.append(f"{path}: {error}")
    return found


def main() -> int:
    """Run the trial; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=25.0, help="seconds until a kill, at most")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file for the summary (JSON)")
    given = parser.parse_args()
    trial = Trial(given.folder, given.seed)
    peace = given.folder / "peace"
    if trial.start(peace).wait() != 0:
        raise SystemExit((peace / "log.txt").read_text()[-2000:])
    wanted = tables(peace)
    places: list[Path] = []
    while sum(trial.killed.values()) < given.kills:
        places.append(given.folder / f"run{len(places)}")
        trial.disturb(places[-1], given.kills - sum(trial.killed.values()), given.longest)
    differing, broken, failed = [], [], 0
    for place in places:
        stood = manifests(place)
        failed += trial.start(place).wait() != 0
        after = manifests(place)
        trial.remade += [n for n, stamp in stood.items() if after.get(n) != stamp]
        own = tables(place)
        differing += [f"{place.name}/{n}" for n in wanted if own.get(n) != wanted[n]]
        broken += half_written(place)
    result: dict[str, Any] = {
        "kills": sum(trial.killed.values()), "seed": given.seed, "runs": len(places),
        "killed": dict(trial.killed), "stages_at_work": dict(sorted(trial.during.items())),
        "tables_compared": len(wanted) * len(places), "tables_that_differ": differing,
        "runs_that_failed": failed, "stages_run_twice": trial.remade, "orphans": trial.orphans,
        "half_written": broken, "slowest_end_s": round(max(trial.seconds), 1),
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    return int(bool(differing or failed or trial.remade or trial.orphans or broken))


if __name__ == "__main__":
    sys.exit(main())
