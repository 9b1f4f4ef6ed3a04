"""One look for all figures: colours (Okabe & Ito's, for any colour vision), lines and markers that
hold their arm everywhere, so that a greyscale print reads the same, and files with fixed bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dollkit.data.images import IGNORE
from dollkit.report.rows import TASKS, write_csv

PAGE = 7.2  # width of a page, in inches

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"


class Look(NamedTuple):
    """Colour, line, marker and legend of one initialisation."""

    color: str
    line: Any
    marker: str
    label: str


ARM_LOOKS: dict[str, Look] = {
    "random": Look(BLACK, ":", "o", "random"),
    "imagenet": Look(PURPLE, (0, (5, 1, 1, 1)), "s", "ImageNet"),
    "classifier": Look(ORANGE, "--", "^", "classifier"),
    "doll": Look(BLUE, "-", "D", "DoLL"),
    "shuffled": Look(SKY, "-.", "v", "shuffled DoLL"),
    "prior": Look(GREY, (0, (1, 1)), "P", "anatomy prior"),
    "gradcam": Look(VERMILLION, (0, (3, 1, 1, 1, 1, 1)), "X", "Grad-CAM"),
    "single": Look("#8c6d31", (0, (2, 2)), "<", "one classifier"),
    "plain": Look("#5d4ea8", (0, (6, 1, 1, 1, 1, 1)), ">", "plain IG"),
    "truth": Look(GREEN, (0, (7, 2)), "*", "true masks"),
    "doll_imagenet": Look("#7fb2d9", (0, (4, 1)), "h", "DoLL from ImageNet"),
    "doll_random": Look("#003f66", (0, (2, 1)), "d", "DoLL from random"),
    "shuffled_random": Look("#a6a6a6", (0, (2, 3)), "1", "shuffled DoLL from random"),
}

SERIES = (("#000000", "o"), ("#8c8c8c", "s"), ("#4d4d4d", "^"), ("#b3b3b3", "v"), ("#666666", "X"))
"""Greys and markers of classifiers, so that no colour of an arm is used twice."""

CLASS_COLORS = (SKY, ORANGE, PURPLE, GREEN, YELLOW, VERMILLION, BLUE)
"""Of the mask classes of one task, in their order."""

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "svg.hashsalt": "dollkit",
    "svg.fonttype": "path",
    "image.interpolation": "nearest",
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


@dataclass
class Drawn:
    """A figure with the data it shows and its caption."""

    figure: Figure
    data: pd.DataFrame
    caption: str

    def save(self, stem: Path) -> list[Path]:
        """Write ``.svg``, ``.png``, ``.csv`` (data), ``.txt`` (caption): always the same bytes."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        svg, png = (stem.with_name(stem.name + s) for s in (".svg", ".png"))
        with context():
            self.figure.savefig(svg, metadata={"Date": None, "Creator": None})
            self.figure.savefig(png, dpi=300, metadata={"Software": None})
        return [svg, png, *self.save_text(stem)]

    def save_text(self, stem: Path) -> list[Path]:
        """Write the data and the caption alone."""
        data, caption = (stem.with_name(stem.name + s) for s in (".csv", ".txt"))
        write_csv(self.data, data)
        caption.write_text(self.caption + "\n", encoding="utf-8", newline="\n")
        return [data, caption]


def context() -> Any:
    """matplotlib settings of this project, as a context manager."""
    return mpl.rc_context(_RC)


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that pyplot does not know of, so that none is left open."""
    return Figure(figsize=(width, height), layout="constrained")


def film(
    ax: Axes, image: npt.ArrayLike, *, heat: npt.ArrayLike | None = None,
    label: npt.NDArray[Any] | None = None, ignored: float = 0.35, inside: float = 0.6,
) -> None:  # fmt: skip
    """A radiograph without axes, in its own grey values, and what is drawn over it.

    A heat map ends at its 99.5 % quantile; where it is low the film shows through. A label is in
    {0, 1, 255}: the ignored band yellow, the finding blue, which cover so much.
    """
    ax.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if heat is not None:
        x = np.asarray(heat, dtype=np.float64)
        top = float(np.quantile(x, 0.995))
        unit = np.clip(x / top, 0, 1) if top > 0 else np.zeros_like(x)
        ax.imshow(unit, cmap="magma", vmin=0, vmax=1, alpha=np.clip(0.15 + 1.2 * unit, 0, 0.85))
    if label is not None:
        wash(ax, label == IGNORE, YELLOW, ignored)
        wash(ax, label == 1, BLUE, inside)


def wash(ax: Axes, mask: npt.ArrayLike, color: str, alpha: float = 0.45) -> None:
    """A translucent fill where the (S, S) mask is true."""
    where = np.asarray(mask).astype(bool)
    rgba = np.full((*where.shape, 4), mpl.colors.to_rgba(color, alpha))
    rgba[..., 3] *= where
    ax.imshow(rgba)


def outline(ax: Axes, mask: npt.ArrayLike, color: str, width: float = 1.1) -> None:
    """The contour of an (S, S) mask, with a dark rim so that it reads on white and on black."""
    where = np.asarray(mask).astype(float)
    if not where.any():
        return
    # The pad closes contours that touch the border of the film.
    grid = np.arange(-1, where.shape[0] + 1)
    for rim, wide in ((BLACK, width + 0.9), (color, width)):
        ax.contour(grid, grid, np.pad(where, 1), levels=[0.5], colors=[rim], linewidths=wide)
    ax.set(xlim=(-0.5, where.shape[1] - 0.5), ylim=(where.shape[0] - 0.5, -0.5))


def tag(ax: Axes, text: str, size: float = 6.5) -> None:
    """A small number in the lower left corner of a film."""
    ax.text(
        0.03, 0.03, text, transform=ax.transAxes, color="white", fontsize=size, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.2, "edgecolor": "none"},
    )  # fmt: skip


def short(name: str) -> str:
    """A classifier's name without the prefix that says which library it comes from."""
    return name.removeprefix("tu-")


def arms_of(present: Iterable[str]) -> list[str]:
    """Arms in the fixed order of `ARM_LOOKS`."""
    arms = set(present)
    return [a for a in ARM_LOOKS if a in arms]


def _line(arm: str) -> dict[str, Any]:
    color, line, marker, _ = ARM_LOOKS[arm]
    width = 2.0 if arm == "doll" else 1.3
    return {"color": color, "linestyle": line, "marker": marker, "linewidth": width}


def panels(
    data: pd.DataFrame, height: float, values: tuple[str, str, str, str], by: str = "task",
    rows: Sequence[str] = ("",), *, alpha: float = 0.15, few_marks: bool = False,
    floor: float = 0.0, **shared: Any,
) -> tuple[Figure, npt.NDArray[Any]]:  # fmt: skip
    """A page-wide figure with a line and its band for each arm, and its (rows, tasks) axes.

    Args:
        values: columns of x, of the line and of the ends of its band.
        by, rows: column that tells the rows of panels apart, and its values.
        few_marks: each line has about six markers, those of the arms in turns.
        floor: where the y axes begin, as a share of the task's highest value; 0: by themselves.
    """
    tasks, arms = [t for t in TASKS if t in set(data["task"])], arms_of(data["arm"])
    fig = canvas(PAGE, height)
    axes = fig.subplots(len(rows), len(tasks), squeeze=False, **shared)
    for (r, c), ax in np.ndenumerate(axes):
        panel = data[data["task"] == tasks[c]]
        panel = panel[panel[by] == rows[r]] if rows[r] else panel
        for arm in arms_of(panel["arm"]):
            part = panel[panel["arm"] == arm].sort_values(values[0])
            x, y, lo, hi = (part[k].to_numpy(np.float64) for k in values)
            every = max(1, len(part) // 6)
            marks = (arms.index(arm) * every // len(arms), every) if few_marks else None
            ax.fill_between(x, lo, hi, color=ARM_LOOKS[arm].color, alpha=alpha, linewidth=0)
            ax.plot(x, y, **_line(arm), markevery=marks, zorder=3 if arm == "doll" else 2)
        ax.grid(axis="y", color="#dddddd", linewidth=0.5)
        ax.set_axisbelow(True)
        if floor:
            highest = float(data.loc[data["task"] == tasks[c], values[3]].max())
            ax.set_ylim(bottom=floor * highest)
        if r == 0:
            ax.set_title(tasks[c])
    handles = [Line2D([], [], label=ARM_LOOKS[arm].label, **_line(arm)) for arm in arms]
    key(fig, handles, min(len(arms), 6), handlelength=3)
    return fig, axes


def intervals(
    ax: Axes, rows: pd.DataFrame, value: str, y: npt.ArrayLike, marker: str, **look: Any
) -> None:
    """A marker at each row's value, and a line from its lo to its hi where it has them: an interval
    of few resamples need not hold its value."""
    x, lo, hi = (rows[k].to_numpy(np.float64) for k in (value, "lo", "hi"))
    line = {"color": look.get("color"), "linewidth": look.pop("elinewidth", 1.2)}
    ax.hlines(y, np.where(np.isnan(lo), x, lo), np.where(np.isnan(hi), x, hi), **line)
    ax.plot(x, y, linestyle="none", marker=marker, **look)


def key(fig: Figure, handles: Sequence[Artist], columns: int, **more: Any) -> None:
    """A legend below the panels of a figure."""
    place: dict[str, Any] = {"loc": "outside lower center"}
    fig.legend(handles=handles, ncols=columns, frameon=False, **(place | more))


def networks(frame: pd.DataFrame) -> str:
    """Network and training size of each task, as a caption names them."""
    firsts = frame.drop_duplicates("task")[["task", "network", "n_train"]]
    return ", ".join(f"{t} {net}, {n} training films" for t, net, n in firsts.to_numpy())
