"""``python -m dollkit labels``: from films and classifiers to a label store, stopped or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dollkit.common import compute
from dollkit.common.findings import FINDINGS
from dollkit.data.store import open_store
from dollkit.labels import make
from dollkit.labels.store import open_labels
from dollkit.training import weights
from dollkit.training.classifiers import create, load_classifiers
from dollkit.workflow.cli import main
from tests.label_films import noise, write_films, write_models
from tests.small_files import save

CPU = torch.device("cpu")
SIZE, N = 32, 11
STORE_FILES = ["ends.npy", "labels.json", "pairs.csv", "planes.npy"]


@pytest.fixture(scope="module", autouse=True)
def small_and_alone() -> Iterator[None]:
    """Shards of two films; one thread."""
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
    for name, image in zip(("film00.png", "film01.png", "deep/x.jpg"), images, strict=False):
        save(root / "pictures" / name, image)
    return root


def refused(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """What was printed as an error is one line, with `message`."""
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def call(work: Path, out: Path, *more: str, films: Path | None = None) -> int:
    given = ["--films", str(films or work / "films"), "--classifiers", str(work / "models")]
    return main(["labels", "make", *given, "--out", str(out), *more])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in STORE_FILES}


@pytest.fixture(scope="module")
def whole(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of an uninterrupted run, which the tests only read."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    assert call(work, out) == 0
    return out


def test_films_become_labels_once(work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_labels(whole, verify=True)
    store.check_films(open_store(work / "films"))
    assert store.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    with_fracture = store.pairs.loc[store.pairs["finding"] == "Fracture", "row"]
    assert with_fracture.tolist() == [0, 3, 6]
    assert sorted(store.meta["classifiers"]) == ["a", "b"]
    assert store.meta["positives"] == "given by the table of the films"
    assert sorted(f.name for f in whole.iterdir()) == STORE_FILES
    before = content(whole)
    monkeypatch.setattr(make, "make_labels", lambda *_: 1 / 0)
    assert call(work, whole) == 0
    assert content(whole) == before


def test_a_stopped_run_loses_nothing_and_does_nothing_twice(
    work: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "labels", np.savez
    tried: list[str] = []

    def savez(path: Path, **arrays: Any) -> None:
        tried.append(path.name[:5])
        if len(tried) == 3:
            path.write_bytes(b"half of a shard")
            raise KeyboardInterrupt
        real(path, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    assert call(work, out) == 1
    assert not (out / "labels.json").exists()
    assert call(work, out) == 0
    assert tried == ["00000", "00001", "00002", "00002", "00003", "00004"]
    assert content(out) == content(whole)
    assert not (out / "shards").exists()


def test_labels_of_another_making_are_not_replaced(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = content(whole)
    shutil.copytree(work / "models", tmp_path / "models")
    model = create("tu-test_resnet", 3, "silu", "avg", 7, CPU)
    weights.save(model, tmp_path / "models" / "b", model.config)
    monkeypatch.setattr(make, "code_of", lambda _: {"dollkit/labels/steps.py": "another"})
    assert call(tmp_path, whole, films=work / "films") == 2
    refused(capsys, "labels made with other classifiers, code are there: choose another --out")
    assert content(whole) == before


def test_without_findings_the_classifiers_call(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    assert call(work, out, "--size", str(SIZE), films=work / "pictures") == 0
    store, films = open_labels(out), open_store(out / "films")
    assert films.films["image_id"].tolist() == ["deep__x", "film00", "film01"]
    models = load_classifiers({n: work / "models" / n for n in "ab"}, CPU)
    with torch.inference_mode():
        x = compute.to_input(films.images[:], CPU)
        p = torch.stack([torch.sigmoid(m(x)) for m in models.values()]).mean(0).numpy()
    rows, findings = np.nonzero(p > 0.5)
    assert len(rows)
    assert store.pairs["row"].tolist() == rows.tolist()
    assert store.pairs["finding"].tolist() == [FINDINGS[c] for c in findings]
    assert "called by the classifiers (mean probability above 0.5)" in store.meta["positives"]


def test_what_cannot_be_labelled_is_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    twin = tmp_path / "twin" / "a"
    shutil.copytree(work / "models" / "a", twin)
    films, models, out = work / "films", work / "models", tmp_path / "out"
    wrong: dict[str, tuple[Path, list[Path], list[str]]] = {
        "no such folder: give a folder of images": (tmp_path / "none", [models], []),
        "no image here": (tmp_path / "empty", [models], []),
        "no such folder: give folders with weights": (films, [tmp_path / "none"], []),
        "no weights.safetensors here": (films, [tmp_path / "empty"], []),
        "a second classifier named 'a'": (films, [models, twin], []),
        "holds films of 32 px": (films, [models], ["--size", "64"]),
        "'size' is 8: use 32 or more": (films, [models], ["--size", "8"]),
    }
    for message, (given, folders, more) in wrong.items():
        names = ["--films", str(given), "--classifiers", *map(str, folders), "--out", str(out)]
        assert main(["labels", "make", *names, *more]) == 2
        refused(capsys, message)
    assert not (out / "labels.json").exists()


def test_show_and_export_from_the_command_line(
    work: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", "show", str(whole), "--verify"]) == 0
    assert "12 labels on 9 films, 32 x 32 px" in capsys.readouterr().out
    out = tmp_path / "out"
    export = ["labels", "export", str(whole), str(out), "--to", "png"]
    assert main([*export, "--films", str(work / "films")]) == 0
    assert len(list(out.glob("masks/fracture/*.png"))) == 3
    assert len(list(out.glob("images/*.png"))) == 9
    capsys.readouterr()
    assert main(["labels", "show", os.devnull]) == 2
    refused(capsys, f"{os.devnull}: not a label store (labels.json is missing): make labels first")
