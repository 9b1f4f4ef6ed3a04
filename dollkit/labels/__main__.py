"""The label set: ``python -m dollkit.labels make | show | export | score``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.data.store import open_store
from dollkit.labels.exports import FORMATS, export
from dollkit.labels.store import open as open_labels
from dollkit.labels.summary import lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if getattr(options, "size", None) is not None and options.size < 32:
            raise InputError(f"parameter 'size' is {options.size}: use 32 or more")
        options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit.labels", description="The label set")
    commands = parser.add_subparsers(required=True, metavar="make | show | export | score")
    explained = argparse.ArgumentParser(add_help=False)
    explained.add_argument(
        "--classifiers", type=Path, nargs="+", required=True, metavar="DIR",
        help="folders with weights.safetensors, or one that holds such folders",
    )  # fmt: skip
    explained.add_argument("--size", type=int, help="side in pixels (224, or a film store's own)")

    add = commands.add_parser(
        "make", parents=[explained], help="label films with trained classifiers"
    )
    add.add_argument("--films", type=Path, required=True, help="folder of images, or film store")
    add.add_argument("--out", type=Path, required=True, help="folder of the label store")
    add.add_argument(
        "--steps", type=int, default=0, help="integration steps; 0: as many as each label needs"
    )
    add.set_defaults(run=_make)

    add = commands.add_parser("show", help="what a label store holds, and how it was made")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("--verify", action="store_true", help="hash every file first")
    add.set_defaults(run=_show)

    add = commands.add_parser("export", help="write a label store in another format")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("out", type=Path, metavar="OUT", help="new folder")
    add.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    add.add_argument(
        "--films", type=Path, metavar="STORE",
        help="film store: write film pixels too; most data sets may not be passed on",
    )  # fmt: skip
    add.set_defaults(run=_export)

    add = commands.add_parser(
        "score", parents=[explained], help="judge maps by CheXlocalize's protocol"
    )
    add.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add.add_argument("--out", type=Path, required=True, metavar="CSV")
    add.add_argument("--split", default="test", choices=("train", "valid", "test"))
    add.add_argument("--cutoff", type=float, default=0.5, help="probability of a call")
    add.set_defaults(run=_score)
    return parser


def _make(options: argparse.Namespace) -> None:
    from dollkit.labels import make  # with torch, which the other commands do without

    labels = make.make(options.films, options.classifiers, options.out, options.size)
    print(f"{options.out}: {len(labels)} labels on {len(labels.rows)} films")


def _show(options: argparse.Namespace) -> None:
    print("\n".join(lines(open_labels(options.store, verify=options.verify))))


def _export(options: argparse.Namespace) -> None:
    films = None if options.films is None else open_store(options.films)
    store = open_labels(options.store, films=films)
    print(export(store, options.out, options.to, films))


def _score(options: argparse.Namespace) -> None:
    from dollkit.labels import chexlocalize

    table = chexlocalize.score(
        options.folder,
        options.classifiers,
        options.out,
        split=options.split,
        size=options.size or 224,
        cutoff=options.cutoff,
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
