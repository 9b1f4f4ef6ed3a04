"""Verdicts on made-up rows whose effects are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.report import claims, contrasts
from dollkit.report import rows as case_rows
from tests import synthetic_run as synthetic

ARMS = dict.fromkeys(["random", "imagenet", "classifier", "doll", "shuffled"], 0.0)
GAIN = synthetic.GAIN | {"imagenet": 0.02}
NO_LABELS = pd.DataFrame()


def _cases(gain: dict[str, float] = GAIN, **more: Any) -> pd.DataFrame:
    return synthetic.segmentation_cases(gain, **more)


def _evaluate(
    cases: pd.DataFrame, labels: pd.DataFrame = NO_LABELS, **more: pd.DataFrame
) -> pd.DataFrame:
    curves = synthetic.learning_curves(cases)
    given = {"curves": curves, "runs": synthetic.run_rows(curves), "not_run": {}}
    record = synthetic.pretraining_rows()
    prior = record[record["arm"] == "shuffled"].assign(arm="prior")
    given |= {"pretraining": pd.concat([record, prior]), "difficulty": pd.DataFrame()}
    given |= {"classifiers": synthetic.classifier_rows("a", 0)}
    return claims.evaluate(SimpleNamespace(label_cases=labels, cases=cases, **(given | more)))


def _overall(rows: pd.DataFrame, *keys: str) -> set[str]:
    return {claims.overall(rows, key) for key in keys}


@pytest.fixture(scope="module")
def true_effect() -> pd.DataFrame:
    return _evaluate(_cases(), synthetic.label_cases())


def test_true_effects_are_confirmed(true_effect: pd.DataFrame) -> None:
    assert _overall(true_effect, *claims.KEYS) == {claims.CONFIRMED}
    assert claims.overall(true_effect, "C2", contrasts.DIAGNOSIS) == claims.CONFIRMED
    effect = true_effect.set_index(["claim", "contrast", "task"])["effect"]
    assert effect["C1", "labels - mean-mask prior", "labels"] == pytest.approx(0.1, abs=0.01)
    assert effect["C2", "doll - random", "organs"] == pytest.approx(0.08, abs=0.01)
    assert effect["C3", "steps to 95 %: classifier / doll", "lungs"] > np.log(2)
    kept = effect["C4", "adapter keeps over half of the gain", "organs"]
    assert kept == pytest.approx(0.4 * 0.08, abs=0.01)
    # A mean over tasks is that of their effects, whatever their numbers of patients.
    for contrast in ("doll - random", "doll - shuffled", "steps to 95 %: random / doll"):
        per_task = effect.xs(contrast, level="contrast").droplevel("claim")
        mean = per_task.drop("all tasks").mean()
        assert per_task["all tasks"] == pytest.approx(mean, abs=1e-12)


def test_two_questions_have_a_verdict_each() -> None:
    # As good as the controls, better than all that the paper compares it with.
    rows = _evaluate(_cases(GAIN | {"shuffled": 0.08}))
    assert claims.overall(rows, "C2") == claims.CONFIRMED
    assert claims.overall(rows, "C2", contrasts.DIAGNOSIS) == claims.UNDECIDED
    assert ("C2", contrasts.DIAGNOSIS) in [(c.key, q) for c, q in claims.asked(rows)]
    better = _evaluate(_cases(GAIN | {"prior": 0.2, "single": 0.3}))
    assert claims.overall(better, "C2") == claims.CONFIRMED
    assert claims.overall(better, "C2", contrasts.DIAGNOSIS) == claims.CONTRADICTED
    scope = better.set_index("contrast")["scope"]
    assert set(scope["doll - prior"]) == {"task", "overall"}
    assert set(scope["doll - single"]) == {"detail"}
    assert "doll - plain" not in scope  # nobody misses it
    for missing in ("imagenet", "shuffled"):
        gain = {k: v for k, v in GAIN.items() if k != missing}
        rows = _evaluate(_cases(gain))
        asked = contrasts.CLAIM if missing == "imagenet" else contrasts.DIAGNOSIS
        assert claims.overall(rows, "C2", asked) == claims.UNDECIDED
        assert f"Not tested: doll - {missing} (not part" in claims.sentence(rows, "C2", asked)


def test_one_task_that_contradicts_leaves_the_claim_undecided() -> None:
    cases = [
        _cases(GAIN | {"imagenet": gain}, tasks=[task])
        for task, gain in (("lungs", -0.3), ("infection", -0.3), ("organs", 0.2))
    ]
    rows = _evaluate(pd.concat(cases))
    verdict = rows.set_index(["contrast", "task"])["verdict"]
    assert verdict["doll - imagenet", "organs"] == claims.CONTRADICTED
    assert verdict["doll - imagenet", "lungs"] == claims.CONFIRMED
    assert claims.overall(rows, "C2") != claims.CONFIRMED
    cells = claims.matrix(rows[(rows["claim"] == "C2") & (rows["question"] == contrasts.CLAIM)])
    assert list(cells) == ["contrast", "lungs", "infection", "organs", "all tasks"]
    cell = cells.set_index("contrast").loc["doll - imagenet"]
    assert cell["organs"].endswith("] ↓")
    assert cell["lungs"].startswith("+0.3")
    assert cell["lungs"].endswith("] ↑")


def test_reversed_effects_are_contradicted() -> None:
    gain = dict.fromkeys(ARMS, 0.08) | {"doll": 0.0}
    labels = synthetic.label_cases(-0.1, committee=-0.05)
    rows = _evaluate(_cases(gain), labels)
    assert _overall(rows, "C1", "C2", "C5") == {claims.CONTRADICTED}


def test_one_pretraining_decides_nothing_however_clear() -> None:
    record = synthetic.pretraining_rows()
    for arm, decided in (("shuffled", False), ("truth", True), ("doll", False)):
        few = record[(record["arm"] != arm) | (record["seed"] == 0)]
        rows = _evaluate(_cases(), pretraining=few)
        against = rows[rows["contrast"] == "doll - shuffled"]
        assert (set(against["verdict"]) == {claims.CONFIRMED}) == decided
        assert against["note"].str.contains("fewer than 3 pre-trainings").all() != decided
        assert (claims.overall(rows, "C2") == claims.CONFIRMED) == (arm != "doll")


def test_seeds_that_start_from_one_pretraining_are_one_draw() -> None:
    cases = _cases(seeds=6, tasks=["lungs"], tunings={"full": 1.0})
    row = _evaluate(cases).set_index(["contrast", "scope"]).loc[("doll - random", "overall")]
    assert (row["n_seeds"], row["n_pretrained"]) == (6, 3)
    once = cases.assign(seed=cases["seed"] % 3 + 3 * (cases["seed"] > 2))
    drawn = case_rows.with_draws(once, synthetic.pretraining_rows())
    assert sorted(drawn["draw"].unique()) == [0, 1, 2]
    (a, b), _, _ = case_rows.aligned([drawn[drawn["arm"] == x] for x in ("doll", "random")])
    assert a.shape == (3, 40)
    whole = cases.groupby(["arm", "seed"])["iou"].mean().groupby("arm").mean()
    assert row["effect"] == pytest.approx(whole["doll"] - whole["random"], abs=1e-9)
    assert row["effect"] == pytest.approx((a - b).mean(), abs=1e-9)
    # Seeds that all start from one of them are no evidence of the others.
    assert contrasts.pretrainings(synthetic.pretraining_rows(), {0, 3, 6}, "doll - random") == 1


def test_a_mean_over_tasks_weighs_tasks_alike_and_knows_patients() -> None:
    draw = np.random.default_rng(0)
    names = [np.array([f"p{i}" for i in range(k, k + n)]) for k, n in ((0, 30), (20, 10), (99, 5))]
    tasks = [contrasts.Units(draw.normal(k, 1, (3, len(n))), n) for k, n in enumerate(names)]
    pooled = contrasts.over_tasks(tasks)
    assert pooled.shape == (3, 35)  # ten patients are in two tasks
    means = np.stack([task.values.mean(1) for task in tasks])
    np.testing.assert_allclose(pooled.mean(1), means.mean(0))
    # Its spread over patients is that of a mean of three independent means.
    many = [
        contrasts.Units(draw.normal(0, 1, (1, n)), np.arange(n) + 1000 * n) for n in (40, 20, 60)
    ]
    spread = contrasts.over_tasks(many).var(ddof=1) / 120
    by_hand = sum(task.values.var(ddof=1) / task.values.size for task in many) / 9
    assert spread == pytest.approx(by_hand, rel=0.02)


def test_findings_that_may_be_shortcuts_do_not_decide(true_effect: pd.DataFrame) -> None:
    probes = synthetic.difficulty_rows()
    probes.loc[probes["finding"] == "Pneumonia", ["probe_auroc", "probe_lo"]] = 0.9, 0.8
    more = _cases(patients=5), synthetic.label_cases()
    rows = _evaluate(*more, difficulty=probes)
    part = rows[(rows["claim"] == "C1") & (rows["scope"] == "overall")]
    assert part["note"].str.contains("possibly a shortcut: Pneumonia").all()
    whole = true_effect[(true_effect["claim"] == "C1") & (true_effect["scope"] == "overall")]
    assert (part["n_cases"].to_numpy() == whole["n_cases"].to_numpy() * 8 // 9).all()
    assert "Pneumonia" in set(rows.loc[rows["scope"] == "detail", "task"])
    every = probes.assign(probe_auroc=0.95, probe_lo=0.9)
    rows = _evaluate(*more, difficulty=every)
    assert claims.overall(rows, "C1") == claims.UNDECIDED
    assert "possibly a shortcut: Atelectasis" in claims.sentence(rows, "C1")


def test_no_gain_leaves_the_adapter_undecided_with_a_note() -> None:
    rows = _evaluate(_cases(ARMS)).query("claim == 'C4'")
    rows = rows[rows["contrast"].str.contains("keeps")]
    assert rows["note"].str.contains(contrasts.NO_GAIN, regex=False).all()
    assert set(rows["verdict"]) == {"undecided"}
    assert rows["note"].iloc[1].startswith("trains 3.4 %")


def test_too_few_cases_are_undecided() -> None:
    cases = _cases(patients=2, noise=0.05, tasks=["lungs"])
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
    cases = _cases(patients=2)
    rows, without = (_evaluate(cases, labels[~left_out]) for left_out in (lone, one))
    for claim in ("C1", "C5"):
        ours, theirs = (
            r[(r["claim"] == claim) & (r["scope"] == "overall")] for r in (rows, without)
        )
        np.testing.assert_array_equal(ours["effect"], theirs["effect"])
    assert f"left out, in fewer than 5 patients: {rare}" in set(ours["note"])


def test_two_seeds_are_undecided_however_clear() -> None:
    rows = _evaluate(_cases(seeds=2))
    part = rows[rows["claim"].isin(["C2", "C3", "C4"]) & rows["effect"].notna()]
    assert set(part["verdict"]) == {"undecided"}
    assert part["note"].str.contains("fewer than 3 seeds").all()


def _null_rows(p: np.ndarray, effect: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"p": p, "effect": effect, "lo": effect, "hi": effect})
    frame["claim"], frame["contrast"], frame["task"], frame["note"] = "C1", "x", "labels", ""
    frame["n_cases"] = frame["n_patients"] = frame["n_seeds"] = 9
    return frame.assign(
        mde=1.0, scope="overall", question="claim", n_pretrained=0, network="", n_train=1
    )


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
        (1, "3; pre-training runs per arm: 1. A", "each arm was pre-trained once"),
        (2, "3; pre-training runs per arm: 2. A", "(2 pre-training runs of each arm, "),
        (3, "3; pre-training runs per arm: 3. A", "training runs, pre-training included, but not"),
    ):
        trained = true_effect["n_pretrained"].notna()
        found = true_effect.assign(n_pretrained=true_effect["n_pretrained"].mask(trained, repeats))
        csv, page = claims.write_claims(found, tmp_path, **about)
        text = page.read_text()
        for words in ("made-up films", counted, covered):
            assert words in text
    for claim in claims.CLAIMS:
        assert f"## {claim.key}, as stated: confirmed" in text
        assert claim.statement in text
        assert claims.sentence(true_effect, claim.key) in text
    assert "## C2, is it the diagnosis?: confirmed" in text
    assert "| contrast | lungs | infection | organs | all tasks |" in text
    assert pd.read_csv(csv).columns.tolist() == claims.COLUMNS


def test_a_smaller_training_set_decides_and_others_are_details() -> None:
    cases = _cases(patients=5)
    both = pd.concat([cases, cases.assign(network="UNet")])
    rows = _evaluate(both).query("contrast == 'doll - random' and scope != 'overall'")
    assert rows.groupby("network")["scope"].first().to_dict() == {
        "PSPNet": "task",
        "UNet": "detail",
    }


def contrast(claim: str, effect: float, lo: float, hi: float, **more: Any) -> dict[str, object]:
    row = dict.fromkeys(claims.COLUMNS, "")
    row |= {"claim": claim, "contrast": "doll - random", "task": "lungs", "effect": effect}
    row |= {"lo": lo, "hi": hi, "relevance": 0.005, "scope": "task", "network": "pspnet"}
    row |= {"question": "claim"}
    row |= {"n_patients": 40, "n_seeds": 5, "n_train": 8, "verdict": claims.UNDECIDED}
    return row | more


LIST = [
    contrast("C3", 0.4, 0.1, 0.7, contrast="steps to 95 %: random / doll", n_patients=0),
    contrast("C2", 0.03, 0.01, 0.05, verdict=claims.CONFIRMED),
    contrast("C2", -0.03, -0.05, -0.01, task="organs", verdict=claims.CONTRADICTED),
    contrast("C2", 0.5, 0.4, 0.6, scope="detail"),
    contrast("C2", np.nan, np.nan, np.nan, task="infection"),
    contrast("C2", 0.02, np.nan, np.nan, task="infection", n_seeds=2),
]
ROWS = pd.DataFrame(LIST)


def test_figure_s5_shows_deciding_contrasts_in_the_order_of_the_claims() -> None:
    drawn = claims.figure_s5(ROWS, profile="p")
    assert drawn.data["claim"].tolist() == ["C2", "C2", "C2", "C3"]
    assert drawn.data["effect"].tolist() == [0.03, -0.03, 0.02, 0.4]
    left, right = ([label.get_text() for label in ax.get_yticklabels()] for ax in drawn.figure.axes)
    # Without the mean over tasks above them, tasks say what they are about.
    assert left == [f"doll - random, {task}" for task in ("lungs", "organs", "infection")]
    assert right == ["random / doll, lungs"]
    assert "2-5 seeds" in drawn.caption
    assert "40 patients" in drawn.caption
    two = pd.concat([ROWS, ROWS.assign(network="unet")], ignore_index=True)
    ticks = claims.figure_s5(two, profile="p").figure.axes[0].get_yticklabels()
    assert ticks[0].get_text() == "pspnet, doll - random, lungs"
    overall = claims.figure_s5(ROWS.assign(scope="overall"), profile="p").figure
    assert overall.axes[1].get_yticklabels()[0].get_text() == "random / doll"


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
