"""How a run is watched: TensorBoard files, and a plot in a notebook that someone looks at."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

log = logging.getLogger(__name__)

EVERY = 3.0
"""Least seconds between two drawings of the live plot."""


class Board:
    """TensorBoard event files in ``checkpoints/tensorboard`` of a run's folder.

    They stand beside the checkpoint because they are no result: the name of each holds the
    machine's. ``tensorboard --logdir runs`` finds them all.

    Args:
        folder: of the run; None: no files.
        start: steps done already; later ones of an earlier try are hidden. 0 removes the files.
    """

    def __init__(self, folder: Path | None, start: int) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            log.warning("no TensorBoard files: %s; `pip install tensorboard`", error)
            return
        place = folder / "checkpoints" / "tensorboard"
        for old in () if start else place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(place), purge_step=start + 1 if start else None)

    def add(self, row: dict[str, float]) -> None:
        """Write a row of the history, each number under its name at its step."""
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(row["step"]))
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


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
