"""How a run is watched: a plot in a notebook that a person looks at."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

EVERY = 3.0
"""Least seconds between two drawings of the live plot."""


def someone_looks() -> bool:
    """Whether the code runs in a notebook cell that a person started.

    A frontend with a person can answer ``input()`` and says so with each cell (``allow_stdin`` of
    the message protocol: JupyterLab, Notebook, VS Code, Colab); papermill, nbclient, nbconvert and
    nbval say that they cannot. Terminals have no kernel.
    """
    interactive = sys.modules.get("IPython")
    kernel = getattr(interactive.get_ipython() if interactive else None, "kernel", None)
    try:
        message = kernel.get_parent()  # type: ignore[union-attr]
        return bool(message["content"]["allow_stdin"])
    except (AttributeError, KeyError, TypeError, LookupError):
        return False


class Live:
    """A small plot under the running cell that is drawn anew as the run goes on.

    Args:
        columns: of the history, one panel each.
        shown: whether to draw; None: if `someone_looks`.
        every: least seconds between two drawings.
    """

    def __init__(
        self, columns: Sequence[str], shown: bool | None = None, every: float = EVERY
    ) -> None:
        self._columns, self._every = columns, every
        self._shown = someone_looks() if shown is None else shown
        self._handle: Any = None
        self._drawn = -float("inf")

    def draw(self, history: Sequence[dict[str, float]], last: bool = False) -> None:
        """Draw the history if it is time, or if this is the `last` row."""
        early = time.monotonic() - self._drawn < self._every
        if not self._shown or not history or (early and not last):
            return
        from IPython.display import Image, display

        picture = Image(data=_picture(history, self._columns), format="png")
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()


def _picture(history: Sequence[dict[str, float]], columns: Sequence[str]) -> bytes:
    """PNG of columns against steps. Without pyplot, so that no cell shows it a second time."""
    figure = Figure(figsize=(3.2 * len(columns), 2.2), layout="constrained")
    grid = figure.subplots(1, len(columns), squeeze=False)
    steps = [row["step"] for row in history]
    for axis, column in zip(grid.ravel(), columns, strict=True):
        axis.plot(steps, [row[column] for row in history], marker="o", markersize=3)
        axis.set_xlabel("step")
        axis.set_ylabel(column.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return out.getvalue()
