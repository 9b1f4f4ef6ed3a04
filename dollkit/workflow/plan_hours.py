"""Hours of every stage as a range, from work counted and rates measured; and of a GPU, assumed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.machine import Json, cores
from dollkit.data.datasets import PHANTOM
from dollkit.workflow import limits, plan_films, plan_jobs, stages
from dollkit.workflow.plan_films import Films, stores_of
from dollkit.workflow.plan_work import Work, classifier
from dollkit.workflow.stages import Instance

NOT_MEASURED = "not measured"
TIMES = (10, 100)
"""Multiples of the measured machine's rate that a GPU is told at."""


def stage_seconds(
    name: str, given: Mapping[str, Any], work: Work, rates: Rates
) -> tuple[float, float, str]:
    """Seconds of the whole measured machine that a stage takes: least, most, and on what basis.

    ``scaled``: operations at the lowest and highest rate measured; films at the lowest and highest
    speed measured. ``as measured``: what the base run took.
    """
    kind = family(name)
    if kind in NETWORK:
        low, high = rates.network["explain" if kind == "labels" else "train"]
        flop = work.of(kind, given)
        return flop / high, flop / low, "scaled by operations"
    if kind == "data":
        spent = [_films(work.stores, rates, end) for end in (1, 0)]
        return spent[0], spent[1], "scaled by films"
    if kind == "cost" and kind in rates.seconds:
        ups = [classifier(n, d, work.size) for n, d in work.models.items()]
        base = [classifier(n, 5, 96) for n in rates.points if n]
        factor = sum(ups) / sum(base) * given["n_films"] / 6
        return (
            0.5 * factor * rates.seconds[kind],
            2 * factor * rates.seconds[kind],
            "base run, within a factor of two (assumed)",
        )
    if kind in rates.seconds:
        return rates.seconds[kind], rates.seconds[kind], "as measured"
    return 0.0, 0.0, NOT_MEASURED


def _films(stores: Mapping[str, Films], rates: Rates, end: int) -> float:
    return sum(
        len(s.films) / (rates.render if s.source == PHANTOM else rates.decode)[end]
        for s in stores.values()
    )


def account(
    plan: Sequence[Instance], stale: Mapping[str, str], work: Work, rates: Rates | None,
    tflops: float,
) -> dict[str, Json]:  # fmt: skip
    """Work and hours of the stages that would run.

    Args:
        plan: instances; stale: from `jobs.stale`.
        work: of the run.
        rates: what was measured; None: work is told, and no hours.
        tflops: sustained rate of a GPU that is assumed, TFLOP/s.

    Returns:
        stages (name, pflop, hours [least, most] or null, basis), pflop, hours, gpu, measured_on,
        cores_here, made_from.
    """
    todo = [i for i in plan if stale.get(i.name, "new")]
    factor = rates.cores / cores() if rates else 1.0
    rows: list[Json] = []
    flop, total, other = 0.0, [0.0, 0.0], [0.0, 0.0]
    for instance in todo:
        own = work.of(instance.stage.family, instance.parameters)
        flop += own
        row: dict[str, Json] = {"name": instance.name, "pflop": own / 1e15}
        if rates is not None:
            low, high, basis = stage_seconds(instance.name, instance.parameters, work, rates)
            hours = [low * factor / 3600, high * factor / 3600]
            row |= {"hours": None if basis == NOT_MEASURED else [*hours], "basis": basis}
            for sums in (total, other) if not own else (total,):
                sums[0] += hours[0]
                sums[1] += hours[1]
        rows.append(row)
    out: dict[str, Json] = {"stages": rows, "pflop": flop / 1e15, "cores_here": cores()}
    out["gpu"] = {
        "assumed_tflops": tflops,
        "hours_of_networks": flop / (tflops * 1e12) / 3600,
    }
    if rates is not None:
        network = [t - o for t, o in zip(total, other, strict=True)]
        out |= {
            "hours": [*total],
            "hours_without_networks": [*other],
            "at_times": {
                str(n): [o + h / n for o, h in zip(other, network, strict=True)] for n in TIMES
            },
            "measured_on": rates.where,
            "measured_cores": rates.cores,
            "measured_gflops": {k: [v / 1e9 for v in ends] for k, ends in rates.network.items()},
            "made_from": list(rates.made_from),
        }
    return out


# What has been measured: operations per second of stages that ran, and films per second.
#
# Rates come from ``figures/laptop/provenance.json`` (a run's stages with their seconds and
# parameters) and ``figures/bench.json``; those of this machine where it has run them, else those in
# the repository.


BASE = "laptop"
"""Profile whose run the rates are taken from: it makes its own films, so its work is known."""
NETWORK = ("classifiers", "labels", "pretrain", "finetune")


@dataclass(frozen=True)
class Rates:
    """Measured on one machine, which is told in `where`.

    Attributes:
        network: kind (``train``, ``explain``) to lowest and highest operations per second.
        decode, render: films per second, lowest and highest.
        seconds: machine seconds of the base run's other stages, by family.
        points: of a path, mean, by classifier; "" for any other.
        where: cores and platform.
        cores: of that machine.
        made_from: files that all this is from.
    """

    network: Mapping[str, tuple[float, float]]
    decode: tuple[float, float]
    render: tuple[float, float]
    seconds: Mapping[str, float]
    points: Mapping[str, float]
    where: str
    cores: int
    made_from: tuple[str, ...]


def recorded(name: str) -> tuple[Path, dict[str, Any]] | None:
    """A committed or regenerated JSON of ``figures/``, this machine's own first."""
    for folder in dict.fromkeys((paths.figures(), paths.ROOT / "figures")):
        path = folder / name
        if path.is_file():
            return path, read(path)
    return None


def read(path: Path) -> dict[str, Any]:
    """What a JSON file of results holds; `InputError` if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): restore it or run it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no results: restore it or run it again")
    return content


def machine_seconds(stages: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of the machine that each stage took: those in which k stages ran count 1/k each.

    Their sum is the time in which any stage ran, however many ran at once.
    """
    spans = {}
    for name, record in stages.items():
        start = datetime.fromisoformat(record["started"]).timestamp()
        spans[name] = (start, start + float(record["seconds"]))
    marks = sorted({t for span in spans.values() for t in span})
    out = dict.fromkeys(spans, 0.0)
    for begin, end in pairwise(marks):
        here = [n for n, (a, b) in spans.items() if a <= begin and end <= b]
        for name in here:
            out[name] += (end - begin) / len(here)
    return out


def family(name: str) -> str:
    return name.split("/")[0]


def work_of(provenance: Mapping[str, Any], points: Mapping[str, float], data: str = "") -> Work:
    """Work of a run that is told by its provenance.

    Args:
        data: folder of its data sets on this machine.
    """
    stages = provenance["stages"]
    given = {name: record["parameters"] for name, record in stages.items()}
    own = dict(given["data"]) | ({"data_dir": data} if data else {})
    stores: dict[str, Films] = stores_of(own)[0]
    models = {p["architecture"]: p["depth"] for n, p in given.items() if family(n) == "classifiers"}
    return Work(own["size"], stores, models, points, given["labels"])


def measured() -> Rates | None:
    """The rates at hand; None without a base run or a bench."""
    base, bench = recorded(f"{BASE}/provenance.json"), recorded("bench.json")
    if base is None or bench is None or "ig_models" not in bench[1]:
        return None
    stages, speed = base[1]["stages"], bench[1]
    models = speed["ig_models"]
    points = {name: float(row["fast"]["steps_mean"]) for name, row in models.items()}
    points[""] = statistics.fmean(points.values())
    spent, work = machine_seconds(stages), work_of(base[1], points)
    cores = int(base[1]["environment"]["cpus"])
    done = {n: work.of(family(n), stages[n]["parameters"]) / spent[n] for n in stages}
    training = [r for n, r in done.items() if family(n) in ("classifiers", "pretrain", "finetune")]
    share = 1 + speed["ig_films"] / speed["ig_pairs"]
    side, threads = speed["ig_size"], speed["ig_threads"]
    explaining = [done["labels"]]
    for name, row in models.items():
        per_pair = points[name] * share * classifier(name, work.models.get(name, 5), side)
        explaining.append(per_pair / row["fast"]["seconds_per_pair"] * cores / threads)
    films = sum(len(s.films) for s in work.stores.values())
    drawn = [float(v) for v in speed["phantom_films_per_s"].values()] + [films / spent["data"]]
    decoded = [speed["store_build_films_per_s"], speed["store_build_png_1024_films_per_s"]]
    return Rates(
        {"train": _ends(training), "explain": _ends(explaining)},
        _ends(decoded),
        _ends(drawn),
        {family(n): spent[n] for n in stages if family(n) not in (*NETWORK, "data")},
        points,
        f"{cores} cores, {base[1]['environment']['platform']}",
        cores,
        (str(base[0]), str(bench[0])),
    )


def _ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


# What a run consists of, before anything is counted or asked of a cluster.


@dataclass(frozen=True)
class Survey:
    """A run that can start.

    Attributes:
        plan: instances, each after its inputs; given: parameters of each.
        stores: packed films to come; tables: what they are counted from.
        stale: why each instance would run, see `jobs.stale`.
        work: operations of the stages.
        rates: what was measured on some machine; None: nothing.
    """

    plan: list[Instance]
    given: Mapping[str, dict[str, Any]]
    stores: dict[str, plan_films.Films]
    tables: Any
    stale: dict[str, str]
    work: Work
    rates: Rates | None


def survey(profile: str, data: Path | None) -> Survey:
    """Check the parameters and the data of a profile, and count its films."""
    plan = stages.plan(profile, data)
    limits.check_early(plan)
    given: dict[str, dict[str, Any]] = {i.name: dict(i.parameters) for i in plan}
    if "data" not in given or "labels" not in given:
        raise InputError(f"profile {profile} has no data and labels stage to plan for")
    stores, tables = plan_films.stores_of(given["data"])
    found = measured()
    models = {p["architecture"]: p["depth"] for p in given.values() if "architecture" in p}
    points = found.points if found else {"": float(given["labels"]["most_steps"])}
    work = Work(int(given["data"]["size"]), stores, models, points, given["labels"])
    return Survey(plan, given, stores, tables, plan_jobs.stale(plan, profile), work, found)


# The model of hours held against a run that it was not made from.


def held(path: Path, data: str) -> list[Json]:
    """Each kind of stage of a finished run: seconds told by the model, and those that it took.

    Args:
        path: a ``provenance.json``.
        data: folder of its data sets on this machine; "" for the phantom.

    Returns:
        Per family: family, least, most, took (seconds of the whole machine), stages, left_out
        (stages whose parameters are of another version, which cannot be counted).
    """
    found, run = measured(), read(path)
    if found is None:
        raise InputError("nothing was measured: run `make reproduce PROFILE=laptop` and make bench")
    try:
        stages = run["stages"]
        spent, work = machine_seconds(stages), work_of(run, found.points, data)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the provenance of a whole run ({error} is missing)"
        ) from None
    rows: dict[str, dict[str, float]] = {}
    for name, took in spent.items():
        empty = {"least": 0.0, "most": 0.0, "took": 0.0, "stages": 0, "left_out": 0}
        row = rows.setdefault(family(name), empty)
        try:
            least, most, _ = stage_seconds(name, stages[name]["parameters"], work, found)
        except KeyError:
            row["left_out"] += 1
            continue
        for key, value in zip(empty, (least, most, took, 1), strict=False):
            row[key] += value
    return [{"family": kind, **row} for kind, row in rows.items()]
