"""Losses of single steps on small arrays whose answers can be counted, and the quality goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import MOBILE
from dollkit.labels import oracles, summary
from dollkit.report import label_tables
from dollkit.training import metrics
from tests import synthetic_run as synthetic

S = 20
Arrays = dict[str, Any]


def case(
    truth: np.ndarray[Any, Any], consensus: np.ndarray[Any, Any], *single: np.ndarray[Any, Any],
    label: np.ndarray[Any, Any] | None = None, p: float = 0.9, finding: str = "Fracture",
) -> Arrays:  # fmt: skip
    m = consensus.astype(np.float16)
    maps = np.stack(single or (consensus, consensus)).astype(np.float16)
    return {
        "finding": finding, "map": m, "maps": maps, "probability": np.full(len(maps), p),
        "label": (truth if label is None else label).astype(np.uint8),
        "truth": truth.astype(np.uint8),
        "iou": metrics.iou_matched(m[None].astype(np.float32), truth[None].astype(np.uint8))[0],
    }  # fmt: skip


def together(*cases: Arrays) -> Arrays:
    return {k: np.array([c[k] for c in cases]) for k in cases[0]}


def square(row: int, column: int, side: int = 2) -> np.ndarray[Any, Any]:
    out = np.zeros((S, S))
    out[row : row + side, column : column + side] = 1
    return out


def mean_of(arrays: Arrays) -> pd.Series:
    return oracles.losses(arrays).set_index("finding").loc["mean"]


def test_a_map_that_is_the_truth_loses_nothing() -> None:
    row = mean_of(together(*(case(square(4, i), square(4, i)) for i in (1, 5, 9))))
    for column in (*oracles.STEPS, "iou_called", "iou_smallest", "iou_largest"):
        assert row[column] == 1, column
    assert np.isnan(row["iou_missed"])
    assert (row["n"], row["n_called"], row["n_missed"]) == (3, 3, 0)


def test_a_second_hotter_spot_is_a_matter_of_place() -> None:
    truth, elsewhere = square(4, 4), square(14, 14)
    # Half of the label is right, the ignored pixels do not count.
    label = elsewhere + truth + 255 * square(9, 9)
    row = mean_of(together(case(truth, elsewhere + 0.5 * truth, elsewhere, truth, label=label)))
    assert row["iou_label"] == 0.5
    assert row["iou_area"] == 0
    assert row["iou_threshold"] == 0.5
    assert row["iou_classifier"] == 1
    assert row["iou_place"] == 1
    assert row["iou_form"] == 1


def test_a_hot_corner_within_the_box_is_a_matter_of_form() -> None:
    angle = np.zeros((S, S))
    angle[4:14, 4] = angle[13, 4:14] = 1
    corner = np.zeros((S, S))
    corner[4:9, 9:14] = 1
    row = mean_of(together(case(angle, corner + 0.5 * angle)))
    assert row["iou_area"] == 0
    assert row["iou_place"] == 0
    assert row["iou_form"] == 1
    assert row["iou_threshold"] == pytest.approx(19 / (19 + 25))


def test_the_best_single_map_is_never_worse_than_the_consensus() -> None:
    row = mean_of(together(case(square(4, 4), square(4, 4), square(9, 9), square(1, 1))))
    assert row["iou_classifier"] == row["iou_area"] == 1


def test_the_box_keeps_a_map_of_zeros_inside() -> None:
    truth = square(4, 4, 10)
    row = mean_of(together(case(truth, np.zeros((S, S)))))
    # 100 of 12 x 12 pixels, so 56 at least are right.
    assert row["iou_place"] >= 56 / 144
    assert row["iou_area"] < 56 / 144


def test_groups_by_probability_and_by_size() -> None:
    wrong = square(16, 16)
    cases = [
        case(square(1, 1, 2), square(1, 1, 2), p=0.9),
        case(square(1, 1, 4), wrong, p=0.4),
        case(square(1, 1, 6), wrong, p=0.5),
    ]
    row = mean_of(together(*cases))
    assert (row["n_called"], row["n_missed"]) == (2, 1)
    assert row["iou_called"] == pytest.approx((1 + cases[2]["iou"]) / 2)
    assert row["iou_missed"] == cases[1]["iou"]
    assert (row["iou_smallest"], row["n_smallest"]) == (1, 1)
    assert (row["iou_largest"], row["n_largest"]) == (cases[2]["iou"], 1)
    few = mean_of(together(*cases[:2]))
    assert np.isnan(few["iou_smallest"])
    assert few["n_smallest"] == 0


def test_the_mean_is_over_findings_and_empty_truths_are_left_out() -> None:
    hit, miss = (
        case(square(4, 4), square(4, 4)),
        case(square(4, 4), square(9, 9), label=square(0, 9)),
    )
    other = case(square(4, 4), square(9, 9), finding="Edema", label=square(9, 9))
    nothing = case(np.zeros((S, S)), square(4, 4), finding="Pneumonia")
    table = oracles.losses(together(hit, miss, other, nothing))
    assert list(table) == oracles.COLUMNS
    assert table["finding"].tolist() == ["Edema", "Fracture", "mean"]
    assert table["iou_label"].tolist() == [0, 0.5, 0.25]
    assert table["iou_area"].tolist() == [0, 0.5, 0.25]
    assert table["n"].tolist() == [1, 2, 3]


def test_best_threshold_is_that_of_a_search_over_all_values() -> None:
    draw = np.random.default_rng(0)
    m = np.round(draw.random((S, S)), 1).astype(np.float32)
    truth = ((m + 0.5 * draw.random((S, S))) > 0.9).astype(np.uint8)
    tried = [
        float(metrics.iou_of_masks((m >= v).astype(np.uint8)[None], truth[None])[0])
        for v in np.unique(m)
    ]
    assert oracles.best_threshold(m, truth) == pytest.approx(max(tried))


def test_arrays_that_do_not_fit() -> None:
    arrays = together(case(square(4, 4), square(4, 4)))
    with pytest.raises(InputError, match="array 'maps' of the labels is missing"):
        oracles.losses({k: v for k, v in arrays.items() if k != "maps"})
    with pytest.raises(InputError, match="'map' of the labels has 2 rows, 'finding' has 1"):
        oracles.losses(arrays | {"map": np.zeros((2, S, S))})
    with pytest.raises(InputError, match="no label has a truth"):
        oracles.losses(arrays | {"truth": np.zeros((1, S, S))})


def rows(variant: str, value: float, finding: str = "Fracture", **more: object) -> pd.DataFrame:
    """Cases of six patients, around a mean IoU."""
    n = 6
    spread = np.linspace(-0.05, 0.05, n)
    fixed = {"variant": variant, "finding": finding, "classifiers": "a+b", "n_classifiers": 2}
    fixed |= {"factor": variant.split("=")[0], "value": variant.split("=")[-1]}
    fixed |= {"iou_prior": 0.2, "iou_label": 0.3, "precision": 0.5, "recall": 0.5, "hit": 1}
    names = [f"{finding}{i}" for i in range(n)]
    frame = pd.DataFrame({"image_id": names, "patient_id": [str(i) for i in range(n)]})
    return frame.assign(iou_matched=value + spread, **(fixed | more))


def test_an_ablation_is_paired() -> None:
    changed = rows("smooth=0", 0.3).iloc[:4]
    table = summary.ablation(pd.concat([rows("shipped", 0.4), changed], ignore_index=True))
    assert list(table) == summary.ABLATION_COLUMNS
    assert table.loc[0, ["delta", "delta_lo", "delta_hi"]].tolist() == [0, 0, 0]
    # The same drop in every patient: no spread is left, though the patients differ.
    assert table.loc[1, ["delta", "delta_lo", "delta_hi"]].tolist() == pytest.approx([-0.1] * 3)
    assert table["n"].tolist() == [6, 4]
    alone = summary.ablation(changed)
    assert alone[["delta", "delta_lo", "delta_hi"]].isna().all(axis=None)


def test_goals_of_made_up_cases() -> None:
    cases = pd.concat(
        [
            rows("shipped", 0.4),
            rows("shipped", 0.1, "Edema", hit=0, iou_prior=0.5),
            rows("shipped", 0.21, "Pneumonia", hit=[1, 1, 1, 1, 1, 0]),
            rows("classifiers=a", 0.35, classifiers="a", n_classifiers=1),
            rows("classifiers=b", 0.42, classifiers="b", n_classifiers=1),
        ],
        ignore_index=True,
    )
    found = ["Fracture", "Edema", "Pneumonia", "Fracture", "Edema", "Pneumonia", "macro"]
    classifiers = pd.DataFrame({"finding": found, "auroc": [0.95, 0.7, 0.88, 0.9, 0.99, 0.94, 1]})
    table = summary.goals(cases, classifiers)
    assert list(table) == summary.GOAL_COLUMNS
    assert len(table) == len(MOBILE) + 2
    by_goal = table.set_index("goal")
    hits = table.iloc[0]
    # Edema's classifiers are below the bar, though one of them is above it.
    assert hits["goal"] == "hit rate at least 0.8, 2 findings with AUROC above 0.9"
    assert hits["value"] == pytest.approx((1 + 5 / 6) / 2)
    assert (hits["met"], hits["n"]) == ("yes", 12)
    fracture = by_goal.loc["IoU above that of the mean-mask prior: Fracture"]
    assert fracture["value"] == pytest.approx(0.2)
    assert 0 < fracture["lo"] < 0.2 < fracture["hi"]
    assert (fracture["met"], fracture["n"]) == ("yes", 6)
    pneumonia = by_goal.loc["IoU above that of the mean-mask prior: Pneumonia"]
    assert pneumonia["lo"] < 0 < pneumonia["value"]
    assert pneumonia["met"] == "no"
    absent = by_goal.loc["IoU above that of the mean-mask prior: Lung Lesion"]
    assert np.isnan(absent["value"])
    assert (absent["met"], absent["n"]) == ("not judged", 0)
    several = table.iloc[-1]
    assert "best single one (b, chosen on the same cases, in its favour)" in several["goal"]
    assert several[["value", "lo", "hi"]].tolist() == pytest.approx([-0.02] * 3)
    assert (several["met"], several["n"]) == ("no", 6)


def test_a_hit_rate_below_the_goal_is_not_met() -> None:
    classifiers = pd.DataFrame({"finding": ["Fracture"], "auroc": [0.95]})
    cases = rows("shipped", 0.4, hit=[1, 1, 1, 1, 0, 0])
    assert summary.goals(cases, classifiers).iloc[0]["met"] == "no"
    assert summary.goals(cases, classifiers, hit_rate=0.6).iloc[0]["met"] == "yes"
    assert summary.goals(cases, classifiers, auroc=0.96).iloc[0]["met"] == "not judged"


def test_without_cases_no_goal_is_judged() -> None:
    classifiers = pd.DataFrame({"finding": ["Fracture"], "auroc": [0.95]})
    table = summary.goals(rows("shipped", 0.4).iloc[:0], classifiers)
    assert set(table["met"]) == {"not judged"}
    assert (table["n"] == 0).all()


def test_goals_and_losses_are_written(tmp_path: Path) -> None:
    cases = synthetic.label_cases(patients=8)
    classifiers = pd.concat([synthetic.classifier_rows(c, 0) for c in synthetic.CLASSIFIERS])
    goals = summary.goals(cases, classifiers)
    losses = oracles.losses(synthetic.label_examples(16, n=3))
    made = label_tables.write_goals(goals, tmp_path, profile="p")
    made += label_tables.write_losses(losses, tmp_path, profile="p")
    stems = ("label_goals", "label_losses")
    assert [p.name for p in made] == [f"{s}{e}" for s in stems for e in (".csv", ".md", ".tex")]
    again = pd.read_csv(tmp_path / "label_goals.csv")
    assert again["goal"].tolist() == goals["goal"].tolist()
    text = (tmp_path / "label_goals.md").read_text(encoding="utf-8")
    assert "profile p" in text
    assert "in its favour" in text
    assert "area known" in (tmp_path / "label_losses.md").read_text(encoding="utf-8")
