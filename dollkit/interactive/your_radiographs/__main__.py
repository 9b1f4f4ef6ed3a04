"""Your radiographs: ``python -m dollkit your-radiographs check | run | predict``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError


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
    add.add_argument("--only", nargs="+", default=[], metavar="FILM", help="only these films")
    add.add_argument(
        "--code", action="append", default=[], metavar="CLASS=SCHEME:VALUE:MEANING",
        help="of dicom-seg: code of a class, such as 'aortic arch=SCT:57034009:Aortic arch'",
    )  # fmt: skip
    add.set_defaults(run=_predict)
    return parser


def _check(options: argparse.Namespace) -> None:
    from dollkit.interactive.your_radiographs import read, settings, steps

    given = settings.read_settings(options.settings)
    places = settings.places(given)
    yours = read.read_radiographs(*places, given["columns"], given["classes"], given["folds"])
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
    from dollkit.interactive.your_radiographs import settings

    executed = settings.run_notebook(settings.read_settings(options.settings))
    print(f"{executed.parent / 'report' / 'report.md'}\n{executed}")


def _predict(options: argparse.Namespace) -> None:
    from dollkit.interactive.your_radiographs import predict

    codes = {}
    for text in options.code:
        name, equals, code = text.partition("=")
        if not equals:
            raise InputError(f"--code {text!r}: write CLASS=SCHEME:VALUE:MEANING")
        codes[name] = code.split(":", 2)
    table, failed = predict.predict(
        predict.load_segmenter(options.network), options.films, options.out, to=options.to,
        only=options.only, codes=codes, overwrite=options.overwrite,
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


if __name__ == "__main__":
    from dollkit.workflow import cli

    sys.exit(cli.main(["your-radiographs", *sys.argv[1:]]))
