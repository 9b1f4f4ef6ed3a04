"""What a run will do, need and cost, told before it starts: ``python -m dollkit.workflow.plan``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, POSITIVE
from dollkit.common.machine import Json
from dollkit.data.datasets import PHANTOM
from dollkit.workflow import parameters, plan_disk, plan_films, plan_hours, plan_jobs
from dollkit.workflow.plan_hours import survey
from dollkit.workflow.stages import Instance

# ``make plan``: ``python -m dollkit.workflow.plan --profile P --data DIR [--json FILE]``; runs
# nothing.
#
# Ends with 0 if the profile can run with these data. If not, with 2 and one line that says why;
# what is known of the films stands before it.


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
        "sets": plan_films.sets(given["data"], known.tables),
        "stores": plan_films.films_account(stores),
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
        "disk": plan_disk.disk_account(plan, stores, size, given["labels"], paths.runs()),
        "time": plan_hours.account(plan, stale, known.work, known.rates, tflops),
    }


def _tuned(instance: Instance, stores: dict[str, plan_films.Films]) -> dict[str, Json]:
    """A fine-tuning stage, or what of its films stops it and what would help."""
    try:
        return plan_jobs.finetuning_of(instance, stores)
    except InputError as error:
        task = str(instance.parameters["task"])
        if task not in stores or stores[task].source == PHANTOM:
            raise
        raise InputError(
            f"{error}; or take the phantom's films for this task: 'stores: {{{task}: {PHANTOM}}}' "
            "in section 'data' of the profile"
        ) from None


def _notes(given: Mapping[str, dict[str, Any]], stores: dict[str, plan_films.Films]) -> list[str]:
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
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.workflow.plan", description="Plan a run"
    )
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
            print("\n".join(compared(plan_hours.held(given.against, given.data))))
            return 0
        parameters.profile_file(given.profile)
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
    print("\n".join(lines(found)))
    if "stop" in found:
        print(f"cannot run: {found['stop']}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())


# The account of a plan as text for a terminal.


MB = 1e6


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a plan, see `dollkit.workflow.plan.account`."""
    yield f"profile {plan['profile']}, data: {plan['data'] or 'none, the phantom alone'}"
    yield ""
    yield from _sets(plan)
    yield from _stores(plan)
    if "stop" in plan:
        return
    yield from _jobs(plan)
    yield from _disk(plan["disk"])
    yield from _hours(plan["time"])


def _sets(plan: Mapping[str, Any]) -> Iterator[str]:
    if not plan["sets"]:
        return
    yield "Data sets"
    for row in plan["sets"]:
        gives = ", ".join(row["gives"]) or "nothing, not used"
        if row["whole"] is None:
            state = "not looked into"
        else:
            state = (
                "whole"
                if row["whole"]
                else (
                    f"{row['files_off']} files or rows are off, "
                    f"{row['counts_off']} counts differ from the documented ones"
                )
            )
        yield f"  {row['name']}: gives {gives}; {state} ({row['folder']})"
        for fault in row["off"]:
            yield f"    {fault}"
        more = row["files_off"] + row["counts_off"] - len(row["off"])
        if more:
            yield f"    and {more} more: python -m dollkit.data check {row['name']} {row['folder']}"
    yield ""


def _stores(plan: Mapping[str, Any]) -> Iterator[str]:
    yield "Films (patients): training / validation / test"
    for row in plan["stores"]:
        parts = _three(row["splits"])
        yield (
            f"  {row['name']}, from {row['from']}: {row['films']:,} ({row['patients']:,}): {parts}"
        )
        if row["name"] == "films":
            masks = f"{len(row['classes'])} findings" if row["classes"] else "none"
            yield f"    masks of findings: {masks}"
        else:
            folds = f", {row['folds']} folds" if row["folds"] > 1 else ""
            yield f"    with all masks ({', '.join(row['classes'])}): " + (
                f"{_three(row['with_all_masks'])}{folds}"
            )
        for finding, count in row.get("positives", {}).items():
            yield f"    {finding + ':':<28} {_three(count)} positive"
    for note in plan.get("notes", []):
        yield f"  note: {note}"
    yield ""


def _three(counts: Mapping[str, int]) -> str:
    return " / ".join(f"{n:,}" for n in counts.values())


def _jobs(plan: Mapping[str, Any]) -> Iterator[str]:
    yield "Stages: to run / up to date (by their manifests)"
    for kind, rows in groupby(plan["stages"].items(), lambda item: item[0].split("/")[0]):
        reasons = [reason for _, reason in rows]
        todo = sum(map(bool, reasons))
        why = ", ".join(dict.fromkeys(r for r in reasons if r))
        yield f"  {kind + ':':<12} {todo} / {len(reasons) - todo}" + (f"  ({why})" if why else "")
    for row in plan["finetuning"]:
        yield (
            f"  {row['name']}: {row['cells']} settings, {row['counted']} runs by the bar, "
            f"{row['trainings']} trainings ({row['done']} lie there); masks to train on: "
            + ", ".join(map(str, [row["n_train"], *row["sizes"]]))
        )
        for part in row["parts"]:
            yield (
                f"    fold {part['fold']}: {part['pool']} films to draw from, {part['valid']} to "
                f"validate (asked: {row['n_valid']}), {part['test']} to test"
            )
        if row["left_out"]:
            yield f"    too few masks for sizes {row['left_out']}: left out"
        for arm, why in (row["not_run"] | row["doubtful"]).items():
            yield f"    arm {arm}: {why}"
    yield ""


def _disk(disk: Mapping[str, Any]) -> Iterator[str]:
    yield "Disk"
    for name, size in disk["stores"].items():
        yield f"  store {name}: {size / MB:,.1f} MB"
    for kind, rows in groupby(disk["artefacts"].items(), lambda item: item[0].split("/")[0]):
        if kind != "data":
            yield f"  {kind}: {sum(size for _, size in rows) / MB:,.1f} MB"
    enough = "enough" if disk["enough"] else "NOT ENOUGH"
    yield (
        f"  in all about {disk['total'] / MB:,.0f} MB; free in {disk['folder']}: "
        f"{disk['free'] / MB:,.0f} MB: {enough}"
    )
    yield ""


def _hours(time: Mapping[str, Any]) -> Iterator[str]:
    yield "Time, of the stages that would run"
    kinds = groupby(time["stages"], lambda row: row["name"].split("/")[0])
    for kind, rows in kinds:
        own = list(rows)
        flop = sum(r["pflop"] for r in own)
        text = f"  {kind + ':':<12} {flop:>12,.3f} PFLOP"
        spans = [r["hours"] for r in own if r.get("hours")]
        if spans:
            span = [sum(s[end] for s in spans) for end in (0, 1)]
            text += f"  {between(span)}  {own[0]['basis']}"
        elif "hours" in own[0]:
            text += f"  {own[0]['basis']}"
        yield text
    if "hours" not in time:
        yield "  no hours: nothing was measured; run `make reproduce PROFILE=laptop` and make bench"
    else:
        yield f"  in all on this machine's {time['cores_here']} cores: {between(time['hours'])}"
        if time["cores_here"] != time["measured_cores"]:
            yield f"    assumed: as fast per core as the {time['measured_cores']} measured ones"
        yield f"  measured: {', '.join(time['made_from'])} on {time['measured_on']}"
        for kind, (low, high) in time["measured_gflops"].items():
            yield f"    {kind}: {low:.0f} to {high:.0f} GFLOP/s over stages and networks"
        yield "  scaled: these rates to other networks, sides and batches, by operations"
        for times, span in time["at_times"].items():
            yield f"  assumed: networks at {times} times this rate: {between(span)}"
    gpu = time["gpu"]
    yield (
        f"  assumed, not measured: a GPU that sustains {gpu['assumed_tflops']:g} TFLOP/s computes "
        f"the {time['pflop']:,.2f} PFLOP in {clock(gpu['hours_of_networks'])}; films, tables and "
        "figures come on top"
    )


def compared(rows: list[Any]) -> Iterator[str]:
    """Lines that hold the model against a run, see `dollkit.workflow.plan_hours.held`."""
    yield "kind           least      most      took   seconds of the whole machine; took / told"
    total = {key: sum(row[key] for row in rows) for key in ("least", "most", "took")}
    for row in [*rows, {"family": "all", **total}]:
        text = f"{row['family']:<12}" + "".join(f"{row[k]:>8.0f}  " for k in total)
        if row["least"]:
            text += f"  {row['took'] / row['most']:.2f} to {row['took'] / row['least']:.2f}"
        if row.get("left_out"):
            text += f"  {row['left_out']} of other parameters left out"
        yield text


def between(span: list[float]) -> str:
    """A range of hours."""
    return f"{clock(span[0])} to {clock(span[1])}"


def clock(hours: float) -> str:
    """Hours in a unit that suits them."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:,.1f} h"
