"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dollkit import paths
from dollkit.bench import phantom, stores
from dollkit.errors import InputError
from dollkit.machine import cores

PARTS = ("phantom", "store")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the record, print it: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m dollkit.bench", description="Benchmarks")
    parser.add_argument("--only", choices=PARTS, help="one part; the rest of the record stays")
    parser.add_argument("--quick", action="store_true", help="smaller stores")
    parser.add_argument(
        "--films", type=int, default=128, help="phantom: films per round (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=cores(), help="processes (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for 3 GB of stores, removed after")
    parser.add_argument("--out", type=Path, default=paths.figures() / "bench.json")
    given = parser.parse_args(argv)
    try:
        if given.films < phantom.CHUNK or given.workers < 1:
            raise InputError(f"--films must be at least {phantom.CHUNK}, --workers at least 1")
        record = _old(given.out) if given.only else {}
        if given.only != "store":
            record |= phantom.run(given.workers, given.films)
            record["films"] = given.films
        if given.only != "phantom":
            sizes = stores.QUICK if given.quick else stores.Sizes()
            if given.scratch is not None:
                given.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
                record |= stores.run(given.workers, sizes, Path(scratch))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    record["workers"] = given.workers
    record["machine"] = {"platform": platform.platform(), "cpus": os.cpu_count()}
    record["python"] = platform.python_version()
    record["numpy"] = np.__version__
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    return 0


def _old(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
