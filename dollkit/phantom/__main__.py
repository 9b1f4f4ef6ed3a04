"""``python -m dollkit.phantom --out DIR``: the phantom as a CheXpert tree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.errors import InputError
from dollkit.phantom.population import COHORTS
from dollkit.phantom.protocol import Protocol
from dollkit.phantom.write import write_tree


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line entry; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.phantom", description="Write the chest phantom as a CheXpert tree."
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--n", type=int, default=200, help="number of films (default 200)")
    parser.add_argument(
        "--size", type=int, default=128, help="side in pixels, a multiple of 8 from 64 to 1024"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same films")
    parser.add_argument(
        "--label-noise", type=float, default=0.0, help="0 clean labels, 1 CheXpert's rates"
    )
    parser.add_argument(
        "--valid-fraction", type=float, default=0.1, help="share of patients in valid.csv"
    )
    parser.add_argument("--cohort", default="ward", help=f"one of {', '.join(COHORTS)}")
    a = parser.parse_args(argv)
    try:
        protocol = Protocol(label_noise=a.label_noise)
        write_tree(a.out, a.n, a.size, a.seed, protocol, a.valid_fraction, a.cohort)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{a.out}: {a.n} films, train.csv and valid.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
