"""What each stage asks of a cluster: memory, minutes, GPU, and how many jobs share its work.

Minutes and operations are the model of ``make plan``; memory is what the stages of the base run
peaked at, grown with the films and with the operations of a training step. Both carry a margin,
and a job that was killed for want of either is tried again with more.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError, brief, brief_stderr
from dollkit.workflow import plan_disk, plan_hours, plan_jobs
from dollkit.workflow.plan_hours import Survey, survey
from dollkit.workflow.plan_work import classifier, network
from dollkit.workflow.stages import Instance

PROFILES = paths.ROOT / "cluster"
FILE = "cluster.json"
MARGIN, LEAST_MB, UNKNOWN_MB = 1.5, 2000, 6000
START_MINUTES = 15
PART_MINUTES, MOST_PARTS = 30, 64
"""A part should be worth the half minute that starting it takes, and lose little when killed."""
GPU_SHARE = 0.2
"""Of the rate that the plan assumes of a GPU: small networks do not fill one."""
LABEL_SHARD = 64


def requests(known: Survey, device: str) -> dict[str, dict[str, int]]:
    """Per stage instance: mem_mb (MiB), runtime (minutes), gpus, parts.

    Args:
        known: the run; a stage that is up to date has one part, so that nothing of it runs.
        device: ``cuda`` asks for one GPU per job where networks run.
    """
    peaks = _peaks()
    out = {}
    for instance in known.plan:
        networks = instance.stage.family in plan_hours.NETWORK or instance.stage.family == "cost"
        gpus = int(device == "cuda" and networks)
        minutes = _minutes(known, instance, gpus)
        parts = _parts(known, instance, minutes) if known.stale[instance.name] else 1
        out[instance.name] = {
            "mem_mb": _memory(known, instance, peaks),
            "runtime": START_MINUTES + math.ceil(2 * minutes / parts),
            "gpus": gpus,
            "parts": parts,
        }
    return out


def _minutes(known: Survey, instance: Instance, gpus: int) -> float:
    given, family = instance.parameters, instance.stage.family
    if gpus:
        tflops = float(known.given.get("cost", {}).get("gpu_tflops", 50.0)) * GPU_SHARE
        return known.work.of(family, given) / (tflops * 1e12) / 60
    if known.rates is None:
        return 24 * 60.0
    _, most, basis = plan_hours.stage_seconds(instance.name, given, known.work, known.rates)
    return 60.0 if basis == plan_hours.NOT_MEASURED else most * known.rates.cores / 60


def _parts(known: Survey, instance: Instance, minutes: float) -> int:
    if not instance.stage.shared:
        return 1
    if instance.stage.family == "labels":
        given = instance.parameters
        films, _ = known.stores["films"].labelled(
            *(plan_jobs.whole(given[n]) for n in ("n_label", "n_hold"))
        )
        pieces = math.ceil(films / LABEL_SHARD)
    else:
        found = plan_jobs.runs_of(
            instance.parameters, known.stores[str(instance.parameters["task"])]
        )
        pieces = len(found)
    return max(1, min(math.ceil(minutes / PART_MINUTES), pieces, MOST_PARTS))


def _peaks() -> dict[str, tuple[float, Mapping[str, Any]]]:
    """Family to peak (MiB) of its largest stage of the base run, with its parameters and `size`.

    {} if the base run has none on record.
    """
    base = plan_hours.recorded(f"{plan_hours.BASE}/provenance.json")
    out: dict[str, tuple[float, Mapping[str, Any]]] = {}
    if base is None:
        return out
    stages = base[1]["stages"]
    size = stages["data"]["parameters"]["size"]
    for name, record in stages.items():
        peak = float(record.get("peak_mb", 0))
        if peak > out.get(plan_hours.family(name), (0.0, {}))[0]:
            out[plan_hours.family(name)] = peak, {**record["parameters"], "size": size}
    return out


def _memory(
    known: Survey, instance: Instance, peaks: Mapping[str, tuple[float, Mapping[str, Any]]]
) -> int:
    family = instance.stage.family
    size = int(known.given["data"]["size"])
    films = sum(plan_disk.store_bytes(s, size) for s in known.stores.values()) / 2**20
    if family not in peaks:
        return math.ceil(UNKNOWN_MB + films)
    peak, base = peaks[family]
    idle = min(p for p, _ in peaks.values())
    grown = max(1.0, _step(family, instance.parameters, size) / _step(family, base, base["size"]))
    need = MARGIN * (peak + (peak - idle) * (grown - 1) + films)
    return max(LEAST_MB, 500 * math.ceil(need / 500))


def _step(family: str, given: Mapping[str, Any], size: int) -> float:
    """Operations of a training step; what it keeps in memory grows like them, or less."""
    if family == "classifiers":
        return float(given["batch"] * classifier(given["architecture"], given["depth"], size))
    if family in ("pretrain", "finetune"):
        kind = given["network"], given["encoder"], given["encoder_depth"]
        return float(given["batch"] * network(*kind, 14, size))
    return float(size**2)


def write(profile: str, data: Path | None, device: str, given: str = "") -> Path:
    """Put the requests of a run where Snakemake finds them, on this machine and on the nodes.

    Args:
        given: file of requests in place of the model's, such as an edited older one.
    """
    found = read(Path(given)) if given else requests(survey(profile, data), device)
    path = paths.runs() / profile / FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(path: Path) -> dict[str, dict[str, int]]:
    """Requests in a file: instance to mem_mb, runtime, gpus, parts."""
    found = plan_hours.read(path)
    for name, own in found.items():
        wrong = not isinstance(own, dict) or own.keys() != {"mem_mb", "runtime", "gpus", "parts"}
        if wrong or not all(isinstance(v, int) and v >= 0 for v in own.values()):
            raise InputError(f"{path}: {name}: give mem_mb, runtime (minutes), gpus and parts")
    return found


def arguments(executor: str, run: Path, jobs: int) -> list[str]:
    """Arguments of Snakemake for an executor, from ``cluster/<executor>/config.yaml``."""
    return [
        "--workflow-profile", str(PROFILES / executor),
        "--jobs", str(jobs),
        f"--{executor}-jobname-prefix", prefix(run),
    ]  # fmt: skip


def prefix(run: Path) -> str:
    """Of the names of a run's jobs: no other run has it."""
    return f"dollkit-{sha256(str(run.resolve()).encode()).hexdigest()[:10]}"


def leftovers(run: Path) -> list[str]:
    """Jobs of this run that SLURM still holds: an earlier controller was killed."""
    command = ["squeue", "--noheader", "--me", "--format", "%i %j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (
            brief_stderr(error.stderr) if isinstance(error, subprocess.CalledProcessError) else ""
        )
        raise InputError(f"EXECUTOR=slurm: squeue fails: {said or brief(error)}") from None
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    return [job for job, name in lines if name.startswith(prefix(run))]


def cancel(run: Path) -> int:
    """End what an earlier controller left running; it keeps its checkpoints. Returns how many."""
    found = leftovers(run)
    if found:
        subprocess.run(["scancel", *found], check=False)
    while leftovers(run):
        time.sleep(2)
    return len(found)
