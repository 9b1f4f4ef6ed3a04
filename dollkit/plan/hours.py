"""Hours of every stage as a range, from work counted and rates measured; and of a GPU, assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dollkit.machine import Json, cores
from dollkit.pipeline import Instance
from dollkit.plan.films import Films
from dollkit.plan.rates import NETWORK, Rates, family
from dollkit.plan.work import Work, classifier
from dollkit.readers.datasets import PHANTOM

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
