"""Labels from explanations: the pairs table, what has not settled, input that cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dollkit.classifiers.model import create
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.shares import Done, Part
from dollkit.data.images import IGNORE
from dollkit.explanations.ensemble import Explain, Explained, explain_all, pair_settled
from dollkit.labels import Distil, make
from dollkit.labels.make import make_labels

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
EDEMA, FRACTURE = FINDINGS.index("Edema"), FINDINGS.index("Fracture")


class Weighted(nn.Module):
    """Linear in the film, but for Fracture, which stays where it is."""

    def __init__(self, outputs: int = 14, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.rand(outputs, SIDE * SIDE, generator=draw) ** 4)
        with torch.no_grad():
            if outputs > FRACTURE:
                self.weight[FRACTURE] *= 1e-5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1)[:, None] * self.weight).mean(2)


@pytest.fixture
def films() -> SimpleNamespace:
    """Four films: Edema; Edema and Fracture; none; Edema. As a film store has them."""
    states = np.zeros((4, 14), np.int8)
    states[[0, 1, 3], EDEMA] = 1
    states[1, FRACTURE] = 1
    images = np.random.default_rng(0).integers(30, 220, (4, SIDE, SIDE)).astype(np.uint8)
    table = pd.DataFrame({"image_id": [f"film{i}" for i in range(4)]})
    return SimpleNamespace(
        images=images, states=states, films=table, size=SIDE, digest="d", path=Path("films")
    )


def made_of(films: SimpleNamespace, how: Explain, folder: Path, **models: nn.Module):  # type: ignore[no-untyped-def]
    rows = np.arange(4)
    hashes = dict.fromkeys(models, "0")
    return make_labels(models, films, rows, how, Distil(), folder, hashes)  # type: ignore[arg-type]


def test_pairs_tell_steps_and_whether_they_settled(films: SimpleNamespace, tmp_path: Path) -> None:
    made = made_of(films, Explain(), tmp_path, a=Weighted(), b=Weighted(seed=1))
    assert made.pairs["finding"].tolist() == ["Edema", "Edema", "Fracture", "Edema"]
    assert made.pairs["settled"].tolist() == [True, True, False, True]
    assert made.pairs["steps"].tolist() == [4, 4, 4, 4]
    assert made.pairs["error"].drop(2).max() < 1e-5
    assert made.pairs["threshold"].notna().all()
    # Nothing is trained on a label that has not settled.
    assert (made.label(2) == IGNORE).all()
    assert all((made.label(i) == 1).any() for i in (0, 1, 3))
    target = made.targets(np.array([1]))[0]
    assert (target[FRACTURE] == IGNORE).all()
    assert made.meta["explain"] == asdict(Explain())
    assert json.loads(json.dumps(asdict(Explain()))) == asdict(Explain())


def test_unsettled_labels_can_be_kept(films: SimpleNamespace, tmp_path: Path) -> None:
    made = made_of(films, Explain(unsettled="keep"), tmp_path, a=Weighted())
    assert made.pairs["settled"].tolist() == [True, True, False, True]
    assert (made.label(2) == 1).any()
    with pytest.raises(InputError, match="'unsettled' is 'drop'"):
        Explain(unsettled="drop")


def test_parts_write_the_shards_of_the_whole(
    films: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, rows = {"a": Weighted()}, np.arange(4)
    given = models, films, rows, Explain(), Distil()
    alone = make_labels(*given, tmp_path / "alone", {"a": "0"}, shard=1)  # type: ignore[arg-type]
    for number in (1, 2, 3):
        with pytest.raises(Done, match=f"part {number}/3"):
            make_labels(*given, tmp_path / "parts", {"a": "0"}, shard=1, part=Part(number, 3))  # type: ignore[arg-type]
    made = sorted(f.name for f in (tmp_path / "parts/shards").glob("*.npz"))
    assert made == ["00000.npz", "00001.npz", "00003.npz"]  # film 2 has no finding

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a part's shard is made again")

    monkeypatch.setattr(make, "_pairs", forbidden)
    whole = make_labels(*given, tmp_path / "parts", {"a": "0"}, shard=1)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(whole.pairs, alone.pairs)
    assert all((whole.label(i) == alone.label(i)).all() for i in range(len(alone.pairs)))


def test_shards_of_other_code_are_made_anew(
    films: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of(films, Explain(), tmp_path, a=Weighted())
    (shard,) = (tmp_path / "shards").glob("*.npz")
    read = make.code_of([make.__name__])
    assert {
        "dollkit/labels/make.py",
        "dollkit/labels/steps.py",
        "dollkit/explanations/ensemble.py",
    } <= set(read)
    first = shard.stat().st_mtime_ns
    made_of(films, Explain(), tmp_path, a=Weighted())
    assert shard.stat().st_mtime_ns == first
    other = read | {"dollkit/labels/steps.py": "another"}
    monkeypatch.setattr(make, "code_of", lambda _: other)
    made_of(films, Explain(), tmp_path, a=Weighted())
    assert shard.stat().st_mtime_ns > first


def test_fixed_steps_are_told(films: SimpleNamespace, tmp_path: Path) -> None:
    how = Explain(steps=3, rule="gausslegendre")
    assert made_of(films, how, tmp_path, a=Weighted()).pairs["steps"].tolist() == [3] * 4


def test_a_pair_has_settled_if_the_maps_have_that_count() -> None:
    probability = np.array([[0.9, 0.9, 0.2], [0.1, 0.8, 0.1]], np.float32)
    settled = np.array([[True, True, True], [False, False, False]])
    none = np.zeros((2, 3), np.float32)
    made = Explained(np.zeros((2, 3, 4, 4), np.float32), probability, none, none, settled)  # type: ignore[arg-type]
    assert pair_settled(made, "agree").tolist() == [True, False, False]
    assert pair_settled(made, "all").tolist() == [False, False, False]


@pytest.mark.parametrize("explainer", ["ig", "gradient"])
def test_constant_maps_are_marked(explainer: str) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.arange(14.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias + 0 * x.mean((1, 2, 3))[:, None]

    x = compute.to_input(np.full((1, SIDE, SIDE), 90, np.uint8), torch.device("cpu"))
    made = explain_all({"a": Constant()}, x, [[2, 5]], Explain(explainer))
    assert not made.settled.any()
    assert (made.maps == 0).all()


@pytest.mark.parametrize(("lo", "hi"), [(0.0, 255.0), (-7.0, 0.0)])
def test_films_of_another_range_are_named(lo: float, hi: float) -> None:
    x = torch.zeros(3, 1, SIDE, SIDE)
    x[1, 0, 0, 0], x[1, 0, 0, 1] = lo, hi
    with pytest.raises(InputError, match=rf"film 1: values from {lo:g} to {hi:g}.*to_input"):
        explain_all({"a": Weighted()}, x, [[0], [1], [2]], Explain())


def test_films_that_are_no_films_are_named() -> None:
    for x, said in [
        (torch.zeros(1, 3, SIDE, SIDE), r"\(1, 3, 32, 32\)"),
        (torch.zeros(1, 1, SIDE, SIDE + 1), r"\(1, 1, 32, 33\)"),
        (torch.full((1, 1, SIDE, SIDE), float("nan")), "film 0: values from nan"),
    ]:
        with pytest.raises(InputError, match=said):
            explain_all({"a": Weighted()}, x, [[0]], Explain())


def test_classifiers_that_do_not_fit_are_named() -> None:
    x = torch.zeros(1, 1, SIDE, SIDE)
    broken = Weighted()
    with torch.no_grad():
        broken.weight[3, 3] = float("nan")
    for model, said in [
        (Weighted(5), "classifier b: it has 5 outputs; labels need one for each of the 14"),
        (broken, "classifier b: the classifier's logits of the films hold NaN or infinity"),
        (nn.Identity(), r"classifier b: the classifier gives \(1, 1, 32, 32\) for 1 films"),
    ]:
        with pytest.raises(InputError, match=said):
            explain_all({"a": Weighted(), "b": model}, x, [[0]], Explain())


def test_each_finding_is_explained_from_its_own_baseline() -> None:
    x = torch.linspace(-1, 1, 2 * SIDE * SIDE).view(2, 1, SIDE, SIDE)
    thorax = FINDINGS.index("Pneumothorax")
    targets = [[1, thorax], [thorax, 2]]
    models = {"a": Weighted()}
    how = Explain(steps=2)
    made = explain_all(models, x, targets, how)
    for kind, places in (("black", [0, 3]), ("white", [1, 2])):
        one = explain_all(models, x, targets, replace(how, kind=kind))
        for mixed, alone in zip(made, one, strict=True):
            np.testing.assert_array_equal(mixed[:, places], alone[:, places])
    nothing = explain_all(models, x, [[], []], how)
    assert nothing.maps.shape == (1, 0, SIDE, SIDE)


@pytest.mark.parametrize(
    ("change", "named"), [({"kind": "red"}, "baseline"), ({"explainer": "lime"}, "explainer")]
)
def test_bad_explainers_are_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=f"parameter '{named}' is"):
        Explain(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("explainer", ["ig", "gradient", "gradcam", "occlusion"])
def test_the_number_of_threads_moves_no_explanation(explainer: str) -> None:
    models = {
        name: create("tu-test_resnet", 5, "silu", "lse", seed, torch.device("cpu")).eval()
        for seed, name in enumerate("abc")
    }
    films = torch.randint(0, 255, (20, 32, 32), generator=torch.Generator().manual_seed(0))
    x = compute.to_input(films.to(torch.uint8), torch.device("cpu"))
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(explain_all(models, x, [[1, 2], [3]] * 10, Explain(explainer)))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
