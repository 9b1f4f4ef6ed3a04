"""Labels from explanations, from Python and ``python -m dollkit labels``, stopped or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
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
from dollkit.data.store import open_store
from dollkit.explanations import ensemble
from dollkit.explanations.ensemble import ExplainerSettings, explain_all
from dollkit.labels import make
from dollkit.labels.make import make_labels
from dollkit.labels.maps_to_labels import LabelSettings
from dollkit.labels.store import LabelStore, open_labels
from dollkit.training import weights
from dollkit.training.classifiers import create, load_classifiers
from dollkit.workflow.cli import main
from tests.label_films import noise, write_films, write_models
from tests.small_files import error_of, save

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
    assert {"dollkit/labels/maps_to_labels.py", "dollkit/explanations/ensemble.py"} <= set(code)
    monkeypatch.setattr(
        make, "code_of", lambda _: code | {"dollkit/labels/maps_to_labels.py": "another"}
    )
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
    assert f"parameter '{said}' is" in error_of(ExplainerSettings, **change)


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
    for count in (2, 1):
        torch.set_num_threads(count)
        made.append(explain_all(models, x, [[1, 2], [3]] * 10, ExplainerSettings(explainer)))
    assert explain_all(models, x, [[]] * 20, ExplainerSettings(explainer)).maps.shape[1] == 0
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


STORE_FILES = ["ends.npy", "labels.json", "pairs.csv", "planes.npy"]


@pytest.fixture(scope="module", autouse=True)
def small(one_thread: None) -> Iterator[None]:
    """Shards of two films."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SHARD", 2)
        patch.setenv("DOLLKIT_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers ``a``, ``b`` in ``models``, a film store and a folder of pictures."""
    root = tmp_path_factory.mktemp("work")
    write_models(root / "models")
    images = noise(11, SIDE)
    edema = [float(i % 5 != 4) for i in range(11)]  # films 4 and 9 without
    fracture = [np.nan if i % 3 else float(i != 9) for i in range(11)]
    write_films(root / "films", images, {"Edema": edema, "Fracture": fracture})
    for name, image in zip(("film00.png", "film01.png", "deep/x.jpg"), images, strict=False):
        save(root / "pictures" / name, image)
    return root


def refused(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """What was printed as an error is one line, with `message`."""
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def call(work: Path, out: Path, *more: str, films: Path | None = None) -> int:
    given = ["--films", str(films or work / "films"), "--classifiers", str(work / "models")]
    return main(["labels", "make", *given, "--out", str(out), *more])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in STORE_FILES}


@pytest.fixture(scope="module")
def whole(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of an uninterrupted run, which the tests only read."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    assert call(work, out) == 0
    return out


def test_films_become_labels_once(work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_labels(whole, verify=True)
    store.check_films(open_store(work / "films"))
    assert store.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    with_fracture = store.pairs.loc[store.pairs["finding"] == "Fracture", "row"]
    assert with_fracture.tolist() == [0, 3, 6]
    assert sorted(store.meta["classifiers"]) == ["a", "b"]
    assert store.meta["positives"] == "given by the table of the films"
    assert sorted(f.name for f in whole.iterdir()) == STORE_FILES
    before = content(whole)
    monkeypatch.setattr(make, "make_labels", lambda *_: 1 / 0)
    assert call(work, whole) == 0
    assert content(whole) == before


def test_a_stopped_run_loses_nothing_and_does_nothing_twice(
    work: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "labels", np.savez
    tried: list[str] = []

    def savez(path: Path, **arrays: Any) -> None:
        tried.append(path.name[:5])
        if len(tried) == 3:
            path.write_bytes(b"half of a shard")
            raise KeyboardInterrupt
        real(path, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    assert call(work, out) == 1
    assert not (out / "labels.json").exists()
    assert call(work, out) == 0
    assert tried == ["00000", "00001", "00002", "00002", "00003", "00004"]
    assert content(out) == content(whole)
    assert not (out / "shards").exists()


def test_labels_of_another_making_are_not_replaced(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = content(whole)
    shutil.copytree(work / "models", tmp_path / "models")
    model = create("tu-test_resnet", 3, "silu", "avg", 7, CPU)
    weights.save(model, tmp_path / "models" / "b", model.config)
    monkeypatch.setattr(make, "code_of", lambda _: {"dollkit/labels/maps_to_labels.py": "another"})
    assert call(tmp_path, whole, films=work / "films") == 2
    refused(capsys, "labels made with other classifiers, code are there: choose another --out")
    assert content(whole) == before


def test_without_findings_the_classifiers_call(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    assert call(work, out, "--size", str(SIDE), films=work / "pictures") == 0
    store, films = open_labels(out), open_store(out / "films")
    assert films.films["image_id"].tolist() == ["deep__x", "film00", "film01"]
    models = load_classifiers({n: work / "models" / n for n in "ab"}, CPU)
    with torch.inference_mode():
        x = compute.to_input(films.images[:], CPU)
        p = torch.stack([torch.sigmoid(m(x)) for m in models.values()]).mean(0).numpy()
    rows, findings = np.nonzero(p > 0.5)
    assert len(rows)
    assert store.pairs["row"].tolist() == rows.tolist()
    assert store.pairs["finding"].tolist() == [FINDINGS[c] for c in findings]
    assert "called by the classifiers (mean probability above 0.5)" in store.meta["positives"]


def test_what_cannot_be_labelled_is_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    twin = tmp_path / "twin" / "a"
    shutil.copytree(work / "models" / "a", twin)
    films, models, out = work / "films", work / "models", tmp_path / "out"
    wrong: dict[str, tuple[Path, list[Path], list[str]]] = {
        "no such folder: give a folder of images": (tmp_path / "none", [models], []),
        "no film here": (tmp_path / "empty", [models], []),
        "no such folder: give folders with weights": (films, [tmp_path / "none"], []),
        "no weights.safetensors here": (films, [tmp_path / "empty"], []),
        "a second classifier named 'a'": (films, [models, twin], []),
        "holds films of 32 px": (films, [models], ["--size", "64"]),
        "'size' is 8: use 32 or more": (films, [models], ["--size", "8"]),
    }
    for message, (given, folders, more) in wrong.items():
        names = ["--films", str(given), "--classifiers", *map(str, folders), "--out", str(out)]
        assert main(["labels", "make", *names, *more]) == 2
        refused(capsys, message)
    assert not (out / "labels.json").exists()


def test_show_and_export_from_the_command_line(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", "show", str(whole), "--verify"]) == 0
    assert "12 labels on 9 films, 32 x 32 px" in capsys.readouterr().out
    out = tmp_path / "out"
    export = ["labels", "export", str(whole), str(out), "--to", "png"]
    assert main([*export, "--films", str(work / "films")]) == 0
    assert len(list(out.glob("masks/fracture/*.png"))) == 3
    assert len(list(out.glob("images/*.png"))) == 9
    capsys.readouterr()
    assert main(["labels", "show", os.devnull]) == 2
    refused(capsys, f"{os.devnull}: not a label store (labels.json is missing): make labels first")
