"""Stores: what is written is read, and what is broken is named."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED
from dollkit.data.build_key import Key
from dollkit.data.film_table import blank_films
from dollkit.data.films import COLUMNS, check_films, states_of
from dollkit.data.images import IGNORE
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from tests.store_reader import digests

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


@pytest.mark.parametrize(
    "index",
    [3, -1, slice(1, 4), slice(None, None, -2), [4, 0, 4], np.array([True, False] * 2 + [True]),
     np.array([], int), (slice(None), 5, 7), (np.array([2, 1]), slice(3, 9)), ...],
)  # fmt: skip
def test_images_index_like_an_array(tmp_path: Path, index: object) -> None:
    images, _ = write(tmp_path / "s")
    found = open_store(tmp_path / "s").images[index]  # type: ignore[index]
    np.testing.assert_array_equal(found, images[index])  # type: ignore[index]
    assert type(found) is np.ndarray
    found[...] = 0  # one's own: the store is read-only
    np.testing.assert_array_equal(open_store(tmp_path / "s").images, images)


def test_rows_are_numbers_slices_or_flags(tmp_path: Path) -> None:
    _, masks = write(tmp_path / "s")
    store = open_store(tmp_path / "s")
    for rows in (slice(3, 0, -1), [-1, 2], np.array([False, True, True, False, True])):
        np.testing.assert_array_equal(store.masks(rows, ["heart"]), masks[rows][:, [1]])
        assert store.targets(rows).shape == masks[rows].shape


def mapped_kb(file: Path) -> int:
    """Memory that a mapped file takes in this process, in kB."""
    smaps = Path("/proc/self/smaps")
    if not smaps.is_file():
        pytest.skip("no /proc/self/smaps to read mapped memory from")
    sizes = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", smaps.read_text())
    assert sizes, f"{file} is not mapped"
    return sum(map(int, sizes))


def test_reading_does_not_pile_up_memory(tmp_path: Path) -> None:
    n = 3000
    with StoreWriter(tmp_path / "s", 64, ("lungs",), n, {}) as writer:
        writer.write(0, np.full((n, 64, 64), 9, np.uint8), np.ones((n, 1, 64, 64), bool))
        writer.finish(table(n))
    store = open_store(tmp_path / "s")
    for start in range(0, n, 300):
        rows = np.arange(start, start + 300)
        assert store.images[rows].min() == store.targets(rows).min() * 9 == 9
    assert mapped_kb(tmp_path / "s" / "images.npy") < 1000  # of 12,288
    assert mapped_kb(tmp_path / "s" / "masks.npy") < 500  # of 1,536


def test_ignored_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    masks = rng.choice([0, 1, IGNORE], (4, 2, S, S)).astype(np.uint8)
    masks[2, 0] = IGNORE
    valid = np.ones((4, 2), bool)
    valid[3, 1] = False
    with StoreWriter(tmp_path / "s", S, ("a", "b"), 4, {}, ignore=True) as writer:
        writer.write(0, np.zeros((2, S, S), np.uint8), masks[:2])
        writer.write(2, np.zeros((2, S, S), np.uint8), masks[2:], valid[2:])
        writer.finish(table(4))
    store = open_store(tmp_path / "s", verify=True)
    kept = np.where(valid[:, :, None, None], masks, 0)
    np.testing.assert_array_equal(store.masks(slice(None)), kept == 1)
    np.testing.assert_array_equal(store.ignored(slice(None)), kept == IGNORE)
    # A mask that the film does not have teaches nothing.
    kept[3, 1] = IGNORE
    np.testing.assert_array_equal(store.targets(slice(None)), kept)
    rows = np.array([2, 0])
    np.testing.assert_array_equal(store.targets(rows, ["b"]), kept[rows][:, [1]])
    assert (tmp_path / "s" / "ignore.npy").stat().st_size == 128 + 4 * 2 * S * S // 8


def test_no_ignore_plane_where_nothing_is_ignored(tmp_path: Path) -> None:
    _, masks = write(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert not (tmp_path / "s" / "ignore.npy").exists()
    assert not store.ignored(slice(None)).any()
    masks[1, 2] = IGNORE  # unknown there
    np.testing.assert_array_equal(store.targets(slice(None)), masks)
    with StoreWriter(tmp_path / "t", S, ("a",), 1, {}) as writer:
        ignoring = np.full((1, 1, S, S), IGNORE, np.uint8)
        with pytest.raises(ValueError, match="ignore=True"):
            writer.write(0, np.zeros((1, S, S), np.uint8), ignoring)


def test_processes_read_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "s")
    store = open_store(tmp_path / "s")
    expected = [digests(store, seed) for seed in range(3)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(digests, [store] * 3, range(3)))
    assert found == expected
    assert len({digest for run in expected for digest in run}) > 50


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


KEY = Key({"size": S}, ["one", "two", "three"])


def write_steps(path: Path, key: Key, steps: int, fail: bool = False) -> list[int]:
    """Write up to `steps` steps of two films each; returns the steps that were written now."""
    rng = np.random.default_rng(11)
    images = rng.integers(0, 256, (6, S, S), dtype=np.uint8)
    masks = rng.choice([0, 1, IGNORE], (6, 2, S, S)).astype(np.uint8)
    done = []
    with StoreWriter(path, S, ("a", "b"), 6, {"by": "steps"}, ignore=True, key=key) as writer:
        assert writer.films == 2 * len(writer.notes)
        assert [note["step"] for note in writer.notes] == list(range(len(writer.notes)))
        for step in range(len(writer.notes), steps):
            rows = slice(2 * step, 2 * step + 2)
            writer.write(2 * step, images[rows], masks[rows])
            writer.note({"step": step})
            done.append(step)
        if fail:
            writer.write(2 * steps, np.zeros((1, S, S), np.uint8))
            raise KeyboardInterrupt
        writer.finish(table(6))
    return done


def stop_after(path: Path, steps: int, key: Key = KEY) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_steps(path, key, steps, fail=True)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a store that was written without interruption."""
    write_steps(tmp_path / "whole", KEY, 3)
    return contents(tmp_path / "whole")


def test_writing_goes_on_where_it_stopped(tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert set(whole) == {
        "films.csv", "ignore.npy", "images.npy", "key.json", "mask_valid.npy", "masks.npy",
        "store.json",
    }  # fmt: skip
    path = tmp_path / "s"
    stop_after(path, 1)
    assert set(contents(path)) == {
        "ignore.npy.part", "images.npy.part", "journal.part", "mask_valid.npy.part",
        "masks.npy.part",
    }  # fmt: skip
    stop_after(path, 2)
    assert write_steps(path, KEY, 3) == [2]
    assert contents(path) == whole


def test_writing_starts_anew_for_another_key(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "s"
    stop_after(path, 2, Key({"size": S, "code": "older"}, KEY.steps))
    assert write_steps(path, KEY, 3) == [0, 1, 2]
    assert contents(path) == whole


def test_writing_goes_back_to_the_first_changed_step(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    path = tmp_path / "s"
    stop_after(path, 2, Key(KEY.rule, ["one", "another", "three"]))
    assert write_steps(path, KEY, 3) == [1, 2]
    assert contents(path) == whole


@pytest.mark.parametrize(
    ("name", "left", "again"),
    [
        ("journal.part", -1, [1, 2]),  # the second line is cut off
        ("journal.part", 5, [0, 1, 2]),
        ("images.npy.part", -S * S - 1, [1, 2]),  # behind the last byte lies an unnoted film
        ("masks.npy.part", 200, [0, 1, 2]),
        ("ignore.npy.part", 0, [0, 1, 2]),
    ],
)
def test_lost_bytes_are_written_again(
    tmp_path: Path, whole: dict[str, bytes], name: str, left: int, again: list[int]
) -> None:
    path = tmp_path / "s"
    stop_after(path, 2)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:left])
    assert write_steps(path, KEY, 3) == again
    assert contents(path) == whole


def test_changed_bytes_are_written_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "s"
    stop_after(path, 2)
    with (path / "images.npy.part").open("rb+") as file:
        file.seek(128 + 3 * S * S)
        file.write(b"power")
    assert write_steps(path, KEY, 3) == [1, 2]
    assert contents(path) == whole


@pytest.mark.parametrize("older", [False, True])
def test_stopped_between_any_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], older: bool
) -> None:
    path = tmp_path / "s"
    moves = 0
    rename = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        nonlocal moves
        if moves == 0:
            raise KeyboardInterrupt
        moves -= 1
        return rename(self, target)

    for survived in range(7):
        if older:
            write(path)
        monkeypatch.setattr(Path, "replace", stopping)
        moves = survived
        with pytest.raises(KeyboardInterrupt):
            write_steps(path, KEY, 3)
        monkeypatch.undo()
        with pytest.raises(InputError, match="no store here"):
            open_store(path)
        assert write_steps(path, KEY, 3) == []
        assert contents(path) == whole
        for file in path.iterdir():
            file.unlink()


def test_two_processes_do_not_write_one_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", S, (), 2, {}, key=KEY) as writer:
        writer.write(0, np.zeros((1, S, S), np.uint8))
        writer.note({})
        with pytest.raises(InputError, match="another process is building this store"):
            StoreWriter(tmp_path / "s", S, (), 2, {}, key=KEY)
        writer.write(1, np.zeros((1, S, S), np.uint8))
        writer.finish(table(2))
    assert len(open_store(tmp_path / "s", verify=True)) == 2


def test_a_store_written_without_a_key_has_none(tmp_path: Path) -> None:
    write_steps(tmp_path / "s", KEY, 3)
    assert (tmp_path / "s" / "key.json").exists()
    write(tmp_path / "s")
    assert not (tmp_path / "s" / "key.json").exists()
    assert not (tmp_path / "s" / "ignore.npy").exists()


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
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/dollkit/data/store")):
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
