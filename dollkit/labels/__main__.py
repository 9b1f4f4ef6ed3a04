"""The label set: ``python -m dollkit labels make | show | export | score``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.data.film_table import SPLITS
from dollkit.data.store import open_store
from dollkit.labels.exports import FORMATS, export
from dollkit.labels.store import open_labels
from dollkit.labels.summary import lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if getattr(options, "size", None) is not None and options.size < 32:
        raise InputError(f"parameter 'size' is {options.size}: use 32 or more")
    if options.command == "show":
        print("\n".join(lines(open_labels(options.store, verify=options.verify))))
    elif options.command == "export":
        films = None if options.films is None else open_store(options.films)
        print(export(open_labels(options.store), options.out, options.to, films))
    else:
        # With torch, which the other commands do without.
        from dollkit.labels import chexlocalize, make

        if options.command == "make":
            labels = make.make(options.films, options.classifiers, options.out, options.size)
            print(f"{options.out}: {len(labels)} labels on {len(labels.rows)} films")
        else:
            table = chexlocalize.score(
                options.folder, options.classifiers, options.out,
                split=options.split, size=options.size or 224, cutoff=options.cutoff,
            )  # fmt: skip
            print(table.round(3).to_string(index=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit labels", description="The label set")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    explained = argparse.ArgumentParser(add_help=False)
    explained.add_argument(
        "--classifiers", type=Path, nargs="+", required=True, metavar="DIR",
        help="folders with weights.safetensors, or one that holds such folders",
    )  # fmt: skip
    explained.add_argument("--size", type=int, help="side in pixels (224, or a film store's own)")

    add = commands.add_parser("make", parents=[explained], help="label films by classifiers")
    add.add_argument("--films", type=Path, required=True, help="folder of images, or film store")
    add.add_argument("--out", type=Path, required=True, help="folder of the label store")

    add = commands.add_parser("show", help="what a label store holds, and how it was made")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("--verify", action="store_true", help="hash every file first")

    add = commands.add_parser("export", help="write a label store in another format")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("out", type=Path, metavar="OUT", help="new folder")
    add.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    add.add_argument(
        "--films", type=Path, metavar="STORE",
        help="film store: write film pixels too; most data sets may not be passed on",
    )  # fmt: skip

    add = commands.add_parser("score", parents=[explained], help="CheXlocalize's protocol")
    add.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add.add_argument("--out", type=Path, required=True, metavar="CSV")
    add.add_argument("--split", default="test", choices=SPLITS)
    add.add_argument("--cutoff", type=float, default=0.5, help="probability of a call")
    return parser


if __name__ == "__main__":
    sys.exit("use python -m dollkit labels")
