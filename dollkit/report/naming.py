"""Names beside the points of a scatter, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

Floats = npt.NDArray[np.float64]

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


def overlap(box: Floats, others: Floats) -> Floats:
    """Area that a box (x0, y0, x1, y1) shares with each of (n, 4) others, (n,)."""
    if not len(others):
        return np.zeros(0)
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(1))


def _candidates(at: Floats, width: float, height: float) -> list[tuple[float, Floats]]:
    """Distance and box of every place a name may have around its mark, the best ones first."""
    found = []
    for radius in RADII:
        for angle in ANGLES:
            way = np.array([np.cos(angle), np.sin(angle)])
            # The box touches the circle by the side or corner that faces the mark.
            centre = at + way * radius + np.array([width, height]) / 2 * np.clip(way * 1.5, -1, 1)
            half = np.array([width, height]) / 2
            found.append((radius, np.concatenate([centre - half, centre + half])))
    return found


def place(
    sizes: Floats, points: Floats, marks: Floats, lines: Floats, frame: Floats
) -> list[Floats]:
    """Boxes of names so that none lies over another, nor over a mark if there is room.

    Args:
        sizes: (n, 2) width and height of the names.
        points: (n, 2) of the marks that they name.
        marks: (m, 4) boxes of everything drawn that must stay legible.
        lines: (k, 4) boxes of lines, better left free.
        frame: (4,) box that names must stay within. All in pixels.

    Returns:
        n boxes (4,); greedy, then improved one by one for a few passes. The same input gives the
        same boxes.
    """
    places = [_candidates(p, w, h) for p, (w, h) in zip(points, sizes, strict=True)]
    chosen: list[Floats | None] = [None] * len(sizes)
    # The most crowded first: they have the least choice.
    gaps = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    order = np.argsort(np.sort(gaps, 1)[:, : min(4, len(points))].sum(1), kind="stable")
    for _ in range(PASSES):
        for i in order:
            rest = [b for j, b in enumerate(chosen) if j != i and b is not None]
            others = np.array(rest).reshape(-1, 4)
            rivals = np.delete(points, i, axis=0)

            def cost(
                option: tuple[float, Floats], others: Floats = others, rivals: Floats = rivals
            ) -> float:
                radius, box = option
                area = float(np.prod(box[2:] - box[:2]))
                out = area - float(overlap(box, frame[None])[0])
                near = box + np.array([-2, -1, 2, 1])
                away = np.hypot(*(np.clip(rivals, box[:2], box[2:]) - rivals).T)
                lost = len(rivals) > 0 and float(away.min()) < radius + 2
                return (
                    radius
                    + ASTRAY * lost
                    + OVER_NAME * float(overlap(near, others).sum())
                    + OVER_MARK * float(overlap(box, marks).sum())
                    + OVER_LINE * float(overlap(box, lines).sum())
                    + OUTSIDE * out
                )

            chosen[i] = min(places[i], key=cost)[1]
    return [box for box in chosen if box is not None]


def name_points(
    ax: Axes,
    x: Floats,
    y: Floats,
    names: Sequence[str],
    *,
    marks: Floats,
    lines: Floats,
    size: float = 7,
    radius: float = 4.5,
) -> list[Annotation]:
    """Write a name beside each point of an axes whose limits are final.

    Args:
        x, y: (n,) points in data coordinates.
        names: n texts.
        marks: (m, 2) centres of all marks, in data coordinates.
        lines: (k, 4) ends x0, y0, x1, y1 of horizontal and vertical lines, in data coordinates.
        size: of the font, in points.
        radius: of a mark, in pixels.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    style: dict[str, Any] = {
        "fontsize": size,
        "textcoords": "offset points",
        "va": "center",
        "ha": "center",
        "annotation_clip": False,
    }
    texts = [
        ax.annotate(name, (a, b), xytext=(0, 0), zorder=5, **style)
        for name, a, b in zip(names, x, y, strict=True)
    ]
    for text in texts:
        text.set_in_layout(False)
        text.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    sizes = np.array([[b.width, b.height] for b in boxes])
    points = ax.transData.transform(np.column_stack([x, y]))
    dots = ax.transData.transform(marks)
    ends = ax.transData.transform(lines.reshape(-1, 2)).reshape(-1, 4)
    low, high = np.minimum(ends[:, :2], ends[:, 2:]), np.maximum(ends[:, :2], ends[:, 2:])
    frame = np.asarray(ax.get_window_extent().extents) + np.array([2, 2, -2, -2])
    placed = place(
        sizes,
        points,
        np.hstack([dots - radius, dots + radius]),
        np.hstack([low - 1, high + 1]),
        frame,
    )
    per_point = figure.dpi / 72  # pixels would mean others in a file of other dpi
    for text, at, box in zip(texts, points, placed, strict=True):
        offset = ((box[:2] + box[2:]) / 2 - at) / per_point
        nearest = np.clip(at, box[:2], box[2:])
        text.set_position((float(offset[0]), float(offset[1])))
        if float(np.hypot(*(nearest - at))) > LEADER:
            ends_at = (nearest - at) / per_point
            ax.annotate(
                "", text.xy, xytext=(float(ends_at[0]), float(ends_at[1])),
                textcoords="offset points", annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5,
                            "shrinkA": 0, "shrinkB": 3},
            ).set_in_layout(False)  # fmt: skip
    return texts
