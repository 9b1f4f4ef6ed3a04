"""Judging classifiers by CheXlocalize's protocol, from a tree on disk to a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from dollkit.classifiers.model import create
from dollkit.explanations.ensemble import Explain, explain_all
from dollkit.labels import Distil, chexlocalize
from dollkit.labels.__main__ import main
from dollkit.training import weights
from tests.chexpert_trees import localized_tree

LOCALIZED = 10


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOLLKIT_DEVICE", "cpu")
    localized_tree(tmp_path)
    for seed, name in enumerate("ab"):
        model = create("tu-test_resnet", 3, "silu", "avg", seed, torch.device("cpu"))
        (tmp_path / "models" / name).mkdir(parents=True)
        weights.save(model, tmp_path / "models" / name, model.config)
    return tmp_path


def call(work: Path, *more: str) -> int:
    given = ["score", str(work), "--classifiers", str(work / "models"), "--size", "32"]
    return main([*given, "--out", str(work / "out" / "table.csv"), *more])


def test_every_finding_of_the_truth_is_judged(work: Path) -> None:
    assert call(work, "--cutoff", "0") == 0  # all called
    cases = pd.read_csv(work / "out" / "table.cases.csv")
    assert len(cases) == LOCALIZED
    assert set(cases["image_id"]) == {"patient64741_study1_view1_frontal"}
    there = cases.set_index("finding")
    assert there["iou"].notna().sum() == 2  # Edema and Lung Opacity have a mask that is not empty
    assert there.loc["Fracture" if "Fracture" in there.index else "Cardiomegaly", "iou_all"] == 0
    table = pd.read_csv(work / "out" / "table.csv")
    assert list(table) == chexlocalize.COLUMNS
    assert table.iloc[-1]["finding"] == "mean"
    assert table.iloc[-1]["n"] == 2


def test_what_is_not_called_has_an_empty_mask(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError("nothing is called, nothing to explain")

    monkeypatch.setattr(chexlocalize, "explain_all", none)
    made = chexlocalize.score(work, [work / "models"], work / "t.csv", size=32, cutoff=0.999)
    assert made.iloc[-1]["n"] == 0
    cases = pd.read_csv(work / "t.cases.csv").set_index("finding")
    assert cases.loc["Edema", "iou_all"] == 0
    assert cases["iou_all"].notna().sum() == 2  # where both are empty there is nothing to judge


def test_settings_reach_maps_and_thresholds(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Explain] = []

    def spy(models: object, x: object, targets: object, how: Explain) -> object:
        seen.append(how)
        return explain_all(models, x, targets, how)  # type: ignore[arg-type]

    monkeypatch.setattr(chexlocalize, "explain_all", spy)
    models = [work / "models"]
    how = Explain("gradient", unsettled="keep")
    settings = {"split": "valid", "size": 32, "how": how, "cutoff": 0.0}
    areas = []
    for area in (0.05, 0.8):
        distil = Distil(threshold="quantile", area=area)
        chexlocalize.score(work, models, work / "t.csv", distil=distil, **settings)  # type: ignore[arg-type]
        areas.append(pd.read_csv(work / "t.cases.csv").set_index("finding")["iou_all"]["Edema"])
    assert seen == [how, how]
    assert areas[0] != areas[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cutoff", "1"], "parameter 'cutoff' is 1.0"),
        (["--split", "train"], "no film of split 'train' has a mask"),
        (["--dataset", "nothing"], "unknown data set 'nothing'"),
        (["--limit", "0"], "parameter 'limit' is 0"),
        (["--distil", "smooth=9"], "parameter 'smooth' is 9.0"),
        (["--explain", "kind=red"], "parameter 'baseline' is 'red'"),
    ],
)
def test_bad_calls_end_in_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert call(work, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
