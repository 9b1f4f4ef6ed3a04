"""Figure 6: do the labels of a finding show where it is, if the classifiers can tell that it is?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy import stats as sps

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.common.statistics import N_BOOT, Floats
from dollkit.report import style
from dollkit.report.render import span
from dollkit.report.style import Drawn

FEWEST = 6
"""Findings below which no interval of a correlation is given: resamples hold too few ranks."""


def rank_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, *, n_boot: int = N_BOOT, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's rho of (n,) x and y, and the ends of its 95 % percentile bootstrap interval.

    Resamples without two different values of each are passed over. Rho is NaN below three units
    or if x or y is constant, the ends below `FEWEST` units.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, nan = len(a), float("nan")
    rho = float(_spearman(a[None], b[None])[0]) if n >= 3 else nan
    if n < FEWEST or np.isnan(rho):
        return rho, nan, nan
    draws = np.random.default_rng(seed).integers(0, n, (n_boot, n))
    lo, hi = np.nanquantile(_spearman(a[draws], b[draws]), [0.025, 0.975])
    return rho, float(lo), float(hi)


def _spearman(a: Floats, b: Floats) -> Floats:
    """Correlation of ranks, row by row; NaN where a row is constant."""
    u, v = (sps.rankdata(rows, axis=1) for rows in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sps.ConstantInputWarning)
        return np.asarray(sps.pearsonr(u, v, axis=1).statistic)


def points(classifiers: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """One row per finding that was both classified and judged, in CheXpert's order.

    finding, auroc (mean over classifiers), auroc_lo and _hi (lowest and highest of them),
    n_classifiers, n_auroc (test films), iou (label and truth at matched area) with its interval,
    iou_prior, n (films judged). `labels` are rows of labels.csv about the labels as shipped.
    """
    graded = classifiers.dropna(subset="auroc").groupby("finding").agg(
        auroc=("auroc", "mean"), auroc_lo=("auroc", "min"), auroc_hi=("auroc", "max"),
        n_classifiers=("auroc", "size"), n_auroc=("n", "max"),
    )  # fmt: skip
    shown = labels.dropna(subset="iou_matched").set_index("finding")
    shown = shown[["iou_matched", "iou_matched_lo", "iou_matched_hi", "iou_prior", "n"]]
    data = graded.join(shown.rename(columns=lambda c: c.replace("_matched", "")), how="inner")
    return data.loc[[f for f in PATHOLOGIES if f in data.index]].reset_index()


def figure6(classifiers: pd.DataFrame, labels: pd.DataFrame, *, profile: str) -> Drawn:
    """Mean AUROC of the classifiers against IoU of label and mean-mask prior; data as `points`."""
    data = points(classifiers, labels)
    if data.empty:
        raise InputError("figure 6: no finding has both an AUROC and a label that was judged")
    x, y, prior = (data[k].to_numpy(np.float64) for k in ("auroc", "iou", "iou_prior"))
    left, right, low, high = (data[f"{k}_{end}"] for k in ("auroc", "iou") for end in ("lo", "hi"))
    known, sure = np.isfinite(prior), low.notna()
    blue: Any = {"color": style.BLUE}
    circle: Any = {"color": style.BLACK, "markersize": 4.5, "markerfacecolor": "white"}
    with style.context():
        fig = style.canvas(style.PAGE, 4.6)
        ax = fig.subplots()
        ax.vlines(x[known], y[known], prior[known], color=style.GREY, linewidth=0.8, linestyle=":")
        ax.vlines(x, low, high, linewidth=1.3, **blue)
        ax.hlines(y, left, right, linewidth=0.6, alpha=0.6, **blue)
        ax.plot(x[known], prior[known], "o", zorder=3, **circle)
        for part, face in ((sure, style.BLUE), (~sure, "white")):
            ax.plot(x[part], y[part], "D", markersize=5, zorder=4, markerfacecolor=face, **blue)
        ax.grid(color="#ececec", linewidth=0.5)
        wide = max(float(right.max() - left.min()), 0.02)
        ax.set(
            xlabel="classifiers: test AUROC, mean",
            ylabel="IoU with the truth at matched area",
            xlim=(left.min() - 0.03 * wide, right.max() + 0.06 * wide),
            ylim=(-0.02, min(1.02, float(np.nanmax([*high, *y, *prior])) + 0.08)),
            axisbelow=True,
        )
        handles = [
            Line2D([], [], marker="D", markersize=5, linewidth=1.3, label="label, 95 % interval",
                   **blue),
            Line2D([], [], marker="o", linestyle="", label="mean-mask prior", **circle),
            Line2D([], [], linewidth=0.8, color=style.GREY, linestyle=":", label="same finding"),
            Line2D([], [], linewidth=0.6, label="lowest to highest classifier", **blue),
        ]  # fmt: skip
        style.key(fig, handles, 4)
        _name_points(ax, data)
    return Drawn(fig, data, _caption(data, profile))


def _caption(data: pd.DataFrame, profile: str) -> str:
    rho, lo, hi = rank_correlation(data["auroc"], data["iou"])
    n = len(data)
    if np.isnan(rho):
        said = f"No rank correlation can be given for n = {n} finding{'s' * (n != 1)}"
    elif np.isnan(lo):
        said = f"Spearman's rho {rho:.2f}, n = {n} findings, too few for an interval"
    else:
        said = (
            f"Spearman's rho {rho:.2f}, 95 % bootstrap interval over the n = {n} findings "
            f"[{lo:.2f}, {hi:.2f}]"
        )
    above = int((data["iou"] > data["iou_prior"]).sum())
    return (
        f"Figure 6 (profile {profile}). Does a label show where a finding is, if the classifiers "
        f"can tell that it is? One diamond per finding: AUROC on {data['n_auroc'].max()} test "
        f"films, mean over {data['n_classifiers'].max()} classifiers (line: lowest to highest), "
        "against the label's IoU with the truth at matched area (line: 95 % bootstrap interval "
        f"over patients; {span(data['n'])} films with the finding"
        f"{'; hollow: too few patients for an interval' * bool(data['iou_lo'].isna().any())}). "
        "Circles: IoU of the finding's mean mask, which knows nothing of the film; "
        f"{above} of {n} labels are above it. {said}."
    )


# Names beside the points, none over another.


RADII = (9, 12, 16, 20, 25, 31, 38, 50, 64, 80)
PLACES = [(r, np.array([np.cos(a), np.sin(a)])) for r in RADII for a in np.arange(24) * np.pi / 12]
"""Where a name may stand: its nearest point this far (pixels at the figure's dpi) from the mark."""

LEADER = 12
"""Pixels from which on a thin line leads from the mark to its name."""

MARK = 5
"""Half the width of a mark, in pixels."""


def _name_points(ax: Axes, data: pd.DataFrame) -> None:
    """Write each finding beside its diamond: over no name or mark, and over as few lines."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame, per_point = ax.get_window_extent(), figure.dpi / 72
    diamonds, priors = data[["auroc", "iou"]], data[["auroc", "iou_prior"]].dropna()
    dots = ax.transData.transform(np.vstack([diamonds, priors]))
    lines = [p.get_extents(ax.transData) for c in ax.collections for p in c.get_paths()]
    taken = [Bbox([dot - MARK, dot + MARK]) for dot in dots]
    look: Any = {"textcoords": "offset points", "annotation_clip": False}
    arrow = {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    for name, at in zip(data["finding"], diamonds.to_numpy(), strict=True):
        text = ax.annotate(name, at, (0, 0), fontsize=7, ha="center", va="center", zorder=5, **look)
        text.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
        box = text.get_window_extent()
        costs, boxes = [], []
        for radius, way in PLACES:
            # The box touches the circle by the side or corner that faces the mark.
            there = box.translated(*(radius * way + box.size / 2 * np.clip(1.5 * way, -1, 1)))
            inside = frame.fully_contains(*there.min) and frame.fully_contains(*there.max)
            over = 100 * there.count_overlaps(taken) + 5 * there.count_overlaps(lines)
            costs.append(radius + over + 1000 * (not inside))
            boxes.append(there)
        best = int(np.argmin(costs))
        radius, way = PLACES[best]
        taken.append(boxes[best].padded(1))
        text.set_position(tuple((boxes[best].min - box.min) / per_point))
        text.set_in_layout(False)
        if radius >= LEADER:
            leader = ax.annotate("", at, tuple(radius * way / per_point), arrowprops=arrow, **look)
            leader.set_in_layout(False)
