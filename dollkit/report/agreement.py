"""Figure 6: do the labels of a finding show where it is, if the classifiers can tell that it is?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
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
    """Pearson's correlation of ranks, row by row; NaN where a row is constant."""
    ranks = [sps.rankdata(rows, axis=1) for rows in (a, b)]
    u, v = (r - r.mean(1, keepdims=True) for r in ranks)
    norm = np.sqrt((u**2).sum(1) * (v**2).sum(1))
    out = np.full(len(norm), np.nan)
    return np.asarray(np.divide((u * v).sum(1), norm, out=out, where=norm > 0))


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
    left, right = (data[k].to_numpy(np.float64) for k in ("auroc_lo", "auroc_hi"))
    low, high = (data[k].fillna(data["iou"]).to_numpy(np.float64) for k in ("iou_lo", "iou_hi"))
    known, sure = np.isfinite(prior), data["iou_lo"].notna().to_numpy()
    hollow: dict[str, Any] = {"markerfacecolor": "white"}
    blue: Any = {"color": style.BLUE}
    circle: Any = {"color": style.BLACK, "markersize": 4.5, **hollow}
    with style.context():
        fig = style.canvas(style.PAGE, 4.6)
        ax = fig.subplots()
        ax.vlines(x[known], y[known], prior[known], color=style.GREY, linewidth=0.8, linestyle=":")
        ax.vlines(x, low, high, linewidth=1.3, **blue)
        ax.hlines(y, left, right, linewidth=0.6, alpha=0.6, **blue)
        ax.plot(x[known], prior[known], "o", zorder=3, **circle)
        ax.plot(x[sure], y[sure], "D", markersize=5, zorder=4, **blue)
        ax.plot(x[~sure], y[~sure], "D", markersize=5, zorder=4, **blue, **hollow)
        ax.grid(color="#ececec", linewidth=0.5)
        wide = max(float(right.max() - left.min()), 0.02)
        ax.set(
            xlabel="classifiers: test AUROC, mean",
            ylabel="IoU with the truth at matched area",
            xlim=(left.min() - 0.03 * wide, right.max() + 0.06 * wide),
            ylim=(-0.02, min(1.02, float(np.nanmax([*high, *prior])) + 0.08)),
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
        marks = np.vstack([np.column_stack([x, y]), np.column_stack([x, prior])[known]])
        ends = (
            (x, low, x, high),
            (left, y, right, y),
            (x[known], y[known], x[known], prior[known]),
        )
        lines = np.vstack([np.column_stack(e) for e in ends])
        _name_points(ax, x, y, data["finding"].tolist(), marks, lines)
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


# Names beside the points of a scatter, none over another.


ANGLES = np.deg2rad(np.arange(0, 360, 15))
RADII = (9.0, 12.0, 16.0, 20.0, 25.0, 31.0, 38.0, 50.0, 64.0, 80.0)
"""Where a name may stand: its nearest point this far (pixels at the figure's dpi) from the mark."""

PASSES = 6
LEADER = 11.0
"""Pixels beyond which a thin line leads from the mark to its name."""

OVER_NAME, OVER_MARK, OVER_LINE, OUTSIDE = 60.0, 20.0, 2.0, 200.0
"""Cost of each square pixel that a name shares with others, or has outside the axes."""

ASTRAY = 30.0
"""Cost of a name that stands no nearer to its own mark than to another named one."""

MARK = 4.5
"""Radius of a mark, in pixels."""


def overlap(boxes: Floats, others: Floats) -> Floats:
    """Areas that (n, 4) boxes x0, y0, x1, y1 share with each of (m, 4) others, (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(2))


def _place(
    sizes: Floats, points: Floats, marks: Floats, lines: Floats, frame: Floats
) -> list[Floats]:
    """Boxes of names so that none lies over another, nor over a mark if there is room.

    Greedy, then improved one by one for a few passes. In pixels: (n, 2) sizes of the names and
    points that they name, boxes (m, 4) of marks and (k, 4) of lines, (4,) frame to stay within.
    """
    radii = np.repeat(RADII, len(ANGLES))
    ways = np.tile(np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]), (len(RADII), 1))
    places, alone, shared = [], [], []  # terms of the cost are added in one order: ties stay ties
    for i, (at, size) in enumerate(zip(points, sizes, strict=True)):
        # The box touches the circle by the side or corner that faces the mark.
        centres = at + ways * radii[:, None] + size / 2 * np.clip(ways * 1.5, -1, 1)
        boxes = np.hstack([centres - size / 2, centres + size / 2])
        rivals = np.delete(points, i, axis=0)[None]
        gaps = np.clip(rivals, boxes[:, None, :2], boxes[:, None, 2:]) - rivals
        away = np.hypot(gaps[..., 0], gaps[..., 1]).min(1, initial=np.inf)
        outside = (boxes[:, 2:] - boxes[:, :2]).prod(1) - overlap(boxes, frame[None])[:, 0]
        places.append(boxes)
        alone.append(radii + ASTRAY * (away < radii + 2))
        over = [OVER_MARK * overlap(boxes, marks).sum(1), OVER_LINE * overlap(boxes, lines).sum(1)]
        shared.append([*over, OUTSIDE * outside])
    chosen: dict[int, Floats] = {}
    # The most crowded first: they have the least choice.
    between = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    order = np.argsort(np.sort(between, 1)[:, : min(4, len(points))].sum(1), kind="stable")
    for _ in range(PASSES):
        for i in order.tolist():
            others = np.array([chosen[j] for j in sorted(chosen) if j != i]).reshape(-1, 4)
            near = places[i] + np.array([-2, -1, 2, 1])
            cost = sum(shared[i], alone[i] + OVER_NAME * overlap(near, others).sum(1))
            chosen[i] = places[i][int(np.argmin(cost))]
    return [chosen[i] for i in range(len(points))]


def _name_points(
    ax: Axes, x: Floats, y: Floats, names: Sequence[str], marks: Floats, lines: Floats
) -> None:
    """Write a name beside each point of an axes whose limits are final.

    In data coordinates: (m, 2) centres of all marks, (k, 4) ends x0, y0, x1, y1 of lines.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    look: Any = {"textcoords": "offset points", "annotation_clip": False}
    texts = [
        ax.annotate(name, (a, b), (0, 0), zorder=5, fontsize=7, va="center", ha="center", **look)
        for name, a, b in zip(names, x, y, strict=True)
    ]
    for text in texts:
        text.set_in_layout(False)
        text.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
    figure.draw_without_rendering()
    boxes = np.array([text.get_window_extent().extents for text in texts])
    points = ax.transData.transform(np.column_stack([x, y]))
    dots = ax.transData.transform(marks)
    ends = ax.transData.transform(lines.reshape(-1, 2)).reshape(-1, 2, 2)
    placed = _place(
        boxes[:, 2:] - boxes[:, :2],
        points,
        np.hstack([dots - MARK, dots + MARK]),
        np.hstack([ends.min(1) - 1, ends.max(1) + 1]),
        np.asarray(ax.get_window_extent().extents) + np.array([2, 2, -2, -2]),
    )
    per_point = figure.dpi / 72  # pixels would mean others in a file of other dpi
    arrow = {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    for text, at, box in zip(texts, points, placed, strict=True):
        text.set_position(tuple(((box[:2] + box[2:]) / 2 - at) / per_point))
        away = np.clip(at, box[:2], box[2:]) - at
        if float(np.hypot(*away)) > LEADER:
            leader = ax.annotate("", text.xy, tuple(away / per_point), arrowprops=arrow, **look)
            leader.set_in_layout(False)
