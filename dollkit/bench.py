"""Benchmarks, as rates on this machine and ratios within one run: ``python -m dollkit.bench``.

Nothing here is asserted by a test: times belong to a machine. The phantom is measured at several
sizes and film counts, so that the growth with pixels and films can be read off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dollkit import paths, phantom
from dollkit.errors import InputError

CHUNK = 32


def _render(size: int, start: int, count: int) -> int:
    protocol = phantom.Protocol()
    people = phantom.sample_population(start + count, 0, "ward", protocol).iloc[start:]
    drawn = phantom.render(people.reset_index(drop=True), size, 0, protocol)
    return int(drawn.images.shape[0])


def phantom_rate(size: int, films: int, workers: int, rounds: int = 3) -> float:
    """Films per second, masks included: the median of some rounds after a warm-up.

    Args:
        size: side in pixels.
        films: films per round.
        workers: processes.
        rounds: measured rounds.
    """
    context = get_context("spawn")
    rates: list[float] = []
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(_render, [size] * workers, [0] * workers, [8] * workers))
        for _ in range(rounds):
            starts = range(0, films, CHUNK)
            began = time.perf_counter()
            done = sum(
                pool.map(
                    _render, [size] * len(starts), starts, [min(CHUNK, films - s) for s in starts]
                )
            )
            rates.append(done / (time.perf_counter() - began))
    return statistics.median(rates)


def run(workers: int, films: int) -> dict[str, object]:
    """All benchmarks: a JSON-able record."""
    sizes = {size: phantom_rate(size, films, workers) for size in (64, 128, 256)}
    more = phantom_rate(128, 4 * films, workers)
    pixels = np.log2([1 / sizes[256], 1 / sizes[64]])
    return {
        "phantom_films_per_s": {str(k): round(v, 1) for k, v in sizes.items()},
        "phantom_films_per_s_128": round(sizes[128], 1),
        # 1 is linear in films; the exponent of seconds per film against pixels is below 1 as
        # long as per-film work (population, geometry) weighs.
        "phantom_rate_ratio_4x_films": round(more / sizes[128], 3),
        "phantom_pixel_exponent_64_256": round(float(pixels[0] - pixels[1]) / 4, 3),
        "films": films,
        "workers": workers,
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> int:
    """Command line: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m dollkit.bench", description=run.__doc__)
    parser.add_argument("--films", type=int, default=128, help="films per round (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=paths.figures() / "bench.json")
    given = parser.parse_args()
    try:
        if given.films < CHUNK or given.workers < 1:
            raise InputError(f"--films must be at least {CHUNK}, --workers at least 1")
        record = run(given.workers, given.films)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
