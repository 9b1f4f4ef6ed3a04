"""The quickstart run from top to bottom in JupyterLab, and how a run that fails is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser.conftest import Opener

QUICKSTART = "notebooks/00_quickstart.ipynb"


def test_the_quickstart_runs(opened: Opener, pictures: Path) -> None:
    book = opened(QUICKSTART)
    book.run_all()
    book.picture(pictures / "notebooks" / "00_quickstart-run.png")
    code = [c for c in book.cells() if c["code"]]
    assert [c["number"] for c in code] == list(range(1, len(code) + 1))
    drawing = [c for c in code if "in_notebook." in c["source"]]
    assert drawing
    assert all(len(c["pictures"]) == 1 and c["pictures"][0] for c in drawing)
    stored = json.loads((paths.ROOT / QUICKSTART).read_text(encoding="utf-8"))["cells"][-1]
    assert code[-1]["output"] == "".join(stored["outputs"][0]["text"])
    assert book.layout() == []
    assert book.noise == []


@pytest.mark.parametrize(
    ("cells", "seconds", "message"),
    [
        (["a = 1", "a / 0", "a"], 60, r"(?s)cell 2 \[2\]:\n    a / 0\n.*ZeroDivisionError"),
        (["import time", "time.sleep(600)"], 5, r"(?s)not done within 5 s\n.*time.sleep"),
        (["import threading, warnings\nthreading.Timer(0, warnings.warn, ['late']).run()"], 60,
         "late"),
    ],
)  # fmt: skip
def test_a_run_that_fails_is_told(
    opened: Opener, written: Callable[..., str], cells: list[str], seconds: float, message: str
) -> None:
    book = opened(written("fails.ipynb", *(("py", cell) for cell in cells)))
    book.limit(seconds)
    with pytest.raises(AssertionError, match=message):
        book.run_all()
