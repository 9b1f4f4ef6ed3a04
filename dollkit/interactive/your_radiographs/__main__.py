"""One's own films: ``python -m dollkit.interactive.your_radiographs check | run | predict``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.workflow.run import StageError

OPTIONS = {"columns": "--column", "classes": "--classes", "folds": "--folds"}
"""Parameters of notebook 11 and what `check` calls them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for bad input, 1 if the notebook failed."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        given.run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (SystemExit, KeyboardInterrupt) as ended:
        print("stopped: what is done is kept, the same command goes on", file=sys.stderr)
        return int(ended.code or 0) if isinstance(ended, SystemExit) else 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.interactive.your_radiographs", description="One's own films"
    )
    commands = parser.add_subparsers(required=True, metavar="check | run | predict")

    add = commands.add_parser("check", help="do films, findings and masks go together?")
    add.add_argument("--films", type=Path, required=True, metavar="DIR")
    add.add_argument("--findings", type=Path, required=True, metavar="CSV")
    add.add_argument("--masks", type=Path, required=True, metavar="DIR")
    add.add_argument("--classes", nargs="+", default=[], metavar="NAME")
    add.add_argument(
        "--column", action="append", default=[], metavar="THEIRS=OURS",
        help="what a column of the CSV file is; OURS blank: leave it out",
    )  # fmt: skip
    add.add_argument("--folds", type=int, default=2, help="parts to judge in turns (%(default)s)")
    add.add_argument("--decode", action="store_true", help="read every film of the folder too")
    add.set_defaults(run=_check)

    add = commands.add_parser("run", help="notebook 11, from classifiers to masks and the report")
    add.add_argument(
        "settings", type=Path, metavar="YAML", help="lines like 'films: /data/films', by the "
        "names of the notebook's first cell",
    )  # fmt: skip
    add.set_defaults(run=_run)

    add = commands.add_parser("predict", help="masks on each film's own grid")
    add.add_argument("--network", type=Path, required=True, metavar="DIR")
    add.add_argument("--films", type=Path, required=True, metavar="DIR")
    add.add_argument("--out", type=Path, required=True, metavar="DIR")
    add.add_argument(
        "--to", default="png", metavar="FORMAT",
        help="png (a file per class), values (one picture of all), dicom-seg (%(default)s)",
    )  # fmt: skip
    add.add_argument("--only", nargs="+", default=[], metavar="FILM", help="only these films")
    add.add_argument("--classes", nargs="+", default=[], help="if the network does not say them")
    add.add_argument("--size", type=int, help="side in pixels, if the network does not say it")
    add.add_argument(
        "--code", action="append", default=[], metavar="CLASS=SCHEME:VALUE:MEANING",
        help="of dicom-seg: code of a class, such as 'aortic arch=SCT:57034009:Aortic arch'",
    )  # fmt: skip
    add.set_defaults(run=_predict)
    return parser


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise InputError(f"{flag} {text!r}: write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _check(given: argparse.Namespace) -> None:
    from dollkit.interactive.your_radiographs import compare, read

    columns = _pairs(given.column, "--column")
    paths = given.films, given.findings, given.masks
    try:
        own = read.read(*paths, columns, given.classes, given.folds)
        masks, notes = read.at_masks(own)
    except InputError as error:
        text = str(error)
        for parameter, flag in OPTIONS.items():
            text = text.replace(f"parameter '{parameter}'", flag)
        raise InputError(text) from None
    for name, value in own.facts.items():
        print(f"{name}: {value}")
    for row in masks.to_dict("records"):
        print(f"masks of {row['class']}: {row['masks']}, {row['empty']} of them empty, the others "
              f"cover {row['share']:.1%} of their film on average")  # fmt: skip
    if given.decode:
        print(f"films read: {read.at_films(given.films)}")
    try:
        told = compare.check_masks(own.task.films, True, 1)
    except InputError as error:
        told = f"starts cannot be compared: {error}"
    for note in (*own.notes, *notes, told):
        print(f"note: {note}")


def _run(given: argparse.Namespace) -> None:
    from dollkit.interactive.your_radiographs import settings

    executed = settings.run(settings.read_settings(given.settings))
    print(f"{executed.parent / 'report' / 'report.md'}\n{executed}")


def _predict(given: argparse.Namespace) -> None:
    from dollkit.interactive.your_radiographs import predict

    codes = {k: v.split(":", 2) for k, v in _pairs(given.code, "--code").items()}
    index = predict.predict(
        predict.load(given.network, given.classes, given.size),
        given.films,
        given.out,
        to=given.to,
        only=given.only,
        codes=codes,
    )
    print(f"{given.out}: {index['file'].nunique()} films, {index['class'].nunique()} classes")
    if given.to == "dicom-seg":
        print(
            "each segmentation carries patient and study of its film, as DICOM demands: for files "
            "that may be passed on write PNG, or start from de-identified films"
        )


if __name__ == "__main__":
    sys.exit(main())
