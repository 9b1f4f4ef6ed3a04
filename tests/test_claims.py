"""Verdicts on made-up rows whose effects are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import statistics
from dollkit.common.errors import InputError
from dollkit.report import claims, contrasts, page
from tests import synthetic_run as synthetic

ARMS = {"random": 0.0, "classifier": 0.0, "doll": 0.0, "shuffled": 0.0}


def _evaluate(cases: pd.DataFrame, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    curves = synthetic.learning_curves(cases)
    return claims.evaluate(labels, cases, curves, synthetic.run_rows(curves))


@pytest.fixture(scope="module")
def true_effect() -> pd.DataFrame:
    return _evaluate(synthetic.segmentation_cases(), synthetic.label_cases())


def test_true_effects_are_confirmed(true_effect: pd.DataFrame) -> None:
    assert [claims.overall(true_effect, c.key) for c in claims.CLAIMS] == [claims.CONFIRMED] * 5
    cell = true_effect.set_index(["claim", "contrast", "task"])
    assert cell.loc[("C1", "labels - mean-mask prior", "labels"), "effect"] == pytest.approx(
        0.1, abs=0.01
    )
    assert cell.loc[("C2", "doll - random", "organs"), "effect"] == pytest.approx(0.08, abs=0.01)
    assert cell.loc[("C3", "steps to 95 %: classifier / doll", "lungs"), "effect"] > np.log(2)
    kept = cell.loc[("C4", "adapter keeps over half of the gain", "organs"), "effect"]
    assert kept == pytest.approx(0.4 * 0.08, abs=0.01)


def test_effects_of_claims_are_the_differences_of_table1(true_effect: pd.DataFrame) -> None:
    from dollkit.report.tables import summarise

    table = summarise(synthetic.segmentation_cases()).set_index(["task", "tuning", "arm"])["miou"]
    row = true_effect.query("contrast == 'doll - shuffled' and task == 'organs'").iloc[0]
    gap = table.loc[("organs", "full", "doll")] - table.loc[("organs", "full", "shuffled")]
    assert row["effect"] == pytest.approx(gap, abs=1e-12)
    assert (row["n_cases"], row["n_patients"], row["n_seeds"]) == (40, 40, 3)


def test_columns_and_values(true_effect: pd.DataFrame) -> None:
    assert true_effect.columns.tolist() == claims.COLUMNS
    assert set(true_effect["verdict"]) <= {"confirmed", "contradicted", "undecided"}
    tested = true_effect[true_effect["effect"].notna()]
    assert (tested["lo"] <= tested["effect"]).all()
    assert (tested["effect"] <= tested["hi"]).all()
    assert (tested["p_holm"] >= tested["p"]).all()
    assert (tested["mde"] > 0).all()


def test_arms_that_did_not_run_are_named_and_do_not_decide(true_effect: pd.DataFrame) -> None:
    row = true_effect.query("contrast == 'doll - imagenet' and task == 'lungs'").iloc[0]
    assert row["note"] == "not run: not part of this profile"
    assert not row["decides"]
    assert row["verdict"] == "undecided"


def test_a_missing_control_leaves_the_claim_undecided() -> None:
    gain = {k: v for k, v in synthetic.GAIN.items() if k != "shuffled"}
    rows = _evaluate(synthetic.segmentation_cases(gain))
    assert claims.overall(rows, "C2") == claims.UNDECIDED
    assert claims.overall(rows, "C1") == claims.UNDECIDED  # no label rows at all


def test_reversed_effects_are_contradicted() -> None:
    gain = ARMS | {"random": 0.08, "classifier": 0.08, "shuffled": 0.08}
    rows = _evaluate(
        synthetic.segmentation_cases(gain), synthetic.label_cases(-0.1, committee=-0.05)
    )
    assert claims.overall(rows, "C1") == claims.CONTRADICTED
    assert claims.overall(rows, "C2") == claims.CONTRADICTED
    assert claims.overall(rows, "C5") == claims.CONTRADICTED


def test_an_adapter_that_loses_the_gain_is_contradicted() -> None:
    cases = synthetic.segmentation_cases(tunings={"full": 1.0, "adapter": 0.0})
    assert claims.overall(_evaluate(cases), "C4") == claims.CONTRADICTED


def test_one_contradicted_control_contradicts_the_claim() -> None:
    rows = _evaluate(synthetic.segmentation_cases(synthetic.GAIN | {"shuffled": 0.2}))
    assert claims.overall(rows, "C2") == claims.CONTRADICTED
    part = rows[(rows["claim"] == "C2") & rows["decides"]].set_index("contrast")["verdict"]
    assert (part.loc["doll - random"] == "confirmed").all()
    assert (part.loc["doll - shuffled"] == "contradicted").all()


def test_arms_that_speak_of_how_labels_are_made_do_not_decide_c2() -> None:
    rows = _evaluate(synthetic.segmentation_cases(synthetic.GAIN | {"single": 0.3}))
    part = rows[rows["contrast"] == "doll - single"]
    assert len(part) == 3
    assert (part["effect"] < -0.1).all()
    assert not part["decides"].any()
    assert (part["verdict"] == "contradicted").all()
    assert claims.overall(rows, "C2") != claims.CONTRADICTED
    assert "doll - plain" not in set(rows["contrast"])  # nobody misses it


def test_no_gain_leaves_the_adapter_undecided_with_a_note() -> None:
    rows = _evaluate(synthetic.segmentation_cases(ARMS))
    row = rows[rows["claim"] == "C4"].iloc[0]
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
    assert claims.overall(rows, "C1") == claims.UNDECIDED
    assert claims.overall(rows, "C2") == claims.UNDECIDED


def test_a_finding_of_one_patient_decides_nothing() -> None:
    labels = synthetic.label_cases(patients=12)
    one = labels["finding"] == labels["finding"].iloc[0]
    lone = one & (labels["patient_id"] != labels.loc[one, "patient_id"].iloc[0])
    rare = str(labels["finding"].iloc[0])
    rows = _evaluate(synthetic.segmentation_cases(), labels[~lone])
    without = _evaluate(synthetic.segmentation_cases(), labels[~one])
    for claim in ("C1", "C5"):
        ours, theirs = (r[(r["claim"] == claim) & r["decides"]] for r in (rows, without))
        np.testing.assert_array_equal(ours["effect"], theirs["effect"])
        told = [n for n in ours["note"] if n == f"left out, in fewer than 5 patients: {rare}"]
        assert told or claim == "C1"


def test_two_seeds_are_undecided_however_clear() -> None:
    rows = _evaluate(synthetic.segmentation_cases(seeds=2))
    part = rows[rows["claim"].isin(["C2", "C3", "C4"]) & rows["effect"].notna()]
    assert set(part["verdict"]) == {"undecided"}
    assert part["note"].str.contains("fewer than 3 seeds").all()


def test_the_luck_of_runs_is_not_an_effect() -> None:
    """No true effect, but runs that differ: the share of verdicts stays near 5 % at most."""
    verdicts = []
    for draw in range(60):
        cases = synthetic.segmentation_cases(
            {"random": 0.0, "doll": 0.0}, tasks=["lungs"], tunings={"full": 1.0}, patients=12,
            seed_noise=0.03, rng=draw,
        )  # fmt: skip
        doll, other = (cases[cases["arm"] == a] for a in ("doll", "random"))
        _, (a, b), _ = contrasts.aligned([doll, other])
        verdicts.append(statistics.crossed_effect(a - b).p < 0.05)
    assert sum(verdicts) <= 9  # P(X > 9) < 0.1 % for X ~ Binomial(60, 0.06)


def _null_rows(p: np.ndarray, effect: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"p": p, "effect": effect, "lo": effect, "hi": effect})
    frame["claim"], frame["contrast"], frame["task"], frame["note"] = "C1", "x", "labels", ""
    frame["n_cases"] = frame["n_patients"] = frame["n_seeds"] = 9
    return frame.assign(mde=1.0, decides=True, network="", n_train=1)


def test_family_wise_false_positives_stay_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        p = rng.random(20)
        judged = claims.judge(_null_rows(p, np.where(rng.random(20) < 0.5, 0.5, -0.5)))
        false += bool((judged["verdict"] != "undecided").any())
    assert false / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert false > 0  # it can fail, too


def test_label_test_keeps_its_level_over_many_draws() -> None:
    """No true difference; patients differ, have unequal numbers of films, and so do findings."""
    rng = np.random.default_rng(0)
    patients, films, draws = 20, 90, 1500
    units = np.empty((draws, patients))
    for draw in range(draws):
        who = np.concatenate([np.arange(patients), rng.integers(0, patients, films - patients)])
        gap = rng.normal(0, 0.05, patients)[who] + rng.normal(0, 0.1, films)
        units[draw] = statistics.patient_values(gap, who, rng.integers(0, 4, films))[1]
    rate = (statistics.sign_flip_p(units, n_flips=999) < 0.05).mean()
    assert abs(rate - 0.05) < 3.5 * np.sqrt(0.05 * 0.95 / draws)


def test_an_effect_below_relevance_is_not_confirmed() -> None:
    rows = _null_rows(np.array([1e-6]), np.array([0.005]))
    assert claims.judge(rows)["verdict"].iloc[0] == "undecided"
    rows = _null_rows(np.array([1e-6]), np.array([0.02]))
    assert claims.judge(rows)["verdict"].iloc[0] == "confirmed"


def test_permuted_rows_give_identical_claims(tmp_path: Path) -> None:
    cases, labels = synthetic.segmentation_cases(), synthetic.label_cases()
    curves = synthetic.learning_curves(cases)
    runs = synthetic.run_rows(curves)
    for name, seed in (("a", None), ("b", 1)):
        args = [
            f if seed is None else f.sample(frac=1, random_state=seed)
            for f in (labels, cases, curves, runs)
        ]
        claims.write_claims(claims.evaluate(*args), tmp_path / name, profile="p", population="q")
    for file in ("claims.csv", "claims.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_claims_page_says_it_all(true_effect: pd.DataFrame, tmp_path: Path) -> None:
    paths = claims.write_claims(true_effect, tmp_path, profile="smoke", population="made-up films")
    text = paths[1].read_text()
    for claim in claims.CLAIMS:
        assert f"## {claim.key}: confirmed" in text
        assert claim.statement in text
        assert claims.sentence(true_effect, claim.key) in text
    assert "made-up films" in text
    assert "Seeds per trained network: 3; pre-training runs per arm: 1." in text
    back = pd.read_csv(paths[0])
    first = ["claim", "contrast", "task", "effect", "lo", "hi"]
    assert back.columns.tolist()[:6] == first
    assert {"p_holm", "n_cases", "n_seeds", "verdict"} <= set(back.columns)
    with pytest.raises(InputError, match="column 'verdict' is missing"):
        claims.write_claims(
            true_effect.drop(columns="verdict"), tmp_path, profile="", population=""
        )


def test_a_smaller_training_set_decides_and_others_are_details() -> None:
    both = pd.concat(
        [synthetic.segmentation_cases(), synthetic.segmentation_cases().assign(network="UNet")]
    )
    rows = _evaluate(both).query("contrast == 'doll - random'")
    assert rows.groupby("network")["decides"].first().to_dict() == {"PSPNet": True, "UNet": False}


def test_provenance_gathers_all_manifests(tmp_path: Path) -> None:
    run = synthetic.make_run(tmp_path)
    content = json.loads(page.write_provenance(run, tmp_path / "out").read_text())
    assert content["commit"] == "c0ffee"
    assert content["seconds"] == pytest.approx(3 * 10 + 20 + 3 * 30)
    assert set(content["stages"]) >= {"labels", "finetune/organs", "classifiers/resnet18"}
    assert content["weights"]["finetune/lungs/weights.safetensors"] == "ab" * 32
    with pytest.raises(InputError, match="no manifest"):
        page.collect(tmp_path / "nowhere")


def test_the_population_says_which_films_came_from_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store below it"):
        page.population(tmp_path)
    phantom, pack = "synthetic chest phantom", "open pack"
    for sources, words in (
        ({"films": "phantom", "lungs": "phantom"}, phantom),
        ({"films": "open", "lungs": "open-lungs"}, pack),
        ({"films": "phantom", "lungs": "open-lungs"}, f"{phantom} (films); {pack} (lungs)"),
        ({"films": "open", "lungs": "phantom"}, f"{pack} (films); {phantom} (lungs)"),
    ):
        for store, source in sources.items():
            folder = tmp_path / "data" / store
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"made_from": {"source": source}})
            (folder / "store.json").write_text(text)
        assert page.population(tmp_path) == words
