"""What has been measured: operations per second of stages that ran, and films per second.

Rates come from ``figures/laptop/provenance.json`` (a run's stages with their seconds and
parameters) and ``figures/bench.json``; those of this machine where it has run them, else those in
the repository.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from dollkit import paths
from dollkit.errors import InputError
from dollkit.plan.films import Films, stores_of
from dollkit.plan.work import Work, classifier

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
