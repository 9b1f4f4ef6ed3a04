"""Wrong notebooks, profiles and pickles: each refused in one line that names it; none runs code.

Damaged tables, images, masks, stores and networks are in the tests of their own rooms.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dollkit.common import paths
from dollkit.labels import store as labels
from dollkit.training import imagenet
from dollkit.workflow import parameters, stages
from tests.small_files import error_of
from tests.toys import write_notebook


class Harm:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_files_run_no_code(tmp_path: Path) -> None:
    mark, file, shard = tmp_path / "harmed", tmp_path / "w.pth", tmp_path / "a.npz"
    file.write_bytes(pickle.dumps(Harm(mark)))
    assert "w.pth" in error_of(imagenet.find, str(file), "resnet18")
    np.savez(shard, pairs=np.array([Harm(mark)], dtype=object))
    settings = {"size": 16, "films": "f"}
    assert "a.npz" in error_of(labels.merge, {shard: ""}, tmp_path / "store", settings)
    assert not mark.exists()


SPOILS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "noise": lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)),
    "a list": lambda p: p.write_text("[]"),
}


@pytest.mark.parametrize("how", SPOILS)
def test_damaged_notebooks(how: str, tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "n.ipynb", "x = 1")
    SPOILS[how](book)
    assert "n.ipynb" in error_of(parameters.declared, book)


PROFILES = {
    "tab": "data:\n\tn_films: 3\n",
    "key twice": "? [data]\n: 64\n? [data]\n: 96\n",
    "no date": "data: 2026-13-01\n",
    "deep": "data: " + "[" * 5000,
    "empty": "",
    "a list": "- data\n- labels\n",
    "matrix is text": "matrix: all\n",
    "matrix path": "matrix:\n  architectures: [../../etc]\n",
    "python object": "data: !!python/object/apply:os.getcwd []\n",
}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_that_are_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(paths.NOTEBOOKS / "params", tmp_path / "params")
    (tmp_path / "params/bad.yaml").write_text(PROFILES[name])
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path))
    assert "bad.yaml" in error_of(stages.plan, "bad")
