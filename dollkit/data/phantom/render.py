"""From rows of a population to films: attenuation, detection, display.

The film is the Beer-Lambert integral ``exp(-sum_i mu_i t_i)`` over the thicknesses ``t_i`` of soft
tissue, bone and metal along each (parallel) ray. Scatter, quantum noise, detector blur, the
logarithmic display window and the collimator follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from dollkit.common.errors import InputError
from dollkit.common.findings import OPACITY_CHILDREN, PATHOLOGIES
from dollkit.data.phantom import canvas
from dollkit.data.phantom import findings as disease
from dollkit.data.phantom.anatomy import LEFT, RIGHT, Anatomy
from dollkit.data.phantom.canvas import LUNG_DENSITY, MU_BONE, MU_METAL, MU_SOFT, Canvas, Mask
from dollkit.data.phantom.devices import side_marker
from dollkit.data.phantom.geometry import Floats, Grid, generator
from dollkit.data.phantom.population import Protocol

ORGANS: tuple[str, ...] = ("left lung", "right lung", "heart", "left clavicle", "right clavicle")
"""Channel order of organ masks; left is the patient's left, on the right of the picture."""


@dataclass(frozen=True)
class Films:
    """Rendered films and their masks of 0 and 1.

    Lungs are the lung fields: heart and mediastinum are left out, diseased lung is not.
    """

    images: Mask  # (n, size, size), bone bright
    findings: Mask  # (n, 13, size, size) in `PATHOLOGIES` order
    organs: Mask  # (n, 5, size, size) in `ORGANS` order
    infection: Mask  # (n, size, size), COVID-like


def check_size(size: int) -> None:
    """Raise `InputError` unless `size` is a multiple of 8 from 64 to 1024."""
    if size % 8 or not 64 <= size <= 1024:
        raise InputError(f"parameter 'size' is {size}: use a multiple of 8 from 64 to 1024")


def transmit(soft: Floats, bone: Floats, metal: Floats) -> Floats:
    """Beer-Lambert: transmitted share of the beam for thicknesses in dm, float32, same shape."""
    total = np.float32(MU_SOFT) * soft + np.float32(MU_BONE) * bone + np.float32(MU_METAL) * metal
    return np.asarray(np.exp(-np.maximum(total, 0)), np.float32)


def _uneven(n: int, rng: np.random.Generator, amount: float) -> Floats:
    """Broad shadows without a finding: a tilt and twelve wide blobs of either sign, in dm."""
    at = ((np.arange(n) + 0.5) / n).astype(np.float32)
    tilt = rng.normal(0, amount, 2).astype(np.float32) * np.float32(1.5)
    place, sigma = rng.uniform(0, 1, (2, 12, 1)), rng.uniform(0.05, 0.13, (2, 12, 1))
    gy, gx = np.exp(-0.5 * ((at - place) / sigma) ** 2).astype(np.float32)
    gx *= rng.normal(0, 1.5 * amount, (12, 1)).astype(np.float32)
    field = (at - 0.5)[:, None] * tilt[0] + (at - 0.5) * tilt[1]
    for a, b in zip(gy, gx, strict=True):  # no matrix product: BLAS may differ between threads
        field += a[:, None] * b
    return np.asarray(field, np.float32)


def _scatter(image: Floats) -> Floats:
    """Very wide blur, through an 8 x 8 grid of means."""
    n = image.shape[0]
    coarse = image.reshape(8, n // 8, 8, n // 8).mean((1, 3))
    coarse = ndimage.gaussian_filter(coarse, 1.0, mode="nearest")
    at = np.clip((np.arange(n) + 0.5) / (n // 8) - 0.5, 0, 7)
    low = np.minimum(at.astype(np.intp), 6)
    part = (at - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part, np.float32)


def expose(
    transmitted: Floats, rng: np.random.Generator, quantum: np.random.Generator,
    protocol: Protocol, ap: bool,
) -> Mask:  # fmt: skip
    """Detect and display a transmitted image: scatter, blur, quanta, logarithm, window.

    Noise has a stream of its own, `quantum`: how much it draws depends on the size, and what is
    drawn from `rng` afterwards must not.
    """
    n = transmitted.shape[0]
    share = protocol.scatter * float(rng.uniform(0.7, 1.3)) * (1.25 if ap else 1.0)
    share = min(share, 0.9)
    image = (1 - share) * transmitted + share * _scatter(transmitted)
    sigma = protocol.blur * float(rng.uniform(0.7, 1.3)) * n
    if sigma > 0.15:
        image = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)
    quanta = protocol.photons * float(np.exp(rng.normal(0, 0.3))) / (n * n)
    noise = quantum.standard_normal((n, n), dtype=np.float32)
    image = image + np.sqrt(image * np.float32(1 / quanta)) * noise
    log = -np.log(np.maximum(image, np.float32(1e-4)))
    # The window is set on the chest, as a technician would: neither air nor abdomen count.
    inner = log[n // 7 : n - n // 4 : 2, n // 7 : n - n // 7 : 2].ravel()
    ranks = [int(0.03 * inner.size), int(0.985 * inner.size)]
    ends = np.partition(inner, ranks)[ranks]
    width = float(ends[1] - ends[0])
    low = float(ends[0]) + width * (-0.06 + protocol.window_jitter * float(rng.normal()))
    high = float(ends[1]) + width * (0.08 + protocol.window_jitter * float(rng.normal()))
    shown = np.clip((log - np.float32(low)) / np.float32(max(high - low, 1e-3)), 0, 1)
    gamma = float(np.exp(rng.normal(0, 1.6 * protocol.window_jitter)))
    shown = np.power(shown, np.float32(gamma))
    shown *= 255
    return np.asarray(np.rint(shown), np.uint8)


def _collimate(image: Mask, rng: np.random.Generator) -> None:
    """Black collimator borders, in place; on half of the films, whatever their findings."""
    margins = rng.uniform(0, 0.055, 4)
    if rng.random() < 0.5:
        return
    n = image.shape[0]
    top, bottom, left, right = np.rint(margins * n).astype(int)
    image[:top] = image[n - bottom :] = 0
    image[:, :left] = image[:, n - right :] = 0


def _film(
    row: Mapping[Hashable, Any], size: int, seed: int, protocol: Protocol,
    masks: Mask, organs: Mask, infected: Mask,
) -> Mask:  # fmt: skip
    """Draw one film into the mask arrays given and return its image."""
    image_id = str(row["image_id"])
    state = {f: int(row[f]) for f in PATHOLOGIES}
    ap = row["view"] == "AP"
    rng = generator(seed, "film", image_id)
    patient = generator(seed, "patient", row["patient_id"])
    a = Anatomy(patient, rng, str(row["sex"]), str(row["view"]), state)
    grid = Grid(
        size,
        float(np.deg2rad(np.clip(rng.normal(0, protocol.turn), -12, 12))),
        float(np.clip(1 + rng.normal(0, protocol.zoom), 0.86, 1.12)),
        (
            float(np.clip(rng.normal(0, protocol.shift), -0.06, 0.06)),
            float(np.clip(rng.normal(0.02, protocol.shift), -0.05, 0.08)),
        ),
    )
    c = Canvas(grid, a, masks, infected)
    canvas.draw_lungs(c)
    body = canvas.draw_soft(c, rng)
    heart, centre = canvas.cardiac(c)
    canvas.draw_vessels(c, patient, 1.3 if state["Edema"] else 1.0)

    breaks: dict[tuple[int, int], disease.Break] = {}
    if state["Fracture"]:
        stream = generator(seed, "Fracture", image_id)
        contrast, extent = protocol.contrast["Fracture"], protocol.extent["Fracture"]
        breaks = disease.fracture(c, stream, contrast, extent)
    canvas.draw_bones(c, breaks)
    clavicles = canvas.draw_clavicles(c)

    covid = bool(row.get("infection", 0))
    child = any(state[f] for f in OPACITY_CHILDREN)
    for finding, place in disease.DRAW.items():
        if not state[finding] or (finding == "Lung Opacity" and child):
            continue
        if finding == "Pneumonia" and covid:
            place = disease.infection
        stream = generator(seed, finding, image_id)
        place(c, stream, protocol.contrast[finding], protocol.extent[finding])
    if state["Cardiomegaly"]:
        c.mask("Cardiomegaly")[:] = heart
    if state["Enlarged Cardiomediastinum"]:
        c.mask("Enlarged Cardiomediastinum")[:] = centre
    for finding in OPACITY_CHILDREN:
        c.mask("Lung Opacity")[:] |= c.mask(finding)
    side_marker(c, rng)

    fields = (c.lung[LEFT] & ~centre, c.lung[RIGHT] & ~centre)
    for i, organ in enumerate((*fields, heart, clavicles[LEFT], clavicles[RIGHT])):
        organs[i] = organ

    filled = np.clip(np.float32(LUNG_DENSITY) + c.water * np.float32(1 - LUNG_DENSITY), 0, 1)
    filled *= 1 - c.gas
    inside = (c.air > 0) * (1 - c.gas)
    soft = body - c.air * (1 - filled) + c.soft + c.vessels * inside * (1 - 0.7 * c.water)
    soft += _uneven(size, rng, protocol.unevenness) * (body > 0)
    quantum = generator(seed, "quantum", image_id)
    image = expose(transmit(soft, c.bone, c.metal), rng, quantum, protocol, ap)
    _collimate(image, rng)
    return image


def render(rows: pd.DataFrame, size: int, seed: int, protocol: Protocol | None = None) -> Films:
    """Render films with the exact masks of everything in them.

    Film *i* depends only on `size` (a multiple of 8 from 64 to 1024), `seed`, `protocol` and its
    own row (see `sample_population`), never on the batch.
    """
    check_size(size)
    protocol = protocol or Protocol()
    n = len(rows)
    films = Films(
        np.zeros((n, size, size), np.uint8),
        np.zeros((n, len(PATHOLOGIES), size, size), np.uint8),
        np.zeros((n, len(ORGANS), size, size), np.uint8),
        np.zeros((n, size, size), np.uint8),
    )
    for i, row in enumerate(rows.to_dict("records")):
        drawn = films.findings[i], films.organs[i], films.infection[i]
        films.images[i] = _film(row, size, seed, protocol, *drawn)
    return films
