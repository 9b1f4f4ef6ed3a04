"""The stages of a run and what each reads, as a small SVG of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 46, 34, 10, 6
"""Size of a node, space between nodes, and around all of them, in pixels."""

Graph = Mapping[str, Iterable[str]]


def reduced(graph: Graph) -> dict[str, list[str]]:
    """A graph without edges that a longer way implies.

    Args:
        graph: node to the nodes that it reads; nodes that are read and not listed are left out.

    Returns:
        The same nodes, inputs sorted. The graph must have no cycle.
    """
    own = {n: {i for i in inputs if i in graph} for n, inputs in graph.items()}
    before: dict[str, set[str]] = {}

    def ancestors(node: str) -> set[str]:
        if node not in before:
            before[node] = own[node].union(*(ancestors(i) for i in own[node]))
        return before[node]

    return {
        node: sorted(i for i in inputs if not any(i in ancestors(j) for j in inputs))
        for node, inputs in own.items()
    }


def columns(graph: Graph) -> list[list[str]]:
    """Nodes by the length of the longest way to them, each column sorted by name."""
    edges = reduced(graph)
    depth: dict[str, int] = {}

    def deep(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((deep(i) for i in edges[node]), default=-1)
        return depth[node]

    out: list[list[str]] = [[] for _ in range(1 + max(map(deep, edges), default=-1))]
    for node in sorted(edges):
        out[depth[node]].append(node)
    return out


def svg(graph: Graph, notes: Mapping[str, str]) -> str:
    """A graph from left to right as an ``<svg>`` element, edges that others imply left out.

    Args:
        graph: stage to the stages that it reads, such as ``finetune/pspnet-lungs``.
        notes: stage to a few words in its box, such as its time.
    """
    rows = columns(graph)
    tall = max((len(c) for c in rows), default=0)
    height = tall * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    width = len(rows) * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    corner: dict[str, tuple[float, float]] = {}
    for step, column in enumerate(rows):
        top = (height - len(column) * (HEIGHT + GAP_Y) + GAP_Y) / 2
        for place, node in enumerate(column):
            corner[node] = (MARGIN + step * (WIDTH + GAP_X), top + place * (HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" role="img" '
        'aria-label="stages of the run and what each reads" font-family="sans-serif">'
    ]
    for node, inputs in reduced(graph).items():
        x1, y1 = corner[node][0], corner[node][1] + HEIGHT / 2
        for name in inputs:
            x0, y0 = corner[name][0] + WIDTH, corner[name][1] + HEIGHT / 2
            bend = (x1 - x0) / 2
            parts.append(
                f'<path d="M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}" '
                'fill="none" stroke="#8c8c8c"/>'
            )
    for node, (x, y) in corner.items():
        family, _, rest = node.partition("/")
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="#eef4fa" '
            'stroke="#0072B2"/>'
        )
        lines = [(family, 11, "bold"), (rest, 10, "normal"), (notes.get(node, ""), 10, "normal")]
        filled = [line for line in lines if line[0]]
        first = y + HEIGHT / 2 + 4 - 6.5 * (len(filled) - 1)
        for k, (text, size, weight) in enumerate(filled):
            parts.append(
                f'<text x="{x + WIDTH / 2:g}" y="{first + 13 * k:g}" font-size="{size}" '
                f'font-weight="{weight}" text-anchor="middle">{escape(text)}</text>'
            )
    return "\n".join([*parts, "</svg>"])
