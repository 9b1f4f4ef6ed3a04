"""The arms of the comparison: where a network's weights come from before fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dollkit import networks, weights
from dollkit.errors import InputError
from dollkit.finetuning import Start

PRETRAINED = ("doll", "shuffled", "prior", "gradcam", "truth")
ARMS = ("random", "imagenet", "classifier", *PRETRAINED)


def starts(
    arms: Sequence[str], classifiers: Mapping[str, Path], pretrained: Mapping[str, Path]
) -> dict[str, Start]:
    """How each arm fills a fresh network.

    ``random`` leaves it as drawn; ``classifier`` copies the classifier's backbone; the
    pre-trained arms copy every tensor but the output layer, or fail.

    Args:
        arms: names, in the order of the tables.
        classifiers: folder of the encoder's classifier, by name.
        pretrained: folder of every pre-trained network, by arm.

    Raises:
        InputError: unknown arm, listed twice, or its weights were not made by this run.
    """
    if len(set(arms)) != len(arms):
        raise InputError(f"parameter 'arms' is {list(arms)}: each arm once")
    cpu = torch.device("cpu")
    out: dict[str, Start] = {}
    for arm in arms:
        if arm == "random":
            out[arm] = Start(lambda net: None)
        elif arm == "imagenet":
            # smp's own ImageNet weights are fetched from the network; none are shipped here.
            out[arm] = Start(lambda net: None, reason="no ImageNet weights given")
        elif arm == "classifier":
            model = weights.load_classifier(next(iter(classifiers.values())), cpu)
            out[arm] = Start(lambda net, m=model: networks.transfer_encoder(net, m))  # type: ignore[misc]
        elif arm in PRETRAINED:
            if arm not in pretrained:
                raise InputError(
                    f"parameter 'arms' names {arm!r}, which the run does not pre-train: add it to "
                    "'arms' of the profile's matrix"
                )
            _, state = weights.read(pretrained[arm])
            out[arm] = Start(lambda net, s=state: networks.transfer(net, s))  # type: ignore[misc]
        else:
            raise InputError(f"parameter 'arms' names {arm!r}: use some of {', '.join(ARMS)}")
    return out
