"""Figures S2 and S3: how each finding's label comes about, and which step loses what.

Figure S2 shows radiographs; figure S3 shows none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.labels.oracles import STEPS
from dollkit.report import style
from dollkit.report.rows import LABEL_ARRAYS, Arrays, at_quantile, load_examples
from dollkit.report.style import Drawn

LINE, FOOT, NAMES, GAP = 0.14, 0.3, 1.02, 0.03
"""Inches of figure S2: one line of a title, below the films, left of them, between them."""


def figure_s2(labels: Path, *, profile: str) -> Drawn:
    """How the label of each finding comes about: film, maps, consensus, label, truth.

    Args:
        labels: ``labels/examples.npz`` with `LABEL_ARRAYS` and, of K classifiers, ``maps``
            (n, K, S, S), ``probability`` (n, K) and ``classifiers`` (K,).
        profile: name for the caption.

    Returns:
        The figure; one row for each finding that has an example: that of median IoU at matched
        area or, where no truth is known, the first. Data: finding, image_id, iou (at matched
        area; NaN without truth), n (examples), probability of each classifier.
    """
    a = load_examples(labels, (*LABEL_ARRAYS, "maps", "probability", "classifiers"))
    known = bool(a["truth"].any())
    names = [style.short(str(c)) for c in a["classifiers"]]
    shown = _median_cases(a, known)
    if not shown:
        raise InputError(f"{labels}: no example of any pathology; run the labels' stage again")
    titles = ["film", *(n.replace("_", "\n") for n in names), "consensus", "label"]
    titles += ["truth"] * known
    rows: list[dict[str, object]] = []
    with style.context():
        head = 0.08 + LINE * max(t.count("\n") + 1 for t in titles)
        fits = (style.PAGE - NAMES) / len(titles), (9.8 - head - FOOT) / len(shown)
        side = min(0.95, *fits) - GAP
        width, height = (n * (side + GAP) for n in (len(titles), len(shown)))
        fig = Figure(figsize=(NAMES + width, head + height + FOOT))
        for r, (finding, (i, n)) in enumerate(shown.items()):
            axes = _row_of(fig, head, r, len(titles), side)
            _one_case(axes, a, i, known)
            if r == 0:
                for ax, title in zip(axes, titles, strict=True):
                    ax.set_title(title, fontsize=8.5, linespacing=1.0, pad=3)
            _name(axes[0], finding, n)
            rows.append(
                {"finding": finding, "image_id": a["image_id"][i], "iou": float(a["iou"][i])}
                | {"n": n}
                | {f"p_{c}": float(p) for c, p in zip(names, a["probability"][i], strict=True)}
            )
        _legend(fig, known)
    counts = [n for _, n in shown.values()]
    several = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
    rule = (
        f"the case of median IoU at matched area among {several} examples; numbers in the corners "
        "of consensus and label: their IoU at matched area and at the label's own threshold"
        if known
        else f"the first of {several} examples (no truth is known to choose or to judge by)"
    )
    caption = (
        f"Figure S2 (profile {profile}). How the labels come about, one row per finding: {rule}. "
        f"Maps: explanations of {len(names)} classifiers, smoothed and sharpened as their "
        "consensus is, with the classifier's probability of the finding (p); their consensus; the "
        "label made from it."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def _median_cases(a: Arrays, known: bool) -> dict[str, tuple[int, int]]:
    """Index of the case of each finding that is shown, and how many there are."""
    out = {}
    for finding in PATHOLOGIES:
        pool = np.flatnonzero(a["finding"] == finding)
        if known:
            pool = pool[a["truth"][pool].any((1, 2))]
        if pool.size:
            out[finding] = (int(pool[at_quantile(a["iou"][pool], 0.5) if known else 0]), pool.size)
    return out


def _row_of(fig: Figure, head: float, row: int, columns: int, side: float) -> list[Axes]:
    """Square axes of one row, counted from the top; `head` and `side` in inches."""
    width, height = fig.get_size_inches()
    bottom = height - head - (row + 1) * (side + GAP) + GAP
    lefts = [NAMES + c * (side + GAP) for c in range(columns)]
    return [
        fig.add_axes((x / width, bottom / height, side / width, side / height)) for x in lefts
    ]  # fmt: skip


def _one_case(axes: Sequence[Axes], a: Arrays, i: int, known: bool) -> None:
    k = len(a["classifiers"])
    for ax in axes:
        style.film(ax, a["image"][i])
    for ax, m, p in zip(axes[1 : k + 1], a["maps"][i], a["probability"][i], strict=True):
        style.heat(ax, m)
        style.tag(ax, f"p {p:.2f}", 7)
    style.heat(axes[k + 1], a["map"][i])
    label = a["label"][i]
    style.wash(axes[k + 2], label == IGNORE, style.YELLOW, 0.35)
    style.wash(axes[k + 2], label == 1, style.BLUE, 0.6)
    if known:
        truth = a["truth"][i].astype(bool)
        union = int(((label == 1) | truth).sum())
        style.tag(axes[k + 1], f"{a['iou'][i]:.2f}", 7)
        style.tag(axes[k + 2], f"{((label == 1) & truth).sum() / union:.2f}", 7)
        style.outline(axes[k + 3], truth, style.ORANGE)


def _name(ax: Axes, finding: str, n: int) -> None:
    words = finding.replace("Cardiomediastinum", "Cardio-\nmediastinum").replace(" ", "\n")
    ax.text(
        -0.06, 0.5, f"{words}\nn = {n}", transform=ax.transAxes, ha="right", va="center",
        fontsize=8, linespacing=1.05,
    )  # fmt: skip


def _legend(fig: Figure, known: bool) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=style.BLUE, alpha=0.7, label="label"),
        Patch(facecolor=style.YELLOW, alpha=0.6, label="ignored in training"),
    ]
    if known:
        handles.append(Line2D([], [], color=style.ORANGE, lw=1.5, label="truth"))
    fig.legend(handles=handles, loc="lower center", ncols=3, frameon=False, borderaxespad=0.1)


def figure_s3(ablation: pd.DataFrame, losses: pd.DataFrame, *, profile: str) -> Drawn:
    """What each choice of label making gives, and which step loses what.

    Args:
        ablation: rows of ``labels/ablation.csv`` (`dollkit.labels.summary.ablation`).
        losses: table of `dollkit.labels.oracles.losses`; its row ``mean`` is shown.
        profile: name for the caption.

    Returns:
        The figure; data: panel (change, loss), row, value, lo, hi, n. Variants that change no
        map (other threshold rules) have no difference and are left out.
    """
    changed = ablation[(ablation["factor"] != "shipped") & ablation["delta"].notna()]
    changed = changed[(changed[["delta", "delta_lo", "delta_hi"]] != 0).any(axis=1)]
    mean = losses[losses["finding"] == "mean"]
    if changed.empty or mean.empty:
        raise InputError("figure S3: no changed factor or no mean loss; run the labels' stage")
    changes = pd.DataFrame(
        {"panel": "change", "row": changed["factor"].astype(str) + " = " + _values(changed)}
        | {"value": changed["delta"], "lo": changed["delta_lo"], "hi": changed["delta_hi"]}
        | {"n": changed["n"]}
    )
    steps = pd.DataFrame(
        {"panel": "loss", "row": list(STEPS.values())}
        | {"value": mean[list(STEPS)].to_numpy(np.float64)[0]}
        | {"lo": np.nan, "hi": np.nan, "n": int(mean["n"].iloc[0])}
    )
    data = pd.concat([changes, steps], ignore_index=True)
    with style.context():
        fig = style.canvas(style.PAGE, max(2.6, 0.165 * len(changes) + 0.8))
        left, right = fig.subplots(1, 2, width_ratios=(1, 1))
        _changes(left, changes, changed["factor"].to_numpy().astype(str))
        _stairs(right, steps)
    low, high = int(changes["n"].min()), int(changes["n"].max())
    caption = (
        f"Figure S3 (profile {profile}). Left: IoU with the truth at matched area after one change "
        f"to how labels are made, minus that of the shipped labels on the same "
        f"{low if low == high else f'{low}-{high}'} pairs of film and finding, mean over "
        "findings; lines: paired 95 % bootstrap intervals over patients, hollow where they "
        "include zero. Changes of the threshold rule alone leave the map as it is and are not "
        f"shown. Right: IoU of the label, and of labels that are told something by the truth, "
        f"all else unchanged; mean over {len(losses) - 1} findings, {steps['n'].iloc[0]} pairs; "
        "in brackets: gain over the label as shipped."
    )
    return Drawn(fig, data, caption)


def _values(changed: pd.DataFrame) -> pd.Series:
    """Values of the factors, with short names of classifiers."""
    parts = changed["value"].astype(str).str.split("+")
    return parts.map(lambda names: " + ".join(style.short(n) for n in names))


def _changes(ax: Axes, rows: pd.DataFrame, factor: npt.NDArray[np.str_]) -> None:
    y = np.arange(len(rows))
    value, lo, hi = (rows[k].to_numpy(np.float64) for k in ("value", "lo", "hi"))
    ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    ax.hlines(y, lo, hi, color=style.BLUE, linewidth=1.2)
    sure = (lo > 0) | (hi < 0)
    ax.plot(value[sure], y[sure], "D", color=style.BLUE)
    ax.plot(value[~sure], y[~sure], "D", color=style.BLUE, markerfacecolor="white")
    for start in np.flatnonzero(factor[1:] != factor[:-1]):
        ax.axhline(start + 0.5, color="#dddddd", linewidth=0.6)
    ax.set_yticks(y, rows["row"].tolist())
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_title("one change: difference in IoU")
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.5)
    ax.set_axisbelow(True)


def _stairs(ax: Axes, rows: pd.DataFrame) -> None:
    value = rows["value"].to_numpy(np.float64)
    y = np.arange(len(value))
    ax.barh(y, np.minimum(value, value[0]), height=0.7, color=style.BLUE)
    ax.barh(y, value - value[0], left=value[0], height=0.7, color=style.SKY)
    ax.axvline(value[0], color=style.BLACK, linewidth=0.8, linestyle=":")
    for i, v in enumerate(value):
        gain = f"  ({v - value[0]:+.2f})" if i else ""
        ax.text(v + 0.012, i, f"{v:.2f}{gain}", va="center", fontsize=7)
    ax.set_yticks(y, rows["row"].tolist())
    ax.set_ylim(len(value) - 0.4, -0.6)
    ax.set_xlim(0, 1.45 * float(value.max()))
    ax.set_title("which step loses what: IoU")


# Names beside the points of a scatter, none over another.


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
