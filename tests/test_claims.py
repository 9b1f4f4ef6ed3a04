"""Verdicts on made-up rows whose effects are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.report import claims, contrasts
from tests import synthetic_run as synthetic

ARMS = dict.fromkeys(["random", "classifier", "doll", "shuffled"], 0.0)
NO_LABELS = pd.DataFrame()


def _evaluate(cases: pd.DataFrame, labels: pd.DataFrame = NO_LABELS) -> pd.DataFrame:
    curves = synthetic.learning_curves(cases)
    more = {"curves": curves, "runs": synthetic.run_rows(curves), "not_run": {}}
    return claims.evaluate(SimpleNamespace(label_cases=labels, cases=cases, **more))


def _overall(rows: pd.DataFrame, *keys: str) -> set[str]:
    return {claims.overall(rows, key) for key in keys}


@pytest.fixture(scope="module")
def true_effect() -> pd.DataFrame:
    return _evaluate(synthetic.segmentation_cases(), synthetic.label_cases())


def test_true_effects_are_confirmed(true_effect: pd.DataFrame) -> None:
    assert _overall(true_effect, *claims.KEYS) == {claims.CONFIRMED}
    effect = true_effect.set_index(["claim", "contrast", "task"])["effect"]
    assert effect["C1", "labels - mean-mask prior", "labels"] == pytest.approx(0.1, abs=0.01)
    assert effect["C2", "doll - random", "organs"] == pytest.approx(0.08, abs=0.01)
    assert effect["C3", "steps to 95 %: classifier / doll", "lungs"] > np.log(2)
    kept = effect["C4", "adapter keeps over half of the gain", "organs"]
    assert kept == pytest.approx(0.4 * 0.08, abs=0.01)


def test_a_missing_control_leaves_the_claim_undecided() -> None:
    gain = {k: v for k, v in synthetic.GAIN.items() if k != "shuffled"}
    rows = _evaluate(synthetic.segmentation_cases(gain))
    assert _overall(rows, "C1", "C2") == {claims.UNDECIDED}  # no label rows at all


def test_reversed_effects_are_contradicted() -> None:
    gain = dict.fromkeys(ARMS, 0.08) | {"doll": 0.0}
    labels = synthetic.label_cases(-0.1, committee=-0.05)
    rows = _evaluate(synthetic.segmentation_cases(gain), labels)
    assert _overall(rows, "C1", "C2", "C5") == {claims.CONTRADICTED}


def test_one_contradicted_control_contradicts_the_claim_an_arm_of_label_making_does_not() -> None:
    gain = synthetic.GAIN | {"shuffled": 0.2, "single": 0.3}
    rows = _evaluate(synthetic.segmentation_cases(gain))
    verdict = rows.set_index("contrast")["verdict"]
    assert (verdict.loc["doll - random"] == "confirmed").all()
    assert (verdict.loc["doll - shuffled"] == "contradicted").all()
    assert claims.overall(rows, "C2") == claims.CONTRADICTED
    assert verdict.loc["doll - single"].tolist() == ["contradicted"] * 3
    assert not rows.loc[rows["contrast"] == "doll - single", "decides"].any()
    assert claims.overall(rows[rows["contrast"] != "doll - shuffled"], "C2") == claims.CONFIRMED
    assert "doll - plain" not in verdict  # nobody misses it


def test_no_gain_leaves_the_adapter_undecided_with_a_note() -> None:
    row = _evaluate(synthetic.segmentation_cases(ARMS)).query("claim == 'C4'").iloc[0]
    assert contrasts.NO_GAIN in row["note"]
    assert row["verdict"] == "undecided"
    assert row["note"].startswith("trains 3.4 %")


def test_too_few_cases_are_undecided() -> None:
    cases = synthetic.segmentation_cases(patients=2, noise=0.05)
    rows = _evaluate(cases, synthetic.label_cases(patients=4))
    # Four patients: 2^4 sign patterns, p could not fall below 1/8, however large the effect.
    labels = rows[rows["claim"] == "C1"]
    assert labels["p"].isna().all()
    assert labels["note"].str.startswith("not run: fewer than 5 patients with ").all()
    assert _overall(rows, "C1", "C2") == {claims.UNDECIDED}


def test_a_finding_of_one_patient_decides_nothing() -> None:
    labels = synthetic.label_cases(patients=12)
    rare = str(labels["finding"].iloc[0])
    one = labels["finding"] == rare
    lone = one & (labels["patient_id"] != labels.loc[one, "patient_id"].iloc[0])
    cases = synthetic.segmentation_cases(patients=2)
    rows, without = (_evaluate(cases, labels[~left_out]) for left_out in (lone, one))
    for claim in ("C1", "C5"):
        ours, theirs = (r[(r["claim"] == claim) & r["decides"]] for r in (rows, without))
        np.testing.assert_array_equal(ours["effect"], theirs["effect"])
    assert f"left out, in fewer than 5 patients: {rare}" in set(ours["note"])


def test_two_seeds_are_undecided_however_clear() -> None:
    rows = _evaluate(synthetic.segmentation_cases(seeds=2))
    part = rows[rows["claim"].isin(["C2", "C3", "C4"]) & rows["effect"].notna()]
    assert set(part["verdict"]) == {"undecided"}
    assert part["note"].str.contains("fewer than 3 seeds").all()


def _null_rows(p: np.ndarray, effect: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"p": p, "effect": effect, "lo": effect, "hi": effect})
    frame["claim"], frame["contrast"], frame["task"], frame["note"] = "C1", "x", "labels", ""
    frame["n_cases"] = frame["n_patients"] = frame["n_seeds"] = 9
    return frame.assign(mde=1.0, decides=True, network="", n_train=1)


@pytest.mark.slow
def test_family_wise_false_positives_stay_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        p = rng.random(20)
        judged = claims.judge(_null_rows(p, np.where(rng.random(20) < 0.5, 0.5, -0.5)))
        false += bool((judged["verdict"] != "undecided").any())
    assert false / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert false > 0  # it can fail, too


@pytest.mark.parametrize(("effect", "verdict"), [(0.005, "undecided"), (0.02, "confirmed")])
def test_an_effect_below_relevance_is_not_confirmed(effect: float, verdict: str) -> None:
    rows = _null_rows(np.array([1e-6]), np.array([effect]))
    assert claims.judge(rows)["verdict"].tolist() == [verdict]


def test_claims_page_says_it_all(true_effect: pd.DataFrame, tmp_path: Path) -> None:
    about = {"profile": "smoke", "population": "made-up films"}
    for repeats, counted, covered in (
        (0, "Seeds per trained network: 3. A", "each arm was pre-trained once"),
        (1, "3; pre-training runs per arm: 1. A", "each arm was pre-trained once"),
        (2, "3; pre-training runs per arm: 2. A", "included (2 pre-training runs of each arm, "),
        (3, "3; pre-training runs per arm: 3. A", "training runs, pre-training included."),
    ):
        csv, page = claims.write_claims(true_effect, tmp_path, repeats=repeats, **about)
        text = page.read_text()
        for words in ("made-up films", counted, covered):
            assert words in text
    for claim in claims.CLAIMS:
        assert f"## {claim.key}: confirmed" in text
        assert claim.statement in text
        assert claims.sentence(true_effect, claim.key) in text
    assert pd.read_csv(csv).columns.tolist() == claims.COLUMNS


def test_a_smaller_training_set_decides_and_others_are_details() -> None:
    cases = synthetic.segmentation_cases(patients=5)
    both = pd.concat([cases, cases.assign(network="UNet")])
    rows = _evaluate(both).query("contrast == 'doll - random'")
    assert rows.groupby("network")["decides"].first().to_dict() == {"PSPNet": True, "UNet": False}


def contrast(claim: str, effect: float, lo: float, hi: float, **more: Any) -> dict[str, object]:
    row = dict.fromkeys(claims.COLUMNS, "")
    row |= {"claim": claim, "contrast": "doll - random", "task": "lungs", "effect": effect}
    row |= {"lo": lo, "hi": hi, "relevance": 0.005, "decides": True, "network": "pspnet"}
    row |= {"n_patients": 40, "n_seeds": 5, "n_train": 8, "verdict": claims.UNDECIDED}
    return row | more


LIST = [
    contrast("C3", 0.4, 0.1, 0.7, contrast="steps to 95 %: random / doll", n_patients=0),
    contrast("C2", 0.03, 0.01, 0.05, verdict=claims.CONFIRMED),
    contrast("C2", -0.03, -0.05, -0.01, task="organs", verdict=claims.CONTRADICTED),
    contrast("C2", 0.5, 0.4, 0.6, decides=False),
    contrast("C2", np.nan, np.nan, np.nan, task="infection"),
    contrast("C2", 0.02, np.nan, np.nan, task="infection", n_seeds=2),
]
ROWS = pd.DataFrame(LIST)


def test_figure_s5_shows_deciding_contrasts_in_the_order_of_the_claims() -> None:
    drawn = claims.figure_s5(ROWS, profile="p")
    assert drawn.data["claim"].tolist() == ["C2", "C2", "C2", "C3"]
    assert drawn.data["effect"].tolist() == [0.03, -0.03, 0.02, 0.4]
    left, right = ([label.get_text() for label in ax.get_yticklabels()] for ax in drawn.figure.axes)
    assert left == [f"{task}: doll - random" for task in ("lungs", "organs", "infection")]
    assert right == ["lungs: random / doll"]
    assert "2-5 seeds" in drawn.caption
    assert "40 patients" in drawn.caption
    two = pd.concat([ROWS, ROWS.assign(network="unet")], ignore_index=True)
    ticks = claims.figure_s5(two, profile="p").figure.axes[0].get_yticklabels()
    assert ticks[0].get_text() == "lungs: pspnet, doll - random"


def test_one_interval_without_end_hides_no_other() -> None:
    wide = [*LIST, contrast("C2", 0.0, -1e6, 1e6, task="infection")]
    point = [contrast("C2", 0.0, 0.0, 0.0), contrast("C2", 0.1, -9.0, 9.0)]
    for drawn in (wide, point):
        figure = claims.figure_s5(pd.DataFrame(drawn), profile="p").figure
        low, high = figure.axes[0].get_xlim()
        assert -1 < low < 0 < 0.1 < high < 1


def test_one_claim_alone_and_none_at_all(tmp_path: Path) -> None:
    for rows in (ROWS[:1], ROWS[:0]):
        drawn = claims.figure_s5(rows, profile="p")
        assert len(drawn.figure.axes) == len(rows)
        assert all(path.is_file() for path in drawn.save(tmp_path / "figure_s5"))
