"""Which tensors an arm brings and which a tuning trains: asserted, and written to two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dollkit import networks
from dollkit.finetuning import Job, Start, network
from dollkit.grid import Grid


def write(folder: Path, grid: Grid) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``transfer.json`` and ``trainable.json`` of a grid, before its runs.

    Returns:
        What the two files hold, see `transferred` and `trained`.

    Raises:
        AssertionError: an arm moved a tensor that it does not name.
    """
    found = transferred(grid), trained(grid)
    for name, content in zip(("transfer.json", "trainable.json"), found, strict=True):
        text = json.dumps(content, indent=1)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return found


def transferred(grid: Grid) -> dict[str, Any]:
    """What each arm copies into a fresh network.

    Returns:
        arm -> ``copied`` and ``drawn`` (names of tensors, batch-norm statistics among them),
        ``n_copied`` and ``n_drawn`` (numbers in them) and ``note``; or ``not_run``: the reason.
    """
    out: dict[str, Any] = {}
    fresh = _build(grid, Start(lambda net: []))[0]
    for arm, start in grid.starts.items():
        if start.reason:
            out[arm] = {"not_run": start.reason}
            continue
        copied: list[str] = []
        state, _ = _build(grid, Start(lambda net, s=start, c=copied: _note(c, s.load(net))))  # type: ignore[misc]
        drawn = [k for k in state if k not in set(copied)]
        moved = [k for k in drawn if not state[k].equal(fresh[k])]
        if moved or not set(copied) <= set(state):
            raise AssertionError(f"arm {arm}: {moved or copied} is not what it says it copies")
        numbers = {k: v.numel() for k, v in state.items()}
        out[arm] = {
            "n_copied": sum(numbers[k] for k in copied),
            "n_drawn": sum(numbers[k] for k in drawn),
            "note": start.note,
            "copied": copied,
            "drawn": drawn,
        }
    return out


def trained(grid: Grid) -> dict[str, Any]:
    """What each tuning trains; the same for all of its arms.

    Returns:
        tuning -> ``trainable`` and ``total`` (numbers of parameters), ``bytes`` of the trained
        parameters, ``tensors`` (their names).
    """
    out: dict[str, Any] = {}
    for tuning, (arms, _) in grid.tunings.items():
        if not arms:
            continue
        job = _job(grid, tuning)
        net, names = network(
            job, grid.config, len(grid.data.classes), Start(lambda net: []), grid.rank
        )
        trainable, total = networks.trainable(net)
        sizes = {n: p.numel() * p.element_size() for n, p in net.named_parameters()}
        out[tuning] = {
            "trainable": trainable,
            "total": total,
            "bytes": sum(sizes[n] for n in names),
            "tensors": names,
        }
    return out


def _job(grid: Grid, tuning: str) -> Job:
    return Job(grid.task, grid.network, "", tuning, grid.n_train, grid.seeds[0], grid.folds[0], 0.0)


def _build(grid: Grid, start: Start) -> tuple[dict[str, torch.Tensor], list[str]]:
    net, names = network(_job(grid, "full"), grid.config, len(grid.data.classes), start)
    return net.state_dict(), names


def _note(into: list[str], names: list[str]) -> list[str]:
    into.extend(names)
    return names
