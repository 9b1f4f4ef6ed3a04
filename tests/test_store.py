"""Stores: what is written is read, writing goes on where it stopped, what is broken is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import pytest

from dollkit.common.build_key import Key
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED
from dollkit.data import store_writer
from dollkit.data.film_table import COLUMNS, blank_films, check_films, states_of
from dollkit.data.images import IGNORE
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from tests.small_files import error_of

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


def draw(n: int, values: Sequence[int], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of `n` films and their masks of some values."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (n, S, S), dtype=np.uint8)
    return images, rng.choice(np.array(values, np.uint8), (n, classes, S, S))


def write(path: Path, n: int = 5, written: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A store of random films of which one lacks its third mask; its images and masks."""
    images, masks = draw(written, (0, 1), 3)
    valid = np.ones((written, 3), bool)
    valid[1, 2] = False
    films = table(n)
    films.loc[0, ["Edema", "Fracture", "Pneumonia"]] = [1, 0, -1]
    films.loc[2, "age"] = 61
    with StoreWriter(path, S, CLASSES, {"source": "test"}) as writer:
        for rows in (slice(0, 2), slice(2, written)):
            writer.write(images[rows], masks[rows], valid[rows])
        writer.finish(films)
    masks[1, 2] = 0
    return images[:n], masks[:n]


Good = tuple[Store, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    path = tmp_path_factory.mktemp("good") / "s"
    images, masks = write(path)
    return open_store(path, verify=True), images, masks


def test_what_is_written_is_read(good: Good) -> None:
    store, images, masks = good
    assert (len(store), store.size, store.mask_classes) == (5, S, CLASSES)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.masks(slice(None)), masks)
    rows, names = np.array([4, 1]), ["left clavicle", "lungs"]
    np.testing.assert_array_equal(store.masks(rows, names), masks[rows][:, [2, 0]])
    assert store.mask_valid(rows, names).tolist() == [[True, True], [False, True]]
    assert store.masks(np.array([], int)).shape == (0, 3, S, S)
    with pytest.raises(InputError, match="no mask class 'liver'; it has: lungs, heart"):
        store.masks(slice(None), ["liver"])


def test_table_keeps_text_blanks_and_states(good: Good) -> None:
    store = good[0]
    assert list(store.films.columns) == list(COLUMNS)
    assert store.films["patient_id"].tolist() == ["000", "000", "001", "001", "002"]
    assert (store.films["view"] == "").all()
    assert store.films["age"].isna().tolist() == [True, True, False, True, True]
    expected = np.full((5, 14), NOT_MENTIONED)
    for finding, state in (("Edema", 1), ("Fracture", 0), ("Pneumonia", -1)):
        expected[0, FINDINGS.index(finding)] = state
    np.testing.assert_array_equal(store.states, expected)
    line = (store.path / "films.csv").read_text().splitlines()[1]
    assert line.endswith(",,,,,,1,,-1,,,,,0,")


def test_fewer_films_than_written_and_none_with_masks(tmp_path: Path) -> None:
    images, masks = write(tmp_path / "s", n=4, written=9)
    store = open_store(tmp_path / "s", verify=True)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.masks(slice(None)), masks)
    assert np.load(tmp_path / "s/images.npy").shape == (4, S, S)
    with StoreWriter(tmp_path / "s", S, (), {}) as writer:
        writer.write(np.full((2, S, S), 7, np.uint8))
        writer.finish(table(2))
    assert open_store(tmp_path / "s", verify=True).masks(slice(None)).shape == (2, 0, S, S)
    left = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert left == ["films.csv", "images.npy", "store.json"]


@pytest.mark.parametrize(
    "index",
    [-1, slice(None, None, -2), [4, 0, 4], np.arange(5) % 2 == 0, (np.array([2, 1]), slice(3, 9))],
)
def test_images_index_like_an_array(good: Good, index: object) -> None:
    store, images, _ = good
    found = store.images[index]  # type: ignore[index]
    np.testing.assert_array_equal(found, images[index])  # type: ignore[index]
    assert type(found) is np.ndarray
    found[...] = 0  # one's own: the store is read-only
    np.testing.assert_array_equal(store.images, images)


@pytest.mark.skipif(not psutil.LINUX, reason="psutil names mapped files on Linux")
def test_reading_does_not_pile_up_memory(tmp_path: Path) -> None:
    n = 3000
    with StoreWriter(tmp_path / "s", 64, ("lungs",), {}) as writer:
        writer.write(np.full((n, 64, 64), 9, np.uint8), np.ones((n, 1, 64, 64), bool))
        writer.finish(table(n))
    store = open_store(tmp_path / "s")
    for start in range(0, n, 300):
        rows = np.arange(start, start + 300)
        assert store.images[rows].min() == store.targets(rows).min() * 9 == 9
    mapped = {m.path: m.rss for m in psutil.Process().memory_maps()}
    assert mapped[str(tmp_path / "s" / "images.npy")] < 1_000_000  # bytes, of 12,288,000
    assert mapped[str(tmp_path / "s" / "masks.npy")] < 500_000  # of 1,536,000


def test_ignored_pixels(tmp_path: Path) -> None:
    images, masks = draw(4, (0, 1, IGNORE), 2)
    masks[2, 0] = IGNORE
    valid = np.ones((4, 2), bool)
    valid[3, 1] = False
    with StoreWriter(tmp_path / "s", S, ("a", "b"), {}, ignore=True) as writer:
        writer.write(images[:2], masks[:2])
        writer.write(images[2:], masks[2:], valid[2:])
        writer.finish(table(4))
    store = open_store(tmp_path / "s", verify=True)
    kept = np.where(valid[:, :, None, None], masks, 0)
    np.testing.assert_array_equal(store.masks(slice(None)), kept == 1)
    kept[3, 1] = IGNORE  # a mask that the film does not have teaches nothing
    np.testing.assert_array_equal(store.targets(slice(None)), kept)
    rows = np.array([2, 0])
    np.testing.assert_array_equal(store.targets(rows, ["b"]), kept[rows][:, [1]])
    assert (tmp_path / "s" / "ignore.npy").stat().st_size == 128 + 4 * 2 * S * S // 8


def test_interrupted_writing_leaves_the_old_store(tmp_path: Path) -> None:
    images, _ = write(tmp_path / "s")
    path = tmp_path / "s"
    with suppress(KeyboardInterrupt), StoreWriter(path, S, CLASSES, {}) as writer:
        writer.write(np.zeros((1, S, S), np.uint8))
        raise KeyboardInterrupt
    np.testing.assert_array_equal(open_store(path, verify=True).images, images)
    assert not list(path.glob("*.part"))


KEY = Key({"size": S}, ["one", "two", "three"])


def write_steps(path: Path, key: Key, steps: int, fail: bool = False) -> list[int]:
    """Write up to `steps` steps of two films each; returns the steps that were written now."""
    images, masks = draw(6, (0, 1, IGNORE), 2)
    done = []
    with StoreWriter(path, S, ("a", "b"), {"by": "steps"}, ignore=True, key=key) as writer:
        assert writer.films == 2 * len(writer.notes)
        assert [note["step"] for note in writer.notes] == list(range(len(writer.notes)))
        for step in range(len(writer.notes), steps):
            rows = slice(2 * step, 2 * step + 2)
            writer.write(images[rows], masks[rows])
            writer.note({"step": step})
            done.append(step)
        if fail:
            writer.write(np.zeros((1, S, S), np.uint8))
            raise KeyboardInterrupt
        writer.finish(table(6))
    return done


def stop_after(path: Path, steps: int, key: Key = KEY) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_steps(path, key, steps, fail=True)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that was written without interruption."""
    path = tmp_path_factory.mktemp("whole")
    write_steps(path, KEY, 3)
    return contents(path)


def test_writing_goes_on_where_it_stopped(tmp_path: Path, whole: dict[str, bytes]) -> None:
    arrays = {"ignore.npy", "images.npy", "mask_valid.npy", "masks.npy"}
    assert set(whole) == {"films.csv", "key.json", "store.json", *arrays}
    path = tmp_path / "s"
    stop_after(path, 1)
    assert set(contents(path)) == {"journal.part", *(f"{name}.part" for name in arrays)}
    stop_after(path, 2)
    assert write_steps(path, KEY, 3) == [2]
    assert contents(path) == whole


def alter(path: Path, at: int = -1) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("key", "name", "damage", "again"),
    [
        (Key({"size": S, "code": "older"}, KEY.steps), "", None, [0, 1, 2]),
        (Key(KEY.rule, ["one", "another", "three"]), "", None, [1, 2]),
        (KEY, "journal.part", cut, [1, 2]),
        (KEY, "images.npy.part", lambda p: alter(p, 128 + 3 * S * S), [1, 2]),
        (KEY, "masks.npy.part", lambda p: p.write_bytes(p.read_bytes()[:200]), [0, 1, 2]),
        (KEY, "ignore.npy.part", Path.unlink, [0, 1, 2]),
    ],
)
def test_what_has_changed_or_is_lost_is_written_again(
    tmp_path: Path, whole: dict[str, bytes], key: Key, name: str,
    damage: Callable[[Path], None] | None, again: list[int],
) -> None:  # fmt: skip
    stop_after(tmp_path / "s", 2, key)
    if damage:
        damage(tmp_path / "s" / name)
    assert write_steps(tmp_path / "s", KEY, 3) == again
    assert contents(tmp_path / "s") == whole


def test_after_a_full_disk_writing_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "s"
    stop_after(path, 1)
    full = patch.object(store_writer.NpyRows, "write", side_effect=OSError(28, "No space left"))
    with full, pytest.raises(InputError, match=r"cannot write here \(No space left\)"):
        write_steps(path, KEY, 3)
    assert write_steps(path, KEY, 3) == [1, 2]
    assert contents(path) == whole


def test_two_processes_do_not_write_one_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", S, (), {}, key=KEY) as writer:
        writer.write(np.zeros((1, S, S), np.uint8))
        writer.note({})
        with pytest.raises(InputError, match="another process is building this store"):
            StoreWriter(tmp_path / "s", S, (), {}, key=KEY)
        writer.write(np.zeros((1, S, S), np.uint8))
        writer.finish(table(2))
    assert len(open_store(tmp_path / "s", verify=True)) == 2


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", S, (), {}) as writer:
        writer.write(np.zeros((1, S, S), np.uint8))
        with pytest.raises(ValueError, match="2 films in the table, 1 written"):
            writer.finish(table(2))
    assert "no store here" in error_of(open_store, tmp_path / "s")
    for size in (0, 12):
        with pytest.raises(InputError, match=f"'size' is {size}: use a positive multiple of 8"):
            StoreWriter(tmp_path / "s", size, (), {})
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/dollkit/data/store")):
        with pytest.raises(InputError, match=r"cannot write here .*: choose a folder"):
            StoreWriter(path, S, (), {})


def test_the_digest_of_a_store_is_of_its_content(good: Good, tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", n=4)
    a, b = (open_store(tmp_path / name).digest for name in "ab")
    assert a == good[0].digest != b


def enlarge(path: Path) -> None:
    path.write_text(path.read_text().replace('"size": 16', '"size": 32'))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("images.npy", cut, "images.npy: is cut off"),
        ("images.npy", Path.unlink, "images.npy: is missing"),
        ("films.csv", Path.unlink, "films.csv cannot be read"),
        ("films.csv", alter, "films.csv: does not match its sha256"),
        ("store.json", cut, "is not a store's description"),
        ("store.json", enlarge, r"images.npy: is uint8 \(5, 16, 16\), store.json says"),
        ("masks.npy", alter, "masks.npy: does not match its sha256"),
    ],
)
def test_broken_stores_are_named(
    good: Good, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    path = Path(shutil.copytree(good[0].path, tmp_path / "s"))
    damage(path / name)
    assert re.search(message, error_of(open_store, path, verify=name == "masks.npy"))


@pytest.mark.parametrize(
    ("column", "at", "value", "message"),
    [
        ("split", 1, "test", r"patient '000' stands in two splits \(test and train"),
        ("fold", 3, 2, "patient '001' stands in two folds"),
        ("image_id", 3, "film0", "'film0' stands there twice"),
        ("split", 5, "holdout", "split 'holdout': use one of train, valid, test"),
        ("Edema", 2, 2, r"row 2, column 'Edema': label value .*2"),
    ],
)
def test_films_table_is_checked(column: str, at: int, value: object, message: str) -> None:
    films = table(6)
    check_films(films)
    films.loc[at, column] = value
    assert re.search(message, error_of(check_films, films))
    assert (states_of(table(6)) == NOT_MENTIONED).all()
