"""Stores, labels and weights: what a run has written, damaged since or never ours."""

from __future__ import annotations

import atexit
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from dollkit.classifiers import model
from dollkit.classifiers.model import load_classifier
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.data.store import open_store
from dollkit.interactive.explorer import sources
from dollkit.labels import store as labels
from dollkit.training import export, imagenet, networks, weights
from tests.badinput import spoil
from tests.badinput.case import Case
from tests.test_labels import noise, pairs_of

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet"
Reader = Callable[[Path], object]


class Harm:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def _folder(name: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix=f"badinput-{name}-"))
    atexit.register(shutil.rmtree, root, True)
    return root


@cache
def _store() -> Path:
    plan = PhantomPlan(n_films=24, n_train_pool=2, n_valid=1, n_test=1)
    return build_phantom(_folder("store") / "films", "films", 64, plan, workers=1)


@cache
def _labels() -> Path:
    root, made = _folder("labels"), noise(3)
    labels.write_shard(root / "a.npz", pairs_of([4, 4], ["Edema", "Fracture"]), made[:2])
    labels.write_shard(root / "b.npz", pairs_of([9], ["Edema"]), made[2:])
    shards = [root / "a.npz", root / "b.npz"]
    return labels.merge(shards, root / "store", {"size": 16, "films": "f" * 64}).path


@cache
def _classifier() -> Path:
    root = _folder("classifier")
    config = {"architecture": ENCODER, "depth": 3, "activation": "silu", "pooling": "avg"}
    weights.save(model.Classifier(**config), root, config)  # type: ignore[arg-type]
    return root


@cache
def _network() -> Path:
    root = _folder("network")
    config = {"network": "pspnet", "encoder": ENCODER, "classes": 2, "depth": 3}
    weights.save(networks.build(**config), root, config)  # type: ignore[arg-type]
    return root


def _read_store(path: Path) -> object:
    store = open_store(path, verify=True)
    return store.images[:], store.masks(range(len(store)))


def _read_labels(path: Path) -> object:
    store = labels.open(path, verify=True)
    return [store.label(i) for i in range(len(store.pairs))]


KINDS: dict[str, tuple[Callable[[], Path], Reader]] = {
    "film store": (_store, _read_store),
    "label store": (_labels, _read_labels),
    "classifier": (_classifier, lambda p: load_classifier(p, CPU)),
    "network": (_network, lambda p: weights.load_network(p, CPU)),
}

JSON: dict[str, Callable[[Any], Any]] = {
    "a list": lambda d: [d],
    "null": lambda d: None,
    "no keys": lambda d: {},
    "texts for values": lambda d: dict.fromkeys(d, "x"),
}


def _damaged(kind: str, file: str, how: spoil.Spoil) -> Reader:
    def run(folder: Path) -> object:
        make, read = KINDS[kind]
        root = spoil.copy_of(make(), folder / "artefact")
        how(root / file)
        return read(root)

    return run


def _json(file: str, change: Callable[[Any], Any]) -> spoil.Spoil:
    def how(path: Path) -> None:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return how


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> spoil.Spoil:
    def how(path: Path) -> None:
        state = load_file(path)
        change(state)
        path.unlink()
        save_file(state, path)

    return how


def _first(state: dict[str, torch.Tensor]) -> str:
    return next(k for k, v in state.items() if v.ndim == 4)


def _nan(state: dict[str, torch.Tensor]) -> None:
    state[_first(state)].view(-1)[0] = float("nan")


def _drop(state: dict[str, torch.Tensor]) -> None:
    del state[_first(state)]


def _add(state: dict[str, torch.Tensor]) -> None:
    state["more.weight"] = torch.zeros(2)


def _reshape(state: dict[str, torch.Tensor]) -> None:
    key = _first(state)
    state[key] = state[key][:1].clone()


TENSORS = {"NaN": _nan, "one missing": _drop, "one too many": _add, "another shape": _reshape}


def _harmful(read: Callable[[Path], object], name: str) -> Reader:
    """A pickle in the place of the file: refused, and not run."""

    def run(folder: Path) -> object:
        mark = folder / "harmed"
        (folder / name).write_bytes(pickle.dumps(Harm(mark)))
        try:
            return read(folder / name)
        finally:
            if mark.exists():
                raise AssertionError("a pickle was run")

    return run


def _imagenet(content: Callable[[Path], object]) -> Reader:
    def run(folder: Path) -> object:
        path = folder / "w.pth"
        content(path)
        return imagenet.read(path, "resnet18")

    return run


def _npz_of_objects(folder: Path) -> object:
    np.savez(folder / "a.npz", pairs=np.array([{"a": 1}], dtype=object))
    return labels.merge([folder / "a.npz"], folder / "store", {"size": 16, "films": "f"})


def _export(side: int) -> Reader:
    net = networks.build("pspnet", ENCODER, 2, depth=3)
    return lambda folder: export.export(net, folder / "out", side)


def _tuned(change: spoil.Spoil) -> Reader:
    def run(folder: Path) -> object:
        from dollkit.training import adapters

        net = networks.build("pspnet", ENCODER, 2, depth=3)
        names = adapters.prepare(net, "bn")
        weights.save_tuned(net, names, "bn", folder / "t.safetensors", 4)
        change(folder / "t.safetensors")
        fresh = networks.build("pspnet", ENCODER, 2, depth=3)
        return weights.load_tuned(fresh, folder / "t.safetensors")

    return run


def cases() -> Iterator[Case]:
    for kind, files in {
        "film store": ("store.json", "films.csv", "images.npy"),
        "label store": ("labels.json", "pairs.csv", "ends.npy"),
        "classifier": ("model.json", "weights.safetensors"),
        "network": ("model.json", "weights.safetensors"),
    }.items():
        for file in files:
            for name in ("gone", "half", "noise", "pointer", "folder", "zeros"):
                run = _damaged(kind, file, spoil.ALL[name])
                yield Case(kind, f"{file} {name}", run, (file, "artefact"))
        described = files[0]
        for name, change in JSON.items():
            run = _damaged(kind, described, _json(described, change))
            yield Case(kind, f"{described} {name}", run, (described, "artefact"))
    for kind in ("classifier", "network"):
        for name, edit in TENSORS.items():
            run = _damaged(kind, "weights.safetensors", _tensors(edit))
            yield Case(kind, f"weights with {name}", run, ("weights.safetensors",))
    for name in ("gone", "half", "noise", "zeros"):
        yield Case("adapter", name, _tuned(spoil.ALL[name]), ("t.safetensors",))
    contents: dict[str, Callable[[Path], object]] = {
        "list": lambda p: torch.save([1], p),
        "numbers": lambda p: torch.save({"a": 1}, p),
        "other network": lambda p: torch.save({"a.weight": torch.zeros(2)}, p),
        "text": lambda p: p.write_text("hello"),
        "empty": lambda p: p.write_bytes(b""),
        "gone": lambda p: None,
    }
    for name, content in contents.items():
        yield Case("ImageNet weights", name, _imagenet(content), ("w.pth",))
    harmed = {"ImageNet weights": ("w.pth", lambda p: imagenet.read(p, "resnet18"))}
    for kind, (file, read) in harmed.items():
        yield Case(kind, "pickle that would run", _harmful(read, file), (file,))
    yield Case("label store", "shard with objects", _npz_of_objects, ("a.npz",))
    for side in (0, 33, -64):
        yield Case("export", f"side {side}", _export(side), ("side",))
    yield Case("explorer", "no such run", lambda f: sources.open_run("nowhere", 4), ("nowhere",))
