"""From files to the rows of a store: one chunk of films, by whatever thread or process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dollkit.errors import InputError
from dollkit.images import fit, fit_box, fit_mask, load_image
from dollkit.readers.masks import Mask
from dollkit.readers.table import FilmTable
from dollkit.storewriter import pack

CHUNK = 32
"""Films decoded by one call: enough that handing them out costs little, few enough to hold."""

Box = tuple[float, float, float, float]
U8 = npt.NDArray[np.uint8]


class Film(NamedTuple):
    """What it takes to decode one film.

    Attributes:
        path, where: as in `FilmTable.films`.
        masks, boxes: each with its channel.
        lost: why it need not be tried; "" if it is all there. `lost_file`: the file at fault.
    """

    path: str
    where: str
    masks: tuple[tuple[int, Mask], ...]
    boxes: tuple[tuple[int, Box], ...]
    lost: str = ""
    lost_file: str = ""


@dataclass(frozen=True)
class Rule:
    """What becomes of a film.

    Attributes:
        size: S, side in pixels.
        channels: C, number of mask classes.
        depths, any_ending: as for `load_image`.
    """

    size: int
    channels: int
    depths: tuple[int, ...]
    any_ending: bool


class Rows(NamedTuple):
    """Rows of a store.

    Attributes:
        images: (k, S, S) uint8 of the k films that could be decoded.
        inside: (k, C, S, S/8) uint8, packed bits; ignored: likewise, None if there are none.
        valid: (k, C) bool.
        sizes: their own (height, width).
        bad: position in the chunk -> (file, reason) of the other films.
    """

    images: U8
    inside: U8
    ignored: U8 | None
    valid: npt.NDArray[np.bool_]
    sizes: list[tuple[int, int]]
    bad: dict[int, tuple[str, str]]


def films_of(table: FilmTable, lost: dict[int, tuple[str, str]]) -> Iterator[Film]:
    """Films of a table, in order.

    Args:
        table: the table.
        lost: row -> (file, reason) of the films that are not all there.
    """
    classes = table.mask_classes
    boxes: dict[str, list[tuple[int, Box]]] = {}
    for image_id, finding, *box in table.boxes.itertuples(index=False):
        x, y, w, h = map(float, box)
        boxes.setdefault(str(image_id), []).append((classes.index(str(finding)), (x, y, w, h)))
    masks = table.masks.to_numpy(object)
    columns = (table.films[name] for name in ("image_id", "path", "where"))
    for i, (image_id, path, where) in enumerate(zip(*columns, strict=True)):
        file, reason = lost.get(i, ("", ""))
        own = enumerate(masks[i]) if masks.size else ()
        yield Film(
            str(path),
            str(where),
            tuple((c, mask) for c, mask in own if mask is not None),
            tuple(boxes.get(str(image_id), ())),
            reason,
            file,
        )


def decode(films: Sequence[Film], rule: Rule) -> Rows:
    """Decode a chunk of films; the bad ones are named, not raised."""
    k, s, c = len(films), rule.size, rule.channels
    images = np.empty((k, s, s), np.uint8)
    inside = np.zeros((k, c, s, s // 8), np.uint8)
    ignored = np.zeros_like(inside)
    valid = np.zeros((k, c), bool)
    sizes: list[tuple[int, int]] = []
    bad: dict[int, tuple[str, str]] = {}
    for position, film in enumerate(films):
        if film.lost:
            bad[position] = (film.lost_file, film.lost)
            continue
        n = len(sizes)
        try:
            image = load_image(film.path, rule.depths, rule.any_ending)
            masks = _masks(film, image.shape[0], image.shape[1], rule)
        except InputError as error:
            bad[position] = (film.path, f"{film.where}: {error}")
            continue
        images[n] = fit(image, s)
        for channel, mask in masks.items():
            valid[n, channel] = True
            bits, neither = pack(mask[None, None], valid[n, channel][None, None])
            inside[n, channel] = bits[0, 0]
            if neither is not None:
                ignored[n, channel] = neither[0, 0]
        sizes.append((image.shape[0], image.shape[1]))
    n = len(sizes)
    some = ignored[:n] if ignored.any() else None
    return Rows(images[:n], inside[:n], some, valid[:n], sizes, bad)


def _masks(film: Film, height: int, width: int, rule: Rule) -> dict[int, U8]:
    """Channel -> (S, S) uint8 in {0, 1, 255} of the masks that a film has."""
    masks = {c: fit_mask(m.load(height, width), rule.size, height, width) for c, m in film.masks}
    for channel, box in film.boxes:
        mask = masks.setdefault(channel, np.zeros((rule.size, rule.size), np.uint8))
        mask[fit_box(box, height, width, rule.size) == 1] = 1
    return masks
