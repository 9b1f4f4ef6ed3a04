"""Damaged or wrong files: each is refused in one line that names it, and none runs code.

Rooms test what is special to their own files (tables, images, masks); here are profiles and knobs,
and what a run has written: film stores, label stores, networks.
"""

from __future__ import annotations

import json
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dollkit.classifiers import model
from dollkit.classifiers.model import load_classifier
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.data.store import open_store
from dollkit.labels import store as labels
from dollkit.training import imagenet, networks, weights
from dollkit.workflow import parameters, stages
from dollkit.workflow.reproduce import check_knobs
from tests.test_labels import noise, pairs_of
from tests.toys import write_notebook

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet"
SECONDS = 60
"""That one input may take: a guard against hanging, not a claim of speed."""


def late(*_: object) -> None:
    raise TimeoutError("it hangs")


def refuses(read: Callable[[], object], *names: str) -> None:
    """The input is refused in one line of some length that has one of the names."""
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with pytest.raises(InputError) as error:
            read()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 700
    assert any(name in text for name in names), text


# Ways to damage a file so that it cannot be what it was.


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
SPOILS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "noise": lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)),
    "Git LFS pointer": lambda p: p.write_text(POINTER),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "folder": folder,
}


def change_json(change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


JSON = {
    "a list": change_json(lambda d: [d]),
    "null": change_json(lambda d: None),
    "no keys": change_json(lambda d: {}),
    "texts for values": change_json(lambda d: dict.fromkeys(d, "x")),
}


def change_tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Any:
    def how(path: Path) -> None:
        state = load_file(path)
        change(state, next(k for k, v in state.items() if v.ndim == 4))
        path.unlink()
        save_file(state, path)

    return how


TENSORS: dict[str, Callable[[Path], object]] = {
    "NaN": change_tensors(lambda state, key: state[key].view(-1)[0].fill_(torch.nan)),
    "one missing": change_tensors(lambda state, key: state.pop(key)),
    "one too many": change_tensors(lambda state, key: state.update(more=torch.zeros(2))),
    "another shape": change_tensors(lambda state, key: state.update({key: state[key][:1].clone()})),
}


def film_store(root: Path) -> Path:
    plan = PhantomPlan(n_films=24, n_train_pool=2, n_valid=1, n_test=1)
    return build_phantom(root / "films", "films", 64, plan, workers=1)


def read_film_store(path: Path) -> object:
    store = open_store(path, verify=True)
    return store.images[:], store.masks(range(len(store)))


def label_store(root: Path) -> Path:
    planes = noise(3)
    labels.write_shard(root / "a.npz", pairs_of([4, 4], ["Edema", "Fracture"]), planes[:2])
    labels.write_shard(root / "b.npz", pairs_of([9], ["Edema"]), planes[2:])
    shards = [root / "a.npz", root / "b.npz"]
    return labels.merge(shards, root / "store", {"size": 16, "films": "f" * 64}).path


def read_label_store(path: Path) -> object:
    store = labels.open(path, verify=True)
    return [store.label(i) for i in range(len(store.pairs))]


def classifier(root: Path) -> Path:
    config = {"architecture": ENCODER, "depth": 3, "activation": "silu", "pooling": "avg"}
    weights.save(model.Classifier(**config), root, config)  # type: ignore[arg-type]
    return root


def network(root: Path) -> Path:
    config = {"network": "pspnet", "encoder": ENCODER, "classes": 2, "depth": 3}
    weights.save(networks.build(**config), root, config)  # type: ignore[arg-type]
    return root


ARTEFACTS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], tuple[str, ...]]] = {
    "film store": (film_store, read_film_store, ("store.json", "films.csv", "images.npy")),
    "label store": (label_store, read_label_store, ("labels.json", "pairs.csv", "ends.npy")),
    "classifier": (
        classifier, lambda p: load_classifier(p, CPU), ("model.json", "weights.safetensors"),
    ),
    "network": (
        network, lambda p: weights.load_network(p, CPU), ("model.json", "weights.safetensors"),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_damaged_artefacts(kind: str, tmp_path: Path) -> None:
    make, read, files = ARTEFACTS[kind]
    (tmp_path / "made").mkdir()
    made, copy = make(tmp_path / "made"), tmp_path / "artefact"
    damages = [(file, how) for file in files for how in SPOILS.values()]
    damages += [(files[0], how) for how in JSON.values()]
    damages += [(f, how) for f in files if f.endswith("tensors") for how in TENSORS.values()]
    for file, how in damages:
        shutil.copytree(made, copy)
        read(copy)
        how(copy / file)
        refuses(lambda: read(copy), file, "artefact")
        shutil.rmtree(copy)


class Harm:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_files_run_no_code(tmp_path: Path) -> None:
    mark, file, shard = tmp_path / "harmed", tmp_path / "w.pth", tmp_path / "a.npz"
    file.write_bytes(pickle.dumps(Harm(mark)))
    refuses(lambda: imagenet.read(file, "resnet18"), "w.pth")
    np.savez(shard, pairs=np.array([Harm(mark)], dtype=object))
    out = tmp_path / "store"
    refuses(lambda: labels.merge([shard], out, {"size": 16, "films": "f"}), "a.npz")
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1], {"a": 1}, {"a.weight": torch.zeros(2)}, None])
def test_weights_of_something_else(content: object, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    if content is None:
        file.write_text("hello")
    else:
        torch.save(content, file)
    refuses(lambda: imagenet.read(file, "resnet18"), "w.pth")


@pytest.mark.parametrize("how", SPOILS)
def test_damaged_notebooks(how: str, tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "n.ipynb", "x = 1")
    SPOILS[how](book)
    refuses(lambda: parameters.declared(book), "n.ipynb")


PROFILES = {
    "no YAML": "data: [",
    "tab": "data:\n\tn_films: 3\n",
    "key twice": "data:\n  size: 64\n  size: 96\n",
    "key twice, a list": "? [data]\n: 64\n? [data]\n: 96\n",
    "no date": "data: 2026-13-01\n",
    "deep": "data: " + "[" * 5000,
    "empty": "",
    "a list": "- data\n- labels\n",
    "text": "hello\n",
    "section is a number": "data: 3\n",
    "matrix is text": "matrix: all\n",
    "matrix path": "matrix:\n  architectures: [../../etc]\n",
    "bytes": "data: !!binary aGVsbG8=\n",
    "python object": "data: !!python/object/apply:os.getcwd []\n",
}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_that_are_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    (tmp_path / "notebooks/params/bad.yaml").write_text(PROFILES[name])
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path / "notebooks"))
    refuses(lambda: stages.plan("bad"), "bad.yaml")


@pytest.mark.parametrize(
    "given",
    [("lap top", "", "1", "auto"), ("", "", "1", "auto"), ("../x", "", "1", "auto"),
     *(("smoke", "", jobs, "auto") for jobs in ("0", "-1", "1.5", "")),
     ("smoke", "", "1", "cuda:0"), ("smoke", "", "1", ""), ("smoke", "", "1", "auto", "pbs"),
     ("open", "nowhere", "1", "auto"), ("open", "a\0b", "1", "auto")],
)  # fmt: skip
def test_knobs_that_are_none(given: tuple[str, ...]) -> None:
    refuses(lambda: check_knobs(*given), "profile", "JOBS=", "DEVICE=", "EXECUTOR=", "DATA=")
