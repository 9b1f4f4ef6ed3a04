"""The arms of the comparison: where a network's weights come from before fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dollkit.classifiers.model import load_classifier, transfer_encoder
from dollkit.common.arm_names import ARMS, PRETRAINED
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.finetuning.grid import Grid
from dollkit.finetuning.run import Job, Start, network
from dollkit.pretraining import made_in
from dollkit.training import imagenet, networks, weights


def starts(
    arms: Sequence[str],
    classifiers: Mapping[str, Path],
    pretrained: Mapping[str, Path],
    network: str,
    config: Mapping[str, Any],
    *,
    transfer: str = "all",
    imagenet_weights: str = imagenet.PACKAGED,
) -> dict[str, Start]:
    """How each arm fills a fresh network.

    ``random`` leaves it as drawn; ``imagenet`` copies published weights into the encoder, see
    `dollkit.training.imagenet`; ``classifier`` copies the classifier's backbone; the pre-trained
    arms copy every tensor but the output layer, or the encoder alone, or fail.

    Args:
        arms: names, in the order of the tables.
        classifiers: folder of the encoder's classifier, by name.
        pretrained: folder of every pre-trained network, by arm; see `pretraining.made_in`.
        network: kind of the network to fill, see `networks.build`.
        config: its encoder, depth and activation.
        transfer: ``all`` or ``encoder``: what the pre-trained arms copy.
        imagenet_weights: ``packaged``, ``download``, a path or "", as `imagenet.find` takes it;
            without weights the arm is not run, and its start says why.
    """
    if len(set(arms)) != len(arms):
        raise InputError(f"parameter 'arms' is {list(arms)}: each arm once")
    if transfer not in networks.PARTS:
        raise InputError(
            f"parameter 'transfer' is {transfer!r}: use one of {', '.join(networks.PARTS)}"
        )
    cpu = torch.device("cpu")
    wanted = {"network": network, **config}
    wanted["depth"] = networks.depth_of(network, int(wanted["depth"]))
    out: dict[str, Start] = {}
    for arm in arms:
        if arm == "random":
            out[arm] = Start(lambda net: [])
        elif arm == "imagenet":
            out[arm] = _imagenet(imagenet_weights, wanted)
        elif arm == "classifier":
            folder = next(iter(classifiers.values()))
            model = load_classifier(folder, cpu)
            out[arm] = Start(
                lambda net, m=model: transfer_encoder(net, m),  # type: ignore[misc]
                key=sha256(folder / weights.FILE),
            )
        elif arm in PRETRAINED:
            if arm not in pretrained:
                raise InputError(
                    f"parameter 'arms' names {arm!r}, which the run does not pre-train: add it to "
                    "'arms' of the profile's matrix"
                )
            first, *others = (
                _pretrained(folder, wanted, transfer) for folder in made_in(pretrained[arm])
            )
            out[arm] = replace(first, others=tuple(others))
        else:
            raise InputError(f"parameter 'arms' names {arm!r}: use some of {', '.join(ARMS)}")
    return out


def _pretrained(folder: Path, wanted: Mapping[str, Any], transfer: str) -> Start:
    made, state = weights.read(folder)
    _same(folder, made, wanted, transfer)
    return Start(
        lambda net: networks.transfer(net, state, transfer), key=sha256(folder / weights.FILE)
    )


def _imagenet(source: str, wanted: Mapping[str, Any]) -> Start:
    try:
        found = imagenet.find(source, str(wanted["encoder"]))
    except imagenet.Unavailable as error:
        return Start(lambda net: [], reason=str(error))
    return Start(found.into, key=found.digest(), note=found.note(str(wanted["activation"])))


def _same(folder: Path, made: Mapping[str, Any], wanted: Mapping[str, Any], transfer: str) -> None:
    """What no tensor tells must agree too: the activation above all."""
    names = {"network": "network", "encoder": "encoder", "depth": "encoder_depth"}
    names |= {"activation": "activation"}
    for key, parameter in names.items():
        if transfer == "encoder" and key in ("network", "depth"):
            continue
        if made.get(key) != wanted[key]:
            raise InputError(
                f"{folder}: pre-trained with {parameter} {made.get(key)!r}, parameter "
                f"{parameter!r} here is {wanted[key]!r}; use the same in both"
            )


# Which tensors an arm brings and which a tuning trains: asserted, and written to two files.


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
