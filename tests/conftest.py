"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit import paths
from tests.toys import make_toy


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data sets beside the repository; tests that need one skip without it."""
    folder = paths.ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of tiny notebooks in place of the real ones; see `tests.toys`."""
    make_toy(tmp_path)
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path
