"""Which function draws which pathology, and in what order.

Cardiomegaly and Enlarged Cardiomediastinum are part of the anatomy itself; fractures are drawn
with the ribs, devices last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dollkit.findings import OPACITY_CHILDREN
from dollkit.phantom import chest_wall_findings as wall
from dollkit.phantom import lung_findings as lung
from dollkit.phantom.canvas import Canvas

Draw = Callable[[Canvas, np.random.Generator, float, float], None]

DRAW: dict[str, Draw] = {
    "Pneumothorax": wall.pneumothorax,
    "Edema": lung.edema,
    "Pneumonia": lung.pneumonia,
    "Lung Opacity": lung.opacity,
    "Atelectasis": lung.atelectasis,
    "Lung Lesion": lung.lesion,
    "Consolidation": lung.consolidation,
    "Pleural Effusion": wall.effusion,
    "Pleural Other": wall.pleural_other,
}
"""Drawing order: what hides is drawn after what is hidden."""


def unite_opacity(c: Canvas) -> None:
    """Lung Opacity's mask is the union of its children's masks and its own."""
    mask = c.mask("Lung Opacity")
    for child in OPACITY_CHILDREN:
        mask |= c.mask(child)
