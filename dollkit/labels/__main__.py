"""The label set: ``python -m dollkit.labels make | show | card | export | score``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.shares import Part
from dollkit.data.store import open_store
from dollkit.data.store_writer import unwritable
from dollkit.labels.card import card
from dollkit.labels.exports import FORMATS, export
from dollkit.labels.store import open as open_labels
from dollkit.labels.summary import lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        given.run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit.labels", description="The label set")
    commands = parser.add_subparsers(required=True, metavar="make | show | card | export | score")

    add = commands.add_parser("make", help="label films with trained classifiers")
    add.add_argument("--films", type=Path, required=True, help="folder of images, or film store")
    add.add_argument(
        "--classifiers", type=Path, nargs="+", required=True, metavar="DIR",
        help="folders with weights.safetensors, or one that holds such folders",
    )  # fmt: skip
    add.add_argument("--out", type=Path, required=True, help="folder of the label store")
    add.add_argument(
        "--findings", type=Path, metavar="CSV",
        help="column image, and a column per finding (1, 0, -1 or blank); without it the table "
        "of the films, or else what the classifiers call",
    )  # fmt: skip
    add.add_argument("--size", type=int, help="side in pixels of films from a folder (224)")
    add.add_argument("--steps", type=int, help="integration steps; 0: as many as each label needs")
    add.add_argument("--explain", nargs="+", default=[], metavar="NAME=VALUE")
    add.add_argument("--distil", nargs="+", default=[], metavar="NAME=VALUE")
    add.add_argument("--limit", type=int, help="only the first films with a positive finding")
    add.add_argument(
        "--part", metavar="K/N",
        help="this process does the K-th of N shares; a last call without --part joins them",
    )  # fmt: skip
    add.add_argument("--maps", action="store_true", help="keep the maps that are cut, as float16")
    add.add_argument("--workers", type=int, help="decoding threads (default: one per core)")
    add.set_defaults(run=_make)

    add = commands.add_parser("show", help="what a label store holds, and how it was made")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("--verify", action="store_true", help="hash every file first")
    add.set_defaults(run=_show)

    add = commands.add_parser("card", help="write the dataset card into a label store")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("--out", type=Path, help="file to write (default: STORE/README.md)")
    add.set_defaults(run=_card)

    add = commands.add_parser("export", help="write a label store in another format")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("out", type=Path, metavar="OUT", help="new folder")
    add.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    add.add_argument(
        "--findings", nargs="+", default=list(FINDINGS), metavar="NAME", help="only these"
    )
    add.add_argument(
        "--films", type=Path, metavar="STORE",
        help="film store: write film pixels too; most data sets may not be passed on",
    )  # fmt: skip
    add.add_argument(
        "--negatives", action="store_true",
        help="nnunet: labelled films without a finding count as its background",
    )  # fmt: skip
    add.set_defaults(run=_export)

    add = commands.add_parser("score", help="judge maps by CheXlocalize's protocol")
    add.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add.add_argument("--classifiers", type=Path, nargs="+", required=True, metavar="DIR")
    add.add_argument("--out", type=Path, required=True, metavar="CSV")
    add.add_argument("--dataset", default="chexlocalize", help="%(default)s, or any with masks")
    add.add_argument("--split", default="test", choices=("train", "valid", "test"))
    add.add_argument("--size", type=int, default=224, help="side in pixels (%(default)s)")
    add.add_argument("--cutoff", type=float, default=0.5, help="probability of a call")
    add.add_argument("--explain", nargs="+", default=[], metavar="NAME=VALUE")
    add.add_argument("--distil", nargs="+", default=[], metavar="NAME=VALUE")
    add.add_argument("--limit", type=int, help="only the first films with a mask")
    add.set_defaults(run=_score)
    return parser


def _at_least(given: argparse.Namespace, **bounds: int) -> None:
    for name, least in bounds.items():
        value = getattr(given, name)
        if value is not None and value < least:
            raise InputError(f"parameter {name!r} is {value}: use {least} or more")


def _make(given: argparse.Namespace) -> None:
    # Only this command needs networks.
    from dollkit.explanations.ensemble import Explain
    from dollkit.labels import Distil, make

    _at_least(given, steps=0, limit=1, workers=1)
    steps = [] if given.steps is None else [f"steps={given.steps}"]
    made = make.make(
        given.films,
        given.classifiers,
        given.out,
        findings=given.findings,
        size=given.size,
        how=make.settings(Explain, [*given.explain, *steps], "--explain"),
        distil=make.settings(Distil, given.distil, "--distil"),
        part=None if given.part is None else Part.parse(given.part),
        limit=given.limit,
        workers=given.workers,
        keep_maps=given.maps,
    )
    if made is not None:
        print(f"{given.out}: {len(made)} labels on {len(made.rows)} films")


def _score(given: argparse.Namespace) -> None:
    from dollkit.explanations.ensemble import Explain
    from dollkit.labels import Distil, chexlocalize, make

    _at_least(given, size=32, limit=1)
    table = chexlocalize.score(
        given.folder,
        given.classifiers,
        given.out,
        dataset=given.dataset,
        split=given.split,
        size=given.size,
        how=make.settings(Explain, given.explain, "--explain"),
        distil=make.settings(Distil, given.distil, "--distil"),
        cutoff=given.cutoff,
        limit=given.limit,
    )
    print(table.round(3).to_string(index=False))


def _show(given: argparse.Namespace) -> None:
    print("\n".join(lines(open_labels(given.store, verify=given.verify))))


def _card(given: argparse.Namespace) -> None:
    path = given.out or given.store / "README.md"
    text = card(open_labels(given.store))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path.parent, error) from None
    print(path)


def _export(given: argparse.Namespace) -> None:
    films = None if given.films is None else open_store(given.films)
    store = open_labels(given.store, films=films)
    export(
        store,
        given.out,
        given.to,
        findings=given.findings,
        films=films,
        negatives=given.negatives,
    )
    print(given.out)


if __name__ == "__main__":
    sys.exit(main())
