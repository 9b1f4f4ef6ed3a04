"""Rates of several things, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.pool import Pool


def interleaved(tasks: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Items per second of some tasks, by name, one value per round.

    Args:
        tasks: each does a fixed piece of work and returns its number of items. Each runs once
            unmeasured first.
        rounds: in each, every task runs once, in order.
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


def processes(count: int) -> Pool:
    """A pool of `count` fresh processes, started anew and not forked."""
    return get_context("spawn").Pool(count)
