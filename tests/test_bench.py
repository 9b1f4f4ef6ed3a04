"""The benchmarks run at tiny sizes, and their records say what they should; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import attribution, loops, phantom, stores
from dollkit.common.findings import FINDINGS
from dollkit.training import weights
from dollkit.training.classifiers import create
from tests.label_films import noise, write_films

CPU = torch.device("cpu")


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stores, "run", lambda *given: {"store_quick": given[1] == stores.QUICK})
    monkeypatch.setattr(phantom, "run", lambda workers, films: {"phantom_x": films})
    out = tmp_path / "figures" / "bench.json"
    given = ["--out", str(out), "--workers", "3", "--scratch", str(tmp_path / "scratch")]
    assert command.main([*given, "--films", "64"]) == 0
    record, shown = json.loads(out.read_text()), capsys.readouterr()
    assert record == json.loads(shown.out)
    assert record["left_out"] == ["ig", "loop"]
    assert "ig, loop left out: " in shown.err
    assert (record["phantom_x"], record["store_quick"]) == (64, False)
    assert command.main([*given, "--only", "store", "--quick"]) == 0
    assert json.loads(out.read_text()) == record | {"store_quick": True}  # the rest stays
    capsys.readouterr()
    for more, said in (
        (["--films", "5"], "--films must be at least 32"),
        (["--only", "ig"], "no trained classifiers of run"),
    ):
        assert command.main([*given, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


@pytest.mark.slow
def test_the_records_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one tiny classifier and 30 films of noise."""
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    # Every finding has both classes in every split; the first test film has one finding.
    findings = {f: [(i + (i == 6) * (f == "Edema")) % 2 for i in range(30)] for f in FINDINGS}
    split = ["train"] * 4 + ["valid"] * 2 + ["test"] * 24
    store = write_films(tmp_path / "films", noise(30), findings, split=split)
    given = {"batch": 2, "lr": 0.001, "weight_decay": 0.05, "precision": "float32", "steps": 1}
    given |= {"policy": "U-Ones", "small": 0}
    folder = tmp_path / "tu-resnet10t"
    folder.mkdir()
    model = create("tu-resnet10t", 5, "silu", "lse", 0, CPU)
    weights.save(model, folder, model.config)
    trained = attribution.TrainedRun("tiny", store, {"tu-resnet10t": folder}, given)
    sizes = attribution.Sizes(films=1, rounds=1, reference_steps=6, same=1, relu_steps=1)
    threads = torch.get_num_threads()
    record = attribution.run(trained, sizes, relu_twin=True, device=CPU)
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
    loop = loops.run(trained, steps=1, rounds=1, device=CPU)
    assert loop["loop_ratio"] > 0 < loop["loop_wait_share"] < 1
    assert json.loads(json.dumps(loop)) == loop
