"""Support devices (tubes, lines, pacemakers, wires, stickers) and the side marker."""

from __future__ import annotations

import numpy as np

from dollkit.data.phantom.anatomy import LEFT, SIDES
from dollkit.data.phantom.canvas import Canvas
from dollkit.data.phantom.geometry import Floats, resample, table_index


def _curve(control: list[tuple[float, float]], n: int = 24) -> Floats:
    """Smooth curve through control points (Catmull-Rom)."""
    p = np.array([control[0], *control, control[-1]], np.float64)
    t = np.linspace(0, 1, n // (len(control) - 1) + 2)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        parts.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2)
            + 0.5 * (3 * b - a - 3 * c + d) * t**3
        )
    return np.concatenate(parts).astype(np.float32)


def _tube(
    c: Canvas, points: Floats, width: float, metal: float, tip: tuple[float, float] = (0.0, 0.0)
) -> None:
    """A line of given drawn width, attenuation and mask, and the size and metal of its tip."""
    c.metal += c.grid.gaussian_tube(points, 0.5 * width, 2.2 * metal)
    c.grid.stamp(c.mask("Support Devices"), points, max(0.8 * width, 0.006))
    if tip[0]:
        c.metal += c.grid.splat(points[-1:], *tip)


def endotracheal(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Endotracheal tube: wide tube in the trachea, tip above the carina."""
    x, y = c.anatomy.carina
    tip = y - float(rng.uniform(0.02, 0.08))
    points = _curve([(x + 0.01 * rng.normal(), -0.5), (x, -0.35), (x, tip)])
    _tube(c, points, 0.0095, 0.019 * k, (0.007, 0.012 * k))


def central_line(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Central venous line or PICC from either side to the superior vena cava."""
    side = int(rng.choice(SIDES))
    a = c.anatomy
    end = (-0.036 + 0.008 * rng.normal(), float(rng.uniform(-0.08, 0.08)))
    kind = rng.random()
    if kind < 0.4:  # jugular
        start = [(side * 0.10, -0.5), (side * 0.085, -0.38), (side * 0.05, -0.28)]
    elif kind < 0.75:  # subclavian
        y = a.clavicle_y
        start = [(side * 0.33, y + 0.10), (side * 0.22, y + 0.03), (side * 0.07, y + 0.03)]
    else:  # arm
        start = [(side * 0.46, -0.12), (side * 0.33, -0.22), (side * 0.08, -0.25)]
    points = _curve([*start, (-0.03, -0.20), end])
    _tube(c, points, 0.0068, 0.017 * k, (0.007, 0.016 * k))


def gastric(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Gastric tube down the midline, into the stomach."""
    dome = float(c.anatomy.lungs[LEFT].dome[table_index(0.1)])
    x = 0.012 + 0.006 * rng.normal()
    turn = float(rng.uniform(0.06, 0.17))
    points = _curve(
        [(x, -0.5), (x - 0.004, -0.2), (x + 0.008, 0.05), (x + 0.02, dome), (turn, dome + 0.09)]
    )
    _tube(c, points, 0.0075, 0.017 * k, (0.008, 0.014 * k))


def chest_tube(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Drain through the lateral wall, running up or down along it."""
    side = int(rng.choice(SIDES))
    a, y = c.anatomy, float(rng.uniform(0.02, 0.20))
    up = float(rng.choice([-1, -1, 1]))
    inner = a.point(side, 0.75, 0.5)[0]
    points = _curve(
        [
            (side * (a.width + 0.10), y + 0.03),
            (side * (a.width - 0.01), y),
            (inner, y + up * 0.08),
            (inner - side * float(rng.uniform(-0.03, 0.05)), y + up * (0.22 if up < 0 else 0.12)),
        ]
    )
    _tube(c, points, 0.010, 0.017 * k)


def pacemaker(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Generator below a clavicle, with one to three leads to the heart."""
    side = int(rng.choice([-1, 1], p=[0.3, 0.7]))
    a, g = c.anatomy, c.grid
    x, y = side * float(rng.uniform(0.22, 0.30)), float(rng.uniform(-0.23, -0.15))
    rx, ry = float(rng.uniform(0.038, 0.05)), float(rng.uniform(0.032, 0.042))
    w = g.window(x - rx, x + rx, y - ry, y + ry)
    q = ((g.x[w] - np.float32(x)) / rx) ** 4 + ((g.y[w] - np.float32(y)) / ry) ** 4
    box = np.clip((1 - q) * 4, 0, 1)
    c.metal[w] += np.float32(0.05 * k) * box
    c.mask("Support Devices")[w] |= (q < 1).astype(np.uint8)
    hx, hy = a.heart
    for _ in range(int(rng.integers(1, 4))):
        end = (hx + float(rng.normal(0.02, 0.04)), hy + float(rng.uniform(-0.04, 0.07)))
        points = _curve(
            [(x, y - 0.5 * ry), (side * 0.14, y - 0.06), (-0.02, -0.19), (-0.035, -0.02), end]
        )
        _tube(c, points, 0.0062, 0.016 * k, (0.007, 0.02 * k))


def sternal_wires(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """Median sternotomy: a column of wire loops, sometimes with a prosthetic valve."""
    phi = np.linspace(0, 6.28, 18)
    for y in np.arange(-0.20, 0.16, float(rng.uniform(0.055, 0.075))):
        x, r = 0.004 * rng.normal(), 0.014 + 0.003 * rng.random()
        ring = np.stack([x + r * np.cos(phi), y + 0.6 * r * np.sin(phi)], 1).astype(np.float32)
        _tube(c, ring, 0.006, 0.018 * k)
    if rng.random() < 0.5:
        x, y = c.anatomy.heart[0] - 0.03, c.anatomy.heart[1] - 0.02
        ring = np.stack([x + 0.026 * np.cos(phi), y + 0.017 * np.sin(phi)], 1).astype(np.float32)
        _tube(c, ring, 0.0075, 0.025 * k)


def electrodes(c: Canvas, rng: np.random.Generator, k: float) -> None:
    """ECG stickers with their wires."""
    for _ in range(int(rng.integers(2, 5))):
        side = int(rng.choice(SIDES))
        x, y = side * float(rng.uniform(0.12, 0.36)), float(rng.uniform(-0.24, 0.26))
        phi = np.linspace(0, 6.28, 18)
        r = 0.016
        ring = np.stack([x + r * np.cos(phi), y + r * np.sin(phi)], 1).astype(np.float32)
        _tube(c, ring, 0.006, 0.013 * k)
        c.metal += c.grid.splat([(x, y)], 0.006, 0.03 * k)
        c.grid.stamp(c.mask("Support Devices"), np.array([[x, y]]), r)
        far = (x + side * float(rng.uniform(0.05, 0.2)), float(rng.choice([-0.5, 0.5])))
        wire = _curve([(x, y), (0.5 * (x + far[0]) + 0.04 * rng.normal(), 0.5 * (y + far[1])), far])
        _tube(c, wire, 0.0055, 0.011 * k)


_KINDS = (
    (endotracheal, 0.40),
    (central_line, 0.55),
    (gastric, 0.35),
    (chest_tube, 0.22),
    (pacemaker, 0.28),
    (sternal_wires, 0.22),
    (electrodes, 0.35),
)


def devices(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """At least two devices (a pacemaker alone is enough), drawn independently, of fixed sizes."""
    chosen = [draw for draw, p in _KINDS if rng.random() < p]
    while len(chosen) < 2 and chosen != [pacemaker]:
        extra = _KINDS[int(rng.integers(len(_KINDS)))][0]
        if extra not in chosen:
            chosen.append(extra)
    for draw in chosen:
        draw(c, rng, contrast)


_LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "R": [[(0, 1), (0, 0), (0.55, 0.05), (0.55, 0.45), (0, 0.5)], [(0.2, 0.5), (0.6, 1)]],
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
}


def side_marker(c: Canvas, rng: np.random.Generator) -> None:
    """Lead letter at the film's edge; on most films, whatever their findings."""
    if rng.random() > 0.85:
        return
    letter = "R" if rng.random() < 0.5 else "L"
    side = -1 if letter == "R" else 1
    x0, y0 = side * float(rng.uniform(0.40, 0.43)) - 0.01, float(rng.uniform(-0.43, -0.2))
    for stroke in _LETTERS[letter]:
        points = np.array(stroke, np.float32) * np.float32(0.034) + np.array([x0, y0], np.float32)
        c.metal += c.grid.gaussian_tube(resample(points, 0.002), 0.0028, 0.04)
