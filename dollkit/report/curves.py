"""Figure 4 (validation mIoU against steps) and the supplementary figure: plots without films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.report import rows as cases
from dollkit.report import style
from dollkit.report.rows import main_network, main_size
from dollkit.report.style import Drawn

TUNING_TITLES = {
    "full": "all weights", "adapter": "adapters", "head": "head only", "lora": "LoRA",
    "bn": "norm layers", "bias": "biases",
}  # fmt: skip


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean validation mIoU over seeds, with the range of seeds.

    Curves of one arm are put on the union of their steps (linear interpolation, no
    extrapolation) within the span that all of them cover; folds of a seed are averaged first.

    Args:
        curves: rows of curves.csv of one network and training size.

    Returns:
        task, tuning, arm, step, mean, lo, hi (lowest and highest seed), n_seeds.
    """
    found: list[pd.DataFrame] = []
    for key, part in curves.dropna(subset=["val_miou"]).groupby(["task", "tuning", "arm"]):
        runs = [g.sort_values("step") for _, g in part.groupby(["seed", "fold"])]
        start = max(int(g["step"].iloc[0]) for g in runs)
        stop = min(int(g["step"].iloc[-1]) for g in runs)
        steps = np.unique(part["step"].to_numpy(np.float64))
        steps = steps[(steps >= start) & (steps <= stop)]
        if steps.size == 0:
            continue
        seeds = np.array([int(g["seed"].iloc[0]) for g in runs])
        every = np.stack([np.interp(steps, g["step"], g["val_miou"]) for g in runs])
        lines = np.stack([every[seeds == s].mean(0) for s in np.unique(seeds)])
        found.append(
            pd.DataFrame(
                {"task": key[0], "tuning": key[1], "arm": key[2], "step": steps}
                | {"mean": lines.mean(0), "lo": lines.min(0), "hi": lines.max(0)}
                | {"n_seeds": len(lines)}
            )
        )
    if not found:
        raise InputError("figure 4: no curve with a validation mIoU; fine-tune a task first")
    return pd.concat(found, ignore_index=True)


def figure4(run: Path | pd.DataFrame, *, profile: str) -> Drawn:
    """Validation mIoU against steps: tasks in columns, tunings in rows, one line per arm.

    Args:
        run: folder of the run, or rows of its curves.
        profile: name for the caption.

    Returns:
        The figure; data as `mean_curves`. Of several networks and training sizes those of
        `report.settings` are shown.
    """
    curves = run if isinstance(run, pd.DataFrame) else cases.load_curves(run)
    kept: list[pd.DataFrame] = []
    for _, part in main_size(curves).groupby("task"):
        kept.append(part[part["network"] == main_network(part)])
    if not kept:
        raise InputError("figure 4: curves are empty; fine-tune a task first")
    curves = pd.concat(kept, ignore_index=True)
    data = mean_curves(curves)
    tasks = [t for t in cases.TASKS if t in set(data["task"])]
    tunings = [t for t in TUNING_TITLES if t in set(data["tuning"])]
    arms = style.arms_of(data["arm"].unique().tolist())
    with style.context():
        tall = 2.0 if len(tunings) < 4 else 1.4  # a page holds no more
        fig = style.canvas(style.PAGE, tall * len(tunings) + 0.55)
        axes = fig.subplots(len(tunings), len(tasks), squeeze=False, sharey="col", sharex="col")
        for r, tuning in enumerate(tunings):
            for c, task in enumerate(tasks):
                ax = axes[r, c]
                for number, arm in enumerate(arms):
                    line = data[
                        (data["task"] == task) & (data["tuning"] == tuning) & (data["arm"] == arm)
                    ]
                    if line.empty:
                        continue
                    every = max(1, len(line) // 6)
                    style.curve(
                        ax, arm, *(line[k].to_numpy() for k in ("step", "mean", "lo", "hi")),
                        markevery=(number * every // len(arms), every),
                    )  # fmt: skip
                ax.grid(axis="y", color="#dddddd", linewidth=0.5)
                ax.set_axisbelow(True)
                ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                # Half of the best is where arms begin to part; below it all rise alike.
                ax.set_ylim(bottom=0.5 * float(data.loc[data["task"] == task, "hi"].max()))
                if r == 0:
                    ax.set_title(task, fontweight="bold")
                if r == len(tunings) - 1:
                    ax.set_xlabel("training steps")
                if c == 0:
                    ax.set_ylabel(f"{TUNING_TITLES[tuning]}\nvalidation mIoU")
        style.legend(fig, arms)
    low, high = int(data["n_seeds"].min()), int(data["n_seeds"].max())
    where = ", ".join(
        f"{t} {p['network'].iloc[0]}, {p['n_train'].iloc[0]} training films"
        for t, p in curves.groupby("task")
    )
    caption = (
        f"Figure 4 (profile {profile}). Validation mIoU during fine-tuning ({where}): mean over "
        f"{low if low == high else f'{low}-{high}'} seeds, bands from the lowest to the highest "
        "seed; shown from half of the highest value up. Each arm with the "
        "learning rate chosen for it on validation."
    )
    return Drawn(fig, data, caption)


def figure_s1(classifiers: pd.DataFrame, labels: pd.DataFrame, *, profile: str) -> Drawn:
    """Per finding: AUROC of each classifier, and label IoU beside the anatomy prior and chance.

    Args:
        classifiers: rows of classifiers.csv.
        labels: rows of labels.csv; the shipped explainer with the most classifiers is shown.

    Returns:
        The figure; data: finding, panel (auroc, iou), series, value, lo, hi.
    """
    ig = labels[labels["explainer"] == cases.explainer_of(labels)]
    ig = ig[ig["n_classifiers"] == ig["n_classifiers"].max()]
    if "variant" in ig and (ig["variant"] == "shipped").any():
        ig = ig[ig["variant"] == "shipped"]
    rows: list[dict[str, Any]] = []
    for r in classifiers.to_dict("records"):
        rows.append(
            {"finding": r["finding"], "panel": "auroc", "series": r["classifier"]}
            | {"value": r["auroc"], "lo": r["auroc_lo"], "hi": r["auroc_hi"]}
        )
    for r in ig.to_dict("records"):
        base = {"finding": "macro" if r["finding"] == "mean" else r["finding"], "panel": "iou"}
        rows += [
            base
            | {"series": "DoLL", "value": r["iou_matched"]}
            | {"lo": r["iou_matched_lo"], "hi": r["iou_matched_hi"]},
            base | {"series": "anatomy prior", "value": r["iou_prior"], "lo": None, "hi": None},
            base | {"series": "chance", "value": r["iou_chance"], "lo": None, "hi": None},
        ]
    data = pd.DataFrame(rows, columns=["finding", "panel", "series", "value", "lo", "hi"])
    order = [f for f in (*PATHOLOGIES, "macro") if f in set(data["finding"])]
    if not order:
        raise InputError("figure S1: neither classifiers nor labels name a pathology")
    data = data[data["finding"].isin(order)].astype({"lo": "float64", "hi": "float64"})
    data = data.reset_index(drop=True)
    names = sorted(set(classifiers["classifier"]))
    series = {n: style.SERIES[i % len(style.SERIES)] for i, n in enumerate(names)}
    series |= {"DoLL": (style.BLUE, "D"), "anatomy prior": (style.GREY, "P")}
    series |= {"chance": (style.BLACK, "|")}
    with style.context():
        fig = style.canvas(style.PAGE, 0.24 * len(order) + 0.9)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, panel, title in (
            (axes[0], "auroc", "classifiers: test AUROC"),
            (axes[1], "iou", "labels: IoU with the truth at matched area"),
        ):
            part = data[data["panel"] == panel]
            shown = [s for s in series if s in set(part["series"])]
            for number, name in enumerate(shown):
                rows_of = part[part["series"] == name]
                color, marker = series[name]
                shift = 0.18 * (number - (len(shown) - 1) / 2) if panel == "auroc" else 0.0
                y = np.array([order.index(f) for f in rows_of["finding"]]) + shift
                x, lo, hi = (rows_of[k].to_numpy(np.float64) for k in ("value", "lo", "hi"))
                ax.hlines(y, np.where(np.isnan(lo), x, lo), np.where(np.isnan(hi), x, hi),
                          color=color, linewidth=1.1)  # fmt: skip
                ax.plot(x, y, linestyle="", marker=marker, color=color, label=name)
            ax.set_title(title)
            ax.grid(axis="both", color="#e5e5e5", linewidth=0.5)
            ax.set_axisbelow(True)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
        axes[0].set_yticks(range(len(order)), order)
        axes[0].set_ylim(len(order) - 0.4, -0.6)
        axes[0].axvline(0.5, color=style.GREY, linewidth=0.8, linestyle=":")
        axes[1].set_xlim(left=0)
    caption = (
        f"Figure S1 (profile {profile}). Left: AUROC of each classifier on test patients; right: "
        "quality of the labels made from them, beside the mean-mask prior and chance. Lines: 95 % "
        "bootstrap intervals over patients."
    )
    return Drawn(fig, data, caption)
