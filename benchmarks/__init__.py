"""Benchmarks, as rates on this machine and ratios within one run: ``python -m benchmarks``.

Nothing here is asserted by a test: times belong to a machine. What is compared is measured in
turns, round by round, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(tasks: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Items per second of some tasks, by name, one value per round.

    Each task does a fixed piece of work and returns its number of items. In each round every task
    runs once, in order; each has run once unmeasured before.
    """
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            done = task()
            if number:
                rates[name].append(done / (time.perf_counter() - began))
    return rates


def ratio(rates: Mapping[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of one rate divided by another."""
    pairs = zip(rates[over], rates[under], strict=True)
    return statistics.median(a / b for a, b in pairs)


def median(values: list[float]) -> float:
    """Median, for rates in a record."""
    return round(statistics.median(values), 1)
