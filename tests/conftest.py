"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dollkit.common import paths
from tests.toys import make_toy


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data sets beside the repository; tests that need one skip without it."""
    folder = paths.ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are no faster on more threads, and far slower on a machine in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of tiny notebooks in place of the real ones; see `tests.toys`."""
    make_toy(tmp_path)
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path
