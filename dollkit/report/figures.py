"""Figures 1-3: the approach, labels beside truth, segmentations side by side.

They show radiographs, so those of a real-film profile must not leave the machine they were made
on. Which cases are shown is decided by rule (quantiles of IoU), never by hand. Figures 4 and S1
are in `dollkit.report.curves`, S2 and S3 in `dollkit.report.label_figures`, 6 in
`dollkit.report.agreement`; all are found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, MOBILE
from dollkit.report import style
from dollkit.report.agreement import figure6, points
from dollkit.report.curves import figure4, figure_s1
from dollkit.report.label_figures import figure_s2, figure_s3
from dollkit.report.rows import LABEL_ARRAYS, TASK_ARRAYS, Arrays, at_quantile, load_examples
from dollkit.report.style import Box, Drawn

__all__ = [
    "LABEL_ARRAYS", "figure1", "figure2", "figure3", "figure4", "figure6", "figure_s1",
    "figure_s2", "figure_s3", "load_examples", "points",
]  # fmt: skip

IGNORE = 255
QUANTILES = (("best", 1.0), ("median", 0.5), ("worst", 0.0))


def figure1(
    labels: Path, task: Path, *, profile: str, maps: Path | None = None, arm: str = "doll"
) -> Drawn:
    """The approach, from real arrays: film, maps, consensus, label with ignore band, network.

    Args:
        labels: ``labels/examples.npz``. If it (or ``maps``) also holds ``maps`` (n, K, S, S)
            and ``classifiers`` (K,), the map of each classifier is shown.
        task: ``examples.npz`` of a fine-tuning stage, for the last panel.
        profile: name for the caption.
        maps: optional other file that holds the per-classifier maps of the same examples.
        arm: whose prediction is shown.

    Returns:
        The figure; data: panel, what, share of pixels called finding and ignored.
    """
    a = load_examples(labels, LABEL_ARRAYS)
    a |= {} if maps is None else load_examples(maps, ("image", "maps", "classifiers"))
    t = load_examples(task, TASK_ARRAYS)
    mobile = np.flatnonzero(np.isin(a["finding"], MOBILE))
    pool = mobile if mobile.size else np.arange(len(a["iou"]))
    i = int(pool[at_quantile(a["iou"][pool], 0.9)])
    shown = a["maps"][i] if "maps" in a else a["map"][i][None]
    names = [str(c) for c in a["classifiers"]] if "maps" in a else ["consensus map"]
    shown, names = shown[:4], names[:4]
    label = a["label"][i]
    several = "maps" in a
    arms = [str(x) for x in t["arms"]]
    if arm not in arms:
        raise InputError(f"{task}: no arm {arm!r} among its examples; fine-tune it")
    j = at_quantile(np.nan_to_num(np.atleast_2d(t["iou"])).mean(0), 0.5)
    rows: list[dict[str, object]] = []
    with style.context():
        fig, boxes = style.strip(5 if several else 4)
        titles = iter("12345")
        film = fig.add_axes(boxes[0])
        style.film(film, a["image"][i])
        film.set_title(f"{next(titles)}  film with\n{a['finding'][i]}")
        if several:
            maps_of(fig, boxes[1], a["image"][i], shown, names)
            frame = fig.add_axes(boxes[1])
            frame.axis("off")
            frame.set_title(f"{next(titles)}  one map per\nclassifier (IG)")
        consensus, labelled, network = (fig.add_axes(b) for b in boxes[-3:])
        style.film(consensus, a["image"][i])
        style.heat(consensus, a["map"][i])
        consensus.set_title(f"{next(titles)}  consensus\nof the maps")
        style.film(labelled, a["image"][i])
        style.wash(labelled, label == IGNORE, style.YELLOW, 0.35)
        style.wash(labelled, label == 1, style.BLUE, 0.6)
        style.outline(labelled, a["truth"][i], "white", 0.7)
        labelled.set_title(f"{next(titles)}  DoLL label\npre-trains network")
        style.film(network, t["image"][j])
        for c in range(len(t["classes"])):
            color = style.CLASS_COLORS[c % len(style.CLASS_COLORS)]
            style.wash(network, t["prediction"][arms.index(arm), j, c], color)
        network.set_title(f"{next(titles)}  fine-tuned\non {t['task']}")
    for name, mask in (("label", label), ("truth", a["truth"][i])):
        rows.append(
            {"panel": name, "image_id": a["image_id"][i], "finding": a["finding"][i]}
            | {"share_finding": float((mask == 1).mean())}
            | {"share_ignored": float((mask == IGNORE).mean()), "iou": float(a["iou"][i])}
        )
    rows.append({"panel": "network", "image_id": t["image_id"][j]} | {"iou": _mean_iou(t, arm, j)})
    caption = (
        f"Figure 1 (profile {profile}). The approach, drawn from arrays of this run: a film with "
        f"{a['finding'][i]}; explanations of the classifiers; their consensus; the label (blue: "
        "finding, yellow: ignored in training, white line: true mask), on which a segmentation "
        f"network is pre-trained; its prediction after fine-tuning on {t['task']}. Film: "
        "90 % quantile of label IoU among mobile findings; last panel: film of median mIoU."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def maps_of(
    fig: Figure, box: Box, image: npt.NDArray[Any], maps: npt.NDArray[Any], names: Sequence[str]
) -> None:
    """Up to four small maps in a two by two grid within ``box`` (figure coordinates)."""
    left, bottom, width, height = box
    for k, name in enumerate(names):
        x, y = left + 0.52 * width * (k % 2), bottom + 0.52 * height * (1 - k // 2)
        ax = fig.add_axes((x, y, 0.48 * width, 0.48 * height))
        style.film(ax, image)
        style.heat(ax, maps[k])
        shown = style.short(name)
        style.tag(ax, shown, min(4.5, 64 / len(shown)))  # not wider than its film


def _mean_iou(t: Arrays, arm: str, j: int) -> float:
    return float(t["iou"][[str(x) for x in t["arms"]].index(arm), j])


def figure2(
    labels: Path, *, profile: str, findings: Sequence[str] | None = None, columns: int = 6
) -> Drawn:
    """DoLL labels beside truth: best, median and worst film per finding, by rule.

    Args:
        labels: ``labels/examples.npz``.
        profile: name for the caption.
        findings: columns; default the mobile findings with three examples or more, in
            CheXpert's order (all findings if none has so many).
        columns: at most so many.

    Returns:
        The figure; data: finding, rank (best, median, worst), image_id, iou, n (examples).
    """
    a = load_examples(labels, LABEL_ARRAYS)
    have = {f: int((a["finding"] == f).sum()) for f in FINDINGS}
    wanted = list(findings or [f for f in MOBILE if have[f] >= 3] or [f for f in have if have[f]])
    for name in wanted:
        if not have.get(name):
            raise InputError(f"{labels}: no example of {name!r}; leave it out")
    wanted = wanted[:columns]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / max(len(wanted), 4)
        fig = style.canvas(wide * len(wanted), 3 * wide + 0.75)
        axes = fig.subplots(3, len(wanted), squeeze=False)
        for c, name in enumerate(wanted):
            pool = np.flatnonzero(a["finding"] == name)
            for r, (rank, q) in enumerate(QUANTILES):
                i = int(pool[at_quantile(a["iou"][pool], q)])
                ax = axes[r, c]
                style.film(ax, a["image"][i])
                style.wash(ax, a["label"][i] == IGNORE, style.YELLOW, 0.3)
                style.wash(ax, a["label"][i] == 1, style.BLUE, 0.55)
                style.outline(ax, a["truth"][i], style.ORANGE)
                style.tag(ax, f"{a['iou'][i]:.2f}")
                if r == 0:
                    ax.set_title(_wrap(name))
                if c == 0:
                    ax.set_ylabel(rank, fontsize=8)
                rows.append(
                    {"finding": name, "rank": rank, "image_id": a["image_id"][i]}
                    | {"iou": float(a["iou"][i]), "n": len(pool)}
                )
        fig.legend(
            handles=[
                Line2D([], [], color=style.ORANGE, lw=1.5, label="truth"),
                Patch(facecolor=style.BLUE, alpha=0.7, label="DoLL label"),
                Patch(facecolor=style.YELLOW, alpha=0.6, label="ignored"),
            ],
            loc="outside lower center", ncols=3, frameon=False,
        )  # fmt: skip
    caption = (
        f"Figure 2 (profile {profile}). DoLL labels beside the truth: per finding the film with "
        "the highest, the median and the lowest IoU (number in the corner) among "
        f"{min(have[f] for f in wanted)}-{max(have[f] for f in wanted)} examples."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def _wrap(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{first}\n{rest}" if rest else f"{name}\n"


def figure3(
    tasks: Sequence[Path], *, profile: str, quantiles: Sequence[float] = (0.5, 0.0)
) -> Drawn:
    """Segmentations of the arms side by side, truth as contour.

    Args:
        tasks: ``examples.npz`` of each fine-tuning stage; those of PSPNet are shown, or, without
            any, of the first one's network.
        profile: name for the caption.
        quantiles: per task the films at these quantiles of IoU averaged over arms.

    Returns:
        The figure; data: task, image_id, quantile, arm, iou.
    """
    if not tasks:
        raise InputError("figure 3: no examples.npz given; fine-tune a task first")
    every = [load_examples(p, TASK_ARRAYS) for p in tasks]
    networks = [str(t["network"]) for t in every]
    network = next((n for n in networks if n == "pspnet"), networks[0])
    loaded = {str(t["task"]): t for t in every if str(t["network"]) == network}
    arms = style.arms_of([str(x) for t in loaded.values() for x in t["arms"]])
    chosen: list[tuple[str, float, int]] = []
    for task, t in loaded.items():
        mean = np.nan_to_num(t["iou"], nan=0.0).mean(0)
        picks = {at_quantile(mean, q): q for q in reversed(quantiles)}
        chosen += [(task, q, i) for i, q in sorted(picks.items(), key=lambda e: -e[1])]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / (len(arms) + 1)
        narrow = len(arms) > 6  # for two words side by side
        fig = style.canvas(style.PAGE, wide * len(chosen) + (0.47 if narrow else 0.35))
        axes = fig.subplots(len(chosen), len(arms) + 1, squeeze=False)
        for r, (task, q, i) in enumerate(chosen):
            t = loaded[task]
            own = [str(x) for x in t["arms"]]
            name = {0.5: "median", 0.0: "worst", 1.0: "best"}.get(q, f"q {q:g}")
            axes[r, 0].set_ylabel(f"{task}\n{name}", fontsize=8)
            for c, arm in enumerate([None, *arms]):
                ax = axes[r, c]
                if arm is not None and arm not in own:
                    ax.axis("off")
                    continue
                style.film(ax, t["image"][i])
                for k in range(len(t["classes"])):
                    color = style.CLASS_COLORS[k % len(style.CLASS_COLORS)]
                    if arm is not None:
                        style.wash(ax, t["prediction"][own.index(arm), i, k], color, 0.5)
                    style.outline(ax, t["truth"][i, k], "white", 0.8)
                if arm is not None:
                    value = float(t["iou"][own.index(arm), i])
                    style.tag(ax, f"{value:.2f}")
                    rows.append(
                        {"task": task, "image_id": t["image_id"][i], "quantile": q}
                        | {"arm": arm, "iou": value}
                    )
                if r == 0:
                    title = "truth" if arm is None else style.ARM_LOOKS[arm].label
                    ax.set_title(_wrap(title) if narrow else title)
    counts = ", ".join(f"{task} {len(t['image'])}" for task, t in loaded.items())
    caption = (
        f"Figure 3 (profile {profile}, {network}). Predictions (colours) of the pre-training arms "
        "with the true contours (white); mIoU of the film in the corner. Per task the films of "
        f"median and of lowest mIoU averaged over arms, among the stored examples ({counts}; one "
        "seed)."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)
