"""nbval as CI runs it: a stored output that is not what the cell prints makes it fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dollkit.common import paths

LINE = "patients in two splits: 0"


def test_a_wrong_stored_output_fails_its_cell_alone(tmp_path: Path) -> None:
    text = (paths.NOTEBOOKS / "01_data.ipynb").read_text(encoding="utf-8")
    assert text.count(LINE) == 1
    book = tmp_path / "01_data.ipynb"
    book.write_text(text.replace(LINE, LINE.replace("0", "1")), encoding="utf-8")
    flags = ["-v", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    checks = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300"]
    folders = {"DOLLKIT_RUNS": str(tmp_path / "runs"), "DOLLKIT_FIGURES": str(tmp_path / "figures")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, *checks, str(book)],
        cwd=paths.NOTEBOOKS.parent,
        env=os.environ | folders,
        capture_output=True,
        text=True,
    )
    cells = sum(c["cell_type"] == "code" for c in json.loads(text)["cells"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"1 failed, {cells - 1} passed" in done.stdout
    assert f"- {LINE}" in done.stdout
