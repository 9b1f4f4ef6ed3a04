"""Figures 1-3 and S2: the approach, labels beside truth, segmentations, how labels come about.

They show radiographs, so those of a real-film profile must not leave the machine they were made
on. Which cases are shown is decided by rule (quantiles of IoU), never by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, MOBILE, PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.report import style
from dollkit.report.rows import LABEL_ARRAYS, TASK_ARRAYS, Arrays, at_quantile, load_examples
from dollkit.report.style import Drawn

EXPLAINED = (*LABEL_ARRAYS, "maps", "probability", "classifiers")
"""Arrays of ``labels/examples.npz``: of n pairs and K classifiers, ``maps`` is (n, K, S, S)."""

RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}
"""Names of quantiles of IoU."""


def figure1(labels: Path, task: Path, *, profile: str, arm: str = "doll") -> Drawn:
    """The approach, from real arrays: film, maps, consensus, label with ignore band, network.

    Data: panel, what, share of pixels called finding and ignored.

    Args:
        labels: ``labels/examples.npz`` (`EXPLAINED`).
        task: ``examples.npz`` of a fine-tuning stage; the last panel has the arm's prediction.
    """
    a, t = load_examples(labels, EXPLAINED), load_examples(task, TASK_ARRAYS)
    mobile = np.flatnonzero(np.isin(a["finding"], MOBILE))
    pool = mobile if mobile.size else np.arange(len(a["iou"]))
    i = int(pool[at_quantile(a["iou"][pool], 0.9)])
    arms = [str(x) for x in t["arms"]]
    if arm not in arms:
        raise InputError(f"{task}: no arm {arm!r} among its examples; fine-tune it")
    j = at_quantile(np.nan_to_num(np.atleast_2d(t["iou"])).mean(0), 0.5)
    image, target, truth, finding = (a[k][i] for k in ("image", "label", "truth", "finding"))
    with style.context():
        fig, boxes = style.strip(5)
        film = fig.add_axes(boxes[0])
        style.film(film, image)
        film.set_title(f"1  film with\n{finding}")
        _four_maps(fig, boxes[1], a, i)
        frame = fig.add_axes(boxes[1])
        frame.axis("off")
        frame.set_title("2  one map per\nclassifier (IG)")
        consensus, labelled, network = (fig.add_axes(b) for b in boxes[-3:])
        style.film(consensus, image)
        style.heat(consensus, a["map"][i])
        consensus.set_title("3  consensus\nof the maps")
        style.film(labelled, image)
        style.label(labelled, target)
        style.outline(labelled, truth, "white", 0.7)
        labelled.set_title("4  DoLL label\npre-trains network")
        style.film(network, t["image"][j])
        masks = t["prediction"][arms.index(arm), j]
        for mask, color in zip(masks, cycle(style.CLASS_COLORS), strict=False):
            style.wash(network, mask, color)
        network.set_title(f"5  fine-tuned\non {t['task']}")
    rows: list[dict[str, object]] = [
        {"panel": name, "image_id": a["image_id"][i], "finding": finding}
        | {"share_finding": float((mask == 1).mean())}
        | {"share_ignored": float((mask == IGNORE).mean()), "iou": float(a["iou"][i])}
        for name, mask in (("label", target), ("truth", truth))
    ]
    iou = float(t["iou"][arms.index(arm), j])
    rows.append({"panel": "network", "image_id": t["image_id"][j], "iou": iou})
    caption = (
        f"Figure 1 (profile {profile}). The approach, drawn from arrays of this run: a film with "
        f"{finding}; explanations of the classifiers; their consensus; the label (blue: "
        "finding, yellow: ignored in training, white line: true mask), on which a segmentation "
        f"network is pre-trained; its prediction after fine-tuning on {t['task']}. Film: "
        "90 % quantile of label IoU among mobile findings; last panel: film of median mIoU."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def _four_maps(fig: Figure, box: style.Box, a: Arrays, i: int) -> None:
    """Maps of the first four classifiers in a two by two grid within ``box``."""
    left, bottom, width, height = box
    for k, name in enumerate(a["classifiers"][:4]):
        x, y = left + 0.52 * width * (k % 2), bottom + 0.52 * height * (1 - k // 2)
        ax = fig.add_axes((x, y, 0.48 * width, 0.48 * height))
        style.film(ax, a["image"][i])
        style.heat(ax, a["maps"][i][k])
        shown = style.short(str(name))
        style.tag(ax, shown, min(4.5, 64 / len(shown)))  # not wider than its film


def figure2(labels: Path, *, profile: str, columns: int = 6) -> Drawn:
    """DoLL labels beside truth: best, median and worst film per finding, by rule.

    Data: finding, rank (best, median, worst), image_id, iou, n (examples).

    Args:
        labels: ``labels/examples.npz``.
        columns: at most so many findings: the mobile ones with three examples or more, in
            CheXpert's order; all that have examples, if none of these has so many.
    """
    a = load_examples(labels, LABEL_ARRAYS)
    have = {f: int((a["finding"] == f).sum()) for f in FINDINGS}
    shown = ([f for f in MOBILE if have[f] >= 3] or [f for f in have if have[f]])[:columns]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / max(len(shown), 4)
        fig = style.canvas(wide * len(shown), 3 * wide + 0.75)
        axes = fig.subplots(3, len(shown), squeeze=False)
        for c, name in enumerate(shown):
            pool = np.flatnonzero(a["finding"] == name)
            for r, (rank, q) in enumerate(RANKS.items()):
                i = int(pool[at_quantile(a["iou"][pool], q)])
                ax = axes[r, c]
                style.film(ax, a["image"][i])
                style.label(ax, a["label"][i], 0.3, 0.55)
                style.outline(ax, a["truth"][i], style.ORANGE)
                style.tag(ax, f"{a['iou'][i]:.2f}")
                if r == 0:
                    ax.set_title(_wrap(name))
                if c == 0:
                    ax.set_ylabel(rank, fontsize=8)
                row = {"finding": name, "rank": rank, "image_id": a["image_id"][i]}
                rows.append(row | {"iou": float(a["iou"][i]), "n": len(pool)})
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
        f"{min(have[f] for f in shown)}-{max(have[f] for f in shown)} examples."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def _wrap(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{first}\n{rest}" if rest else f"{name}\n"


def figure3(tasks: Sequence[Path], *, profile: str) -> Drawn:
    """Segmentations of the arms side by side, truth as contour.

    Per task the films of median and lowest IoU, averaged over arms, are shown; data: task,
    image_id, quantile, arm, iou.

    Args:
        tasks: ``examples.npz`` of each fine-tuning stage; those of PSPNet are shown, or, without
            any, of the first one's network.
    """
    if not tasks:
        raise InputError("figure 3: no examples.npz given; fine-tune a task first")
    every = [load_examples(p, TASK_ARRAYS) for p in tasks]
    networks = [str(t["network"]) for t in every]
    network = "pspnet" if "pspnet" in networks else networks[0]
    loaded = {str(t["task"]): t for t in every if str(t["network"]) == network}
    arms = style.arms_of([str(x) for t in loaded.values() for x in t["arms"]])
    chosen: list[tuple[str, str, int]] = []
    for task, t in loaded.items():
        mean = np.nan_to_num(t["iou"], nan=0.0).mean(0)
        picks = {at_quantile(mean, RANKS[rank]): rank for rank in ("worst", "median")}
        ranked = sorted(picks.items(), key=lambda e: -RANKS[e[1]])
        chosen += [(task, rank, i) for i, rank in ranked]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / (len(arms) + 1)
        narrow = len(arms) > 6  # for two words side by side
        fig = style.canvas(style.PAGE, wide * len(chosen) + (0.47 if narrow else 0.35))
        axes = fig.subplots(len(chosen), len(arms) + 1, squeeze=False)
        for r, (task, rank, i) in enumerate(chosen):
            t = loaded[task]
            own = [str(x) for x in t["arms"]]
            axes[r, 0].set_ylabel(f"{task}\n{rank}", fontsize=8)
            for c, arm in enumerate(["truth only", *arms]):
                ax = axes[r, c]
                if c and arm not in own:
                    ax.axis("off")
                    continue
                style.film(ax, t["image"][i])
                for k, mask in enumerate(t["truth"][i]):
                    if c:
                        color = style.CLASS_COLORS[k % len(style.CLASS_COLORS)]
                        style.wash(ax, t["prediction"][own.index(arm), i, k], color, 0.5)
                    style.outline(ax, mask, "white", 0.8)
                if c:
                    value = float(t["iou"][own.index(arm), i])
                    style.tag(ax, f"{value:.2f}")
                    row = {"task": task, "image_id": t["image_id"][i], "quantile": RANKS[rank]}
                    rows.append(row | {"arm": arm, "iou": value})
                if r == 0:
                    title = style.ARM_LOOKS[arm].label if c else "truth"
                    ax.set_title(_wrap(title) if narrow else title)
    counts = ", ".join(f"{task} {len(t['image'])}" for task, t in loaded.items())
    caption = (
        f"Figure 3 (profile {profile}, {network}). Predictions (colours) of the pre-training arms "
        "with the true contours (white); mIoU of the film in the corner. Per task the films of "
        f"median and of lowest mIoU averaged over arms, among the stored examples ({counts}; one "
        "seed)."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


LINE, FOOT, NAMES, GAP = 0.14, 0.3, 1.02, 0.03
"""Inches of figure S2: one line of a title, below the films, left of them, between them."""


def figure_s2(labels: Path, *, profile: str) -> Drawn:
    """How the label of each finding comes about: film, maps, consensus, label, truth.

    One row for each finding that has an example: that of median IoU at matched area or, where no
    truth is known, the first. Data: finding, image_id, iou (at matched area; NaN without truth), n
    (examples), probability of each classifier.
    """
    a = load_examples(labels, EXPLAINED)
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
        width = NAMES + len(titles) * (side + GAP)
        height = head + len(shown) * (side + GAP) + FOOT
        fig = Figure(figsize=(width, height))
        for r, (finding, (i, n)) in enumerate(shown.items()):
            bottom = height - head - (r + 1) * (side + GAP) + GAP
            lefts = [NAMES + c * (side + GAP) for c in range(len(titles))]
            axes = [
                fig.add_axes((x / width, bottom / height, side / width, side / height))
                for x in lefts
            ]
            _one_case(axes, a, i, known)
            for ax, title in zip(axes, titles if r == 0 else (), strict=False):
                ax.set_title(title, fontsize=8.5, linespacing=1.0, pad=3)
            words = finding.replace("Cardiomediastinum", "Cardio-\nmediastinum").replace(" ", "\n")
            axes[0].text(
                -0.06, 0.5, f"{words}\nn = {n}", transform=axes[0].transAxes, ha="right",
                va="center", fontsize=8, linespacing=1.05,
            )  # fmt: skip
            row = {"finding": finding, "image_id": a["image_id"][i], "iou": float(a["iou"][i])}
            chances = zip(names, a["probability"][i], strict=True)
            rows.append(row | {"n": n} | {f"p_{name}": float(p) for name, p in chances})
        handles: list[Any] = [
            Patch(facecolor=style.BLUE, alpha=0.7, label="label"),
            Patch(facecolor=style.YELLOW, alpha=0.6, label="ignored in training"),
            *[Line2D([], [], color=style.ORANGE, lw=1.5, label="truth")] * known,
        ]
        fig.legend(handles=handles, loc="lower center", ncols=3, frameon=False, borderaxespad=0.1)
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


def _one_case(axes: Sequence[Axes], a: Arrays, i: int, known: bool) -> None:
    k = len(a["classifiers"])
    for ax in axes:
        style.film(ax, a["image"][i])
    for ax, m, p in zip(axes[1 : k + 1], a["maps"][i], a["probability"][i], strict=True):
        style.heat(ax, m)
        style.tag(ax, f"p {p:.2f}", 7)
    style.heat(axes[k + 1], a["map"][i])
    label = a["label"][i]
    style.label(axes[k + 2], label)
    if known:
        truth = a["truth"][i].astype(bool)
        union = int(((label == 1) | truth).sum())
        style.tag(axes[k + 1], f"{a['iou'][i]:.2f}", 7)
        style.tag(axes[k + 2], f"{((label == 1) & truth).sum() / union:.2f}", 7)
        style.outline(axes[k + 3], truth, style.ORANGE)
