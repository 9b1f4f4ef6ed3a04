"""The phantom: primitives against closed forms, label logic, films, exact masks, its stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.common import findings
from dollkit.common.findings import FINDINGS, OPACITY_CHILDREN, PATHOLOGIES
from dollkit.data import build
from dollkit.data.phantom import population
from dollkit.data.phantom.canvas import MU_BONE, MU_SOFT
from dollkit.data.phantom.geometry import AXIS, Grid, generator
from dollkit.data.phantom.population import COHORTS, Protocol, sample_population
from dollkit.data.phantom.render import ORGANS, Films, render, transmit
from dollkit.data.sets import phantom
from dollkit.data.sets.phantom import CLASSES, PhantomPlan, phantom_films
from dollkit.data.store import open_store
from dollkit.training import metrics
from tests.small_files import error_of


def on_film(part: tuple[tuple[slice, slice], np.ndarray]) -> np.ndarray:
    """What a primitive draws in its window, on a whole film of 256 px."""
    full = np.zeros((256, 256), np.float32)
    full[part[0]] = part[1]
    return full


def test_ellipsoid_is_the_closed_form_chord() -> None:
    grid = Grid(256)
    centre, (a, b, c) = (0.05, -0.1), (0.2, 0.12, 0.3)
    full = on_film(grid.ellipsoid(centre, (a, b), c))
    i = (np.arange(256) + 0.5) / 256 - 0.5
    q = ((i - centre[0]) / a) ** 2 + ((i[:, None] - centre[1]) / b) ** 2
    np.testing.assert_allclose(full, 2 * c * np.sqrt(np.clip(1 - q, 0, None)), atol=2e-4)
    # The integral over the film is the volume.
    assert full.sum() / 256**2 == pytest.approx(4 / 3 * np.pi * a * b * c, rel=2e-3)


def test_straight_tube_is_the_chord_of_a_cylinder() -> None:
    grid, slope, r = Grid(256), 0.5, 0.05
    curve = (slope * AXIS).astype(np.float32)
    radius = np.full(AXIS.shape, r, np.float32)
    full = on_film(grid.graph_tube(1, curve, radius, (-0.3, 0.3)))
    inside = np.abs(grid.x) < 0.29
    distance = (grid.y - slope * grid.x) / np.sqrt(1 + slope**2)
    chord = 2 * np.sqrt(np.clip(r**2 - distance**2, 0, None))
    # The axis comes from a table with steps of 0.8e-3: away from the rim below 2 %.
    middle = inside & (np.abs(distance) < 0.8 * r)
    np.testing.assert_allclose(full[middle], chord[middle], rtol=0.03)
    assert full[np.abs(grid.x) > 0.31].max() == 0
    assert full[inside & (np.abs(distance) > 1.03 * r)].max() == 0


def test_gaussian_tube_has_its_peak_and_mass() -> None:
    grid, sigma = Grid(256), 0.02
    field = grid.gaussian_tube([(-0.3, 0.0), (0.3, 0.0)], sigma, 0.7)
    assert field[127:129, 128].mean() == pytest.approx(0.7, rel=0.01)
    cut = field[:, 128].sum() / 256
    assert cut == pytest.approx(0.7 * sigma * np.sqrt(2 * np.pi), rel=0.02)


def test_grid_and_pixels_are_inverse() -> None:
    grid = Grid(64, turn=-0.15, scale=0.9, shift=(0.03, -0.02))
    row, column = np.mgrid[:64, :64]
    np.testing.assert_allclose(grid.pixels(grid.x, grid.y), [column, row], atol=1e-3)


def test_slab_follows_beer_and_lambert() -> None:
    t = np.linspace(0, 3, 50, dtype=np.float32).reshape(5, 10)
    zero = np.zeros_like(t)
    for bone in (0.0, 0.1):
        slab = np.exp(-(MU_SOFT + bone * MU_BONE) * t)
        np.testing.assert_allclose(transmit(t, bone * t, zero), slab, rtol=1e-5)


def test_streams_depend_on_the_whole_key() -> None:
    keys = ((0, "a", 12), (0, "a1", 2), (1, "a", 12), (0, "a", 13))
    first, again = ([generator(*key).random() for key in keys] for _ in range(2))
    assert first == again
    assert len(set(first)) == 4


@pytest.fixture(scope="module")
def crowd() -> pd.DataFrame:
    return sample_population(6000, 3)


@pytest.mark.parametrize("cohort", COHORTS)
def test_logic_holds_in_every_row(cohort: str) -> None:
    rows = sample_population(800, 1, cohort)
    assert set(np.unique(rows[list(FINDINGS)])) <= {0, 1}
    child = rows[list(OPACITY_CHILDREN)].any(axis=1)
    assert rows.loc[child, "Lung Opacity"].all()
    assert rows.loc[rows["Cardiomegaly"] == 1, "Enlarged Cardiomediastinum"].all()
    ill = rows[list(PATHOLOGIES[:-1])].any(axis=1)  # all but Support Devices
    assert ((rows["No Finding"] == 1) == ~ill).all()
    assert rows["image_id"].is_unique
    assert (rows["infection"] == int(cohort == "covid")).all()
    if cohort == "covid":
        assert rows["Pneumonia"].all()


def test_ward_is_like_a_ward(crowd: pd.DataFrame) -> None:
    share = crowd[list(FINDINGS)].mean()
    assert share.min() > 0.11
    assert 0.13 < share["No Finding"] < 0.25
    assert 2.4 < crowd[list(FINDINGS)].to_numpy().sum(1).mean() < 3.5
    for f, p in Protocol().prevalence.items():
        if f not in ("Enlarged Cardiomediastinum", "Lung Opacity"):
            assert share[f] == pytest.approx(p, abs=0.04), f
    sick = crowd["Edema"] == 1
    # Devices go with edema and with the AP view, neither perfectly.
    for one, other in ((sick, crowd["Support Devices"]), (crowd["view"] == "AP", sick)):
        with_, without = other[one].mean(), other[~one].mean()
        assert 0.05 < without < with_ - 0.05 < 0.85
    assert (crowd.groupby("patient_id")["sex"].nunique() == 1).all()
    assert crowd.groupby("patient_id").size().between(1, 5).all()
    assert crowd.groupby("patient_id").size().mean() > 1.5


def test_populations_are_nested_and_cohorts_disjoint(crowd: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(sample_population(50, 3), crowd.head(50))
    assert not sample_population(50, 4)[list(FINDINGS)].equals(crowd.head(50)[list(FINDINGS)])
    ids = [set(sample_population(60, 3, c)["patient_id"]) for c in COHORTS]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert len(sample_population(0, 3)) == 0


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_noise_comes_at_the_rates_of_the_counts(crowd: pd.DataFrame, noise: float) -> None:
    true = crowd[list(FINDINGS)].to_numpy()
    states = population.observe_labels(true, 5, Protocol(label_noise=noise))
    np.testing.assert_array_equal(
        states, population.observe_labels(true, 5, Protocol(label_noise=noise))
    )

    def near(hits: np.ndarray, p: float) -> None:
        # Four standard deviations of the binomial; exact where p is 0 or 1.
        assert abs(hits.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(hits)) + 1e-12

    for k, finding in enumerate(FINDINGS):
        uncertain, blank = population.rates(finding)
        near(states[:, k] == findings.UNCERTAIN, noise * uncertain)
        sure = states[:, k] != findings.UNCERTAIN
        near(states[sure & (true[:, k] == 0), k] == findings.NOT_MENTIONED, noise * blank)
        positive = sure & (true[:, k] == 1)
        assert (states[positive, k] == 1).all()
    assert set(np.unique(states[:, 0])) <= {1, 0, findings.NOT_MENTIONED}


def test_rates_follow_from_the_counts() -> None:
    blank = 223414 - 19448 - 56341 - 3145
    assert population.rates("Pneumothorax") == (3145 / 223414, blank / (blank + 56341))
    assert population.rates("No Finding") == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sample_population(1, 0, "zoo"), "zoo"),
        (lambda: Protocol(label_noise=1.5), "label_noise"),
        (lambda: Protocol(contrast={"Cough": 1.0}), "Cough"),
        (lambda: Protocol.from_json({"contrst": 1}), "contrst"),
        (lambda: population.observe_labels(np.zeros((3, 13)), 0), "13"),
        (lambda: render(sample_population(1, 0), 65, 0), "'size'"),
        (lambda: render(sample_population(1, 0), 1032, 0), "'size'"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], words: str) -> None:
    assert words in error_of(call)


@pytest.fixture(scope="module")
def ward() -> pd.DataFrame:
    return sample_population(420, 11)


@pytest.fixture(scope="module")
def films(ward: pd.DataFrame) -> Films:
    return render(ward, 64, 11)


def test_a_film_does_not_depend_on_batch_or_order(ward: pd.DataFrame, films: Films) -> None:
    order = [5, 0, 17, 3]
    some = render(ward.iloc[order], 64, 11)
    for part in ("images", "findings", "organs"):
        np.testing.assert_array_equal(getattr(some, part), getattr(films, part)[order])
    for k in order:
        np.testing.assert_array_equal(render(ward.iloc[[k]], 64, 11).images[0], films.images[k])
    assert (render(ward.head(1), 64, 12).images[0] != films.images[0]).mean() > 0.5


@pytest.mark.parametrize("cohort", COHORTS)
def test_masks_are_there_exactly_where_labels_are_positive(cohort: str) -> None:
    rows = sample_population(120, 2, cohort)
    out = render(rows, 64, 2)
    np.testing.assert_array_equal(out.findings.any((2, 3)), rows[list(PATHOLOGIES)] == 1)
    np.testing.assert_array_equal(out.infection.any((1, 2)), rows["infection"] == 1)
    assert set(np.unique(out.findings)) == {0, 1}
    assert out.organs.any((2, 3)).all()


def test_lung_opacity_is_the_union_of_its_children(ward: pd.DataFrame, films: Films) -> None:
    union = films.findings[:, [PATHOLOGIES.index(child) for child in OPACITY_CHILDREN]].max(1)
    own = films.findings[:, PATHOLOGIES.index("Lung Opacity")]
    assert (own >= union).all()
    has_child = ward[list(OPACITY_CHILDREN)].any(axis=1).to_numpy()
    np.testing.assert_array_equal(own[has_child], union[has_child])


def test_organs_lie_where_they_belong(ward: pd.DataFrame, films: Films) -> None:
    column = np.arange(64)
    centre = (films.organs * column).sum((2, 3)) / films.organs.sum((2, 3))
    at = dict(zip(ORGANS, centre.T, strict=True))
    # The patient's left is on the right of the picture.
    assert ((at["left lung"] > at["heart"]) & (at["heart"] > at["right lung"])).all()
    assert (at["left clavicle"] > at["right clavicle"]).all()
    lungs, heart = films.organs[:, :2].any(1), films.organs[:, 2].astype(bool)
    assert not (lungs & heart).any()
    # Lungs dark, heart bright, as displayed, on films without pathology.
    well = (ward["No Finding"] == 1).to_numpy()
    for image, lung, h in zip(films.images[well], lungs[well], heart[well], strict=True):
        assert image[lung].mean() + 20 < image[h].mean()


def test_cardiothoracic_ratio_tells_cardiomegaly(ward: pd.DataFrame) -> None:
    rows = ward.head(120)
    out = render(rows, 128, 11, Protocol(turn=0.0))

    def width(mask: np.ndarray) -> np.ndarray:
        some = mask.any(1)
        return some.shape[1] - some.argmax(1) - some[:, ::-1].argmax(1)

    ratio = width(out.organs[:, 2]) / width(out.organs[:, :2].any(1))
    large = (rows["Cardiomegaly"] == 1).to_numpy()
    assert ratio[large].min() > 0.53
    assert ratio[~large].max() < 0.54
    assert np.median(ratio[large]) > 0.58 > 0.5 > np.median(ratio[~large])


def test_mean_mask_prior_fails_on_mobile_findings(ward: pd.DataFrame, films: Films) -> None:
    patients = ward["patient_id"].to_numpy()
    for finding in findings.MOBILE:
        positive = (ward[finding] == 1).to_numpy()
        masks = films.findings[positive, PATHOLOGIES.index(finding)]
        prior = metrics.prior_maps(masks, patients[positive])
        assert metrics.iou_matched(prior, masks).mean() <= 0.35, finding


SMALL: dict[str, Any] = {"n_films": 40, "n_train_pool": 4, "n_valid": 2, "n_test": 3}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("phantom")
    return build("phantom", "", out, 64, seed=5, phantom=SMALL, workers=1)


def test_classes_and_numbers_per_split_are_exact(stores: dict[str, Path]) -> None:
    assert list(stores) == list(CLASSES)
    for name, path in stores.items():
        store = open_store(path)
        assert store.mask_classes == CLASSES[name]
        films = store.films
        counts = (28, 4, 8) if name == "films" else (4, 2, 3)
        assert tuple(films["split"].value_counts()[["train", "valid", "test"]]) == counts
        assert (films["fold"] == (-1 if name == "films" else 0)).all()
        assert films.groupby("patient_id")["split"].nunique().max() == 1
    patients = [set(open_store(p).films["patient_id"]) for p in stores.values()]
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_pixels_and_masks_are_the_phantoms(stores: dict[str, Path]) -> None:
    for name, path in stores.items():
        store = open_store(path)
        population = sample_population(200, 5, phantom.COHORT_OF[name]).set_index("image_id")
        rows = [0, len(store) - 1]
        drawn = render(population.loc[store.films["image_id"].iloc[rows]].reset_index(), 64, 5)
        np.testing.assert_array_equal(store.images[rows], drawn.images)
        truth = {
            "films": drawn.findings,
            "lungs": drawn.organs[:, :2].max(axis=1, keepdims=True),
            "infection": drawn.infection[:, None],
            "organs": drawn.organs,
        }[name]
        np.testing.assert_array_equal(store.masks(rows), truth)
        assert store.mask_valid(slice(None)).all()


def test_label_noise_spares_the_test_split() -> None:
    clean, _ = phantom_films("films", PhantomPlan(n_films=400), 3)
    noisy, _ = phantom_films("films", PhantomPlan(n_films=400, protocol={"label_noise": 1.0}), 3)
    pd.testing.assert_series_equal(clean["image_id"], noisy["image_id"])
    columns = list(FINDINGS)
    test = clean["split"] == "test"
    pd.testing.assert_frame_equal(clean.loc[test, columns], noisy.loc[test, columns])
    values = noisy.loc[~test, columns]
    assert (values == findings.UNCERTAIN).mean(axis=None) > 0.01
    assert values.isna().mean(axis=None) > 0.3
    assert clean.loc[~test, columns].isin([0, 1]).all(axis=None)


def test_quotas_by_hand() -> None:
    patients = pd.Series(list("aabbbccde"))
    split = phantom.fill_quotas(patients, {"train": 3, "valid": 1, "test": 2})
    assert split.tolist() == ["train", "train", "train", "", "", "valid", "", "test", "test"]
    for quotas in ({"train": 8, "test": 2}, {"train": 9, "test": 1}):
        assert "9 films are too few" in error_of(phantom.fill_quotas, patients, quotas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_films": 3}, "'n_films' is 3: too few"),
        ({"test_fraction": 1.5}, "'test_fraction' is 1.5: use a share"),
        ({"n_filns": 4}, "'phantom' has no 'n_filns': use n_films, "),
    ],
)
def test_bad_plans(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    assert message in error_of(build, "phantom", "", tmp_path, 64, phantom=values)
