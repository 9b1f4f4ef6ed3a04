"""The path on a user's folder: each step once, and again only if what makes it changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dollkit.interactive.your_radiographs import predict, read_and_check, steps
from dollkit.interactive.your_radiographs.example import COLUMNS, write_example
from dollkit.training.loss_and_optimiser import Recipe
from tests.small_files import error_of

ENCODER = "tu-test_resnet"
ARMS = ["random", "doll"]
RECIPE = Recipe(2, 4, 0.01, evaluate_every=2, precision="float32")


class Walk:
    """Everything up to the network that draws, as notebook 11 does it, as small as it gets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        given = write_example(root / "example", n=40, masked=16, dicom=0)
        self.films = Path(given["films"])
        self.yours = read_and_check.read_radiographs(
            *(Path(p) for p in given.values()), COLUMNS, folds=2
        )

    def run(self) -> pd.DataFrame:
        self.store, masked = steps.build_stores(self.yours, self.root / "stores", 64)
        trained = steps.train_classifiers(
            self.store, self.root / "classifiers", [ENCODER], RECIPE, "silu"
        )
        labels = steps.label_films(
            self.store, trained, self.root / "labels", n_label=6, n_hold=3, most_steps=2
        )
        made = steps.pretrain(
            ARMS, self.store, labels, trained, self.root / "pretrain", "pspnet",
            steps=2, precision="float32", batch=4,
        )  # fmt: skip
        self.setup = steps.set_up(masked, ARMS, trained, made, "pspnet", RECIPE, [0.003], 2)
        frames = steps.compare_starts(self.setup, self.root / "finetune", (2,), [0, 1])
        self.network, self.seen = steps.final_network(
            self.setup, self.root / "network", "doll", frames["selection"], 0
        )
        return frames["cases"]


Walked = tuple[Walk, pd.DataFrame]


def stamps(root: Path) -> dict[Path, int]:
    """When each file of weights, labels and jobs was written."""
    kinds = ("weights.safetensors", "history.csv", "*.npz", "images.npy")
    files = (f for kind in kinds for f in root.rglob(kind) if "store" not in f.parts)
    return {f: f.stat().st_mtime_ns for f in files}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Walked:
    walk = Walk(tmp_path_factory.mktemp("path"))
    return walk, walk.run()


def test_every_start_is_judged_on_every_patient(walked: Walked) -> None:
    walk, cases = walked
    films = walk.yours.task.films
    assert set(cases["arm"]) == set(ARMS)
    assert set(cases["n_train"]) == {2, int(cases["n_train"].max())}
    for _, part in cases.groupby(["arm", "n_train", "seed"]):
        assert sorted(part["image_id"].unique()) == sorted(films["image_id"])
        assert len(part) == 2 * len(films)
    learning = walk.store.films[walk.store.films["split"] != "test"]
    assert not set(cases["patient_id"]) & set(learning["patient_id"])


def test_a_second_walk_computes_nothing(walked: Walked) -> None:
    walk, cases = walked
    before = stamps(walk.root)
    again = walk.run()
    assert stamps(walk.root) == before
    pd.testing.assert_frame_equal(again, cases)


def test_a_network_that_draws(walked: Walked) -> None:
    walk, _ = walked
    note = json.loads((walk.network / predict.NOTE).read_text())
    assert (note["classes"], note["size"]) == (["heart", "lungs"], 64)
    assert sorted(walk.seen) == sorted(walk.yours.task.films["image_id"])
    assert not list(walk.network.glob("*.tuned.safetensors"))
    drawn, out = predict.load_segmenter(walk.network), walk.root / "predictions"
    table, _ = predict.predict(drawn, walk.films, out, trained_on=walk.seen)
    assert table["trained_on"].sum() == 2 * len(walk.seen)
    # What was drawn is a folder of masks, to be corrected and trained on.
    rows = pd.read_csv(walk.root / "example" / "findings.csv", dtype=str)
    split = rows.assign(split=["train", "valid"] * (len(rows) // 2), patient=rows["image"])
    split.to_csv(walk.root / "own.csv", index=False)
    again = read_and_check.read_radiographs(walk.films, walk.root / "own.csv", out, COLUMNS)
    assert len(again.task) == len(rows)


def test_without_a_comparison_the_rate_is_chosen_on_validation_films(walked: Walked) -> None:
    walk, _ = walked
    setup = replace(walk.setup, lrs=[0.003, 0.01])
    folder, _ = steps.final_network(setup, walk.root / "alone", "random", None, 0)
    assert json.loads((folder / predict.NOTE).read_text())["lr"] in (0.003, 0.01)


def test_classifiers_given_trained_are_scored_on_the_films(walked: Walked) -> None:
    walk, _ = walked
    trained = steps.trained_classifiers(walk.root / "classifiers", ENCODER)
    assert list(trained) == [ENCODER]
    assert "no weights" in error_of(steps.trained_classifiers, walk.root / "stores")

    def score() -> pd.DataFrame:
        return steps.score_classifiers(walk.store, trained, walk.root / "aurocs", "train")

    table, file = score(), walk.root / "aurocs" / ENCODER / "metrics.csv"
    n = int((walk.store.films["split"] == "train").sum())
    assert table.loc[table["finding"] == "macro", "n"].tolist() == [n]
    file.write_text("kept\n1\n")
    assert score()["kept"].tolist() == [1]
    file.unlink()  # a step whose files are gone
    assert "auroc" in score()


@pytest.mark.parametrize(
    ("fold", "split", "compare", "n_valid", "message"),
    [
        ("01010", "", True, 1, "masks of 5 patients: 6 are the least to hold some out"),
        ("0", "train", False, 1, "{'train': 1}: put some into each of train, valid"),
        ("01", "", False, 1, ""),
        ("010101", "", True, 1, ""),
        ("012301", "", True, 2, ""),
        ("012301", "", True, 4, "'n_valid' (4) and 'folds' (4)"),
        ("0" * 8, "valid", True, 1, "{'train': 5, 'valid': 3}"),
        ("0" * 8, "valid", False, 1, ""),
    ],
)
def test_masks_suffice(fold: str, split: str, compare: bool, n_valid: int, message: str) -> None:
    """A film of each patient; with a split of the table five are to train on."""
    films = pd.DataFrame({"patient_id": range(len(fold)), "fold": list(map(int, fold))})
    films["split"] = [split if i > 4 else "train" for i in range(len(fold))]
    if not message:
        assert steps.check_masks(films, compare, n_valid)
        return
    assert message in error_of(steps.check_masks, films, compare, n_valid)
