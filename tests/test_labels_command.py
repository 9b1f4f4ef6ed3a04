"""``python -m dollkit.labels``: from films and classifiers to a label store, stopped or not."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dollkit import labels
from dollkit.classifiers.model import create, load_classifiers
from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.film_table import COLUMNS
from dollkit.data.store import open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.labels import film_set, make
from dollkit.labels import store as labelstore
from dollkit.labels.__main__ import main
from dollkit.training import weights

CPU = torch.device("cpu")
SIZE, N = 32, 11
STORE_FILES = ["ends.npy", "labels.json", "pairs.csv", "planes.npy"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on more, and the killed run has to round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers ``a``, ``b`` in ``models``, a film store and a folder of pictures."""
    root = tmp_path_factory.mktemp("work")
    for seed, name in enumerate("ab"):
        model = create("tu-test_resnet", 3, "silu", "avg", seed, CPU)
        (root / "models" / name).mkdir(parents=True)
        weights.save(model, root / "models" / name, model.config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, SIZE, SIZE)).astype(np.uint8)
    table = pd.DataFrame("", index=range(N), columns=list(COLUMNS))
    table["image_id"] = table["patient_id"] = table["study_id"] = [f"film{i:02d}" for i in range(N)]
    table["split"], table["fold"], table["age"] = "train", -1, np.nan
    table["width"] = table["height"] = SIZE
    table[list(FINDINGS)] = np.nan
    table["Edema"] = [i % 5 != 4 for i in range(N)]  # films 4 and 9 without
    table["Edema"] = table["Edema"].astype(float)
    table.loc[::3, "Fracture"] = 1
    table.loc[9, "Fracture"] = 0
    with StoreWriter(root / "films", SIZE, [], N, {"source": "test"}) as out:
        out.write(0, images)
        out.finish(table)
    (root / "pictures" / "deep").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(images[i]).save(root / "pictures" / f"film{i:02d}.png")
    Image.fromarray(images[4]).save(root / "pictures" / "deep" / "x.jpg")
    return root


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "SHARD", 2)
    monkeypatch.setenv("DOLLKIT_DEVICE", "cpu")


def call(work: Path, out: Path, *more: str, films: str = "films") -> int:
    given = ["--films", str(work / films), "--classifiers", str(work / "models"), "--out", str(out)]
    return main(["make", *given, "--steps", "2", *more])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in STORE_FILES}


@pytest.fixture(scope="module")
def whole(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of an uninterrupted run, which the tests only read."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SHARD", 2)
        patch.setenv("DOLLKIT_DEVICE", "cpu")
        assert call(work, out) == 0
    return out


def test_films_become_labels(work: Path, whole: Path) -> None:
    store = labels.open(whole, verify=True, films=open_store(work / "films"))
    assert store.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert store.pairs["finding"].tolist() == [
        *("Edema", "Fracture", "Edema", "Edema", "Edema", "Fracture", "Edema"),
        *("Edema", "Fracture", "Edema", "Edema", "Edema"),
    ]
    assert store.classifiers == ["a", "b"]
    assert store.meta["positives"] == "given by the table of the films"
    assert store.meta["source"] == "test"
    assert store.meta["explain"]["steps"] == 2
    assert set(np.unique(store.label(0))) <= {0, 1, 255}
    assert sorted(f.name for f in whole.iterdir()) == sorted([*STORE_FILES, make.BEGUN])


def test_a_second_call_makes_nothing(
    work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(whole)
    monkeypatch.setattr(make, "make_labels", lambda *_: 1 / 0)
    assert call(work, whole) == 0
    assert content(whole) == before


def test_parts_make_the_same_store(work: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    assert call(work, out, "--part", "2/3") == 0
    assert not (out / "labels.json").exists()
    assert call(work, out, "--part", "1/3") == 0
    made = sorted((out / "parts").rglob("0*.npz"))
    seen = {f: f.stat().st_mtime_ns for f in made}
    kept: dict[Path, int] = {}
    real = shutil.rmtree

    def remember(folder: Path, **_: object) -> None:
        kept.update({f: f.stat().st_mtime_ns for f in made})
        real(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make.shutil, "rmtree", remember)  # type: ignore[attr-defined]
        assert call(work, out) == 0  # does the third, and joins
    assert len(made) == 3
    assert kept == seen
    assert content(out) == content(whole)


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


def test_a_killed_run_loses_nothing_and_does_nothing_twice(
    work: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    given = ["make", "--films", str(work / "films"), "--classifiers", str(work / "models")]
    given += ["--out", str(out), "--steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *given], cwd=paths.ROOT, capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    shards = out / "parts" / "1-of-1" / "shards"
    left = sorted(f.name for f in shards.iterdir())
    assert left[:2] == ["00000.npz", "00001.npz"]
    assert len(left) == 3
    assert left[2].endswith(".part.npz")
    again: list[str] = []
    real: Callable[..., None] = labelstore.write_shard

    def counted(path: Path, *rest: object, **more: object) -> None:
        again.append(path.name)
        real(path, *rest, **more)

    monkeypatch.setattr(labelstore, "write_shard", counted)
    monkeypatch.setattr("dollkit.labels.make.labelstore.write_shard", counted)
    assert call(work, out) == 0
    assert again == ["00002.npz", "00003.npz", "00004.npz"]
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", "other weights of classifier b"),
        ("classifiers", "other classifiers (b is in one of the two)"),
        ("films", "other films"),
        ("steps", "another steps (2, now 3)"),
        ("distil", "another smooth (0.02, now 0.05)"),
        ("limit", "other limit"),
        ("code", "another dollkit/labels/steps.py"),
        ("part", "1 parts, not 2"),
    ],
)
def test_labels_of_two_makings_are_not_mixed(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str,
    message: str,
) -> None:  # fmt: skip
    before = content(whole)
    shutil.copytree(work / "models", tmp_path / "models")
    shutil.copytree(work / "films", tmp_path / "films")
    more: list[str] = []
    if change == "weights":
        model = create("tu-test_resnet", 3, "silu", "avg", 7, CPU)
        weights.save(model, tmp_path / "models" / "b", model.config)
    elif change == "classifiers":
        shutil.rmtree(tmp_path / "models" / "b")
    elif change == "films":
        text = (tmp_path / "films" / "store.json").read_text()
        (tmp_path / "films" / "store.json").write_text(text + "\n")
    elif change == "code":
        whole = Path(shutil.copytree(whole, tmp_path / "whole"))
        begun = json.loads((whole / make.BEGUN).read_text())
        begun["code"]["dollkit/labels/steps.py"] = "0" * 64
        (whole / make.BEGUN).write_text(json.dumps(begun))
    else:
        more = {
            "steps": ["--steps", "3"],
            "distil": ["--distil", "smooth=0.05"],
            "limit": ["--limit", "3"],
            "part": ["--part", "1/2"],
        }[change]
    assert call(tmp_path, whole, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert content(whole) == before


def test_without_findings_the_classifiers_call(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "labels"
    with caplog.at_level(logging.INFO):
        assert call(work, out, "--size", str(SIZE), films="pictures") == 0
    assert (
        "what the classifiers call (mean probability above 0.5) counts as positive" in caplog.text
    )
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
    assert store.meta["positives"] == "called by the classifiers (mean probability above 0.5)"
    assert (pd.read_csv(out / "findings.csv")[list(FINDINGS)].sum().sum()) == len(expected)


def test_a_table_of_findings_is_followed(work: Path, tmp_path: Path) -> None:
    table = tmp_path / "findings.csv"
    table.write_text(
        "image,patient,Cardiomegaly,Edema\nfilm01.png,p1,1,\ndeep/x.jpg,p2,-1,1.0\nfilm00,p3,,0\n"
    )
    out = tmp_path / "labels"
    more = ["--size", str(SIZE), "--findings", str(table)]
    assert call(work, out, *more, films="pictures") == 0
    store = labels.open(out)
    assert list(zip(store.pairs["image_id"], store.pairs["finding"], strict=True)) == [
        ("deep__x", "Edema"),
        ("film01", "Cardiomegaly"),
    ]
    assert store.meta["positives"] == "given by a table (findings.csv)"
    table.write_text("image,Cardiomegaly\nfilm01.png,1\n")
    assert call(work, out, *more, films="pictures") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,Edma\nfilm01,1\n", "unknown column 'Edma'"),
        ("image,Edema\nfilm77,1\n", "row 2: no film 'film77'"),
        ("image,Edema\nfilm01,2\n", "row 2, column 'Edema': value '2'"),
        ("image,Edema\nfilm01,1\nfilm01.png,0\n", "row 3: film 'film01.png' stands in row 2 too"),
        ("image,patient\nfilm01,p\n", "no column of a finding"),
        ("film,Edema\nfilm01,1\n", "column 'image' is missing"),
    ],
)
def test_a_wrong_table_of_findings_is_one_line(
    work: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=r"t\.csv") as caught:
        film_set.read_states(tmp_path / "t.csv", open_store(work / "films"))
    assert message in str(caught.value)


def test_what_cannot_be_labelled_is_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad"
    model = create("tu-test_resnet", 3, "silu", "avg", 0, CPU)
    model.head = torch.nn.Conv2d(model.head.in_channels, 5, 1)
    bad.mkdir()
    weights.save(model, bad, model.config)
    twin = tmp_path / "twin" / "a"
    shutil.copytree(work / "models" / "a", twin)
    films, models, out = work / "films", work / "models", tmp_path / "out"
    wrong = {
        "no such folder: give a folder of images": [tmp_path / "none", models],
        "no image here": [tmp_path / "empty", models],
        "no such folder: give folders with weights": [films, tmp_path / "none"],
        "no weights.safetensors here": [films, tmp_path / "empty"],
        "tensor head.bias is (5,)": [films, bad],
        "a second classifier named 'a'": [films, models, twin],
        "holds films of 32 px": [films, models, "--size", "64"],
        "--explain 'stairs=3': use NAME=VALUE": [films, models, "--explain", "stairs=3"],
        "'limit' is 0: use 1 or more": [films, models, "--limit", "0"],
        "'part' is '3/2'": [films, models, "--part", "3/2"],
        "parameter 'smooth' is 7.0": [films, models, "--distil", "smooth=7"],
        "use a value of type float": [films, models, "--distil", "smooth=soft"],
        "no such file": [films, models, "--findings", str(tmp_path / "none.csv")],
    }
    for message, (given, *rest) in wrong.items():
        at = next((i for i, r in enumerate(rest) if str(r).startswith("--")), len(rest))
        folders, more = map(str, rest[:at]), map(str, rest[at:])
        command = ["make", "--films", str(given), "--classifiers", *folders, "--out", str(out)]
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert not (out / "labels.json").exists()


def test_a_store_of_unknown_making_is_not_overwritten(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    shutil.copytree(whole, out)
    (out / make.BEGUN).unlink()
    assert call(work, out) == 2
    assert "a label store of unknown making is there" in capsys.readouterr().err
    assert content(out) == content(whole)


def test_show_card_and_export_from_the_command_line(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(whole), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "9 labelled, 32 x 32 px" in shown
    assert main(["card", str(whole), "--out", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text().startswith("---\n")
    made_of = json.loads((whole / "labels.json").read_text())["classifiers"]
    assert all(digest in (tmp_path / "README.md").read_text() for digest in made_of.values())
    out = tmp_path / "out"
    command = ["export", str(whole), str(out), "--to", "png"]
    assert main([*command, "--findings", "Fracture", "--films", str(work / "films")]) == 0
    assert len(list(out.glob("masks/fracture/*.png"))) == len(list(out.glob("images/*.png"))) == 3
    capsys.readouterr()
    assert main(command) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "none")]) == 2
    assert "not a label store" in capsys.readouterr().err


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dollkit.labels", "show", os.devnull],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
