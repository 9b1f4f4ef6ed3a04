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
from dollkit.data.splits import PATIENT_ID
from dollkit.interactive.your_radiographs import predict, read_and_check, report, steps
from dollkit.training import networks, published_weights, weights
from dollkit.workflow import parameter_ranges as ranges
from dollkit.workflow import parameters, run, stage, stages
from dollkit.workflow.parameter_ranges import COUNT, NATURAL, POSITIVE, among, several

NOTEBOOK = "11_your_radiographs.ipynb"
ACTIVATION = "silu"
"""Of classifiers that are trained here, and of the networks on them."""

RANGES: dict[str, Any] = {
    "network": among(networks.NETWORKS),
    "size": ranges.SIDE,
    "arms": several(among(steps.STARTS)),
    "sizes": several(COUNT, 0),
    "n_valid": COUNT,
    "lrs": several(POSITIVE),
    "seeds": several(NATURAL),
    "precision": among(compute.PRECISIONS),
    "margin": ranges.SHARE,
    "folds": COUNT,
    "device": among(("", "auto", "cpu", "cuda")),
    "patient_id": among(PATIENT_ID),
    "to": several(among(predict.FORMATS)),
}
"""What the type of a parameter cannot say, as in `dollkit.workflow.parameter_ranges`."""

NUMBERS = {"steps": {"classifier", "pretrain", "finetune"}, "doll": {"train", "valid", "steps"}}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook cannot work with; other names are passed over."""
    parameters.check_cell(NOTEBOOK, settings, RANGES)
    work_folder(settings["run"])
    for name, needed in NUMBERS.items():
        if set(settings[name]) != needed or min(settings[name].values()) < 1:
            keys = ", ".join(sorted(needed))
            raise InputError(f"parameter {name!r} is {settings[name]}: give {keys}, each 1 or more")
    compute.device()  # one that is not there is refused
    if settings["device"] == "cuda" and not compute.cuda_name():
        raise InputError("parameter 'device' is 'cuda', and torch sees no CUDA device")
    for name in ("arms", "architectures", "classes", "lrs", "seeds", "sizes", "to"):
        if len(set(settings[name])) < len(settings[name]):
            raise InputError(f"parameter {name!r} is {settings[name]}: each one once")
    architectures = settings["architectures"]
    if settings["predict_with"] not in settings["arms"]:
        raise InputError(f"parameter 'predict_with' is {settings['predict_with']!r}, not in 'arms'")
    if not (architectures or settings["classifiers"]):
        raise InputError("parameter 'architectures' is empty: name at least one")
    # Each is built once: no other way tells whether an encoder exists and fits.
    if settings["classifiers"]:
        folder = Path(settings["classifiers"]).expanduser()
        first, *_ = steps.trained_classifiers(folder, *architectures[:1]).values()
        config = weights.read(first)[0]
        backbone = config["architecture"], steps.DEPTH, config["activation"]
    else:
        for name in architectures:
            ranges.check_classifier(settings["size"], name, 5, ACTIVATION, "lse")
        backbone = architectures[0], steps.DEPTH, ACTIVATION
    ranges.check_network(settings["size"], settings["network"], *backbone)
    if "imagenet" in settings["arms"]:
        ranges.need_imagenet("arms", published_weights.PACKAGED, backbone[0])


def places(settings: Mapping[str, Any]) -> list[Path]:
    """Where films, findings and masks are."""
    names = ("films", "findings", "masks")
    if empty := [name for name in names if not settings[name]]:
        raise InputError(f"parameter {empty[0]!r} is empty: give films, findings and masks")
    return [Path(settings[name]).expanduser().resolve() for name in names]


def work_folder(run: str) -> Path:
    """``runs/<run>``: everything that is made from the films stays below it."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", run) or (paths.PARAMS / f"{run}.yaml").is_file():
        raise InputError(f"parameter 'run' is {run!r}: use a name of letters, no profile's")
    stage.make_writable(paths.runs() / run)
    return paths.runs() / run


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of notebook 11 by name; relative folders count from the file's own place."""
    model = parameters.declared(parameters.notebooks() / NOTEBOOK)
    content = parameters.read(path, "lines like 'films: /data/films'")
    values: dict[str, Any] = model().model_dump() | parameters.check(model, content, str(path))
    for name in ("films", "findings", "masks", "classifiers"):
        if values[name]:
            values[name] = str((path.parent / Path(values[name]).expanduser()).resolve())
    try:
        check_settings(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; what is wrong is raised, and made one line by ``python -m dollkit``."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit your-radiographs")
    commands = parser.add_subparsers(required=True, metavar="check | run | predict")
    for name, command, what in (
        ("check", _check, "do films, findings and masks go together?"),
        ("run", _run, "notebook 11, from classifiers to masks and the report"),
    ):
        add = commands.add_parser(name, help=what)
        add.add_argument("settings", type=Path, metavar="YAML", help="lines like 'films: /films', "
                         "by the names of the notebook's first cell")  # fmt: skip
        add.set_defaults(run=command)
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
    settings = read_settings(options.settings)
    films, findings, masks = places(settings)
    named = {name: settings[name] for name in ("columns", "classes", "folds", "patient_id")}
    yours = read_and_check.read_radiographs(films, findings, masks, **named)
    covered, notes = read_and_check.measure_masks(yours.task)
    for name, value in yours.facts.items():
        print(f"{name}: {value}")
    for name, masks, empty, share, ignored in covered.itertuples(index=False):
        print(
            f"masks of {name}: {masks}, {empty} of them empty, the others cover {share:.1%} of "
            f"their film on average; {ignored:.1%} is ignored"
        )
    enough = steps.check_masks(yours.task.films, settings["compare"], settings["n_valid"])
    for note in (doubts := [*yours.notes, *notes, enough]):
        print(f"note: {note}")
    page = work_folder(settings["run"]) / "check.html"
    report.write_check(page, yours, covered, doubts)
    print(f"{page}: what was read, with thumbnails; open it in a browser")


def _run(options: argparse.Namespace) -> None:
    """Execute the notebook; a second call goes on or keeps all."""
    settings = read_settings(options.settings)
    work = work_folder(settings["run"])
    executed = work / "executed.ipynb"
    notebook, alone = parameters.notebooks() / NOTEBOOK, stages.Stage("own", "own", NOTEBOOK)
    instance = stages.Instance("own", alone, notebook, settings, (), ())
    with run.handling(run.terminate), run.hold(work):
        run.execute(instance, executed, work / "log.txt")
    print(f"{work / 'report' / 'report.md'}\n{executed}")


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
