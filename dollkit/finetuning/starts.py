"""The arms of the comparison: where a network's weights come from before fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dollkit.common import ARMS, PRETRAINED
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.finetuning.grid import Grid
from dollkit.finetuning.run import Initialisation, bytes_of, network
from dollkit.pretraining import made_in
from dollkit.training import networks, published_weights, weights
from dollkit.training.classifiers import load_classifier, transfer_encoder


def starts(
    arms: Sequence[str], classifiers: Mapping[str, Path], pretrained: Mapping[str, Path],
    network: str, config: Mapping[str, Any], *,
    transfer: str = "all", imagenet_weights: str = published_weights.PACKAGED,
) -> dict[str, Initialisation]:  # fmt: skip
    """How each arm fills a fresh network of kind `network` with `config`.

    ``random`` leaves it as drawn; ``imagenet`` copies published weights into the encoder or says
    why it is not run; ``classifier`` copies the backbone of the encoder's classifier; the
    pre-trained arms copy every tensor but the output layer, or the encoder alone (`transfer`).
    """
    settings = {"network": network, **config}
    if network != "pspnet":
        settings["depth"] = 5  # see `networks.build`
    out: dict[str, Initialisation] = {}
    for arm in arms:
        if arm == "random":
            out[arm] = Initialisation()
        elif arm == "imagenet":
            out[arm] = _imagenet(imagenet_weights, settings)
        elif arm == "classifier":
            folder, cpu = next(iter(classifiers.values())), torch.device("cpu")
            load = partial(transfer_encoder, classifier=load_classifier(folder, cpu))
            out[arm] = Initialisation(load, key=sha256(folder / weights.FILE))
        elif arm in pretrained:
            first, *others = (_pretrained(f, settings, transfer) for f in made_in(pretrained[arm]))
            out[arm] = replace(first, others=tuple(others))
        elif arm in PRETRAINED:
            raise InputError(
                f"parameter 'arms' names {arm!r}, which the run does not pre-train: add it to "
                "'arms' of the profile's matrix"
            )
        else:
            raise InputError(f"parameter 'arms' names {arm!r}: use some of {', '.join(ARMS)}")
    return out


def _imagenet(source: str, settings: Mapping[str, Any]) -> Initialisation:
    try:
        state = published_weights.find(source, settings["encoder"])
    except published_weights.Unavailable as error:
        return Initialisation(reason=str(error))
    return Initialisation(state.into, key=state.digest(), note=state.note(settings["activation"]))


def _pretrained(folder: Path, settings: Mapping[str, Any], transfer: str) -> Initialisation:
    config, state = weights.read(folder)
    # What no tensor tells must agree too: the activation above all.
    names = {"encoder": "encoder", "activation": "activation"}
    if transfer == "all":
        names = {"network": "network", "depth": "encoder_depth", **names}
    for key, parameter in names.items():
        if config.get(key) != settings[key]:
            raise InputError(
                f"{folder}: pre-trained with {parameter} {config.get(key)!r}, parameter "
                f"{parameter!r} here is {settings[key]!r}; use the same in both"
            )
    key = sha256(folder / weights.FILE)
    return Initialisation(lambda net: networks.transfer(net, state, transfer), key=key)


# Which tensors an arm brings and which a tuning trains: asserted, and written to two files.


def write(folder: Path, grid: Grid) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `transferred` to ``transfer.json``, `trained` to ``trainable.json``; return them."""
    contents = transferred(grid), trained(grid)
    for name, content in zip(("transfer.json", "trainable.json"), contents, strict=True):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return contents


def transferred(grid: Grid) -> dict[str, Any]:
    """Tensors that each arm copies, and those that stay as drawn; or ``not_run``, and why."""
    out: dict[str, Any] = {}
    first = grid.first_job("full"), grid.config, len(grid.data.classes)
    fresh = network(*first, Initialisation())[0].state_dict()
    for arm, start in grid.starts.items():
        if start.reason:
            out[arm] = {"not_run": start.reason}
            continue
        net, copied, _ = network(*first, start)
        state = net.state_dict()
        drawn = [k for k in state if k not in copied]
        moved = [k for k in drawn if not state[k].equal(fresh[k])]
        if moved or not set(copied) <= set(state):
            raise AssertionError(f"arm {arm}: {moved or copied} is not what it says it copies")
        out[arm] = {
            "n_copied": sum(state[k].numel() for k in copied),
            "n_drawn": sum(state[k].numel() for k in drawn),
            "note": start.note, "copied": copied, "drawn": drawn,
        }  # fmt: skip
    return out


def trained(grid: Grid) -> dict[str, Any]:
    """What each tuning trains, whatever it starts from: numbers, bytes and names of parameters."""
    out: dict[str, Any] = {}
    for tuning in grid.tunings:
        job, classes = grid.first_job(tuning), len(grid.data.classes)
        net, _, names = network(job, grid.config, classes, Initialisation())
        trainable, total = networks.trainable(net)
        size = bytes_of(net.get_parameter(name) for name in names)
        out[tuning] = {"trainable": trainable, "total": total, "bytes": size, "tensors": names}
    return out
