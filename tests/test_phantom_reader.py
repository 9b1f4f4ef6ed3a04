"""Stores from the phantom: exact masks, exact numbers, the same whatever the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.data import build
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.render import render
from dollkit.data.sets import phantom
from dollkit.data.sets.phantom import CLASSES, PhantomPlan, phantom_films
from dollkit.data.store import open_store
from tests.phantom_layouts import write_tree

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
    assert (values == UNCERTAIN).mean(axis=None) > 0.01
    assert values.isna().mean(axis=None) > 0.3
    assert clean.loc[~test, columns].isin([0, 1]).all(axis=None)


def test_quotas_by_hand() -> None:
    patients = pd.Series(list("aabbbccde"))
    split = phantom.fill_quotas(patients, {"train": 3, "valid": 1, "test": 2})
    assert split.tolist() == ["train", "train", "train", "", "", "valid", "", "test", "test"]
    for train, test in ((8, 2), (9, 1)):
        with pytest.raises(InputError, match="9 films are too few"):
            phantom.fill_quotas(patients, {"train": train, "test": test})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_films": 3}, "'n_films' is 3: too few"),
        ({"test_fraction": 1.5}, "'test_fraction' is 1.5: use a share"),
        ({"n_filns": 4}, "'phantom' has no 'n_filns': use n_films, "),
    ],
)
def test_bad_plans(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("phantom", "", tmp_path, 64, phantom=values)


def test_tree_on_disk_reads_like_chexpert(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", 24, 64, 5, valid_fraction=0.3)
    store = open_store(build("chexpert", tmp_path / "tree", tmp_path / "out", 64)["films"])
    assert len(store) == 24
    assert set(store.films["split"]) >= {"train", "test"}
    population = sample_population(24, 5).set_index("image_id")
    rows = population.loc[store.films["image_id"]].reset_index()
    drawn = render(rows, 64, 5)
    off = np.abs(store.images.astype(int) - drawn.images).mean(axis=(1, 2))
    assert off.max() < 3  # JPEG
    np.testing.assert_array_equal(store.masks(slice(None)), drawn.findings)
    np.testing.assert_array_equal(store.mask_valid(slice(None)), drawn.findings.any(axis=(2, 3)))
    for column in ("patient_id", "study_id", "view", "sex", "age"):
        assert store.films[column].tolist() == rows[column].tolist()
    np.testing.assert_array_equal(store.states == 1, rows[list(FINDINGS)] == 1)
