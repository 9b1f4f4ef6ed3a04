"""Figure 6: do the labels of a finding show where it is, if the classifiers can tell that it is?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.lines import Line2D
from scipy import stats as sps

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.common.statistics import N_BOOT
from dollkit.report import style
from dollkit.report.label_figures import name_points
from dollkit.report.rows import explainer_of
from dollkit.report.style import Drawn

COLUMNS = [
    "finding", "auroc", "auroc_lo", "auroc_hi", "n_classifiers", "n_auroc", "iou", "iou_lo",
    "iou_hi", "iou_prior", "n",
]  # fmt: skip

FEWEST = 6
"""Findings below which no interval of a correlation is given: resamples hold too few ranks."""


def rank_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, *, n_boot: int = N_BOOT, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation with a 95 % percentile bootstrap interval over its units.

    Args:
        x, y: (n,) float, finite, one value per unit.
        n_boot: resamples of units; those without two different values of each are passed over.
        seed: of the resampling.

    Returns:
        rho, lo, hi; rho is NaN below three units or if x or y is constant, the bounds below
        `FEWEST` units.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not np.isfinite([a, b]).all():
        raise InputError("rank correlation: give two rows of finite numbers, of one length")
    n = len(a)
    if n < 3:
        return (float("nan"),) * 3
    rho = float(_spearman(a[None], b[None])[0])
    if n < FEWEST or np.isnan(rho):
        return rho, float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, n, (n_boot, n))
    lo, hi = np.nanquantile(_spearman(a[draws], b[draws]), [0.025, 0.975])
    return rho, float(lo), float(hi)


def _spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pearson's correlation of ranks, row by row; NaN where a row is constant."""
    ranks = [sps.rankdata(rows, axis=1) for rows in (a, b)]
    u, v = (r - r.mean(1, keepdims=True) for r in ranks)
    norm = np.sqrt((u**2).sum(1) * (v**2).sum(1))
    out = np.full(len(norm), np.nan)
    return np.asarray(np.divide((u * v).sum(1), norm, out=out, where=norm > 0))


def points(classifiers: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """One row per finding that was both classified and judged, in CheXpert's order.

    Args:
        classifiers: rows of classifiers.csv.
        labels: rows of labels.csv; the labels as shipped, with the most classifiers.

    Returns:
        `COLUMNS`: auroc (mean over classifiers), auroc_lo and _hi (lowest and highest of them),
        n_classifiers, n_auroc (test films), iou (label and truth at matched area) with its
        interval, iou_prior, n (films judged).
    """
    own = labels["explainer"] == explainer_of(labels)
    ig = labels[own & labels["iou_matched"].notna()]
    ig = ig[ig["n_classifiers"] == ig["n_classifiers"].max()]
    if "variant" in ig and (ig["variant"] == "shipped").any():
        ig = ig[ig["variant"] == "shipped"]
    graded = classifiers[classifiers["auroc"].notna()]
    rows: list[dict[str, object]] = []
    for finding in PATHOLOGIES:
        able, shown = graded[graded["finding"] == finding], ig[ig["finding"] == finding]
        if able.empty or shown.empty:
            continue
        one = shown.iloc[0]
        rows.append(
            {"finding": finding, "auroc": able["auroc"].mean(), "auroc_lo": able["auroc"].min()}
            | {"auroc_hi": able["auroc"].max(), "n_classifiers": len(able)}
            | {"n_auroc": int(able["n"].max()), "iou": one["iou_matched"]}
            | {"iou_lo": one["iou_matched_lo"], "iou_hi": one["iou_matched_hi"]}
            | {"iou_prior": one["iou_prior"], "n": int(one["n"])}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def figure6(classifiers: pd.DataFrame, labels: pd.DataFrame, *, profile: str) -> Drawn:
    """Per finding: mean AUROC of the classifiers against IoU of label and of mean-mask prior.

    Args:
        classifiers, labels: as for `points`.
        profile: name for the caption.

    Returns:
        The figure; data as `points`.
    """
    data = points(classifiers, labels)
    if data.empty:
        raise InputError("figure 6: no finding has both an AUROC and a label that was judged")
    x, y, prior = (data[k].to_numpy(np.float64) for k in ("auroc", "iou", "iou_prior"))
    left, right = (data[k].to_numpy(np.float64) for k in ("auroc_lo", "auroc_hi"))
    low, high = (data[k].fillna(data["iou"]).to_numpy(np.float64) for k in ("iou_lo", "iou_hi"))
    known = np.isfinite(prior)
    with style.context():
        fig = style.canvas(style.PAGE, 4.6)
        ax = fig.subplots()
        ax.vlines(x[known], y[known], prior[known], color=style.GREY, linewidth=0.8, linestyle=":")
        ax.vlines(x, low, high, color=style.BLUE, linewidth=1.3)
        ax.hlines(y, left, right, color=style.BLUE, linewidth=0.6, alpha=0.6)
        ax.plot(
            x[known], prior[known], "o", color=style.BLACK, markerfacecolor="white", markersize=4.5,
            zorder=3,
        )  # fmt: skip
        sure = data["iou_lo"].notna().to_numpy()
        ax.plot(x[sure], y[sure], "D", color=style.BLUE, markersize=5, zorder=4)
        ax.plot(
            x[~sure], y[~sure], "D", color=style.BLUE, markerfacecolor="white", markersize=5,
            zorder=4,
        )  # fmt: skip
        ax.set_xlabel("classifiers: test AUROC, mean")
        ax.set_ylabel("IoU with the truth at matched area")
        ax.grid(color="#ececec", linewidth=0.5)
        ax.set_axisbelow(True)
        span = max(float(right.max() - left.min()), 0.02)
        ax.set_xlim(float(left.min()) - 0.03 * span, float(right.max()) + 0.06 * span)
        ax.set_ylim(-0.02, min(1.02, float(np.nanmax([*high, *prior])) + 0.08))
        fig.legend(handles=_marks(), loc="outside lower center", ncols=4, frameon=False)
        marks = np.vstack([np.column_stack([x, y]), np.column_stack([x, prior])[known]])
        lines = np.vstack(
            [
                np.column_stack([x, low, x, high]),
                np.column_stack([left, y, right, y]),
                np.column_stack([x, y, x, prior])[known],
            ]
        )
        name_points(ax, x, y, data["finding"].tolist(), marks=marks, lines=lines)
    return Drawn(fig, data, _caption(data, profile))


def _marks() -> list[Line2D]:
    blue: Any = {"color": style.BLUE}
    return [
        Line2D([], [], marker="D", markersize=5, linewidth=1.3, label="label, 95 % interval",
               **blue),
        Line2D([], [], marker="o", color=style.BLACK, markerfacecolor="white", markersize=4.5,
               linestyle="", label="mean-mask prior"),
        Line2D([], [], linewidth=0.8, color=style.GREY, linestyle=":", label="same finding"),
        Line2D([], [], linewidth=0.6, label="lowest to highest classifier", **blue),
    ]  # fmt: skip


def _caption(data: pd.DataFrame, profile: str) -> str:
    rho, lo, hi = rank_correlation(data["auroc"], data["iou"])
    n = len(data)
    if np.isnan(rho):
        said = f"no rank correlation can be given for n = {n} finding{'s' * (n != 1)}"
    elif np.isnan(lo):
        said = f"Spearman's rho {rho:.2f}, n = {n} findings, too few for an interval"
    else:
        said = (
            f"Spearman's rho {rho:.2f}, 95 % bootstrap interval over the n = {n} findings "
            f"[{lo:.2f}, {hi:.2f}]"
        )
    above = int((data["iou"] > data["iou_prior"]).sum())
    few, many = int(data["n"].min()), int(data["n"].max())
    return (
        f"Figure 6 (profile {profile}). Does a label show where a finding is, if the classifiers "
        f"can tell that it is? One diamond per finding: AUROC on {data['n_auroc'].max()} test "
        f"films, mean over {data['n_classifiers'].max()} classifiers (line: lowest to highest), "
        "against the label's IoU with the truth at matched area (line: 95 % bootstrap interval "
        f"over patients; {few if few == many else f'{few}-{many}'} films with the finding"
        f"{'; hollow: too few patients for an interval' * bool(data['iou_lo'].isna().any())}). "
        "Circles: IoU of the finding's mean mask, which knows nothing of the film; "
        f"{above} of {n} labels are above it. {said[0].upper()}{said[1:]}."
    )
