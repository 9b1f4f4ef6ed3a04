"""The inner step of every stage, on the CPU and, where there is one, on a GPU.

Each test is a function of the device: the CPU keeps it from rotting where there is no GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dollkit import pretraining
from dollkit.classifiers.model import Classifier, create, evaluate, train
from dollkit.common import compute
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.explanations import cost
from dollkit.explanations.engine import integrated_gradients
from dollkit.explanations.ensemble import Explain
from dollkit.finetuning import run
from dollkit.interactive.your_radiographs import predict as ongrid
from dollkit.labels.make import make_labels
from dollkit.labels.steps import Distil
from dollkit.training import adapters, metrics
from dollkit.training.augment import Augmentation
from dollkit.training.fit import fit
from dollkit.training.recipe import Batch, Recipe
from tests import far, same, test_loop
from tests.small_run import CONFIG, CPU, ENCODER, label_some, make_store

MOVED = Augmentation(10, 0.1, 0.05, 0.1, 0.1)
EDEMA, FRACTURE = FINDINGS.index("Edema"), FINDINGS.index("Fracture")

gpu = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(compute.cuda_devices() == 0, reason="no CUDA device here"),
    ],
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["cpu", gpu])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("films") / "store", 40, PATHOLOGIES)


def recipe(**more: Any) -> Recipe:
    given = {"steps": 1, "batch": 4, "lr": 1e-3, "evaluate_every": 1, "precision": "float32"}
    return Recipe(**{**given, **more})  # type: ignore[arg-type]


@cache
def _classifier() -> Classifier:
    return create(ENCODER, 3, "silu", "lse", 0, CPU).eval()


def classifier(device: torch.device) -> Classifier:
    """The same weights on every device."""
    model = create(ENCODER, 3, "silu", "lse", 1, device)
    model.load_state_dict(_classifier().state_dict())
    return model.eval()


def exactly() -> AbstractContextManager[None]:
    """Convolutions on a GPU without TF32, whose sums have no other order in the next call."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)  # type: ignore[no-any-return]


def finite(tensors: dict[str, torch.Tensor], device: torch.device) -> bool:
    return all(t.device.type == device.type and bool(torch.isfinite(t).all())
               for t in tensors.values() if t.is_floating_point())  # fmt: skip


def test_a_classifier_takes_a_step_and_is_scored(device: torch.device, store: Store) -> None:
    for precision in ("float32", "bfloat16"):
        model = classifier(device)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        done = train(model, store, "U-Ones", recipe(precision=precision), MOVED, None, quiet=True)
        assert done.history[-1]["step"] == 1
        assert np.isfinite(done.history[-1]["train_loss"])
        assert finite(model.state_dict(), device)
        assert not same(model.state_dict(), before)
    scores = evaluate(model, store, "test", 5)
    assert scores["auroc"].between(0, 1).all()
    assert "macro" in scores["finding"].tolist()


@pytest.mark.parametrize(("precision", "most"), [("float32", 0.03), ("bfloat16", 0.25)])
def test_maps_are_those_of_the_cpu(
    device: torch.device, store: Store, precision: str, most: float
) -> None:
    targets, images = [[EDEMA], [FRACTURE, EDEMA], []], store.images[[0, 1, 2]]
    with exactly():
        there = integrated_gradients(
            classifier(device), compute.to_input(images, device), targets, steps=3,
            precision=precision,
        )  # fmt: skip
    here = integrated_gradients(
        _classifier(), compute.to_input(images, CPU), targets, steps=3, precision="float64"
    )
    assert there.maps.device.type == device.type
    assert far(there.maps.cpu(), here.maps) < most
    swapped = here.maps[[1, 2, 0]]
    assert far(swapped, here.maps) > 2 * most  # the tolerance tells maps apart


def test_a_film_is_labelled(device: torch.device, store: Store, tmp_path: Path) -> None:
    rows = np.flatnonzero(store.states[:, EDEMA] == 1)[:1]
    how = Explain(kind="black", steps=3, unsettled="keep")
    made = make_labels({"a": classifier(device)}, store, rows, how, Distil(), tmp_path, {"a": "0"})
    there = np.flatnonzero(store.states[rows[0]] == 1)
    assert sorted(made.pairs["finding"]) == sorted(FINDINGS[t] for t in there)
    assert set(np.unique(made.label(0))) <= {0, 1, IGNORE}
    assert (made.label(0) == 1).any()


def test_pretraining_takes_a_step(device: torch.device, store: Store, tmp_path: Path) -> None:
    labels = label_some(store, tmp_path / "labels")
    rows, held = pretraining.parts(store, labels)
    net = pretraining.network("pspnet", ENCODER, 3, "silu", "random", {}, 0, device)
    done = pretraining.pretrain(
        net, store, rows, held[:4], pretraining.targets_of("doll", store, labels, 0),
        recipe(precision="bfloat16"), background=0.5, dice=0.5, augmentation=MOVED, folder=None,
        truth=pretraining.truth_if_known(store, labels),
    )  # fmt: skip
    assert {"valid_loss", "valid_iou", "valid_true_iou"} <= set(done.history[-1])
    assert finite(net.state_dict(), device)


@pytest.mark.parametrize("tuning", adapters.TUNINGS)
def test_every_tuning_takes_a_step_and_is_counted(
    device: torch.device, store: Store, tuning: str
) -> None:
    pixels = store.masks(np.arange(40), ["Edema"])
    data = run.Films(store.images, pixels, store.films, ("Edema",))
    parts = run.split(store.films, 0, 4, 4, seed=0)
    job = run.Job("edema", "pspnet", "random", tuning, 4, 0, 0, 1e-3)
    made = run.run(
        job, data, parts, CONFIG, run.Start(lambda net: []), recipe(), MOVED, device,
        changes={"noise": [5.0]},
    )  # fmt: skip
    tp, fp, fn = made["counts"]
    assert tp.shape == (len(parts.test), 1)
    np.testing.assert_array_equal(tp + fn, pixels[parts.test].sum((-2, -1)))
    drawn = np.unpackbits(made["prediction"], axis=-1)
    np.testing.assert_array_equal(metrics.counts(drawn, pixels[parts.test])[1], fp)
    assert made["robust"].shape == (1, 3, len(parts.test), 1)
    if tuning == "full":
        assert run.step_mb(job, data, CONFIG, recipe(), device) > 0


def test_a_film_is_drawn_on_its_own_grid(device: torch.device, store: Store) -> None:
    net = pretraining.network("pspnet", ENCODER, 3, "silu", "random", {}, 0, CPU)
    film = ongrid.Film("a.png", 50, 64, store.images[0])
    here = ongrid.logits_of(net, [film], CPU)
    with exactly():
        there = ongrid.logits_of(net.to(device), [film], device)
    assert far(torch.from_numpy(there), torch.from_numpy(here)) < 1e-4
    (first, *_) = ongrid.drawn(there[0], film.height, film.width)
    assert first.mask.shape == (50, 64)


def test_cost_and_memory_are_measured(device: torch.device, store: Store) -> None:
    x = compute.to_input(store.images[[0, 1]], device)
    compute.reset_peak(device)
    (row,) = cost.use(
        {"a": classifier(device)}, x, [[EDEMA], []], precision="float32", steps=2, sides=[32],
        rounds=1,
    ).to_dict("records")  # fmt: skip
    assert row["seconds_per_pair"] > 0
    assert row["gflop_pair"] == pytest.approx(2 * (row["gflop_forward"] + row["gflop_backward"]))
    assert row["tflops"] == pytest.approx(row["gflop_pair"] / row["seconds_per_pair"] / 1e3)
    if device.type == "cuda":
        assert compute.peak_bytes(device) > x.numel() * 4
        compute.reset_peak(device)
        assert compute.peak_bytes(device) == compute.allocated_bytes(device) > 0
        assert compute.device_name()
    compute.synchronize(device)
    compute.release_memory(device)


def test_a_killed_run_ends_in_the_same_bits(device: torch.device, tmp_path: Path) -> None:
    def sample(step: int, killed_at: int = -1) -> Batch:
        if step == killed_at:
            raise test_loop.Killed
        batch = test_loop.draw(test_loop.recipe())(step)
        return tuple(tensor.to(device) for tensor in batch)

    def go(folder: Path, sample: Any) -> nn.Module:
        net = test_loop.small().to(device)
        fit(
            net, sample, test_loop.loss, test_loop.recipe(), folder=folder, quiet=True,
            evaluate=lambda m: {"score": -float(test_loop.loss(m, sample(0)))}, score="score",
        )  # fmt: skip
        return net

    with exactly():
        whole = go(tmp_path / "whole", sample)
        with pytest.raises(test_loop.Killed):
            go(tmp_path / "cut", partial(sample, killed_at=7))
        again = go(tmp_path / "cut", sample)
    assert not same(whole.state_dict(), test_loop.small().to(device).state_dict())
    assert same(again.state_dict(), whole.state_dict())
    assert finite(again.state_dict(), device)
