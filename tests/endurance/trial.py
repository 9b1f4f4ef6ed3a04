"""What the scripted trials share: a run in a folder of its own, and what it leaves there."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from dollkit.common import paths
from dollkit.data import store
from dollkit.labels.store import open as open_labels

PROFILE = "smoke"
KINDS = {
    "caller": "dollkit.workflow.reproduce",
    "snakemake": "-m snakemake",
    "stage": "dollkit.workflow.run",
    "kernel": "ipykernel",
    "worker": "multiprocessing.spawn",
}
"""Kinds of processes of a run, by a part of their command line."""

TIMED = r"second|_s$|hours|share_of_wait|images_per_s"
"""Columns that tell how long something took."""


@dataclass
class Run:
    """The smoke profile in a folder of its own.

    Attributes:
        place: gets ``runs/`` and ``figures/``.
        code: the repository.
        jobs: stages at once; each gets its share of the cores.
    """

    place: Path
    code: Path = paths.ROOT
    jobs: int = 2
    remade: list[str] = field(default_factory=list)
    """Stages that stood, and were made again."""

    def start(self, log: Path | None = None, files: int = 0, group: Path | None = None,
              memory_mb: int = 0) -> psutil.Popen:  # fmt: skip
        """`make reproduce PROFILE=smoke` without make.

        Args:
            log: file of what it says (default: in the folder itself).
            files: hard limit on open files; 0: none.
            group: cgroup it runs in, see `memory_group`.
            memory_mb: limit on private memory of each process; 0: none.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        own = {"DOLLKIT_RUNS": f"{self.place}/runs", "DOLLKIT_FIGURES": f"{self.place}/figures",
               "PYTHONPATH": str(self.code)}  # fmt: skip
        # Else it would overrule the threads that `jobs` gives each stage.
        given = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}

        def limited() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            if memory_mb:
                resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20,) * 2)

        with (log or self.place / "log.txt").open("ab") as stream:
            return psutil.Popen(
                [sys.executable, "-m", "dollkit.workflow.reproduce", "--profile", PROFILE,
                 "--jobs", str(self.jobs)],
                env=given | own,
                cwd=self.code, stdout=stream, stderr=subprocess.STDOUT, preexec_fn=limited,
            )  # fmt: skip

    def finish(self) -> bool:
        """Run it to its end; True if it came to it."""
        before = self.manifests()
        ended = self.start().wait() == 0
        self.compare(before)
        return ended

    def manifests(self) -> dict[str, int]:
        """Finished stages and when their manifest was written (ns)."""
        run = self.place / "runs" / PROFILE
        found = run.rglob("manifest.json")
        return {f.parent.relative_to(run).as_posix(): f.stat().st_mtime_ns for f in found}

    def compare(self, before: dict[str, int]) -> int:
        """Note stages that stood `before` and were made again; returns how many stand now."""
        after = self.manifests()
        self.remade += [n for n, stamp in before.items() if after.get(n) != stamp]
        return len(after)

    def said(self) -> str:
        """End of its log."""
        return (self.place / "log.txt").read_text(errors="replace")[-2000:]

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
        run = self.place / "runs" / PROFILE
        found = [p.name for p in run.rglob("*") if ".part" in p.name or p.suffix == ".tmp"]
        for path in (*run.glob("data/*/store.json"), *run.glob("labels/store/labels.json")):
            opened = store.open_store if path.name == "store.json" else open_labels
            try:
                opened(path.parent)
            except Exception as error:  # whatever it is, it counts
                found.append(f"{path}: {error}")
        return found


def line(process: psutil.Process) -> str:
    """Command line of a process; "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kinds(tree: list[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """Processes of a run by kind; a kind that has none is not there."""
    lines = {p.pid: line(p) for p in tree}
    found = {kind: [p for p in tree if word in lines[p.pid]] for kind, word in KINDS.items()}
    return {kind: some for kind, some in found.items() if some}


def parser(text: str | None) -> argparse.ArgumentParser:
    """Arguments that all trials have."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--folder", type=Path, required=True, help="gets what is run")
    made.add_argument("--out", type=Path, help="file for the summary (JSON)")
    return made


def tell(result: dict[str, Any], out: Path | None) -> None:
    """Print a summary, and write it."""
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")
