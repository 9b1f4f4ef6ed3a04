"""Data sets on disk: ``python -m dollkit data list | find DIR | check | build``.

``check`` ends with 0 if the tree is what its authors released, 1 if something is off, 2 for a
call that makes no sense.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data import DATASETS, SOURCES, build, found, named
from dollkit.data.check import Report, survey


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return int(given.run(given) or 0)


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(DATASETS)
    parser = argparse.ArgumentParser(prog="python -m dollkit data", description="Data sets on disk")
    commands = parser.add_subparsers(required=True, metavar="list | find | check | build")

    add = commands.add_parser("list", help="the data sets that can be read, and their terms")
    add.set_defaults(run=_list)

    add = commands.add_parser("find", help="which data sets lie in a folder")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.set_defaults(run=_find)

    add = commands.add_parser("check", help="hold a data set's tree against what is documented")
    add.add_argument("name", metavar="NAME", help=names)
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("--decode", action="store_true", help="read the pixels of every file too")
    add.add_argument("--subset", action="store_true", help="fewer films than documented are fine")
    add.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    add.add_argument("--report", type=Path, metavar="CSV", help="write every problem there")
    add.add_argument("--workers", type=int, help="decoding threads (default: one per core)")
    add.set_defaults(run=_check)

    add = commands.add_parser("build", help="decode a data set into packed stores")
    add.add_argument("name", metavar="NAME", help=f"{names}, phantom, or auto: all that DIR holds")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("out", type=Path, metavar="OUT", help="gets one folder per store")
    add.add_argument("--size", type=int, default=224, help="side in pixels (%(default)s)")
    add.add_argument("--skip-bad", action="store_true", help="leave bad films out and list them")
    add.add_argument("--option", action="append", default=[], metavar="SET.KEY=VALUE")
    add.add_argument("--workers", type=int, help="decoding workers (default: one per core)")
    add.set_defaults(run=_build)
    return parser


def _list(given: argparse.Namespace) -> None:
    for data_set in DATASETS.values():
        print(f"{data_set.name}: {data_set.title}")
        facts = {
            "gives": ", ".join(data_set.stores),
            **{name: getattr(data_set, name) for name in ("tree", "size", "licence", "cite")},
            "options": "; ".join(f"{k}={'|'.join(v)}" for k, v in data_set.options.items()),
        }
        for label, text in facts.items():
            if text:
                line = f"  {label}: {text}"
                print(textwrap.fill(line, 100, subsequent_indent=" " * (len(label) + 4)))


def _find(given: argparse.Namespace) -> None:
    for name, root in found(given.folder).items():
        print(f"{name}: {root}")


def _check(given: argparse.Namespace) -> int:
    report = survey(
        named(given.name),
        given.folder,
        options=_options(given.option),
        decode=given.decode,
        subset=given.subset,
        workers=given.workers,
    )
    _print(report)
    if given.report is not None:
        try:
            report.problems.to_csv(given.report, index=False, lineterminator="\n")
        except OSError as error:
            raise InputError(f"{given.report}: cannot be written ({error.strerror})") from None
    return 0 if report.sound else 1


def _print(report: Report) -> None:
    print(f"{report.root}")
    width = max((len(what) for what in report.counts["what"]), default=0)
    print(f"  {'':<{width}} {'here':>10} {'documented':>10}")
    for what, here, stated, ok in report.counts.itertuples(index=False):
        beside = "" if pd.isna(stated) else f"{stated:>10,}"
        print(f"  {what:<{width}} {here:>10,} {beside} {'' if ok else '  <- off'}".rstrip())
    for _, file, reason in report.problems.itertuples(index=False):
        print(reason if file in reason else f"{file}: {reason}" if file else reason)
    films = ", ".join(f"{name} {n}" for name, n in report.stores.items())
    kinds = report.problems["kind"].value_counts()
    off = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "nothing"
    pixels = f"{report.decoded} films decoded" if report.decoded else "pixels not read"
    print(f"films per store: {films}; {pixels}; off: {off}")


def _build(given: argparse.Namespace) -> None:
    if given.name not in SOURCES:
        raise InputError(f"unknown data set {given.name!r}: use one of {', '.join(SOURCES)}")
    options = _options(given.option)
    if given.name in DATASETS:
        options = {k if "." in k else f"{given.name}.{k}": v for k, v in options.items()}
    built = build(
        given.name,
        given.folder,
        given.out,
        given.size,
        skip_bad=given.skip_bad,
        workers=given.workers,
        options=options,
    )
    for name, path in built.items():
        print(f"{name}: {path}")


def _options(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"option {pair!r}: write KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    sys.exit("use python -m dollkit data")
