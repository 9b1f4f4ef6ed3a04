"""The label store: packing, shards and their merging, and files that are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dollkit import labels
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.data.images import IGNORE
from dollkit.labels import LabelStore
from dollkit.labels import store as labelstore

EDEMA, FRACTURE = FINDINGS.index("Edema"), FINDINGS.index("Fracture")


def pairs_of(rows: list[int], findings: list[str]) -> pd.DataFrame:
    n = len(rows)
    return pd.DataFrame(
        {"row": rows, "image_id": [f"film{r}" if r else "NA" for r in rows], "finding": findings,
         "threshold": np.linspace(0.4, 0.6, n), "error": np.zeros(n), "probability": np.ones(n)}
    )  # fmt: skip


def noise(n: int, s: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 1, IGNORE], np.uint8), (n, s, s))


def write(path: Path, rows: list[int], size: int = 16, **more: object) -> Path:
    pairs = pairs_of(rows, ["Edema"] * len(rows)).assign(**more)
    labelstore.write_shard(path, pairs, noise(len(rows), size))
    return path


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Labels `noise(3)`: Edema and Fracture of film 4, Edema of film 9."""
    made = noise(3)
    labelstore.write_shard(tmp_path / "a.npz", pairs_of([4, 4], ["Edema", "Fracture"]), made[:2])
    labelstore.write_shard(tmp_path / "b.npz", pairs_of([9], ["Edema"]), made[2:])
    shards = [tmp_path / "a.npz", tmp_path / "b.npz"]
    return labelstore.merge(shards, tmp_path / "store", {"size": 16, "films": "f" * 64})


@pytest.mark.parametrize("size", [1, 8, 13])
def test_a_packed_label_comes_back(size: int) -> None:
    for label in (*noise(3, size), *(np.full((3, size, size), [[[0]], [[1]], [[255]]], np.uint8))):
        np.testing.assert_array_equal(labelstore.decode(labelstore.encode(label), size), label)


def test_packing_refuses_other_values_and_damage() -> None:
    label = noise(1)[0]
    packed = labelstore.encode(label)
    with pytest.raises(ValueError, match="0, 1 and 255"):
        labelstore.encode(label + np.uint8(1))
    with pytest.raises(ValueError, match="damaged"):
        labelstore.decode(packed[:-3], 16)
    with pytest.raises(ValueError, match="24 x 24"):
        labelstore.decode(packed, 24)


def test_label_store_gives_back_what_was_written(store: LabelStore) -> None:
    opened, made = labels.open(store.path, verify=True), noise(3)
    for i in range(3):
        np.testing.assert_array_equal(opened.label(i), made[i])
    with pytest.raises(IndexError):
        opened.label(3)
    assert opened.rows.tolist() == [4, 9]
    states = np.zeros((3, 14), np.int8)
    states[0, 2] = UNCERTAIN
    out = opened.targets(np.array([4, 9, 5]), states)
    np.testing.assert_array_equal(out[0, FRACTURE], made[1])
    np.testing.assert_array_equal(out[1, EDEMA], made[2])
    assert (out[0, 2] == IGNORE).all()
    assert out[2].sum() == 0


def test_label_store_notices_what_is_wrong_with_its_files(store: LabelStore) -> None:
    path = store.path
    whole = {f.name: f.read_bytes() for f in path.iterdir()}

    def spoilt(name: str, content: bytes, message: str, verify: bool = False) -> None:
        (path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: {message}"):
            labels.open(path, verify=verify).label(2)
        (path / name).write_bytes(whole[name])

    for name in ("planes.npy", "pairs.csv", "ends.npy"):
        content = bytearray(whole[name])
        content[-20] ^= 0xFF
        spoilt(name, content, "does not match its sha256", verify=True)
        if name == "planes.npy":
            spoilt(name, content, "label 2: damaged")
        (path / name).unlink()
        with pytest.raises(InputError, match=f"{name}: is missing"):
            labels.open(path)
        (path / name).write_bytes(whole[name])
    spoilt("planes.npy", whole["planes.npy"][:-5], "is cut off")
    spoilt("planes.npy", whole["ends.npy"], "is int64")
    for text in (b"{", b"[]", b'{"n": 3, "sha256": "of an older version"}', b'{"sha256": {}}'):
        spoilt("labels.json", text, "is of an older version or not")
    (path / "labels.json").unlink()
    with pytest.raises(InputError, match="not a label store"):
        labels.open(path)


def test_labels_of_other_films_are_refused(store: LabelStore) -> None:
    for size, digest, said in ((32, "f", "labels of 16 px, films of 32 px"), (16, "e", "made of")):
        films: Any = SimpleNamespace(size=size, digest=digest * 64, path=Path("films"))
        with pytest.raises(InputError, match=said):
            labels.open(store.path, films=films)


def test_a_broken_shard_is_not_taken_for_done(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert labelstore.shard_key(path) is None
    labelstore.write_shard(path, pairs_of([1], ["Edema"]), noise(1), "k")
    assert labelstore.shard_key(path) == "k"
    with pytest.raises(InputError, match="another process has written it since"):
        labelstore.merge({path: "other"}, tmp_path / "store", {})
    path.write_bytes(path.read_bytes()[:100])
    assert labelstore.shard_key(path) is None
    with pytest.raises(InputError, match=r"a\.npz: not a readable label shard"):
        labelstore.merge([path], tmp_path / "store", {})
    with pytest.raises(InputError, match="no shard to merge"):
        labelstore.merge([], tmp_path / "store", {})


def test_shards_that_do_not_go_together_leave_the_old_store_whole(tmp_path: Path) -> None:
    first = write(tmp_path / "first.npz", [0, 1])
    labelstore.merge([first], tmp_path / "store", {})
    assert labels.open(tmp_path / "store").pairs["image_id"].tolist() == ["NA", "film1"]
    before = (tmp_path / "store" / "labels.json").read_bytes()
    wrong = {
        "film 'film1' has two labels of 'Edema'": write(tmp_path / "twice.npz", [1, 2]),
        "size.npz: other size or columns": write(tmp_path / "size.npz", [3], 8),
        "columns.npz: other size or columns": write(tmp_path / "columns.npz", [3], steps=4),
    }
    for message, path in wrong.items():
        with pytest.raises(InputError, match=message):
            labelstore.merge([first, path], tmp_path / "store", {})
    assert (tmp_path / "store" / "labels.json").read_bytes() == before
    assert len(labels.open(tmp_path / "store", verify=True)) == 2
    assert not list((tmp_path / "store").glob("*.part"))


def test_reading_labels_needs_no_torch() -> None:
    code = "import sys; from dollkit import labels; labels.open; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)
