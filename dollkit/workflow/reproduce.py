"""What ``make reproduce`` calls: check the knobs, let Snakemake run, say what came out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.workflow import limits, parameters, run_lock, stage, stages, stopping, trouble

DEVICES = ("auto", "cpu", "cuda")
EXECUTORS = ("local", "slurm")
TRIGGERS = ("mtime", "params")
"""Not ``code`` (the Snakefile's own text) nor ``software-env``: neither changes a result. Nor
``input``: what a stage reads is among its params, and the parts of a shared one are no result."""


def check_knobs(
    profile: str, data: str, jobs: str, device: str, executor: str = "local"
) -> tuple[Path | None, int]:
    """Data folder and number of jobs from the knobs of the Makefile, where "" means unset."""
    parameters.profile_file(profile)
    if not jobs.isdecimal() or int(jobs) < 1:
        raise InputError(f"JOBS={jobs}: give the number of stages to run at once, 1 or more")
    if device not in DEVICES:
        raise InputError(f"DEVICE={device}: use one of {', '.join(DEVICES)}")
    if executor not in EXECUTORS:
        raise InputError(f"EXECUTOR={executor}: use one of {', '.join(EXECUTORS)}")
    if device == "cuda" and executor == "local":  # a cluster's GPUs are not seen from here
        from dollkit.common import compute  # it imports torch

        if not compute.cuda_devices():
            raise InputError("DEVICE=cuda: torch sees no CUDA device here; use DEVICE=cpu or auto")
    if data and not Path(data).is_dir():
        raise InputError(f"DATA={data}: no such folder; data/README.md shows the expected tree")
    return (Path(data).resolve() if data else None), int(jobs)


def drop_damaged(names: Sequence[str], profile: str) -> list[str]:
    """Delete the manifest of each artefact whose recorded files are gone, so that it is remade.

    Returns:
        One line per artefact dropped.
    """
    dropped = []
    for name in names:
        folder = paths.runs() / profile / name
        manifest = stage.read_manifest(folder) or {"outputs": {}}
        files = [folder / f for f in manifest["outputs"]]
        files += [paths.figures() / f for f in manifest.get("report", {})]
        gone = [f for f in files if not f.is_file()]
        if gone:
            (folder / stage.MANIFEST).unlink()
            dropped.append(f"{name}: {gone[0]} is gone, so the stage runs again")
    return dropped


def settle_clock(names: Sequence[str], profile: str) -> None:
    """Give manifests of the future, as a clock that was set back leaves them, the time of now.

    Else what is made of them would always be older than they are, and be made in every run.

    Args:
        names: instances, each after its inputs.
    """
    now = time.time_ns()
    for place, name in enumerate(names):
        manifest = paths.runs() / profile / name / stage.MANIFEST
        if manifest.is_file() and manifest.stat().st_mtime_ns > now:
            os.utime(manifest, ns=(now + 1000 * place, now + 1000 * place))


def release_stale_lock(folder: Path, jobs: bool = True) -> bool:
    """Remove Snakemake's lock if the run that took it was killed; True if there was one.

    Args:
        jobs: a stage at work here counts too; otherwise only who hands out the jobs of a cluster.
    """
    if not any((folder / ".snakemake" / "locks").glob("*")):
        return False
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or ())
        ours = any(word in command for word in ("snakemake", "dollkit.workflow.run", "ipykernel"))
        if not jobs:  # Snakemake runs itself once more in each job
            ours = "-m snakemake" in command and "--target-jobs" not in command
        if ours and process.info["cwd"] == str(folder):
            raise InputError(
                f"another run works in {folder} (process {process.info['pid']}): "
                f"wait for it or stop it"
            )
    for lock in (folder / ".snakemake" / "locks").glob("*"):
        lock.unlink(missing_ok=True)
    return True


def snakemake(
    profile: str,
    data: Path | None,
    jobs: int,
    device: str,
    *more: str,
    executor: str = "local",
    requests: Path | None = None,
    threads: int = 0,
) -> int:
    """Run Snakemake over a profile, its progress and reasons on our own streams.

    Args:
        jobs: stages at once; on this machine they share the cores.
        more: further arguments of Snakemake.
        executor: ``local``, or one of ``cluster/``.
        requests: what the stages ask of a cluster, see `cluster.write`.
        threads: of each stage; 0: its share of the cores.

    Returns:
        Snakemake's exit status, or 128 + a signal's number (see `stopping`).
    """
    threads = threads or max(1, cores() // jobs)
    config = [f"profile={profile}", f"threads={threads}", *([f"data={data}"] if data else [])]
    config += [f"requests={requests}"] if requests else []
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--directory", str(paths.runs() / profile), "--config", *config]
    command += ["--rerun-triggers", *TRIGGERS, "--rerun-incomplete", "--quiet", "host"]
    if executor == "local":
        command += ["--cores", str(jobs * threads), *more]
    else:
        from dollkit.workflow import cluster  # torch

        command += [*cluster.arguments(executor, paths.runs() / profile, jobs), *more]
    environment = os.environ | {"DOLLKIT_DEVICE": device, "PYTHONPATH": paths.python_path()}
    # On Ctrl-C it cancels a cluster's jobs; on SIGTERM it would wait for them.
    end = signal.SIGTERM if executor == "local" else signal.SIGINT
    return stopping.run(command, environment, "dollkit.workflow.run", end)


def stamps(names: Sequence[str], profile: str) -> dict[str, int]:
    """Modification time (ns) of each manifest there is."""
    files = {name: paths.runs() / profile / name / stage.MANIFEST for name in names}
    return {name: file.stat().st_mtime_ns for name, file in files.items() if file.is_file()}


def summary(names: Sequence[str], profile: str, before: Mapping[str, int]) -> list[str]:
    """Lines that tell which stages ran, how long each took, and what was written where."""
    after = stamps(names, profile)
    ran = [name for name in names if after.get(name) != before.get(name)]
    if ran:
        lines = [f"profile {profile}: {len(ran)} of {len(names)} stages ran"]
    else:
        lines = [f"nothing to do: all {len(names)} stages of profile {profile} are up to date"]
    width = max(len(name) for name in names)
    for name in names:
        manifest: dict[str, Any] = stage.read_manifest(paths.runs() / profile / name) or {}
        state = "ran" if name in ran else "up to date"
        lines.append(f"  {name:<{width}} {manifest.get('seconds', 0.0):>9.1f} s  {state}")
    folder = paths.figures() / profile
    written = sorted(f.name for f in folder.glob("*") if f.is_file())
    kinds: dict[str, list[str]] = {"tables": [], "figures": [], "claims": []}
    for name in written:
        kind = next((k for k in ("figures", "claims") if name.startswith(k[:-1])), "tables")
        kinds[kind].append(name)
    lines.append(f"written to {folder}:")
    lines += [f"  {kind + ':':<8} {' '.join(files) or '(none)'}" for kind, files in kinds.items()]
    lines.append(f"executed notebooks: {paths.runs() / profile / 'notebooks'}")
    return lines


def failures(names: Sequence[str], profile: str, started: int) -> list[str]:
    """Last line of the log of each stage that was started after `started` (ns) and failed."""
    lines = []
    for name in names:
        log = paths.runs() / profile / "logs" / f"{name.replace('/', '-')}.log"
        done = (paths.runs() / profile / name / stage.MANIFEST).is_file()
        if not done and log.is_file() and log.stat().st_mtime_ns >= started:
            text = log.read_text(encoding="utf-8").splitlines()
            lines.append(f"{text[-1] if text else name + ': stopped'} (log: {log})")
    return lines


def reproduce(
    profile: str, data: str, jobs: str, device: str, *more: str,
    executor: str = "local", requests: str = "", threads: int = 0,
) -> int:  # fmt: skip
    """Run a profile; returns the exit status. Bad knobs or parameters raise `InputError`."""
    folder, workers = check_knobs(profile, data, jobs, device, executor)
    plan = stages.plan(profile, folder)
    run_folder = paths.runs() / profile
    stage.make_writable(run_folder)
    stage.make_writable(paths.figures() / profile)
    for place in (run_folder, paths.figures()):
        trouble.check_room(place)
    trouble.check_files()
    knobs = folder, workers, device
    with run_lock.hold(run_folder):
        return _held(profile, plan, knobs, more, executor, requests, threads)


def _held(
    profile: str, plan: Sequence[stages.Instance], knobs: tuple[Path | None, int, str],
    more: Sequence[str], executor: str, requests: str, threads: int,
) -> int:  # fmt: skip
    """`reproduce`, once no other run can work in its folder."""
    folder, workers, device = knobs
    names, run_folder = [instance.name for instance in plan], paths.runs() / profile
    if executor != "local":
        from dollkit.workflow import cluster

        release_stale_lock(run_folder, jobs=False)
        if ended := cluster.cancel(run_folder):
            print(f"{ended} jobs of an earlier call were ended; they have kept what they had done")
    if release_stale_lock(run_folder):
        print("an earlier run was killed: its lock is released, its checkpoints are used")
    for line in drop_damaged(names, profile):
        print(line)
    settle_clock(names, profile)
    before = stamps(names, profile)
    if len(before) < len(names):
        limits.check_apart(profile, folder)
    asked = None
    if executor != "local":
        asked = cluster.write(profile, folder, device, requests)
    mark = run_folder / ".started"
    mark.touch()
    sys.stdout.flush()
    where: dict[str, Any] = {"executor": executor, "requests": asked, "threads": threads}
    status = snakemake(profile, folder, workers, device, *more, **where)
    if status:
        for line in failures(names, profile, mark.stat().st_mtime_ns):
            print(line, file=sys.stderr)
        if status > 128:
            print("stopped: all that is done is kept, the same command goes on", file=sys.stderr)
        return status
    print("\n".join(summary(names, profile, before)), flush=True)
    from dollkit.report import compare_runs  # pandas: bad knobs need not wait for it

    print("\n".join(compare_runs.report(profile)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line behind ``make reproduce``; unknown arguments go to Snakemake."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.workflow.reproduce", description=__doc__
    )
    parser.add_argument("--profile", default="laptop", help="PROFILE (default: %(default)s)")
    parser.add_argument("--data", default="", help="DATA: folder of data sets")
    parser.add_argument("--jobs", default="1", help="JOBS: stages at once (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="DEVICE: auto, cpu or cuda")
    parser.add_argument("--executor", default="local", help="EXECUTOR: local or slurm")
    parser.add_argument("--requests", default="", help="file of requests, in place of the model's")
    parser.add_argument("--threads", type=int, default=0, help="CPUs of each stage on a cluster")
    given, more = parser.parse_known_args(arguments)
    try:
        knobs = given.profile, given.data, given.jobs, given.device
        where = {k: vars(given)[k] for k in ("executor", "requests", "threads")}
        return reproduce(*knobs, *more, **where)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        machine = trouble.words(f"{type(error).__name__}: {error}")
        if not machine and not isinstance(error, ChildProcessError):
            raise
        print(machine or f"the parameters could not be checked: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
