"""From a network's square grid back to each film's own: masks, areas and probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydicom import dcmread
from scipy.special import expit
from torch import nn

from dollkit import compute
from dollkit.decode.imagefile import quiet
from dollkit.images import fit, load_image, unfit
from dollkit.own.listing import is_dicom

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class Drawn(NamedTuple):
    """One class on one film.

    Attributes:
        mask: (H, W) uint8 in {0, 1}, on the film's own grid.
        probability: mean of the sigmoid over the pixels inside; NaN where none is.
    """

    mask: U8
    probability: float


class Spacing(NamedTuple):
    """Size of a pixel: mm between rows and between columns, and which attribute says so."""

    rows: float
    columns: float
    source: str

    @property
    def area(self) -> float:
        """mm² of one pixel."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Film:
    """A film as a network sees it: name, its own (H, W), and the square grid (S, S) uint8."""

    name: str
    height: int
    width: int
    grid: U8


def read_film(folder: Path, name: str, size: int) -> Film:
    """Decode a film as the stores do; what cannot be read is an `InputError`."""
    image = load_image(folder / name)
    return Film(name, image.shape[0], image.shape[1], fit(image, size))


@torch.inference_mode()
def logits_of(net: nn.Module, films: Sequence[Film], where: torch.device) -> F32:
    """Logits (n, C, S, S) float32 of films, in eval mode."""
    x = compute.to_input(np.stack([film.grid for film in films]), where)
    out: F32 = net.eval()(x).float().cpu().numpy()
    return out


def drawn(logits: F32, height: int, width: int) -> Iterator[Drawn]:
    """Each class of one film on its own grid, one at a time: a film may have 20 million pixels.

    The padding is cut away and the logits are resized bilinearly; a pixel is inside where its
    logit is above zero (probability one half). Resizing before the cut gives smooth outlines
    where resized masks would have stairs.

    Args:
        logits: (C, S, S).
        height, width: of the film, pixels.
    """
    for values in logits:
        own = unfit(values, height, width)
        inside = own > 0
        mean = float(expit(own[inside].astype(np.float64)).mean()) if inside.any() else np.nan
        yield Drawn(inside.astype(np.uint8), mean)


def values_of(logits: F32, height: int, width: int) -> U8:
    """One picture for all classes, (H, W) uint8: 0 outside, k for class k (from 1).

    Where classes overlap, the one with the highest logit stands; what lies under it is lost.
    """
    best = np.zeros((height, width), np.float32)
    out = np.zeros((height, width), np.uint8)
    for k, values in enumerate(logits, start=1):
        own = unfit(values, height, width)
        above = own > best
        out[above], best[above] = k, own[above]
    return out


def spacing_of(path: Path) -> Spacing | None:
    """Pixel spacing of a DICOM film; None for other files and where the film does not say.

    ``PixelSpacing`` first, then ``ImagerPixelSpacing`` (at the detector: the body is projected
    larger than it is, so that areas come out too large) and ``NominalScannedPixelSpacing`` (of a
    scanned film). Nothing else of the file is kept.
    """
    tags = ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"]
    if not is_dicom(path):
        return None
    with quiet():
        # By force: a film may lack the preamble.
        found = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(tags))
        for tag in tags:
            try:
                rows, columns = (float(v) for v in found.get(tag) or ())
            except (TypeError, ValueError):
                continue
            if rows > 0 and columns > 0:
                return Spacing(rows, columns, tag)
    return None
