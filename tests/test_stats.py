"""Statistics against closed forms, scipy, and their own promises over many draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as sps

from dollkit.common import statistics


def test_patient_values_average_to_the_mean_of_class_means() -> None:
    values = [0.2, 0.4, np.nan, 0.9, 0.5, 0.7]
    patients = ["a", "a", "b", "b", "c", "c"]
    classes = ["x", "y", "x", "y", "x", "y"]
    names, units = statistics.patient_values(values, patients, classes)
    assert list(names) == ["a", "b", "c"]
    expected = (np.mean([0.2, 0.5]) + np.mean([0.4, 0.9, 0.7])) / 2
    assert units.mean() == pytest.approx(expected, abs=1e-14)
    assert np.isnan(statistics.patient_values([np.nan, np.nan], ["a", "b"], ["x", "x"])[1]).all()
    assert statistics.patient_values([], [], [])[1].shape == (0,)


def test_bootstrap_agrees_with_scipy() -> None:
    x = np.random.default_rng(2).gamma(2.0, size=80)
    ours = statistics.bootstrap_interval(x, n_boot=20000)
    theirs = sps.bootstrap(
        (x,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose(ours, theirs, atol=0.03 * width)
    assert ours == statistics.bootstrap_interval(x, n_boot=20000)
    assert np.isnan(statistics.bootstrap_interval([0.5])).all()


def test_sign_flip_agrees_with_scipy_and_with_its_own_enumeration() -> None:
    # Of the 8 sign patterns of (1, 2, 3) only +++ and --- reach a sum of 6.
    assert statistics.sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    x = np.random.default_rng(4).normal(0.4, 1, 12)
    exact = float(statistics.sign_flip_p(x))
    theirs = sps.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert exact == pytest.approx(theirs, abs=1e-12)
    sampled = float(statistics.sign_flip_p(x, n_flips=4000))
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000))


def test_crossed_with_one_seed_is_the_paired_t_test() -> None:
    x = np.random.default_rng(6).normal(0.2, 1, 20)
    for matrix in (x[None, :], x[:, None]):
        ours = statistics.crossed_effect(matrix)
        theirs = sps.ttest_1samp(x, 0)
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-10)
        np.testing.assert_allclose(ours[1:3], theirs.confidence_interval(), rtol=1e-10)


def test_crossed_of_additive_effects_by_hand() -> None:
    # No interaction: Var = var(seeds) / S + var(units) / U, exactly.
    seeds, units = np.array([0.0, 1.0, 5.0]), np.array([1.0, 2.0, 3.0, 10.0])
    ours = statistics.crossed_effect(seeds[:, None] + units[None, :])
    assert ours.estimate == pytest.approx(6.0)
    expected = seeds.var(ddof=1) / 3 + units.var(ddof=1) / 4
    assert ours.se**2 == pytest.approx(expected, rel=1e-12)
    parts = (seeds.var(ddof=1) / 3) ** 2 / 2 + (units.var(ddof=1) / 4) ** 2 / 3
    assert ours.df == pytest.approx(expected**2 / parts, rel=1e-12)


def drawn(
    seed: int, shape: tuple[int, int, int], run: float, patient: float
) -> dict[str, np.ndarray]:
    """Tests of no effect, where runs and patients differ by so many standard deviations."""
    rng = np.random.default_rng(seed)
    n, s, u = shape
    d = run * rng.standard_normal((n, s, 1)) + patient * rng.standard_normal((n, 1, u))
    return statistics.crossed(d + rng.standard_normal((n, s, u)))


@pytest.mark.parametrize(("run", "patient"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.0)])
def test_crossed_keeps_its_level_when_runs_differ(run: float, patient: float) -> None:
    out = drawn(7, (4000, 3, 40), run, patient)
    rate = (out["p"] < 0.05).mean()
    assert 0.02 < rate < 0.08
    covered = ((out["lo"] < 0) & (out["hi"] > 0)).mean()
    assert covered == pytest.approx(1 - rate)


@pytest.mark.parametrize(("run", "patient"), [(0.2, 0.5), (0.3, 0.5), (0.0, 0.5)])
def test_crossed_is_honest_where_holm_looks(run: float, patient: float) -> None:
    # Of small p values there were ten times too many while the term of the seeds was dropped
    # from the degrees of freedom wherever their mean square came out below the rest's.
    out = drawn(11, (20_000, 3, 48), run, patient)
    assert (out["p"] < 0.002).mean() < 0.01
    assert (out["df"] <= 3 * 48 - 1).all()


def test_a_class_of_few_patients_is_left_out() -> None:
    patients = ["a", "b", "c", "d", "e", "a", "a", "b", "c", "d", "d"]
    classes = ["x"] * 5 + ["y"] * 6
    assert statistics.seen_enough(patients, classes).tolist() == [True] * 5 + [False] * 6
    assert statistics.seen_enough(patients, classes, 4).all()
    assert statistics.seen_enough([], []).tolist() == []


def test_crossed_of_nothing_or_without_spread_claims_nothing() -> None:
    assert np.isnan(statistics.crossed_effect(np.array([[0.4]])).p)
    assert np.isnan(statistics.crossed_effect(np.full((3, 4), 0.4)).p)
    assert statistics.crossed_effect(np.zeros((3, 4))).p == 1.0
    assert np.isnan(statistics.crossed_effect(np.array([[0.1, np.nan], [0.2, 0.3]])).p)


def test_holm_by_hand() -> None:
    # 0.01*4, max(0.04, 0.02*3), max(., 0.03*2), max(., 0.5*1)
    adjusted = statistics.holm([0.5, 0.01, 0.03, np.nan, 0.02])
    np.testing.assert_allclose(adjusted, [0.5, 0.04, 0.06, np.nan, 0.06], atol=1e-15)
    assert np.isnan(statistics.holm([np.nan])).all()
    assert statistics.holm([0.6, 0.7]).max() == 1.0


def test_smallest_effect_is_found_with_the_power_it_names() -> None:
    rng, n = np.random.default_rng(9), 30
    mde = statistics.smallest_effect(1 / np.sqrt(n), n - 1)
    draws = rng.standard_normal((4000, 1, n)) + mde
    power = (statistics.crossed(draws)["p"] < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.02)
    assert np.isnan(statistics.smallest_effect(float("nan"), 3))
