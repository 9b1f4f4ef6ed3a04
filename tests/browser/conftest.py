"""One JupyterLab and one Chromium for all tests here; without a browser they are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dollkit.common import paths
from tests.browser import server
from tests.browser.book import HEIGHT, WIDTH, Book

SECONDS = 120.0  # to show a notebook, on a machine in use
FLAGS = [
    "--no-sandbox",  # it cannot be had as root in a container; the pages are our own
    "--no-proxy-server",
    # No network.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
]
Opener = Callable[..., Book]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium: ``CHROMIUM``, else the one on the path."""
    api = pytest.importorskip("playwright.sync_api")
    found = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    if found is None:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Lab]:
    """JupyterLab over copies of the notebooks and what they link to; ``executed/`` has those of the
    smoke run, if any.

    Kernels see that run by links: what they put beside its stages stays out of it.
    """
    home = tmp_path_factory.mktemp("lab")
    folder, finished, seen = home / "copy", paths.runs() / "smoke", home / "runs" / "smoke"
    for copied in ("notebooks", "docs", "figures/laptop"):
        shutil.copytree(paths.ROOT / copied, folder / copied, ignore=shutil.ignore_patterns(".*"))
    seen.mkdir(parents=True)
    for entry in finished.glob("*"):
        if entry.name != "explorer":  # maps that were kept; they are to be made here
            (seen / entry.name).symlink_to(entry)
    if (finished / "notebooks").is_dir():
        shutil.copytree(finished / "notebooks", folder / "executed")
    with server.serve(home, folder, home / "runs") as running:
        yield running


@pytest.fixture
def opened(lab: server.Lab, browser: Any) -> Iterator[Opener]:
    """A function that opens one notebook of the lab, named by its path there, in a page that has
    seen nothing before."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    books: list[Book] = []

    def opener(name: str, seconds: float = SECONDS) -> Book:
        books.append(Book(context.new_page(), lab, name, seconds))
        books[-1].open()
        return books[-1]

    yield opener
    for book in books:
        book.close()
    context.close()
