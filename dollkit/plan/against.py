"""The model of hours held against a run that it was not made from."""

from __future__ import annotations

from pathlib import Path

from dollkit.errors import InputError
from dollkit.machine import Json
from dollkit.plan import rates
from dollkit.plan.hours import stage_seconds


def held(path: Path, data: str) -> list[Json]:
    """Each kind of stage of a finished run: seconds told by the model, and those that it took.

    Args:
        path: a ``provenance.json``.
        data: folder of its data sets on this machine; "" for the phantom.

    Returns:
        Per family: family, least, most, took (seconds of the whole machine), stages, left_out
        (stages whose parameters are of another version, which cannot be counted).
    """
    found, run = rates.measured(), rates.read(path)
    if found is None:
        raise InputError("nothing was measured: run `make reproduce PROFILE=laptop` and make bench")
    try:
        stages = run["stages"]
        spent, work = rates.machine_seconds(stages), rates.work_of(run, found.points, data)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the provenance of a whole run ({error} is missing)"
        ) from None
    rows: dict[str, dict[str, float]] = {}
    for name, took in spent.items():
        empty = {"least": 0.0, "most": 0.0, "took": 0.0, "stages": 0, "left_out": 0}
        row = rows.setdefault(rates.family(name), empty)
        try:
            least, most, _ = stage_seconds(name, stages[name]["parameters"], work, found)
        except KeyError:
            row["left_out"] += 1
            continue
        for key, value in zip(empty, (least, most, took, 1), strict=False):
            row[key] += value
    return [{"family": kind, **row} for kind, row in rows.items()]
