"""Judging labels: metrics, tuned rules, variants, CheXlocalize's protocol, losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.labels import chexlocalize, judge, summary
from dollkit.labels.maps_to_labels import LabelSettings, Rule, maps_to_labels
from dollkit.report import contrasts, results, tables
from dollkit.training import metrics
from dollkit.training.classifiers import create
from dollkit.workflow.cli import main
from tests import synthetic_run as synthetic
from tests.chexpert_trees import localized_tree
from tests.label_films import bump, write_films, write_models
from tests.small_files import error_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
S = 40
Array = np.ndarray[Any, Any]
Arrays = dict[str, Any]


def square(top: int, left: int, side: int = 2, film: int = S) -> Array:
    """A mask of a square on a film of so many pixels a side."""
    mask = np.zeros((film, film), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_chance_is_what_random_maps_reach() -> None:
    truth = square(5, 5, 15)[None]
    maps = np.random.default_rng(0).random((200, S, S)).astype(np.float32)
    drawn = metrics.iou_matched(maps, truth.repeat(200, 0))
    assert drawn.mean() == pytest.approx(metrics.iou_chance(truth)[0], abs=0.005)


def test_hit_precision_recall_and_energy() -> None:
    truth, label = np.zeros((2, 1, 8, 8), np.uint8)
    truth[0, 2:4, 2:6] = label[0, 2:4, 4:8] = 1
    label[0, 2, 2] = IGNORE
    precision, recall = metrics.precision_recall(label, truth)
    assert (precision[0], recall[0]) == (0.5, 0.5)
    assert metrics.hit((truth * 1.0).astype(np.float32), truth)[0]
    assert not metrics.hit((label == 1)[:, ::-1].astype(np.float32), truth)[0]
    maps = np.stack([np.ones((8, 8)), truth[0] * 2.0 - 1.0, np.zeros((8, 8))]).astype(np.float32)
    share = metrics.energy(maps, truth.repeat(3, 0))
    assert share.tolist() == pytest.approx([metrics.area(truth)[0], 1, np.nan], nan_ok=True)


def test_prior_never_sees_its_own_patient() -> None:
    truth = np.stack([np.eye(4, dtype=np.uint8)] * 2 + [np.ones((4, 4), np.uint8)])
    patients = np.array(["a", "a", "b"], object)
    prior = metrics.prior_maps(truth, patients)
    np.testing.assert_array_equal(prior[0], np.ones((4, 4)))
    np.testing.assert_array_equal(prior[2], np.eye(4))
    assert metrics.prior_maps(truth, patients, np.zeros((5, 4, 4), np.uint8)).sum() == 0


def tuning_case() -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Six lesions under a peak of 0.3, six fractures under one of 0.9."""
    rng = np.random.default_rng(0)
    maps, truth = [], []
    for y, x in rng.uniform(12, 28, (6, 2)):
        m = bump(y, x, 6) + 0.3 * bump(x, y, 12)
        maps += [m, m]
        truth += [m >= share * m.max() for share in (0.3, 0.9)]
    names = ["Lung Lesion", "Fracture"] * 6
    return np.stack(maps)[None], names, np.full((12, S, S), 90, np.uint8), np.uint8(truth)


def test_tune_finds_the_levels_that_made_the_masks() -> None:
    maps, names, films, truth = tuning_case()
    settings = LabelSettings(smooth=0.0, guide=0.0, percentile=100.0)
    given = (maps, np.ones((1, len(names)), np.float32), settings, names, films)
    table = judge.tune(*given, truth).set_index("finding")
    assert list(table.index) == ["Lung Lesion", "Fracture", "other"]
    assert table.loc["Lung Lesion", "rule"] == "peak 0.3"
    assert (table.loc[["Lung Lesion", "Fracture"], "iou"] > 0.85).all()
    assert (table["iou"] >= table["iou_otsu"]).all()
    assert table["n"].tolist() == [6, 6, 12]
    # What it says is what the labels then give.
    tuned: Any = {"thresholds": table["rule"].to_dict(), "smooths": table["smooth"].to_dict()}
    own = LabelSettings(threshold="tuned", percentile=100.0, guide=0.0, **tuned)
    _, label, _ = maps_to_labels(*given[:2], own, names, films)
    overlap = metrics.iou_of_masks((label == 1).astype(np.uint8), truth)
    lesion = np.array(names) == "Lung Lesion"
    assert overlap[lesion].mean() == pytest.approx(table.loc["Lung Lesion", "iou"], abs=1e-6)
    assert "no tuning film has a mask" in error_of(judge.tune, *given, truth * 0)
    names[0] = "Edema"  # too few films for a rule of its own
    few = judge.tune(*given, truth).set_index("finding")
    assert few.loc["Edema", ["rule", "smooth"]].equals(few.loc["other", ["rule", "smooth"]])


def test_variants_share_explanations_and_change_one_factor() -> None:
    how, settings = ExplainerSettings(steps=4), LabelSettings(threshold="tuned", guide=0.04)
    found = judge.variants(["a", "b", "c"], how, settings, occluded=8)
    by = {v.name: v for v in found}
    assert (found[0].name, len(by)) == ("shipped", len(found))
    assert by["explainer=occlusion"].films == 8
    assert by["guide=0"].label_settings == LabelSettings(threshold="tuned", guide=0.0)
    assert by["threshold=otsu"].label_settings.rule("Fracture") == Rule("otsu")
    assert by["smooth=0.03"].label_settings.sigma("Fracture") == 0.03
    # The shipped one, two other numbers of steps, three other baselines, three other explainers.
    assert len({v.explain for v in found}) == 9
    how = ExplainerSettings(explainer="gradcam")
    without_path = judge.variants(["a", "b"], how, LabelSettings())
    assert {v.value for v in without_path if v.factor == "explainer"} == {"ig", "gradient"}
    assert not [v for v in without_path if v.factor in ("steps", "baseline")]


def films(folder: Path, masked: bool) -> Store:
    """Films with a bright square where Lung Lesion or Fracture is, and perhaps its mask."""
    rng, lesion = np.random.default_rng(0), np.arange(18) // 3 % 2 == 0
    squares = np.stack([square(*rng.integers(4, 20, 2), 6, 32) for _ in lesion])
    grey = (rng.integers(60, 80, squares.shape) + 120 * squares).astype(np.uint8)
    findings = {"Lung Lesion": lesion, "Fracture": ~lesion}
    masks = {name: squares * there[:, None, None] for name, there in findings.items()}
    split = ["train", "valid", "test"] * 6
    return write_films(folder, grey, findings, masks if masked else None, split=split)


def test_judge_scores_every_variant_and_few_films_where_asked(tmp_path: Path) -> None:
    store, bare = (films(tmp_path / str(masked), masked) for masked in (True, False))
    model = create("tu-test_resnet", 3, "silu", "avg", 0, CPU).eval()
    models = {"a": model, "b": model}
    how, settings = ExplainerSettings(steps=1), LabelSettings(threshold="tuned", guide=0.04)
    table = judge.tuned(models, store, judge.judged_rows(store, "valid", 9), how, settings)
    assert table is not None
    assert table["n"].tolist() == [3, 3, 6]
    tried = judge.variants(list(models), how, settings, occluded=4)
    rows = judge.judged_rows(store, "test", 9)
    cases, examples = judge.judge(models, store, rows, tried)
    counts = cases.groupby("variant")["image_id"].nunique()
    assert counts["shipped"] == 6
    assert counts["explainer=occlusion"] == 6  # films count batch by batch, and one holds all six
    assert np.allclose(cases["area"], 36 / 1024)
    same = cases[cases["variant"].isin(["shipped", "classifiers=a"])]
    both = same.pivot(index=["image_id", "finding"], columns="variant", values="iou_matched")
    np.testing.assert_allclose(both["shipped"], both["classifiers=a"])  # the same classifier twice
    found = summary.summarise(cases)
    mean = found[(found["finding"] == "mean") & (found["explainer"] == "ig")].iloc[0]
    assert mean["hit_lo"] <= mean["hit_rate"] <= mean["hit_hi"]
    # Without any mask there are labels to be seen, and nothing to judge them by.
    assert judge.tuned(models, bare, rows, how, settings) is None
    none, shown = judge.judge(models, bare, judge.judged_rows(bare, "test", 9), tried)
    assert none.empty
    np.testing.assert_array_equal(shown["label"], examples["label"])


def test_protocol_of_misses_and_empty_masks() -> None:
    truth, empty = square(8, 8, 8, 32), np.zeros((32, 32), np.uint8)
    half = truth.copy()
    half[:, 12:] = 0
    nan = np.nan
    for found, mask, scores in (
        (half, truth, [0.5, 0.5, 1]),
        (square(20, 20, 4, 32), truth, [0, 0, 0]),
        (None, truth, [nan, 0, nan]),
        (truth, empty, [nan, 0, nan]),
        (None, empty, [nan, nan, nan]),
        (empty, truth, [nan, 0, 0]),
    ):
        heat = None if found is None else found * np.float32(5) - 2  # min-max makes it {0, 1}
        case = chexlocalize.score_case(heat, mask, Rule("peak", 0.5))
        assert list(case.values()) == pytest.approx(scores, nan_ok=True)


def test_protocol_table_means_and_intervals() -> None:
    hit, miss, unseen = (1, 1, 1), (0, 0, 0), (np.nan, np.nan, np.nan)
    cases = [("Edema", f"p{i}", *(hit if i < 3 else miss)) for i in range(4)]
    cases += [("Fracture", "p0", *hit), ("Fracture", "p1", *unseen)]
    scores = pd.DataFrame(cases, columns=["finding", "patient_id", "iou", "iou_all", "hit"])
    table = chexlocalize.localisation_table(scores).set_index("finding")
    assert table.loc["Edema", ["iou", "hit_rate"]].tolist() == [0.75, 0.75]
    assert table.loc["Edema", ["n", "n_all", "n_hit"]].tolist() == [4, 4, 4]
    assert table.loc["Fracture", ["iou", "n", "n_all", "n_hit"]].tolist() == [1, 1, 1, 1]
    assert table.loc["mean", "iou"] == pytest.approx(0.875)
    assert table.loc["Edema", "iou_lo"] < 0.75 < table.loc["Edema", "iou_hi"] <= 1.0


def test_every_finding_of_a_data_set_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CheXlocalize's tree of one film with ten masks, and two classifiers."""
    localized_tree(tmp_path)
    models = write_models(tmp_path / "models")
    monkeypatch.setenv("DOLLKIT_DEVICE", "cpu")
    out = tmp_path / "table.csv"

    def score(*more: str) -> int:
        given = ["labels", "score", str(tmp_path), "--classifiers", str(models), "--size", "32"]
        return main([*given, "--out", str(out), *more])

    assert score("--cutoff", "0") == 0  # all called
    cases = pd.read_csv(tmp_path / "table.cases.csv")
    assert len(cases) == 10
    assert cases["iou"].notna().sum() == 2  # Edema and Lung Opacity have a mask that is not empty
    assert pd.read_csv(out).iloc[-1][["finding", "n"]].tolist() == ["mean", 2]
    assert score("--cutoff", "0.999") == 0  # nothing called
    cases = pd.read_csv(tmp_path / "table.cases.csv").set_index("finding")
    assert cases.loc["Edema", "iou_all"] == 0
    assert cases["iou_all"].notna().sum() == 2  # where both are empty there is nothing to judge
    for more, message in (
        (["--cutoff", "1"], "parameter 'cutoff' is 1.0"),
        (["--split", "train"], "no film of split 'train' has a mask"),
    ):
        capsys.readouterr()
        assert score(*more) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def case(
    truth: Array, consensus: Array, *single: Array, label: Array | None = None, p: float = 0.9,
    finding: str = "Fracture",
) -> Arrays:  # fmt: skip
    m, mask = consensus.astype(np.float16), truth.astype(np.uint8)
    maps = np.stack(single or (consensus, consensus)).astype(np.float16)
    return {
        "finding": finding, "map": m, "maps": maps, "probability": np.full(len(maps), p),
        "label": mask if label is None else label.astype(np.uint8), "truth": mask,
        "iou": metrics.iou_matched(m[None].astype(np.float32), mask[None])[0],
    }  # fmt: skip


def together(*cases: Arrays) -> Arrays:
    return {k: np.array([c[k] for c in cases]) for k in cases[0]}


def mean_of(*cases: Arrays) -> pd.Series:
    return summary.losses(together(*cases)).set_index("finding").loc["mean"]


def test_a_map_that_is_the_truth_loses_nothing() -> None:
    row = mean_of(*(case(square(4, i), square(4, i)) for i in (1, 5, 9)))
    assert (row[[*summary.STEPS, "iou_called", "iou_smallest", "iou_largest"]] == 1).all()
    assert np.isnan(row["iou_missed"])
    assert (row["n"], row["n_called"], row["n_missed"]) == (3, 3, 0)


def test_a_hotter_spot_is_a_matter_of_place_and_within_the_box_of_form() -> None:
    truth, elsewhere = square(4, 4), square(14, 14)
    # Half of the label is right, the ignored pixels do not count.
    label = elsewhere + truth + 255 * square(9, 9)
    row = mean_of(case(truth, elsewhere + 0.5 * truth, elsewhere, truth, label=label))
    assert row[list(summary.STEPS)].tolist() == [0.5, 0, 0.5, 1, 1, 1]
    angle, corner = np.zeros((2, S, S))
    angle[4:14, 4] = angle[13, 4:14] = corner[4:9, 9:14] = 1
    row = mean_of(case(angle, corner + 0.5 * angle))
    assert row[["iou_area", "iou_place", "iou_form"]].tolist() == [0, 0, 1]
    assert row["iou_threshold"] == pytest.approx(19 / (19 + 25))


def test_groups_by_probability_and_by_size() -> None:
    wrong = square(16, 16)
    cases = [case(square(1, 1), square(1, 1), p=0.9)]
    cases += [case(square(1, 1, side), wrong, p=p) for side, p in ((4, 0.4), (6, 0.5))]
    row = mean_of(*cases)
    assert (row["n_called"], row["n_missed"]) == (2, 1)
    assert row["iou_called"] == pytest.approx((1 + cases[2]["iou"]) / 2)
    assert row["iou_missed"] == cases[1]["iou"]
    assert (row["iou_smallest"], row["n_smallest"]) == (1, 1)
    assert (row["iou_largest"], row["n_largest"]) == (cases[2]["iou"], 1)
    assert mean_of(*cases[:2])["n_smallest"] == 0


def test_the_mean_is_over_findings_and_empty_truths_are_left_out() -> None:
    arrays = together(
        case(square(4, 4), square(4, 4)),
        case(square(4, 4), square(9, 9), label=square(0, 9)),
        case(square(4, 4), square(9, 9), finding="Edema", label=square(9, 9)),
        case(np.zeros((S, S)), square(4, 4), finding="Pneumonia"),
    )
    table = summary.losses(arrays)
    assert table["finding"].tolist() == ["Edema", "Fracture", "mean"]
    assert table["iou_label"].tolist() == table["iou_area"].tolist() == [0, 0.5, 0.25]
    assert table["n"].tolist() == [1, 2, 3]
    del arrays["maps"]
    assert "array 'maps' of the labels is missing" in error_of(summary.losses, arrays)


def test_best_threshold_is_that_of_a_search_over_all_values() -> None:
    draw = np.random.default_rng(0)
    m = np.round(draw.random((S, S)), 1).astype(np.float32)
    truth = ((m + 0.5 * draw.random((S, S))) > 0.9).astype(np.uint8)
    tried = np.stack([(m >= v).astype(np.uint8) for v in np.unique(m)])
    best = metrics.iou_of_masks(tried, np.broadcast_to(truth, tried.shape)).max()
    assert summary.best_threshold(m, truth) == pytest.approx(best)


def rows(variant: str, value: float, finding: str = "Fracture", **more: object) -> pd.DataFrame:
    """Cases of six patients, around a mean IoU."""
    fixed = {"variant": variant, "finding": finding, "classifiers": "a+b", "n_classifiers": 2}
    fixed |= {"factor": variant.split("=")[0], "value": variant.split("=")[-1]}
    fixed |= {"iou_prior": 0.2, "iou_label": 0.3, "precision": 0.5, "recall": 0.5, "hit": 1}
    patients = [str(i) for i in range(6)]
    frame = pd.DataFrame({"image_id": [f"{finding}{i}" for i in patients], "patient_id": patients})
    return frame.assign(iou_matched=value + np.linspace(-0.05, 0.05, 6), **(fixed | more))


def test_an_ablation_is_paired() -> None:
    changed = rows("smooth=0", 0.3).iloc[:4]
    table = summary.ablation(pd.concat([rows("shipped", 0.4), changed], ignore_index=True))
    # The same drop in every patient: no spread is left, though the patients differ.
    deltas = ["delta", "delta_lo", "delta_hi"]
    np.testing.assert_allclose(table[deltas], [[0] * 3, [-0.1] * 3], atol=1e-12)
    assert table["n"].tolist() == [6, 4]
    assert summary.ablation(changed)[deltas].isna().all(axis=None)


def test_grad_cam_in_the_place_of_integrated_gradients_has_all_tables() -> None:
    def gap(cases: pd.DataFrame) -> dict[str, Any]:
        return next(r for r in contrasts.label_rows(cases) if r["contrast"] == "IG - Grad-CAM")

    usual = synthetic.label_cases(patients=8)
    swapped = usual[usual["variant"] != "steps=4"].reset_index(drop=True)
    for column, stem in (("explainer", ""), ("variant", "explainer="), ("value", "")):
        names = {f"{stem}ig": f"{stem}gradcam", f"{stem}gradcam": f"{stem}ig"}
        swapped[column] = swapped[column].replace(names)
    for cases, name in ((usual, "ig"), (swapped, "gradcam")):
        data = replace(synthetic.rows(), label_cases=cases, labels=summary.summarise(cases))
        shown = results.shipped_quality(data)
        assert (shown[["explainer", "n_classifiers"]] == [name, 3]).all(axis=None)
    table = tables.table3(swapped, "p").frame
    assert table["explainer"].iloc[0] == "gradcam"
    assert table.loc[table["factor"] == "explainer", "value"].tolist() == ["gradient", "ig"]
    assert gap(swapped)["effect"] == pytest.approx(-gap(usual)["effect"])
    assert gap(swapped[swapped["explainer"] != "ig"])["note"] == "not run: no IG labels"
