"""Findings of lung, pleura and ribs, each drawn with its exact mask.

Every function places one finding in a canvas, from a random stream of its own. A mask holds the
pixels where the finding's own geometry adds more than `FRACTION` of its peak (opacities) or the
region between its borders (air, fluid, thickening, breaks), on the film's own grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dollkit.data.phantom.anatomy import SIDES, lung_borders
from dollkit.data.phantom.canvas import Canvas
from dollkit.data.phantom.devices import devices
from dollkit.data.phantom.geometry import AXIS, Floats, Window, ramp, resample, table_index

FRACTION = 0.25
"""Share of a finding's peak above which a pixel belongs to its mask."""


def _line(x: float, y: float, angle: float, length: float, bend: float = 0.0) -> Floats:
    """Points of a bent line centred on (x, y)."""
    t = np.linspace(-0.5, 0.5, 9)
    a = angle + bend * t
    return np.stack([x + length * t * np.cos(a), y + length * t * np.sin(a)], 1).astype(np.float32)


def lesion(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Round nodules or masses with sharp margin, 0.04 to 0.13 of the film wide."""
    mask = c.mask("Lung Lesion")
    count = int(rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15]))
    for i in range(count):
        _, x, y = c.anatomy.open_point(rng, (0.16, 0.84), (0.15, 0.85))
        r = extent * float(rng.uniform(0.034, 0.062) if i == 0 else rng.uniform(0.022, 0.040))
        aspect = float(rng.uniform(0.85, 1.15))
        w, thick = c.grid.ellipsoid((x, y), (r * aspect, r / aspect), 1.0, rng.uniform(0, 3))
        c.soft[w] += np.float32(contrast * (1.0 + 3.0 * r)) * np.sqrt(thick * 0.5)
        mask[w] |= (thick > 0).astype(np.uint8)


def edema(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Bat-wing haze about both hila, reticular texture and Kerley B lines at the periphery."""
    mask, a, g = c.mask("Edema"), c.anatomy, c.grid
    level = float(rng.uniform(0.24, 0.42)) * contrast
    for side in SIDES:
        rx = extent * float(rng.uniform(0.12, 0.18))
        ry = extent * float(rng.uniform(0.13, 0.21))
        x0, y0 = side * 0.105, 0.01 + float(rng.normal(0, 0.02))
        w = g.window(x0 - 2 * rx, x0 + 2 * rx, y0 - 2 * ry, y0 + 2 * ry)
        q = ((g.x[w] - np.float32(x0)) / rx) ** 2 + ((g.y[w] - np.float32(y0)) / ry) ** 2
        alpha = np.exp(-(q**2)) * c.lung[side][w]
        n = 110
        at = np.stack([rng.normal(x0, rx * 0.55, n), rng.normal(y0, ry * 0.55, n)], 1)
        grain = g.splat(at, rng.uniform(0.006, 0.011, n), 0.55)
        c.water[w] += np.float32(level) * alpha * (0.55 + grain[w])
        mask[w] |= (alpha > FRACTION).astype(np.uint8)
        zone, sigma, samples = np.zeros_like(mask), 0.0030, []
        for t in np.sort(rng.uniform(0.6, 0.95, 9)):
            u = float(rng.uniform(0.80, 0.9))
            x, y = a.point(side, u, float(t))
            points = _line(x, y, rng.normal(0, 0.12), 0.055)
            samples.append(resample(points, 0.8 * sigma))
            g.stamp(zone, points, 0.011)
        lines = g.splat(np.concatenate(samples), sigma, 0.035 * contrast)
        mask |= zone & c.lung[side]
        c.soft += lines * c.lung[side]


def _region(
    c: Canvas, rng: np.random.Generator, x: float, y: float, rx: float, ry: float
) -> tuple[Window, Floats]:
    """Radial field of a wavy oval: 0 at its border, 1 at its centre, negative outside."""
    turn = rng.uniform(0, 3)
    wave = np.stack([rng.normal(0, 0.08, 3), rng.uniform(0, 6.28, 3)], 1).astype(np.float32)
    g = c.grid
    reach = 1.6 * max(rx, ry)
    w = g.window(x - reach, x + reach, y - reach, y + reach)
    dx, dy = g.x[w] - np.float32(x), g.y[w] - np.float32(y)
    co, si = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = (co * dx + si * dy) / np.float32(rx), (co * dy - si * dx) / np.float32(ry)
    r = np.sqrt(dx * dx + dy * dy)
    phi = np.arctan2(dy, dx)
    border = np.float32(1) + sum(
        np.float32(a) * np.sin(k * phi + np.float32(b)) for k, (a, b) in enumerate(wave, 2)
    )
    return w, (1 - r / border).astype(np.float32)


def consolidation(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Dense, homogeneous, cut off straight at a fissure, with dark branching air bronchograms."""
    mask, g = c.mask("Consolidation"), c.grid
    side, x, y = c.anatomy.open_point(rng, (0.35, 0.75), (0.2, 0.85))
    rx, ry = extent * rng.uniform(0.095, 0.14, 2)
    w, q = _region(c, rng, x, y, rx, ry)
    up = float(rng.choice([-1, 1]))
    fissure = (
        (g.y[w] - np.float32(y)) * up
        + np.float32(rng.normal(0, 0.35)) * (g.x[w] - np.float32(x))
        + np.float32(0.25 * ry)
    )
    alpha = ramp(q * 5) * ramp(fissure * 90) * c.lung[side][w]
    bronchi = np.zeros_like(c.water)
    start = np.array([side * 0.075, 0.0])
    aim = np.array([x, y + 0.35 * up * ry])
    main = aim - start
    heading = np.arctan2(main[1], main[0])
    root = aim - np.array([np.cos(heading), np.sin(heading)]) * rx * 0.9
    for turn in (-0.62, -0.2, 0.2, 0.62):
        a = heading + turn + rng.normal(0, 0.08)
        end = root + 2.0 * rx * np.array([np.cos(a), np.sin(a)])
        mid = 0.5 * (root + end) + rng.normal(0, 0.006, 2)
        bronchi += g.gaussian_tube([root, mid, end], 0.0062, 1.0)
    dense = np.float32(0.85 * contrast) * alpha * (1 - 0.9 * np.clip(bronchi[w], 0, 1))
    c.water[w] = np.maximum(c.water[w], dense) + 0.3 * np.minimum(c.water[w], dense)
    mask[w] |= (alpha > FRACTION).astype(np.uint8)


def pneumonia(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Patchy segmental cluster of ill-defined acinar shadows."""
    side, x, y = c.anatomy.open_point(rng, (0.3, 0.8), (0.15, 0.88))
    rx, ry = extent * rng.uniform(0.09, 0.14, 2)
    n = 36
    r, phi = np.sqrt(rng.random(n)), rng.uniform(0, 6.28, n)
    at = np.stack([x + rx * r * np.cos(phi), y + ry * r * np.sin(phi)], 1)
    sigma, weight = rng.uniform(0.0075, 0.012, n), rng.uniform(0.45, 0.95, n)
    patch = np.minimum(c.grid.splat(at, sigma, weight), 1) * c.lung[side]
    c.water += np.float32(0.95 * contrast) * patch
    envelope = c.grid.splat(at, 0.020, 0.6)
    c.mask("Pneumonia")[:] |= ((envelope > FRACTION) & c.lung[side]).astype(np.uint8)


def infection(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """COVID-like ground glass: bilateral, peripheral, lower zones; varying extent."""
    amount, skew = float(rng.uniform(0.25, 1.0)), float(rng.uniform(-0.35, 0.35))
    for side in SIDES:
        n = max(3, round(16 * amount * (1 + side * skew)))
        places = np.stack([1 - rng.beta(1.3, 3.0, n), rng.beta(3.2, 1.7, n)], 1).tolist()
        at = np.array([c.anatomy.point(side, u, t) for u, t in places])
        sigma, weight = extent * rng.uniform(0.018, 0.036, n), rng.uniform(0.5, 0.9, n)
        near = at[rng.integers(0, n, 4 * n)] + rng.normal(0, 0.022, (4 * n, 2))
        speck = c.grid.splat(near, 0.006, 0.4)
        field = np.minimum(c.grid.splat(at, sigma, weight), 1) * c.lung[side]
        c.water += np.float32(0.6 * contrast) * field * (0.75 + speck)
        c.infection |= (field > FRACTION).astype(np.uint8)
    c.mask("Pneumonia")[:] |= c.infection


def opacity(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Non-specific hazy density without inner structure, for films without a child finding."""
    mask = c.mask("Lung Opacity")
    side, x, y = c.anatomy.open_point(rng, (0.3, 0.75), (0.15, 0.85))
    rx, ry = extent * rng.uniform(0.09, 0.15, 2)
    w, q = _region(c, rng, x, y, rx, ry)
    alpha = ramp(q * 1.7) * c.lung[side][w]
    c.water[w] += np.float32(0.62 * contrast) * alpha
    mask[w] |= (alpha > FRACTION).astype(np.uint8)


def atelectasis(c: Canvas, rng: np.random.Generator, contrast: float, extent: float) -> None:
    """Plate-like bands, with the raised dome that the anatomy already has on that side."""
    mask, side = c.mask("Atelectasis"), c.anatomy.atelectasis_side
    count = int(rng.integers(2, 5))
    angle = float(rng.normal(0, 0.3))
    top = float(rng.uniform(0.35, 0.75))
    for i in range(count):
        t = min(0.93, top + 0.10 * i + float(rng.uniform(0, 0.05)))
        x, y = c.anatomy.point(side, float(rng.uniform(0.4, 0.7)), t)
        points = _line(x, y, angle + rng.normal(0, 0.12), extent * rng.uniform(0.14, 0.24), 0.25)
        sigma = float(rng.uniform(0.0060, 0.0095))
        band = c.grid.gaussian_tube(points, sigma, 1.0) * c.lung[side]
        c.soft += np.float32(0.60 * contrast) * band
        c.water += np.float32(0.15 * contrast) * band
        mask |= (band > FRACTION).astype(np.uint8)


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
    c.soft += g.gaussian_tube(line, 0.0042, 0.42 * contrast) * c.lung[side]


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
        at = np.stack([s * (lung.lateral[table_index(y)] - depth), y], 1)
        flecks = g.splat(at, rng.uniform(0.0055, 0.0085, n), 0.24 * contrast)
        c.bone += flecks * c.lung[s]


def fracture(
    c: Canvas, rng: np.random.Generator, contrast: float, extent: float
) -> dict[tuple[int, int], Break]:
    """Neighbouring ribs broken near one line, by side and number, with bright callus over each.

    The breaks themselves are drawn with the ribs.
    """
    side = int(rng.choice(SIDES))
    count = int(rng.integers(3, 6))
    first = int(rng.integers(1, 9 - count))
    at = c.anatomy.width * float(rng.uniform(0.42, 0.82))
    step = float(rng.choice([-1, 1])) * float(rng.uniform(0.018, 0.028))
    breaks: dict[tuple[int, int], Break] = {}
    for k in range(first, first + count):
        x = at + float(rng.normal(0, 0.012))
        breaks[side, k] = x, step * float(rng.uniform(0.8, 1.2)), float(rng.normal(0, 0.2))
    for (_, k), (x, step, _) in breaks.items():
        y = float(c.anatomy.rib_height(k, "back")[table_index(x)]) + 0.5 * step
        points = np.array([[side * x, y - 0.4 * step], [side * x, y + 0.4 * step]], np.float32)
        c.bone += c.grid.gaussian_tube(points, 0.016 * extent, 0.48 * contrast)
        edge = rng.normal(0, 0.008, (4, 2)).astype(np.float32) + points[0]
        c.bone += c.grid.splat(edge, 0.006 * extent, 0.10 * contrast)
        c.grid.stamp(c.mask("Fracture"), points, 0.032 * extent)
    return breaks


Draw = Callable[[Canvas, np.random.Generator, float, float], None]

DRAW: dict[str, Draw] = {
    "Pneumothorax": pneumothorax,
    "Edema": edema,
    "Pneumonia": pneumonia,
    "Lung Opacity": opacity,
    "Atelectasis": atelectasis,
    "Lung Lesion": lesion,
    "Consolidation": consolidation,
    "Pleural Effusion": effusion,
    "Pleural Other": pleural_other,
    "Support Devices": devices,
}
"""In drawing order: what hides is drawn after what is hidden.

Cardiomegaly and Enlarged Cardiomediastinum are part of the anatomy itself; fractures are drawn
with the ribs.
"""
