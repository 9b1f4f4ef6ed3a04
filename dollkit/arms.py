"""The arms of the comparison: where a network's weights come from before fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dollkit import imagenet, networks, weights
from dollkit.armnames import ARMS, PRETRAINED
from dollkit.classifiers import load_classifier, transfer_encoder
from dollkit.errors import InputError
from dollkit.finetuning import Start
from dollkit.machine import sha256
from dollkit.pretraining import made_in


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
    `dollkit.imagenet`; ``classifier`` copies the classifier's backbone; the pre-trained arms copy
    every tensor but the output layer, or the encoder alone, or fail.

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
