"""The data behind the figures, the rule that picks cases, and files with fixed bytes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation
from scipy import stats as sps

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.labels import summary
from dollkit.report import agreement, curves, figures, in_notebook, results, rows, style
from tests import synthetic_run as synthetic


@pytest.fixture(scope="module")
def whole() -> rows.Rows:
    return synthetic.rows()


@pytest.fixture(scope="module")
def run(whole: rows.Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_run(tmp_path_factory.mktemp("run"), whole)


@pytest.fixture(scope="module")
def labels(run: Path) -> Path:
    return run / "labels" / "examples.npz"


@pytest.fixture(scope="module")
def tasks(run: Path) -> list[Path]:
    return sorted((run / "finetune").glob("*/examples.npz"))


@pytest.fixture(scope="module")
def losses(labels: Path) -> pd.DataFrame:
    return summary.losses(rows.load_examples(labels, summary.ARRAYS))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_figures_have_fixed_bytes_and_leave_nothing_behind(
    every: bool, whole: rows.Rows, labels: Path, tasks: list[Path], losses: pd.DataFrame,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = dict(mpl.rcParams)
    saved = []
    for name in ("a", "b"):
        drawn = {"figure2": figures.figure2(labels, profile="p", columns=1)}
        if every:
            drawn |= results.figures_of(whole, losses, "p") | {
                "figure1": figures.figure1(labels, tasks[0], profile="p"),
                "figure3": figures.figure3(tasks, profile="p"),
                "figure_s2": figures.figure_s2(labels, profile="p"),
            }
        assert all("profile p" in d.caption and len(d.data) for d in drawn.values())
        saved.append([p for stem, d in drawn.items() for p in d.save(tmp_path / name / stem)])
    assert len(saved[0]) == 4 * (10 if every else 1)
    assert [p.suffix for p in saved[0][:4]] == [".svg", ".png", ".csv", ".txt"]
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        assert b"<dc:date>" not in first.read_bytes()
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_figure1_shows_arrays_of_the_run(labels: Path, tasks: list[Path]) -> None:
    drawn = figures.figure1(labels, tasks[0], profile="p")
    label = drawn.data.set_index("panel").loc["label"]
    assert 0 < label["share_finding"] < 1
    assert label["share_ignored"] > 0
    with pytest.raises(InputError, match="no arm 'prior'"):
        figures.figure1(labels, tasks[0], profile="p", arm="prior")


def test_figures_2_and_s2_take_cases_by_their_rank(labels: Path) -> None:
    a = rows.load_examples(labels, rows.LABEL_ARRAYS)
    typical = figures.figure_s2(labels, profile="p")
    medians = typical.data.set_index("finding")
    assert set(medians.index) == set(a["finding"])
    for finding, part in figures.figure2(labels, profile="p").data.groupby("finding"):
        have = np.sort(a["iou"][a["finding"] == finding])
        picked = part.set_index("rank")["iou"]
        best, median, worst = have[-1], have[round(0.5 * (len(have) - 1))], have[0]
        assert tuple(picked[["best", "median", "worst"]]) == (best, median, worst)
        assert (part["n"] == len(have)).all()
        assert medians.loc[str(finding), ["iou", "n"]].tolist() == [median, len(have)]
    case = typical.data.iloc[0]
    shown = a["probability"][a["image_id"] == case["image_id"]][0]
    assert case[[f"p_{c}" for c in synthetic.CLASSIFIERS]].tolist() == pytest.approx(shown)
    tags = [t.get_text() for ax in typical.figure.axes[:7] for t in ax.texts]
    assert [t for t in tags if t.startswith("p ")] == [f"p {p:.2f}" for p in shown]


def test_figure3_shows_every_arm_of_the_same_film(tasks: list[Path]) -> None:
    data = figures.figure3(tasks, profile="p").data
    assert len(data) == len(tasks) * 2 * len(synthetic.GAIN)
    for (task, quantile), part in data.groupby(["task", "quantile"]):
        assert part["image_id"].nunique() == 1
        assert part["arm"].tolist() == list(synthetic.GAIN)
        path = next(p for p in tasks if p.parent.name == task)
        mean = rows.load_examples(path, ())["iou"].mean(0)
        rank = np.sort(mean)[round(float(str(quantile)) * (len(mean) - 1))]
        assert part["iou"].mean() == pytest.approx(rank, abs=1e-12)
    with pytest.raises(InputError, match="fine-tune a task first"):
        figures.figure3([], profile="p")


def test_figure_s2_without_truth_takes_the_first_case_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    arrays = synthetic.label_examples(16, n=3)
    arrays["truth"] = np.zeros_like(arrays["truth"])
    arrays["iou"] = np.full(len(arrays["iou"]), np.nan)
    np.savez(path, **arrays)
    drawn = figures.figure_s2(path, profile="p")
    assert drawn.data["image_id"].tolist() == [str(f)[:4] + "0" for f in drawn.data["finding"]]
    assert "no truth is known" in drawn.caption
    titles = {ax.get_title() for ax in drawn.figure.axes}
    assert titles & {"label", "truth"} == {"label"}
    arrays["finding"] = np.repeat("No Finding", len(arrays["finding"]))
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="no example of any pathology"):
        figures.figure_s2(path, profile="p")


@pytest.mark.parametrize(
    ("runs", "want"),
    [
        pytest.param(
            {(s, f): ([0, 10, 20], [0.0, level / 2, level])
             for s, f, level in ((0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.8), (1, 1, 0.8))},
            [[0, 0, 0, 0], [10, 0.275, 0.15, 0.4], [20, 0.55, 0.3, 0.8]],
            id="folds first, then seeds",
        ),
        pytest.param(
            {(0, 0): ([0, 10], [0.0, 0.5]), (1, 0): ([0, 5, 20], [0.0, 0.1, 0.4])},
            [[0, 0, 0, 0], [5, 0.175, 0.1, 0.25], [10, 0.35, 0.2, 0.5]],
            id="not beyond the shortest",
        ),
    ],
)  # fmt: skip
def test_mean_curves(
    runs: dict[tuple[int, int], tuple[list[int], list[float]]], want: list[list[float]]
) -> None:
    key = {"task": "lungs", "tuning": "full", "arm": "doll"}
    parts = [
        pd.DataFrame(key | {"seed": s, "fold": f, "step": steps, "val_miou": values})
        for (s, f), (steps, values) in runs.items()
    ]
    curve = curves.mean_curves(pd.concat(parts))
    np.testing.assert_allclose(curve[["step", "mean", "lo", "hi"]], want)
    assert set(curve["n_seeds"]) == {2}


def test_figure4_plots_its_data(whole: rows.Rows) -> None:
    drawn = curves.figure4(whole.curves, profile="p")
    want = drawn.data.query("task == 'lungs' and tuning == 'full' and arm == 'doll'")["mean"]
    blue = style.ARM_LOOKS["doll"].color
    (line,) = (x for x in drawn.figure.axes[0].lines if x.get_color() == blue)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), want)
    with pytest.raises(InputError, match="curves are empty"):
        curves.figure4(whole.curves.iloc[:0], profile="p")


def test_figure_s3_shows_what_changes_a_map_and_the_mean_loss(losses: pd.DataFrame) -> None:
    changes = [
        ("shipped", "shipped", 0.0, 0.0, 0.0), ("steps", "4", -0.01, -0.02, 0.01),
        ("baseline", "blur", -0.11, -0.13, -0.09), ("threshold", "otsu", 0.0, 0.0, 0.0),
    ]  # fmt: skip
    names = ["factor", "value", "delta", "delta_lo", "delta_hi"]
    ablation = pd.DataFrame(changes, columns=names).assign(n=780)
    drawn = curves.figure_s3(ablation, losses, profile="p")
    panels = dict(iter(drawn.data.groupby("panel")))
    assert panels["change"]["row"].tolist() == ["steps = 4", "baseline = blur"]
    mean = losses.set_index("finding").loc["mean", list(summary.STEPS)]
    assert panels["loss"]["value"].tolist() == mean.tolist()
    left, right = drawn.figure.axes
    # Filled where the interval leaves out zero, hollow where it does not.
    sure, unsure = (x for x in left.lines if x.get_marker() == "D")
    assert [np.asarray(x.get_xdata()).tolist() for x in (sure, unsure)] == [[-0.11], [-0.01]]
    assert "(" not in right.texts[0].get_text()
    with pytest.raises(InputError, match="no changed factor"):
        curves.figure_s3(ablation.iloc[:1], losses, profile="p")


def test_rank_correlation_is_scipys_also_in_its_resamples() -> None:
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=12), draw.normal(size=12).round(1)
    rho, lo, hi = agreement.rank_correlation(x, y, n_boot=300, seed=5)
    assert rho == pytest.approx(sps.spearmanr(x, y).statistic)
    picks = np.random.default_rng(5).integers(0, 12, (300, 12))
    slow = [sps.spearmanr(x[p], y[p]).statistic for p in picks]
    assert (lo, hi) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert agreement.rank_correlation(x, -np.exp(x)) == pytest.approx((-1, -1, -1))
    # Too few points for an interval, or for anything; and no order at all.
    rho, lo, hi = agreement.rank_correlation([1, 2, 3, 4], [2, 1, 4, 3])
    assert rho == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert np.isnan([lo, hi, *agreement.rank_correlation([1, 2], [2, 3])]).all()
    assert np.isnan(agreement.rank_correlation(np.ones(12), x)[0])


def test_one_point_per_finding_that_was_classified_and_judged(whole: rows.Rows) -> None:
    graded, judged = whole.classifiers.copy(), results.shipped_quality(whole).copy()
    graded.loc[graded["finding"] == PATHOLOGIES[0], "auroc"] = np.nan
    judged.loc[judged["finding"] == PATHOLOGIES[1], "iou_matched"] = np.nan
    unsure = judged["finding"] == PATHOLOGIES[2]
    judged.loc[unsure, ["iou_matched_lo", "iou_matched_hi"]] = np.nan
    drawn = agreement.figure6(graded, judged, profile="p")
    assert drawn.data["finding"].tolist() == list(PATHOLOGIES[2:])
    first, auroc = drawn.data.iloc[0], graded[graded["finding"] == PATHOLOGIES[2]]["auroc"]
    assert (first["auroc"], first["auroc_lo"]) == pytest.approx((auroc.mean(), auroc.min()))
    diamonds = [x for x in drawn.figure.axes[0].lines if x.get_marker() == "D"]
    hollow = [x for x in diamonds if x.get_markerfacecolor() == "white"]
    assert [len(np.asarray(x.get_xdata())) for x in hollow] == [1]
    assert "hollow: too few patients" in drawn.caption
    with pytest.raises(InputError, match="no finding has both"):
        agreement.figure6(graded, judged.iloc[:0], profile="p")


@pytest.mark.parametrize("profile", ["laptop", "open"])
def test_names_overlap_neither_each_other_nor_a_diamond(profile: str) -> None:
    stored = rows.read_stored(paths.ROOT / "figures" / profile)
    graded = stored.classifiers, results.shipped_quality(stored)
    drawn = agreement.figure6(*graded, profile=profile)
    ax = drawn.figure.axes[0]
    with style.context():
        drawn.figure.draw_without_rendering()
        texts = [t for t in ax.texts if isinstance(t, Annotation) and t.get_text()]
        boxes = [np.asarray(t.get_window_extent().extents) for t in texts]
    assert len(boxes) == len(drawn.data) > 0
    at = ax.transData.transform(drawn.data[["auroc", "iou"]].to_numpy())
    diamonds = np.hstack([at - 3, at + 3])
    frame = np.asarray(ax.get_window_extent().extents)
    for i, box in enumerate(boxes):
        assert agreement.overlap(box[None], np.vstack([*boxes[:i], diamonds])).max() == 0
        inside = agreement.overlap(box[None], frame[None]).item()
        assert inside == pytest.approx(np.prod(box[2:] - box[:2]))


def test_a_number_and_its_interval_stay_together(tmp_path: Path) -> None:
    (tmp_path / "t.md").write_text("**T.**\n\n| a | b |\n| --- | --- |\n| 0.8 [0.7, 0.9] | x |\n")
    assert in_notebook.table(tmp_path / "t.md", without=("b",)).data == (
        "**T.**\n\n| a |\n| --- |\n| 0.8\u00a0[0.7,\u00a00.9] |\n"
    )
    absent = in_notebook.table(tmp_path / "u.md", there=False, otherwise="no films")
    assert absent.data == "No table here: no films."
