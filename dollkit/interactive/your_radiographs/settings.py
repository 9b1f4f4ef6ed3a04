"""Parameters of notebook 11, and ``python -m dollkit your-radiographs check | run | predict``.

Whether films, findings and masks go together is asked next (`read_radiographs`).
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import predict, read, steps
from dollkit.training import networks
from dollkit.workflow import limits, parameters, processes, stage, stages
from dollkit.workflow import run as runner

NOTEBOOK = "11_your_radiographs.ipynb"
ACTIVATION = "silu"
"""Of classifiers that are trained here, and of the networks on them."""

RANGES: dict[str, Any] = {
    "network": limits.among(networks.NETWORKS),
    "size": limits.SIDE,
    "arms": limits.several(limits.among(steps.STARTS)),
    "sizes": limits.several(limits.COUNT, 0),
    "n_valid": limits.COUNT,
    "lrs": limits.several(limits.POSITIVE),
    "seeds": limits.several(limits.NATURAL),
    "precision": limits.among(compute.PRECISIONS),
    "margin": limits.DECAY,
    "device": limits.among(("", "auto", "cpu", "cuda")),
    "to": limits.several(limits.among(predict.FORMATS)),
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
    limits.build_network(given["network"], architectures[0], steps.DEPTH, ACTIVATION)


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


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; what is wrong is raised, and made one line by ``python -m dollkit``."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit your-radiographs")
    commands = parser.add_subparsers(required=True, metavar="check | run | predict")
    for name, run, what in (
        ("check", _check, "do films, findings and masks go together?"),
        ("run", _run, "notebook 11, from classifiers to masks and the report"),
    ):
        add = commands.add_parser(name, help=what)
        add.add_argument("settings", type=Path, metavar="YAML", help="lines like 'films: /films', "
                         "by the names of the notebook's first cell")  # fmt: skip
        add.set_defaults(run=run)
    add = commands.add_parser("predict", help="masks on each film's own grid")
    add.add_argument("--network", type=Path, required=True, metavar="DIR")
    add.add_argument("--films", type=Path, required=True, metavar="DIR")
    add.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    add.add_argument("--overwrite", action="store_true", help="set aside what OUT holds, as OUT.1")
    add.add_argument("--to", default="png", help="png (a file per class) or dicom-seg")
    add.add_argument(
        "--code", action="append", default=[], metavar="CLASS=SCHEME:VALUE:MEANING",
        help="of dicom-seg: code of a class, such as 'aortic arch=SCT:57034009:Aortic arch'",
    )  # fmt: skip
    add.set_defaults(run=_predict)
    return parser


def _check(options: argparse.Namespace) -> None:
    given = read_settings(options.settings)
    yours = read.read_radiographs(
        *places(given), given["columns"], given["classes"], given["folds"]
    )
    masks, notes = read.measure_masks(yours.task)
    for name, value in yours.facts.items():
        print(f"{name}: {value}")
    for row in masks.to_dict("records"):
        print(f"masks of {row['class']}: {row['masks']}, {row['empty']} of them empty, the others "
              f"cover {row['share']:.1%} of their film on average")  # fmt: skip
    told = steps.check_masks(yours.task.films, given["compare"], given["n_valid"])
    for note in (*yours.notes, *notes, told):
        print(f"note: {note}")


def _run(options: argparse.Namespace) -> None:
    executed = run_notebook(read_settings(options.settings))
    print(f"{executed.parent / 'report' / 'report.md'}\n{executed}")


def _predict(options: argparse.Namespace) -> None:
    codes = {}
    for text in options.code:
        name, equals, code = text.partition("=")
        if not equals:
            raise InputError(f"--code {text!r}: write CLASS=SCHEME:VALUE:MEANING")
        codes[name] = code.split(":", 2)
    table, failed = predict.predict(
        predict.load_segmenter(options.network), options.films, options.out, to=options.to,
        codes=codes, overwrite=options.overwrite,
    )  # fmt: skip
    print(f"{options.out}: {table['file'].nunique()} films, {table['class'].nunique()} classes")
    if options.to == "dicom-seg":
        print(
            "each segmentation carries patient and study of its film, as DICOM demands: for files "
            "that may be passed on write PNG, or start from de-identified films"
        )
    if failed:
        raise InputError(
            f"{next(iter(failed.values()))} ({len(failed)} films could not be read, "
            f"{options.out / 'predictions.json'} lists them; masks of the others are written)"
        )
