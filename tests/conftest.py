"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dollkit.common import paths
from tests.toys import make_toy

gpu = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ],
)


@pytest.fixture(params=["cpu", gpu])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The CPU and, where there is one, a GPU, whose sums have no other order in the next call."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield torch.device(request.param)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data sets beside the repository; tests that need one skip without it."""
    folder = paths.ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@pytest.fixture(scope="module")
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
