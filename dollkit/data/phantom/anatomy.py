"""Numbers that describe one chest, and the lookup tables of its curved borders.

Proportions follow the usual rules of thumb (right dome above the left, cardiothoracic ratio below
one half in health). What stays with the patient (build, ribs, vessels) comes from the patient's
random stream, the rest (breath, view) from the film's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dollkit.data.phantom.geometry import AXIS, Floats, entry

RIGHT, LEFT = -1, 1
"""Sides of the patient as signs of x: the patient's left is on the right of the picture."""
SIDES = (RIGHT, LEFT)


@dataclass(frozen=True)
class Lung:
    """One lung in mirrored coordinates (lateral is positive)."""

    apex: float  # y
    base: float  # y of the costophrenic angle
    medial: Floats  # tables over y of its borders, equal above the apex
    lateral: Floats
    dome: Floats  # table over x of the diaphragm's height


def lung_borders(
    apex: float, base: float, width: float, apex_x: float, medial: float
) -> tuple[Floats, Floats]:
    """Tables over y of the medial and lateral border of a lung."""
    t = np.clip((AXIS - apex) / (base - apex), 0, 1)
    open_ = (1 - (1 - np.minimum(t / 0.72, 1)) ** 2.2) ** 0.55
    lateral = apex_x + (width - apex_x) * open_ - 0.02 * np.maximum(t - 0.72, 0) ** 2
    close = (1 - np.minimum(t / 0.16, 1)) ** 2
    inner = medial + (apex_x - medial) * close
    return inner.astype(np.float32), np.maximum(lateral, inner).astype(np.float32)


def _smooth(values: Floats, n: int) -> Floats:
    kernel = np.hanning(n + 2)[1:-1]
    padded = np.pad(values, n, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="same")[n:-n].astype(np.float32)


class Anatomy:
    """One chest as filmed once. Lengths in body units (see `geometry`), depths in decimetres.

    It is drawn from the random streams of patient and film. Of the findings (0/1 by name),
    Cardiomegaly, Enlarged Cardiomediastinum and Atelectasis (loss of volume) change it.
    """

    lung_depth, heart_tilt = 1.35, 0.28

    def __init__(
        self, patient: np.random.Generator, film: np.random.Generator, sex: str, view: str,
        findings: Mapping[str, int],
    ) -> None:  # fmt: skip
        ap, female = view == "AP", sex == "F"
        width = float(np.clip(patient.normal(0.345 - 0.008 * female, 0.016), 0.30, 0.385))
        apex = float(patient.normal(-0.355, 0.012))
        dome0 = float(patient.normal(0.215, 0.018))
        lag = float(patient.uniform(0.012, 0.035))
        sulcus = float(patient.uniform(0.085, 0.13))
        apex_x = float(patient.uniform(0.135, 0.16)) * width / 0.345
        medial = float(patient.uniform(0.05, 0.066))
        fat = float(np.clip(patient.gamma(2.2, 0.016), 0, 0.12))
        ratio = float(patient.uniform(0.40, 0.485))
        tall = float(patient.uniform(0.95, 1.1))
        knob = float(patient.uniform(0.5, 1.2))
        bend = float(patient.normal(0, 0.008))
        phase = float(patient.uniform(0, 6.28))
        self.spine_width = float(patient.uniform(0.036, 0.046))
        first = apex + float(patient.uniform(0.005, 0.02))
        gap = float(patient.uniform(0.062, 0.072))
        self.rib_radius = float(patient.uniform(0.0095, 0.0125))
        slope = float(patient.uniform(0.05, 0.10))
        fall = float(patient.uniform(0.13, 0.18))
        wobble = patient.normal(0, 1, (10, 2))
        # Of each rib: y at the spine, drop of its back, hump of its back, fall of its front.
        self.ribs: list[tuple[float, ...]] = [
            (
                first + gap * k + 0.002 * wobble[k, 0],
                slope * (0.35 + 0.14 * k) + 0.003 * wobble[k, 1],
                0.022 + 0.002 * k,
                fall * (0.55 + 0.08 * k),
            )
            for k in range(10)
        ]
        self.clavicle_y = float(patient.normal(-0.30, 0.012)) + (-0.02 if ap else 0.0)
        self.clavicle_tilt = float(patient.normal(0.045, 0.02)) * (0.5 if ap else 1.0)
        self.bust = float(patient.uniform(0.5, 1.1)) if female else 0.0
        self.scapula_x = width + 0.015 + float(patient.uniform(0.0, 0.03)) - (0.075 if ap else 0.0)
        bubble = patient.uniform(0, 1, 4)
        self.stomach_x, self.stomach_r = 0.14 + 0.05 * bubble[0], 0.025 + 0.03 * bubble[1]
        self.stomach_shows = bubble[2] > 0.2

        breath = float(film.normal(0.02 if ap else 0.0, 0.018))
        ratio *= 1.04 if ap else 1.0
        ratio = min(ratio * (1 + float(film.normal(0, 0.015))), 0.515)
        if findings["Cardiomegaly"]:
            ratio = float(film.uniform(0.575, 0.68))
        wide = float(film.uniform(0.9, 1.1))
        if findings["Enlarged Cardiomediastinum"] and not findings["Cardiomegaly"]:
            wide = float(film.uniform(1.65, 2.4))
        elif findings["Enlarged Cardiomediastinum"] and film.random() < 0.3:
            wide = float(film.uniform(1.4, 2.2))
        self.atelectasis_side = sick = int(film.choice(SIDES))
        loss = float(film.uniform(0.03, 0.075)) * findings["Atelectasis"]
        drift = float(film.normal(0, 0.004)) + 0.2 * loss * sick

        self.width = width
        self.lungs: dict[int, Lung] = {}
        for side in SIDES:
            dome = dome0 - breath + (lag if side == LEFT else 0.0) - (loss if side == sick else 0.0)
            base = dome + sulcus
            top = 0.155
            lateral_part = np.maximum(AXIS - top, 0) / (width - top)
            medial_part = np.maximum(top - AXIS, 0) / top
            height = dome + sulcus * lateral_part**2 + 0.45 * sulcus * medial_part**2
            inner, outer = lung_borders(apex, base, width, apex_x, medial)
            self.lungs[side] = Lung(apex, base, inner, outer, height.astype(np.float32))

        heart_width = ratio * 2 * width
        radius_y = 0.155 * tall * (0.6 + 0.4 * ratio / 0.45)
        floor = float(self.lungs[LEFT].dome[entry(0.1)])
        self.heart = (0.66 - 0.5) * heart_width + drift, floor - 0.72 * radius_y
        self.heart_radii = heart_width / 2, radius_y

        bump = np.exp(-(((AXIS + 0.14) / 0.035) ** 2))
        hila = np.exp(-(((AXIS + 0.02) / 0.05) ** 2))
        upper = np.clip((0.2 - AXIS) / 0.5, 0.0, 1.0)
        swell = 1 + (wide - 1) * np.clip(upper * 1.6, 0.35, 1)
        left = (0.048 + 0.022 * knob * bump + 0.012 * hila) * swell + drift
        right = (0.046 + 0.008 * hila) * swell - drift
        self.medi_left, self.medi_right = left.astype(np.float32), right.astype(np.float32)
        shoulder = width + 0.07 + fat
        outline = np.interp(
            AXIS,
            [-0.8, -0.46, -0.40, -0.31, -0.16, -0.02, 0.3, 0.8],
            [0.13, 0.14, 0.24, 0.62, 0.60, shoulder, shoulder - 0.01, shoulder + 0.02],
        )
        self.outline, self.body_depth = _smooth(outline.astype(np.float32), 90), 2.0 + 6.0 * fat
        self.carina = (drift + 0.005, -0.085 + float(film.normal(0, 0.006)))
        self.clavicle_skew = float(film.normal(0, 0.008))
        trachea = drift * np.clip((AXIS + 0.5) / 0.4, 0, 1) + 0.4 * bend
        self.trachea = trachea.astype(np.float32)
        self.spine = (bend * np.sin(5 * AXIS + phase)).astype(np.float32)
        across = np.maximum(AXIS, 0) / width
        self.rib_drop = (across**2.2).astype(np.float32)
        self.rib_hump = np.sin(np.minimum(across, 1) * np.pi).astype(np.float32)
        self.rib_fall = (1 - np.minimum(across, 1.2) ** 2.4).astype(np.float32)

    def point(self, side: int, u: float, t: float) -> tuple[float, float]:
        """Body point in a lung: `u` 0 medial to 1 lateral, `t` 0 apex to 1 diaphragm."""
        lung = self.lungs[side]
        y = lung.apex + t * (lung.base - lung.apex)
        for _ in range(2):  # the dome depends on x, and x on y
            i = entry(y)
            x = float(lung.medial[i] + u * (lung.lateral[i] - lung.medial[i]))
            y = lung.apex + t * (float(lung.dome[entry(x)]) - lung.apex)
        return side * x, y

    def open_point(
        self, rng: np.random.Generator, u: tuple[float, float], t: tuple[float, float]
    ) -> tuple[int, float, float]:
        """Random (side, x, y) in a lung and not behind the heart."""
        for _ in range(30):
            side = int(rng.choice(SIDES))
            x, y = self.point(side, rng.uniform(*u), rng.uniform(*t))
            dx = x - self.heart[0]
            dy = y - self.heart[1] - self.heart_tilt * dx
            if (dx / self.heart_radii[0]) ** 2 + (dy / self.heart_radii[1]) ** 2 >= 1:
                break
        return side, x, y

    def rib_height(self, k: int, part: str) -> Floats:
        """Table over mirrored x of the axis of rib `k`: ``part`` is "back" or "front"."""
        y, drop, hump, fall = self.ribs[k]
        if part == "back":
            return y + np.float32(drop) * self.rib_drop - np.float32(hump) * self.rib_hump
        return np.float32(y + drop) + np.float32(fall) * self.rib_fall
