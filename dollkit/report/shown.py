"""Tables and figures of a run inside a notebook."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display

from dollkit.report import style
from dollkit.report.style import Drawn

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
