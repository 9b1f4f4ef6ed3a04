"""The account of a plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

MB = 1e6


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a plan, see `dollkit.plan.__main__.account`."""
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
    """Lines that hold the model against a run, see `dollkit.plan.against.held`."""
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
