"""How fast the phantom is, at several sizes and film counts: its growth can be read off."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from dollkit.data import phantom

CHUNK = 32


def _render(size: int, start: int, count: int) -> int:
    protocol = phantom.Protocol()
    people = phantom.sample_population(start + count, 0, "ward", protocol).iloc[start:]
    drawn = phantom.render(people.reset_index(drop=True), size, 0, protocol)
    return int(drawn.images.shape[0])


def phantom_rate(size: int, films: int, workers: int, rounds: int = 3) -> float:
    """Films of `size` pixels per second, masks included: the median of some rounds of `films`
    films in `workers` processes, after a warm-up."""
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
    """Rates at 64, 128 and 256 px with `films` films a round, and at 128 px with four times more.

    JSON-able; keys start with ``phantom_``.
    """
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
    }
