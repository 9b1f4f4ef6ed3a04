"""The path on a stranger's folder: each step once, and again only if what makes it changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dollkit.common.errors import InputError
from dollkit.finetuning import run as finetuning
from dollkit.interactive.your_radiographs import compare as comparing
from dollkit.interactive.your_radiographs import predict, read, steps
from dollkit.interactive.your_radiographs.example import COLUMNS, write_example
from dollkit.training.recipe import Recipe

ARMS = ["random", "doll"]
RECIPE = Recipe(2, 4, 0.01, evaluate_every=2, precision="float32")


class Walk:
    """Everything up to the network that draws, as notebook 11 does it, as small as it gets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        given = write_example(root / "example", n=40, masked=16, dicom=0)
        self.films = Path(given["films"])
        self.own = read.read(*(Path(p) for p in given.values()), COLUMNS, folds=2)

    def run(self, sizes: tuple[int, ...] = (2,), compare: bool = True) -> pd.DataFrame | None:
        store, masked = steps.stores(self.own, self.root / "stores", 64)
        trained = steps.train_classifiers(
            store, self.root / "classifiers", ["tu-resnet10t"], RECIPE, "silu"
        )
        labels = steps.label(
            store, trained, self.root / "labels", n_label=6, n_hold=3, most_steps=2
        )
        made = steps.pretrain(
            ARMS, store, labels, trained, self.root / "pretrain", "pspnet",
            steps=2, precision="float32", batch=4,
        )  # fmt: skip
        self.data = finetuning.load_films(masked)
        self.setup = comparing.setup(
            self.data, ARMS, trained, made, "pspnet", RECIPE, [0.003], 2, masked.digest
        )
        frames = None
        if compare:
            frames = comparing.compare(self.setup, self.root / "finetune", sizes, [0, 1])
        selection = None if frames is None else frames["selection"]
        self.network, self.seen = comparing.final(
            self.setup, self.root / "network", "doll", selection, 0
        )
        return None if frames is None else frames["cases"]


def stamps(root: Path, *, but: tuple[str, ...] = ()) -> dict[str, int]:
    """When each file of weights, labels and jobs was written."""
    kinds = ("weights.safetensors", "history.csv", "*.npz", "images.npy")
    return {
        f.relative_to(root).as_posix(): f.stat().st_mtime_ns
        for kind in kinds
        for f in root.rglob(kind)
        if not any(part in but for part in f.parts)
    }


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Walk, pd.DataFrame]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = Walk(tmp_path_factory.mktemp("path"))
    cases = path.run()
    torch.set_num_threads(threads)
    assert cases is not None
    return path, cases


def test_every_start_is_judged_on_every_patient(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, cases = walked
    films = path.own.task.films
    most = int(cases["n_train"].max())
    assert set(cases["arm"]) == set(ARMS)
    assert set(cases["n_train"]) == {2, most}
    for _, part in cases.groupby(["arm", "n_train", "seed"]):
        assert sorted(part["image_id"].unique()) == sorted(films["image_id"])
        assert len(part) == 2 * len(films)


def test_nothing_is_judged_on_what_was_learnt_from(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, cases = walked
    for fold in (0, 1):
        tested = set(cases.loc[cases["fold"] == fold, "patient_id"])
        for seed in (0, 1):
            parts = finetuning.split(path.data.films, fold, 2, 2, seed)
            learnt = np.concatenate([parts.train, parts.valid])
            assert not tested & set(path.data.films["patient_id"].to_numpy()[learnt])
    labelled = pd.read_csv(path.root / "stores" / "films" / "films.csv", dtype=str)
    learning = labelled[labelled["split"] != "test"]
    assert not set(cases["patient_id"]) & set(learning["patient_id"])


def test_a_second_walk_computes_nothing(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, cases = walked
    before = stamps(path.root, but=("store",))
    again = path.run()
    assert stamps(path.root, but=("store",)) == before
    pd.testing.assert_frame_equal(again, cases)


def test_a_further_size_keeps_the_others(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, _ = walked
    before = stamps(path.root / "finetune")
    comparing.compare(path.setup, path.root / "finetune", (2, 3), [0, 1])
    after = stamps(path.root / "finetune")
    assert before.items() <= after.items()
    assert all("-n3-" in name for name in after.keys() - before.keys())
    assert len(after) > len(before)


def test_a_network_that_draws(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, _ = walked
    note = json.loads((path.network / predict.NOTE).read_text())
    assert note["classes"] == ["heart", "lungs"]
    assert note["size"] == 64
    assert sorted(path.seen) == sorted(path.own.task.films["image_id"])
    assert not list(path.network.glob("*.tuned.safetensors"))
    index = predict.predict(predict.load(path.network), path.films, path.root / "predictions",
                            trained_on=path.seen)  # fmt: skip
    assert index["trained_on"].sum() == 2 * len(path.seen)
    # What was drawn is a folder of masks, to be corrected and trained on.
    table = path.root / "example" / "findings.csv"
    rows = pd.read_csv(table, dtype=str)
    own = rows.assign(split=["train", "valid"] * (len(rows) // 2), patient=rows["image"])
    own.to_csv(path.root / "own.csv", index=False)
    again = read.read(path.films, path.root / "own.csv", path.root / "predictions", COLUMNS)
    assert len(again.task) == len(rows)


def test_without_a_comparison_the_rate_is_chosen_on_validation_films(
    walked: tuple[Walk, pd.DataFrame],
) -> None:
    path, _ = walked
    folder = path.root / "alone"
    setup = replace(path.setup, lrs=[0.003, 0.01])
    comparing.final(setup, folder, "random", None, 0)
    assert json.loads((folder / predict.NOTE).read_text())["lr"] in (0.003, 0.01)
    with pytest.raises(InputError, match="'predict_with' is 'truth'"):
        comparing.final(path.setup, folder, "truth", None, 0)


def test_the_rate_of_an_arm_is_that_of_all_folds() -> None:
    table = pd.DataFrame(
        {"arm": "doll", "tuning": "full", "n_train": [8] * 4 + [2], "fold": [0, 0, 1, 1, 0],
         "lr": [1e-3, 1e-2, 1e-3, 1e-2, 1e-2], "val_miou": [0.5, 0.4, 0.3, 0.5, 0.9]}
    )  # fmt: skip
    assert comparing.rate_of(table, "doll") == 1e-2
    table.loc[3, "val_miou"] = np.nan
    assert comparing.rate_of(table, "doll") == 1e-3


def test_a_step_whose_files_are_gone_is_not_done(tmp_path: Path) -> None:
    steps.begin(tmp_path)
    assert not steps.is_done(tmp_path, "key")
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    steps.finish(tmp_path, "key")
    assert steps.is_done(tmp_path, "key")
    assert not steps.is_done(tmp_path, "other key")
    (tmp_path / "weights.safetensors").unlink()
    assert not steps.is_done(tmp_path, "key")


@pytest.mark.parametrize("run", ["", "a/b", "laptop", ".."])
def test_a_run_has_a_name_of_its_own(run: str, monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path))
    with pytest.raises(InputError, match="parameter 'run'"):
        steps.work_folder(run)


def test_several_numbers_in_one_parameter() -> None:
    known = ("pretrain", "finetune")
    assert steps.numbers("steps", {"pretrain": 1, "finetune": 2}, known)["finetune"] == 2
    for wrong in ({"pretrain": 1}, {"pretrain": 1, "finetune": 0},
                  {"pretrain": 1, "finetune": 1, "x": 1}):  # fmt: skip
        with pytest.raises(InputError, match="give pretrain, finetune, each 1 or more"):
            steps.numbers("steps", wrong, known)


def test_given_classifiers_start_with_the_named_one(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, _ = walked
    folder = path.root / "classifiers"
    assert list(steps.given_classifiers(folder)) == ["tu-resnet10t"]
    assert list(steps.given_classifiers(folder, "tu-resnet10t")) == ["tu-resnet10t"]
    with pytest.raises(InputError, match="no weights"):
        steps.given_classifiers(path.root / "stores")


def test_given_classifiers_are_judged_on_the_films(walked: tuple[Walk, pd.DataFrame]) -> None:
    path, _ = walked
    store, _ = steps.stores(path.own, path.root / "stores", 64)
    given = steps.given_classifiers(path.root / "classifiers")
    table = steps.judge_given(store, given, path.root / "given")
    assert set(table["classifier"]) == {"tu-resnet10t"}
    assert table.loc[table["finding"] == "macro", "n"].tolist() == [
        int((store.films["split"] == "train").sum())
    ]
    path.root.joinpath("given", "tu-resnet10t", "metrics.csv").write_text("kept\n1\n")
    assert steps.judge_given(store, given, path.root / "given")["kept"].tolist() == [1]
