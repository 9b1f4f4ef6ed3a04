"""The healthy chest as fields of thickness on one film's grid, before findings are placed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dollkit.common.findings import PATHOLOGIES
from dollkit.data.phantom.anatomy import LEFT, RIGHT, SIDES, Anatomy
from dollkit.data.phantom.geometry import AXIS, TABLE, Floats, Grid, Window, ramp

Mask = npt.NDArray[np.uint8]

MU_SOFT, MU_BONE, MU_METAL = 1.55, 4.6, 60.0
"""Linear attenuation in 1/dm at chest energies (about 70 keV effective, scatter treated apart)."""
LUNG_DENSITY = 0.27
"""Density of aerated lung relative to soft tissue."""


class Canvas:
    """Fields of one film; thicknesses in dm, all (size, size) float32.

    Masks, (13, size, size) and (size, size), are drawn into the arrays given.
    """

    def __init__(self, grid: Grid, anatomy: Anatomy, masks: Mask, infection: Mask) -> None:
        self.grid, self.anatomy, self.masks, self.infection = grid, anatomy, masks, infection
        zero = np.zeros((7, grid.size, grid.size), np.float32)
        # Added to the body; negative for air (trachea).
        self.soft, self.bone, self.metal = zero[:3]
        self.air = zero[3]  # of both lungs
        self.water = zero[4]  # share of the lung's air filled by something of soft-tissue density
        self.gas = zero[5]  # share of the lung replaced by pure gas (pneumothorax)
        self.vessels = zero[6]  # in the lungs, drawn before their borders are applied
        # Height of the diaphragm above or below each pixel.
        right, left = (
            anatomy.lungs[RIGHT].dome[TABLE - 1 - grid.ix],
            anatomy.lungs[LEFT].dome[grid.ix],
        )
        self.dome = np.where(grid.x < 0, right, left)
        # By side: silhouette above the diaphragm, and air.
        self.lung: dict[int, npt.NDArray[np.bool_]] = {}
        self.lung_air: dict[int, Floats] = {}

    def mask(self, finding: str) -> Mask:
        """The (size, size) mask of a pathology, to draw into."""
        mask: Mask = self.masks[PATHOLOGIES.index(finding)]
        return mask

    def side_window(self, side: int, y0: float = -0.45, y1: float = 0.5) -> Window:
        """Window of one half of the chest."""
        x0, x1 = sorted((0.0, side * (self.anatomy.width + 0.03)))
        return self.grid.window(x0, x1, y0, y1)


def draw_lungs(c: Canvas) -> None:
    """Lung silhouettes and thickness: elliptic across, tapering at apex and diaphragm."""
    a, g = c.anatomy, c.grid
    for side in SIDES:
        lung = a.lungs[side]
        w = c.side_window(side, lung.apex - 0.01, lung.base + 0.02)
        iy, y = g.iy[w], g.y[w]
        x = g.x[w] * np.float32(side)
        medial, lateral = lung.medial[iy], lung.lateral[iy]
        u = (x - medial) / np.maximum(lateral - medial, 1e-4)
        q = np.clip(5 * u * (1 - u), 0, 1)
        depth = c.dome[w] - y
        inside = (u > 0) & (u < 1) & (depth > 0) & (y > lung.apex)
        taper = np.clip(depth * 18, 0, 1) * np.clip((y - lung.apex) * 8 + 0.12, 0, 1)
        thick = np.float32(a.lung_depth) * np.sqrt(q * taper) * inside
        full = np.zeros_like(c.air)
        full[w] = thick
        mask = np.zeros(full.shape, bool)
        mask[w] = inside
        c.lung_air[side], c.lung[side] = full, mask
        c.air += full


def cardiac(c: Canvas) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Draw heart and mediastinum; return their silhouettes (bool (size, size)) as (heart, both)."""
    a, g = c.anatomy, c.grid
    heart = np.zeros(c.air.shape, bool)
    rx, ry = a.heart_radii
    w = g.window(a.heart[0] - rx, a.heart[0] + rx, a.heart[1] - 1.4 * ry, a.heart[1] + 1.4 * ry)
    dx = g.x[w] - np.float32(a.heart[0])
    dy = g.y[w] - np.float32(a.heart[1]) - np.float32(a.heart_tilt) * dx
    q = 1 - (dx * np.float32(1 / rx)) ** 2 - (dy * np.float32(1 / ry)) ** 2
    c.soft[w] += np.float32(0.62) * np.sqrt(np.clip(1.6 * q, 0, 1))
    heart[w] = q > 0

    both = heart.copy()
    w = g.window(-0.25, 0.25, -0.40, a.heart[1])
    iy, x = g.iy[w], g.x[w]
    room = np.where(x > 0, a.medi_left[iy], a.medi_right[iy])
    q = 1 - (x / room) ** 2
    ends = np.clip((g.y[w] + 0.42) * 12, 0, 1) * np.clip((a.heart[1] - g.y[w]) * 12, 0, 1)
    c.soft[w] += np.float32(0.68) * np.sqrt(np.clip(2 * q, 0, 1)) * ends
    both[w] |= (q > 0) & (g.y[w] > a.lungs[LEFT].apex)
    # Below the domes the heart's shadow merges with the abdomen's and has no border.
    above = g.y < c.dome + np.float32(0.02)
    return heart & above, both & above


def draw_vessels(c: Canvas, rng: np.random.Generator, swell: float) -> None:
    """Hila and branching vessels; three generations of gently bent, tapering tubes."""
    for side in SIDES:
        hilum = np.array([side * (0.066 + 0.01 * rng.random()), -0.015 + 0.02 * (side < 0)])
        n = 11
        angle = np.linspace(-1.45, 1.35, n) + rng.normal(0, 0.15, n)
        length = rng.uniform(0.17, 0.25, n) * np.where(angle > 0.2, 1.15, 1.0)
        parent = np.broadcast_to(hilum, (n, 2)) + rng.normal(0, 0.008, (n, 2))
        radius = rng.uniform(0.0038, 0.0058, n) * swell
        for samples, children, peak in ((40, 4, 0.24), (26, 2, 0.19), (16, 0, 0.16)):
            t = np.linspace(0, 1, samples)
            bend = rng.normal(0, 0.45, len(angle))
            a = angle[:, None] + bend[:, None] * t
            step = (length / samples)[:, None]
            x = parent[:, :1] + side * np.cumsum(np.cos(a) * step, 1)
            y = parent[:, 1:] + np.cumsum(np.sin(a) * step, 1)
            sigma = radius[:, None] * (1 - 0.55 * t)
            weight = peak * (radius[:, None] / 0.0048) * (1 - 0.4 * t) * step / (sigma * 2.5066)
            if children == 4:  # the hilum itself is drawn below; do not sum all roots there
                weight = weight * np.minimum(0.25 + 2.5 * t, 1)
            points = np.stack([x.ravel(), y.ravel()], 1)
            c.vessels += c.grid.splat(points, sigma.ravel(), weight.ravel())
            if not children:
                break
            at = np.minimum(
                (np.linspace(0.3, 0.85, children) * samples).astype(int)
                + rng.integers(-2, 3, (len(angle), children)),
                samples - 1,
            )
            row = np.arange(len(angle))[:, None]
            parent = np.stack([x[row, at].ravel(), y[row, at].ravel()], 1)
            turn = rng.uniform(0.3, 0.75, at.shape) * rng.choice([-1, 1], at.shape)
            angle = (a[row, at] + turn).ravel()
            radius = (sigma[row, at] * rng.uniform(0.6, 0.85, at.shape)).ravel()
            length = np.repeat(length, children) * rng.uniform(0.35, 0.55, angle.size)
        spots = hilum + rng.normal(0, 1, (7, 2)) * (0.012, 0.028)
        c.soft += c.grid.splat(spots, 0.013 * swell, 0.07 * swell)


def draw_bones(c: Canvas, fractures: dict[tuple[int, int], tuple[float, float, float]]) -> None:
    """Spine, ribs, scapulae; a fracture (side, rib) -> (x, step, angle) displaces a rib's end."""
    a, g = c.anatomy, c.grid
    w = g.window(-0.09, 0.09, -0.5, 0.5)
    x = np.abs(g.x[w] - a.spine[g.iy[w]])
    period = np.float32(0.3) + np.float32(0.7) * ramp(
        (np.abs(((AXIS + 0.8) / 0.052) % 1 - 0.5) * -6 + 2.7).astype(np.float32)
    )
    body = np.sqrt(np.clip(1.5 * (1 - (x / np.float32(a.spine_width)) ** 2), 0, 1))
    c.bone[w] += np.float32(0.075) * body * period[g.iy[w]]
    c.soft[w] += np.float32(0.08) * body

    for side in SIDES:
        for k in range(len(a.ribs)):
            lateral = a.width + 0.012 - 0.10 * max(0.0, 1 - k / 2.5)
            curve = a.rib_height(k, "back")
            radius = np.full(TABLE, a.rib_radius * (0.95 if k else 0.8), np.float32)
            broken = fractures.get((side, k))
            if broken is not None:
                at, step, angle = broken
                past = np.maximum(AXIS - at, 0)
                curve = np.where(at < AXIS, curve + step + angle * past, curve)
                radius = np.where(np.abs(AXIS - at) < 0.006, 0.002, radius)
            wr, thick = g.graph_tube(side, curve, radius, (0.03, lateral), 0.75)
            c.bone[wr] += np.float32(8.0 if k < 8 else 4.5) * thick
            if k < 8:
                curve = a.rib_height(k, "front")
                radius = np.full(TABLE, a.rib_radius * 1.1, np.float32)
                start = 0.15 + 0.012 * k
                if start < lateral:
                    wr, thick = g.graph_tube(side, curve, radius, (start, lateral), 0.8)
                    c.bone[wr] += np.float32(4.5) * thick
        turn = side * 0.25
        x0 = side * (a.scapula_x + 0.06)
        ws, plate = g.ellipsoid((x0, -0.13), (0.075, 0.16), 0.5, turn)
        rim = (plate > 0) & (plate < 0.35)
        c.bone[ws] += np.float32(0.035) * np.minimum(plate * 3, 1) + np.float32(0.045) * rim


def draw_clavicles(c: Canvas) -> dict[int, npt.NDArray[np.bool_]]:
    """Clavicles as S-shaped tubes; returns side -> silhouette (bool (size, size))."""
    a, out = c.anatomy, {}
    for side in SIDES:
        v = (AXIS - 0.03) / (a.width - 0.03)
        y = a.clavicle_y + side * a.clavicle_skew + 0.035 - a.clavicle_tilt * v
        curve = (y - 0.016 * np.sin(2 * np.pi * np.clip(v, 0, 1))).astype(np.float32)
        radius = np.interp(v, [0, 0.12, 0.5, 0.9, 1], [0.017, 0.0145, 0.0125, 0.014, 0.012])
        span = (0.03, a.width)
        w, thick = c.grid.graph_tube(side, curve, radius.astype(np.float32), span, 0.7)
        c.bone[w] += np.float32(7.0) * thick
        w, solid = c.grid.graph_tube(side, curve, radius.astype(np.float32), span)
        silhouette = np.zeros(c.air.shape, bool)
        silhouette[w] = solid > 0
        out[side] = silhouette
    return out


def draw_soft(c: Canvas, rng: np.random.Generator) -> Floats:
    """Body outline, abdomen, stomach bubble, breasts, trachea; returns the body's thickness."""
    a, g = c.anatomy, c.grid
    across = g.x / a.outline[g.iy]
    chord = np.sqrt(np.clip(1 - across * across, 0, 1))
    body = np.float32(a.body_depth) * (
        np.float32(0.45) * np.minimum(4 * chord, 1) + np.float32(0.55) * chord
    )
    neck = np.interp(AXIS, [-0.6, -0.42, -0.25], [0.55, 0.62, 1.0]).astype(np.float32)
    body *= neck[g.iy]

    below = ramp((g.y - c.dome) * 26)
    c.soft += below * np.where(g.x < 0, np.float32(0.26), np.float32(0.14)) * (chord > 0)

    if a.stomach_shows:
        x, r = a.stomach_x, a.stomach_r
        y = float(a.lungs[LEFT].dome[int(np.searchsorted(AXIS, x))]) + 0.9 * r + 0.015
        w, thick = g.ellipsoid((x, y), (1.5 * r, r), 0.22)
        c.soft[w] -= thick
    if a.bust:
        r = 0.11 + 0.03 * a.bust
        for side in SIDES:
            centre = (side * (0.185 + 0.01 * a.bust), 0.10 + 0.03 * a.bust)
            w, thick = g.ellipsoid(centre, (r, 0.95 * r), 0.10 * a.bust)
            lower = ramp((g.y[w] - np.float32(centre[1] - r)) * np.float32(0.7 / r))
            c.soft[w] += np.minimum(thick * 1.2, 0.2) * lower

    w = g.window(-0.08, 0.08, -0.5, a.carina[1] + 0.01)
    d = (g.x[w] - a.trachea[g.iy[w]]) * np.float32(1 / 0.0165)
    live = np.clip((np.float32(a.carina[1]) - g.y[w]) * 40, 0, 1)
    c.soft[w] -= np.float32(0.24) * np.sqrt(np.clip(1.3 * (1 - d * d), 0, 1)) * live
    for side in SIDES:
        t = np.linspace(0, 1, 14)[:, None]
        end = (side * 0.065, 0.06 if side < 0 else 0.045)
        c.soft += g.splat(np.array(a.carina) + t * end, 0.0085, -0.05)
    return np.asarray(body * np.float32(1 + 0.02 * rng.normal()), np.float32)
