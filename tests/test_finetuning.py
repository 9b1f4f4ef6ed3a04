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

from dollkit.classifiers.model import create
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.machine import Part, PartDone
from dollkit.data.images import IGNORE
from dollkit.finetuning import grid, run
from dollkit.finetuning import starts as starting
from dollkit.finetuning.run import Initialisation, Job, TaskData
from dollkit.pretraining import folders_of
from dollkit.training import adapters, weights
from dollkit.training.recipe import Recipe
from tests import same
from tests.small_run import CONFIG, CPU, ENCODER, make_grid, make_store, save_network, short

RANDOM = Initialisation()
FULL = {"tunings": {"full": (["random"], [1e-3])}, "seeds": [0]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    return run.load_films(make_store(tmp_path_factory.mktemp("task") / "s", 40, ("lungs",)))


def starts(*names: str, **more: Any) -> dict[str, Initialisation]:
    config = {**CONFIG, **more.pop("config", {})}
    given: dict[str, Any] = {"classifiers": {}, "pretrained": {}, **more}
    return starting.starts(names, network="pspnet", config=config, **given)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs that a grid trains, in order."""
    jobs: list[Job] = []
    true = grid.run

    def counted(job: Job, *rest: Any) -> dict[str, Any]:
        jobs.append(job)
        return true(job, *rest)

    monkeypatch.setattr(grid, "run", counted)
    return jobs


def test_parts_share_no_patient_and_training_sets_are_nested(data: TaskData) -> None:
    films = data.films
    who = films["patient_id"].to_numpy()
    for folds in (1, 3):
        table = films.assign(fold=(films.index // 2) % folds)
        for fold in range(folds):
            big, small, other = (
                run.split(table, fold, n, 5, seed) for n, seed in ((8, 3), (4, 3), (8, 4))
            )
            groups = [set(who[p]) for p in (big.train, big.valid, big.test)]
            assert sum(map(len, groups)) == len(set.union(*groups))
            assert small.train.tolist() == big.train[:4].tolist()
            assert other.train.tolist() != big.train.tolist()
            assert small.test.tolist() == other.test.tolist() == big.test.tolist()
            assert small.valid.tolist() == other.valid.tolist() == big.valid.tolist()
    with pytest.raises(InputError, match="n_train"):
        run.split(films, 0, 500, 5, 0)


def test_starts_name_what_they_lack(tmp_path: Path) -> None:
    made = {"doll": save_network(tmp_path / "doll", activation="relu")}
    # No tensor tells the activation: only the configuration does.
    with pytest.raises(InputError, match="'activation' here is 'silu'"):
        starts("doll", pretrained=made)
    starts("doll", pretrained=made, config={"activation": "relu"})
    assert starts("imagenet", imagenet_weights="")["imagenet"].reason == "no weights"
    assert starts("imagenet")["imagenet"].reason.startswith("no weights: no package ships")


def test_files_tell_what_is_copied_and_what_is_trained(
    device: torch.device, tmp_path: Path, data: TaskData
) -> None:
    made = save_network(tmp_path / "doll")
    model = create(ENCODER, 5, "silu", "lse", 0, CPU)
    (tmp_path / "c").mkdir()
    weights.save(model, tmp_path / "c", model.config)
    given = starts(
        "random", "imagenet", "classifier", "doll",
        classifiers={ENCODER: tmp_path / "c"}, pretrained={"doll": made}, imagenet_weights="",
    )  # fmt: skip
    some = {tuning: ["doll"] for tuning in adapters.TUNINGS[1:]}
    rates = {"full": [1e-3], "other": [1e-2]}
    tunings = grid.tunings_of(["doll"], some, rates)
    more: Any = {"rank": 2, "seeds": [0], "device": device}
    whole = make_grid(tmp_path, data=data, starts=given, tunings=tunings, **more)
    copied, trained = starting.write(tmp_path, whole)
    assert json.loads((tmp_path / "transfer.json").read_text()) == copied
    assert json.loads((tmp_path / "trainable.json").read_text()) == trained
    assert copied["imagenet"] == {"not_run": "no weights"}
    assert copied["random"]["copied"] == []
    assert all(n.startswith("encoder.") for n in copied["classifier"]["copied"])
    assert copied["doll"]["drawn"] == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert list(trained) == list(adapters.TUNINGS)
    assert trained["full"]["trainable"] == trained["full"]["total"]
    assert trained["lora"]["bytes"] == 4 * trained["lora"]["trainable"]
    # The runs train what the files say, and every tuning reaches its table.
    counts = grid.execute(whole)["runs"].set_index("tuning")["trainable"]
    assert counts.to_dict() == {t: v["trainable"] for t, v in trained.items()}


def test_an_arm_that_copies_more_than_it_says_is_caught(tmp_path: Path, data: TaskData) -> None:
    def sly(net: nn.Module) -> list[str]:
        nn.init.ones_(net.segmentation_head[0].bias)  # type: ignore[index, arg-type]
        return []

    with pytest.raises(AssertionError, match="segmentation_head"):
        starting.transferred(
            make_grid(tmp_path, data=data, starts={"random": Initialisation(sly)}, **FULL)
        )


def test_a_run_that_moves_what_is_frozen_is_caught(
    tmp_path: Path, data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_grid(tmp_path, data=data, tunings={"bn": (["random"], [1e-3])})
    fit = run.fit
    always = {"train_mode": nn.Module.train}
    monkeypatch.setattr(run, "fit", lambda *args, **more: fit(*args, **{**more, **always}))
    with pytest.raises(AssertionError, match="running_mean should have stayed"):
        grid.execute(whole)


def test_grid_chooses_by_validation_and_resumes(
    tmp_path: Path, data: TaskData, ran: list[Job]
) -> None:
    whole = make_grid(tmp_path, data=data)
    frames = grid.execute(whole)
    chosen = frames["selection"]
    assert len(chosen) == 2
    best = chosen.loc[chosen["val_miou"].idxmax()]
    assert best["selected"]
    assert (frames["runs"]["lr"] == best["lr"]).all()
    cases = frames["cases"]
    assert set(cases["arm"]) == {"random"}  # the other one has no weights
    assert len(cases) == 2 * len(whole.split(0, 6, 0).test)
    assert (cases[["tp", "fn"]].sum(axis=1) == 64).all()  # every truth is a square of 8 x 8
    assert len(ran) == 3  # the chosen run of the first seed is not run again
    again = grid.execute(make_grid(tmp_path, data=data))
    pd.testing.assert_frame_equal(again["cases"], cases)
    assert len(ran) == 3
    grid.execute(make_grid(tmp_path, data=data, key="other"))
    assert len(ran) == 6


def test_parts_of_a_grid_leave_nothing_to_the_whole(
    tmp_path: Path, data: TaskData, ran: list[Job]
) -> None:
    asked = {
        "starts": {"random": RANDOM, "other": RANDOM}, "data": data,
        "tunings": {"full": (["random", "other"], [1e-4, 3e-3]), "head": (["other"], [1e-3])},
    }  # fmt: skip
    alone = grid.execute(make_grid(tmp_path, folder=tmp_path / "alone", **asked))
    ran.clear()
    made = []
    for number in (1, 2):
        with pytest.raises(PartDone, match=f"part {number}/2"):
            grid.execute(make_grid(tmp_path, **asked), Part(number, 2))
        made.append(len(ran))
    # Of a cell: each rate, and the chosen one with the other seed.
    assert made == [3 + 2, 3 + 3 + 2]
    whole = grid.execute(make_grid(tmp_path, **asked))
    assert len(ran) == made[1]
    for name in ("cases", "curves", "selection"):
        frames = (f[name].drop(columns="seconds", errors="ignore") for f in (whole, alone))
        pd.testing.assert_frame_equal(*frames)
    kept = [sorted((tmp_path / n / "networks").iterdir()) for n in ("out", "alone")]
    assert [f.name for f in kept[0]] == [f.name for f in kept[1]]
    assert all(same(load_file(a), load_file(b)) for a, b in zip(*kept, strict=True))


def test_every_run_starts_from_the_pretraining_of_its_turn(
    tmp_path: Path, data: TaskData, ran: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [save_network(f, seed) for seed, f in enumerate(folders_of(tmp_path / "doll", 2))]
    sums = [float(weights.read(f)[1]["encoder.model.conv1.0.weight"].sum()) for f in made]
    seen: list[float] = []
    real = run.fit

    def watched(net: nn.Module, *args: Any, **given: Any) -> Any:
        seen.append(float(net.state_dict()["encoder.model.conv1.0.weight"].sum()))
        return real(net, *args, **given)

    monkeypatch.setattr(run, "fit", watched)
    more: Any = {"data": data, "tunings": {"full": (["doll"], [1e-3])}, "seeds": [0, 1, 2]}
    given = starts("doll", pretrained={"doll": made[0]})
    grid.execute(whole := make_grid(tmp_path, starts=given, **more))
    assert seen == [sums[0], sums[1], sums[0]]
    # The kept network tells which of them it started from.
    (kept,) = (tmp_path / "out" / "networks").iterdir()
    run.restored(kept, ran[0], whole.config, 1, given["doll"])
    # Another second network repeats the runs from it, and no others.
    save_network(made[1], seed=9)
    ran.clear()
    grid.execute(make_grid(tmp_path, starts=starts("doll", pretrained={"doll": made[0]}), **more))
    assert [job.seed for job in ran] == [1]


def test_ignored_pixels_are_neither_taught_nor_scored(tmp_path: Path, data: TaskData) -> None:
    """Squares ignored in their left half; in every fourth film a class is ignored."""
    targets = np.repeat(data.targets, 2, 1)
    for lungs in targets[:, 0]:
        left = np.flatnonzero(lungs.any(0))[:4]
        lungs[:, left] *= IGNORE
    targets[::4, 1] = IGNORE
    data = replace(data, targets=targets, classes=("lungs", "heart"))
    assert np.unique(data.masks).tolist() == [0, 1]
    whole = make_grid(tmp_path, data=data, **FULL)
    frames = grid.execute(whole)
    cases = frames["cases"].assign(pixels=lambda c: c["tp"] + c["fn"])
    assert (cases.loc[cases["class"] == "lungs", "pixels"] == 32).all()
    number = cases["image_id"].str.removeprefix("film").astype(int)
    heart, unseen = cases["class"] == "heart", (cases["class"] == "heart") & (number % 4 == 0)
    assert unseen.any()
    assert (cases.loc[unseen, ["tp", "fp", "fn"]] == 0).all(axis=None)
    assert cases.loc[unseen, "iou"].isna().all()
    assert (cases.loc[heart & ~unseen, "pixels"] == 64).all()
    shown = grid.examples(whole, frames["runs"], "full", 3)
    assert np.unique(shown["truth"]).tolist() == [0, 1]


def test_a_rate_that_diverges_is_not_chosen(
    tmp_path: Path, data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = grid.run

    def diverging(job: Job, *more: Any) -> dict[str, Any]:
        if job.lr == 3e-3:
            raise FloatingPointError("loss is not finite at step 2")
        return true(job, *more)

    monkeypatch.setattr(grid, "run", diverging)
    frames = grid.execute(make_grid(tmp_path, data=data, seeds=[0]))
    assert frames["selection"].set_index("lr")["selected"].to_dict() == {1e-4: True, 3e-3: False}
    assert set(frames["runs"]["lr"]) == {1e-4}


def test_validation_films_without_a_pixel_to_judge_by(tmp_path: Path, data: TaskData) -> None:
    targets = data.targets.copy()
    targets[run.split(data.films, 0, 6, 4, 0).valid] = IGNORE
    frames = grid.execute(make_grid(tmp_path, data=replace(data, targets=targets), seeds=[0]))
    assert frames["selection"]["val_miou"].isna().all()
    assert frames["selection"]["selected"].tolist() == [True, False]
    assert (frames["cases"][["tp", "fn"]].sum(axis=1) == 64).all()


def test_other_sizes_and_perturbed_films(
    device: torch.device, tmp_path: Path, data: TaskData
) -> None:
    more: Any = {"changes": {"noise": [5.0], "contrast": [0.0]}, "sizes": {4: ["random"]}}
    tunings = {"full": (["random"], [1e-3]), "bn": (["random"], [1e-3])}
    whole = make_grid(tmp_path, data=data, tunings=tunings, seeds=[0], device=device, **more)
    frames = grid.execute(whole)
    runs = frames["runs"].set_index(["tuning", "n_train"])
    assert list(runs.index) == [("full", 6), ("bn", 6), ("full", 4)]
    assert runs.loc[("full", 6), "memory_mb"] > runs.loc[("bn", 6), "memory_mb"] > 0
    robust, cases = frames["robust"], frames["cases"]
    main = cases[(cases["tuning"] == "full") & (cases["n_train"] == 6)]
    assert set(zip(robust["tuning"], robust["n_train"], strict=True)) == {("full", 6)}
    sizes = robust.groupby(["perturbation", "level"], sort=False).size().to_dict()
    assert sizes == {("noise", 5.0): len(main), ("contrast", 0.0): len(main)}
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
def test_a_kept_network_predicts_as_it_did(tmp_path: Path, data: TaskData, tuning: str) -> None:
    more: Any = {"tunings": {tuning: (["random"], [1e-4, 3e-2])}, "recipe": short(20)}
    whole = make_grid(tmp_path, data=data, seeds=[0], **more)
    frames = grid.execute(whole)
    job = Job(*frames["runs"].iloc[0][list(Job.__dataclass_fields__)])
    (path,) = (tmp_path / "out" / "networks").iterdir()
    assert path.stem == job.name
    assert not list((tmp_path / "out" / "jobs").glob("*.safetensors"))
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
    with pytest.raises(InputError, match="made by 'lungs pspnet random"):
        run.restored(path, job, whole.config, 1, replace(RANDOM, key="other weights"))


def test_what_does_not_decide_a_job_does_not_stale_it(
    tmp_path: Path, data: TaskData, ran: list[Job]
) -> None:
    """`NO_MATTER` and the key of a job: sizes swapped, perturbations added."""
    more: Any = {"data": data, "changes": {"noise": [5.0]}, **FULL}
    grid.execute(make_grid(tmp_path, n_train=6, sizes={4: ["random"]}, **more))
    assert [job.n_train for job in ran] == [6, 4]
    swapped = make_grid(tmp_path, n_train=4, sizes={6: ["random"]}, **more)
    frames = grid.execute(swapped)
    # Perturbed films are counted for the main size alone: now it is the other one.
    assert sorted(job.n_train for job in ran[2:]) == [4, 6]
    assert set(frames["robust"]["n_train"]) == {4}
    grid.execute(swapped)
    assert len(ran) == 4


def test_grid_refuses_what_cannot_run(tmp_path: Path, data: TaskData) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seeds": [0, 0]}, r"'seeds' is .0, 0.: one or more, each once"),
        ({"folds": [0, 1]}, "'folds' has 1: these films have a split"),
        ({"tunings": {"bn": (["random"] * 2, [1e-3])}}, "'tunings' is .*: one or more, each once"),
        ({"tunings": {"full": (["random"], [])}}, "'lrs' has no rate for 'full'"),
        ({"sizes": {4: ["doll"]}}, "'size_arms' names 'doll'"),
        ({"sizes": {500: ["random"]}}, "n_train"),
    ]
    for change, said in changes:
        with pytest.raises(InputError, match=said):
            make_grid(tmp_path, data=data, **change)
    for tunings, lrs, said in (({"full": ["a"]}, {}, "'tunings' names 'full'"),
                               ({}, {"lor": [1.0]}, "'lrs' names 'lor'")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            grid.tunings_of(["a"], tunings, lrs)


N, IN, MID = 4, 8, 16
WEIGHTS = IN * MID + MID + MID + 1
X, TANH = N * IN, N * MID  # the first layer keeps its input; tanh its output, which the next shares


@pytest.mark.parametrize(
    ("freeze", "numbers"),
    [
        (lambda net: None, WEIGHTS + 3 * WEIGHTS + X + TANH),
        # The head needs what lies behind it alone.
        (lambda net: net[0].requires_grad_(False), WEIGHTS + 3 * (MID + 1) + TANH),
    ],
)
def test_memory_of_a_step_by_hand(freeze: Callable[[Any], object], numbers: int) -> None:
    net = nn.Sequential(nn.Linear(IN, MID), nn.Tanh(), nn.Linear(MID, 1))
    freeze(net)
    recipe = Recipe(steps=1, batch=N, lr=0.1, precision="float32")
    assert run.tensors_of_step(net, lambda m: m(torch.zeros(N, IN)).sum(), recipe) == 4 * numbers


SIXTEEN = pd.DataFrame(
    {
        "patient_id": [f"p{i}" for i in range(16)],
        "split": ["train"] * 10 + ["valid"] * 2 + ["test"] * 4,
        "fold": 0,
    }
)


def test_sizes_are_sorted_zero_is_all_and_what_there_is_not_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        assert grid.sizes_of([8, 11, 0, 4, 2], 8, SIXTEEN, [0], 2) == [2, 4, 10]
    assert "no run with 11 training films: there are 10" in caplog.text
    folded = SIXTEEN.assign(fold=[0, 1] * 8)
    # Eight films outside a fold, of which two validate: every fold has six.
    assert grid.sizes_of([0], 2, folded, [0, 1], 2) == [6]
    with pytest.raises(InputError, match="'sizes' has -1"):
        grid.sizes_of([-1], 8, SIXTEEN, [0], 2)
