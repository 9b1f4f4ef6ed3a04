"""ipywidgets in JupyterLab, moved as a hand does: menus, sliders, boxes, buttons.

A control is called by the class ``dollkit-<name>`` that it has or stands in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.book import Book

if TYPE_CHECKING:
    from playwright.sync_api import Locator

PREFIX = "dollkit-"
VIEW = ".dollkit-view"
# What a hand can take hold of, in the outputs of cells.
IN = ".jp-OutputArea-output"
INSIDE = ("select", ".noUi-handle", "input[type=checkbox]", "input[type=number]")
HOLDS = ", ".join(f"{IN} .jupyter-widgets {part}" for part in INSIDE)
HOLDS += f", {IN} button.jupyter-widgets, {IN} select.jupyter-widgets"
NAMES = """([holds, prefix]) => [...document.querySelectorAll(holds)].map(hold => {
  for (let e = hold; e; e = e.parentElement)
    for (const c of e.classList) if (c.startsWith(prefix)) return c.slice(prefix.length);
  return '?';
})"""
# A number made of the bytes of all pictures in the view; null while there is none.
PICTURE = """async view => {
  const node = document.querySelector(view);
  const inside = [...node?.querySelectorAll('img, canvas') ?? []];
  const found = node?.matches('img, canvas') ? [node] : inside;
  if (!found.length || found.some(f => f.complete === false)) return null;
  let text = '';
  for (const f of found) {
    const data = await (await fetch(f.src ?? f.toDataURL())).arrayBuffer();
    const sum = await crypto.subtle.digest('SHA-256', data);
    text += [...new Uint8Array(sum)].join() + ';';
  }
  return text;
}"""
CHANGED = f"async ([view, before]) => ![null, before].includes(await ({PICTURE})(view))"
# The same kernel status and the same picture twice in a row.
STILL = f"""async view => {{
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const done = kernel.status === 'idle' && !window.pending.size;
  const now = done ? await ({PICTURE})(view) : null;
  const same = now !== null && now === window.stillBefore;
  window.stillBefore = now;
  return same;
}}"""


def controls(book: Book) -> list[str]:
    """Names of the controls, from top to bottom."""
    found: list[str] = book.page.evaluate(NAMES, [HOLDS, PREFIX])
    return found


def still(book: Book) -> str:
    """The picture of the view once the kernel has nothing to do and it changes no more."""
    book.page.evaluate("() => { window.stillBefore = undefined; }")
    book.until(STILL, f"no picture that stands still in {VIEW}", VIEW)
    return str(book.page.evaluate(PICTURE, VIEW))


def usable(book: Book, name: str) -> str:
    """Why the control cannot be moved now; empty if it can."""
    hold = _hold(book, name)
    if hold.is_disabled() or hold.locator("xpath=ancestor::*[@disabled]").count():
        return "disabled"
    if _tag(hold) == "select" and len(hold.locator("option").all()) < 2:
        return "one choice only"
    least, most = (hold.get_attribute(f"aria-value{end}") for end in ("min", "max"))
    return "one value only" if least is not None and least == most else ""


def move(book: Book, name: str) -> None:
    """The control to another place: next choice, other end of a slider, box or button pressed.

    Raises AssertionError if the picture does not become another one, or anything is raised.
    """
    before = still(book)
    hold = _hold(book, name)
    hold.scroll_into_view_if_needed()
    if _tag(hold) == "select":
        now = int(hold.evaluate("e => e.selectedIndex"))
        hold.select_option(index=(now + 1) % len(hold.locator("option").all()))
    elif hold.get_attribute("role") == "slider":
        least, now, most = (
            float(hold.get_attribute(f"aria-value{part}") or 0) for part in ("min", "now", "max")
        )
        hold.press("Home" if 2 * now > least + most else "End")
    else:
        hold.click()
    book.until(CHANGED, f"'{name}' was moved and the picture has not changed", [VIEW, before])
    still(book)
    book.no_error()


def _hold(book: Book, name: str) -> Locator:
    return book.page.locator(HOLDS).nth(controls(book).index(name))


def _tag(hold: Locator) -> str:
    return str(hold.evaluate("e => e.tagName")).lower()
