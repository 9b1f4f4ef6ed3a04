"""The plan of a run: known counts on trees in the original formats, and what cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dollkit.common.findings import FINDINGS
from dollkit.workflow import cli, plan, stages
from tests.phantom_layouts import write_layout, write_tree

CHEXPERT, COVID = "CheXpert-v1.0-small", "COVID-QU-Ex"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CheXpert and COVID-QU-Ex, and nothing for organs."""
    out = tmp_path_factory.mktemp("plan") / "two"
    write_tree(out / CHEXPERT, 40, 64, 0, valid_fraction=0.3)
    write_layout(out / COVID, "covid-qu-ex", 64, 64, 1)
    return out


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))


def refused(capsys: pytest.CaptureFixture[str], profile: str, data: Path | None = None) -> str:
    """What is known of the films, and the one line that says what cannot work."""
    given = [] if data is None else ["--data", str(data)]
    assert cli.main(["plan", "--profile", profile, *given]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("cannot run: ")
    return told.out + told.err


def test_counts_of_data_sets_are_those_of_their_tables(two: Path) -> None:
    given = next(i for i in stages.plan("paper", two) if i.name == "data").parameters
    stores = plan.stores_of(given)
    origin = {name: films.source for name, films in stores.items()}
    # COVID-QU-Ex has lung masks too; organs it has not.
    covid = "covid_qu_ex"
    assert origin == {"films": "chexpert", "lungs": covid, "infection": covid, "organs": "phantom"}
    rows = pd.concat([pd.read_csv(two / CHEXPERT / f"{s}.csv") for s in ("train", "valid")])
    positive = stores["films"].positives
    assert len(positive) == len(rows) == 40
    columns = list(FINDINGS)
    assert positive[columns].sum().tolist() == (rows[columns] == 1).sum().tolist()
    drawn = list((two / COVID).rglob("infection masks/*.png"))
    masked = stores["infection"].masked
    for split, folder in zip(("train", "valid", "test"), ("Train", "Val", "Test"), strict=True):
        own = [f for f in drawn if folder in f.parts and "COVID-19" in f.parts]
        assert (masked["split"] == split).sum() == len(own) > 0


def test_what_is_missing_is_a_note(two: Path) -> None:
    text = "\n".join(plan.lines("paper", two))
    for words in (
        "organs, from phantom: 224", "note: organs come from the phantom", "note: n_label is",
        "note: too few masks for sizes", "Time: at most about", "Disk: about",
    ):  # fmt: skip
        assert words in text


def test_phantom() -> None:
    text = list(plan.lines("smoke", None))
    assert text[0] == "profile smoke, data: none, the phantom alone"
    assert any("films, from phantom: 240" in line and "144 / 36 / 60" in line for line in text)
    # 6 starts in full, 3 tunings of one start, 2 starts with all 8 films; 2 rates, 2 seeds.
    assert "finetune/pspnet-lungs: 33 trainings; 8 films with masks to train on" in text
    assert "Stages: 15 of 15 have not run yet" in text


def test_too_few_masks_stop_after_the_counts(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's profile wants 16 films to train on: this JSRT has 16 in all."""
    more = shutil.copytree(two, tmp_path / "more")
    write_layout(more / "JSRT", "jsrt", 16, 64, 2)
    text = refused(capsys, "paper", more)
    assert "organs, from jsrt: 16" in text
    assert "finetune/pspnet-organs: parameter 'n_train' is 16" in text
    assert "'stores: {organs: phantom}'" in text
    lost = next((more / CHEXPERT).rglob("view1_frontal.jpg"))
    lost.unlink()
    assert str(lost) in refused(capsys, "disk", more)


def test_calls_that_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give it as DATA=dir" in refused(capsys, "paper")
    assert "no known data set here" in refused(capsys, "disk", tmp_path)


def test_an_estimate_grows_with_the_work_and_is_right_for_the_base_run() -> None:
    record = json.loads((plan.paths.ROOT / plan.BASE).read_text())["stages"]
    run = {name: dict(stage["parameters"]) for name, stage in record.items()}
    once = plan.work(run, run)
    began = min(plan.datetime.fromisoformat(s["started"]) for s in record.values())
    last = max(record.values(), key=lambda s: s["started"])
    took = (plan.datetime.fromisoformat(last["started"]) - began).total_seconds() + last["seconds"]
    assert once / plan.pixels_per_second() / plan.BASE_CORES == pytest.approx(took, rel=0.02)
    tuned = plan.work(run, ["finetune/pspnet-lungs"])
    run["finetune/pspnet-lungs"]["steps"] *= 2
    assert plan.work(run, run) == pytest.approx(once + tuned)
