"""``python -m dollkit.data.phantom --out DIR``: the phantom in the layout of a real data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.data.phantom.layout_files import LAYOUTS
from dollkit.data.phantom.layouts import write_all, write_layout, write_tree
from dollkit.data.phantom.population import COHORTS
from dollkit.data.phantom.protocol import Protocol

_CHOICES = ("chexpert", *LAYOUTS, "all")
_FLAGS: dict[str, tuple[str, ...]] = {
    "label_noise": ("chexpert", "all"),
    "valid_fraction": ("chexpert", "all"),
    "cohort": ("chexpert", "all"),
    "names": ("jsrt",),
    "one_level": ("covid-qu-ex", "all"),
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.data.phantom",
        description="Write the chest phantom as a CheXpert tree or in another data set's layout.",
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--layout",
        default="chexpert",
        help=f"one of {', '.join(_CHOICES)} (default chexpert); all: each in a folder of --out, "
        "ready to be given as DATA",
    )
    parser.add_argument(
        "--n", type=int, help="number of films (default 200), of each layout; JSRT: 8 MB a film"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help="side in pixels, a multiple of 8 from 64 to 1024 (default 128); jsrt: 64, 128, 256, "
        "512 or 1024; covid-qu-ex, all: 64, 128 or 256",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same films")
    tree = parser.add_argument_group("CheXpert tree")
    tree.add_argument("--label-noise", type=float, help="0 clean labels (default), 1 CheXpert's")
    tree.add_argument(
        "--valid-fraction", type=float, help="share of patients in valid.csv (default 0.1)"
    )
    tree.add_argument("--cohort", help=f"one of {', '.join(COHORTS)} (default ward)")
    other = parser.add_argument_group("other layouts")
    other.add_argument("--names", nargs="+", help="films of jsrt, such as JPCLN001 JPCNN001")
    other.add_argument(
        "--one-level", action="store_true", default=None, help="covid-qu-ex: no doubled folders"
    )
    return parser.parse_args(argv)


def _check_flags(a: argparse.Namespace) -> None:
    if a.layout not in _CHOICES:
        raise InputError(f"unknown layout {a.layout!r}: use one of {', '.join(_CHOICES)}")
    for name, layouts in _FLAGS.items():
        if getattr(a, name) is not None and a.layout not in layouts:
            raise InputError(
                f"--{name.replace('_', '-')} does not apply to --layout {a.layout}: leave it out, "
                f"or use --layout {' or '.join(layouts)}"
            )


def _write(a: argparse.Namespace) -> str:
    _check_flags(a)
    films = 200 if a.n is None else a.n
    if a.layout in LAYOUTS:
        n = a.n if a.names else films
        doubled = False if a.one_level else None
        table = write_layout(a.out, a.layout, n, a.size, a.seed, names=a.names, doubled=doubled)
        return f"{len(table)} films in the layout of {a.layout}"
    protocol = Protocol(label_noise=a.label_noise or 0.0)
    valid = 0.1 if a.valid_fraction is None else a.valid_fraction
    cohort = "ward" if a.cohort is None else a.cohort
    if a.layout == "all":
        write_all(
            a.out,
            films,
            a.size,
            a.seed,
            protocol=protocol,
            valid_fraction=valid,
            cohort=cohort,
            doubled=not a.one_level,
        )
        return f"{films} films in each layout: {', '.join(sorted(p.name for p in a.out.iterdir()))}"
    write_tree(a.out, films, a.size, a.seed, protocol, valid, cohort)
    return f"{films} films, train.csv and valid.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line entry; returns the exit status (2 for bad input)."""
    a = _parse(argv)
    try:
        written = _write(a)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{a.out}: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
