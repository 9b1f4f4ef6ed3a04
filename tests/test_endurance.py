"""What the scripted trials measure with: known answers. The trials themselves take minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from dollkit import labels
from dollkit.labels.make import SHARD
from dollkit.labels.shards import write_shard
from dollkit.labels.store import merge
from tests.endurance import determinism, scaling, shards, trial


def series(per_shard: float, noise: float, n: int = 200) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    return [
        {"shards": i, "private_mb": 500 + per_shard * i + noise * float(rng.standard_normal())}
        for i in range(1, n + 1)
    ]


@pytest.mark.parametrize("per_shard", [0.0, 0.05, -0.02])
def test_growth_is_found_and_none_is_not(per_shard: float) -> None:
    found = shards.slope(series(per_shard, 1.0), "private_mb")
    assert found["blocks"] == 18
    assert found["low"] <= per_shard <= found["high"]
    assert bool(found["low"] > 0) is (per_shard > 0)
    assert found["high"] - found["low"] < 0.02


def test_what_never_changes_has_a_slope_of_nothing() -> None:
    found = shards.slope(series(0.0, 0.0), "private_mb")
    assert (found["per_shard"], found["low"], found["high"]) == (0, 0, 0)


def model(**changed: float) -> scaling.Model:
    given = {
        "start_s": 0.0, "shard_s": 1.0, "join_s": 0.0, "film_bytes": 0.0, "label_bytes": 0.0,
        "storage_mb_s": 1.0, "submit_s": 0.0,
    }  # fmt: skip
    return scaling.Model(**{**given, **changed})


def test_without_anything_serial_all_workers_help() -> None:
    films = 64 * 4096
    assert model().seconds(films, 1) == 4096
    assert model().seconds(films, 4096) == 1
    assert model().most_workers(films)["workers"] == scaling.WORKERS[-1]


def test_what_limits_is_named() -> None:
    films = 64 * 4096
    # The join takes a hundredth of the work: at 128 workers each does less than half.
    join = model(join_s=0.01).most_workers(films)
    assert (join["workers"], join["then"]) == (64, "join")
    # The scheduler gives out one job a second: at 64 workers it takes as long as the work.
    assert model(submit_s=1.0).most_workers(films)["workers"] == 64
    assert model(submit_s=1.0).most_workers(films)["then"] == "scheduler"
    # 2 ** 20 bytes a film at 640 MiB/s: a tenth of a second a shard, for all workers together.
    slow = model(film_bytes=2.0**20, storage_mb_s=640.0)
    assert slow.seconds(films, 8) == 512
    assert slow.seconds(films, 64) == pytest.approx(409.6)
    assert slow.most_workers(films)["then"] == "storage"
    assert slow.most_workers(films)["workers"] == 16


def test_tables_that_differ_are_told_with_their_columns() -> None:
    one = {"a.csv": "x,name\n1.0,p\n2.0,q\n", "b.csv": "x\n1\n"}
    assert determinism.differences(one, dict(one)) == {}
    other = {"a.csv": "x,name\n1.0,p\n2.5,r\n", "c.csv": "x\n1\n"}
    found = determinism.differences(one, other)
    assert found["a.csv"] == {"x": {"most": 0.5, "mean": 0.25}, "name": {"rows": 1, "of": 2}}
    assert found["b.csv"] == found["c.csv"] == {"missing": True}
    assert determinism.differences(one, {**one, "b.csv": "x\n1\n2\n"})["b.csv"]["shape"] == [
        [1, 1], [2, 1],
    ]  # fmt: skip


def test_times_are_no_results(tmp_path: Path) -> None:
    folder = tmp_path / "figures" / trial.PROFILE
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("iou,seconds,steps\n0.5,12.1,3\n")
    (folder / "b.csv").write_text("measure,value\niou,0.5\nseconds_per_pair,0.1\n")
    found = trial.Run(tmp_path).tables()
    assert found == {"a.csv": "iou,steps\n0.5,3\n", "b.csv": "measure,value\niou,0.5\n"}


def test_stages_that_are_made_again_are_noted(tmp_path: Path) -> None:
    run = trial.Run(tmp_path)
    for name in ("data", "labels"):
        path = tmp_path / "runs" / trial.PROFILE / name / "manifest.json"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, ns=(1, 1))
    before = run.manifests()
    assert run.compare(before) == 2
    assert run.remade == []
    path.write_text("again")
    run.compare(before)
    assert run.remade == ["labels"]


def test_what_is_half_written_is_found(tmp_path: Path) -> None:
    run = trial.Run(tmp_path)
    store = tmp_path / "runs" / trial.PROFILE / "data" / "films"
    store.mkdir(parents=True)
    assert run.half_written() == []
    (store / "images.npy.part").touch()
    (store / "store.json").write_text("{}")
    found = run.half_written()
    assert len(found) == 2
    assert found[0] == "images.npy.part"


def test_processes_by_kind() -> None:
    here = psutil.Process()
    assert trial.kinds([here]) == {}
    assert "python" in trial.line(here)


def test_a_join_is_measured_on_as_many_shards_as_asked(tmp_path: Path) -> None:
    pairs = pd.DataFrame(
        {"row": [4, 4, 9], "image_id": ["a", "a", "b"], "finding": ["Edema", "Fracture", "Edema"],
         "threshold": 0.5, "error": 0.0, "probability": 1.0}
    )  # fmt: skip
    planes = np.zeros((3, 16, 16), np.uint8)
    write_shard(tmp_path / "a.npz", pairs, planes)
    like = merge([tmp_path / "a.npz"], tmp_path / "store", {"size": 16})
    found = scaling.join(tmp_path, 3, like)
    assert (found["shards"], found["films"]) == (3, 3 * SHARD)
    assert found["seconds"] > 0
    assert found["peak_mb"] >= found["idle_mb"] > 0
    joined = labels.open(tmp_path / "join3" / "store")
    assert len(joined) == 9
    assert len(joined.rows) == 6


def test_rounds_that_were_made_are_kept(tmp_path: Path) -> None:
    made = {name: [1.0, 2.0] for name in ("one", "parts", "strangers", "joined", "start", "shard")}
    (tmp_path / "rounds.json").write_text(json.dumps(made))
    assert scaling.rounds(tmp_path / "no run", tmp_path, 64, 2) == made
