"""Building stores: stopped, gone on with, kept; the same bytes in the end."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common import build_key
from dollkit.common.errors import InputError
from dollkit.data import store_builder
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.images import IGNORE, fit, fit_box, fit_mask, load_image
from dollkit.data.masks import Boxes, MaskFile
from dollkit.data.sets import phantom
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import CHUNK, build_store
from tests.small_files import error_of

N, SIZE = 4 * CHUNK + 10, 16


def write_films(root: Path) -> None:
    """PNG films of three sizes, and masks of two of three."""
    rng = np.random.default_rng(7)
    root.mkdir(parents=True)
    for i in range(N):
        shape = ((20, 16), (24, 24), (16, 40))[i % 3]
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / f"{i}.png")
        if i % 3:
            mask = rng.choice(np.array([0, 128, 255], np.uint8), (shape[0] // 4, shape[1] // 4))
            Image.fromarray(mask.repeat(4, 0).repeat(4, 1)).save(root / f"{i}_mask.png")


def read(root: Path) -> FilmTable:
    """The table of such a folder: masks with ignored pixels, boxes."""
    films = blank_films(N)
    films["image_id"] = films["study_id"] = [f"film{i}" for i in range(N)]
    films["patient_id"] = [f"patient{i}" for i in range(N)]
    films["split"], films["source"] = "train", "made"
    films["Edema"] = [float(i % 2) for i in range(N)]
    films["path"] = [str(root / f"{i}.png") for i in range(N)]
    films["where"] = [f"{root / 'films.csv'}, row {i + 2}" for i in range(N)]
    masks = [MaskFile(root / f"{i}_mask.png", ignore=(128,)) if i % 3 else None for i in range(N)]
    boxes = [None if i % 5 else Boxes(((2.0, 3.0, 5.0 + i % 4, 6.0),)) for i in range(N)]
    columns = pd.DataFrame({"lungs": masks, "Edema": boxes}, dtype=object)
    return FilmTable("made", films, root, columns)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of films, two of them bad: one is empty, one is not there."""
    root = tmp_path_factory.mktemp("made") / "set"
    write_films(root)
    (root / "5.png").write_bytes(b"")
    (root / "40_mask.png").unlink()
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy of it, with the times of change."""
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.fixture(scope="module")
def whole(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that an undisturbed build makes of it."""
    out = tmp_path_factory.mktemp("whole")
    return contents(build_store(read(original), out, SIZE, skip_bad=True), original)


def contents(path: Path, root: Path) -> dict[str, bytes]:
    """Files of a store, with the data set's folder taken out of the report."""
    old = str(root).encode()
    return {p.name: p.read_bytes().replace(old, b"ROOT") for p in path.iterdir()}


def watch(monkeypatch: pytest.MonkeyPatch, stop: int = 0) -> list[str]:
    """Paths of the films that are decoded from here on; number `stop` fails."""
    decoded: list[str] = []
    numbers = itertools.count(1)  # of several threads

    def load(path: str, *given: object) -> object:
        decoded.append(path)
        if next(numbers) == stop:
            raise RuntimeError("stopped")
        return load_image(path, *given)

    monkeypatch.setattr(store_builder, "load_image", load)
    return decoded


def test_what_the_store_holds(root: Path, tmp_path: Path) -> None:
    store = open_store(build_store(read(root), tmp_path / "s", SIZE, skip_bad=True), verify=True)
    assert store.mask_classes == ("lungs", "Edema")
    good = [i for i in range(N) if i not in (5, 40)]
    assert store.films["image_id"].tolist() == [f"film{i}" for i in good]
    assert store.left_out == 2
    for row, i in enumerate(good[:40]):
        film = load_image(root / f"{i}.png")
        height, width = film.shape
        np.testing.assert_array_equal(store.images[row], fit(film, SIZE))
        assert tuple(store.films.loc[row, ["height", "width"]]) == (height, width)
        expected = np.full((2, SIZE, SIZE), IGNORE, np.uint8)
        if i % 3:
            grey = load_image(root / f"{i}_mask.png")
            drawn = np.select([grey == 255, grey == 128], [1, IGNORE], 0)
            expected[0] = fit_mask(drawn.astype(np.uint8), SIZE)
        if i % 5 == 0:
            expected[1] = fit_box((2.0, 3.0, 5.0 + i % 4, 6.0), height, width, SIZE)
        np.testing.assert_array_equal(store.targets([row])[0], expected)
        assert store.mask_valid([row])[0].tolist() == [i % 3 > 0, i % 5 == 0]
    assert (store.targets(slice(None), ["lungs"]) == 255).any((1, 2, 3)).all()
    report = pd.read_csv(tmp_path / "s" / "skipped.csv")
    assert [Path(f).name for f in report["file"]] == ["5.png", "40_mask.png"]
    assert "empty file" in report["reason"][0]
    assert "no such file" in report["reason"][1]


def test_stopped_at_random_films(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    workers = 3
    chance = random.Random(workers)
    out, n_decoded, stops = tmp_path / "s", 0, 0
    while True:
        decoded = watch(monkeypatch, stop=chance.randint(20, 60))
        try:
            build_store(read(root), out, SIZE, skip_bad=True, workers=workers)
            break
        except RuntimeError:
            stops += 1
            assert "no store here" in error_of(open_store, out)
        finally:
            n_decoded += len(decoded)
    assert contents(out, root) == whole
    assert stops >= 2
    # Lost is only what was under way: at most 2 chunks for each worker and one more.
    assert n_decoded <= N + stops * (2 * workers + 1) * CHUNK


def slow_build(root: Path, out: Path) -> None:
    """Build with a pause in every chunk, so that there is time to be killed."""
    decode = store_builder.decode

    def slow(*given: object) -> object:
        time.sleep(0.3)
        return decode(*given)

    store_builder.decode = slow
    build_store(read(root), out, SIZE, skip_bad=True, workers=1)


def test_killed_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    out = tmp_path / "s"
    process = multiprocessing.get_context("spawn").Process(target=slow_build, args=(root, out))
    process.start()
    journal = out / "journal.part"
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "store.json").exists()
    decoded = watch(monkeypatch)
    caplog.set_level(logging.INFO)
    build_store(read(root), out, SIZE, skip_bad=True)
    assert "going on after film" in caplog.text
    assert len(decoded) <= N - 2 * CHUNK
    assert contents(out, root) == whole


def test_a_mended_film_costs_only_what_follows(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(root / "8.png", root / "5.png")
    shutil.copy(root / "43_mask.png", root / "40_mask.png")
    bad = root / "70.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    out = tmp_path / "s"
    with pytest.raises(InputError, match=r"row 72: .*70.png: corrupt or cut off"):
        build_store(read(root), out, SIZE)
    # Now it may be left out: what is done stands.
    decoded = watch(monkeypatch)
    shutil.copytree(out, tmp_path / "t")
    assert open_store(build_store(read(root), tmp_path / "t", SIZE, True)).left_out == 1
    assert len(decoded) == N - 2 * CHUNK
    decoded.clear()
    bad.write_bytes(good)
    assert open_store(build_store(read(root), out, SIZE)).left_out == 0
    assert len(decoded) == N - 2 * CHUNK
    fresh = build_store(read(root), tmp_path / "fresh", SIZE)
    assert contents(out, root) == contents(fresh, root)


def test_a_store_that_stands_is_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = build_store(read(root), tmp_path / "s", SIZE, skip_bad=True)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    decoded = watch(monkeypatch)
    assert build_store(read(root), out, SIZE, skip_bad=True, workers=3) == out
    assert f"{out}: kept" in caplog.text
    # The same data set in another place is the same data set.
    moved = root.rename(tmp_path / "elsewhere")
    build_store(read(moved), out, SIZE, skip_bad=True)
    assert decoded == []
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_what_changed_is_built_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = build_store(read(root), tmp_path / "s", SIZE, True)
    decoded = watch(monkeypatch)

    def rebuilt(table: FilmTable, size: int = SIZE) -> Store:
        decoded.clear()
        caplog.clear()
        store = open_store(build_store(table, out, size, True), verify=True)
        assert len(decoded) >= N - 3
        assert "rebuilt, because its films, settings or code changed" in caplog.text
        return store

    os.utime(root / "17.png", ns=(1, 1))
    rebuilt(read(root))
    shutil.copy(root / "22_mask.png", root / "19_mask.png")
    rebuilt(read(root))
    assert rebuilt(read(root), 24).size == 24
    rebuilt(read(root))
    table = read(root)
    table.films.loc[3, "Fracture"] = 0.0
    store = rebuilt(table)
    assert store.films["Fracture"].notna().sum() == 1
    before = store.masks([10 - 1], ["Edema"]).sum()
    table.masks.loc[10, "Edema"] = Boxes(((2.0, 3.0, 9.0, 6.0),))
    table = replace(table)  # which knows nothing of the old ones
    assert rebuilt(table).masks([10 - 1], ["Edema"]).sum() > before
    code = build_key.code_of(["dollkit.data.store_builder"])
    edited = code | {"dollkit/data/images.py": "edited"}
    monkeypatch.setattr(store_builder, "code_of", lambda modules: edited)
    rebuilt(table)


def test_a_broken_store_is_built_anew(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: dict[str, bytes]
) -> None:
    caplog.set_level(logging.INFO)
    out = build_store(read(root), tmp_path / "s", SIZE, True)
    with (out / "images.npy").open("rb+") as file:
        file.truncate(1000)
    build_store(read(root), out, SIZE, True)
    assert "images.npy: is cut off" in caplog.text
    (out / "key.json").write_text("{}")
    build_store(read(root), out, SIZE, True)
    assert contents(out, root) == whole


def test_phantom_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "CHUNK", 8)
    plan = phantom.PhantomPlan(n_train_pool=14, n_valid=1, n_test=3)
    whole = phantom.build_phantom(tmp_path / "whole", "lungs", 64, plan, seed=3, workers=1)
    render, rendered = phantom._render, []

    def stopping(rows: pd.DataFrame, **given: object) -> object:
        if len(rendered) == 2:
            raise RuntimeError("stopped")
        rendered.append(len(rows))
        return render(rows, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom, "_render", stopping)
    path = tmp_path / "s"
    with pytest.raises(RuntimeError):
        phantom.build_phantom(path, "lungs", 64, plan, seed=3, workers=1)
    rendered.clear()
    phantom.build_phantom(path, "lungs", 64, plan, seed=3, workers=1)
    assert rendered == [2]
    assert contents(path, tmp_path) == contents(whole, tmp_path)
    phantom.build_phantom(path, "lungs", 64, plan, seed=3, workers=2)
    assert rendered == [2]
    rendered.clear()
    with pytest.raises(RuntimeError):  # another seed is another store, of three chunks too
        phantom.build_phantom(path, "lungs", 64, plan, seed=4, workers=1)
