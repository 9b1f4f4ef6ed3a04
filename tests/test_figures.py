"""The data behind the figures, the rule that picks cases, and files with fixed bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.labels import summary
from dollkit.report import curve_figures, film_figures, in_notebook, results, rows, style
from tests import synthetic_run as synthetic
from tests.small_files import error_of

LABELS = "labels/examples.npz"
TASKS = "finetune/*/examples.npz"


@pytest.fixture(scope="module")
def whole() -> rows.Rows:
    return synthetic.rows()


@pytest.fixture(scope="module")
def run(whole: rows.Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_run(tmp_path_factory.mktemp("run"), whole)


def test_a_figure_has_fixed_bytes_and_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    first, second = (
        film_figures.figure2(run / LABELS, profile="p", columns=1).save(tmp_path / name)
        for name in "ab"
    )
    assert [p.suffix for p in first] == [".svg", ".png", ".csv", ".txt"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert b"<dc:date>" not in one.read_bytes()
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_figure1_shows_arrays_of_the_run(run: Path) -> None:
    labels, task = run / LABELS, next(run.glob(TASKS))
    drawn = film_figures.figure1(labels, task, profile="p")
    label = drawn.data.set_index("panel").loc["label"]
    assert 0 < label["share_finding"] < 1
    assert label["share_ignored"] > 0
    with pytest.raises(InputError, match="no arm 'prior'"):
        film_figures.figure1(labels, task, profile="p", arm="prior")


def _median(values: np.ndarray) -> float:
    return float(np.sort(values)[round(0.5 * (len(values) - 1))])


def test_figure2_takes_best_median_and_worst(run: Path) -> None:
    a = rows.load_examples(run / LABELS, rows.LABEL_ARRAYS)
    for finding, part in film_figures.figure2(run / LABELS, profile="p").data.groupby("finding"):
        iou = a["iou"][a["finding"] == finding]
        picked = part.set_index("rank")["iou"].to_dict()
        assert picked == {"best": iou.max(), "median": _median(iou), "worst": iou.min()}
        assert (part["n"] == len(iou)).all()


def test_figure3_shows_every_arm_of_the_same_film(run: Path) -> None:
    tasks = list(run.glob(TASKS))
    data = film_figures.figure3(tasks, profile="p").data
    assert len(data) == len(tasks) * 2 * len(synthetic.GAIN)
    for (task, quantile), part in data.groupby(["task", "quantile"]):
        assert part["image_id"].nunique() == 1
        assert part["arm"].tolist() == list(synthetic.GAIN)
        path = next(p for p in tasks if p.parent.name == task)
        mean = rows.load_examples(path, ())["iou"].mean(0)
        shown = _median(mean) if quantile else mean.min()
        assert part["iou"].mean() == pytest.approx(shown, abs=1e-12)
    assert "fine-tune a task first" in error_of(film_figures.figure3, [], profile="p")


def test_figure_s2_shows_the_median_case_of_each_finding(run: Path) -> None:
    drawn = film_figures.figure_s2(run / LABELS, profile="p")
    a = rows.load_examples(run / LABELS, rows.LABEL_ARRAYS)
    assert set(drawn.data["finding"]) == set(a["finding"])
    for row in drawn.data.to_dict("records"):
        iou = a["iou"][a["finding"] == row["finding"]]
        assert (row["iou"], row["n"]) == (_median(iou), len(iou))
    case = drawn.data.iloc[0]
    shown = a["probability"][a["image_id"] == case["image_id"]][0]
    assert case[[f"p_{c}" for c in synthetic.CLASSIFIERS]].tolist() == pytest.approx(shown)
    tags = [t.get_text() for ax in drawn.figure.axes[:7] for t in ax.texts]
    assert [t for t in tags if t.startswith("p ")] == [f"p {p:.2f}" for p in shown]


def test_figure_s2_without_truth_takes_the_first_case_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    arrays = synthetic.label_examples(16, n=3)
    arrays["truth"] = np.zeros_like(arrays["truth"])
    arrays["iou"] = np.full(len(arrays["iou"]), np.nan)
    np.savez(path, **arrays)
    drawn = film_figures.figure_s2(path, profile="p")
    assert drawn.data["image_id"].tolist() == [str(f)[:4] + "0" for f in drawn.data["finding"]]
    assert "no truth is known" in drawn.caption
    titles = {ax.get_title() for ax in drawn.figure.axes}
    assert titles & {"label", "truth"} == {"label"}
    arrays["finding"] = np.repeat("No Finding", len(arrays["finding"]))
    np.savez(path, **arrays)
    assert "no example of any pathology" in error_of(film_figures.figure_s2, path, profile="p")


def mean_of(*runs: tuple[int, int, list[int], list[float]]) -> pd.DataFrame:
    """Mean curve of runs, each of a seed, a fold, steps and values."""
    key = {"task": "lungs", "tuning": "full", "arm": "doll"}
    names = ["seed", "fold", "step", "val_miou"]
    parts = [pd.DataFrame(key | dict(zip(names, run, strict=True))) for run in runs]
    return curve_figures.mean_curves(pd.concat(parts))


def test_curves_average_folds_then_seeds_and_are_not_extrapolated() -> None:
    levels = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.8, (1, 1): 0.8}
    out = mean_of(*[(s, f, [0, 10, 20], [0, v / 2, v]) for (s, f), v in levels.items()])
    last = out.set_index("step").loc[20]
    assert (last["mean"], last["lo"], last["hi"]) == pytest.approx((0.55, 0.3, 0.8))
    assert last["n_seeds"] == 2
    out = mean_of((0, 0, [0, 10], [0.0, 0.5]), (1, 0, [0, 5, 20], [0.0, 0.1, 0.4]))
    assert out["step"].tolist() == [0, 5, 10]
    assert out["mean"].tolist() == pytest.approx([0.0, (0.25 + 0.1) / 2, (0.5 + 0.2) / 2])


def test_figure4_plots_its_data(whole: rows.Rows) -> None:
    drawn = curve_figures.figure4(whole.curves, profile="p")
    want = drawn.data.query("task == 'lungs' and tuning == 'full' and arm == 'doll'")["mean"]
    blue = style.ARM_LOOKS["doll"].color
    (line,) = (x for x in drawn.figure.axes[0].lines if x.get_color() == blue)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), want)
    assert "curves are empty" in error_of(curve_figures.figure4, whole.curves.iloc[:0], profile="p")


def test_figure_s3_shows_what_changes_a_map_and_the_mean_loss(run: Path) -> None:
    losses = summary.losses(rows.load_examples(run / LABELS, summary.ARRAYS))
    changes = [
        ("shipped", "shipped", 0.0, 0.0, 0.0), ("steps", "4", -0.01, -0.02, 0.01),
        ("baseline", "blur", -0.11, -0.13, -0.09), ("threshold", "otsu", 0.0, 0.0, 0.0),
    ]  # fmt: skip
    names = ["factor", "value", "delta", "delta_lo", "delta_hi"]
    ablation = pd.DataFrame(changes, columns=names).assign(n=780)
    drawn = curve_figures.figure_s3(ablation, losses, profile="p")
    change = drawn.data[drawn.data["panel"] == "change"]
    assert change["row"].tolist() == ["steps = 4", "baseline = blur"]
    loss = drawn.data[drawn.data["panel"] == "loss"]["value"]
    mean = losses.set_index("finding").loc["mean"]
    assert loss.tolist() == [mean[c] for c in summary.STEPS]
    left, right = drawn.figure.axes
    # Filled where the interval leaves out zero, hollow where it does not.
    sure, unsure = (x for x in left.lines if x.get_marker() == "D")
    assert [np.asarray(x.get_xdata()).tolist() for x in (sure, unsure)] == [[-0.11], [-0.01]]
    assert "(" not in right.texts[0].get_text()
    with pytest.raises(InputError, match="no changed factor"):
        curve_figures.figure_s3(ablation.iloc[:1], losses, profile="p")


def test_figure6_goes_by_auroc_and_marks_what_may_be_a_shortcut(whole: rows.Rows) -> None:
    judged, graded = results.shipped_quality(whole), whole.classifiers
    probes = whole.difficulty.assign(probe_lo=0.4)
    probes.loc[probes["finding"] == "Edema", ["probe_auroc", "probe_lo"]] = 0.9, 0.8
    probes.loc[probes["finding"] == "Fracture", "probe_auroc"] = 0.95  # not beyond doubt
    drawn = curve_figures.figure6(graded, judged, probes, profile="p")
    names = [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()]
    means = graded.groupby("finding")["auroc"].mean()
    plain = [name.partition("\n")[0] for name in names]
    assert plain[:-1] == sorted(PATHOLOGIES, key=lambda f: -means[f])
    assert plain[-1] == "macro"
    assert [name for name in names if "shortcut" in name] == ["Edema\npossibly a shortcut"]
    assert set(drawn.data.loc[drawn.data["shortcut"], "finding"]) == {"Edema"}
    assert "75% of what the classifiers are above 0.5: Edema." in drawn.caption
    for few in (judged, judged.iloc[:0]):  # nothing to judge labels by, no probe
        bare = curve_figures.figure6(graded, few, probes.iloc[:0], profile="p")
        assert "above 0.5: none here." in bare.caption
    with pytest.raises(InputError, match="neither classifiers nor labels"):
        curve_figures.figure6(graded.iloc[:0], judged.iloc[:0], probes.iloc[:0], profile="p")


def test_figure_s1_has_a_line_through_the_sizes_of_each_kind(whole: rows.Rows) -> None:
    tunings = {"full": 1.0, "bias": 0.4, "lora4": 0.6, "lora": 0.5, "lora16": 0.8}
    cases = synthetic.segmentation_cases(tasks=["lungs"], tunings=tunings, patients=4)
    curves = synthetic.learning_curves(cases)
    runs = synthetic.run_rows(curves)
    runs["trainable"] = runs["tuning"].map(dict(zip(tunings, (9, 1, 3, 2, 4), strict=True)))
    found = replace(whole, cases=cases, curves=curves, runs=runs, robust=whole.robust[:0])
    assert "figure_s1" in results.figures_of(found, None, "p")
    drawn = curve_figures.figure_s1(found, profile="p")
    assert drawn.data["tuning"].drop_duplicates().tolist() == [
        "full",
        "lora",
        "lora4",
        "lora16",
        "bias",
    ]
    lines = {len(line.get_xdata()) for line in drawn.figure.axes[0].lines}
    assert lines == {1, 3}
    assert "figure_s1" not in results.figures_of(whole, None, "p")


def test_a_number_and_its_interval_stay_together(tmp_path: Path) -> None:
    (tmp_path / "t.md").write_text("**T.**\n\n| a | b |\n| --- | --- |\n| 0.8 [0.7, 0.9] | x |\n")
    shown = "**T.**\n\n| a |\n| --- |\n| 0.8\u00a0[0.7,\u00a00.9] |\n"
    assert in_notebook.table(tmp_path / "t.md", without=("b",)).data == shown
    absent = in_notebook.table(tmp_path / "u.md", there=False, otherwise="no films")
    assert absent.data == "No table here: no films."
