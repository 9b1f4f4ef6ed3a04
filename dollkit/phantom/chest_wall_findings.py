"""Findings of pleura and ribs, each drawn with its exact mask.

Masks hold the region between a finding's borders: air, fluid, thickening, the surroundings of a
break.
"""

from __future__ import annotations

import numpy as np

from dollkit.phantom.anatomy import SIDES, lung_borders
from dollkit.phantom.canvas import Canvas
from dollkit.phantom.geometry import AXIS, gaussian_tube, ramp, splat, stamp, table_index
from dollkit.phantom.lung_findings import FRACTION

Break = tuple[float, float, float]
"""A broken rib: distance of the break from the midline, step, angle (slope) of the outer part."""


def pneumothorax(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Dark rim without vessels beside a visible pleural line: apical, lateral or basal."""
    mask, a, g = c.mask("Pneumothorax"), c.anatomy, c.grid
    side = int(rng.choice(SIDES))
    lung = a.lungs[side]
    size = extent * float(rng.uniform(0.08, 0.17))
    kind = int(rng.integers(0, 3))  # apicolateral, lateral, basal
    drop = size * (1.5, 0.6, 0.1)[kind]
    t = np.clip((AXIS - lung.apex) / (lung.base - lung.apex), 0, 1)
    profile = ((1 - t) ** 0.7 * 1.25, np.maximum(np.sin(np.pi * t), 0) ** 0.6, t**1.5 * 1.25)[kind]
    _, edge = lung_borders(lung.apex + drop, lung.base, a.width, 0.14, 0.05)
    edge = (edge - size * profile).astype(np.float32)
    w = c.side_window(side, lung.apex - 0.01, lung.base + 0.02)
    x, y, border = g.x[w] * np.float32(side), g.y[w], edge[g.iy[w]]
    above = y < np.float32(lung.apex + drop)
    space = ((x > border) | above) & c.lung[side][w]
    c.gas[w] = np.maximum(c.gas[w], space)
    mask[w] |= space.astype(np.uint8)
    # The lung that is left has lost air.
    c.water[w] += np.float32(0.10 * contrast) * (~space)
    along = (lung.apex + drop < AXIS) & (lung.base > AXIS)
    line = np.stack([side * edge[along], AXIS[along]], 1)[::12]
    start = lung.medial[table_index(lung.apex + drop)]
    line = np.concatenate([[[side * float(start), lung.apex + drop]], line])
    film = np.zeros_like(c.water)
    gaussian_tube(film, g, line, 0.0042, 0.42 * contrast)
    c.soft += film * c.lung[side]


def effusion(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Fluid with a meniscus rising along the lateral wall; one side or both, any height."""
    mask, a, g = c.mask("Pleural Effusion"), c.anatomy, c.grid
    side = int(rng.choice(SIDES))
    sides = SIDES if rng.random() < 0.22 else (side,)
    for s in sides:
        lung = a.lungs[s]
        height = extent * float(rng.uniform(0.08, 0.30))
        w = c.side_window(s, lung.base - height - 0.15, lung.base + 0.05)
        x, iy = g.x[w] * np.float32(s), g.iy[w]
        u = np.clip((x - lung.medial[iy]) / (lung.lateral[iy] - lung.medial[iy] + 1e-4), 0, 1)
        rise = 0.035 + 0.25 * height
        surface = np.float32(lung.base - height + 0.45 * rise) - np.float32(rise) * (u**3 - 0.2)
        alpha = ramp(((g.y[w] - surface) * 45).astype(np.float32)) * c.lung[s][w]
        c.water[w] = np.maximum(c.water[w], np.float32(min(1.0, 0.95 * contrast)) * alpha)
        c.soft[w] += np.float32(0.42 * contrast) * alpha * np.minimum(c.lung_air[s][w] * 1.3, 1)
        mask[w] |= (alpha > FRACTION).astype(np.uint8)


def pleural_other(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Thickened pleura along the chest wall with calcified plaques."""
    mask, a, g = c.mask("Pleural Other"), c.anatomy, c.grid
    side = int(rng.choice(SIDES))
    for s in SIDES if rng.random() < 0.3 else (side,):
        lung = a.lungs[s]
        t0 = float(rng.uniform(0.05, 0.55))
        t1 = t0 + extent * float(rng.uniform(0.32, 0.5))
        y0, y1 = (lung.apex + t * (lung.base - lung.apex) for t in (t0, t1))
        thick = extent * float(rng.uniform(0.026, 0.046))
        along = np.clip((AXIS - y0) / (y1 - y0), 0, 1)
        ripple = 1 + 0.25 * np.sin(AXIS * rng.uniform(70, 110) + rng.uniform(0, 6))
        rim = thick * np.sqrt(np.clip(6 * along * (1 - along), 0, 1)) * ripple
        inner = (lung.lateral - rim).astype(np.float32)
        w = c.side_window(s, y0, y1)
        x, iy = g.x[w] * np.float32(s), g.iy[w]
        region = (x > inner[iy]) & c.lung[s][w]
        c.soft[w] += np.float32(0.60 * contrast) * region
        mask[w] |= region.astype(np.uint8)
        n = 16
        y = rng.uniform(y0 + 0.02, max(y0 + 0.04, y1 - 0.02), n)
        depth = rng.uniform(0.15, 0.9, n) * rim[table_index(y)]
        x_at = s * (lung.lateral[table_index(y)] - depth)
        flecks = np.zeros_like(c.water)
        at = np.stack([x_at, y], 1).astype(np.float32)
        splat(flecks, g, at, rng.uniform(0.0055, 0.0085, n), 0.24 * contrast)
        c.bone += flecks * c.lung[s]


def plan_fractures(c: Canvas, rng: np.random.Generator) -> dict[tuple[int, int], Break]:
    """Neighbouring ribs broken near one line: (side, rib) -> (x, step, angle)."""
    side = int(rng.choice(SIDES))
    count = int(rng.integers(3, 6))
    first = int(rng.integers(1, 9 - count))
    at = c.anatomy.width * float(rng.uniform(0.42, 0.82))
    step = float(rng.choice([-1, 1])) * float(rng.uniform(0.018, 0.028))
    return {
        (side, k): (
            at + float(rng.normal(0, 0.012)),
            step * float(rng.uniform(0.8, 1.2)),
            float(rng.normal(0, 0.2)),
        )
        for k in range(first, first + count)
    }


def fracture(
    c: Canvas,
    rng: np.random.Generator,
    contrast: float,
    extent: float,
    breaks: dict[tuple[int, int], Break],
) -> None:
    """Bright callus over each break; the step itself is drawn with the ribs."""
    mask = c.mask("Fracture")
    for (side, k), (x, step, _) in breaks.items():
        y = float(c.anatomy.rib_height(k, "back")[table_index(x)]) + 0.5 * step
        points = np.array([[side * x, y - 0.4 * step], [side * x, y + 0.4 * step]], np.float32)
        gaussian_tube(c.bone, c.grid, points, 0.016 * extent, 0.48 * contrast)
        edge = rng.normal(0, 0.008, (4, 2)).astype(np.float32) + points[0]
        splat(c.bone, c.grid, edge, 0.006 * extent, 0.10 * contrast)
        stamp(mask, c.grid, points, 0.032 * extent)
