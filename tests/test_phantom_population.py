"""CheXpert's label logic, patients, and label noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import (
    FINDINGS,
    NOT_MENTIONED,
    OPACITY_CHILDREN,
    PATHOLOGIES,
    UNCERTAIN,
)
from dollkit.data.phantom.population import (
    CHEXPERT_COUNTS,
    CHEXPERT_ROWS,
    COHORTS,
    Protocol,
    observe_labels,
    rates,
    sample_population,
)


@pytest.fixture(scope="module")
def ward() -> pd.DataFrame:
    return sample_population(6000, 3)


@pytest.mark.parametrize("cohort", COHORTS)
def test_logic_holds_in_every_row(cohort: str) -> None:
    rows = sample_population(800, 1, cohort)
    assert set(np.unique(rows[list(FINDINGS)])) <= {0, 1}
    child = rows[list(OPACITY_CHILDREN)].any(axis=1)
    assert rows.loc[child, "Lung Opacity"].all()
    assert rows.loc[rows["Cardiomegaly"] == 1, "Enlarged Cardiomediastinum"].all()
    ill = rows[[f for f in PATHOLOGIES if f != "Support Devices"]].any(axis=1)
    assert ((rows["No Finding"] == 1) == ~ill).all()
    assert rows["image_id"].is_unique
    assert (rows["infection"] == int(cohort == "covid")).all()
    if cohort == "covid":
        assert rows["Pneumonia"].all()


def test_ward_is_like_a_ward(ward: pd.DataFrame) -> None:
    share = ward[list(FINDINGS)].mean()
    assert share.min() > 0.11
    assert 0.13 < share["No Finding"] < 0.25
    assert 2.4 < ward[list(FINDINGS)].to_numpy().sum(1).mean() < 3.5
    for f, p in Protocol().prevalence.items():
        if f not in ("Enlarged Cardiomediastinum", "Lung Opacity"):
            assert share[f] == pytest.approx(p, abs=0.04), f
    sick = ward["Edema"] == 1
    # Devices go with edema and with the AP view, neither perfectly.
    for one, other in ((sick, ward["Support Devices"]), (ward["view"] == "AP", sick)):
        with_, without = other[one].mean(), other[~one].mean()
        assert without + 0.05 < with_ < 0.9
        assert without > 0.05
    assert (ward.groupby("patient_id")["sex"].nunique() == 1).all()
    assert ward.groupby("patient_id").size().between(1, 5).all()
    assert ward.groupby("patient_id").size().mean() > 1.5


def test_populations_are_nested_and_cohorts_disjoint(ward: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(sample_population(50, 3), ward.head(50))
    assert not sample_population(50, 4)[list(FINDINGS)].equals(ward.head(50)[list(FINDINGS)])
    ids = [set(sample_population(60, 3, c)["patient_id"]) for c in COHORTS]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert len(sample_population(0, 3)) == 0


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_noise_comes_at_the_rates_of_the_counts(ward: pd.DataFrame, noise: float) -> None:
    true = ward[list(FINDINGS)].to_numpy()
    states = observe_labels(true, 5, Protocol(label_noise=noise))
    np.testing.assert_array_equal(states, observe_labels(true, 5, Protocol(label_noise=noise)))

    def near(hits: np.ndarray, p: float) -> None:
        # Four standard deviations of the binomial; exact where p is 0 or 1.
        assert abs(hits.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(hits)) + 1e-12

    for k, finding in enumerate(FINDINGS):
        uncertain, blank = rates(finding)
        near(states[:, k] == UNCERTAIN, noise * uncertain)
        sure = states[:, k] != UNCERTAIN
        near(states[sure & (true[:, k] == 0), k] == NOT_MENTIONED, noise * blank)
        positive = sure & (true[:, k] == 1)
        assert (states[positive, k] == 1).all()
    assert set(np.unique(states[:, 0])) <= {1, 0, NOT_MENTIONED}


def test_rates_follow_from_the_counts() -> None:
    assert tuple(CHEXPERT_COUNTS) == PATHOLOGIES
    assert rates("Pneumonia")[0] == pytest.approx(18770 / 223414)
    blank = CHEXPERT_ROWS - 19448 - 56341 - 3145
    assert rates("Pneumothorax")[1] == pytest.approx(blank / (blank + 56341))
    assert rates("No Finding") == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sample_population(-1, 0), "'n'"),
        (lambda: sample_population(1, 0, "zoo"), "zoo"),
        (lambda: Protocol(label_noise=1.5), "label_noise"),
        (lambda: Protocol(contrast={"Cough": 1.0}), "Cough"),
        (lambda: Protocol.from_json({"contrst": 1}), "contrst"),
        (lambda: observe_labels(np.zeros((3, 13)), 0), "13"),
    ],
)
def test_bad_input_is_one_line(call, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
