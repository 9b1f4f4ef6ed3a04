"""The panels of a view: films with maps, labels, masks and outlines, as arrays of colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from dollkit.data.images import IGNORE
from dollkit.interactive.explorer.view import CONSENSUS, View
from dollkit.report.style import ARM_LOOKS, CLASS_COLORS, GREEN, ORANGE, SKY, short

Bytes = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.float32]

EXPLAINERS = {
    "ig": "Integrated Gradients", "gradcam": "Grad-CAM", "gradient": "gradient",
    "occlusion": "occlusion",
}  # fmt: skip


def titled(explainer: str) -> str:
    """What an explainer is called in pictures."""
    return EXPLAINERS.get(explainer, explainer)


@dataclass(frozen=True)
class Panel:
    """One square: (S, S, 3) colours in [0, 1], outlines with their colours, a title, a corner."""

    title: str
    rgb: Rgb | None
    outlines: tuple[tuple[Bytes, str], ...] = ()
    corner: str = ""
    empty: str = ""


def explained(view: View) -> list[Panel]:
    """Film, heat map, label and truth of the finding."""
    film = grey(view.image)
    missing = "not explained here" if view.map is None else ""
    who = view.choice.classifier
    who = who if who == CONSENSUS else short(who)
    kind = titled(view.choice.explainer)
    truth = view.truth if view.truth is not None and view.truth.any() else None
    edge = () if truth is None else ((truth, GREEN),)
    score = view.scores.get("IoU of the label")
    corner = "" if score is None or not np.isfinite(score) else f"IoU {score:.2f}"
    heat = None if view.map is None else hot(view.image, view.map)
    label = None if view.label is None else labelled(view.image, view.label)
    shown = None if view.truth is None else wash(film, view.truth, GREEN)
    size = view.image.shape[-1]
    return [
        Panel(f"film ({size} x {size} px)", film),
        Panel(f"{kind}, {who}", heat, empty=missing),
        Panel(f"label: {view.choice.finding}", label, edge, corner, missing),
        Panel(f"truth: {view.choice.finding}", shown, edge, empty="no mask of the finding"),
    ]


def drawn(view: View) -> list[Panel]:
    """The task's truth, and what each arm drew; nothing for films of no task."""
    if view.task is None:
        return []
    film, task = grey(view.image), view.task
    panels = [Panel("truth of the task", _classes(film, task.truth[0]))]
    for arm, prediction in zip(task.arms, task.prediction[:, 0], strict=True):
        value = view.scores[f"Dice {arm}"]
        corner = "" if not np.isfinite(value) else f"Dice {value:.2f}"
        name = ARM_LOOKS[arm].label if arm in ARM_LOOKS else arm
        edges = tuple(zip(task.truth[0], colours_of(task.truth[0]), strict=True))
        panels.append(Panel(name, _classes(film, prediction), edges, corner))
    return panels


def colours_of(masks: Bytes) -> list[str]:
    return [CLASS_COLORS[c % len(CLASS_COLORS)] for c in range(len(masks))]


def _classes(film: Rgb, masks: Bytes) -> Rgb:
    for mask, colour in zip(masks, colours_of(masks), strict=True):
        film = wash(film, mask, colour)
    return film


def grey(image: Bytes) -> Rgb:
    """(S, S) uint8 -> (S, S, 3) in [0, 1]."""
    return np.repeat(image[..., None] / np.float32(255), 3, axis=2).astype(np.float32)


def wash(film: Rgb, mask: npt.NDArray[Any], colour: str, alpha: float = 0.5) -> Rgb:
    """A translucent fill where a mask is set."""
    out = film.copy()
    at = mask.astype(bool)
    out[at] = (1 - alpha) * out[at] + alpha * np.array(mpl.colors.to_rgb(colour), np.float32)
    return out


def hot(image: Bytes, values: npt.NDArray[np.float32]) -> Rgb:
    """A map in [0, 1] over its film; where it is low the film shows through."""
    unit = np.clip(values, 0, 1)
    alpha = np.clip(0.15 + 1.2 * unit, 0, 0.85)[..., None]
    colour = mpl.colormaps["magma"](unit)[..., :3]
    return np.asarray(alpha * colour + (1 - alpha) * grey(image), np.float32)


def labelled(image: Bytes, label: Bytes) -> Rgb:
    """Finding orange, ignore band blue, background as it is."""
    return wash(wash(grey(image), label == 1, ORANGE, 0.55), label == IGNORE, SKY, 0.55)


def contours(mask: Bytes, left: float, top: float, step: float) -> list[npt.NDArray[np.float64]]:
    """Outlines of an (S, S) mask as lines of (x, y), a pixel `step` wide."""
    if not mask.any():
        return []
    found = find_contours(np.pad(mask.astype(np.float32), 1), 0.5)
    # The middle of the padded corner pixel lies half a pixel outside.
    return [np.column_stack([left + (c[:, 1] - 0.5) * step, top + (c[:, 0] - 0.5) * step])
            for c in found]  # fmt: skip
