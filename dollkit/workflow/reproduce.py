"""What ``make reproduce`` calls: check the knobs, let Snakemake run, report the results."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError, brief
from dollkit.common.machine import cores
from dollkit.workflow import run, stage, stages

KNOWN = {"DEVICE": ("auto", "cpu", "cuda"), "EXECUTOR": ("local", "slurm")}
TRIGGERS = ("mtime", "params")
"""Not ``code`` (the Snakefile's own text) nor ``software-env``: neither changes a result. Nor
``input``: what a stage reads is among its params, and the shares of a stage are no result."""


def check_knobs(jobs: str, device: str, executor: str) -> None:
    """Refuse knobs of the Makefile that cannot be meant."""
    if not jobs.isdecimal() or int(jobs) < 1:
        raise InputError(f"JOBS={jobs}: give the number of stages to run at once, 1 or more")
    for knob, value in (("DEVICE", device), ("EXECUTOR", executor)):
        if value not in KNOWN[knob]:
            raise InputError(f"{knob}={value}: use one of {', '.join(KNOWN[knob])}")
    if device == "cuda" and executor == "local":  # a cluster's GPUs are not seen from here
        from dollkit.common import compute  # torch takes seconds

        if not compute.cuda_name():
            raise InputError("DEVICE=cuda: torch sees no CUDA device here; use DEVICE=cpu or auto")


def drop_damaged(names: Sequence[str], profile: str) -> list[str]:
    """Delete the manifest of each artefact that misses a file; one line for each."""
    dropped = []
    for name in names:
        folder = paths.runs() / profile / name
        manifest = stage.read_manifest(folder) or {"outputs": {}}
        files = [folder / f for f in manifest["outputs"]]
        files += [paths.figures() / f for f in manifest.get("report", {})]
        if gone := [f for f in files if not f.is_file()]:
            (folder / stage.MANIFEST).unlink()
            dropped.append(f"{name}: {gone[0]} is gone, so the stage runs again")
    return dropped


def check_parameters(profile: str, data: Path | None) -> None:
    """`parameter_ranges.check_plan`, which imports torch."""
    from dollkit.workflow import parameter_ranges

    parameter_ranges.check_plan(stages.plan(profile, data))


def snakemake(
    profile: str, data: Path | None, jobs: int, device: str, *more: str,
    executor: str = "local", threads: int = 0, parts: int = 1,
) -> int:  # fmt: skip
    """Run Snakemake over a profile; returns its exit status, or 128 + a signal's number.

    `jobs` stages run at once, with `threads` each (0: their share of the cores); `more` goes to
    Snakemake. `executor` is ``local`` or a folder of ``cluster/`` with a workflow profile, where
    `parts` jobs share the work of a stage that can be shared.
    """
    threads = threads or max(1, cores() // jobs)
    folder = paths.runs() / profile
    config = [f"profile={profile}", f"threads={threads}", f"parts={parts}", f"device={device}"]
    config += [f"executor={executor}", *([f"data={json.dumps(str(data))}"] if data else [])]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--config", *config]
    # `run.hold` keeps other runs out; Snakemake's lock would outlive a killed one.
    command += ["--nolock", "--rerun-triggers", *TRIGGERS, "--rerun-incomplete", "--quiet", "host"]
    if executor == "local":
        command += ["--cores", str(jobs * threads)]
    else:
        command += ["--workflow-profile", str(paths.ROOT / "cluster" / executor)]
        command += ["--jobs", str(jobs), f"--{executor}-jobname-prefix", job_prefix(folder)]
    environment = os.environ | {"DOLLKIT_DEVICE": device, "PYTHONPATH": paths.python_path()}
    # On Ctrl-C it cancels a cluster's jobs; on SIGTERM it would wait for them.
    end = signal.SIGTERM if executor == "local" else signal.SIGINT
    return run.run_group([*command, *more], environment, end)


def job_prefix(folder: Path) -> str:
    """Begins the names of a run's jobs on a cluster; no other run has it."""
    return f"dollkit-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"


def slurm_jobs(folder: Path) -> list[str]:
    """Jobs of this run that SLURM still holds."""
    command = ["squeue", "--noheader", "--me", "--format", "%i %j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or "").strip() or brief(error)
        raise InputError(f"EXECUTOR=slurm: squeue fails: {said.splitlines()[-1]}") from None
    jobs = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    return [number for number, name in jobs if name.startswith(job_prefix(folder))]


def _since(file: Path, started: int) -> bool:
    return file.is_file() and file.stat().st_mtime_ns >= started


def summary(names: Sequence[str], profile: str, started: int) -> list[str]:
    """Lines on which stages ran since `started` (ns), how long each took, where results are."""
    folder = paths.runs() / profile
    ran = [name for name in names if _since(folder / name / stage.MANIFEST, started)]
    lines = [f"profile {profile}: {len(ran)} of {len(names)} stages ran"]
    if not ran:
        lines = [f"nothing to do: all {len(names)} stages of profile {profile} are up to date"]
    width = max(len(name) for name in names)
    for name in names:
        manifest: dict[str, Any] = stage.read_manifest(folder / name) or {}
        state = "ran" if name in ran else "up to date"
        lines.append(f"  {name:<{width}} {manifest.get('seconds', 0.0):>9.1f} s  {state}")
    lines.append(f"tables, figures and claims: {paths.figures() / profile}")
    return [*lines, f"executed notebooks: {folder / 'notebooks'}"]


def failures(names: Sequence[str], profile: str, started: int) -> list[str]:
    """Last line of the log of each stage that was started after `started` (ns) and failed."""
    lines = []
    for name in names:
        log = paths.runs() / profile / "logs" / f"{name.replace('/', '-')}.log"
        done = (paths.runs() / profile / name / stage.MANIFEST).is_file()
        if not done and _since(log, started):
            text = log.read_text(encoding="utf-8").splitlines()
            lines.append(f"{text[-1] if text else name + ': stopped'} (log: {log})")
    return lines


def reproduce(
    profile: str, data: Path | None, jobs: str, device: str, *more: str,
    executor: str = "local", threads: int = 0, parts: int = 1,
) -> int:  # fmt: skip
    """Run a profile; returns the exit status. Bad knobs or parameters raise `InputError`."""
    check_knobs(jobs, device, executor)
    data = data.resolve() if data else None
    names = [instance.name for instance in stages.plan(profile, data)]
    run_folder = paths.runs() / profile
    stage.make_writable(run_folder)
    stage.make_writable(paths.figures() / profile)
    with run.hold(run_folder):
        if executor == "slurm":
            if left := slurm_jobs(run_folder):  # of a killed call: no two may write to one folder
                print(f"{len(left)} jobs of an earlier call are ended; what is done is kept")
                subprocess.run(["scancel", *left], check=False)
            while slurm_jobs(run_folder):
                time.sleep(2)
        for line in drop_damaged(names, profile):
            print(line)
        if not all((run_folder / name / stage.MANIFEST).is_file() for name in names):
            # In a process of its own: who waits for a run need not hold torch.
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
                try:
                    pool.submit(check_parameters, profile, data).result()
                except BrokenProcessPool as error:
                    raise ChildProcessError(brief(error)) from None
        mark = run_folder / ".started"
        mark.touch()
        started = mark.stat().st_mtime_ns
        sys.stdout.flush()
        status = snakemake(
            profile, data, int(jobs), device, *more,
            executor=executor, threads=threads, parts=1 if executor == "local" else parts,
        )  # fmt: skip
        if status:
            for line in failures(names, profile, started):
                print(line, file=sys.stderr)
            if status > 128:
                print(f"stopped: {run.KEPT}", file=sys.stderr)
            return status
        print("\n".join(summary(names, profile, started)), flush=True)
    from dollkit.report import compare  # pandas: bad knobs need not wait for it

    print("\n".join(compare.against_committed(profile)))
    return 0
