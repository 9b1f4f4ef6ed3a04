"""The parts of a task, its starts, and the grid of fine-tuning runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dollkit.common import TUNINGS, compute
from dollkit.common.machine import Part, PartDone
from dollkit.data.images import IGNORE
from dollkit.finetuning import grid, run
from dollkit.finetuning import starts as starting
from dollkit.finetuning.run import Initialisation, Job, TaskData
from dollkit.pretraining import folders_of
from dollkit.training import weights
from dollkit.training.augment import NONE
from dollkit.training.loss_and_optimiser import Recipe
from tests import same
from tests.label_films import write_models
from tests.small_files import error_of
from tests.small_run import CONFIG, CPU, ENCODER, make_store, save_network

RANDOM = Initialisation()
FULL = {"tunings": {"full": (["random"], [1e-3])}, "seeds": [0]}
FIRST = "encoder.model.conv1.0.weight"
Make = Callable[..., grid.Grid]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    return run.load_films(make_store(tmp_path_factory.mktemp("task") / "s", 40, ("lungs",)))


@pytest.fixture
def make(tmp_path: Path, data: TaskData) -> Make:
    """Lungs, one arm without weights and one random one, two rates, two seeds, two steps."""

    def made(**more: Any) -> grid.Grid:
        recipe = Recipe(steps=2, batch=2, lr=1.0, evaluate_every=2, precision="float32")
        settings = {
            "task": "lungs", "network": "pspnet", "config": CONFIG, "data": data,
            "starts": {"random": RANDOM, "imagenet": Initialisation(reason="no weights")},
            "tunings": {"full": (["random", "imagenet"], [1e-4, 3e-3])}, "recipe": recipe,
            "augmentation": NONE, "n_train": 6, "n_valid": 4, "seeds": [0, 1], "folds": [0],
            "folder": tmp_path / "out", "key": "k", "device": CPU,
        }  # fmt: skip
        return grid.Grid(**{**settings, **more})

    return made


def starts(*names: str, **more: Any) -> dict[str, Initialisation]:
    config = {**CONFIG, **more.pop("config", {})}
    given: dict[str, Any] = {"classifiers": {}, "pretrained": {}, **more}
    return starting.starts(names, network="pspnet", config=config, **given)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs that a grid trains, in order."""
    jobs: list[Job] = []
    true = grid.run
    monkeypatch.setattr(grid, "run", lambda job, *rest: (jobs.append(job), true(job, *rest))[1])
    return jobs


def test_parts_share_no_patient_and_training_sets_are_nested(data: TaskData) -> None:
    films = data.films
    who = films["patient_id"].to_numpy()
    for folds, fold in ((1, 0), (3, 0), (3, 1), (3, 2)):
        table = films.assign(fold=(films.index // 2) % folds)
        big, small, other = (
            run.split(table, fold, n, 5, seed) for n, seed in ((8, 3), (4, 3), (8, 4))
        )
        groups = [set(who[p]) for p in (big.train, big.valid, big.test)]
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert small.train.tolist() == big.train[:4].tolist()
        assert other.train.tolist() != big.train.tolist()
        for parts in (small, other):
            np.testing.assert_array_equal(parts.test, big.test)
            np.testing.assert_array_equal(parts.valid, big.valid)


def test_a_start_of_another_activation_is_refused(tmp_path: Path) -> None:
    made = {"doll": save_network(tmp_path / "doll", activation="relu")}
    # No tensor tells the activation: only the configuration does.
    assert "'activation' here is 'silu'" in error_of(starts, "doll", pretrained=made)
    starts("doll", pretrained=made, config={"activation": "relu"})


def test_files_tell_what_is_copied_and_what_is_trained(
    device: torch.device, tmp_path: Path, make: Make
) -> None:
    doll = save_network(tmp_path / "doll")
    given = starts(
        "random", "imagenet", "classifier", "doll", imagenet_weights="",
        classifiers={ENCODER: write_models(tmp_path) / "a"}, pretrained={"doll": doll},
    )  # fmt: skip
    tunings = grid.tunings_of(
        ["doll"], dict.fromkeys(TUNINGS[1:], ("doll",)), {"full": [1e-3], "other": [1e-2]}
    )
    whole = make(starts=given, tunings=tunings, seeds=[0], device=device)
    copied, trained = starting.write(tmp_path, whole)
    assert json.loads((tmp_path / "transfer.json").read_text()) == copied
    assert json.loads((tmp_path / "trainable.json").read_text()) == trained
    assert copied["imagenet"] == {"not_run": "no weights"}
    assert copied["random"]["copied"] == []
    assert all(n.startswith("encoder.") for n in copied["classifier"]["copied"])
    assert copied["doll"]["drawn"] == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert list(trained) == list(TUNINGS)
    # The runs train what the files say, and every tuning reaches its table.
    counts = grid.execute(whole)["runs"].set_index("tuning")["trainable"]
    assert counts.to_dict() == {t: v["trainable"] for t, v in trained.items()}


def test_what_moves_more_than_it_says_is_caught(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sly(net: nn.Module) -> list[str]:
        nn.init.ones_(net.segmentation_head[0].bias)  # type: ignore[index, arg-type]
        return []

    with pytest.raises(AssertionError, match="segmentation_head"):
        starting.transferred(make(starts={"random": Initialisation(sly)}, **FULL))
    fit, always = run.fit, {"train_mode": nn.Module.train}
    monkeypatch.setattr(run, "fit", lambda *args, **more: fit(*args, **{**more, **always}))
    with pytest.raises(AssertionError, match="running_mean should have stayed"):
        grid.execute(make(tunings={"bn": (["random"], [1e-3])}))


def test_grid_chooses_by_validation_and_resumes(make: Make, ran: list[Job]) -> None:
    whole = make()
    frames = grid.execute(whole)
    chosen = frames["selection"]
    assert len(chosen) == 2
    (best,) = chosen[chosen["selected"]].itertuples()
    assert best.val_miou == chosen["val_miou"].max()
    assert (frames["runs"]["lr"] == best.lr).all()
    cases = frames["cases"]
    assert set(cases["arm"]) == {"random"}  # the other one has no weights
    assert len(cases) == 2 * len(whole.split(0, 6, 0).test)
    assert (cases[["tp", "fn"]].sum(axis=1) == 64).all()  # every truth is a square of 8 x 8
    assert len(ran) == 3  # the chosen run of the first seed is not run again
    for key, trained in (("k", 3), ("other", 6)):
        pd.testing.assert_frame_equal(grid.execute(make(key=key))["cases"], cases)
        assert len(ran) == trained


def test_parts_of_a_grid_leave_nothing_to_the_whole(
    tmp_path: Path, make: Make, ran: list[Job]
) -> None:
    asked = {
        "starts": {"random": RANDOM, "other": RANDOM},
        "tunings": {"full": (["random", "other"], [1e-4, 3e-3]), "head": (["other"], [1e-3])},
    }
    alone = grid.execute(make(folder=tmp_path / "alone", **asked))
    ran.clear()
    done = []
    for number in (1, 2):
        with pytest.raises(PartDone, match=f"part {number}/2"):
            grid.execute(make(**asked), Part(number, 2))
        done.append(len(ran))
    # Of a setting: each rate, and the chosen one with the other seed.
    assert done == [3 + 2, 3 + 3 + 2]
    whole = grid.execute(make(**asked))
    assert len(ran) == done[1]
    for name in ("cases", "curves", "selection"):
        frames = (f[name].drop(columns="seconds", errors="ignore") for f in (whole, alone))
        pd.testing.assert_frame_equal(*frames)
    kept = [sorted((tmp_path / n / "networks").iterdir()) for n in ("out", "alone")]
    assert [f.name for f in kept[0]] == [f.name for f in kept[1]]
    assert all(same(load_file(a), load_file(b)) for a, b in zip(*kept, strict=True))


def test_every_run_starts_from_the_pretraining_of_its_turn(
    tmp_path: Path, make: Make, ran: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [save_network(f, seed) for seed, f in enumerate(folders_of(tmp_path / "doll", 2))]
    first, second = (float(weights.read(folder)[1][FIRST].sum()) for folder in made)
    seen: list[float] = []
    fit = run.fit

    def watched(net: nn.Module, *args: Any, **given: Any) -> Any:
        seen.append(float(net.state_dict()[FIRST].sum()))
        return fit(net, *args, **given)

    monkeypatch.setattr(run, "fit", watched)
    more: Any = {"tunings": {"full": (["doll"], [1e-3])}, "seeds": [0, 1, 2]}
    given = starts("doll", pretrained={"doll": made[0]})
    grid.execute(whole := make(starts=given, **more))
    assert seen == [first, second, first]
    # The kept network tells which of them it started from.
    (kept,) = (tmp_path / "out" / "networks").iterdir()
    run.restored(kept, ran[0], whole.config, 1, given["doll"])
    # Another second network repeats the runs from it, and no others.
    save_network(made[1], seed=9)
    ran.clear()
    grid.execute(make(starts=starts("doll", pretrained={"doll": made[0]}), **more))
    assert [job.seed for job in ran] == [1]


def test_ignored_pixels_are_neither_taught_nor_scored(make: Make, data: TaskData) -> None:
    """Squares ignored in their left half; in every fourth film a class is ignored."""
    targets = np.repeat(data.targets, 2, 1)
    for lungs in targets[:, 0]:
        left = np.flatnonzero(lungs.any(0))[:4]
        lungs[:, left] *= IGNORE
    targets[::4, 1] = IGNORE
    data = replace(data, targets=targets, classes=("lungs", "heart"))
    whole = make(data=data, **FULL)
    frames = grid.execute(whole)
    cases = frames["cases"]
    fourth = cases["image_id"].str.removeprefix("film").astype(int) % 4 == 0
    unseen = fourth & (cases["class"] == "heart")
    assert unseen.any()
    assert (cases.loc[unseen, ["tp", "fp", "fn"]] == 0).all(axis=None)
    assert cases.loc[unseen, "iou"].isna().all()
    expected = np.select([cases["class"] == "lungs", unseen], [32, 0], 64)
    np.testing.assert_array_equal(cases["tp"] + cases["fn"], expected)
    shown = grid.examples(whole, frames["runs"], "full", 3)
    assert np.unique(shown["truth"]).tolist() == [0, 1]


def test_a_rate_that_diverges_is_not_chosen(make: Make) -> None:
    frames = grid.execute(make(tunings={"full": (["random"], [1e-4, 1e38])}, seeds=[0]))
    assert frames["selection"].set_index("lr")["selected"].to_dict() == {1e-4: True, 1e38: False}
    assert set(frames["runs"]["lr"]) == {1e-4}


def test_validation_films_without_a_pixel_to_judge_by(make: Make, data: TaskData) -> None:
    targets = data.targets.copy()
    targets[run.split(data.films, 0, 6, 4, 0).valid] = IGNORE
    frames = grid.execute(make(data=replace(data, targets=targets), seeds=[0]))
    assert frames["selection"]["val_miou"].isna().all()
    assert frames["selection"]["selected"].tolist() == [True, False]
    assert (frames["cases"][["tp", "fn"]].sum(axis=1) == 64).all()


def test_other_sizes_and_perturbed_films(device: torch.device, tmp_path: Path, make: Make) -> None:
    whole = make(
        tunings={"full": (["random"], [1e-3]), "bn": (["random"], [1e-3])}, seeds=[0],
        changes={"noise": [5.0], "contrast": [0.0]}, sizes={4: ["random"]}, device=device,
    )  # fmt: skip
    frames = grid.execute(whole)
    runs = frames["runs"].set_index(["tuning", "n_train"])
    assert list(runs.index) == [("full", 6), ("bn", 6), ("full", 4)]
    assert runs.loc[("full", 6), "memory_mb"] > runs.loc[("bn", 6), "memory_mb"] > 0
    robust, cases = frames["robust"], frames["cases"]
    main = cases[(cases["tuning"] == "full") & (cases["n_train"] == 6)]
    counts = robust.value_counts(["tuning", "n_train", "perturbation", "level"]).to_dict()
    kinds = [("full", 6, "noise", 5.0), ("full", 6, "contrast", 0.0)]
    assert counts == dict.fromkeys(kinds, len(main))
    # Without contrast all films look alike: one answer for all.
    flat = robust[robust["perturbation"] == "contrast"]
    assert (flat["tp"] + flat["fp"]).nunique() == 1
    assert (main["tp"] + main["fp"]).nunique() > 1
    assert len(grid.examples(whole, frames["runs"], "full", 2)["arms"]) == 1
    grid.write(tmp_path / "out", frames)
    assert len(pd.read_csv(tmp_path / "out" / "robust.csv.gz")) == len(robust)
    grid.write(tmp_path / "out", {k: v for k, v in frames.items() if k != "robust"})
    assert not (tmp_path / "out" / "robust.csv.gz").exists()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_kept_network_predicts_as_it_did(make: Make, data: TaskData, tuning: str) -> None:
    recipe = Recipe(steps=20, batch=2, lr=1.0, evaluate_every=20, precision="float32")
    whole = make(tunings={tuning: (["random"], [1e-4, 3e-2])}, recipe=recipe, seeds=[0])
    frames = grid.execute(whole)
    job = Job(*frames["runs"].iloc[0][list(Job.__dataclass_fields__)])
    (path,) = (whole.folder / "networks").iterdir()
    assert path.stem == job.name
    shown = grid.examples(whole, frames["runs"], tuning, 4)["prediction"][0]
    net = run.restored(path, job, whole.config, 1, RANDOM)
    x = compute.to_input(data.images[whole.split(0, 6, 0).test[:4]], CPU)
    with torch.inference_mode():
        np.testing.assert_array_equal((net(x) > 0).numpy(), shown)
    assert 0 < shown.mean() < 1
    # Lost: it is made again. Of a setting that is not asked for any more: it goes.
    path.unlink()
    (path.parent / "doll-full.safetensors").touch()
    pd.testing.assert_frame_equal(grid.execute(whole)["cases"], frames["cases"])
    assert list(path.parent.iterdir()) == [path]
    given = (path, job, whole.config, 1, replace(RANDOM, key="other weights"))
    assert "made by 'lungs pspnet random" in error_of(run.restored, *given)


def test_what_does_not_decide_a_job_does_not_stale_it(make: Make, ran: list[Job]) -> None:
    more: Any = {"changes": {"noise": [5.0]}, **FULL}
    grid.execute(make(n_train=6, sizes={4: ["random"]}, **more))
    assert [job.n_train for job in ran] == [6, 4]
    swapped = make(n_train=4, sizes={6: ["random"]}, **more)
    frames = grid.execute(swapped)
    # Perturbed films are counted for the main size alone: now it is the other one.
    assert sorted(job.n_train for job in ran[2:]) == [4, 6]
    assert set(frames["robust"]["n_train"]) == {4}
    grid.execute(swapped)
    assert len(ran) == 4


def test_grid_refuses_what_cannot_run(make: Make) -> None:
    for change, said in (
        ({"seeds": [0, 0]}, "'seeds' is [0, 0]: one or more, each once"),
        ({"folds": [0, 1]}, "'folds' has 1: these films have a split"),
        ({"tunings": {"bn": (["random"] * 2, [1e-3])}}, ": one or more, each once"),
        ({"tunings": {"full": (["random"], [])}}, "'lrs' has no rate for 'full'"),
        ({"sizes": {4: ["doll"]}}, "'size_arms' names 'doll'"),
        ({"sizes": {500: ["random"]}}, "n_train"),
    ):
        assert said in error_of(make, **change)
    assert "'tunings' names 'full'" in error_of(grid.tunings_of, ["a"], {"full": ["a"]}, {})
    twice = {"lora": ["a"], "lora4": ["a"]}
    assert "names one twice" in error_of(grid.tunings_of, ["a"], twice, {"full": [1.0]})
    assert "'lrs' names 'lor'" in error_of(grid.tunings_of, ["a"], {}, {"lor": [1.0]})


def test_memory_of_a_step_by_hand() -> None:
    films, side, middle = 4, 8, 16
    # The first layer keeps its input; tanh its output, which the next shares.
    held, tanh = films * side, films * middle
    weights = side * middle + middle + middle + 1
    net = nn.Sequential(nn.Linear(side, middle), nn.Tanh(), nn.Linear(middle, 1))
    recipe = Recipe(steps=1, batch=films, lr=0.1, precision="float32")

    def numbers() -> float:
        return run.tensors_of_step(net, lambda m: m(torch.zeros(films, side)).sum(), recipe) / 4

    assert numbers() == weights + 3 * weights + held + tanh
    net[0].requires_grad_(False)  # the head needs what lies behind it alone
    assert numbers() == weights + 3 * (middle + 1) + tanh


def test_sizes_are_sorted_zero_is_all_and_what_there_is_not_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    split = ["train"] * 10 + ["valid"] * 2 + ["test"] * 4
    films = pd.DataFrame({"patient_id": [f"p{i}" for i in range(16)], "split": split, "fold": 0})
    with caplog.at_level("INFO"):
        assert grid.sizes_of([8, 11, 0, 4, 2], 8, films, [0], 2) == [2, 4, 10]
    assert "no run with 11 training films: there are 10" in caplog.text
    # Eight films outside a fold, of which two validate: every fold has six.
    assert grid.sizes_of([0], 2, films.assign(fold=[0, 1] * 8), [0, 1], 2) == [6]
    assert "'sizes' has -1" in error_of(grid.sizes_of, [-1], 8, films, [0], 2)
