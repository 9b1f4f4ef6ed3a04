"""What the parameters of notebook 11 may be, so that none is found wrong after hours.

Whether films, findings and masks go together is asked next (`source.read`); what stands here takes
no look at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dollkit import compute, early, limits, networks
from dollkit.errors import InputError
from dollkit.limits import CALLED, FREE, Limit
from dollkit.own import comparing, predict
from dollkit.own.steps import DEPTH, numbers, work_folder

ACTIVATION = "silu"
"""Of classifiers that are trained here, and of the networks on them."""


@cache
def known() -> dict[str, Limit]:
    """Parameter -> limit; `CALLED` and `FREE` as in `dollkit.limits`."""
    count, natural = limits.least(1), limits.least(0)
    return {
        **dict.fromkeys(("films", "findings", "masks", "classifiers"), FREE),
        **dict.fromkeys(("run", "columns", "classes", "codes", "folds"), CALLED),
        **dict.fromkeys(("steps", "doll", "arms", "predict_with", "architectures"), CALLED),
        "compare": FREE,
        "network": limits.among(networks.NETWORKS),
        "size": limits.side(),
        "sizes": limits.each(count),
        "n_valid": count,
        "lrs": limits.each(limits.above(0), 1),
        "seeds": limits.each(natural, 1),
        "precision": limits.among(compute.PRECISIONS),
        "margin": natural,
        "device": limits.among(("", "auto", "cpu", "cuda")),
        "to": limits.each(limits.among(predict.TO), 1),
    }


def check(given: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Refuse parameters that the notebook cannot work with.

    Args:
        given: by name; others (a notebook's whole namespace) are passed over.

    Returns:
        ``steps`` and ``doll``, each number there.
    """
    for name, limit in known().items():
        if not limit.holds(given[name]):
            raise InputError(f"parameter {name!r} {limit.told(given[name])}")
    work_folder(given["run"])
    steps = numbers("steps", given["steps"], ("classifier", "pretrain", "finetune"))
    doll = numbers("doll", given["doll"], ("train", "valid", "steps"))
    compute.device()  # one that is not there is refused
    comparing.check_starts(given["arms"], given["predict_with"], given["lrs"], given["seeds"])
    if not given["classifiers"]:
        _networks(given["architectures"], given["network"])
    return steps, doll


def _networks(architectures: Sequence[str], network: str) -> None:
    """Build each once: no other way tells whether an encoder exists and fits."""
    if not architectures:
        raise InputError("parameter 'architectures' is empty: name at least one")
    if len(set(architectures)) < len(architectures):
        raise InputError(f"parameter 'architectures' is {list(architectures)}: each one once")
    for name in architectures:
        early.classifier(
            {"architecture": name, "depth": 5, "activation": ACTIVATION, "pooling": "lse"}
        )
    early.build(network, architectures[0], DEPTH, ACTIVATION)
