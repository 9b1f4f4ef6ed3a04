"""`make lab` as a user types it: the quickstart beside its contents, and settings left alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from dollkit.common import paths
from tests.browser import script, server
from tests.browser.book import Book

SECONDS = 90.0
# What the browser that Jupyter starts is told to open goes into a file, as soon as it is whole.
CATCHER = '#!/bin/sh\nprintf %s "$1" > "$0.tmp"\nmv "$0.tmp" "$0.opened"\n'
SHOWN = """() => {
  const toc = document.querySelector('.jp-TableOfContents');
  return toc?.offsetWidth > 100 && toc.querySelectorAll('.jp-tocItem').length > 0;
}"""


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_quickstart_and_contents_are_shown(page: Any, tmp_path: Path, pictures: Path) -> None:
    copy = tmp_path / "copy"  # opening a notebook may leave checkpoints beside it
    copy.mkdir()
    shutil.copytree(paths.NOTEBOOKS, copy / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(paths.ROOT / name, copy)
    ready = tmp_path / "ready"
    ready.touch()
    catcher = tmp_path / "catcher"
    catcher.write_text(CATCHER)
    catcher.chmod(0o755)
    env = server.environment(tmp_path / "home", paths.runs()) | {"BROWSER": f"{catcher} %s"}
    for name in ("JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_TOKEN"):
        env.pop(name, None)
    (tmp_path / "home" / "config" / "lab" / "workspaces").mkdir(parents=True)
    before = tree(tmp_path / "home" / "config") | tree(tmp_path / "home" / "settings")
    # The environment of these tests stands for the one that make would set up.
    command = ["make", "-C", str(copy), "lab", f"VENV={sys.prefix}", f"STAMP={ready}"]
    with server.started(command, env, copy) as lab:
        opened = tmp_path / "catcher.opened"
        book = Book(page, lab, "notebooks/00_quickstart.ipynb", SECONDS)
        while not opened.exists():
            assert book.left() > 1, f"no browser was started:\n{lab.log.read_text()}"
            page.wait_for_timeout(100)
        page.goto(opened.read_text())
        book.wait(script.READY, "the quickstart is not shown", book.name)
        book.wait(SHOWN, "the table of contents is not shown")
        headings = page.locator(".jp-TableOfContents .jp-tocItem-content").all_inner_texts()
        assert headings[0].startswith("00 · The whole idea on one film")
        pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=pictures / "make_lab.png")
        assert book.noise == []
        page.evaluate(script.SHUT)
    after = tree(tmp_path / "home" / "config") | tree(tmp_path / "home" / "settings")
    assert after == before
    assert [f.parent for f in (copy / "runs").rglob("*.jupyterlab-workspace")] == [
        copy / "runs" / "lab"
    ]
