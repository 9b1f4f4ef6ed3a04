"""One notebook open in JupyterLab: what a reader sees of it, and what went wrong.

Everything waits for a state of the page (cells there, prompts numbered, kernel idle), and fails
with the cells that are running or broken when it does not come in time.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser import script
from tests.browser.server import Lab

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Response

WIDTH, HEIGHT = 1366, 768  # a small laptop
TALLEST = 12000  # pixels of a picture of a whole notebook
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# A page that closes or asks anew gives up what it was asking for; a server has no part in that.
GIVEN_UP = "net::ERR_ABORTED"


def equations(source: str) -> int:
    """How many pieces of TeX a cell's Markdown has, code left out."""
    prose = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", source)
    prose, displayed = re.subn(r"(?s)\$\$.+?\$\$", "", prose)
    return displayed + len(re.findall(r"(?s)(?<!\\)\$(?!\s).+?(?<![\s\\])\$", prose))


def told(cell: dict[str, Any], number: int) -> str:
    """Number, source and output of a cell, for a message."""
    lines = cell["source"].strip().splitlines()
    source = "\n".join(f"    {line}" for line in lines)
    output = cell["output"].strip()[-2000:] or "(none)"
    return f"cell {number} {cell['prompt'].rstrip(':')}:\n{source}\n  output: {output}"


@dataclass
class Book:
    """A notebook in front of the reader; `seconds` is what it may take in all."""

    page: Page
    lab: Lab
    name: str
    seconds: float
    noise: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: m.type == "error" and self._note(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self._note(f"page: {e}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)

    def _note(self, text: str) -> None:
        self.noise.append(text)

    def _failed(self, request: Request) -> None:
        if request.failure != GIVEN_UP:
            self._note(f"no answer ({request.failure}): {request.method} {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"{response.status}: {response.request.method} {response.url}")

    def open(self) -> None:
        """The notebook in a workspace of its own, drawn, its kernel connected and idle."""
        address = f"{self.lab.url}lab/tree/{self.name}?reset&token={self.lab.token}"
        self.page.goto(address, timeout=1000 * self.left())
        self.wait(script.READY, "notebook and kernel are not there", self.name)
        self.page.evaluate(script.LISTEN)
        self.settle()

    def limit(self, seconds: float) -> None:
        """From now on it may take `seconds`."""
        self.seconds, self.begun = seconds, time.monotonic()

    def left(self) -> float:
        """Seconds that remain; at least one, so that what is due is still looked at."""
        return max(1.0, self.begun + self.seconds - time.monotonic())

    def wait(self, condition: str, failure: str, argument: object = None) -> None:
        """Until `condition`, JavaScript, holds in the page; AssertionError with `failure`."""
        from playwright.sync_api import TimeoutError as Late

        try:
            left = 1000 * self.left()
            self.page.wait_for_function(condition, arg=argument, timeout=left, polling=100)
        except Late:
            raise AssertionError(self._late(failure)) from None

    def until(self, condition: str, failure: str, argument: object = None) -> None:
        """`wait` for a `condition` that is asynchronous: asked again when it has answered."""
        while not self.page.evaluate(condition, argument):
            if time.monotonic() > self.begun + self.seconds:
                raise AssertionError(self._late(failure))
            self.page.wait_for_timeout(100)

    def _late(self, failure: str) -> str:
        text = f"{self.name}: {failure} within {self.seconds:.0f} s\n{self.unfinished()}"
        return "\n".join([text, *self.noise])

    def settle(self) -> None:
        """Until all cells are drawn, their pictures loaded and their equations typeset."""
        sources = self.page.evaluate(script.SOURCES)
        counts = [equations(source) for kind, source in sources if kind == "markdown"]
        self.wait(script.SETTLED, f"cells are not all drawn (equations: {counts})", counts)

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they are in the page, from top to bottom."""
        found: list[dict[str, Any]] = self.page.evaluate(script.CELLS)
        return found

    def unfinished(self) -> str:
        """Cells that run, failed, or are the first still to run."""
        try:
            cells = self.page.evaluate(script.CELLS)
        except Exception as error:
            return f"(the page cannot be read: {error})"
        found = [
            told(cell, number)
            for number, cell in enumerate(cells, start=1)
            if cell["errors"] or "*" in cell["prompt"]
        ]
        waiting = [(c, n) for n, c in enumerate(cells, start=1) if c["code"] and c["number"] < 0]
        return "\n".join(found or [told(c, n) for c, n in waiting[:1]])

    def run_all(self) -> None:
        """Run > Run All Cells; AssertionError with source and output of a cell that fails."""
        self.page.evaluate(script.CLEAR)
        for item in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.wait(script.DONE, "cells are not done")
        self.settle()
        self.no_error()

    def execute(self, code: str) -> str:
        """What `code` prints in the notebook's kernel; the notebook stays as it is."""
        return str(self.page.evaluate(script.EXECUTE, code))

    def no_error(self) -> None:
        """No error or warning in a cell or out of a callback."""
        cells = self.cells()
        wrong = [told(c, n) for n, c in enumerate(cells, start=1) if c["errors"]]
        assert not wrong, f"{self.name}:\n" + "\n".join(wrong)
        raised = self.page.evaluate("() => window.raised ?? []")
        assert not raised, f"{self.name}: raised outside of a cell's output:\n" + "\n".join(raised)

    def theme(self, name: str) -> None:
        """``light`` or ``dark``, for this page and those after it."""
        label = THEMES[name]
        self.page.evaluate(script.THEME, label)
        self.wait("t => document.body.dataset.jpThemeName === t", "theme has not changed", label)

    def close(self) -> None:
        """The kernel is shut down and the page closed."""
        self.page.evaluate(script.SHUT)
        self.page.close()

    def layout(self) -> list[str]:
        """What is too wide or too high on a small laptop's screen."""
        found: list[str] = self.page.evaluate(script.LAYOUT)
        return found

    def picture(self, path: Path) -> None:
        """A screenshot of the whole notebook, in a window as high as that takes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content, seen = self.page.evaluate(script.CONTENT_HEIGHT)
        height = min(TALLEST, max(HEIGHT, HEIGHT + content - seen))
        self.page.set_viewport_size({"width": WIDTH, "height": height})
        self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)").screenshot(path=path)
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
