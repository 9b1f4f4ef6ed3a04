"""The benchmarks run at tiny sizes, and their records say what they should; no time is asserted."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import attribution, films, loops, phantom, rounds, stores
from dollkit.classifiers import model as classifiers
from dollkit.common import compute, machine
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.store import open_store
from dollkit.explanations import captum_benchmark
from dollkit.training import weights

TINY = stores.Sizes(
    distinct=3, large=2, built=40, built_large=4, stored=70, batches=2, rounds=1, readers=2,
    seconds=0.01, memory=(32,),
)  # fmt: skip


def test_tasks_take_turns_and_ratios_are_taken_round_by_round() -> None:
    order: list[str] = []

    def task(name: str, done: int) -> int:
        order.append(name)
        return done

    rates = rounds.interleaved({"a": lambda: task("a", 5), "b": lambda: task("b", 5)}, 3)
    assert order == ["a", "b"] * 4  # the first turn is not measured
    assert [len(values) for values in rates.values()] == [3, 3]
    assert min(rates["a"] + rates["b"]) > 0
    assert rounds.ratio({"x": [10.0, 2.0, 30.0], "y": [5.0, 4.0, 10.0]}, "x", "y") == 2.0
    assert rounds.median([1.04, 7.0, 3.06]) == 3.1


def test_films_to_measure_with(tmp_path: Path) -> None:
    paths = films.write_films(tmp_path / "f", 2, "jpg", 39, 32)
    with Image.open(paths[1]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (39, 32))
    table = films.table_of(paths, 5, masks=True)
    assert table.films["path"].tolist() == [str(paths[i % 2]) for i in range(5)]
    assert table.films["patient_id"].nunique() == 5
    mask = table.masks[films.MASKS[0]].iloc[4].load(32, 39)
    assert 0 < mask.mean() < 0.5


def test_the_record_of_stores(tmp_path: Path) -> None:
    record = stores.run(2, TINY, tmp_path)
    assert record["store_read_classes"] == 3
    each = record["store_bytes_per_film"]
    assert isinstance(each, float)
    assert 224**2 < each < 224**2 + 500  # the pixels, a line of the table and 1/40 of the key
    assert record["store_bytes_over_npy"] == pytest.approx(each / 224**2, abs=1e-4)
    assert record["store_gb_chexpert_frontal"] == pytest.approx(each * 191_027 / 1e9, abs=0.01)
    for name in ("store_memory_mb", "store_memory_build_mb", "store_memory_read_mb"):
        found = record[name]
        assert isinstance(found, dict)
        assert list(found) == ["32"]
        assert 20 < found["32"] < 2000
    positive = [
        "store_build_films_per_s", "store_build_ratio", "store_build_ratio_of_processes",
        "store_build_ratio_png_1024", "store_read_ratio", "store_read_ratio_2_readers",
    ]  # fmt: skip
    assert all(record[name] > 0 for name in positive)  # type: ignore[operator]
    assert json.loads(json.dumps(record)) == record
    assert sorted(p.name for p in tmp_path.iterdir()) == ["built", "jpeg", "png"]


def test_both_readers_read_the_same_films(tmp_path: Path) -> None:
    paths = films.write_films(tmp_path / "f", 3, "jpg", 39, 32)
    store = open_store(stores.build(paths, 6, tmp_path / "s", 1, masks=True))
    assert store.mask_valid(slice(None)).all()
    np.testing.assert_array_equal(store.images[3:], store.images[:3])
    assert stores.read_batches(store, np.random.default_rng(0), 2) == 128
    assert stores.decode_batches(paths, np.random.default_rng(0), 1) == 64


def test_too_little_room_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**9))
    with pytest.raises(InputError, match=r"1.0 GB free, 2.8 needed.*--scratch.*--quick"):
        stores.run(2, stores.Sizes(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def store_run(workers: int, sizes: stores.Sizes, scratch: Path) -> dict[str, object]:
        asked.append((workers, sizes, scratch.parent))
        return {"store_read_ratio": len(asked)}

    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stores, "run", store_run)
    monkeypatch.setattr(phantom, "run", lambda workers, films: {"phantom_x": films})
    out = tmp_path / "figures" / "bench.json"
    given = ["--out", str(out), "--workers", "3", "--scratch", str(tmp_path / "scratch")]
    assert command.main([*given, "--films", "64"]) == 0
    assert asked == [(3, stores.Sizes(), tmp_path / "scratch")]
    record = json.loads(out.read_text())
    shown = capsys.readouterr()
    assert record == json.loads(shown.out)
    assert record["left_out"] == ["ig", "loop"]
    assert shown.err.startswith("ig, loop left out: ")
    assert len(shown.err.splitlines()) == 1
    assert (record["phantom_x"], record["store_read_ratio"], record["films"]) == (64, 1, 64)
    assert command.main([*given, "--only", "store", "--quick"]) == 0
    assert asked[1:] == [(3, stores.QUICK, tmp_path / "scratch")]
    assert json.loads(out.read_text()) == record | {"store_read_ratio": 2}
    assert not list((tmp_path / "scratch").iterdir())
    assert command.main([*given, "--films", "5"]) == 2
    assert "--films must be at least 32" in capsys.readouterr().err
    for more in (["--only", "ig"], ["--only", "loop", "--run", "none"], ["--run", "none"]):
        capsys.readouterr()
        assert command.main([*given, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no trained classifiers of run" in line
        assert "make reproduce PROFILE=" in line


@pytest.mark.parametrize("short", [False, True])
def test_the_fast_mode_walks_in_what_the_machine_computes(
    short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "computes_bfloat16", lambda where: short)
    modes = captum_benchmark.modes_of(torch.device("cpu"))
    walked = {name: (how["mode"], how["precision"]) for name, how in modes.items()}
    narrow = {"fast": ("fast", "bfloat16"), "fast_float32": ("fast", "float32")}
    fast = narrow if short else {"fast": ("fast", "float32")}
    assert walked == fast | {"exact": ("exact", "float32")}


def test_the_processor_is_named_with_the_flags_that_matter(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(
        "flags\t\t: fpu avx avx2 amx_bf16 fma\nmodel name\t: A 9\n\nmodel name\t: A 9\n"
    )
    assert machine.processor(told) == {"model": "A 9", "flags": ["avx2", "amx_bf16"]}
    assert machine.processor(tmp_path / "none")["flags"] is None


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> attribution.TrainedRun:
    """A run of one tiny classifier and 30 films of noise."""
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    rng = np.random.default_rng(0)
    states = rng.integers(0, 2, (30, len(FINDINGS))).astype(np.int8)
    states[7] = np.arange(len(FINDINGS)) != 3  # the first test film has one finding
    states[::2] = 1 - states[1::2]  # every finding has both classes in every split
    table = {"split": ["train"] * 4 + ["valid"] * 2 + ["test"] * 24, "patient_id": range(30)}
    store: Any = SimpleNamespace(
        images=rng.integers(0, 256, (30, 32, 32), np.uint8), states=states, size=32, digest="d",
        films=pd.DataFrame(table), path=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "tu-resnet10t"
    folder.mkdir()
    model = classifiers.create("tu-resnet10t", 5, "silu", "lse", 0, torch.device("cpu"))
    weights.save(model, folder, model.config)
    given = {
        "batch": 2, "lr": 0.001, "weight_decay": 0.05, "precision": "float32", "small": 0,
        "policy": "U-Ones", "steps": 1,
    }  # fmt: skip
    return attribution.TrainedRun("tiny", store, {"tu-resnet10t": folder}, given)


def test_the_record_of_attributions(trained: attribution.TrainedRun) -> None:
    sizes = attribution.Sizes(films=1, rounds=1, reference_steps=6, same=1, relu_steps=1)
    threads = torch.get_num_threads()
    record = attribution.run(trained, sizes, relu_twin=True, where=torch.device("cpu"))
    assert torch.get_num_threads() == threads
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    row = record["ig_models"]["tu-resnet10t"]
    assert record["ig_speedup_vs_captum"] == pytest.approx(row["fast"]["ratio"], abs=0.01)
    assert record["ig_exact_dice"] == pytest.approx(row["exact"]["dice"], abs=1e-4)
    assert record["ig_relu_speedup"] == pytest.approx(record["ig_relu"]["fast"]["ratio"], abs=0.01)
    assert record["ig_relu_dice"] <= 1
    assert record["ig_relu"]["activation"] == "relu"
    assert len(row["weights_sha256"]) == 64
    assert record["ig_goals"]["fast"] == {"speedup": 15.0, "dice": 0.97}
    gap = record["ig_captum_difference"]
    assert 0 <= gap["float64"]["median"] <= gap["float64"]["largest"] < 1e-5
    assert set(gap) == {"float32", "float64", "captum"}
    assert (record["ig_films"], record["ig_threads"], record["ig_size"]) == (1, 1, 32)
    assert set(record["ig_smooth"]) == {"architecture", "passes", "silu", "relu"}
    assert record["torch"] == torch.__version__


def test_the_relu_network_is_trained_once(trained: attribution.TrainedRun) -> None:
    asked: Any = (trained, "tu-resnet10t", "avg")
    _, first = attribution.relu_network(*asked, 1, torch.device("cpu"))
    (kept,) = (trained.store.path / "runs" / "bench").glob("*/checkpoints/last.pt")
    stamp = kept.stat().st_mtime_ns
    _, again = attribution.relu_network(*asked, 1, torch.device("cpu"))
    assert (again, kept.stat().st_mtime_ns) == (first, stamp)
    attribution.relu_network(*asked, 2, torch.device("cpu"))  # other settings
    assert kept.stat().st_mtime_ns > stamp


def test_the_record_of_the_loop(trained: attribution.TrainedRun) -> None:
    record = loops.run(trained, steps=1, rounds=1, where=torch.device("cpu"))
    rate = record["loop_films_per_s"] / record["loop_bare_films_per_s"]
    assert record["loop_ratio"] == pytest.approx(rate, rel=0.05)
    assert record["loop_setting"]["batch"] == 2
    assert 0 < record["loop_wait_share"] < 1
    both = compute.computes_bfloat16(torch.device("cpu"))
    assert record["loop_bf16_speedup"] > 0 if both else record["loop_bf16_speedup"] is None
    told = loops.run.__doc__ or ""
    assert [name for name in record if f"``{name}``" not in told] == []
    assert json.loads(json.dumps(record)) == record
