"""Notebook 11 without a browser: settings from a file, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import compare, predict
from dollkit.interactive.your_radiographs.steps import DEPTH, numbers, work_folder
from dollkit.training import networks
from dollkit.workflow import limits, parameters, processes, stage, stages
from dollkit.workflow import run as runner

# What the parameters of notebook 11 may be, so that none is found wrong after hours.
#
# Whether films, findings and masks go together is asked next (`source.read`); what stands here
# takes no look at them.


ACTIVATION = "silu"
"""Of classifiers that are trained here, and of the networks on them."""


RANGES: dict[str, Any] = {
    "network": limits.among(networks.NETWORKS),
    "size": limits.SIDE,
    "sizes": limits.several(limits.COUNT, 0),
    "n_valid": limits.COUNT,
    "lrs": limits.several(limits.POSITIVE),
    "seeds": limits.several(limits.NATURAL),
    "precision": limits.among(compute.PRECISIONS),
    "margin": limits.DECAY,
    "device": limits.among(("", "auto", "cpu", "cuda")),
    "to": limits.several(limits.among(predict.TO)),
}
"""What the type of a parameter cannot say, as in `dollkit.workflow.limits`."""


def check(given: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Refuse parameters that the notebook cannot work with.

    Args:
        given: by name; others (a notebook's whole namespace) are passed over.

    Returns:
        ``steps`` and ``doll``, each number there.
    """
    known = parameters.declared(parameters.notebooks() / NOTEBOOK)
    own = {name: given[name] for name in known}
    parameters.check(parameters.model_of(known, RANGES), own, "")
    work_folder(given["run"])
    steps = numbers("steps", given["steps"], ("classifier", "pretrain", "finetune"))
    doll = numbers("doll", given["doll"], ("train", "valid", "steps"))
    compute.device()  # one that is not there is refused
    compare.check_starts(given["arms"], given["predict_with"], given["lrs"], given["seeds"])
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
        limits.build_classifier(name, 5, ACTIVATION, "lse")
    limits.build_network(network, architectures[0], DEPTH, ACTIVATION)


NOTEBOOK = "11_your_radiographs.ipynb"
STAGE = stages.Stage("own", "own", NOTEBOOK)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of notebook 11 by name; relative folders count from the file's own place."""
    given = parameters.read(path, "lines like 'films: /data/films'", empty=True)
    values = parameters.resolve(parameters.notebooks() / NOTEBOOK, [(str(path), given, True)])
    for name in ("films", "findings", "masks", "classifiers"):
        if text := values[name]:
            values[name] = str((path.parent / Path(str(text)).expanduser()).resolve())
    try:
        check(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values


def run(settings: Mapping[str, Any]) -> Path:
    """Execute notebook 11; what it prints is shown, and a second call goes on or keeps all.

    Returns:
        The executed notebook, ``runs/<run>/executed.ipynb``.

    Raises:
        run.StageError: the notebook failed.
    """
    work = work_folder(str(settings["run"]))
    executed = work / "executed.ipynb"
    stage.make_writable(work)
    notebook = parameters.notebooks() / NOTEBOOK
    instance = stages.Instance("own", STAGE, notebook, dict(settings), (), ())
    with processes.handling(processes.terminate), processes.hold(work):
        runner.execute(instance, executed, work / "log.txt")
    return executed
