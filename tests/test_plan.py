"""The plan of a run: known counts on trees in the original formats, and what cannot work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dollkit.classifiers.model import create
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.phantom.layouts import write_layout, write_tree
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.explanations import cost
from dollkit.training import networks
from dollkit.workflow import plan_disk, plan_films, plan_hours, plan_jobs, plan_work, stage, stages
from dollkit.workflow.plan import main
from dollkit.workflow.stages import Instance

# A plan looks up what every notebook imports, and the base run is counted anew: seconds each.
_plan, _files, _rates = cache(stages.plan), cache(stages.source_files), cache(plan_hours.measured)


def plan_once(profile: str, data: Path | None = None) -> list[Instance]:
    return _plan(profile, data)


CHEXPERT, COVID = "CheXpert-v1.0-small", "COVID-QU-Ex"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CheXpert and COVID-QU-Ex, and nothing for organs."""
    out = tmp_path_factory.mktemp("plan") / "two"
    write_tree(out / CHEXPERT, 40, 64, 0, valid_fraction=0.3, progress=False)
    write_layout(out / COVID, "covid-qu-ex", 64, 64, 1, progress=False)
    return out


@pytest.fixture(scope="module")
def more(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and a few films of JSRT."""
    out = tmp_path_factory.mktemp("plan") / "more"
    shutil.copytree(two, out)
    write_layout(out / "JSRT", "jsrt", 16, 64, 2, progress=False)
    return out


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stages, "plan", plan_once)
    monkeypatch.setattr(stages, "source_files", _files)
    monkeypatch.setattr(plan_hours, "measured", _rates)
    return tmp_path


def planned(
    profile: str, data: Path | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], str]:
    file = tmp_path / "plan.json"
    given = ["--profile", profile, "--json", str(file)] + (["--data", str(data)] if data else [])
    assert main(given) == 0
    told = capsys.readouterr()
    assert not told.err
    return json.loads(file.read_text()), told.out


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert main(given) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.count("\n") == 1
    return told.err


def test_paper(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, told = planned("paper", two, tmp_path, capsys)
    stores = {row["name"]: row for row in found["stores"]}
    origin = {name: row["from"] for name, row in stores.items()}
    # COVID-QU-Ex has lung masks too; organs it has not.
    covid = "covid_qu_ex"
    assert origin == {"films": "chexpert", "lungs": covid, "infection": covid, "organs": "phantom"}
    assert "note: organs come from the phantom" in told
    rows = pd.concat([pd.read_csv(two / CHEXPERT / f"{s}.csv") for s in ("train", "valid")])
    assert stores["films"]["films"] == len(rows) == 40
    assert stores["films"]["patients"] == rows["Path"].str.split("/").str[2].nunique()
    for finding in FINDINGS:
        assert sum(stores["films"]["positives"][finding].values()) == (rows[finding] == 1).sum()
    drawn = list((two / COVID).rglob("infection masks/*.png"))
    with_mask = stores["infection"]["with_all_masks"]
    for split, folder in zip(("train", "valid", "test"), ("Train", "Val", "Test"), strict=True):
        own = [f for f in drawn if folder in f.parts and "COVID-19" in f.parts]
        assert with_mask[split] == len(own) > 0
    assert stores["organs"]["splits"] == {"train": 64, "valid": 32, "test": 128}
    given = {i.name: i.parameters for i in stages.plan("paper", two)}
    row = next(r for r in found["finetuning"] if r["name"] == "finetune/pspnet-infection")
    own: Any = given[row["name"]]
    main_cells = len(own["arms"]) - 1 + sum(map(len, own["tunings"].values()))  # no imagenet
    pool = row["parts"][0]["pool"]
    assert row["left_out"] == [s for s in own["sizes"] if s > pool]
    assert row["left_out"]
    assert f"too few masks for sizes {row['left_out']}" in told
    cells = main_cells + len(own["size_arms"]) * len(row["sizes"])
    assert row["cells"] == cells
    assert row["counted"] == cells * (3 + 5)
    assert row["trainings"] == cells * (3 + 5 - 1)
    assert row["not_run"].keys() == {"imagenet"}
    assert "arm imagenet: no weights" in told
    assert all(found["stages"].values())
    low, high = found["time"]["hours"]
    assert 0 < low < high
    assert found["time"]["hours"][1] > found["time"]["at_times"]["10"][1]


def test_disk_and_what_is_off(
    more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = planned("disk", more, tmp_path, capsys)
    sets = {row["name"]: row for row in found["sets"]}
    assert sets["jsrt"]["gives"] == ["organs"]
    assert (sets["jsrt"]["whole"], sets["jsrt"]["files_off"]) == (False, 0)
    assert "films: 16 here, 247 documented" in sets["jsrt"]["off"]
    size = 96
    n, classes = 16, 3
    assert found["disk"]["stores"]["organs"] == n * (
        size**2 + classes * size**2 // 8 + classes + plan_disk.ROW
    )
    # The paper's profile wants 16 films to train on: JSRT has 16 in all.
    # What is known of the films is told all the same, and what would help.
    out = tmp_path / "stopped.json"
    given = ["--profile", "paper", "--data", str(more), "--json", str(out)]
    assert main(given) == 2
    told = capsys.readouterr()
    assert "organs, from jsrt: 16" in told.out
    assert "Time" not in told.out
    stop = "finetune/pspnet-organs: parameter 'n_train' is 16"
    assert told.err.startswith(f"cannot run: {stop}")
    assert "'stores: {organs: phantom}'" in told.err
    assert told.err.count("\n") == 1
    assert json.loads(out.read_text())["stop"].startswith(stop)
    lost = next((more / CHEXPERT).rglob("view1_frontal.jpg"))
    lost.unlink()
    line = refused(capsys, "--profile", "disk", "--data", str(more))
    assert str(lost) in line


def test_no_data_set_for_a_task(two: Path) -> None:
    given = next(i for i in stages.plan("disk", two) if i.name == "data").parameters
    stores, _ = plan_films.stores_of({**given, "fill_from": ""})
    assert list(stores) == ["films", "lungs", "infection"]
    organs = next(i for i in stages.plan("disk", two) if i.name.endswith("organs"))
    with pytest.raises(InputError, match="finetune/pspnet-organs: no data set gives films"):
        plan_jobs.finetuning_of(organs, stores)


def test_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, told = planned("smoke", None, tmp_path, capsys)
    assert found["sets"] == []
    row = next(r for r in found["stores"] if r["name"] == "films")
    assert row["splits"] == {"train": 144, "valid": 36, "test": 60}
    assert "data: none, the phantom alone" in told
    # 6 starts in full, 3 tunings of one start, 2 starts with all 8 films; 2 rates, 2 seeds.
    own = found["finetuning"][0]
    assert (own["cells"], own["counted"], own["trainings"]) == (11, 44, 33)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--profile", "paper"), "give it as DATA=dir"),
        (("--profile", "papre"), "papre"),
        (("--profile", "smoke", "--data", "."), "leave DATA out"),
        (("--profile", "smoke", "--tflops", "0"), "--tflops is 0.0"),
        (("--against", "no.json"), "no.json: cannot be read"),
    ],
)
def test_calls_that_cannot_work(
    given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *given)


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "--profile", "disk", "--data", str(tmp_path / "empty"))
    assert "no known data set here" in line


def test_machine_seconds() -> None:
    start = "2026-01-01T00:00:{:02}+00:00"
    spans = {"a": (0, 10), "b": (0, 4), "c": (2, 2), "d": (20, 5)}
    run = {n: {"started": start.format(s), "seconds": d} for n, (s, d) in spans.items()}
    # a and b share two seconds, all three the next two; then a is alone.
    known = {"a": 1 + 2 / 3 + 6, "b": 1 + 2 / 3, "c": 2 / 3, "d": 5}
    assert plan_hours.machine_seconds(run) == pytest.approx(known)


def test_operations_as_others_count_them() -> None:
    model = create("tu-resnet10t", 5, "silu", "lse", 0, torch.device("cpu")).eval()
    other = cost.work(model, torch.zeros(1, 1, 64, 64), "float32")
    own = plan_work.classifier("tu-resnet10t", 5, 64)
    # The walk leaves the first convolution out, which is linear.
    assert own == pytest.approx(other.forward, rel=0.01)
    assert other.backward == other.forward
    net = networks.build("pspnet", "tu-resnet10t", 3).to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(2, 1, 64, 64, device="meta")).sum().backward()
    full = 2 * (1 + plan_work.DOWN["full"]) * plan_work.network("pspnet", "tu-resnet10t", 3, 3, 64)
    assert full == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_store_bytes(tmp_path: Path) -> None:
    few = PhantomPlan(n_films=24, n_train_pool=12, n_valid=2, n_test=2)
    path = build_phantom(tmp_path / "organs", "organs", 64, few, workers=1)
    given = next(i for i in stages.plan("smoke") if i.name == "data").parameters
    told = plan_films.stores_of({**given, **{k: getattr(few, k) for k in plan_films.PLAN}})[0][
        "organs"
    ]
    arrays = sum((path / f"{n}.npy").stat().st_size for n in ("images", "masks", "mask_valid"))
    headers = 3 * 128
    assert plan_disk.store_bytes(told, 64) - plan_disk.ROW * 16 == arrays - headers


def test_model_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    path = paths.ROOT / "figures" / "laptop" / "provenance.json"
    found = plan_hours.measured()
    assert found is not None
    low, high = found.network["train"]
    assert 0 < low < high
    rows: dict[str, Any] = {r["family"]: r for r in plan_hours.held(path, "")}  # type: ignore[index,call-overload,misc]
    for kind in ("classifiers", "pretrain", "finetune", "labels", "data"):
        row = rows[kind]  # the run that it was made from lies inside
        assert row["least"] * 0.999 <= row["took"] <= row["most"] * 1.001
    run = plan_hours.read(path)
    done = plan_hours.work_of(run, found.points)
    name = "classifiers/tu-resnet10t"
    given = run["stages"][name]["parameters"]
    twice = {**given, "batch": 2 * given["batch"], "small": 0}
    once = plan_hours.stage_seconds(name, {**given, "small": 0}, done, found)
    again = plan_hours.stage_seconds(name, twice, done, found)
    seen = 3 * given["batch"] * given["steps"] * plan_work.classifier("tu-resnet10t", 5, 96)
    assert again[0] - once[0] == pytest.approx(seen / high)
    monkeypatch.setattr(plan_hours, "recorded", lambda name: None)
    assert _rates.__wrapped__() is None


def test_up_to_date(nothing_ran: Path) -> None:
    data, second = stages.plan("smoke")[:2]
    assert plan_jobs.stale([data, second], "smoke") == {
        data.name: "has not run",
        second.name: "has not run",
    }
    _manifest(data, {})
    folder = paths.runs() / "smoke" / data.name
    hashed = {data.name: stage.sha256(folder / stage.MANIFEST)}
    _manifest(second, hashed)
    assert set(plan_jobs.stale([data, second], "smoke").values()) == {""}
    other = replace(data, parameters={**data.parameters, "size": 128})
    why = plan_jobs.stale([other, second], "smoke")
    assert why == {data.name: "parameters changed", second.name: "data runs"}
    _manifest(data, {}, notes=1)
    assert plan_jobs.stale([data, second], "smoke")[second.name] == "an input changed"


def _manifest(instance: Instance, inputs: dict[str, str], **more: Any) -> None:
    folder = paths.runs() / "smoke" / instance.name
    folder.mkdir(parents=True, exist_ok=True)
    code = {
        f.relative_to(paths.ROOT).as_posix(): stage.sha256(f)
        for f in stages.files_of(instance.stage)
    }
    content = {
        "parameters": dict(instance.parameters), "inputs": inputs, "outputs": {},
        "code": {"files": code}, **more,
    }  # fmt: skip
    (folder / stage.MANIFEST).write_text(json.dumps(content))


def test_an_imagenet_arm_without_weights_is_known_before_the_run() -> None:
    given = {"arms": ["imagenet"], "encoder": "tu-resnet10t", "imagenet_weights": "packaged"}
    assert plan_jobs.not_run(given)["imagenet"].startswith(
        "no weights: no package ships tu-resnet10t"
    )
    assert plan_jobs.not_run({**given, "imagenet_weights": ""})["imagenet"].startswith("no weights")
    assert not plan_jobs.not_run({**given, "encoder": "tu-tf_efficientnet_lite0"})
    assert not plan_jobs.not_run({**given, "arms": ["random"]})
