"""The quickstart run from top to bottom in JupyterLab, and how a run that fails is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dollkit.common import paths
from tests.browser.conftest import Opener

QUICKSTART = "notebooks/00_quickstart.ipynb"


def test_the_quickstart_runs(opened: Opener, pictures: Path) -> None:
    book = opened(QUICKSTART)
    package, prefix = book.execute(
        "import sys, dollkit; print(dollkit.__file__, sys.prefix, sep='\\n')"
    ).splitlines()
    assert Path(package) == paths.PACKAGE / "__init__.py"
    assert prefix == sys.prefix
    book.run_all()
    book.theme("light")
    book.picture(pictures / "notebooks" / "00_quickstart-run.png")
    code = [c for c in book.cells() if c["code"]]
    assert [c["number"] for c in code] == list(range(1, len(code) + 1))
    drawing = [c for c in code if "in_notebook." in c["source"]]
    assert drawing
    assert [c["pictures"] for c in drawing if len(c["pictures"]) != 1 or not c["pictures"][0]] == []
    stored = json.loads((paths.ROOT / QUICKSTART).read_text(encoding="utf-8"))["cells"][-1]
    assert code[-1]["output"] == "".join(stored["outputs"][0]["text"])
    assert book.layout() == []
    assert book.noise == []


def test_a_cell_that_fails_is_told(opened: Opener, written: Callable[..., str]) -> None:
    book = opened(written("fails.ipynb", ("py", "a = 1"), ("py", "a / 0"), ("py", "a")))
    with pytest.raises(AssertionError, match=r"(?s)cell 2 \[2\]:\n    a / 0\n.*ZeroDivisionError"):
        book.run_all()


def test_a_cell_that_does_not_end_is_told(opened: Opener, written: Callable[..., str]) -> None:
    source = "import time\n\nprint('begun', flush=True)\ntime.sleep(600)"
    book = opened(written("sleeps.ipynb", ("py", source)))
    book.limit(5)
    with pytest.raises(AssertionError, match=r"(?s)not done within 5 s\n.*time.sleep.*begun"):
        book.run_all()


def test_an_error_outside_of_cells_is_told(opened: Opener, written: Callable[..., str]) -> None:
    source = "import threading, warnings\nthreading.Timer(0, warnings.warn, ['late']).run()"
    book = opened(written("warns.ipynb", ("py", source)))
    with pytest.raises(AssertionError, match="late"):
        book.run_all()
