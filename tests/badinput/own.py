"""Settings of notebook 11, as a file of one's own gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dollkit.interactive.your_radiographs import settings
from tests.badinput.case import Case

FILES = {
    "no YAML": "films: [",
    "tab": "columns:\n\tpatient: id\n",
    "key twice": "size: 64\nsize: 96\n",
    "key twice, a list": "? [size]\n: 64\n? [size]\n: 96\n",
    "no date": "run: 2026-13-01\n",
    "deep": "films: " + "[" * 5000,
    "a list": "- films\n- masks\n",
    "text": "films\n",
    "a truth value": "false\n",
    "unknown parameter": "film: /data/films\n",
    "python object": "films: !!python/object/apply:os.getcwd []\n",
    "run of a profile": "run: laptop\n",
    "run is a path": "run: ../../etc\n",
    "steps without one": "steps: {classifier: 1, pretrain: 1}\n",
    "steps of none": "steps: {classifier: 1, pretrain: 0, finetune: 1}\n",
    "doll of another name": "doll: {train: 1, valid: 1, step: 1}\n",
    "unknown arm": "arms: [random, chance]\n",
    "predicts with none of the arms": "arms: [random]\npredict_with: doll\n",
    "no architecture": "architectures: []\n",
    "architecture twice": "architectures: [tu-resnet10t, tu-resnet10t]\n",
    "unknown architecture": "architectures: [resnet999]\n",
    "size out of range": "size: 65\n",
    "number as text": "lrs: [1e-3]\n",
    "another type": "folds: many\n",
    "seed twice": "seeds: [1, 1]\n",
    "learning rate twice": "lrs: [1.0e-3, 1.0e-3]\n",
}


def _file(content: str | bytes) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        path = folder / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return settings.read_settings(path)

    return run


def _folder(folder: Path) -> object:
    (folder / "mine.yaml").mkdir()
    return settings.read_settings(folder / "mine.yaml")


def cases() -> Iterator[Case]:
    for name, text in FILES.items():
        yield Case("own settings", name, _file(text), ("mine.yaml",))
    yield Case("own settings", "no UTF-8", _file(b"films: \xff\xfe"), ("mine.yaml",))
    yield Case("own settings", "a folder", _folder, ("mine.yaml",))
    yield Case(
        "own settings",
        "not there",
        lambda folder: settings.read_settings(folder / "mine.yaml"),
        ("mine.yaml",),
    )
