"""Figure 6: a rank correlation with known answers, one point per finding, names that stay apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation
from scipy import stats as sps

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.report import agreement, label_figures, rows, style


def _rows(n: int = 13) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two classifiers and IG labels of the first n pathologies, and of what must be left out."""
    names = [*PATHOLOGIES[:n], "macro", "No Finding"]
    graded = [
        {"classifier": c, "finding": f, "auroc": 0.8 + 0.01 * i + shift}
        | {"auroc_lo": 0.7, "auroc_hi": 1.0, "ap": 0.5, "n_pos": 9, "n": 40}
        for c, shift in (("a", -0.02), ("b", 0.04))
        for i, f in enumerate(names)
    ]
    judged = [
        {"finding": f, "explainer": e, "n_classifiers": k, "variant": v}
        | {"iou_matched": iou - 0.01 * i, "iou_matched_lo": 0.1, "iou_matched_hi": 0.7}
        | {"iou_chance": 0.05, "iou_prior": 0.3, "precision": 0.5, "recall": 0.5}
        | {"hit_rate": 0.5, "n": 5 + i}
        for e, k, v, iou in (
            ("ig", 2, "shipped", 0.5), ("ig", 1, "shipped", 0.9), ("ig", 2, "steps=4", 0.8),
            ("gradcam", 2, "shipped", 0.7),
        )
        for i, f in enumerate([*PATHOLOGIES[:n], "mean"])
    ]  # fmt: skip
    return pd.DataFrame(graded), pd.DataFrame(judged)


def test_rank_correlation_of_known_orders() -> None:
    x = np.arange(8.0)
    assert agreement.rank_correlation(x, x**3) == pytest.approx((1, 1, 1))
    assert agreement.rank_correlation(x, -np.exp(x)) == pytest.approx((-1, -1, -1))
    rho, lo, hi = agreement.rank_correlation([1, 2, 3, 4], [2, 1, 4, 3])
    assert rho == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert np.isnan([lo, hi]).all()
    assert np.isnan(agreement.rank_correlation([1, 2], [2, 3])).all()
    assert np.isnan(agreement.rank_correlation(np.ones(8), x)[0])


def test_rank_correlation_agrees_with_scipy_also_in_its_resamples() -> None:
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=12), draw.normal(size=12).round(1)
    rho, lo, hi = agreement.rank_correlation(x, y, n_boot=300, seed=5)
    assert rho == pytest.approx(sps.spearmanr(x, y).statistic)
    picks = np.random.default_rng(5).integers(0, 12, (300, 12))
    slow = [sps.spearmanr(x[p], y[p]).statistic for p in picks]
    assert (lo, hi) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_rank_correlation_refuses_what_has_no_rank() -> None:
    for x, y in (([1, 2, 3], [1, 2]), ([1, 2, np.nan], [1, 2, 3])):
        with pytest.raises(InputError, match="finite numbers, of one length"):
            agreement.rank_correlation(x, y)


def test_one_point_per_finding_of_the_labels_as_shipped() -> None:
    graded, judged = _rows(5)
    data = agreement.points(graded, judged)
    assert data["finding"].tolist() == list(PATHOLOGIES[:5])
    assert data["iou"].tolist() == pytest.approx([0.5 - 0.01 * i for i in range(5)])
    assert data["auroc"].tolist() == pytest.approx([0.81 + 0.01 * i for i in range(5)])
    assert data["auroc_lo"].iloc[0] == pytest.approx(0.78)
    assert data["auroc_hi"].iloc[0] == pytest.approx(0.84)
    drawn = agreement.figure6(graded, judged, profile="p")
    assert "rho -1.00, n = 5 findings, too few for an interval" in drawn.caption
    assert "5 of 5 labels are above it" in drawn.caption
    many = agreement.figure6(*_rows(8), profile="p")
    assert "over the n = 8 findings [-1.00, -1.00]" in many.caption


def test_findings_without_auroc_or_truth_have_no_point() -> None:
    graded, judged = _rows(4)
    graded.loc[graded["finding"] == PATHOLOGIES[0], "auroc"] = np.nan
    judged.loc[judged["finding"] == PATHOLOGIES[1], "iou_matched"] = np.nan
    assert agreement.points(graded, judged)["finding"].tolist() == list(PATHOLOGIES[2:4])
    with pytest.raises(InputError, match="no finding has both"):
        agreement.figure6(graded, judged.iloc[:0], profile="p")


def test_a_finding_without_interval_is_hollow() -> None:
    graded, judged = _rows(4)
    one = judged["finding"] == PATHOLOGIES[2]
    judged.loc[one, ["iou_matched_lo", "iou_matched_hi"]] = np.nan
    drawn = agreement.figure6(graded, judged, profile="p")
    hollow = [
        line for line in drawn.figure.axes[0].lines
        if line.get_marker() == "D" and line.get_markerfacecolor() == "white"
    ]  # fmt: skip
    assert [len(line.get_xdata()) for line in hollow] == [1]
    assert "hollow: too few patients" in drawn.caption


def test_figure6_has_fixed_bytes_and_its_data(tmp_path: Path) -> None:
    saved = [
        agreement.figure6(*_rows(), profile="p").save(tmp_path / k / "figure6") for k in "ab"
    ]  # fmt: skip
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert pd.read_csv(saved[0][2]).columns.tolist() == agreement.COLUMNS


def _boxes(drawn: style.Drawn) -> list[label_figures.Floats]:
    with style.context():
        drawn.figure.draw_without_rendering()
        texts = [
            t for t in drawn.figure.axes[0].texts if isinstance(t, Annotation) and t.get_text()
        ]
        return [np.asarray(t.get_window_extent().extents) for t in texts]


@pytest.mark.parametrize("profile", ["laptop", "open", "synthetic"])
def test_names_overlap_neither_each_other_nor_a_diamond(profile: str) -> None:
    folder = paths.ROOT / "figures" / profile
    if profile == "synthetic":
        drawn = agreement.figure6(*_rows(), profile=profile)
    elif folder.is_dir():
        graded = rows.read_table(folder / "classifiers.csv", rows.CLASSIFIER_COLUMNS)
        judged = rows.read_table(folder / "labels.csv", rows.LABEL_COLUMNS)
        drawn = agreement.figure6(graded, judged, profile=profile)
    else:
        pytest.skip(f"no committed results of {profile}")
    boxes = _boxes(drawn)
    assert len(boxes) == len(drawn.data) > 0
    for one, other in combinations(boxes, 2):
        assert label_figures.overlap(one, other[None]).item() == 0
    ax = drawn.figure.axes[0]
    at = ax.transData.transform(drawn.data[["auroc", "iou"]].to_numpy())
    for box in boxes:
        assert label_figures.overlap(box, np.hstack([at - 3, at + 3])).max() == 0
        frame = np.asarray(ax.get_window_extent().extents)
        assert label_figures.overlap(box, frame[None]).item() == pytest.approx(
            np.prod(box[2:] - box[:2])
        )


def test_overlap_of_boxes() -> None:
    box = np.array([0.0, 0, 4, 2])
    others = np.array([[2.0, 1, 6, 6], [4, 0, 5, 5], [-1, -1, 9, 9]])
    assert label_figures.overlap(box, others).tolist() == [2, 0, 8]
    assert label_figures.overlap(box, np.zeros((0, 4))).size == 0
