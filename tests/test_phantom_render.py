"""Films: seeding, masks, sizes, anatomy, difficulty for a prior."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import MOBILE, OPACITY_CHILDREN, PATHOLOGIES
from dollkit.data.phantom.population import COHORTS, Protocol, sample_population
from dollkit.data.phantom.render import ORGANS, Films, render


@pytest.fixture(scope="module")
def ward() -> pd.DataFrame:
    return sample_population(420, 11)


@pytest.fixture(scope="module")
def films(ward: pd.DataFrame) -> Films:
    return render(ward, 64, 11)


def test_a_film_does_not_depend_on_batch_or_order(ward: pd.DataFrame, films: Films) -> None:
    order = [5, 0, 17, 3]
    some = render(ward.iloc[order], 64, 11)
    for i, k in enumerate(order):
        alone = render(ward.iloc[[k]], 64, 11)
        np.testing.assert_array_equal(alone.images[0], films.images[k])
        np.testing.assert_array_equal(some.images[i], films.images[k])
        np.testing.assert_array_equal(some.findings[i], films.findings[k])
        np.testing.assert_array_equal(some.organs[i], films.organs[k])
    assert (render(ward.head(1), 64, 12).images[0] != films.images[0]).mean() > 0.5


def test_masks_are_there_exactly_where_labels_are_positive(
    ward: pd.DataFrame, films: Films
) -> None:
    present = films.findings.any((2, 3))
    np.testing.assert_array_equal(present, ward[list(PATHOLOGIES)].to_numpy() == 1)
    assert set(np.unique(films.findings)) == {0, 1}
    assert films.organs.any((2, 3)).all()
    assert not films.infection.any()


@pytest.mark.parametrize("cohort", COHORTS[1:])
def test_other_cohorts_keep_the_same_promise(cohort: str) -> None:
    rows = sample_population(40, 2, cohort)
    out = render(rows, 64, 2)
    np.testing.assert_array_equal(out.findings.any((2, 3)), rows[list(PATHOLOGIES)].to_numpy() == 1)
    np.testing.assert_array_equal(out.infection.any((1, 2)), rows["infection"] == 1)


def test_lung_opacity_is_the_union_of_its_children(ward: pd.DataFrame, films: Films) -> None:
    union = np.zeros_like(films.infection)
    for child in OPACITY_CHILDREN:
        union |= films.findings[:, PATHOLOGIES.index(child)]
    own = films.findings[:, PATHOLOGIES.index("Lung Opacity")]
    assert (own >= union).all()
    has_child = ward[list(OPACITY_CHILDREN)].any(axis=1).to_numpy()
    np.testing.assert_array_equal(own[has_child], union[has_child])


def test_organs_lie_where_they_belong(ward: pd.DataFrame, films: Films) -> None:
    column = np.arange(64)
    centre = (films.organs * column).sum((2, 3)) / films.organs.sum((2, 3))
    at = dict(zip(ORGANS, centre.T, strict=True))
    # The patient's left is on the right of the picture.
    assert (at["left lung"] > at["heart"]).all()
    assert (at["heart"] > at["right lung"]).all()
    assert (at["left clavicle"] > at["right clavicle"]).all()
    lungs, heart = films.organs[:, :2].any(1), films.organs[:, 2].astype(bool)
    assert not (lungs & heart).any()
    # Lungs dark, heart bright, as displayed, on films without pathology.
    well = (ward["No Finding"] == 1).to_numpy()
    for image, lung, h in zip(films.images[well], lungs[well], heart[well], strict=True):
        assert image[lung].mean() + 20 < image[h].mean()


def test_cardiothoracic_ratio_tells_cardiomegaly(ward: pd.DataFrame) -> None:
    still = Protocol(turn=0.0)
    rows = ward.head(120)
    out = render(rows, 128, 11, still)

    def width(mask: np.ndarray) -> np.ndarray:
        some = mask.any(1)
        return some.shape[1] - some.argmax(1) - some[:, ::-1].argmax(1)

    ratio = width(out.organs[:, 2]) / width(out.organs[:, :2].any(1))
    large = (rows["Cardiomegaly"] == 1).to_numpy()
    assert ratio[large].min() > 0.53
    assert ratio[~large].max() < 0.54
    assert np.median(ratio[large]) > 0.58
    assert np.median(ratio[~large]) < 0.5


def test_mean_mask_prior_fails_on_mobile_findings(ward: pd.DataFrame, films: Films) -> None:
    patients = ward["patient_id"].to_numpy()
    train = np.isin(patients, np.unique(patients)[::2])
    for finding in MOBILE:
        k = PATHOLOGIES.index(finding)
        masks = films.findings[:, k].reshape(len(ward), -1).astype(bool)
        positive = (ward[finding] == 1).to_numpy()
        order = np.argsort(-masks[train & positive].mean(0), kind="stable")
        iou = []
        for truth in masks[~train & positive]:
            guess = np.zeros_like(truth)
            guess[order[: truth.sum()]] = True
            iou.append((guess & truth).sum() / (guess | truth).sum())
        assert np.mean(iou) <= 0.35, finding


@pytest.mark.parametrize("size", [65, 1032])
def test_bad_sizes_are_refused(ward: pd.DataFrame, size: int) -> None:
    with pytest.raises(InputError, match="'size'"):
        render(ward.head(1), size, 0)
