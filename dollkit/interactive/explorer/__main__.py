"""``python -m dollkit.interactive.explorer``: prepare the maps of a run, and time a change."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.explanations import EXPLAINERS
from dollkit.interactive.explorer.widgets import explore, measure


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.interactive.explorer", description=main.__doc__
    )
    parser.description = "Prepare the maps of a finished run for notebook 10, and measure a change."
    parser.add_argument("--profile", default="", help="name of the run (the newest with labels)")
    parser.add_argument("--films", type=int, default=24, help="most films a set (%(default)s)")
    parser.add_argument(
        "--explainers", nargs="+", default=["ig", "gradcam", "gradient"], metavar="NAME",
        help=", ".join(EXPLAINERS),
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="of the maps (runs/PROFILE/explorer)")
    parser.add_argument("--repeats", type=int, default=20, help="changes a kind (%(default)s)")
    given = parser.parse_args(argv)
    try:
        if given.repeats < 1:
            raise InputError(f"parameter 'repeats' is {given.repeats}: use 1 or more")
        explorer = explore(given.profile, given.films, given.explainers, given.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(measure(explorer, given.repeats).round(1).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
