"""``python -m tests.badinput [--only GROUP] [--out FILE]``: try them all, and count."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tests.badinput import artefacts, datasets, notebooks, own, parameters, pictures
from tests.badinput.case import CLEAR, OUTCOMES, Case, judge


def corpus() -> Iterator[Case]:
    for part in (parameters, own, notebooks, pictures, datasets, artefacts):
        yield from part.cases()


def table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Group, n, and how many came to each outcome."""
    counts = pd.crosstab(outcomes["group"], outcomes["outcome"]).reindex(columns=list(OUTCOMES))
    counts = counts.fillna(0).astype(int).reindex(outcomes["group"].unique())
    counts.insert(0, "n", counts.sum(axis=1))
    counts.loc["all"] = counts.sum()
    return counts.reset_index()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.badinput", description=__doc__)
    parser.add_argument("--only", default="", help="groups whose name starts so")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = []
    for case in corpus():
        if case.group.startswith(given.only):
            with tempfile.TemporaryDirectory() as folder:
                outcome, message = judge(case, Path(folder))
            found.append({"group": case.group, "case": case.name, "outcome": outcome})
            if outcome != CLEAR:
                print(f"{outcome}: {case.group}: {case.name}: {message[:300]}", flush=True)
    outcomes = pd.DataFrame(found)
    print(table(outcomes).to_string(index=False))
    if given.out:
        table(outcomes).to_csv(given.out, index=False)
    return int((outcomes["outcome"] != CLEAR).any())


if __name__ == "__main__":
    sys.exit(main())
