"""Where everything of a view lies: a list of simple shapes, in pixels, that any backend can draw.

Colours are those of `dollkit.report.style`, told apart by readers with any colour vision; the
picture has a ground of its own, so that it reads in a light and in a dark notebook.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from dollkit.interactive.explorer.panels import Panel, Rgb, colours_of, contours, drawn, explained
from dollkit.interactive.explorer.view import View
from dollkit.report.style import BLACK, GREEN, ORANGE, SKY

SIDE, GAP, MARGIN = 190, 12, 14
HEAD, TITLE, SCALE, LEGEND = 42, 20, 40, 28
MOST_COLUMNS = 6


@dataclass(frozen=True)
class Ground:
    """Colours of paper, ink and faint ink."""

    paper: str
    ink: str
    faint: str


LIGHT, DARK = Ground("#ffffff", "#1a1a1a", "#5c5c5c"), Ground("#1c1c1c", "#f2f2f2", "#b5b5b5")


@dataclass(frozen=True)
class Text:
    """A line of text; (x, y) is its left middle, or its centre."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    centred: bool = False


@dataclass(frozen=True)
class Picture:
    """Colours (h, w, 3) in [0, 1] in a box; `smooth` where they are a colour bar."""

    x: float
    y: float
    width: float
    height: float
    rgb: Rgb
    smooth: bool = False


@dataclass(frozen=True)
class Box:
    """A rectangle; an empty `face` leaves it hollow."""

    x: float
    y: float
    width: float
    height: float
    edge: str
    face: str = ""


@dataclass(frozen=True)
class Lines:
    """Lines of (n, 2) points, `width` pixels wide."""

    points: tuple[npt.NDArray[np.float64], ...]
    colour: str
    width: float


Shape = Text | Picture | Box | Lines


@dataclass(frozen=True)
class Sheet:
    """All shapes, from back to front, on paper of some size in pixels."""

    width: int
    height: int
    paper: str
    shapes: tuple[Shape, ...]


def arrange(view: View, dark: bool = False) -> Sheet:
    """The whole picture: heading, finding, what networks drew, legend."""
    ground = DARK if dark else LIGHT
    rows = [explained(view), *_rows(drawn(view))]
    columns = max(len(row) for row in rows)
    width = 2 * MARGIN + columns * SIDE + (columns - 1) * GAP
    shapes = list(_heading(view, ground, width))
    top = HEAD
    for number, row in enumerate(rows):
        for i, panel in enumerate(row):
            shapes += _panel(panel, MARGIN + i * (SIDE + GAP), top, ground)
        top += TITLE + SIDE + (SCALE if number == 0 else GAP)
    if view.map is not None:
        shapes += _scale(view, MARGIN + SIDE + GAP, HEAD + TITLE + SIDE + 6, ground)
    shapes += _legend(view, top + 6, ground)
    return Sheet(width, top + LEGEND, ground.paper, tuple(shapes))


def _rows(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    for start in range(0, len(panels), MOST_COLUMNS):
        yield list(panels[start : start + MOST_COLUMNS])


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _width(text: str, size: float) -> float:
    return font(round(size)).getlength(text)


def _fit(text: str, width: float, size: float) -> str:
    """Text that fits into a width."""
    if _width(text, size) <= width:
        return text
    while text and _width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def _heading(view: View, ground: Ground, width: int) -> Iterator[Shape]:
    cut, wide = view.choice.cut, width - 2 * MARGIN
    said = f"smooth = {cut.smooth:g} of the side, hi by {cut.rule}, lo = {cut.ignore:g} hi"
    title = _fit(f"{view.image_id}: {view.choice.finding}", wide, 14)
    yield Text(MARGIN, 15, title, 14, ground.ink)
    yield Text(MARGIN, 33, _fit("; ".join([said, *view.notes]), wide, 11), 11, ground.faint)


def _panel(panel: Panel, left: float, top: float, ground: Ground) -> Iterator[Shape]:
    yield Text(left, top + TITLE / 2 + 1, _fit(panel.title, SIDE, 11), 11, ground.ink)
    top += TITLE
    if panel.rgb is None:
        yield Box(left, top, SIDE, SIDE, ground.faint)
        middle = left + SIDE / 2, top + SIDE / 2
        yield Text(*middle, panel.empty, 11, ground.faint, centred=True)
        return
    yield Picture(left, top, SIDE, SIDE, panel.rgb)
    for mask, colour in panel.outlines:
        lines = tuple(contours(mask, left, top, SIDE / len(panel.rgb)))
        # The dark rim lets them read on white and on black.
        yield Lines(lines, BLACK, 4)
        yield Lines(lines, colour, 2)
    if panel.corner:
        width = _width(panel.corner, 11) + 8
        # Above: the lower corners hold what matters of an effusion.
        yield Box(left + 4, top + 4, width, 18, BLACK, BLACK)
        yield Text(left + 8, top + 13, panel.corner, 11, "#ffffff")


def _scale(view: View, left: float, top: float, ground: Ground) -> Iterator[Shape]:
    """The colour bar of the map, with both thresholds on it."""
    ramp = mpl.colormaps["magma"](np.linspace(0, 1, 64))[None, :, :3].astype(np.float32)
    yield Picture(left, top, SIDE, 9, ramp, smooth=True)
    known = [(n, v, c) for n, v, c in (("lo", view.lo, SKY), ("hi", view.hi, ORANGE)) if v == v]
    for _, value, colour in known:
        x = left + SIDE * min(max(value, 0.0), 1.0)
        ends = (np.array([[x, top - 2], [x, top + 11]]),)
        yield Lines(ends, BLACK, 5)
        yield Lines(ends, colour, 3)
    said = ", ".join(["share of maximum", *(f"{n} {v:.2f}" for n, v, _ in known)])
    yield Text(left, top + 21, said, 10, ground.faint)


def _legend(view: View, top: float, ground: Ground) -> Iterator[Shape]:
    fixed = [
        (ORANGE, "finding (map ≥ hi)", False),
        (SKY, "ignored (lo ≤ map < hi)", False),
        (GREEN, "its truth", True),
    ]
    x = float(MARGIN)
    for colour, text, hollow in fixed:
        yield from _entry(colour, text, hollow, x, top, ground)
        x += 34 + _width(text, 11)
    if view.task is None:
        return
    said = "networks (line: truth):"
    yield Text(x, top + 6, said, 11, ground.faint)
    x += 10 + _width(said, 11)
    for colour, text in zip(colours_of(view.task.truth[0]), view.task.classes, strict=True):
        yield from _entry(colour, text, False, x, top, ground)
        x += 34 + _width(text, 11)


def _entry(
    colour: str, text: str, hollow: bool, x: float, top: float, ground: Ground
) -> Iterator[Shape]:
    yield Box(x, top, 11, 11, colour, "" if hollow else colour)
    yield Text(x + 17, top + 6, text, 11, ground.ink)
