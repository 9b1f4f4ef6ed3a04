"""Stores: what is written is read, and what is broken is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.errors import InputError
from dollkit.films import COLUMNS, check_films, states_of
from dollkit.findings import FINDINGS, NOT_MENTIONED
from dollkit.readers.table import blank_films
from dollkit.store import Store, StoreWriter, open_store

S = 16
CLASSES = ("lungs", "heart", "left clavicle")


def table(n: int) -> pd.DataFrame:
    films = blank_films(n)
    films["image_id"] = [f"film{i}" for i in range(n)]
    films["patient_id"] = [f"00{i // 2}" for i in range(n)]
    films["study_id"] = films["image_id"]
    films["split"] = ["train" if i // 2 % 2 == 0 else "test" for i in range(n)]
    films[["width", "height"]] = S
    return films


def write(path: Path, n: int = 5, room: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    room = room or n
    images = rng.integers(0, 256, (room, S, S), dtype=np.uint8)
    masks = rng.integers(0, 2, (room, 3, S, S), dtype=np.uint8)
    valid = np.ones((room, 3), bool)
    valid[1, 2] = False
    films = table(n)
    films.loc[0, ["Edema", "Fracture", "Pneumonia"]] = [1, 0, -1]
    films.loc[2, "age"] = 61
    with StoreWriter(path, S, CLASSES, room, {"source": "test"}) as writer:
        for start in (0, 2):
            rows = slice(start, 2 if start == 0 else room)
            writer.write(start, images[rows], masks[rows], valid[rows])
        writer.finish(films)
    masks[1, 2] = 0
    return images[:n], masks[:n]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images, masks = write(tmp_path / "s")
    store = open_store(tmp_path / "s", verify=True)
    assert len(store) == 5
    assert store.size == S
    assert store.mask_classes == CLASSES
    assert isinstance(store.images, np.memmap)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.masks(slice(None)), masks)
    rows = np.array([4, 1])
    np.testing.assert_array_equal(
        store.masks(rows, ["left clavicle", "lungs"]), masks[rows][:, [2, 0]]
    )
    assert store.mask_valid(rows, ["left clavicle", "lungs"]).tolist() == [
        [True, True],
        [False, True],
    ]
    assert store.masks(np.array([], int)).shape == (0, 3, S, S)


def test_table_keeps_text_blanks_and_states(tmp_path: Path) -> None:
    write(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert list(store.films.columns) == list(COLUMNS)
    assert store.films["patient_id"].tolist() == ["000", "000", "001", "001", "002"]
    assert (store.films["view"] == "").all()
    assert store.films["age"].isna().tolist() == [True, True, False, True, True]
    expected = np.full((5, 14), NOT_MENTIONED)
    for finding, state in (("Edema", 1), ("Fracture", 0), ("Pneumonia", -1)):
        expected[0, FINDINGS.index(finding)] = state
    np.testing.assert_array_equal(store.states, expected)
    line = (tmp_path / "s" / "films.csv").read_text().splitlines()[1]
    assert line.endswith(",,,,,,1,,-1,,,,,0,")


def test_fewer_films_than_room(tmp_path: Path) -> None:
    images, masks = write(tmp_path / "s", n=4, room=9)
    store = open_store(tmp_path / "s", verify=True)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.masks(slice(None)), masks)


def test_store_without_masks(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with StoreWriter(tmp_path / "s", S, (), 2, {}) as writer:
        writer.write(0, np.full((2, S, S), 7, np.uint8))
        writer.finish(table(2))
    store = open_store(tmp_path / "s", verify=True)
    assert store.masks(slice(None)).shape == (2, 0, S, S)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "films.csv",
        "images.npy",
        "store.json",
    ]


def test_same_content_same_digest(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c", n=4)
    a, b, c = (open_store(tmp_path / name).digest for name in "abc")
    assert a == b
    assert a != c
    assert len(a) == 64


def test_store_pickles_as_its_path(tmp_path: Path) -> None:
    write(tmp_path / "s")
    store = open_store(tmp_path / "s")
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    assert isinstance(again, Store)
    np.testing.assert_array_equal(again.images, store.images)


def test_interrupted_writing_leaves_the_old_store(tmp_path: Path) -> None:
    images, _ = write(tmp_path / "s")
    before = open_store(tmp_path / "s").digest

    def interrupted() -> None:
        with StoreWriter(tmp_path / "s", S, CLASSES, 5, {}) as writer:
            writer.write(0, np.zeros((1, S, S), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    store = open_store(tmp_path / "s", verify=True)
    assert store.digest == before
    np.testing.assert_array_equal(store.images, images)
    assert not list((tmp_path / "s").glob("*.part"))


def test_unwritten_film_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", S, (), 2, {}) as writer:
        writer.write(0, np.zeros((1, S, S), np.uint8))
        with pytest.raises(ValueError, match="2 films in the table, 1 written"):
            writer.finish(table(2))
    with pytest.raises(InputError, match="no store here"):
        open_store(tmp_path / "s")


def test_size_must_be_a_multiple_of_8(tmp_path: Path) -> None:
    for size in (0, -8, 12):
        with pytest.raises(InputError, match=f"'size' is {size}: use a positive multiple of 8"):
            StoreWriter(tmp_path / "s", size, (), 1, {})


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/dollkit/store")):
        with pytest.raises(InputError, match=r"cannot write here .*: choose a folder"):
            StoreWriter(path, S, (), 1, {})


def test_unknown_mask_class(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pytest.raises(InputError, match="no mask class 'liver'; it has: lungs, heart"):
        open_store(tmp_path / "s").masks(slice(None), ["liver"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_broken_stores_are_named(tmp_path: Path) -> None:
    write(tmp_path / "s")
    path = tmp_path / "s"
    good = {p.name: p.read_bytes() for p in path.iterdir()}
    cases = [
        ("images.npy", cut, "images.npy: is cut off"),
        ("masks.npy", cut, "masks.npy: is cut off"),
        ("images.npy", Path.unlink, "images.npy: is missing"),
        ("films.csv", Path.unlink, "films.csv cannot be read"),
        ("films.csv", flip, "films.csv: does not match its sha256"),
        ("store.json", cut, "is not a store's description"),
        ("store.json", Path.unlink, "no store here"),
    ]
    for name, damage, message in cases:
        damage(path / name)
        with pytest.raises(InputError, match=message):
            open_store(path)
        (path / name).write_bytes(good[name])
    flip(path / "masks.npy")
    open_store(path)
    with pytest.raises(InputError, match=r"masks.npy: does not match its sha256"):
        open_store(path, verify=True)


def test_store_of_another_size_is_named(tmp_path: Path) -> None:
    write(tmp_path / "s")
    path = tmp_path / "s" / "store.json"
    meta = json.loads(path.read_text())
    meta["size"] = 32
    path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"images.npy: is uint8 \(5, 16, 16\), store.json says"):
        open_store(tmp_path / "s")


def test_films_table_is_checked() -> None:
    check_films(table(6))
    films = table(6)
    films.loc[1, "split"] = "test"
    with pytest.raises(InputError, match=r"patient '000' stands in two splits \(test and train"):
        check_films(films)
    films = table(6)
    films.loc[3, "fold"] = 2
    with pytest.raises(InputError, match="patient '001' stands in two folds"):
        check_films(films)
    films = table(6)
    films.loc[3, "image_id"] = "film0"
    with pytest.raises(InputError, match="'film0' stands there twice"):
        check_films(films)
    films = table(6)
    films.loc[4:, "split"] = "holdout"
    with pytest.raises(InputError, match="split 'holdout': use one of train, valid, test"):
        check_films(films)
    with pytest.raises(InputError, match="column 'Edema' is missing"):
        check_films(table(6).drop(columns="Edema"))


def test_label_value_outside_the_four_states() -> None:
    films = table(4)
    films.loc[2, "Edema"] = 2
    with pytest.raises(InputError, match=r"row 2, column 'Edema': label value .*2"):
        states_of(films)
