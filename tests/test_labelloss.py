"""Losses of single steps on small arrays whose answers can be counted, goals, other explainers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import MOBILE
from dollkit.labels import summary
from dollkit.report import contrasts, results, tables
from dollkit.training import metrics
from tests import synthetic_run as synthetic

S = 20
Array = np.ndarray[Any, Any]
Arrays = dict[str, Any]


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


def square(row: int, column: int, side: int = 2) -> Array:
    out = np.zeros((S, S))
    out[row : row + side, column : column + side] = 1
    return out


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
    with pytest.raises(InputError, match="array 'maps' of the labels is missing"):
        summary.losses({k: v for k, v in arrays.items() if k != "maps"})


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


def test_goals_of_made_up_cases() -> None:
    variants = [
        rows("shipped", 0.4),
        rows("shipped", 0.1, "Edema", hit=0, iou_prior=0.5),
        rows("shipped", 0.21, "Pneumonia", hit=[1, 1, 1, 1, 1, 0]),
        rows("classifiers=a", 0.35, classifiers="a", n_classifiers=1),
        rows("classifiers=b", 0.42, classifiers="b", n_classifiers=1),
    ]
    cases = pd.concat(variants, ignore_index=True)
    found = ["Fracture", "Edema", "Pneumonia", "Fracture", "Edema", "Pneumonia", "macro"]
    classifiers = pd.DataFrame({"finding": found, "auroc": [0.95, 0.7, 0.88, 0.9, 0.99, 0.94, 1]})
    table = summary.goals(cases, classifiers)
    assert len(table) == len(MOBILE) + 2
    prior = table.set_index(table["goal"].str.split(": ").str[-1])
    hits, several = table.iloc[0], table.iloc[-1]
    # Edema's classifiers are below the bar, though one of them is above it.
    assert hits["goal"] == "hit rate at least 0.8, 2 findings with AUROC above 0.9"
    assert hits[["met", "value", "n"]].tolist() == ["yes", pytest.approx((1 + 5 / 6) / 2), 12]
    for finding, met, value in (("Fracture", "yes", 0.2), ("Pneumonia", "no", 0.01)):
        row = prior.loc[finding]
        assert row[["met", "value", "n"]].tolist() == [met, pytest.approx(value), 6]
        assert row["lo"] < value < row["hi"]
        assert (row["lo"] > 0) == (met == "yes")
    assert prior.loc["Lung Lesion", ["met", "n"]].tolist() == ["not judged", 0]
    assert "best single one (b, chosen on the same cases, in its favour)" in several["goal"]
    assert several[["value", "lo", "hi"]].tolist() == pytest.approx([-0.02] * 3)
    assert several[["met", "n"]].tolist() == ["no", 6]
    assert summary.goals(cases, classifiers, hit_rate=0.95).iloc[0]["met"] == "no"
    assert set(summary.goals(cases.iloc[:0], classifiers)["met"]) == {"not judged"}


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
