"""``python -m dollkit.labels``: from films and classifiers to a label store, stopped or not."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dollkit import labels
from dollkit.classifiers.model import create, load_classifiers
from dollkit.common import compute, paths
from dollkit.common.findings import FINDINGS
from dollkit.data.store import open_store
from dollkit.labels import make
from dollkit.labels import store as labelstore
from dollkit.labels.__main__ import main
from dollkit.training import weights
from tests.label_films import noise, write_films, write_models

CPU = torch.device("cpu")
SIZE, N = 32, 11
STORE_FILES = ["ends.npy", "labels.json", "pairs.csv", "planes.npy"]


@pytest.fixture(scope="module", autouse=True)
def small_and_alone() -> Iterator[None]:
    """Shards of two films; one thread, for the killed run has to round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SHARD", 2)
        patch.setenv("DOLLKIT_DEVICE", "cpu")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers ``a``, ``b`` in ``models``, a film store and a folder of pictures."""
    root = tmp_path_factory.mktemp("work")
    write_models(root / "models")
    images = noise(N, SIZE)
    edema = [float(i % 5 != 4) for i in range(N)]  # films 4 and 9 without
    fracture = [np.nan if i % 3 else float(i != 9) for i in range(N)]
    write_films(root / "films", images, {"Edema": edema, "Fracture": fracture})
    (root / "pictures" / "deep").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(images[i]).save(root / "pictures" / f"film{i:02d}.png")
    Image.fromarray(images[4]).save(root / "pictures" / "deep" / "x.jpg")
    return root


def command(work: Path, out: Path, *more: str, films: Path | None = None) -> list[str]:
    given = ["--films", str(films or work / "films"), "--classifiers", str(work / "models")]
    return ["make", *given, "--out", str(out), "--steps", "2", *more]


def call(work: Path, out: Path, *more: str, films: Path | None = None) -> int:
    return main(command(work, out, *more, films=films))


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in STORE_FILES}


@pytest.fixture(scope="module")
def whole(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of an uninterrupted run, which the tests only read."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    assert call(work, out) == 0
    return out


def test_films_become_labels_once(work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = labels.open(whole, verify=True, films=open_store(work / "films"))
    assert store.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert store.pairs["finding"].tolist() == [
        *("Edema", "Fracture", "Edema", "Edema", "Edema", "Fracture", "Edema"),
        *("Edema", "Fracture", "Edema", "Edema", "Edema"),
    ]
    assert sorted(store.meta["classifiers"]) == ["a", "b"]
    assert store.meta["positives"] == "given by the table of the films"
    assert store.meta["source"] == "test"
    assert store.meta["explain"]["steps"] == 2
    assert sorted(f.name for f in whole.iterdir()) == STORE_FILES
    before = content(whole)
    monkeypatch.setattr(make, "_write_shards", lambda *_: 1 / 0)
    assert call(work, whole) == 0
    assert content(whole) == before


def test_parts_make_the_same_store(
    work: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "labels", []
    real = make._label
    monkeypatch.setattr(make, "_label", lambda *given: (made.append(1), real(*given))[1])
    assert call(work, out, "--part", "2/3") == 0
    assert not (out / "labels.json").exists()
    assert call(work, out, "--part", "1/3") == 0
    assert len(made) == 4
    assert call(work, out) == 0  # does the third, and joins
    assert len(made) == 5
    assert content(out) == content(whole)
    assert not (out / "shards").exists()


KILLED = """
import os, signal, sys
import numpy as np
import torch
from dollkit.labels import make as making
from dollkit.labels.__main__ import main
making.SHARD = 2
torch.set_num_threads(1)
real, count = np.savez, 0
def savez(path, **content):
    global count
    count += 1
    if count == 3:
        path.write_bytes(b"half of a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, **content)
np.savez = savez
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_does_nothing_twice(
    work: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command(work, out)], cwd=paths.ROOT, capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = sorted(f.name for f in (out / "shards").iterdir())
    assert left[:2] == ["00000.npz", "00001.npz"]
    assert len(left) == 3
    assert left[2].endswith(".part.npz")
    again: list[str] = []
    real = labelstore.write_shard

    def counted(path: Path, *rest: Any) -> None:
        again.append(path.name)
        real(path, *rest)

    monkeypatch.setattr(labelstore, "write_shard", counted)
    assert call(work, out) == 0
    assert again == ["00002.npz", "00003.npz", "00004.npz"]
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [("weights", "classifiers"), ("films", "films"), ("steps", "explain"), ("distil", "distil"),
     ("limit", "limit"), ("code", "code")],
)  # fmt: skip
def test_labels_of_another_making_are_not_replaced(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, change: str, named: str,
) -> None:  # fmt: skip
    before = content(whole)
    shutil.copytree(work / "models", tmp_path / "models")
    shutil.copytree(work / "films", tmp_path / "films")
    more: dict[str, list[str]] = {
        "steps": ["--steps", "3"], "distil": ["--distil", "smooth=0.05"], "limit": ["--limit", "3"]
    }  # fmt: skip
    if change == "weights":
        model = create("tu-test_resnet", 3, "silu", "avg", 7, CPU)
        weights.save(model, tmp_path / "models" / "b", model.config)
    elif change == "films":
        text = (tmp_path / "films" / "store.json").read_text()
        (tmp_path / "films" / "store.json").write_text(text + "\n")
    elif change == "code":
        monkeypatch.setattr(make, "code_of", lambda _: {"dollkit/labels/steps.py": "another"})
    assert call(tmp_path, whole, *more.get(change, [])) == 2
    error = capsys.readouterr().err
    assert f"labels made with other {named} are there: choose another --out" in error
    assert error.count("\n") == 1
    assert content(whole) == before


def test_without_findings_the_classifiers_call(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "labels"
    with caplog.at_level(logging.INFO):
        assert call(work, out, "--size", str(SIZE), films=work / "pictures") == 0
    called = "called by the classifiers (mean probability above 0.5)"
    assert called in caplog.text
    store = labels.open(out)
    films = open_store(out / "films")
    assert films.films["image_id"].tolist() == ["deep__x", "film00", "film01", "film02", "film03"]
    models = load_classifiers({n: work / "models" / n for n in "ab"}, CPU)
    with torch.inference_mode():
        x = compute.to_input(films.images[:], CPU)
        p = torch.stack([torch.sigmoid(m(x)) for m in models.values()]).mean(0).numpy()
    expected = [(int(r), FINDINGS[c]) for r, c in zip(*np.nonzero(p > 0.5), strict=True)]
    assert expected
    assert list(zip(store.pairs["row"], store.pairs["finding"], strict=True)) == expected
    assert store.meta["positives"] == called


def test_a_table_of_films_gives_the_findings(work: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    shutil.copytree(work / "pictures", films)
    table = "image,patient,Cardiomegaly,Edema\nfilm01.png,p1,1,\ndeep/x.jpg,p2,-1,1.0\n"
    (films / "films.csv").write_text(table)
    assert call(work, tmp_path / "labels", "--size", str(SIZE), films=films) == 0
    store = labels.open(tmp_path / "labels")
    found = set(zip(store.pairs["image_id"], store.pairs["finding"], strict=True))
    assert found == {("deep__x", "Edema"), ("film01", "Cardiomegaly")}


def test_what_cannot_be_labelled_is_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    bad, twin = tmp_path / "bad", tmp_path / "twin" / "a"
    model = create("tu-test_resnet", 3, "silu", "avg", 0, CPU)
    model.head = torch.nn.Conv2d(model.head.in_channels, 5, 1)
    bad.mkdir()
    weights.save(model, bad, model.config)
    shutil.copytree(work / "models" / "a", twin)
    films, models, out = work / "films", work / "models", tmp_path / "out"
    wrong: dict[str, tuple[Path, list[Path], list[str]]] = {
        "no such folder: give a folder of images": (tmp_path / "none", [models], []),
        "no image here": (tmp_path / "empty", [models], []),
        "no such folder: give folders with weights": (films, [tmp_path / "none"], []),
        "no weights.safetensors here": (films, [tmp_path / "empty"], []),
        "tensor head.bias is (5,)": (films, [bad], []),
        "a second classifier named 'a'": (films, [models, twin], []),
        "holds films of 32 px": (films, [models], ["--size", "64"]),
        "--explain 'stairs=3': use NAME=VALUE": (films, [models], ["--explain", "stairs=3"]),
        "'limit' is 0: use 1 or more": (films, [models], ["--limit", "0"]),
        "'part' is '3/2'": (films, [models], ["--part", "3/2"]),
        "parameter 'smooth' is 7.0": (films, [models], ["--distil", "smooth=7"]),
        "use a value of type float": (films, [models], ["--distil", "smooth=soft"]),
    }
    for message, (given, folders, more) in wrong.items():
        names = ["--films", str(given), "--classifiers", *map(str, folders), "--out", str(out)]
        assert main(["make", *names, *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert not (out / "labels.json").exists()


def test_show_and_export_from_the_command_line(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(whole), "--verify"]) == 0
    assert "12 labels on 9 films, 32 x 32 px" in capsys.readouterr().out
    out = tmp_path / "out"
    export = ["export", str(whole), str(out), "--to", "png"]
    assert main([*export, "--findings", "Fracture", "--films", str(work / "films")]) == 0
    assert len(list(out.glob("masks/fracture/*.png"))) == len(list(out.glob("images/*.png"))) == 3
    capsys.readouterr()
    assert main(export) == 2
    assert "not an empty folder" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "dollkit.labels", "show", os.devnull], cwd=paths.ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {os.devnull}: not a label store")
    assert done.stderr.count("\n") == 1
