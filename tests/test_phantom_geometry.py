"""Primitives against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from dollkit.data.phantom.canvas import MU_BONE, MU_SOFT
from dollkit.data.phantom.geometry import (
    AXIS,
    Grid,
    ellipsoid,
    gaussian_tube,
    generator,
    graph_tube,
)
from dollkit.data.phantom.render import transmit


def test_ellipsoid_is_the_closed_form_chord() -> None:
    grid = Grid.make(256)
    centre, (a, b, c) = (0.05, -0.1), (0.2, 0.12, 0.3)
    window, thick = ellipsoid(grid, centre, (a, b), c)
    full = np.zeros((256, 256))
    full[window] = thick
    i = (np.arange(256) + 0.5) / 256 - 0.5
    y, x = np.meshgrid(i, i, indexing="ij")
    q = ((x - centre[0]) / a) ** 2 + ((y - centre[1]) / b) ** 2
    np.testing.assert_allclose(full, 2 * c * np.sqrt(np.clip(1 - q, 0, None)), atol=2e-4)
    # The integral over the film is the volume.
    assert full.sum() / 256**2 == pytest.approx(4 / 3 * np.pi * a * b * c, rel=2e-3)


def test_straight_tube_is_the_chord_of_a_cylinder() -> None:
    grid, slope, r = Grid.make(256), 0.5, 0.05
    curve = (slope * AXIS).astype(np.float32)
    radius = np.full(AXIS.shape, r, np.float32)
    window, thick = graph_tube(grid, 1, curve, radius, (-0.3, 0.3))
    full = np.zeros((256, 256), np.float32)
    full[window] = thick
    inside = np.abs(grid.x) < 0.29
    distance = (grid.y - slope * grid.x) / np.sqrt(1 + slope**2)
    chord = 2 * np.sqrt(np.clip(r**2 - distance**2, 0, None))
    # The axis comes from a table with steps of 0.8e-3; away from the rim that is below 2 %.
    middle = inside & (np.abs(distance) < 0.8 * r)
    np.testing.assert_allclose(full[middle], chord[middle], rtol=0.03)
    assert full[np.abs(grid.x) > 0.31].max() == 0
    assert full[inside & (np.abs(distance) > 1.03 * r)].max() == 0


def test_gaussian_tube_has_its_peak_and_mass() -> None:
    grid, sigma = Grid.make(256), 0.02
    field = np.zeros((256, 256), np.float32)
    gaussian_tube(field, grid, [(-0.3, 0.0), (0.3, 0.0)], sigma, 0.7)
    assert field[127:129, 128].mean() == pytest.approx(0.7, rel=0.01)
    cut = field[:, 128].sum() / 256
    assert cut == pytest.approx(0.7 * sigma * np.sqrt(2 * np.pi), rel=0.02)


def test_grid_and_pixels_are_inverse() -> None:
    grid = Grid.make(64, turn=-0.15, scale=0.9, shift=(0.03, -0.02))
    column, row = grid.pixels(grid.x, grid.y)
    np.testing.assert_allclose(column, np.broadcast_to(np.arange(64), (64, 64)), atol=1e-3)
    np.testing.assert_allclose(row.T, np.broadcast_to(np.arange(64), (64, 64)), atol=1e-3)


def test_slab_follows_beer_and_lambert() -> None:
    t = np.linspace(0, 3, 50, dtype=np.float32).reshape(5, 10)
    zero = np.zeros_like(t)
    np.testing.assert_allclose(transmit(t, zero, zero), np.exp(-MU_SOFT * t), rtol=1e-5)
    both = transmit(t, 0.1 * t, zero)
    np.testing.assert_allclose(both, np.exp(-(MU_SOFT + 0.1 * MU_BONE) * t), rtol=1e-5)
    np.testing.assert_allclose(
        transmit(t + 1, zero, zero), transmit(t, zero, zero) * np.exp(-MU_SOFT), rtol=1e-5
    )


def test_streams_depend_on_the_whole_key() -> None:
    def draw(*key: object) -> float:
        return float(generator(*key).random())

    assert draw(0, "a", 12) == draw(0, "a", 12)
    assert len({draw(0, "a", 12), draw(0, "a1", 2), draw(1, "a", 12), draw(0, "a", 13)}) == 4
