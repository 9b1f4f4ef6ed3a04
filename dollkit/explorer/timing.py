"""How long one change takes, from the moved control to the bytes of the new picture."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from dollkit.explorer.widgets import Explorer


def measure(explorer: Explorer, repeats: int = 20) -> pd.DataFrame:
    """Median and worst milliseconds of each kind of change, in this process (no browser).

    Args:
        repeats: most changes of each kind.

    Returns:
        Columns films (set), change, median_ms, worst_ms, cpu_ms (median of the processor's time,
        which other programs on the machine move less), n.
    """
    rows = []
    for films in _options(explorer.pick_set):
        explorer.pick_set.value = films
        grid = 0.01 + 0.01 * np.arange(9)
        moves: dict[str, tuple[Any, list[Any]]] = {
            "smooth": (explorer.smooth, list(grid)),
            "hi": (explorer.hi, list(0.2 + 5 * grid)),
            "ignore": (explorer.ignore, list(0.2 + 5 * grid)),
            "film": (explorer.pick_film, list(range(1, explorer.pick_film.max + 1))),
            "classifier": (explorer.pick_classifier, _options(explorer.pick_classifier)),
            "explainer": (explorer.pick_explainer, _options(explorer.pick_explainer)),
            "finding": (explorer.pick_finding, _options(explorer.pick_finding)),
        }
        explorer.rule.value = "peak"
        for name, (widget, values) in moves.items():
            # A value that is there already is no change.
            taken = [
                _seconds(widget, value)
                for value in (values[i % len(values)] for i in range(repeats))
                if value != widget.value
            ]
            if taken:
                wall, own = 1e3 * np.array(taken).T
                rows.append((films, name, np.median(wall), max(wall), np.median(own), len(wall)))
        explorer.restore()
    columns = ["films", "change", "median_ms", "worst_ms", "cpu_ms", "n"]
    return pd.DataFrame(rows, columns=columns)


def _options(dropdown: Any) -> list[Any]:
    return list(dict(dropdown.options).values())


def _seconds(widget: Any, value: Any) -> tuple[float, float]:
    began, own = time.perf_counter(), time.process_time()
    widget.value = value
    return time.perf_counter() - began, time.process_time() - own
