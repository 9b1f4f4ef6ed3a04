"""``make verify``: do the stored tables and figures follow from the rows stored beside them?

Every table, and the data and caption of every figure, is made anew from the per-case rows in
``figures/<profile>`` alone and compared (`dollkit.report.recompute`). Nothing is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.report.recompute import MAKERS, ROWS, UNDERIVED, check
from dollkit.report.stored_rows import Lacking, Rows

SAME, DIFFERS, NOT_DERIVED = "same", "differs", "cannot be derived"
NEEDED = "cases.csv.gz"


class Line(NamedTuple):
    """What is said of one artefact."""

    artefact: str
    state: str
    detail: str


def committed_profiles() -> list[str]:
    """Profiles under ``figures/`` with per-case rows; of a git checkout, those that it tracks."""
    root = paths.figures()
    names = sorted(p.parent.name for p in root.glob(f"*/{NEEDED}"))
    try:
        command = ["git", "ls-files", f"*/{NEEDED}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    tracked = {Path(line).parent.name for line in done.stdout.splitlines()}
    return [n for n in names if n in tracked]


def verify(folder: Path) -> list[Line]:
    """Check all that is stored of one profile.

    Args:
        folder: ``figures/<profile>``.

    Returns:
        One line per artefact that is stored.
    """
    if not (folder / NEEDED).is_file():
        stored = ", ".join(committed_profiles()) or "none"
        raise InputError(
            f"{folder / NEEDED}: no such file: run the profile, or mend its name (stored: {stored})"
        )
    rows = Rows(folder)
    stems = {p.name.partition(".")[0] for p in folder.iterdir() if p.is_file()}
    # What is written only beside another artefact is checked with it.
    stems -= {name.partition(".")[0] for name in ROWS} | {"table1_reference"}
    order = [*MAKERS, *UNDERIVED]
    lines = []
    for name in sorted(stems, key=lambda s: (order.index(s) if s in order else len(order), s)):
        if name in MAKERS:
            lines.append(_line(name, rows))
        else:
            why = UNDERIVED.get(name, "this check knows no rule for it")
            lines.append(Line(name, NOT_DERIVED, why))
    return lines


def _line(name: str, rows: Rows) -> Line:
    try:
        made = MAKERS[name](rows)
        outcome = check(name, rows, made)
    except Lacking as error:
        return Line(name, NOT_DERIVED, str(error))
    except InputError as error:
        return Line(name, DIFFERS, f"rows cannot be used: {error}")
    if outcome.differences:
        more = len(outcome.differences) - 1
        also = f" (and {more} more)" if more else ""
        return Line(name, DIFFERS, outcome.differences[0] + also)
    files = (f.removeprefix(f"{name}.") for f in outcome.files)
    said = [" ".join(sorted(files))]
    if outcome.largest:
        said.append(f"largest difference {outcome.largest:.1g}, from the rounding of rows")
    if made.older:
        old = f"rows of an older version, without {', '.join(made.older)}"
        said.append(f"{old}: words of captions and number of decimals were not compared")
    said += [made.note] if made.note else []
    return Line(name, SAME, "; ".join(said))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 0: nothing differs, 1: something does, 2: bad input."""
    parser = argparse.ArgumentParser(prog="python -m dollkit.report.verify", description=__doc__)
    parser.add_argument("profile", nargs="*", help="default: every stored one that has its rows")
    names = parser.parse_args(arguments).profile or committed_profiles()
    try:
        if not names:
            raise InputError(f"{paths.figures()}: no profile with {NEEDED}; run one first")
        folders = [paths.figures() / name for name in names]
        status = 0
        for folder in folders:
            lines = verify(folder)
            print(f"profile {folder.name}")
            width = max(len(line.artefact) for line in lines)
            for line in lines:
                print(f"  {line.artefact:<{width}}  {line.state}: {line.detail}")
            count = {s: sum(x.state == s for x in lines) for s in (SAME, DIFFERS, NOT_DERIVED)}
            print("  " + ", ".join(f"{n} {state}" for state, n in count.items()), flush=True)
            status = max(status, int(count[DIFFERS] > 0))
        return status
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
