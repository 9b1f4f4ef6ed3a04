"""Labels from explanations: the pairs table, what has not settled, input that cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.machine import Part, PartDone
from dollkit.data.images import IGNORE
from dollkit.explanations import ensemble
from dollkit.explanations.ensemble import ExplainerSettings, explain_all
from dollkit.labels import make
from dollkit.labels.make import make_labels
from dollkit.labels.steps import LabelSettings
from dollkit.labels.store import LabelStore
from dollkit.training.classifiers import create

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
CPU = torch.device("cpu")
EXACT = ExplainerSettings(precision="float32")
EDEMA, FRACTURE, THORAX = (FINDINGS.index(f) for f in ("Edema", "Fracture", "Pneumothorax"))


class Weighted(nn.Module):
    """Linear in the film, but for Fracture, which stays where it is."""

    def __init__(self, outputs: int = 14, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.rand(outputs, SIDE * SIDE, generator=draw) ** 4)
        self.weight.data[FRACTURE] *= 1e-5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1)[:, None] * self.weight).mean(2)


@pytest.fixture
def films() -> Any:
    """Four films: Edema; Edema and Fracture; none; Edema. As a film store has them."""
    states = np.zeros((4, 14), np.int8)
    states[[0, 1, 3, 1], [EDEMA, EDEMA, EDEMA, FRACTURE]] = 1
    images = np.random.default_rng(0).integers(30, 220, (4, SIDE, SIDE)).astype(np.uint8)
    table = pd.DataFrame({"image_id": [f"film{i}" for i in range(4)]})
    return SimpleNamespace(
        images=images, states=states, films=table, size=SIDE, digest="d", path=Path("films")
    )


def label(films: Any, folder: Path, how: ExplainerSettings = EXACT, **more: Any) -> LabelStore:
    models: Any = {"a": Weighted(), "b": Weighted(seed=1)}
    hashes = dict.fromkeys(models, "0")
    return make_labels(models, films, np.arange(4), how, LabelSettings(), folder, hashes, **more)


def test_pairs_tell_steps_and_whether_they_settled(films: Any, tmp_path: Path) -> None:
    made = label(films, tmp_path)
    assert made.pairs["finding"].tolist() == ["Edema", "Edema", "Fracture", "Edema"]
    assert made.pairs["settled"].tolist() == [True, True, False, True]
    assert made.pairs["steps"].tolist() == [4, 4, 4, 4]
    assert made.pairs["error"].drop(2).max() < 1e-5
    assert (made.pairs["error"] == made.pairs[["error:a", "error:b"]].max(axis=1)).all()
    assert made.pairs["threshold"].notna().all()
    # Nothing is trained on a label that has not settled, unless it is to be kept.
    assert (made.targets(np.array([1]))[0, FRACTURE] == IGNORE).all()
    assert all((made.label(i) == 1).any() for i in (0, 1, 3))
    assert made.meta["explain"] == asdict(EXACT) == json.loads(json.dumps(asdict(EXACT)))
    kept = label(films, tmp_path / "kept", replace(EXACT, unsettled="keep"))
    assert kept.pairs["settled"].tolist() == [True, True, False, True]
    assert (kept.label(2) == 1).any()


def test_shards_are_made_once_whoever_makes_them_unless_code_or_findings_change(
    films: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "SHARD", 1)
    alone = label(films, tmp_path / "alone")
    for number in (1, 2):
        with pytest.raises(PartDone, match=f"part {number}/2"):
            label(films, tmp_path / "parts", part=Part(number, 2))
    made: list[int] = []
    real, code = make._label, make.code_of([make.__name__])
    monkeypatch.setattr(make, "_label", lambda *given: (made.append(1), real(*given))[1])
    whole = label(films, tmp_path / "parts")
    assert not made
    pd.testing.assert_frame_equal(whole.pairs, alone.pairs)
    assert all((whole.label(i) == alone.label(i)).all() for i in range(4))
    films.states[0, FRACTURE] = 1
    label(films, tmp_path / "parts")
    assert len(made) == 1
    assert {"dollkit/labels/steps.py", "dollkit/explanations/ensemble.py"} <= set(code)
    monkeypatch.setattr(make, "code_of", lambda _: code | {"dollkit/labels/steps.py": "another"})
    label(films, tmp_path / "parts")
    assert len(made) == 1 + 3  # one film has no finding


def test_a_pair_has_settled_if_the_maps_have_that_count() -> None:
    probability = np.array([[0.9, 0.9, 0.2], [0.1, 0.8, 0.1]], np.float32)
    settled = np.array([[True, True, True], [False, False, False]])
    none: Any = np.zeros((2, 3), np.float32)
    maps = np.zeros((2, 3, 4, 4), np.float32)
    made = ensemble.Explained(maps, probability, none, none, settled)
    assert ensemble.pair_settled(made, "agree").tolist() == [True, False, False]
    assert ensemble.pair_settled(made, "all").tolist() == [False, False, False]


def test_films_and_classifiers_that_do_not_fit_are_named() -> None:
    x = torch.zeros(2, 1, SIDE, SIDE)
    bright, broken = x.clone(), Weighted()
    bright[1, 0, 0, 1] = 255
    broken.weight.data[3, 3] = float("nan")
    for films, model, said in (
        (bright, Weighted(), "film 1: values from 0 to 255.*to_input"),
        (x * torch.nan, Weighted(), "film 0: values from nan"),
        (x.expand(2, 3, SIDE, SIDE), Weighted(), r"\(2, 3, 32, 32\)"),
        (x, Weighted(15), "classifier b: it has 15 outputs; labels need those of the 14"),
        (x, broken, "classifier b: the classifier's logits of the films, row 0, hold NaN"),
    ):
        with pytest.raises(InputError, match=said):
            explain_all({"a": Weighted(), "b": model}, films, [[0], [1]], ExplainerSettings())


@pytest.mark.parametrize(
    ("change", "said"),
    [({"kind": "red"}, "baseline"), ({"explainer": "lime"}, "explainer"),
     ({"rule": "gausslegendre"}, "rule"), ({"max_error": float("nan")}, "max_error"),
     ({"unsettled": "drop"}, "unsettled"), ({"mode": "slow"}, "mode")],
)  # fmt: skip
def test_bad_settings_of_an_explainer_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"parameter '{said}' is"):
        ExplainerSettings(**change)


def test_each_finding_is_explained_from_its_own_baseline() -> None:
    targets = [[EDEMA, THORAX], [], [THORAX], [2, EDEMA]]
    x = torch.linspace(-1, 1, 4 * SIDE * SIDE).view(4, 1, SIDE, SIDE)
    models, how = {"a": Weighted()}, ExplainerSettings(steps=2)
    made = explain_all(models, x, targets, how)
    for baseline, pairs in (("white", [1, 2]), ("black", [0, 3, 4])):
        one = explain_all(models, x, targets, replace(how, kind=baseline))
        for mixed, alone in zip(made, one, strict=True):
            np.testing.assert_array_equal(mixed[:, pairs], alone[:, pairs])


SLOW = pytest.param("occlusion", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "explainer", [SLOW if e == "occlusion" else e for e in ensemble.EXPLAINERS]
)
def test_the_number_of_threads_moves_no_explanation(explainer: str) -> None:
    models = {
        name: create("tu-test_resnet", 5, "silu", "lse", seed, CPU).eval()
        for seed, name in enumerate("abc")
    }
    films = torch.randint(0, 255, (20, 32, 32), generator=torch.Generator().manual_seed(0))
    x = compute.to_input(films.to(torch.uint8), CPU)
    made = []
    for count in (1, 2):
        torch.set_num_threads(count)
        made.append(explain_all(models, x, [[1, 2], [3]] * 10, ExplainerSettings(explainer)))
    assert explain_all(models, x, [[]] * 20, ExplainerSettings(explainer)).maps.shape[1] == 0
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
