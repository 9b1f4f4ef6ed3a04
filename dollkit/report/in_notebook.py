"""Pictures inside the notebooks: films, maps, labels and training curves, small and plain."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dollkit.data.images import IGNORE
from dollkit.report import style
from dollkit.report.style import Drawn

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#0072B2")
"""Okabe and Ito's colour-blind safe palette, those that show on a grey film first."""


LETTERS = 16
"""Of a film's title, on an inch."""


def _axes(n: int, columns: int, side: float) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(side * columns, side * rows), squeeze=False)
    axes = list(grid.ravel())
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def films(
    images: np.ndarray[Any, Any],
    titles: Sequence[str] = (),
    masks: np.ndarray[Any, Any] | None = None,
    classes: Sequence[str] = (),
    columns: int = 6,
    side: float = 1.9,
    heading: str = "",
) -> Figure:
    """A sheet of films, with the outlines of their masks.

    Args:
        images: (n, S, S) uint8.
        titles: one per film, or none; long ones are broken between words.
        masks: (n, C, S, S) in {0, 1}, drawn as contours.
        classes: names of the C masks, for the legend.
        columns: films in a row, at most.
        side: of a film, in inches.
        heading: above all of them.
    """
    figure, axes = _axes(len(images), columns, side)
    for i, image in enumerate(images):
        axes[i].imshow(image, cmap="gray", vmin=0, vmax=255)
        if i < len(titles):
            lines = textwrap.wrap(titles[i], round(LETTERS * side), max_lines=3, placeholder=" …")
            axes[i].set_title("\n".join(lines), fontsize=7)
        for c in range(masks.shape[1] if masks is not None else 0):
            if masks is not None and masks[i, c].any():
                axes[i].contour(masks[i, c], [0.5], colors=[COLOURS[c % 7]], linewidths=1)
    # In inches, so that legend and heading clear the films whatever the number of rows.
    below = 0.1 + 0.16 * -(-len(classes) // 5) if len(classes) else 0
    above = 0.3 if heading else 0
    figure.set_figheight(figure.get_figheight() + below + above)
    if len(classes):
        handles = [Line2D([], [], color=COLOURS[c % 7]) for c in range(len(classes))]
        figure.legend(handles, classes, ncols=5, loc="lower center", fontsize=7, frameon=False)
    if heading:
        figure.suptitle(heading, fontsize=10, y=1 - 0.05 / figure.get_figheight(), va="top")
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, below / height, 1, 1 - above / height))
    return figure


def label(axis: Axes, image: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    """A label over its film: finding orange, ignore band grey-blue, background untouched."""
    rgb = np.repeat(image[..., None] / 255.0, 3, axis=2)
    for value, colour in ((1, (0.90, 0.62, 0.0)), (IGNORE, (0.34, 0.71, 0.91))):
        at = target == value
        rgb[at] = 0.45 * rgb[at] + 0.55 * np.array(colour)
    axis.imshow(rgb)


def steps(
    image: np.ndarray[Any, Any],
    maps: Mapping[str, np.ndarray[Any, Any]],
    target: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any] | None = None,
    side: float = 2.1,
) -> Figure:
    """One film through the idea: film, maps, label with ignore band, and the truth's outline.

    Args:
        image: (S, S) uint8.
        maps: title to (S, S) map in [0, 1].
        target: (S, S) uint8 in {0, 1, 255}.
        truth: (S, S) in {0, 1}, or None.
    """
    figure, axes = _axes(len(maps) + 2, len(maps) + 2, side)
    axes[0].imshow(image, cmap="gray", vmin=0, vmax=255)
    axes[0].set_title("film", fontsize=8)
    for axis, (title, m) in zip(axes[1:], maps.items(), strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.imshow(m, cmap="inferno", alpha=0.65, vmin=0, vmax=max(float(np.max(m)), 1e-6))
        axis.set_title(title, fontsize=8)
    label(axes[-1], image, target)
    axes[-1].set_title("label (blue: ignored)", fontsize=8)
    if truth is not None and truth.any():
        for axis in (axes[0], axes[-1]):
            axis.contour(truth, [0.5], colors=[COLOURS[2]], linewidths=1)
    figure.tight_layout()
    return figure


def curves(history: pd.DataFrame, columns: Sequence[str], x: str = "step") -> Figure:
    """Columns of a training history against steps, one panel each."""
    shown = [c for c in columns if c in history]
    figure, grid = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 2.4), squeeze=False)
    for axis, column in zip(grid.ravel(), shown, strict=True):
        axis.plot(history[x], history[column], marker="o", markersize=3, color=COLOURS[6])
        axis.set_xlabel(x)
        axis.set_ylabel(column.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def bars(
    table: pd.DataFrame,
    name: str,
    values: Mapping[str, str],
    xlabel: str,
    chance: float | None = None,
) -> Figure:
    """Horizontal dots per row and series.

    Args:
        table: one row per item.
        name: column of item names.
        values: column to legend text.
        xlabel: what the values are.
        chance: a dotted line there.
    """
    figure, axis = plt.subplots(figsize=(6.2, 0.26 * len(table) + 0.9))
    place = np.arange(len(table))[::-1]
    markers = "osD^v"
    for i, (column, text) in enumerate(values.items()):
        colour = COLOURS[(6, 4, 2, 3, 0)[i % 5]]
        axis.plot(table[column], place, markers[i % 5], color=colour, label=text, markersize=5)
    axis.set_yticks(place, [str(v) for v in table[name]], fontsize=8)
    if chance is not None:
        axis.axvline(chance, color="0.6", linestyle=":", linewidth=1)
    axis.set_xlabel(xlabel)
    axis.grid(axis="y", color="0.92")
    axis.spines[["top", "right", "left"]].set_visible(False)
    if len(values) > 1:
        axis.legend(fontsize=7, frameon=False, loc="best")
    figure.tight_layout()
    return figure


# Tables and figures of a run inside a notebook.


_INTERVAL = re.compile(r"(\S+) \[(\S+), (\S+)\]")


def figure(
    figures: Mapping[str, Drawn], name: str, folder: Path, otherwise: str = "", width: int = 900
) -> None:
    """Caption and picture of a figure of the run, or why there is none.

    Args:
        figures: those that were drawn and saved.
        name: one of them, or one that could not be drawn.
        folder: where they were saved.
        otherwise: said if it was not drawn.
        width: on the screen, in pixels.
    """
    if name in figures:
        display(Markdown(figures[name].caption), Image(folder / f"{name}.png", width=width))
    else:
        display(Markdown(f"No figure here: {otherwise}."))


def table(
    path: Path, there: bool = True, otherwise: str = "", without: Collection[str] = ()
) -> Markdown:
    """A table of the run; a number and its interval stay on one line.

    Args:
        path: its Markdown.
        there: whether the run has it; a file of an earlier run is not shown.
        otherwise: said if it has not.
        without: columns that are left out, for want of room; the caption or the file has them.
    """
    if not there:
        return Markdown(f"No table here: {otherwise}.")
    lines = path.read_text(encoding="utf-8").split("\n")
    head = next((line for line in lines if line.startswith("| ")), "")
    kept = [i for i, name in enumerate(head.split(" | ")) if name.strip("| ") not in without]
    if without:
        lines = [_columns(line, kept) if line.startswith("| ") else line for line in lines]
    whole = "\\1\u00a0[\\2,\u00a0\\3]"
    return Markdown(_INTERVAL.sub(whole, "\n".join(lines)))


def _columns(line: str, kept: Sequence[int]) -> str:
    cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
    return f"| {' | '.join(cells[i] for i in kept)} |"


def arms(table1: pd.DataFrame) -> Image:
    """Table 1 as a picture: mIoU and its interval, one panel per task and network.

    Args:
        table1: result of `tables.table1`; arms that were not run are left out.
    """
    run = table1[table1["miou"].notna()]
    blocks = list(run.groupby(["task", "network"], sort=False))
    names = style.arms_of(run["arm"].unique().tolist())[::-1]
    with style.context():
        fig = style.canvas(style.PAGE, 0.2 * len(names) + 0.6)
        axes = fig.subplots(1, len(blocks), squeeze=False, sharey=True)[0]
        for ax, ((task, network), part) in zip(axes, blocks, strict=True):
            spans = part[["miou", "miou_lo", "miou_hi"]].to_numpy(np.float64)
            for arm, (mean, lo, hi) in zip(part["arm"].astype(str), spans, strict=True):
                look, y = style.ARM_LOOKS[arm], names.index(arm)
                ax.plot([lo, hi], [y, y], color=look.color, linewidth=1.2)
                ax.plot(mean, y, look.marker, color=look.color)
            ax.set_title(f"{task}, {network}", fontweight="bold")
            ax.set_xlabel("mIoU")
            ax.set_yticks(range(len(names)), [style.ARM_LOOKS[a].label for a in names])
            ax.grid(axis="x", color="#dddddd", linewidth=0.5)
        png = io.BytesIO()
        fig.savefig(png, format="png", dpi=150)
    return Image(png.getvalue(), width=900)
