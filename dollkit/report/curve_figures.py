"""Figures 4 to 6, S1 and S3: training curves, label efficiency, labels by finding and by step."""

from __future__ import annotations

import warnings
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from scipy import stats as sps

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.common.statistics import N_BOOT, Floats
from dollkit.labels.summary import STEPS
from dollkit.report import style
from dollkit.report.render import span
from dollkit.report.rows import main_network, main_size
from dollkit.report.style import Drawn
from dollkit.report.tables import several_sizes, summarise

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
    """Validation mIoU against steps: tasks in columns, tunings in rows, one line per arm.

    Of curves.csv `main_size` and `main_network` are shown; data as `mean_curves`.
    """
    kept = [p[p["network"] == main_network(p)] for _, p in main_size(curves).groupby("task")]
    if not kept:
        raise InputError("figure 4: curves are empty; fine-tune a task first")
    curves = pd.concat(kept, ignore_index=True)
    data = mean_curves(curves)
    tunings = [t for t in TUNING_TITLES if t in set(data["tuning"])]
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
            ax.set_ylabel(f"{TUNING_TITLES[tuning]}\nvalidation mIoU")
    caption = (
        f"Figure 4 (profile {profile}). Validation mIoU during fine-tuning "
        f"({style.networks(curves)}): mean over {span(data['n_seeds'])} seeds, bands from the "
        "lowest to the highest seed; shown from half of the highest value up. Each arm with the "
        "learning rate chosen for it on validation."
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


def figure_s1(classifiers: pd.DataFrame, labels: pd.DataFrame, *, profile: str) -> Drawn:
    """Per finding: AUROC of each classifier, and label IoU beside the anatomy prior and chance."""
    graded = classifiers.rename(columns={"classifier": "series"}).assign(panel="auroc")
    quality = labels.assign(finding=labels["finding"].replace("mean", "macro"), panel="iou")
    named = {"iou_matched": "DoLL", "iou_prior": "anatomy prior", "iou_chance": "chance"}
    kinds = [_values(quality.assign(series=name), column) for column, name in named.items()]
    quality = pd.concat(kinds).sort_index(kind="stable")
    data = pd.concat([_values(graded, "auroc"), quality])
    order = [f for f in (*PATHOLOGIES, "macro") if f in set(data["finding"])]
    if not order:
        raise InputError("figure S1: neither classifiers nor labels name a pathology")
    data = data[data["finding"].isin(order)].reset_index(drop=True)
    series = dict(zip(sorted(set(classifiers["classifier"])), cycle(style.SERIES), strict=False))
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
                own = part[part["series"] == name]
                color, marker = series[name]
                shift = 0.18 * (number - (len(shown) - 1) / 2) if panel == "auroc" else 0.0
                y = np.array([order.index(f) for f in own["finding"]]) + shift
                look = {"color": color, "label": name, "elinewidth": 1.1}
                style.intervals(ax, own, "value", y, marker, **look)
            ax.grid(axis="both", color="#e5e5e5", linewidth=0.5)
            ax.set(title=title, axisbelow=True)
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


def _values(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Data of `figure_s1`: a column as value, and the ends of its interval if it has one."""
    ends = {f"{column}_{end}": end for end in ("lo", "hi")}
    columns = ["finding", "panel", "series", "value", "lo", "hi"]
    return rows.rename(columns={column: "value"} | ends).reindex(columns=columns)


def figure_s3(ablation: pd.DataFrame, losses: pd.DataFrame, *, profile: str) -> Drawn:
    """What each choice of label making gives, and which step loses what.

    Of the tables of `dollkit.labels.summary`. Variants that change no map (other threshold rules)
    have no difference and are left out.
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
        f"shown. Right: IoU of the label, and of labels that are told something by the truth, "
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


# Figure 6: do the labels of a finding show where it is, if the classifiers can tell that it is?


FEWEST = 6  # findings that an interval of a correlation needs: resamples hold fewer ranks


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

    auroc is the mean over classifiers, auroc_lo and _hi the lowest and highest of them, n_auroc
    counts test films; iou is that of label and truth at matched area, n counts films judged.
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
        ax.set(xlabel="classifiers: test AUROC, mean", axisbelow=True)
        ax.set_ylabel("IoU with the truth at matched area")
        ax.margins(0.05, 0.08)
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


RADII = (9, 12, 16, 20, 25, 31, 38, 50, 64, 80)
PLACES = [(r, np.array([np.cos(a), np.sin(a)])) for r in RADII for a in np.arange(24) * np.pi / 12]
"""Where a name may stand: its nearest point this far (pixels at the figure's dpi) from the mark."""
LEADER = 12  # pixels from which on a thin line leads from the mark to its name
MARK = 5  # half the width of a mark, in pixels


def _name_points(ax: Axes, data: pd.DataFrame) -> None:
    """Write each finding beside its diamond: over no name or mark, and over as few lines."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame, per_point = ax.get_window_extent(), figure.dpi / 72
    marks = np.vstack([data[["auroc", "iou"]], data[["auroc", "iou_prior"]].dropna()])
    lines = [p.get_extents(ax.transData) for c in ax.collections for p in c.get_paths()]
    taken = [Bbox([dot - MARK, dot + MARK]) for dot in ax.transData.transform(marks)]
    look: Any = {"textcoords": "offset points", "annotation_clip": False, "in_layout": False}
    arrow = {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    for name, x, y in data[["finding", "auroc", "iou"]].to_numpy().tolist():
        text = ax.annotate(name, (x, y), (0, 0), fontsize=7, ha="center", va="center", **look)
        text.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
        box = text.get_window_extent()
        half = np.divide(box.size, 2)
        costs, boxes = [], []
        for radius, way in PLACES:
            # The box touches the circle by the side or corner that faces the mark.
            there = box.translated(*(radius * way + half * np.clip(1.5 * way, -1, 1)))
            inside = frame.fully_contains(*there.min) and frame.fully_contains(*there.max)
            over = 100 * there.count_overlaps(taken) + 5 * there.count_overlaps(lines)
            costs.append(radius + over + 1000 * (not inside))
            boxes.append(there)
        best = int(np.argmin(costs))
        radius, way = PLACES[best]
        taken.append(boxes[best].padded(1))
        text.set_position(tuple(np.subtract(boxes[best].min, box.min) / per_point))
        if radius >= LEADER:
            end = tuple(radius * way / per_point)
            ax.annotate("", (x, y), end, arrowprops=arrow, **look)
