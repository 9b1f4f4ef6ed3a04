"""A view as PNG or SVG.

The screen follows a slider, so its PNG is put together by pillow, in some milliseconds; the SVG,
for a paper, is drawn by matplotlib from the same shapes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from dollkit.interactive.explorer.layout import (
    Box,
    Lines,
    Picture,
    Shape,
    Sheet,
    Text,
    arrange,
    font,
)
from dollkit.interactive.explorer.view import View
from dollkit.report.style import context

DPI = 96
"""Pixels of a sheet in an inch of its SVG."""


def png(view: View, dark: bool = False, scale: int = 1) -> bytes:
    """The picture as PNG, `scale` times the size on the screen; a view always gives the same."""
    sheet = arrange(view, dark)
    image = Image.new("RGB", (sheet.width * scale, sheet.height * scale), sheet.paper)
    pen = ImageDraw.Draw(image)
    for shape in sheet.shapes:
        _paint(image, pen, shape, scale)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _paint(image: Image.Image, pen: ImageDraw.ImageDraw, shape: Shape, k: int) -> None:
    if isinstance(shape, Picture):
        size = round(shape.width * k), round(shape.height * k)
        how = Image.Resampling.BILINEAR if shape.smooth else Image.Resampling.NEAREST
        image.paste(Image.fromarray(_bytes(shape.rgb)).resize(size, how), _at(shape, k))
    elif isinstance(shape, Text):
        anchor = "mm" if shape.centred else "lm"
        at = shape.x * k, shape.y * k
        pen.text(at, shape.text, shape.colour, font(round(shape.size) * k), anchor)
    elif isinstance(shape, Box):
        far = (shape.x + shape.width) * k, (shape.y + shape.height) * k
        pen.rectangle((_at(shape, k), far), shape.face or None, shape.edge, width=k)
    else:
        for line in shape.points:
            pen.line((line * k).ravel().tolist(), shape.colour, round(shape.width * k), "curve")


def _at(shape: Picture | Box, k: int) -> tuple[int, int]:
    return round(shape.x * k), round(shape.y * k)


def _bytes(rgb: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.round(rgb * 255), np.uint8)


def svg(view: View, dark: bool = False) -> bytes:
    """The picture as SVG: outlines and text as vectors, films as embedded images."""
    with context():
        figure = _figure(arrange(view, dark))
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _figure(sheet: Sheet) -> Figure:
    size = sheet.width / DPI, sheet.height / DPI
    figure = Figure(figsize=size, dpi=DPI, facecolor=sheet.paper)
    FigureCanvasSVG(figure)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    for order, shape in enumerate(sheet.shapes):
        _add(ax, shape, order)
    # Last: every image sets the limits anew.
    ax.set_xlim(0, sheet.width)
    ax.set_ylim(sheet.height, 0)
    return figure


def _add(ax: Any, shape: Shape, order: int) -> None:
    points = 72 / DPI
    if isinstance(shape, Picture):
        extent = (shape.x, shape.x + shape.width, shape.y + shape.height, shape.y)
        how = "bilinear" if shape.smooth else "nearest"
        ax.imshow(shape.rgb, extent=extent, interpolation=how, aspect="auto", zorder=order)
    elif isinstance(shape, Text):
        ax.text(
            shape.x, shape.y, shape.text, color=shape.colour, fontsize=shape.size * points,
            ha="center" if shape.centred else "left", va="center", zorder=order,
        )  # fmt: skip
    elif isinstance(shape, Box):
        face = shape.face or "none"
        size = shape.width, shape.height
        ax.add_patch(
            Rectangle((shape.x, shape.y), *size, facecolor=face, edgecolor=shape.edge, zorder=order)
        )
    else:
        assert isinstance(shape, Lines)
        width = shape.width * points
        lines = LineCollection(list(shape.points), colors=shape.colour, linewidths=width)
        lines.set_zorder(order)
        ax.add_collection(lines)
