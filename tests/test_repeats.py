"""Arms that are pre-trained several times: tables and claims count every network."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dollkit.report import claims, compare, results
from tests import synthetic_run as synthetic


def test_tables_take_the_mean_of_the_networks_and_count_them() -> None:
    one = synthetic.pretraining_rows()
    two = pd.concat([one, one.assign(seed=1, label_iou=one["label_iou"] / 2)])
    assert results.repeats(one) == 1
    assert results.repeats(two) == 2
    assert results.repeats(two[(two["arm"] != "shuffled") | (two["seed"] == 0)]) == 1
    assert results.repeats(two[(two["arm"] != "truth") | (two["seed"] == 0)]) == 2
    assert results.repeats(one.iloc[:0]) == 0
    cases = synthetic.segmentation_cases(tasks=["lungs"], patients=4)
    table = results.worth_of_labels(two, cases, "p").frame.set_index("arm")
    want = one.set_index("arm")["label_iou"] * 0.75
    assert table.loc["doll", "label_iou"] == pytest.approx(want["doll"])
    pd.testing.assert_series_equal(
        table["miou"], results.worth_of_labels(one, cases, "p").frame.set_index("arm")["miou"]
    )


@pytest.mark.parametrize(
    ("repeats", "counted", "covered"),
    [
        (0, "Seeds per trained network: 3. A", "each arm was pre-trained once"),
        (1, "3; pre-training runs per arm: 1. A", "each arm was pre-trained once"),
        (2, "3; pre-training runs per arm: 2. A", "included (2 pre-training runs of each arm, "),
        (3, "3; pre-training runs per arm: 3. A", "training runs, pre-training included."),
    ],
)
def test_claims_say_what_their_intervals_cover(
    repeats: int, counted: str, covered: str, tmp_path: Path
) -> None:
    cases = synthetic.segmentation_cases(tasks=["lungs"], patients=4)
    curves = synthetic.learning_curves(cases)
    rows = claims.evaluate(pd.DataFrame(), cases, curves, synthetic.run_rows(curves), {})
    claims.write_claims(rows, tmp_path, profile="p", population="q", repeats=repeats)
    text = (tmp_path / "claims.md").read_text()
    assert counted in text
    assert covered in text
    assert "COVERED" not in text


def test_gathered_contrasts_tell_how_often_an_arm_was_pre_trained() -> None:
    frame = compare.c2_contrasts(["laptop"])
    assert set(frame["n_pretrained"]) == {1}
    assert "pre-trained" in compare.c2_table(frame)
