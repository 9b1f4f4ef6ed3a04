"""Classifiers of the findings, and what a linear model and the anatomy alone can do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data import build
from dollkit.data.store import open_store
from dollkit.training import classifiers, networks, shortcuts, weights
from dollkit.training.augment import NONE
from dollkit.training.classifiers import Classifier, transfer_encoder
from dollkit.training.loss_and_optimiser import Recipe
from tests import far, same
from tests.label_films import write_films
from tests.small_files import error_of
from tests.small_run import CONFIG, CPU, ENCODER, make_store


def test_classifier_learns_and_scores(device: torch.device, tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 80, PATHOLOGIES)
    model = classifiers.create(ENCODER, 3, "silu", "lse", 0, device)
    recipe = Recipe(steps=50, batch=16, lr=3e-3, evaluate_every=25, precision="float32")
    classifiers.train(model, store, "U-Ones", recipe, NONE, None)
    table = classifiers.evaluate(model, store, "test", 50).set_index("finding")
    assert table.loc["Edema", "auroc"] > 0.95  # the square is Edema, the other labels are coins
    assert table.loc["Fracture", "auroc"] < 0.9
    inner = table.drop(index=["macro", "No Finding"], errors="ignore")["auroc"]
    assert table.loc["macro", "auroc"] == pytest.approx(inner.mean())
    weights.save(model, tmp_path, model.config)
    again = classifiers.load_classifier(tmp_path, device)
    assert same(again.state_dict(), model.state_dict())
    x = torch.randn(2, 1, 64, 64, device=device)
    with torch.no_grad():
        assert far(again(x), model.eval()(x)) < 1e-4
    with pytest.raises(InputError, match="'small' is 64"):
        classifiers.train(model, store, "U-Ones", recipe, NONE, None, small=64)


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


def test_bad_classifiers_are_named(tmp_path: Path) -> None:
    for architecture, activation, pooling, said in (
        ("resnet19", "silu", "lse", "resnet19"), (ENCODER, "gelu", "lse", "activation"),
        (ENCODER, "silu", "max", "pooling"),
    ):  # fmt: skip
        assert said in error_of(Classifier, architecture, 5, activation, pooling)
    model = Classifier(ENCODER, 3, "silu", "lse")
    torch.nn.init.constant_(model.head.bias, float("nan"))  # type: ignore[arg-type]
    weights.save(model, tmp_path, model.config)
    assert "head.bias holds NaN" in error_of(classifiers.load_classifier, tmp_path, CPU)


def test_the_probe_finds_what_is_linear_and_the_prior_what_never_moves(tmp_path: Path) -> None:
    # Edema brightens one corner; Fracture is a coin; both have the same fixed mask.
    n, rng = 160, np.random.default_rng(0)
    findings = {f: rng.integers(0, 2, n).astype(np.uint8) for f in ("Edema", "Fracture")}
    images, corner = rng.integers(0, 60, (n, 32, 32)).astype(np.uint8), np.zeros((32, 32), np.uint8)
    corner[:8, :8] = 1
    masks = {f: positive[:, None, None] * corner for f, positive in findings.items()}
    split = ["train", "valid", "test", "train"] * (n // 4)
    store = write_films(tmp_path, images + 60 * masks["Edema"], findings, masks, split=split)
    table = shortcuts.difficulty(store).set_index("finding")
    assert table.loc["Edema", "linear_auroc"] == 1.0
    assert 0.2 < table.loc["Fracture", "linear_auroc"] < 0.8
    assert table.loc["Edema", "iou_prior"] == 1.0
    assert not table.loc["Edema", "mobile"]
    assert table.loc["Fracture", "mobile"]
    assert table.index[-1] == "macro"
    assert set(table.index[:-1]) <= set(FINDINGS)


def test_a_planted_marker_is_a_shortcut_and_the_phantom_has_none(tmp_path: Path) -> None:
    few = {"n_films": 1500, "n_train_pool": 1, "n_valid": 1, "n_test": 1, "protocol": {}}
    few |= {"valid_fraction": 0.2, "test_fraction": 0.3}
    films = open_store(build("phantom", "", tmp_path, 64, phantom=few)["films"])
    fracture = films.states[:, FINDINGS.index("Fracture")] == 1
    images = np.array(films.images)
    images[fracture, 2:6, 2:6] = 255  # a marker in the corner, as a side marker of one ward
    columns = {name: films.films[name].to_numpy() for name in films.films}
    marked = write_films(tmp_path / "marked", images, **columns)
    able = pd.DataFrame({"finding": PATHOLOGIES, "auroc": 0.95})
    found = {}
    for name, store in (("plain", films), ("marked", marked)):
        found[name] = shortcuts.flagged(shortcuts.probe(store), able)
    assert found == {"plain": [], "marked": ["Fracture"]}
    committed = paths.ROOT / "figures" / "laptop"
    tables = (pd.read_csv(committed / f"{name}.csv") for name in ("difficulty", "classifiers"))
    assert shortcuts.flagged(*tables) == []


def test_how_films_were_taken_is_a_shortcut_too() -> None:
    n, rng = 900, np.random.default_rng(0)
    ill = rng.random(n) < 0.5
    number = np.where(ill, rng.integers(5000, 6000, n), rng.integers(1, 9999, n))
    table = pd.DataFrame({"patient_id": [f"p{k:05d}" for k in number], "view": "PA", "sex": ""})
    table = table.assign(age=np.nan, width=1024.0, height=1024.0)
    seen = shortcuts.acquisition(table)
    assert np.isfinite(seen).all()
    half = n // 2
    model = LogisticRegression(max_iter=500).fit(seen[:half], ill[:half])
    assert roc_auc_score(ill[half:], model.decision_function(seen[half:])) > 0.85
