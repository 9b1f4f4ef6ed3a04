"""One notebook open in JupyterLab: what a reader sees of it, and what went wrong.

Everything waits for a state of the page (cells there, prompts numbered, kernel idle), and fails
with the cells that are running or broken when it does not come in time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dollkit.common import paths
from tests.browser.server import Lab

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1366, 768  # a small laptop
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# A page that closes or asks anew gives up what it was asking for; a server has no part in that.
GIVEN_UP = "net::ERR_ABORTED"

# JavaScript that looks at JupyterLab from inside the page, by the application it exposes.
# `panel` is the notebook in front, connected to a kernel that waits.
READY = """path => {
  const panel = window.jupyterapp?.shell?.currentWidget;
  if (panel?.context?.path !== path || !panel.context.isReady) return false;
  const kernel = panel.sessionContext?.session?.kernel;
  return panel.sessionContext.isReady && kernel?.connectionStatus === 'connected'
    && kernel.status === 'idle';
}"""
# What the kernel raises, but for log lines, which go to stderr too; and messages of widgets that it
# has not done with: they may go to a subshell, of which the kernel's status does not tell.
LISTEN = """() => {
  window.raised = [];
  window.pending = new Set();
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  kernel.anyMessage.connect((_, {msg: m, direction}) => {
    const {header, parent_header: parent, content} = m;
    if (direction === 'send') {
      if (header.msg_type.startsWith('comm_')) window.pending.add(header.msg_id);
      return;
    }
    if (header.msg_type === 'status' && content.execution_state === 'idle')
      window.pending.delete(parent.msg_id);
    if (header.msg_type === 'error') window.raised.push(content.ename + ': ' + content.evalue);
    if (header.msg_type === 'stream' && content.name === 'stderr'
        && /Warning|Error/.test(content.text)) window.raised.push(content.text);
  });
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map(widget => {
  const cell = widget.node, text = cell.querySelector('.jp-RenderedMarkdown')?.cloneNode(true);
  text?.querySelectorAll('code, mjx-container').forEach(e => e.remove());
  const prompt = cell.querySelector('.jp-InputPrompt')?.textContent ?? '';
  const outputs = widget.model.outputs?.toJSON() ?? [];
  const written = outputs.filter(o => o.name === 'stderr').map(o => [o.text].flat().join(''));
  return {
    code: widget.model.type === 'code',
    source: widget.model.sharedModel.getSource(),
    prompt: prompt.trim(),
    number: Number(/\\[(\\d+)\\]/.exec(prompt)?.[1] ?? -1),
    prose: text?.textContent ?? '',
    bad_math: cell.querySelectorAll('mjx-merror, mjx-mtext[style*="red"]').length,
    output: cell.querySelector('.jp-Cell-outputArea')?.textContent ?? '',
    errors: [
      ...outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue),
      ...written.filter(text => /Warning|Error/.test(text)),
    ],
    pictures: [...cell.querySelectorAll('.jp-Cell-outputArea img')].map(i => i.naturalWidth),
  };
})"""
# All cells drawn, their pictures loaded, and every dollar typeset.
SETTLED = f"""() => {{
  const panel = window.jupyterapp.shell.currentWidget.content;
  return panel.widgets.length > 0 && panel.widgets.every(w => w.node.isConnected
      && w.node.querySelector(w.model.type === 'code' ? '.cm-content' : '.jp-RenderedMarkdown *'))
    && [...panel.node.querySelectorAll('.jp-Cell-outputArea img')].every(i => i.complete)
    && ({CELLS})().every(c => !c.prose.includes('$'));
}}"""
CLEAR = """() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"""
THEME = """theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"""
SHUT = """() => window.jupyterapp?.serviceManager.sessions.shutdownAll()"""
DONE = f"""() => {{
  const cells = ({CELLS})().filter(c => c.code && c.source.trim());
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel;
  return cells.some(c => c.errors.length)
    || kernel?.status === 'idle' && cells.every(c => c.number > 0);
}}"""


def told(cell: dict[str, Any], number: int) -> str:
    """Number, source and output of a cell, for a message."""
    source = "\n".join(f"    {line}" for line in cell["source"].strip().splitlines())
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
        note, on = self.noise.append, self.page.on
        on("console", lambda m: m.type == "error" and note(f"console: {m.text}"))
        on("pageerror", lambda e: note(f"page: {e}"))
        on("requestfailed", lambda r: r.failure != GIVEN_UP and note(f"{r.failure}: {r.url}"))
        on("response", lambda r: r.status >= 400 and note(f"{r.status}: {r.url}"))

    def open(self) -> None:
        """The notebook in a workspace of its own, drawn, its kernel connected and idle."""
        address = f"{self.lab.url}lab/tree/{self.name}?reset&token={self.lab.token}"
        self.page.goto(address, timeout=1000 * self.left())
        self.wait(READY, "notebook and kernel are not there", self.name)
        self.page.evaluate(LISTEN)
        self.wait(SETTLED, "cells are not all drawn and typeset")

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
        cells = [told(c, n) for n, c in enumerate(self.cells(), start=1) if "*" in c["prompt"]]
        lines = [f"{self.name}: {failure} within {self.seconds:.0f} s", *cells, *self.noise]
        return "\n".join(lines)

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they are in the page, from top to bottom."""
        found: list[dict[str, Any]] = self.page.evaluate(CELLS)
        return found

    def run_all(self) -> None:
        """Run > Run All Cells; AssertionError with source and output of a cell that fails."""
        self.page.evaluate(CLEAR)
        for item in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.wait(DONE, "cells are not done")
        self.wait(SETTLED, "cells are not all drawn and typeset")
        self.no_error()

    def no_error(self) -> None:
        """No error or warning in a cell or out of a callback."""
        wrong = [told(c, n) for n, c in enumerate(self.cells(), start=1) if c["errors"]]
        wrong += self.page.evaluate("() => window.raised ?? []")
        assert not wrong, f"{self.name}:\n" + "\n".join(wrong)

    def theme(self, name: str) -> None:
        """``light`` or ``dark``, for this page and those after it."""
        label = THEMES[name]
        self.page.evaluate(THEME, label)
        self.wait("t => document.body.dataset.jpThemeName === t", "theme has not changed", label)

    def close(self) -> None:
        """The kernel is shut down and the page closed."""
        self.page.evaluate(SHUT)
        self.page.close()

    def picture(self, name: str) -> None:
        """A screenshot below ``runs/browser``, for people to look at."""
        path = paths.ROOT / "runs" / "browser" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
