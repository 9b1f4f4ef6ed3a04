"""What stages ask of a cluster, told before anything is submitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.shares import VARIABLE, Done, Part, mine
from dollkit.workflow import cluster, stages
from dollkit.workflow.plan_hours import Survey, survey
from dollkit.workflow.reproduce import check_knobs
from dollkit.workflow.run import run
from tests.toys import BODY, write_notebook

_survey = cache(survey)


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Survey:
    """The smoke profile on a machine where nothing has run."""
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    return _survey("smoke", None)


def test_every_stage_asks_for_what_the_model_tells(smoke: Survey) -> None:
    asked = cluster.requests(smoke, "cpu")
    assert list(asked) == [i.name for i in smoke.plan]
    assert all(own["mem_mb"] >= cluster.LEAST_MB for own in asked.values())
    assert all(own["runtime"] > cluster.START_MINUTES for own in asked.values())
    assert {own["gpus"] for own in asked.values()} == {0}
    assert {own["parts"] for own in asked.values()} == {1}, "minutes need no parts"


def test_a_gpu_is_asked_for_where_networks_run(smoke: Survey) -> None:
    asked = cluster.requests(smoke, "cuda")
    none = {name for name, own in asked.items() if not own["gpus"]}
    assert none == {"data", "tables", "figures", "claims"}


def test_long_stages_are_shared_and_never_by_more_jobs_than_pieces(
    smoke: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_minutes", lambda known, instance, gpus: 60 * 24 * 20.0)
    asked = cluster.requests(smoke, "cpu")
    films = smoke.given["labels"]["n_label"] + smoke.given["labels"]["n_hold"]
    assert asked["labels"]["parts"] == -(-films // cluster.LABEL_SHARD)
    tuned = {n: own["parts"] for n, own in asked.items() if n.startswith("finetune")}
    assert min(tuned.values()) > 5
    assert max(tuned.values()) <= cluster.MOST_PARTS
    assert {own["parts"] for n, own in asked.items() if n not in (*tuned, "labels")} == {1}
    assert all(asked[name]["runtime"] < asked["data"]["runtime"] for name in tuned)


def test_what_is_up_to_date_has_no_parts(smoke: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_minutes", lambda known, instance, gpus: 60 * 24.0)
    monkeypatch.setitem(smoke.stale, "finetune/pspnet-lungs", "")
    asked = cluster.requests(smoke, "cpu")
    assert asked["finetune/pspnet-lungs"]["parts"] == 1
    assert asked["finetune/pspnet-organs"]["parts"] > 1


def test_memory_grows_with_the_step_and_the_films(
    smoke: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "finetune/pspnet-lungs"
    instance = next(i for i in smoke.plan if i.name == name)
    given = dict(instance.parameters)
    size = smoke.given["data"]["size"]
    base = {"data": (1000.0, {"size": size}), "finetune": (3000.0, {**given, "size": size})}
    monkeypatch.setattr(cluster, "_peaks", lambda: base)
    small = cluster.requests(smoke, "cpu")[name]["mem_mb"]
    assert 4500 <= small < 6500  # one and a half times the same stage, and the films
    tenth = {**given, "size": size, "batch": given["batch"] / 10}
    monkeypatch.setattr(cluster, "_peaks", lambda: {**base, "finetune": (3000.0, tenth)})
    large = cluster.requests(smoke, "cpu")[name]["mem_mb"]
    assert large - small == 1.5 * 2000 * 9


def test_requests_go_to_a_file_and_may_come_from_one(smoke: Survey, tmp_path: Path) -> None:
    (tmp_path / "runs/smoke").mkdir(parents=True)
    path = cluster.write("smoke", None, "cpu")
    assert cluster.read(path) == cluster.requests(smoke, "cpu")
    edited = {"data": {"mem_mb": 1, "runtime": 2, "gpus": 0, "parts": 1}}
    own = tmp_path / "own.json"
    own.write_text(json.dumps(edited))
    assert cluster.read(cluster.write("smoke", None, "cpu", str(own))) == edited
    for wrong in ({"mem_mb": 1}, 3, edited["data"] | {"gpus": -1}, edited["data"] | {"parts": "2"}):
        own.write_text(json.dumps({"data": wrong}))
        with pytest.raises(InputError, match=r"own\.json: data: give mem_mb"):
            cluster.read(own)
    with pytest.raises(InputError, match=r"none\.json"):
        cluster.read(tmp_path / "none.json")


def test_jobs_of_a_run_are_told_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = cluster.prefix(tmp_path)
    assert ours != cluster.prefix(tmp_path / "other")
    said = f"7 {ours}_a1b2\n8 {cluster.prefix(tmp_path / 'other')}_a1b2\n9 interactive shell\n"
    answer = subprocess.CompletedProcess([], 0, said, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert cluster.leftovers(tmp_path) == ["7"]


def test_without_slurm_the_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="EXECUTOR=slurm: squeue fails"):
        cluster.cancel(tmp_path)


def test_executors_have_a_workflow_profile(smoke: Survey) -> None:
    with pytest.raises(InputError, match="EXECUTOR=lsf: use one of local, slurm"):
        check_knobs("smoke", "", "1", "auto", "lsf")
    assert check_knobs("smoke", "", "1", "cuda", "slurm") == (None, 1)
    content = yaml.safe_load((paths.ROOT / "cluster/slurm/config.yaml").read_text())
    assert content["executor"] == "slurm"
    assert content["retries"] > 0


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", " 1/2"])
def test_no_part(text: str) -> None:
    with pytest.raises(InputError, match=r"'part' is .*K/N"):
        Part.parse(text)


@pytest.mark.parametrize(("pieces", "count"), [(1, 1), (7, 3), (2, 5)])
def test_parts_take_each_piece_once(pieces: int, count: int) -> None:
    parts = [Part.parse(f"{k}/{count}") for k in range(1, count + 1)]
    taken = [[i for i in range(pieces) if p.takes(i)] for p in parts]
    assert sorted(i for own in taken for i in own) == list(range(pieces))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_the_part_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert mine() is None
    monkeypatch.setenv(VARIABLE, "2/8")
    assert mine() == Part(2, 8)
    with pytest.raises(Done, match="part 2/8 is done"):
        Part(2, 8).end()


def test_a_stage_in_one_piece_has_no_parts(toy: Path) -> None:
    with pytest.raises(InputError, match="data is done in one piece; labels, finetune have parts"):
        run("data", "toy", None, part=Part(1, 2))
    assert [s.family for s in stages.STAGES.values() if s.shared] == ["labels", "finetune"]


def test_parts_of_another_making_do_not_count(toy: Path, tmp_path: Path) -> None:
    """Their marks stay where a controller dies before the stage that joins them."""
    book = toy / "notebooks/03_labels.ipynb"
    write_notebook(book, BODY.format(stage="labels", imports=""), "stage.part.end()")
    wanted = {"labels": {"mem_mb": 1, "runtime": 1, "gpus": 0, "parts": 2}}
    asked = tmp_path / "requests.json"
    asked.write_text(json.dumps(wanted))
    marks = [f"parts/labels-{k}-of-2" for k in (1, 2)]

    def snakemake(*more: str) -> str:
        command = "from pathlib import Path; " \
                  "from dollkit.workflow.reproduce import snakemake as s; " \
                  f"raise SystemExit(s('toy', None, 1, 'cpu', *{[*marks, *more]!r}, " \
                  f"requests=Path({str(asked)!r})))"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(paths.ROOT)})  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    snakemake("--notemp")
    assert all((toy / "runs/toy" / mark).is_file() for mark in marks)
    assert "labels_1_of_2" not in snakemake("--dry-run", "--notemp")
    profile = toy / "notebooks/params/toy.yaml"
    profile.write_text(profile.read_text() + "labels:\n  size: 5\n")
    assert "labels_1_of_2" in snakemake("--dry-run", "--notemp")
