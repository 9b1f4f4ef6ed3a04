"""Classifiers of the findings, and what a linear model and the anatomy alone can do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dollkit.classifiers.model import (
    Classifier,
    create,
    difficulty,
    evaluate,
    load_classifier,
    thumbnails,
    train,
    transfer_encoder,
)
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.training import networks, weights
from dollkit.training.augment import NONE
from dollkit.training.recipe import Recipe
from tests import far, same
from tests.small_run import CONFIG, CPU, ENCODER, films_table, make_store


def test_classifier_learns_and_scores(device: torch.device, tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 80, PATHOLOGIES)
    model = create(ENCODER, 3, "silu", "lse", 0, device)
    recipe = Recipe(steps=50, batch=16, lr=3e-3, evaluate_every=25, precision="float32")
    train(model, store, "U-Ones", recipe, NONE, None, quiet=True)
    table = evaluate(model, store, "test", 50).set_index("finding")
    assert table.loc["Edema", "auroc"] > 0.95  # the square is Edema, the other labels are coins
    assert table.loc["Fracture", "auroc"] < 0.9
    inner = table.drop(index=["macro", "No Finding"], errors="ignore")["auroc"]
    assert table.loc["macro", "auroc"] == pytest.approx(inner.mean())
    weights.save(model, tmp_path, model.config)
    again = load_classifier(tmp_path, device)
    assert same(again.state_dict(), model.state_dict())
    x = torch.randn(2, 1, 64, 64, device=device)
    with torch.no_grad():
        assert far(again(x), model.eval()(x)) < 1e-4
    with pytest.raises(InputError, match="'small' is 64"):
        train(model, store, "U-Ones", recipe, NONE, None, small=64)


def test_backbone_moves_whole_or_not_at_all() -> None:
    model = Classifier(ENCODER, 5, "silu", "lse")
    net = networks.build("pspnet", classes=2, **CONFIG)  # type: ignore[arg-type]
    copied = transfer_encoder(net, model)
    own = model.state_dict()
    assert set(copied) == {k for k in net.state_dict() if k.startswith("encoder.")}
    assert all(torch.equal(net.state_dict()[k], own[k]) for k in copied)
    with pytest.raises(InputError, match=r"the classifier \(resnet18\).*same architecture"):
        transfer_encoder(net, Classifier("resnet18", 5, "silu", "lse"))
    with pytest.raises(InputError, match="activation is 'relu'"):
        transfer_encoder(net, Classifier(ENCODER, 5, "relu", "lse"))


def test_bad_weights_are_named(tmp_path: Path) -> None:
    model = Classifier(ENCODER, 3, "silu", "lse")
    with pytest.raises(InputError, match="no readable network"):
        load_classifier(tmp_path, CPU)
    with torch.no_grad():
        model.head.bias[3] = float("nan")  # type: ignore[index]
    weights.save(model, tmp_path, model.config)
    with pytest.raises(InputError, match=r"head.bias holds NaN"):
        load_classifier(tmp_path, CPU)


def test_bad_classifiers_are_named() -> None:
    for architecture, activation, pooling, said in (
        ("resnet19", "silu", "lse", "resnet19"), (ENCODER, "gelu", "lse", "activation"),
        (ENCODER, "silu", "max", "pooling"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Classifier(architecture, 5, activation, pooling)


def test_thumbnails_are_block_means() -> None:
    image = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32)
    made = thumbnails(image)
    assert made.shape == (1, 256)
    assert made[0, 0] == pytest.approx(image[0, :2, :2].mean())
    assert made[0, 17] == pytest.approx(image[0, 2:4, 2:4].mean())


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Edema brightens one corner; Fracture is a coin; both have the same fixed mask."""
    n, path = 160, tmp_path_factory.mktemp("corner") / "films"
    rng = np.random.default_rng(0)
    table = films_table(n)
    images = rng.integers(0, 60, (n, 32, 32)).astype(np.uint8)
    images[(table["Edema"] == 1).to_numpy(), :8, :8] += 60
    masks = np.zeros((n, len(PATHOLOGIES), 32, 32), np.uint8)
    for f in ("Edema", "Fracture"):
        masks[(table[f] == 1).to_numpy(), PATHOLOGIES.index(f), :8, :8] = 1
    with StoreWriter(path, 32, list(PATHOLOGIES), {"test": 1}) as out:
        out.write(images, masks, np.ones((n, len(PATHOLOGIES)), bool))
        out.finish(table)
    return open_store(path)


def test_the_probe_finds_what_is_linear_and_the_prior_what_never_moves(corner: Store) -> None:
    table = difficulty(corner).set_index("finding")
    assert table.loc["Edema", "linear_auroc"] == 1.0
    assert 0.2 < table.loc["Fracture", "linear_auroc"] < 0.8
    assert table.loc["Edema", "iou_prior"] == 1.0
    assert not table.loc["Edema", "mobile"]
    assert table.loc["Fracture", "mobile"]
    assert table.index[-1] == "macro"
    assert set(table.index[:-1]) <= set(FINDINGS)
