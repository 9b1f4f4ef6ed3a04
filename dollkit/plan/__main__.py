"""``make plan``: ``python -m dollkit.plan --profile P --data DIR [--json FILE]``; runs nothing.

Ends with 0 if the profile can run with these data. If not, with 2 and one line that says why; what
is known of the films stands before it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dollkit import params, paths
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, POSITIVE
from dollkit.machine import Json
from dollkit.pipeline import Instance
from dollkit.plan import against, disk, films, hours, jobs, text
from dollkit.plan.survey import survey
from dollkit.readers.datasets import PHANTOM

GPU_TFLOPS = 50.0
"""Sustained rate that is assumed where the profile has no ``gpu_tflops``."""


def account(profile: str, data: Path | None, tflops: float | None = None) -> dict[str, Json]:
    """All that is known of a run before it starts.

    Args:
        profile: name of a file in ``notebooks/params/``.
        data: folder of the data sets.
        tflops: sustained rate assumed of a GPU, TFLOP/s; None: notebook 09's ``gpu_tflops``.

    Returns:
        profile, data, sets, stores, notes, stages (instance to why it runs; "": up to date),
        finetuning, disk, time. Where the films do not suffice: profile, data, sets, stores and
        stop, the first reason in one line.
    """
    known = survey(profile, data)
    plan, given, stores, stale = known.plan, known.given, known.stores, known.stale
    here: dict[str, Json] = {
        "profile": profile,
        "data": None if data is None else str(data.resolve()),
        "sets": films.sets(given["data"], known.tables),
        "stores": films.account(stores),
    }
    try:
        notes = _notes(given, stores)
        tuned = [_tuned(i, stores) for i in plan if i.stage.family == "finetune"]
    except InputError as error:
        return here | {"stop": str(error)}
    if tflops is None:
        tflops = float(given.get("cost", {}).get("gpu_tflops", GPU_TFLOPS))
    if not tflops > 0:
        raise InputError(f"--tflops is {tflops}: it must be above 0")
    size = int(given["data"]["size"])
    return here | {
        "notes": [*notes],
        "stages": dict(stale),
        "finetuning": [*tuned],
        "disk": disk.account(plan, stores, size, given["labels"], paths.runs()),
        "time": hours.account(plan, stale, known.work, known.rates, tflops),
    }


def _tuned(instance: Instance, stores: dict[str, films.Films]) -> dict[str, Json]:
    """A fine-tuning stage, or what of its films stops it and what would help."""
    try:
        return jobs.finetuning_of(instance, stores)
    except InputError as error:
        task = str(instance.parameters["task"])
        if task not in stores or stores[task].source == PHANTOM:
            raise
        raise InputError(
            f"{error}; or take the phantom's films for this task: 'stores: {{{task}: {PHANTOM}}}' "
            "in section 'data' of the profile"
        ) from None


def _notes(given: Mapping[str, dict[str, Any]], stores: dict[str, films.Films]) -> list[str]:
    """What the run can do without, and what of the classification set stops it."""
    if "films" not in stores:
        raise InputError(
            "no data set gives films with findings: add CheXpert, NIH or one of your own to DATA, "
            "or say 'fill_from': phantom"
        )
    for split in ("train", "valid", "test"):
        if not stores["films"].count(split):
            more = ", or a larger 'valid_fraction'" if split == "valid" else ""
            raise InputError(
                f"films: no film of {stores['films'].source} in split {split!r}: add films of more "
                f"patients{more}"
            )
    asked = given["labels"]
    made, _ = stores["films"].labelled(asked["n_label"], 0)
    if not made or not stores["films"].labelled(0, asked["n_hold"])[0]:
        raise InputError("films: training or validation films have no positive finding to label")
    notes = [
        f"{n} come from the phantom: no data set in the folder gives them"
        for n, s in stores.items()
        if given["data"]["source"] != "phantom" and s.source == "phantom"
        and n not in given["data"]["stores"]
    ]  # fmt: skip
    train = stores["films"].films["split"].to_numpy() == "train"
    shown = (stores["films"].states[train] == POSITIVE).any(0)
    if lacking := [f for f, ok in zip(FINDINGS, shown, strict=True) if not ok]:
        notes.append(f"no positive training film, so not learnt: {', '.join(lacking)}")
    if made < asked["n_label"]:
        notes.append(f"n_label is {asked['n_label']}: {made} training films have a finding")
    count, _, truth = stores["films"].judged(asked["judge_split"], asked["n_judge"])
    if not truth:
        notes.append("no masks of findings: labels are stored and not judged, claims say so")
    elif not count:
        raise InputError(f"films: split {asked['judge_split']!r} has no mask to judge labels by")
    elif count < asked["n_judge"]:
        notes.append(f"n_judge is {asked['n_judge']}: {count} films have a mask to judge by")
    return notes


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line behind ``make plan``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dollkit.plan", description="Plan a run")
    parser.add_argument("--profile", default="laptop", help="PROFILE (default: %(default)s)")
    parser.add_argument("--data", default="", help="DATA: folder of data sets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same as JSON")
    parser.add_argument("--tflops", type=float, help="sustained rate assumed of a GPU, TFLOP/s")
    parser.add_argument(
        "--against", type=Path, metavar="FILE",
        help="hold the model of hours against the provenance.json of a finished run instead",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    logging.disable(logging.INFO)  # readers tell what they read; the plan tells it in order
    try:
        if given.against is not None:
            print("\n".join(text.compared(against.held(given.against, given.data))))
            return 0
        params.profile_file(given.profile)
        folder = Path(given.data) if given.data else None
        if sys.stderr.isatty():
            print("reading tables", end="\r", file=sys.stderr, flush=True)
        found = account(given.profile, folder, given.tflops)
        if given.json is not None:
            try:
                given.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
            except OSError as error:
                raise InputError(f"{given.json}: cannot be written ({error.strerror})") from None
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        logging.disable(logging.NOTSET)
    print("\n".join(text.lines(found)))
    if "stop" in found:
        print(f"cannot run: {found['stop']}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
