"""What a run consists of, before anything is counted or asked of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dollkit import early, pipeline
from dollkit.errors import InputError
from dollkit.pipeline import Instance
from dollkit.plan import films, jobs, rates
from dollkit.plan.rates import Rates
from dollkit.plan.work import Work


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
    stores: dict[str, films.Films]
    tables: Any
    stale: dict[str, str]
    work: Work
    rates: Rates | None


def survey(profile: str, data: Path | None) -> Survey:
    """Check the parameters and the data of a profile, and count its films."""
    plan = pipeline.plan(profile, data)
    early.check(plan)
    given: dict[str, dict[str, Any]] = {i.name: dict(i.parameters) for i in plan}
    if "data" not in given or "labels" not in given:
        raise InputError(f"profile {profile} has no data and labels stage to plan for")
    stores, tables = films.stores_of(given["data"])
    found = rates.measured()
    models = {p["architecture"]: p["depth"] for p in given.values() if "architecture" in p}
    points = found.points if found else {"": float(given["labels"]["most_steps"])}
    work = Work(int(given["data"]["size"]), stores, models, points, given["labels"])
    return Survey(plan, given, stores, tables, jobs.stale(plan, profile), work, found)
