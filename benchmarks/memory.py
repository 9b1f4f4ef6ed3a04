"""Run by `benchmarks.stores` in a process of its own, whose peak memory it prints."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.stores import BATCH, build, read_batches
from dollkit.data.store import open_store


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB; mapped files count."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux that starts with what the parent had.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return round(int(found[1]) / 1024, 1)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def main(what: str, films: str, out: str, n: str, workers: str) -> None:
    """Build a store of `n` films (or find it standing), or read all of one in random batches."""
    began = time.perf_counter()
    if what == "read":
        store = open_store(out)
        read_batches(store, np.random.default_rng(0), 2 * len(store) // BATCH)
    else:
        paths = sorted(Path(films).glob("*.jpg"))
        build(paths, int(n), Path(out), int(workers))
    seconds = round(time.perf_counter() - began, 2)
    print(json.dumps({"mb": peak_mb(), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
