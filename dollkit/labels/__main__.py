"""The label set: ``python -m dollkit.labels make | show | export | score``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.shares import Part
from dollkit.data.store import open_store
from dollkit.labels.exports import FORMATS, export
from dollkit.labels.store import open as open_labels
from dollkit.labels.summary import lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        for name, least in (("steps", 0), ("limit", 1), ("workers", 1), ("size", 32)):
            value = getattr(options, name, None)
            if value is not None and value < least:
                raise InputError(f"parameter {name!r} is {value}: use {least} or more")
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
    explained.add_argument("--explain", nargs="+", default=[], metavar="NAME=VALUE")
    explained.add_argument("--distil", nargs="+", default=[], metavar="NAME=VALUE")
    explained.add_argument("--limit", type=int, help="only the first films with a finding")

    add = commands.add_parser(
        "make", parents=[explained], help="label films with trained classifiers"
    )
    add.add_argument("--films", type=Path, required=True, help="folder of images, or film store")
    add.add_argument("--out", type=Path, required=True, help="folder of the label store")
    add.add_argument("--steps", type=int, help="integration steps; 0: as many as each label needs")
    add.add_argument(
        "--part", metavar="K/N",
        help="this process does the K-th of N shares; a last call without --part joins them",
    )  # fmt: skip
    add.add_argument("--workers", type=int, help="decoding threads (default: one per core)")
    add.set_defaults(run=_make)

    add = commands.add_parser("show", help="what a label store holds, and how it was made")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("--verify", action="store_true", help="hash every file first")
    add.set_defaults(run=_show)

    add = commands.add_parser("export", help="write a label store in another format")
    add.add_argument("store", type=Path, metavar="STORE")
    add.add_argument("out", type=Path, metavar="OUT", help="new folder")
    add.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    add.add_argument("--findings", nargs="+", default=FINDINGS, metavar="NAME", help="only these")
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
    add.add_argument("--dataset", default="chexlocalize", help="%(default)s, or any with masks")
    add.add_argument("--split", default="test", choices=("train", "valid", "test"))
    add.add_argument("--cutoff", type=float, default=0.5, help="probability of a call")
    add.set_defaults(run=_score)
    return parser


def settings(kind: type[Any], given: Sequence[str], option: str) -> Any:
    """A settings class from ``name=value`` texts, each value of its default's type."""
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in defaults:
            known = ", ".join(defaults)
            raise InputError(f"{option} {text!r}: use NAME=VALUE with one of {known}")
        of_type = type(defaults[name])
        try:
            values[name] = of_type(value)
        except ValueError:
            raise InputError(
                f"{option} {name!r} is {value!r}: use a value of type {of_type.__name__}"
            ) from None
    return kind(**values)


def _explanations(options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Settings of explanations and labels; only what makes labels needs networks."""
    from dollkit.explanations.ensemble import Explain
    from dollkit.labels import Distil

    return {
        "how": settings(Explain, [*options.explain, *more], "--explain"),
        "distil": settings(Distil, options.distil, "--distil"),
        "limit": options.limit,
    }


def _make(options: argparse.Namespace) -> None:
    from dollkit.labels import make

    steps = [] if options.steps is None else [f"steps={options.steps}"]
    labels = make.make(
        options.films,
        options.classifiers,
        options.out,
        size=options.size,
        part=None if options.part is None else Part.parse(options.part),
        workers=options.workers,
        **_explanations(options, *steps),
    )
    if labels is not None:
        print(f"{options.out}: {len(labels)} labels on {len(labels.rows)} films")


def _show(options: argparse.Namespace) -> None:
    print("\n".join(lines(open_labels(options.store, verify=options.verify))))


def _export(options: argparse.Namespace) -> None:
    films = None if options.films is None else open_store(options.films)
    store = open_labels(options.store, films=films)
    print(export(store, options.out, options.to, findings=options.findings, films=films))


def _score(options: argparse.Namespace) -> None:
    from dollkit.labels import chexlocalize

    table = chexlocalize.score(
        options.folder,
        options.classifiers,
        options.out,
        dataset=options.dataset,
        split=options.split,
        size=options.size or 224,
        cutoff=options.cutoff,
        **_explanations(options),
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
