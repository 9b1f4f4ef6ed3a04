"""Pictures and tables inside the notebooks: films, maps, labels, small and plain."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dollkit.report import style
from dollkit.report.style import Drawn

LETTERS = 16  # of a film's title, on an inch


def films(
    images: np.ndarray[Any, Any], titles: Sequence[str] = (),
    masks: np.ndarray[Any, Any] | None = None, classes: Sequence[str] = (), columns: int = 6,
    side: float = 1.9, heading: str = "",
) -> Figure:  # fmt: skip
    """A sheet of films (n, S, S) uint8, with the outlines of their masks (n, C, S, S) in {0, 1}.

    Titles are one per film, or none; classes are named in a legend; `side` of a film is in inches.
    """
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    # Legend and heading add to the height, so that films keep their side.
    height = side * rows + 0.16 * -(-len(classes) // 5) + 0.3 * bool(heading)
    figure = plt.figure(figsize=(side * columns, height), layout="constrained")
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(images):
            axis.set_axis_off()
            continue
        style.film(axis, images[i])
        if i < len(titles):
            lines = textwrap.wrap(titles[i], round(LETTERS * side), max_lines=3, placeholder=" …")
            axis.set_title("\n".join(lines), fontsize=7)
        shown = masks[i] if masks is not None else ()
        for mask, colour in zip(shown, cycle(style.CLASS_COLORS), strict=False):
            style.outline(axis, mask, colour, 1)
    looks = zip(classes, cycle(style.CLASS_COLORS), strict=False)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in looks]
    if handles:
        style.key(figure, handles, 5, fontsize=7)
    if heading:
        figure.suptitle(heading, fontsize=10)
    return figure


def steps(
    image: np.ndarray[Any, Any], maps: Mapping[str, np.ndarray[Any, Any]],
    target: np.ndarray[Any, Any], truth: np.ndarray[Any, Any] | None = None, side: float = 2.1,
) -> Figure:  # fmt: skip
    """One film through the idea: film, maps by title, label {0, 1, 255}, outline of the truth."""
    panels: dict[str, Any] = {"film": {}, **{name: {"heat": m} for name, m in maps.items()}}
    panels["label (yellow: ignored)"] = {"label": target}
    figure = plt.figure(figsize=(side * len(panels), side), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, over) in zip(axes, panels.items(), strict=True):
        style.film(axis, image, **over)
        axis.set_title(title, fontsize=8)
    if truth is not None:
        style.outline(axes[0], truth, style.ORANGE, 1)
        style.outline(axes[-1], truth, style.ORANGE, 1)
    return figure


# Tables and figures of a run inside a notebook.


_INTERVAL = re.compile(r"(\S+) \[(\S+), (\S+)\]")


def figure(
    figures: Mapping[str, Drawn], name: str, folder: Path, otherwise: str = "", width: int = 900
) -> None:
    """Caption and picture of a saved figure, or why there is none; width in pixels."""
    if name in figures:
        display(Markdown(figures[name].caption), Image(folder / f"{name}.png", width=width))
    else:
        display(Markdown(f"No figure here: {otherwise}."))


def table(
    path: Path, there: bool = True, otherwise: str = "", without: Collection[str] = ()
) -> Markdown:
    """A table of the run from its Markdown; a number and its interval stay on one line.

    If it is not `there`, a file of an earlier run is not shown; columns are left out for room.
    """
    if not there:
        return Markdown(f"No table here: {otherwise}.")
    lines = path.read_text(encoding="utf-8").split("\n")
    if without:
        head = next(line for line in lines if line.startswith("| "))
        kept = [i for i, name in enumerate(head.split("|")) if name.strip() not in without]
        lines = [
            "|".join(line.split("|")[i] for i in kept) if line.startswith("| ") else line
            for line in lines
        ]
    return Markdown(_INTERVAL.sub("\\1\u00a0[\\2,\u00a0\\3]", "\n".join(lines)))
