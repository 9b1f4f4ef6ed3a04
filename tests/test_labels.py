"""The label store: packing, shards and their merging, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.data.images import IGNORE
from dollkit.labels import store as labelstore
from dollkit.labels.store import LabelStore, open_labels
from tests.small_files import error_of

EDEMA, FRACTURE = FINDINGS.index("Edema"), FINDINGS.index("Fracture")


def noise(n: int, s: int = 16) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([0, 1, IGNORE], np.uint8), (n, s, s))


def write(
    path: Path, rows: list[int], made: np.ndarray | None = None, key: str = "", **more: object
) -> Path:
    """A shard of labels of Edema, made or `noise`."""
    pairs = pd.DataFrame(
        {"row": rows, "image_id": [f"film{r}" if r else "NA" for r in rows], "finding": "Edema",
         "threshold": 0.5, "error": 0.0, "probability": 1.0, **more}
    )  # fmt: skip
    labelstore.write_shard(path, pairs, noise(len(rows)) if made is None else made, key)
    return path


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Labels `noise(3)`: Edema and Fracture of film 4, Edema of film 9."""
    made = noise(3)
    a = write(tmp_path / "a.npz", [4, 4], made[:2], finding=["Edema", "Fracture"])
    b = write(tmp_path / "b.npz", [9], made[2:])
    return labelstore.merge({a: "", b: ""}, tmp_path / "store", {"films": "f" * 64})


@pytest.mark.parametrize("size", [1, 8, 13])
def test_a_packed_label_comes_back(size: int) -> None:
    for label in (*noise(3, size), *(np.full((3, size, size), [[[0]], [[1]], [[255]]], np.uint8))):
        np.testing.assert_array_equal(labelstore.decode(labelstore.encode(label), size), label)


def test_packing_refuses_other_values_and_damage() -> None:
    label = noise(1)[0]
    packed = labelstore.encode(label)
    with pytest.raises(ValueError, match="0, 1 and 255"):
        labelstore.encode(label + np.uint8(1))
    for damaged, size, message in ((packed[:-3], 16, "damaged"), (packed, 24, "24 x 24")):
        with pytest.raises(ValueError, match=message):
            labelstore.decode(damaged, size)


def test_label_store_gives_back_what_was_written(store: LabelStore) -> None:
    opened, made = open_labels(store.path, verify=True), noise(3)
    for i in range(3):
        np.testing.assert_array_equal(opened.label(i), made[i])
    with pytest.raises(IndexError):
        opened.label(3)
    assert opened.rows.tolist() == [4, 9]
    states = np.zeros((3, 14), np.int8)
    states[0, 2] = UNCERTAIN
    expected = np.zeros((3, 14, 16, 16))
    expected[[0, 0, 1], [EDEMA, FRACTURE, EDEMA]] = made
    expected[0, 2] = IGNORE
    np.testing.assert_array_equal(opened.targets(np.array([4, 9, 5]), states), expected)


def test_label_store_notices_what_is_wrong_with_its_files(store: LabelStore) -> None:
    path = store.path
    whole = {f.name: f.read_bytes() for f in path.iterdir()}

    def spoilt(name: str, content: bytes | None, message: str, verify: bool = False) -> None:
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)
        assert message in error_of(lambda: open_labels(path, verify=verify).label(2))
        (path / name).write_bytes(whole[name])

    for name in ("planes.npy", "pairs.csv", "ends.npy"):
        content = bytearray(whole[name])
        content[-20] ^= 0xFF
        spoilt(name, content, f"{name}: does not match its sha256", verify=True)
        if name == "planes.npy":
            spoilt(name, content, f"{name}: label 2: damaged")
        spoilt(name, None, f"{name}: is missing")
    spoilt("planes.npy", whole["planes.npy"][:-5], "planes.npy: is cut off")
    spoilt("planes.npy", whole["ends.npy"], "planes.npy: is int64")
    for text in (b"{", b"[]", b'{"n": 3, "sha256": "of an older version"}', b'{"sha256": {}}'):
        spoilt("labels.json", text, "labels.json: is of an older version or not")
    spoilt("labels.json", None, "not a label store")


def test_a_broken_shard_is_not_taken_for_done(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert labelstore.shard_key(path) is None
    write(path, [1], key="k")
    assert labelstore.shard_key(path) == "k"
    store = tmp_path / "store"
    assert "has written it since" in error_of(labelstore.merge, {path: "other"}, store, {})
    path.write_bytes(path.read_bytes()[:100])
    assert labelstore.shard_key(path) is None
    words = "a.npz: not a readable label shard"
    assert words in error_of(labelstore.merge, {path: "k"}, store, {})


def test_shards_that_do_not_go_together_leave_the_old_store_whole(tmp_path: Path) -> None:
    first = write(tmp_path / "first.npz", [0, 1])
    labelstore.merge({first: ""}, tmp_path / "store", {})
    wrong = {
        "film 'film1' has two labels of 'Edema'": write(tmp_path / "twice.npz", [1, 2]),
        "size.npz: other size or columns": write(tmp_path / "size.npz", [3], noise(1, 8)),
        "columns.npz: other size or columns": write(tmp_path / "columns.npz", [3], steps=4),
    }
    for message, path in wrong.items():
        assert message in error_of(labelstore.merge, {first: "", path: ""}, tmp_path / "store", {})
    old = open_labels(tmp_path / "store", verify=True)
    assert old.pairs["image_id"].tolist() == ["NA", "film1"]
    assert not list((tmp_path / "store").glob("*.part"))
