"""What each pre-training arm is taught, its labels, equal budgets, repeated pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from dollkit import common, pretraining
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.common.machine import sha256
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.labels import make
from dollkit.labels.maps_to_labels import LabelSettings
from dollkit.labels.store import LabelStore
from dollkit.training.augment import NONE
from dollkit.training.classifiers import load_classifiers
from dollkit.training.loss_and_optimiser import Recipe
from tests.label_films import write_models
from tests.small_files import error_of
from tests.small_run import CPU, ENCODER, label_some, make_store, save_network

Labelled = tuple[Store, LabelStore, dict[str, Path]]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("films") / "films", 40, PATHOLOGIES)


@pytest.fixture(scope="module")
def labelled(films: Store, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Films, their labels, and the folders of the two classifiers that made them."""
    store, tmp_path = films, tmp_path_factory.mktemp("labelled")
    models = write_models(tmp_path / "models")
    folders = {name: models / name for name in "ab"}
    hashes = {n: sha256(f / "weights.safetensors") for n, f in folders.items()}
    how = make.ExplainerSettings(kind="black", most_steps=6, unsettled="keep")
    made_of = load_classifiers(folders, CPU), store, make.rows_to_label(store, 8, 4), how
    labels = make.make_labels(*made_of, LabelSettings(), tmp_path / "labels", hashes)
    return store, labels, folders


@pytest.fixture(scope="module")
def edema(films: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, LabelStore]:
    """Films with true masks, and those of Edema as labels."""
    return films, label_some(films, tmp_path_factory.mktemp("edema") / "labels")


def test_arms_differ_in_their_targets(edema: tuple[Store, LabelStore], tmp_path: Path) -> None:
    store, labels = edema
    rows, c = np.concatenate(pretraining.parts(store, labels)), FINDINGS.index("Edema")
    doll, truth, shuffled, prior = (
        pretraining.targets_of(arm, store, labels, 0)(rows)
        for arm in ("doll", "truth", "shuffled", "prior")
    )
    np.testing.assert_array_equal(doll[:, c], truth[:, c])
    assert (truth[:, 0] == IGNORE).all()  # No Finding has no place
    assert not (shuffled == doll).all((1, 2, 3)).any()  # nobody keeps its own label
    assert sorted(s.sum() for s in shuffled[:, c]) == sorted(d.sum() for d in doll[:, c])
    # No label crosses the splits; the prior is of other training films.
    for part in pretraining.parts(store, labels):
        inside = np.isin(rows, part)
        assert sorted(s.sum() for s in shuffled[inside, c]) == sorted(doll[inside, c].sum((1, 2)))
    train, held = pretraining.parts(store, labels)
    for row in (train[0], train[1], held[0]):
        mean = doll[np.isin(rows, train[train != row]), c].mean(0)
        cut = mean > np.quantile(mean, 1 - mean.mean())
        np.testing.assert_array_equal(prior[rows == row, c][0], cut)
    assert 0 < prior[:, c].mean() < 0.3
    assert "'dolls'" in error_of(pretraining.targets_of, "dolls", store, labels, 0)
    bare = make_store(tmp_path, 12, ("Edema",))
    assert pretraining.truth_if_known(bare) is None
    assert "phantom only" in error_of(pretraining.targets_of, "truth", bare, labels, 0)


def test_pretraining_learns_its_labels(
    device: torch.device, edema: tuple[Store, LabelStore]
) -> None:
    store, labels = edema
    rows, held = pretraining.parts(store, labels)
    assert not set(rows) & set(held)
    net = pretraining.network("pspnet", ENCODER, 2, "silu", "random", {}, 0, device)
    recipe = Recipe(steps=60, batch=8, lr=3e-3, evaluate_every=60, precision="float32")
    done = pretraining.pretrain(
        net, store, rows, held, pretraining.targets_of("doll", store, labels, 0), recipe,
        background=0.5, dice=0.5, augmentation=NONE, folder=None,
        truth=pretraining.truth_if_known(store),
    )  # fmt: skip
    last = done.history[-1]
    assert last["valid_iou"] > 0.5
    # Edema is where its labels are; other findings have true masks and no labels.
    assert last["valid_true_iou"] < last["valid_iou"]


def test_arms_differ_in_one_step_of_their_labels(tmp_path: Path, labelled: Labelled) -> None:
    store, labels, folders = labelled
    # Kept are the best weights, not the last.
    for name, best, last in (("a", 0.7, 0.69), ("b", 0.8, 0.6)):
        text = f"step,valid_auroc\n8,{best}\n16,{last}\n"
        (folders[name] / "history.csv").write_text(text)
    own = {
        arm: pretraining.labels_of(arm, store, labels, folders, tmp_path / arm, CPU)
        for arm in common.OWN_LABELS
    }
    want = {"gradcam": {"explain"}, "single": {"classifiers"}, "plain": {"distil"}}
    for arm, made in own.items():
        assert made.pairs[["row", "finding"]].equals(labels.pairs[["row", "finding"]])
        parts = ("explain", "distil", "classifiers")
        assert {p for p in parts if made.meta[p] != labels.meta[p]} == want[arm]
    assert list(own["single"].meta["classifiers"]) == ["b"]
    assert pretraining.labels_of("doll", store, labels, folders, tmp_path, CPU) is labels
    rows, _ = pretraining.parts(store, labels)
    taught = {
        arm: pretraining.targets_of(arm, store, own.get(arm, labels), 0)(rows)
        for arm in common.PRETRAINED
    }
    like = {name: [a for a in taught if np.array_equal(taught[a], taught[name])]
            for name in ("doll", "shuffled")}  # fmt: skip
    assert like["doll"] == ["doll", "doll_imagenet", "doll_random"]
    assert like["shuffled"] == ["shuffled", "shuffled_random"]


def test_what_an_arm_is_taught_is_held_against_the_truth(labelled: Labelled) -> None:
    store, labels, _ = labelled
    rows, _ = pretraining.parts(store, labels)
    truth = pretraining.truth_if_known(store)
    assert truth is not None
    assert pretraining.taught_iou(truth, truth, rows) == 1.0

    def half(asked: Any) -> npt.NDArray[np.uint8]:
        out = truth(asked)
        out[..., ::2] = IGNORE  # not drawn, not an error of its own
        return out

    # By hand: share of the truth that half keeps, per film and finding, films first.
    whole, kept = (masks(rows) == 1 for masks in (truth, half))
    area = pd.DataFrame(whole.sum((2, 3))).replace(0, np.nan)
    expected = (kept.sum((2, 3)) / area).mean().mean()  # no finding without a place counts
    assert pretraining.taught_iou(half, truth, rows) == pytest.approx(expected)


def test_labels_of_an_arm_go_on_and_want_what_they_are_made_from(
    tmp_path: Path, labelled: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, labels, folders = labelled
    for folder in folders.values():
        (folder / "history.csv").unlink(missing_ok=True)
    given = ("single", store, labels, folders, tmp_path, CPU)
    assert "history.csv: no validation AUROC" in error_of(pretraining.labels_of, *given)
    given = ("gradcam", store, labels, {"a": folders["a"]}, tmp_path, CPU)
    assert "'b', which is missing" in error_of(pretraining.labels_of, *given)
    pretraining.labels_of("gradcam", store, labels, folders, tmp_path / "cam", CPU)
    monkeypatch.setattr(make, "explain_all", lambda *_: 1 / 0)  # no shard is made again
    pretraining.labels_of("gradcam", store, labels, folders, tmp_path / "cam", CPU)


def test_starts_that_are_refused() -> None:
    for start, said in (
        ("doll", "'start' is 'doll'"), ("classifier", "no classifier of that"),
        ("imagenet", "'start' is 'imagenet': no weights"),
    ):  # fmt: skip
        given = ("pspnet", ENCODER, 3, "silu", start, {}, 0, CPU)
        assert said in error_of(pretraining.network, *given)


def test_folders_of_an_arm_and_what_is_left_of_more(tmp_path: Path) -> None:
    made = [save_network(folder) for folder in pretraining.folders_of(tmp_path / "doll", 12)]
    assert made[0] == tmp_path / "doll"
    assert pretraining.made_in(tmp_path / "doll") == made  # repeat10 after repeat9
    assert pretraining.folders_of(tmp_path / "doll", 2) == made[:2]
    assert not made[5].exists()
    # One that a killed run had only begun holds no network.
    (tmp_path / "doll" / "repeat2").mkdir()
    assert pretraining.made_in(tmp_path / "doll") == made[:2]
