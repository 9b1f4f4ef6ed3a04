"""Transfer, classifiers, pre-training targets and the grid of fine-tuning runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dollkit import pretraining
from dollkit.classifiers.model import (
    Classifier,
    create,
    evaluate,
    load_classifier,
    train,
    transfer_encoder,
)
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.common.shares import Done, Part
from dollkit.data.films import COLUMNS
from dollkit.data.images import IGNORE
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.finetuning import grid
from dollkit.finetuning import run as finetuning
from dollkit.labels import store as labelstore
from dollkit.training import adapters, networks, weights
from dollkit.training.augment import NONE
from dollkit.training.recipe import Recipe
from tests import far, same

CPU = torch.device("cpu")
ENCODER = "resnet18"


def network(classes: int = 2, name: str = "pspnet", seed: int = 0) -> nn.Module:
    with compute.seeded(seed):
        return networks.build(name, ENCODER, classes)


def films_table(n: int, classes: int = 14) -> pd.DataFrame:
    table = pd.DataFrame({c: [""] * n for c in COLUMNS if c not in FINDINGS})
    table["image_id"] = [f"film{i:03d}" for i in range(n)]
    table["patient_id"] = [f"patient{i // 2:03d}" for i in range(n)]
    table["study_id"] = table["image_id"]
    share = np.arange(n) // 2 * 2 / n
    table["split"] = np.where(share < 0.5, "train", np.where(share < 0.7, "valid", "test"))
    table["fold"], table["age"], table["width"], table["height"] = 0, 50, 64, 64
    table["view"], table["sex"], table["source"] = "PA", "F", "test"
    rng = np.random.default_rng(0)
    for f in FINDINGS:
        table[f] = rng.integers(0, 2, n)
    return table[list(COLUMNS)]


def make_store(path: Path, n: int, classes: tuple[str, ...]) -> Store:
    """Bright squares whose place the masks give; Edema says whether there is one."""
    rng = np.random.default_rng(1)
    table = films_table(n)
    images = rng.integers(20, 60, (n, 64, 64)).astype(np.uint8)
    masks = np.zeros((n, len(classes), 64, 64), np.uint8)
    for i in range(n):
        y, x = rng.integers(4, 40, 2)
        if table["Edema"].iloc[i] or "Edema" not in classes:
            images[i, y : y + 16, x : x + 16] += 150
            masks[i, :, y : y + 16, x : x + 16] = 1
    with StoreWriter(path, 64, list(classes), n, {"test": 1}) as out:
        out.write(0, images, masks, np.ones((n, len(classes)), bool))
        out.finish(table)
    return open_store(path)


def test_transfer_copies_all_but_the_output_layer() -> None:
    source, target = network(14, seed=1), network(2, seed=2)
    head = target.state_dict()["segmentation_head.0.weight"].clone()
    copied = networks.transfer(target, source.state_dict())
    state = target.state_dict()
    assert set(state) - set(copied) == {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert all(torch.equal(state[k], source.state_dict()[k]) for k in copied)
    assert torch.equal(state["segmentation_head.0.weight"], head)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.pop("encoder.conv1.weight"), "encoder.conv1.weight is not in"),
        (lambda s: s.update({"encoder.conv1.weight": torch.zeros(3)}), r"conv1.weight is \(3,\)"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "extra has no place"),
    ],
)
def test_transfer_fails_on_the_first_mismatch(
    spoil: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    source = dict(network(14).state_dict())
    spoil(source)
    with pytest.raises(InputError, match=said):
        networks.transfer(network(2), source)


def test_classifier_backbone_moves_whole_or_not_at_all() -> None:
    model = Classifier(ENCODER, 5, "silu", "lse")
    net = network()
    copied = transfer_encoder(net, model)
    own = model.encoder.state_dict()
    assert copied
    assert all(torch.equal(net.state_dict()[k], own[k.removeprefix("encoder.")]) for k in copied)
    with pytest.raises(InputError, match="same architecture"):
        transfer_encoder(net, Classifier("tu-resnet10t", 5, "silu", "lse"))
    with pytest.raises(InputError, match="activation is 'relu'"):
        transfer_encoder(net, Classifier(ENCODER, 5, "relu", "lse"))


def test_classifier_learns_resumes_and_scores(tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 80, PATHOLOGIES)
    model = create("tu-resnet10t", 4, "silu", "lse", 0, CPU)
    recipe = Recipe(steps=50, batch=16, lr=3e-3, evaluate_every=25, precision="float32")
    train(model, store, "U-Ones", recipe, NONE, None, quiet=True)
    table = evaluate(model, store, "test", 50).set_index("finding")
    assert table.loc["Edema", "auroc"] > 0.95  # the square is Edema, the other labels are coins
    assert table.loc["Fracture", "auroc"] < 0.9
    inner = table.drop(index=["macro", "No Finding"], errors="ignore")["auroc"]
    assert table.loc["macro", "auroc"] == pytest.approx(inner.mean())
    weights.save(model, tmp_path, model.config)
    again = load_classifier(tmp_path, CPU)
    assert same(again.state_dict(), model.state_dict())
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert far(again(x), model.eval()(x)) < 1e-4


def test_bad_classifier_weights_are_named(tmp_path: Path) -> None:
    model = Classifier("tu-resnet10t", 3, "silu", "lse")
    with pytest.raises(InputError, match="no readable network"):
        load_classifier(tmp_path, CPU)
    model.head = nn.Conv2d(model.head.in_channels, 5, 1)
    weights.save(model, tmp_path, model.config)
    with pytest.raises(InputError, match=r"head.bias is \(5,\)"):
        load_classifier(tmp_path, CPU)
    model.head = nn.Conv2d(model.head.in_channels, 14, 1)
    with torch.no_grad():
        model.head.bias[3] = float("nan")  # type: ignore[index]
    weights.save(model, tmp_path, model.config)
    with pytest.raises(InputError, match=r"head.bias holds NaN"):
        load_classifier(tmp_path, CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"architecture": "resnet19"}, "resnet19"), ({"activation": "gelu"}, "activation"),
     ({"pooling": "max"}, "pooling")],
)  # fmt: skip
def test_bad_classifiers_are_named(change: dict[str, str], said: str) -> None:
    wanted = {"architecture": ENCODER, "activation": "silu", "pooling": "lse", **change}
    with pytest.raises(InputError, match=said):
        Classifier(wanted["architecture"], 5, wanted["activation"], wanted["pooling"])


def label_some(store: Store, folder: Path) -> labelstore.LabelStore:
    folder.mkdir()
    rows = np.flatnonzero(store.states[:, 5] == 1)
    table = pd.DataFrame(
        {"row": rows, "image_id": store.films["image_id"].to_numpy()[rows], "finding": "Edema",
         "threshold": 0.5, "error": 0.0, "probability": 0.9}
    )  # fmt: skip
    labelstore.write_shard(folder / "a.npz", table, store.masks(rows, ["Edema"])[:, 0])
    return labelstore.merge([folder / "a.npz"], folder / "store", {"size": store.size})


def test_arms_differ_in_their_labels_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 40, PATHOLOGIES)
    labels = label_some(store, tmp_path / "labels")
    rows = labels.rows
    edema = FINDINGS.index("Edema")
    doll = pretraining.targets_of("doll", store, labels, 0)(rows)
    truth = pretraining.targets_of("truth", store, labels, 0)(rows)
    np.testing.assert_array_equal(doll[:, edema], truth[:, edema])
    assert (truth[:, 0] == IGNORE).all()  # No Finding has no place
    shuffled = pretraining.targets_of("shuffled", store, labels, 0)(rows)
    own = (shuffled == doll).all((1, 2, 3))
    assert not own.any()  # nobody keeps its own label
    assert sorted(s.sum() for s in shuffled[:, edema]) == sorted(d.sum() for d in doll[:, edema])
    prior = pretraining.targets_of("prior", store, labels, 0)(rows)
    assert all(np.array_equal(prior[0, edema], p[edema]) for p in prior)
    assert 0 < prior[0, edema].mean() < 0.3
    with pytest.raises(InputError, match="'dolls'"):
        pretraining.targets_of("dolls", store, labels, 0)


def test_truth_needs_masks(tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 12, ("Edema",))
    with pytest.raises(InputError, match="phantom only"):
        pretraining.targets_of("truth", store, label_some(store, tmp_path / "labels"), 0)


def test_pretraining_learns_its_labels(tmp_path: Path) -> None:
    store = make_store(tmp_path / "films", 60, PATHOLOGIES)
    labels = label_some(store, tmp_path / "labels")
    train_rows, held = pretraining.parts(store, labels)
    assert not set(train_rows) & set(held)
    targets = pretraining.targets_of("doll", store, labels, 0)
    recipe = Recipe(steps=60, batch=8, lr=3e-3, evaluate_every=30, precision="float32")
    done = pretraining.pretrain(
        network(14), store, train_rows, held, targets, recipe, background=0.5, dice=0.5,
        augmentation=NONE, folder=None,
    )  # fmt: skip
    assert done.history[-1]["valid_iou"] > 0.5


def task(tmp_path: Path) -> finetuning.Films:
    return finetuning.load_films(make_store(tmp_path / "task", 40, ("lungs",)))


def test_parts_share_no_patient_and_training_sets_are_nested(tmp_path: Path) -> None:
    films = task(tmp_path).films
    who = films["patient_id"].to_numpy()
    for folds in (1, 3):
        table = films.assign(fold=(films.index // 2) % folds)
        for fold in range(folds):
            big = finetuning.split(table, fold, 8, 5, seed=3)
            groups = [set(who[p]) for p in (big.train, big.valid, big.test)]
            assert not groups[0] & groups[1]
            assert not groups[0] & groups[2]
            assert not groups[1] & groups[2]
            small = finetuning.split(table, fold, 4, 5, seed=3)
            assert small.train.tolist() == big.train[:4].tolist()
            assert small.test.tolist() == big.test.tolist()
            other = finetuning.split(table, fold, 8, 5, seed=4)
            assert other.train.tolist() != big.train.tolist()
            assert other.test.tolist() == big.test.tolist()
    with pytest.raises(InputError, match="n_train"):
        finetuning.split(films, 0, 500, 5, 0)


def make_grid(tmp_path: Path, key: str = "k", **more: object) -> grid.Grid:
    starts = {
        "random": finetuning.Start(lambda net: []),
        "imagenet": finetuning.Start(lambda net: [], "no weights"),
    }
    settings: dict[str, object] = {
        "task": "lungs",
        "network": "pspnet",
        "config": {"encoder": ENCODER, "depth": 3, "activation": "silu"},
        "data": task(tmp_path),
        "starts": starts,
        "tunings": {"full": (["random", "imagenet"], [1e-4, 3e-3])},
        "recipe": Recipe(steps=10, batch=4, lr=1.0, evaluate_every=5, precision="float32"),
        "augmentation": NONE,
        "n_train": 6,
        "n_valid": 4,
        "seeds": [0, 1],
        "folds": [0],
        "folder": tmp_path / "out",
        "key": key,
        "where": CPU,
    }
    return grid.Grid(**{**settings, **more})  # type: ignore[arg-type]


def test_grid_chooses_by_validation_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    whole = make_grid(tmp_path)
    frames = grid.execute(whole)
    chosen = frames["selection"]
    assert len(chosen) == 2
    best = chosen.loc[chosen["val_miou"].idxmax()]
    assert best["selected"]
    assert (frames["runs"]["lr"] == best["lr"]).all()
    cases = frames["cases"]
    assert set(cases["arm"]) == {"random"}  # the other one has no weights
    n_test = len(finetuning.split(whole.data.films, 0, 6, 4, 0).test)
    assert len(cases) == 2 * n_test
    pixels = cases[["tp", "fn"]].sum(axis=1)
    assert (pixels == 256).all()  # every truth is a square of 16 x 16

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a finished job ran again")

    monkeypatch.setattr(grid, "run", forbidden)
    again = grid.execute(make_grid(tmp_path))
    pd.testing.assert_frame_equal(again["cases"], cases)
    with pytest.raises(AssertionError, match="ran again"):
        grid.execute(make_grid(tmp_path, key="other"))


def test_parts_of_a_grid_leave_nothing_to_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    start = finetuning.Start(lambda net: [])
    asked = {
        "starts": {"random": start, "other": start},
        "tunings": {"full": (["random", "other"], [1e-4, 3e-3]), "head": (["other"], [1e-3])},
        "recipe": Recipe(steps=2, batch=2, lr=1.0, evaluate_every=2, precision="float32"),
    }
    (tmp_path / "alone").mkdir()
    alone = grid.execute(make_grid(tmp_path, folder=tmp_path / "alone", **asked))
    made = []
    for number in (1, 2):
        with pytest.raises(Done, match=f"part {number}/2"):
            grid.execute(make_grid(tmp_path, **asked), Part(number, 2))
        made.append({f.name for f in (tmp_path / "out/jobs").glob("*.npz")})
    assert len(made[0]) == 3 + 2  # of a cell: each rate, and the chosen one with the other seed
    assert len(made[1]) == 3 + 3 + 2

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a part's job ran again")

    monkeypatch.setattr(grid, "run", forbidden)
    whole = grid.execute(make_grid(tmp_path, **asked))
    for name in ("cases", "curves", "selection"):
        frames = (f[name].drop(columns="seconds", errors="ignore") for f in (whole, alone))
        pd.testing.assert_frame_equal(*frames)
    kept = [sorted((tmp_path / n / "networks").iterdir()) for n in ("out", "alone")]
    assert [f.name for f in kept[0]] == [f.name for f in kept[1]]
    for mine, theirs in zip(*(map(load_file, fs) for fs in kept), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


SHORT = {
    "recipe": Recipe(steps=2, batch=2, lr=1.0, evaluate_every=2, precision="float32"),
    "seeds": [0],
}


def store_with_ignored(path: Path, n: int = 40) -> Store:
    """Bright squares, ignored in their left half; in every fourth film a class is ignored."""
    rng = np.random.default_rng(1)
    images = rng.integers(20, 60, (n, 64, 64)).astype(np.uint8)
    masks = np.zeros((n, 2, 64, 64), np.uint8)
    for i in range(n):
        y, x = rng.integers(4, 40, 2)
        images[i, y : y + 16, x : x + 16] += 150
        masks[i, :, y : y + 16, x : x + 16] = 1
        masks[i, 0, y : y + 16, x : x + 8] = IGNORE
    masks[::4, 1] = IGNORE
    with StoreWriter(path, 64, ["lungs", "heart"], n, {"test": 1}, ignore=True) as out:
        out.write(0, images, masks)
        out.finish(films_table(n))
    return open_store(path)


def test_ignored_pixels_are_neither_taught_nor_scored(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    data = finetuning.load_films(store_with_ignored(tmp_path / "task"))
    assert np.unique(data.targets).tolist() == [0, 1, IGNORE]
    assert np.unique(data.masks).tolist() == [0, 1]
    whole = make_grid(tmp_path, data=data, tunings={"full": (["random"], [1e-4])}, **SHORT)
    frames = grid.execute(whole)
    cases = frames["cases"].assign(pixels=lambda c: c["tp"] + c["fn"], film=lambda c: c["image_id"])
    assert (cases.loc[cases["class"] == "lungs", "pixels"] == 128).all()
    number = cases["film"].str.removeprefix("film").astype(int)
    unseen = (cases["class"] == "heart") & (number % 4 == 0)
    assert unseen.any()
    assert (cases.loc[unseen, ["tp", "fp", "fn"]] == 0).all(axis=None)
    assert cases.loc[unseen, "iou"].isna().all()
    assert (cases.loc[(cases["class"] == "heart") & ~unseen, "pixels"] == 256).all()
    assert np.isfinite(frames["runs"]["best_val_miou"]).all()
    shown = grid.examples(whole, frames["runs"], "full", 3)
    assert np.unique(shown["truth"]).tolist() == [0, 1]


def test_fewer_validation_films_than_asked_for_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    with caplog.at_level("INFO"):
        whole = make_grid(tmp_path, n_valid=500)
    there = len(finetuning.split(whole.data.films, 0, 6, 500, 0).valid)
    assert f"fold 0: {there} validation films, 'n_valid' is 500" in caplog.text


def test_a_rate_that_diverges_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    run = grid.run

    def diverging(job: finetuning.Job, *more: object, **named: object) -> dict[str, object]:
        if job.lr == 3e-3:
            raise FloatingPointError("loss is not finite at step 2")
        return run(job, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(grid, "run", diverging)
    frames = grid.execute(make_grid(tmp_path, **SHORT))
    chosen = frames["selection"].set_index("lr")["selected"]
    assert chosen[1e-4]
    assert not chosen[3e-3]
    assert set(frames["runs"]["lr"]) == {1e-4}
    assert "loss is not finite at step 2, so that this rate is not chosen" in caplog.text


def test_validation_films_without_a_pixel_to_judge_by(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    data = task(tmp_path)
    held = finetuning.split(data.films, 0, 6, 4, 0).valid
    data.targets[held] = IGNORE
    frames = grid.execute(make_grid(tmp_path, data=data, **SHORT))
    assert frames["selection"]["val_miou"].isna().all()
    assert frames["selection"]["selected"].tolist() == [True, False]
    assert (frames["runs"]["lr"] == 1e-4).all()
    assert (frames["cases"][["tp", "fn"]].sum(axis=1) == 256).all()


def test_other_sizes_and_perturbed_films(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    more = {"changes": {"noise": [5.0], "contrast": [0.0]}, "sizes": {4: ["random"]}}
    tunings = {"full": (["random"], [1e-3]), "bn": (["random"], [1e-3])}
    whole = make_grid(tmp_path, tunings=tunings, **SHORT, **more)
    frames = grid.execute(whole)
    runs = frames["runs"].set_index(["tuning", "n_train"])
    assert list(runs.index) == [("full", 6), ("bn", 6), ("full", 4)]
    assert runs.loc[("full", 6), "memory_mb"] > runs.loc[("bn", 6), "memory_mb"] > 0
    robust, cases = frames["robust"], frames["cases"]
    main = cases[(cases["tuning"] == "full") & (cases["n_train"] == 6)]
    assert set(zip(robust["tuning"], robust["n_train"], strict=True)) == {("full", 6)}
    assert robust.groupby(["perturbation", "level"], sort=False).size().to_dict() == {
        ("noise", 5.0): len(main),
        ("contrast", 0.0): len(main),
    }
    # Without contrast all films look alike: one answer for all.
    flat = robust[robust["perturbation"] == "contrast"]
    assert (flat["tp"] + flat["fp"]).nunique() == 1
    assert (main["tp"] + main["fp"]).nunique() > 1
    assert len(grid.examples(whole, frames["runs"], "full", 2)["arms"]) == 1
    kept = sorted(p.name for p in (tmp_path / "out" / "networks").iterdir())
    assert kept == ["random-bn-n6-s0-f0-lr0.001.safetensors",
                    "random-full-n6-s0-f0-lr0.001.safetensors"]  # fmt: skip
    grid.write(tmp_path / "out", frames)
    assert len(pd.read_csv(tmp_path / "out" / "robust.csv.gz")) == len(robust)
    grid.write(tmp_path / "out", {k: v for k, v in frames.items() if k != "robust"})
    assert not (tmp_path / "out" / "robust.csv.gz").exists()


@pytest.mark.parametrize("tuning", adapters.TUNINGS)
def test_a_kept_network_predicts_as_it_did(tmp_path: Path, tuning: str) -> None:
    (tmp_path / "out").mkdir()
    whole = make_grid(tmp_path, tunings={tuning: (["random"], [1e-4, 3e-2])})
    runs = grid.execute(whole)["runs"]
    job = finetuning.Job(*runs.iloc[0][list(finetuning.Job.__dataclass_fields__)])
    (path,) = (tmp_path / "out" / "networks").iterdir()
    assert path.stem == job.name
    assert not list((tmp_path / "out" / "jobs").glob("*.safetensors"))
    shown = grid.examples(whole, runs, tuning, 4)["prediction"][0]
    net = finetuning.restored(path, job, whole.config, 1, whole.starts["random"])
    rows = finetuning.split(whole.data.films, 0, 6, 4, 0).test[:4]
    with torch.inference_mode():
        again = net(compute.to_input(whole.data.images[rows], CPU)) > 0
    np.testing.assert_array_equal(again.numpy(), shown)
    assert 0 < shown.mean() < 1
    # Lost: it is made again. Of a setting that is not asked for any more: it goes.
    cases = grid.execute(whole)["cases"]
    path.unlink()
    (path.parent / "doll-full.safetensors").touch()
    pd.testing.assert_frame_equal(grid.execute(whole)["cases"], cases)
    assert list(path.parent.iterdir()) == [path]
    other = finetuning.Start(lambda net: [], key="other weights")
    with pytest.raises(InputError, match="made by 'lungs pspnet random"):
        finetuning.restored(path, job, whole.config, 1, other)


def test_what_does_not_decide_a_job_does_not_stale_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NO_MATTER` and the key of a job: sizes swapped, perturbations added."""
    (tmp_path / "out").mkdir()
    short = {**SHORT, "tunings": {"full": (["random"], [1e-3])}}
    ran: list[tuple[int, bool]] = []
    true = grid.run

    def counted(job: finetuning.Job, *rest: object) -> dict[str, object]:
        ran.append((job.n_train, bool(rest[8])))
        return true(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(grid, "run", counted)
    noise = {"noise": [5.0]}
    grid.execute(make_grid(tmp_path, n_train=6, sizes={4: ["random"]}, changes=noise, **short))
    assert ran == [(6, True), (4, False)]
    swapped = make_grid(tmp_path, n_train=4, sizes={6: ["random"]}, changes=noise, **short)
    frames = grid.execute(swapped)
    # Perturbed films are counted for the main size alone: now it is the other one.
    assert sorted(ran[2:]) == [(4, True), (6, False)]
    assert set(frames["robust"]["n_train"]) == {4}
    grid.execute(swapped)
    assert len(ran) == 4


def test_grid_refuses_what_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'seeds' has .0, 0.: each one once"):
        make_grid(tmp_path, seeds=[0, 0])
    with pytest.raises(InputError, match=r"'folds' is .0, 1.: these films have a split"):
        make_grid(tmp_path, folds=[0, 1])
    with pytest.raises(InputError, match=r"'tunings' has .'random', 'random'.: each one once"):
        make_grid(tmp_path, tunings={"bn": (["random", "random"], [1e-3])})
    with pytest.raises(InputError, match="'size_arms' names 'doll'"):
        make_grid(tmp_path, sizes={4: ["doll"]})
    with pytest.raises(InputError, match="parameter 'robustness' names 'blur'"):
        make_grid(tmp_path, changes={"blur": [1.0]})
    with pytest.raises(InputError, match="n_train"):
        make_grid(tmp_path, sizes={500: ["random"]})
    with pytest.raises(InputError, match="'tunings' names 'doll' under 'adapter'"):
        make_grid(tmp_path, tunings={"adapter": (["doll"], [1e-3])})
    with pytest.raises(InputError, match="'lrs' has no rate for 'full'"):
        make_grid(tmp_path, tunings={"full": (["random"], [])})
    with pytest.raises(InputError, match="seeds"):
        make_grid(tmp_path, seeds=[])
    with pytest.raises(InputError, match="n_train"):
        make_grid(tmp_path, n_train=10**6)
