"""Parameters of notebook 11: what each may be, from a file, and the notebook run without a browser.

Whether films, findings and masks go together is asked next (`read_radiographs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs.predict import FORMATS
from dollkit.interactive.your_radiographs.steps import DEPTH, STARTS
from dollkit.training import networks
from dollkit.workflow import limits, parameters, processes, stage, stages
from dollkit.workflow import run as runner

NOTEBOOK = "11_your_radiographs.ipynb"
ACTIVATION = "silu"
"""Of classifiers that are trained here, and of the networks on them."""

RANGES: dict[str, Any] = {
    "network": limits.among(networks.NETWORKS),
    "size": limits.SIDE,
    "arms": limits.several(limits.among(STARTS)),
    "sizes": limits.several(limits.COUNT, 0),
    "n_valid": limits.COUNT,
    "lrs": limits.several(limits.POSITIVE),
    "seeds": limits.several(limits.NATURAL),
    "precision": limits.among(compute.PRECISIONS),
    "margin": limits.DECAY,
    "device": limits.among(("", "auto", "cpu", "cuda")),
    "to": limits.several(limits.among(FORMATS)),
}
"""What the type of a parameter cannot say, as in `dollkit.workflow.limits`."""

NUMBERS = {"steps": {"classifier", "pretrain", "finetune"}, "doll": {"train", "valid", "steps"}}


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook cannot work with; other names are passed over."""
    known = parameters.declared(parameters.notebooks() / NOTEBOOK)
    model = parameters.model_of(known, RANGES)
    parameters.check(model, {name: given[name] for name in known}, "")
    work_folder(given["run"])
    for name, needed in NUMBERS.items():
        if set(given[name]) != needed or min(given[name].values()) < 1:
            raise InputError(
                f"parameter {name!r} is {given[name]}: give {', '.join(sorted(needed))}, "
                "each 1 or more"
            )
    compute.device()  # one that is not there is refused
    for name in ("arms", "architectures", "lrs", "seeds"):
        if len(set(given[name])) < len(given[name]):
            raise InputError(f"parameter {name!r} is {given[name]}: each one once")
    if given["predict_with"] not in given["arms"]:
        raise InputError(f"parameter 'predict_with' is {given['predict_with']!r}, not in 'arms'")
    if given["classifiers"]:
        return
    architectures = given["architectures"]
    if not architectures:
        raise InputError("parameter 'architectures' is empty: name at least one")
    # Each is built once: no other way tells whether an encoder exists and fits.
    for name in architectures:
        limits.build_classifier(name, 5, ACTIVATION, "lse")
    limits.build_network(given["network"], architectures[0], DEPTH, ACTIVATION)


def places(given: Mapping[str, Any]) -> tuple[Path, Path, Path]:
    """Where films, findings and masks are."""
    for name in ("films", "findings", "masks"):
        if not given[name]:
            raise InputError(f"parameter {name!r} is empty: give films, findings and masks")
    films, findings, masks = (
        Path(given[name]).expanduser().resolve() for name in ("films", "findings", "masks")
    )
    return films, findings, masks


def work_folder(run: str) -> Path:
    """``runs/<run>``: everything that is made from the films stays below it."""
    if not re.fullmatch(r"\w[\w.+-]*", run) or (paths.PARAMS / f"{run}.yaml").is_file():
        raise InputError(f"parameter 'run' is {run!r}: use a name of letters, no profile's")
    stage.make_writable(paths.runs() / run)
    return paths.runs() / run


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of notebook 11 by name; relative folders count from the file's own place."""
    given = parameters.read(path, "lines like 'films: /data/films'", empty=True)
    values = parameters.resolve(parameters.notebooks() / NOTEBOOK, [(str(path), given, True)])
    for name in ("films", "findings", "masks", "classifiers"):
        if text := values[name]:
            values[name] = str((path.parent / Path(str(text)).expanduser()).resolve())
    try:
        check_settings(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values


def run_notebook(settings: Mapping[str, Any]) -> Path:
    """The executed notebook, ``runs/<run>/executed.ipynb``; a second call goes on or keeps all.

    Raises:
        run.StageError: the notebook failed.
    """
    work = work_folder(str(settings["run"]))
    notebook, executed = parameters.notebooks() / NOTEBOOK, work / "executed.ipynb"
    kind = stages.Stage("own", "own", NOTEBOOK)
    instance = stages.Instance("own", kind, notebook, dict(settings), (), ())
    with processes.handling(processes.terminate), processes.hold(work):
        runner.execute(instance, executed, work / "log.txt")
    return executed
