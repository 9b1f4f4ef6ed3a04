"""The data behind the figures, the rule that picks cases, and files with fixed bytes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.labels import oracles
from dollkit.report import curves, figures, rows, style
from tests import synthetic_run as synthetic


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_run(tmp_path_factory.mktemp("run"), size=32)


def _tasks(run: Path) -> list[Path]:
    return [run / "finetune" / t / "examples.npz" for t in rows.TASKS]


def _losses(run: Path) -> pd.DataFrame:
    path = run / "labels" / "examples.npz"
    return oracles.losses(figures.load_examples(path, oracles.ARRAYS))


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "s1", "s2", "s3"])
def test_figures_have_fixed_bytes(run: Path, tmp_path: Path, number: str) -> None:
    labels, tasks = run / "labels" / "examples.npz", _tasks(run)

    def draw() -> style.Drawn:
        if number == "1":
            return figures.figure1(labels, tasks[2], profile="p")
        if number == "2":
            return figures.figure2(labels, profile="p", columns=2)
        if number == "3":
            return figures.figure3(tasks[1:2], profile="p", quantiles=(0.5,))
        if number == "4":
            return figures.figure4(run, profile="p")
        if number == "s2":
            return figures.figure_s2(labels, profile="p")
        if number == "s3":
            return figures.figure_s3(rows.load_ablation(run), _losses(run), profile="p")
        return figures.figure_s1(rows.load_classifiers(run), rows.load_labels(run), profile="p")

    saved = []
    for name in ("a", "b"):
        drawn = draw()
        assert "profile p" in drawn.caption
        assert len(drawn.data)
        saved.append(drawn.save(tmp_path / name / "figure"))
    assert [p.suffix for p in saved[0]] == [".svg", ".png", ".csv", ".txt"]
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert b"<dc:date>" not in saved[0][0].read_bytes()
    assert saved[0][1].read_bytes().startswith(b"\x89PNG")


def test_no_figure_stays_open(run: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    settings = dict(mpl.rcParams)
    figures.figure4(run, profile="p")
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == settings


def test_figure2_takes_best_median_and_worst(run: Path) -> None:
    path = run / "labels" / "examples.npz"
    _, data = figures.figure2(path, profile="p")
    a = figures.load_examples(path, figures.LABEL_ARRAYS)
    for finding, part in data.groupby("finding"):
        have = np.sort(a["iou"][a["finding"] == finding])
        picked = part.set_index("rank")["iou"]
        assert picked["best"] == have[-1]
        assert picked["worst"] == have[0]
        assert picked["median"] == have[round(0.5 * (len(have) - 1))]
        assert (part["n"] == len(have)).all()
    with pytest.raises(InputError, match="no example of 'Edema'"):
        figures.figure2(path, profile="p", findings=["Edema"])


def test_figure3_shows_every_arm_of_the_same_film(run: Path) -> None:
    _, data = figures.figure3(_tasks(run), profile="p")
    assert set(data["task"]) == set(rows.TASKS)
    for (task, quantile), part in data.groupby(["task", "quantile"]):
        assert part["image_id"].nunique() == 1
        assert part["arm"].tolist() == list(synthetic.GAIN)
        t = figures.load_examples(run / "finetune" / str(task) / "examples.npz", [])
        mean = t["iou"].mean(0)
        rank = np.sort(mean)[round(float(quantile) * (len(mean) - 1))]
        assert part["iou"].mean() == pytest.approx(rank, abs=1e-12)


def test_figure1_with_and_without_maps_of_single_classifiers(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "examples.npz"
    np.savez(bare, **synthetic.label_examples(32, maps=False))
    with_maps = figures.figure1(run / "labels" / "examples.npz", _tasks(run)[2], profile="p")
    without = figures.figure1(bare, _tasks(run)[2], profile="p")
    assert len(with_maps.figure.axes) == len(without.figure.axes) + len(synthetic.CLASSIFIERS) + 1
    label = with_maps.data.set_index("panel").loc["label"]
    assert 0 < label["share_finding"] < 1
    assert label["share_ignored"] > 0
    with pytest.raises(InputError, match="no arm 'prior'"):
        figures.figure1(bare, _tasks(run)[2], profile="p", arm="prior")


def test_curves_average_folds_then_seeds() -> None:
    steps = np.array([0, 10, 20])
    parts = []
    for seed, fold, level in ((0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.8), (1, 1, 0.8)):
        key = {"task": "lungs", "tuning": "full", "arm": "doll", "seed": seed, "fold": fold}
        parts.append(pd.DataFrame(key | {"step": steps, "val_miou": level * steps / 20}))
    out = curves.mean_curves(pd.concat(parts))
    last = out[out["step"] == 20].iloc[0]
    assert (last["mean"], last["lo"], last["hi"]) == pytest.approx((0.55, 0.3, 0.8))
    assert last["n_seeds"] == 2


def test_curves_of_different_length_are_not_extrapolated() -> None:
    key = {"task": "lungs", "tuning": "full", "arm": "doll", "fold": 0}
    short = pd.DataFrame(key | {"seed": 0, "step": [0, 10], "val_miou": [0.0, 0.5]})
    long = pd.DataFrame(key | {"seed": 1, "step": [0, 5, 20], "val_miou": [0.0, 0.1, 0.4]})
    out = curves.mean_curves(pd.concat([short, long]))
    assert out["step"].tolist() == [0, 5, 10]
    assert out["mean"].tolist() == pytest.approx([0.0, (0.25 + 0.1) / 2, (0.5 + 0.2) / 2])


def test_figure4_plots_its_data(run: Path) -> None:
    fig, data = figures.figure4(run, profile="p")
    line = data.query("task == 'lungs' and tuning == 'full' and arm == 'doll'")
    drawn = [
        artist for artist in fig.axes[0].lines
        if artist.get_color() == style.ARM_LOOKS["doll"].color
    ]  # fmt: skip
    assert len(drawn) == 1
    np.testing.assert_allclose(drawn[0].get_ydata(), line["mean"])
    with pytest.raises(InputError, match="curves are empty"):
        figures.figure4(rows.load_curves(run).iloc[:0], profile="p")


def test_arms_differ_in_colour_line_and_marker() -> None:
    looks = list(style.ARM_LOOKS.values())
    assert set(style.ARM_LOOKS) == set(rows.ARMS)
    for field in ("color", "line", "marker"):
        assert len({str(getattr(look, field)) for look in looks}) == len(looks), field


def test_figure_s1_shows_ig_with_all_classifiers(run: Path) -> None:
    labels = rows.load_labels(run)
    _, data = figures.figure_s1(rows.load_classifiers(run), labels, profile="p")
    shown = data.query("series == 'DoLL'").set_index("finding")["value"]
    mask = (labels["explainer"] == "ig") & (labels["variant"] == "shipped")
    expected = labels[mask].set_index("finding")["iou_matched"].rename(index={"mean": "macro"})
    pd.testing.assert_series_equal(shown, expected[shown.index], check_names=False)


def test_figure_s2_shows_the_median_case_of_each_finding(run: Path) -> None:
    path = run / "labels" / "examples.npz"
    drawn = figures.figure_s2(path, profile="p")
    a = figures.load_examples(path, figures.LABEL_ARRAYS)
    assert set(drawn.data["finding"]) == set(a["finding"])
    for row in drawn.data.itertuples():
        have = np.sort(a["iou"][a["finding"] == row.finding])
        assert row.iou == have[round(0.5 * (len(have) - 1))]
        assert row.n == len(have)
    case = drawn.data.iloc[0]
    shown = a["probability"][a["image_id"] == case["image_id"]][0]
    assert case[[f"p_{c}" for c in synthetic.CLASSIFIERS]].tolist() == pytest.approx(shown)
    columns = 4 + len(synthetic.CLASSIFIERS)
    assert len(drawn.figure.axes) == columns * len(drawn.data)
    tags = [t.get_text() for ax in drawn.figure.axes[:columns] for t in ax.texts]
    assert [t for t in tags if t.startswith("p ")] == [f"p {p:.2f}" for p in shown]


def test_figure_s2_without_truth_takes_the_first_case_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    arrays = synthetic.label_examples(16, n=3)
    arrays["truth"] = np.zeros_like(arrays["truth"])
    arrays["iou"] = np.full(len(arrays["iou"]), np.nan)
    np.savez(path, **arrays)
    drawn = figures.figure_s2(path, profile="p")
    first = [str(f)[:4] + "0" for f in drawn.data["finding"]]
    assert drawn.data["image_id"].tolist() == first
    assert "no truth is known" in drawn.caption
    assert "the first of 3 examples" in drawn.caption
    assert drawn.data["iou"].isna().all()
    titles = [ax.get_title() for ax in drawn.figure.axes]
    assert "truth" not in titles
    assert "label" in titles


def test_figure_s2_needs_the_maps_of_single_classifiers(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    np.savez(path, **synthetic.label_examples(16, n=1, maps=False))
    with pytest.raises(InputError, match="array 'maps' is missing; run its stage again"):
        figures.figure_s2(path, profile="p")
    np.savez(path, **synthetic.label_examples(16, n=1) | {"finding": np.repeat("No Finding", 6)})
    with pytest.raises(InputError, match="no example of any pathology"):
        figures.figure_s2(path, profile="p")


def test_figure_s3_shows_what_changes_a_map_and_the_mean_loss(run: Path) -> None:
    losses = _losses(run)
    drawn = figures.figure_s3(rows.load_ablation(run), losses, profile="p")
    change = drawn.data[drawn.data["panel"] == "change"]
    assert change["row"].tolist() == ["steps = 4", "baseline = blur"]
    assert change["value"].tolist() == [-0.01, -0.11]
    loss = drawn.data[drawn.data["panel"] == "loss"].set_index("row")["value"]
    mean = losses.set_index("finding").loc["mean"]
    assert loss.tolist() == [mean[c] for c in oracles.STEPS]
    assert f"{mean['n']:.0f} pairs" in drawn.caption
    left, right = drawn.figure.axes
    # Filled where the interval leaves out zero, hollow where it does not.
    sure, unsure = (line for line in left.lines if line.get_marker() == "D")
    assert sure.get_xdata().tolist() == [-0.11]
    assert unsure.get_xdata().tolist() == [-0.01]
    assert "(" not in right.texts[0].get_text()
    with pytest.raises(InputError, match="no changed factor"):
        figures.figure_s3(rows.load_ablation(run).iloc[:1], losses, profile="p")


def test_examples_that_are_missing_broken_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    with pytest.raises(InputError, match="no such file"):
        figures.figure2(path, profile="p")
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match="cannot be read"):
        figures.figure2(path, profile="p")
    np.savez(path, image=np.zeros((0, 8, 8)))
    with pytest.raises(InputError, match="array 'image_id' is missing"):
        figures.figure2(path, profile="p")
    with pytest.raises(InputError, match="fine-tune a task first"):
        figures.figure3([], profile="p")


def test_empty_masks_are_drawn_as_nothing() -> None:
    with style.context():
        ax = style.canvas(1, 1).subplots()
        style.outline(ax, np.zeros((8, 8)), "red")
        style.heat(ax, np.zeros((8, 8)))
    assert len(ax.collections) == 0
