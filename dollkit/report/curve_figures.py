"""Figures 4 to 6, S1 and S3: training curves, label efficiency, labels by finding and by step."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dollkit.common import tuning_of
from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.labels.summary import STEPS
from dollkit.report import style
from dollkit.report.render import span
from dollkit.report.rows import TASKS, Rows, in_order, main_network, main_size
from dollkit.report.style import Drawn
from dollkit.report.tables import several_sizes, summarise, table2
from dollkit.training import shortcuts

TUNING_TITLES = {
    "full": "all weights", "adapter": "adapters", "head": "head only", "lora": "LoRA",
    "bn": "norm layers", "bias": "biases",
}  # fmt: skip


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean validation mIoU over seeds by task, tuning, arm and step; lo, hi: range of the seeds.

    Curves of one arm are put on the union of their steps (linear interpolation, no
    extrapolation) within the span that all of them cover; folds of a seed are averaged first.
    """
    means: list[pd.DataFrame] = []
    for key, part in curves.dropna(subset=["val_miou"]).groupby(["task", "tuning", "arm"]):
        runs = part.pivot(index="step", columns=["seed", "fold"], values="val_miou")
        runs = runs.interpolate("index", limit_area="inside").dropna()
        lines = np.stack([runs[seed].to_numpy().mean(1) for seed in runs.columns.unique("seed")])
        steps = {**dict(zip(("task", "tuning", "arm"), key, strict=True)), "step": runs.index}
        ends = {"mean": lines.mean(0), "lo": lines.min(0), "hi": lines.max(0)}
        means.append(pd.DataFrame(steps | ends | {"n_seeds": len(lines)}))
    return pd.concat(means, ignore_index=True)


def figure4(curves: pd.DataFrame, *, profile: str) -> Drawn:
    """Validation mIoU against steps: tasks in columns, tunings in rows, one line per arm."""
    kept = [p[p["network"] == main_network(p)] for _, p in main_size(curves).groupby("task")]
    if not kept:
        raise InputError("figure 4: curves are empty; fine-tune a task first")
    curves = pd.concat(kept, ignore_index=True)
    data = mean_curves(curves)
    tunings = list(in_order(data, "tuning")["tuning"].unique())
    tall = 2.0 if len(tunings) < 4 else 1.4  # a page holds no more
    with style.context():
        fig, axes = style.panels(
            data, tall * len(tunings) + 0.55, ("step", "mean", "lo", "hi"), "tuning", tunings,
            few_marks=True, floor=0.5, sharey="col", sharex="col",
        )  # fmt: skip
        # Half of the best is where arms begin to part; below it all rise alike.
        for ax in axes.flat:
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for column in axes.T:
            column[0].set_title(column[0].get_title(), fontweight="bold")
            column[-1].set_xlabel("training steps")
        for ax, tuning in zip(axes[:, 0], tunings, strict=True):
            kind, size = tuning_of(tuning)
            ax.set_ylabel(f"{TUNING_TITLES[kind]} {size or ''}\nvalidation mIoU")
    caption = (
        f"Figure 4 (profile {profile}). Validation mIoU during fine-tuning "
        f"({style.networks(curves)}): mean over {span(data['n_seeds'])} seeds, bands from the "
        "lowest to the highest seed; shown from half of the highest value up. Each arm with the "
        "learning rate chosen for it on validation."
    )
    return Drawn(fig, data, caption)


PROBE = "probe"
MANY_TUNINGS = 4  # from which on Figure S1 is drawn
KIND_MARKERS = {"full": "D", "head": "s", "adapter": "o", "lora": "^", "bn": "v", "bias": "P"}
COSTS = {"miou": "test mIoU", "memory_mb": "memory of a step, MB", "step_seconds": "seconds a step"}


def figure_s1(rows: Rows, *, profile: str) -> Drawn:
    """What can be had for which share of trained weights: mIoU, memory and time of a step against
    it, a line through the sizes of a kind; of tasks and networks with `MANY_TUNINGS`.
    """
    data = table2(rows, profile).frame
    many = data.groupby(["task", "network"])["tuning"].transform("nunique") >= MANY_TUNINGS
    several = data.groupby(["task", "network", "arm"])["tuning"].transform("nunique") > 1
    data = data[many & several].reset_index(drop=True)
    data["kind"] = [tuning_of(name)[0] for name in data["tuning"]]
    tasks = [task for task in TASKS if task in set(data["task"])]
    with style.context():
        fig = style.canvas(style.PAGE, 5.6)
        axes = fig.subplots(len(COSTS), len(tasks), squeeze=False, sharex=True)
        for (r, c), ax in np.ndenumerate(axes):
            panel = data[data["task"] == tasks[c]]
            value = list(COSTS)[r]
            groups: Any = panel.groupby(["arm", "kind", "network"], sort=False)
            for (arm, kind, _), part in groups:
                part = part.sort_values("trainable_share")
                x, y = (part[k].to_numpy(np.float64) for k in ("trainable_share", value))
                color = style.ARM_LOOKS[arm].color
                ax.plot(x, y, color=color, marker=KIND_MARKERS[kind], linewidth=1)
                if value == "miou":
                    ax.vlines(x, part["miou_lo"], part["miou_hi"], color=color, linewidth=0.7)
            ax.set_xscale("log")
            ax.grid(axis="y", color="#dddddd", linewidth=0.5)
            if r == 0:
                ax.set_title(tasks[c], fontweight="bold")
            if c == 0:
                ax.set_ylabel(COSTS[value])
            if r == len(COSTS) - 1:
                ax.set_xlabel("share of weights trained")
        arms = style.arms_of(data["arm"])
        looks = [(style.ARM_LOOKS[arm].color, "", style.ARM_LOOKS[arm].label) for arm in arms]
        kinds = [k for k in KIND_MARKERS if k in set(data["kind"])]
        looks += [(style.GREY, KIND_MARKERS[k], TUNING_TITLES[k]) for k in kinds]
        handles = [Line2D([], [], color=c, marker=m, label=said) for c, m, said in looks]
        style.key(fig, handles, 5)
    caption = (
        f"Figure S1 (profile {profile}, {style.networks(data)}). Test mIoU, memory and time of a "
        "step against the share of weights that is trained; sizes of adapters and of LoRA are "
        "joined by a line. Lines through points: 95 % bootstrap intervals over patients; "
        f"{span(data['n_seeds'])} seeds, {span(data['n_cases'])} test films. Each with the rate "
        "chosen for it on validation."
    )
    return Drawn(fig, data, caption)


def figure5(cases: pd.DataFrame, *, profile: str) -> Drawn:
    """mIoU against the number of training masks, of `main_network`; data as `summarise`."""
    kept = several_sizes(cases)
    if kept.empty:
        raise InputError("figure 5: one training size only; give more by parameter 'sizes'")
    data = summarise(kept[kept["network"] == main_network(kept)])
    with style.context():
        values = ("n_train", "miou", "miou_lo", "miou_hi")
        fig, axes = style.panels(data, 2.9, values, alpha=0.1)
        for ax in axes[0]:
            ticks = sorted(set(data.loc[data["task"] == ax.get_title(), "n_train"]))
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [str(t) for t in ticks])
            ax.minorticks_off()
            ax.set_xlabel("training masks")
        axes[0, 0].set_ylabel("test mIoU")
    text = (
        f"Figure 5 (profile {profile}, {data['network'].iloc[0]}). Test mIoU against the number of "
        f"training masks, all weights tuned; mean over {span(data['n_seeds'])} seeds, "
        f"{span(data['n_cases'])} test films; bands: 95 % bootstrap intervals over patients. "
        "Each start and size with the learning rate chosen for it on validation."
    )
    return Drawn(fig, data, text)


def figure6(
    classifiers: pd.DataFrame, labels: pd.DataFrame, difficulty: pd.DataFrame, *, profile: str
) -> Drawn:
    """Do labels show where a finding is, where classifiers can tell that it is? Per finding, AUROC
    of each classifier beside the probe's, and label IoU beside the mean-mask prior and chance.

    Findings of `shortcuts.flagged` are named so. Findings go by the mean AUROC.
    """
    graded = classifiers.rename(columns={"classifier": "series"}).assign(panel="auroc")
    known = {"probe_auroc": "auroc", "probe_lo": "auroc_lo", "probe_hi": "auroc_hi"}
    probed = difficulty.assign(series=PROBE, panel="auroc").reindex(
        columns=["finding", "series", "panel", *known]
    )
    probed = probed.rename(columns=known)
    quality = labels.assign(finding=labels["finding"].replace("mean", "macro"), panel="iou")
    named = {"iou_matched": "label", "iou_prior": "mean-mask prior", "iou_chance": "chance"}
    kinds = [_values(quality.assign(series=name), column) for column, name in named.items()]
    shown = pd.concat(kinds).sort_index(kind="stable")
    data = pd.concat([_values(part, "auroc") for part in (graded, probed)] + [shown])
    data = data[data["finding"].isin([*PATHOLOGIES, "macro"]) & data["value"].notna()]
    if data.empty:
        raise InputError("figure 6: neither classifiers nor labels name a pathology")
    means = classifiers.groupby("finding")["auroc"].mean()
    found = sorted(set(data["finding"]) - {"macro"}, key=lambda f: (-means.get(f, 0.0), f))
    order = [*found, *({"macro"} & set(data["finding"]))]
    doubted = shortcuts.flagged(difficulty, classifiers)
    said = ", ".join(doubted) or ("none here" if "probe_auroc" in difficulty else "not probed")
    data = data.assign(shortcut=data["finding"].isin(doubted)).reset_index(drop=True)
    series = dict(zip(sorted(set(classifiers["classifier"])), cycle(style.SERIES), strict=False))
    series |= {PROBE: (style.VERMILLION, "P"), "label": (style.BLUE, "D")}
    series |= {"mean-mask prior": (style.GREY, "P"), "chance": (style.BLACK, "|")}
    with style.context():
        fig = style.canvas(style.PAGE, 0.24 * len(order) + 0.9)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, panel, title in (
            (axes[0], "auroc", "classifiers: test AUROC"),
            (axes[1], "iou", "labels: IoU with the truth at matched area"),
        ):
            part = data[data["panel"] == panel]
            present = [s for s in series if s in set(part["series"])]
            for number, name in enumerate(present):
                own = part[part["series"] == name]
                color, marker = series[name]
                shift = 0.18 * (number - (len(present) - 1) / 2) if panel == "auroc" else 0.0
                y = np.array([order.index(f) for f in own["finding"]]) + shift
                look = {"color": color, "label": style.short(name), "elinewidth": 1.1}
                style.intervals(ax, own, "value", y, marker, **look)
            ax.grid(axis="both", color="#e5e5e5", linewidth=0.5)
            ax.set(title=title, axisbelow=True)
        marked = [f"{f}\npossibly a shortcut" if f in doubted else f for f in order]
        axes[0].set_yticks(range(len(order)), marked)
        axes[0].set_ylim(len(order) - 0.4, -0.6)
        axes[0].axvline(0.5, color=style.GREY, linewidth=0.8, linestyle=":")
        axes[1].set_xlim(left=0)
        style.key(fig, [line for ax in axes for line in ax.get_legend_handles_labels()[0]], 6)
    caption = (
        f"Figure 6 (profile {profile}). Does a label show where a finding is, if the classifiers "
        "can tell that it is? Left: AUROC of each classifier on test patients, and of a probe that "
        "sees how a film was taken, its grey values and its edge, but no place. A finding is "
        f"possibly a shortcut where the probe, beyond doubt better than chance, has "
        f"{shortcuts.SHARE:.0%} of what the classifiers are above 0.5: {said}. Right: IoU of "
        "labels with the truth at matched "
        "area, beside the mean mask of other patients and chance. Lines: 95 % bootstrap intervals "
        "over patients."
    )
    return Drawn(fig, data, caption)


def _values(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Data of `figure6`: a column as value, and the ends of its interval if it has one."""
    ends = {f"{column}_{end}": end for end in ("lo", "hi")}
    columns = ["finding", "panel", "series", "value", "lo", "hi"]
    return rows.rename(columns={column: "value"} | ends).reindex(columns=columns)


def figure_s3(ablation: pd.DataFrame, losses: pd.DataFrame, *, profile: str) -> Drawn:
    """What each choice of label making gives, and which step loses what.

    Of `dollkit.labels.summary`; variants that change no map (other threshold rules) are left out.
    """
    changed = ablation[(ablation["factor"] != "shipped") & ablation["delta"].notna()]
    changed = changed[(changed[["delta", "delta_lo", "delta_hi"]] != 0).any(axis=1)]
    mean = losses[losses["finding"] == "mean"]
    if changed.empty or mean.empty:
        raise InputError("figure S3: no changed factor or no mean loss; run the labels' stage")
    parts = changed["value"].astype(str).str.split("+")
    values = parts.map(lambda names: " + ".join(style.short(n) for n in names))
    changes = pd.DataFrame(
        {"panel": "change", "row": changed["factor"].astype(str) + " = " + values}
        | {"value": changed["delta"], "lo": changed["delta_lo"], "hi": changed["delta_hi"]}
        | {"n": changed["n"]}
    )
    steps = pd.DataFrame(
        {"panel": "loss", "row": list(STEPS.values())}
        | {"value": mean[list(STEPS)].to_numpy(np.float64)[0]}
        | {"lo": np.nan, "hi": np.nan, "n": int(mean["n"].iloc[0])}
    )
    with style.context():
        fig = style.canvas(style.PAGE, max(2.6, 0.165 * len(changes) + 0.8))
        left, right = fig.subplots(1, 2, width_ratios=(1, 1))
        _changes(left, changes, changed["factor"].to_numpy().astype(str))
        _stairs(right, steps)
    caption = (
        f"Figure S3 (profile {profile}). Left: IoU with the truth at matched area after one change "
        f"to how labels are made, minus that of the shipped labels on the same "
        f"{span(changes['n'])} pairs of film and finding, mean over "
        "findings; lines: paired 95 % bootstrap intervals over patients, hollow where they "
        "include zero. Changes of the threshold rule alone leave the map as it is and are not "
        f"shown. Right: IoU of the label, and of labels that use part of the truth, "
        f"all else unchanged; mean over {len(losses) - 1} findings, {steps['n'].iloc[0]} pairs; "
        "in brackets: gain over the label as shipped."
    )
    return Drawn(fig, pd.concat([changes, steps], ignore_index=True), caption)


def _changes(ax: Axes, rows: pd.DataFrame, factor: npt.NDArray[np.str_]) -> None:
    y = np.arange(len(rows))
    ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    sure = ((rows["lo"] > 0) | (rows["hi"] < 0)).to_numpy()
    for part, face in ((sure, style.BLUE), (~sure, "white")):
        look = {"color": style.BLUE, "markerfacecolor": face, "elinewidth": 1.2}
        style.intervals(ax, rows[part], "value", y[part], "D", **look)
    for start in np.flatnonzero(factor[1:] != factor[:-1]):
        ax.axhline(start + 0.5, color="#dddddd", linewidth=0.6)
    ax.set_yticks(y, rows["row"].tolist())
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.5)
    ax.set(title="one change: difference in IoU", ylim=(len(rows) - 0.4, -0.6), axisbelow=True)


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
    ax.set(ylim=(len(value) - 0.4, -0.6), xlim=(0, 1.45 * value.max()))
    ax.set_title("which step loses what: IoU")
