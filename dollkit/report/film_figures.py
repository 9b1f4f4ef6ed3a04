"""Figures 1-3 and S2: the approach, labels beside truth, segmentations, how labels come about.

They show radiographs: those of a real-film profile must not leave their machine. Which cases are
shown is decided by rule (quantiles of IoU), never by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, MOBILE, PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.report import style
from dollkit.report.render import span
from dollkit.report.rows import LABEL_ARRAYS, TASK_ARRAYS, at_quantile, load_examples
from dollkit.report.style import Drawn

RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}  # names of quantiles of IoU


def _handles(label: str, ignored: str) -> list[Any]:
    """Of a legend: what the colours of a label mean, and the line of the truth."""
    blue = Patch(facecolor=style.BLUE, alpha=0.7, label=label)
    yellow = Patch(facecolor=style.YELLOW, alpha=0.6, label=ignored)
    return [blue, yellow, Line2D([], [], color=style.ORANGE, lw=1.5, label="truth")]


def figure1(labels: Path, task: Path, *, profile: str, arm: str = "doll") -> Drawn:
    """The approach, from real arrays: film, maps, consensus, label with ignore band, network."""
    a, t = load_examples(labels, LABEL_ARRAYS), load_examples(task, TASK_ARRAYS)
    mobile = np.flatnonzero(np.isin(a["finding"], MOBILE))
    pool = mobile if mobile.size else np.arange(len(a["iou"]))
    i = int(pool[at_quantile(a["iou"][pool], 0.9)])
    arms = [str(x) for x in t["arms"]]
    if arm not in arms:
        raise InputError(f"{task}: no arm {arm!r} among its examples; fine-tune it")
    j = at_quantile(np.nan_to_num(np.atleast_2d(t["iou"])).mean(0), 0.5)
    image, target, truth, finding = (a[k][i] for k in ("image", "label", "truth", "finding"))
    titles = (
        f"1  film with\n{finding}", "2  one map per\nclassifier (IG)", "3  consensus\nof the maps",
        "4  DoLL label\npre-trains network", f"5  fine-tuned\non {t['task']}",
    )  # fmt: skip
    with style.context():
        fig = style.canvas(style.PAGE, 1.7)
        axes = fig.subplots(1, len(titles))
        film, maps, consensus, labelled, network = axes
        fig.set_layout_engine("constrained", wspace=0.15)
        arrow = {"arrowstyle": "-|>", "linewidth": 1.2, "color": style.GREY}
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title)
            if ax is not film:
                ends = (-0.01, 0.5), (-0.17, 0.5)
                ax.annotate("", *ends, xycoords="axes fraction", arrowprops=arrow).set_in_layout(
                    False
                )
        style.film(film, image)
        style.film(maps, np.full_like(image, 255))
        for k, name in enumerate(a["classifiers"][:4]):  # in a two by two grid
            shown = style.short(str(name))
            ax = maps.inset_axes((0.52 * (k % 2), 0.52 * (1 - k // 2), 0.48, 0.48))
            style.film(ax, image, heat=a["maps"][i][k])
            style.tag(ax, shown, min(4.5, 64 / len(shown)))  # not wider than its film
        style.film(consensus, image, heat=a["map"][i])
        style.film(labelled, image, label=target)
        style.outline(labelled, truth, "white", 0.7)
        style.film(network, t["image"][j])
        masks = t["prediction"][arms.index(arm), j]
        for mask, color in zip(masks, cycle(style.CLASS_COLORS), strict=False):
            style.wash(network, mask, color)
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


def figure2(labels: Path, *, profile: str, columns: int = 6) -> Drawn:
    """DoLL labels beside truth: best, median and worst film per finding, by rule.

    At most so many `columns`: the mobile findings with three examples or more, in CheXpert's order;
    all that have examples, if none of these has so many.
    """
    a = load_examples(labels, LABEL_ARRAYS)
    have = {f: int((a["finding"] == f).sum()) for f in FINDINGS}
    shown = ([f for f in MOBILE if have[f] >= 3] or [f for f in have if have[f]])[:columns]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / max(len(shown), 4)
        fig = style.canvas(wide * len(shown), 3 * wide + 0.75)
        axes = fig.subplots(3, len(shown), squeeze=False)
        for (c, r), ax in np.ndenumerate(axes.T):
            name, rank = shown[c], list(RANKS)[r]
            pool = np.flatnonzero(a["finding"] == name)
            i = int(pool[at_quantile(a["iou"][pool], RANKS[rank])])
            style.film(ax, a["image"][i], label=a["label"][i], ignored=0.3, inside=0.55)
            style.outline(ax, a["truth"][i], style.ORANGE)
            style.tag(ax, f"{a['iou'][i]:.2f}")
            row = {"finding": name, "rank": rank, "image_id": a["image_id"][i]}
            rows.append(row | {"iou": float(a["iou"][i]), "n": len(pool)})
        for ax, name in zip(axes[0], shown, strict=True):
            ax.set_title(_wrap(name))
        for ax, rank in zip(axes[:, 0], RANKS, strict=True):
            ax.set_ylabel(rank, fontsize=8)
        *patches, truth = _handles("DoLL label", "ignored")
        style.key(fig, [truth, *patches], 3)
    caption = (
        f"Figure 2 (profile {profile}). DoLL labels beside the truth: per finding the film with "
        "the highest, the median and the lowest IoU at matched area (in the corner) among "
        f"{min(have[f] for f in shown)}-{max(have[f] for f in shown)} examples."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def _wrap(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{first}\n{rest}" if rest else f"{name}\n"


def figure3(tasks: Sequence[Path], *, profile: str) -> Drawn:
    """Segmentations of the arms side by side, truth as contour.

    Per task the films of median and lowest IoU, averaged over arms; of ``examples.npz`` of each
    fine-tuning stage those of PSPNet or, without any, of the first one's network.
    """
    if not tasks:
        raise InputError("figure 3: no examples.npz given; fine-tune a task first")
    every = [load_examples(p, TASK_ARRAYS) for p in tasks]
    networks = [str(t["network"]) for t in every]
    network = "pspnet" if "pspnet" in networks else networks[0]
    loaded = {str(t["task"]): t for t in every if str(t["network"]) == network}
    arms = style.arms_of(str(x) for t in loaded.values() for x in t["arms"])
    chosen: list[tuple[str, str, int]] = []
    for task, t in loaded.items():
        mean = np.nan_to_num(t["iou"], nan=0.0).mean(0)
        picks = {at_quantile(mean, RANKS[rank]): rank for rank in ("worst", "median")}
        chosen += [(task, picks[i], i) for i in sorted(picks, key=lambda i: -RANKS[picks[i]])]
    rows: list[dict[str, object]] = []
    with style.context():
        wide = style.PAGE / (len(arms) + 1)
        narrow = len(arms) > 6  # for two words side by side
        fig = style.canvas(style.PAGE, wide * len(chosen) + (0.47 if narrow else 0.35))
        axes = fig.subplots(len(chosen), len(arms) + 1, squeeze=False)
        for row, (task, rank, i) in zip(axes, chosen, strict=True):
            t = loaded[task]
            drawn = {str(arm): k for k, arm in enumerate(t["arms"])}
            row[0].set_ylabel(f"{task}\n{rank}", fontsize=8)
            for ax, arm in zip(row, ["", *arms], strict=True):
                if arm and arm not in drawn:
                    ax.axis("off")
                    continue
                style.film(ax, t["image"][i])
                classes = zip(t["truth"][i], cycle(style.CLASS_COLORS), strict=False)
                for k, (mask, color) in enumerate(classes):
                    if arm:
                        style.wash(ax, t["prediction"][drawn[arm], i, k], color, 0.5)
                    style.outline(ax, mask, "white", 0.8)
                if arm:
                    value = float(t["iou"][drawn[arm], i])
                    style.tag(ax, f"{value:.2f}")
                    case = {"task": task, "image_id": t["image_id"][i], "quantile": RANKS[rank]}
                    rows.append(case | {"arm": arm, "iou": value})
        for ax, arm in zip(axes[0], ["", *arms], strict=True):
            title = style.ARM_LOOKS[arm].label if arm else "truth"
            if ax.axison:
                ax.set_title(_wrap(title) if narrow else title)
    counts = ", ".join(f"{task} {len(t['image'])}" for task, t in loaded.items())
    caption = (
        f"Figure 3 (profile {profile}, {network}). Predictions (colours) of the pre-training arms "
        "with the true contours (white); mIoU of the film in the corner. Per task the films of "
        f"median and of lowest mIoU averaged over arms, among the stored examples ({counts}; one "
        "seed)."
    )
    return Drawn(fig, pd.DataFrame(rows), caption)


def figure_s2(labels: Path, *, profile: str) -> Drawn:
    """How the label of each finding comes about: film, maps, consensus, label, truth.

    A row per finding with examples: that of median IoU at matched area; without truth the first.
    """
    a = load_examples(labels, LABEL_ARRAYS)
    known = bool(a["truth"].any())
    judged = a["truth"].any((1, 2)) if known else np.ones(len(a["iou"]), bool)
    pools = {f: np.flatnonzero((a["finding"] == f) & judged) for f in PATHOLOGIES}
    pools = {finding: pool for finding, pool in pools.items() if pool.size}
    if not pools:
        raise InputError(f"{labels}: no example of any pathology; run the labels' stage again")
    names = [style.short(str(c)) for c in a["classifiers"]]
    titles = ["film", *(n.replace("_", "\n") for n in names), "consensus", "label"]
    titles += ["truth"] * known
    rows: list[dict[str, object]] = []
    with style.context():
        side = min(0.95, (style.PAGE - 1) / len(titles), 9 / len(pools))
        fig = style.canvas(1 + side * len(titles), 0.7 + side * len(pools))
        grid = fig.subplots(len(pools), len(titles), squeeze=False)
        for ax, title in zip(grid[0], titles, strict=True):
            ax.set_title(title, fontsize=8.5, linespacing=1.0)
        for axes, (finding, pool) in zip(grid, pools.items(), strict=True):
            i = int(pool[at_quantile(a["iou"][pool], 0.5) if known else 0])
            film, *maps = axes[: len(names) + 1]
            consensus, made, *true = axes[len(names) + 1 :]
            label, chances = a["label"][i], dict(zip(names, a["probability"][i], strict=True))
            for ax in (film, *true):
                style.film(ax, a["image"][i])
            for ax, values, p in zip(maps, a["maps"][i], chances.values(), strict=True):
                style.film(ax, a["image"][i], heat=values)
                style.tag(ax, f"p {p:.2f}", 7)
            style.film(consensus, a["image"][i], heat=a["map"][i])
            style.film(made, a["image"][i], label=label)
            for ax in true:
                truth = a["truth"][i].astype(bool)
                own = ((label == 1) & truth).sum() / ((label == 1) | truth).sum()
                style.tag(consensus, f"{a['iou'][i]:.2f}", 7)
                style.tag(made, f"{own:.2f}", 7)
                style.outline(ax, truth, style.ORANGE)
            words = finding.replace("Cardiomediastinum", "Cardio-\nmediastinum").replace(" ", "\n")
            look: Any = {"rotation": 0, "ha": "right", "va": "center", "linespacing": 1.05}
            film.set_ylabel(f"{words}\nn = {pool.size}", **look)
            row = {"finding": finding, "image_id": a["image_id"][i], "iou": float(a["iou"][i])}
            row |= {"n": pool.size} | {f"p_{name}": float(p) for name, p in chances.items()}
            rows.append(row)
        style.key(fig, _handles("label", "ignored in training")[: 2 + known], 3)
    several = span(pd.Series([pool.size for pool in pools.values()]))
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
