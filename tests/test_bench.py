"""The benchmarks run at tiny sizes, and their records say what they should; no time is asserted."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import attribution, loops, phantom, rounds, stores
from dollkit.classifiers.model import create
from dollkit.common import compute, machine
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.training import weights
from tests.label_films import noise, write_films

CPU = torch.device("cpu")


def test_tasks_take_turns_and_ratios_are_taken_round_by_round() -> None:
    order: list[str] = []

    def task(name: str) -> int:
        order.append(name)
        return 5

    rates = rounds.interleaved({"a": lambda: task("a"), "b": lambda: task("b")}, 3)
    assert order == ["a", "b"] * 4  # the first turn is not measured
    assert [len(values) for values in rates.values()] == [3, 3]
    assert rounds.ratio({"x": [10.0, 2.0, 30.0], "y": [5.0, 4.0, 10.0]}, "x", "y") == 2.0


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def store_run(workers: int, sizes: stores.Sizes, scratch: Path) -> dict[str, object]:
        asked.append((workers, sizes, scratch.parent))
        return {"store_read_ratio": len(asked)}

    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**9))
        with pytest.raises(InputError, match=r"1.0 GB free, 2.8 needed.*--scratch.*--quick"):
            stores.run(2, stores.Sizes(), tmp_path)
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stores, "run", store_run)
    monkeypatch.setattr(phantom, "run", lambda workers, films: {"phantom_x": films})
    out = tmp_path / "figures" / "bench.json"
    given = ["--out", str(out), "--workers", "3", "--scratch", str(tmp_path / "scratch")]
    assert command.main([*given, "--films", "64"]) == 0
    record, shown = json.loads(out.read_text()), capsys.readouterr()
    assert record == json.loads(shown.out)
    assert record["left_out"] == ["ig", "loop"]
    assert shown.err.startswith("ig, loop left out: ")
    assert (record["phantom_x"], record["store_read_ratio"], record["films"]) == (64, 1, 64)
    assert command.main([*given, "--only", "store", "--quick"]) == 0
    scratch = tmp_path / "scratch"
    assert asked == [(3, stores.Sizes(), scratch), (3, stores.QUICK, scratch)]
    assert json.loads(out.read_text()) == record | {"store_read_ratio": 2}
    assert not list(scratch.iterdir())
    assert command.main([*given, "--films", "5"]) == 2
    assert "--films must be at least 32" in capsys.readouterr().err
    for more in (["--only", "ig"], ["--run", "none"]):
        assert command.main([*given, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no trained classifiers of run" in line


def test_the_processor_is_named_with_the_flags_that_matter(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(
        "flags\t\t: fpu avx avx2 amx_bf16 fma\nmodel name\t: A 9\n\nmodel name\t: A 9\n"
    )
    assert machine.processor(told) == {"model": "A 9", "flags": ["avx2", "amx_bf16"]}
    assert machine.processor(tmp_path / "none")["flags"] is None


@pytest.mark.slow
def test_the_record_of_stores(tmp_path: Path) -> None:
    sizes = stores.Sizes(
        distinct=3, large=2, built=40, built_large=4, stored=70, batches=2, rounds=1, readers=2,
        seconds=0.01, memory=(32,),
    )  # fmt: skip
    record: dict[str, Any] = stores.run(2, sizes, tmp_path)
    each = record["store_bytes_per_film"]
    assert 224**2 < each < 224**2 + 500  # the pixels, a line of the table and 1/40 of the key
    assert record["store_gb_chexpert_frontal"] == pytest.approx(each * 191_027 / 1e9, abs=0.01)
    assert 20 < record["store_memory_mb"]["32"] < 2000
    assert min(value for name, value in record.items() if "ratio" in name) > 0
    assert json.loads(json.dumps(record)) == record


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> attribution.TrainedRun:
    """A run of one tiny classifier and 30 films of noise."""
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    # Every finding has both classes in every split; the first test film has one finding.
    findings = {f: [(i + (i == 6) * (f == "Edema")) % 2 for i in range(30)] for f in FINDINGS}
    split = ["train"] * 4 + ["valid"] * 2 + ["test"] * 24
    store = write_films(tmp_path / "films", noise(30), findings, split)
    folder = tmp_path / "tu-resnet10t"
    folder.mkdir()
    model = create("tu-resnet10t", 5, "silu", "lse", 0, CPU)
    weights.save(model, folder, model.config)
    given = {
        "batch": 2, "lr": 0.001, "weight_decay": 0.05, "precision": "float32", "small": 0,
        "policy": "U-Ones", "steps": 1,
    }  # fmt: skip
    return attribution.TrainedRun("tiny", store, {"tu-resnet10t": folder}, given)


@pytest.mark.slow
def test_the_record_of_attributions(trained: attribution.TrainedRun) -> None:
    sizes = attribution.Sizes(films=1, rounds=1, reference_steps=6, same=1, relu_steps=1)
    threads = torch.get_num_threads()
    record = attribution.run(trained, sizes, relu_twin=True, where=CPU)
    assert torch.get_num_threads() == threads
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    row = record["ig_models"]["tu-resnet10t"]
    assert record["ig_speedup_vs_captum"] == pytest.approx(row["fast"]["ratio"], abs=0.01)
    assert record["ig_exact_dice"] == pytest.approx(row["exact"]["dice"], abs=1e-4)
    assert record["ig_relu_speedup"] == pytest.approx(record["ig_relu"]["fast"]["ratio"], abs=0.01)
    gap = record["ig_captum_difference"]
    assert 0 <= gap["float64"]["median"] <= gap["float64"]["largest"] < 1e-5
    assert (record["ig_films"], record["ig_threads"], record["ig_size"]) == (1, 1, 32)
    assert set(record["ig_smooth"]) == {"architecture", "passes", "silu", "relu"}


@pytest.mark.slow
def test_the_record_of_the_loop(trained: attribution.TrainedRun) -> None:
    record = loops.run(trained, steps=1, rounds=1, where=CPU)
    rate = record["loop_films_per_s"] / record["loop_bare_films_per_s"]
    assert record["loop_ratio"] == pytest.approx(rate, rel=0.05)
    assert 0 < record["loop_wait_share"] < 1
    both = compute.computes_bfloat16(CPU)
    assert record["loop_bf16_speedup"] > 0 if both else record["loop_bf16_speedup"] is None
    assert json.loads(json.dumps(record)) == record
