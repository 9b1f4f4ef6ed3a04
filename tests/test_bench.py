"""The benchmarks run at tiny sizes, and their records say what they should; no time is asserted."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.bench import __main__ as command
from dollkit.bench import films, phantom, rounds, stores
from dollkit.errors import InputError
from dollkit.store import open_store

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

    monkeypatch.setattr(stores, "run", store_run)
    monkeypatch.setattr(phantom, "run", lambda workers, films: {"phantom_x": films})
    out = tmp_path / "figures" / "bench.json"
    given = ["--out", str(out), "--workers", "3", "--scratch", str(tmp_path / "scratch")]
    assert command.main([*given, "--films", "64"]) == 0
    assert asked == [(3, stores.Sizes(), tmp_path / "scratch")]
    record = json.loads(out.read_text())
    assert record == json.loads(capsys.readouterr().out)
    assert (record["phantom_x"], record["store_read_ratio"], record["films"]) == (64, 1, 64)
    assert command.main([*given, "--only", "store", "--quick"]) == 0
    assert asked[1:] == [(3, stores.QUICK, tmp_path / "scratch")]
    assert json.loads(out.read_text()) == record | {"store_read_ratio": 2}
    assert not list((tmp_path / "scratch").iterdir())
    assert command.main([*given, "--films", "5"]) == 2
    assert "--films must be at least 32" in capsys.readouterr().err
