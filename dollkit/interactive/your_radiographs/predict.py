"""Predictions for a folder of films, each on its own grid: PNG or DICOM segmentations."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from pydicom import dcmread
from scipy.special import expit
from torch import nn
from tqdm.auto import tqdm

import dollkit
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.images import fit, load_image, quiet, unfit
from dollkit.data.store_builder import batched
from dollkit.interactive.your_radiographs import predictions
from dollkit.interactive.your_radiographs.dicom_seg import Concept
from dollkit.interactive.your_radiographs.find_films import chosen, films_below, is_dicom, plain
from dollkit.interactive.your_radiographs.predictions import (
    Journal,
    Rows,
    State,
    read_note,
    state_of,
)
from dollkit.labels.make import fingerprint, image_id_of
from dollkit.training import networks, weights

NOTE = "segmenter.json"
TO = ("png", "values", "dicom-seg")
BATCH = 8


@dataclass(frozen=True)
class Segmenter:
    """A fine-tuned network with what it draws.

    Attributes:
        net: in eval mode.
        classes: names of its channels.
        size: side of the films that it was trained on, pixels.
        digest: sha256 of its weights.
    """

    net: nn.Module
    classes: tuple[str, ...]
    size: int
    digest: str


def save_note(folder: Path, classes: Sequence[str], size: int, **more: Any) -> None:
    """Write beside a network's weights what it draws; `load` reads it."""
    text = json.dumps({"classes": list(classes), "size": size, **more}, indent=1)
    (folder / NOTE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path, classes: Sequence[str] = (), size: int | None = None) -> Segmenter:
    """A network from a folder of `weights.save`, on the device of `compute.device`.

    Args:
        folder: with ``weights.safetensors``, ``model.json`` and ``segmenter.json``.
        classes, size: what it draws, where there is no ``segmenter.json``.
    """
    where = compute.device()
    net = weights.load_network(folder, where)
    noted, noted_size = read_note(folder / NOTE)
    names, side = tuple(classes) or noted, size or noted_size
    channels = networks.config_of(net)["classes"]
    if len(names) != channels or not side:
        raise InputError(
            f"{folder}: {NOTE} does not say what the {channels} channels are, or at which size: "
            "give 'classes' and 'size'"
        )
    if side < 32 or side % 32:
        raise InputError(f"parameter 'size' is {side}: use a multiple of 32")
    return Segmenter(net, names, side, sha256(folder / weights.FILE))


def predict(
    segmenter: Segmenter,
    films: Path,
    out: Path,
    *,
    to: str = "png",
    only: Sequence[str] = (),
    trained_on: Collection[str] = (),
    codes: Mapping[str, Sequence[str]] | None = None,
    failed: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Draw masks on the films of a folder, each on its own grid. A killed call goes on.

    A mask that was corrected by hand is never overwritten or removed. Masks of earlier calls whose
    film or class is gone are removed.

    Args:
        segmenter: from `load`.
        films: folder of films, any depth.
        out: folder to write; it gets ``predictions.csv`` and ``.json``, the index, too.
        to: ``png``: ``<class>/<film>.png`` with 0 and 255 (so that it is a folder of masks, to be
            corrected and trained on); ``values``: ``values/<film>.png`` with the number of the
            class, the likelier one where classes overlap (areas are then of what is drawn); or
            ``dicom-seg``: ``dicom-seg/<film>.dcm``.
        only: films by name; none: all. What `out` has of others stays, in the index too.
        trained_on: ids of films that the network saw with their masks (`comparing.final`): marked
            in the index, because such a mask says nothing of how good others are.
        codes: see `concepts.concept`.
        failed: gets the films that could not be read, with the reason; None: they are an error,
            at the end.

    Returns:
        The index of the films asked for, one row per film and class: `drawnindex.COLUMNS`.
        ``area_mm2`` is blank where the film does not say its spacing; ``spacing_from`` names the
        attribute it came from. A mask corrected by hand has the numbers of what was drawn.
    """
    there = films_below(films)
    names = chosen(there, only, films)
    if out.resolve() == films.resolve() or films.resolve() in out.resolve().parents:
        raise InputError(f"{out}: lies in the folder of the films: choose another to write to")
    concepts = check(films, names, segmenter.classes, to, codes)
    settings = [segmenter.digest, list(segmenter.classes), segmenter.size, to]
    key = fingerprint(settings, dict(codes or {}), dollkit.__version__)
    journal = Journal(out, key)
    waiting = [name for name in names if not journal.stands(films, name)]
    journal.guard(f for name in waiting for f in _files(segmenter.classes, name, to))
    keep = {f for name in names for f in _files(segmenter.classes, name, to)}
    stale = journal.stale(keep, names, there, to)
    for name in {*names, *(set(journal.failed) - set(there))}:
        journal.failed.pop(name, None)
    journal.save()
    journal.remove(stale)
    where = next(segmenter.net.parameters()).device
    bar = tqdm(total=len(names), initial=len(names) - len(waiting), desc="predict", unit="film",
               disable=None)  # fmt: skip
    for some in batched(waiting, BATCH):
        read = list(_read(films, some, segmenter.size, journal))
        grids = [film for film, _ in read]
        logits = logits_of(segmenter.net, grids, where) if read else ()
        for (film, state), values in zip(read, logits, strict=True):
            try:
                rows, made = _draw(segmenter, films, film, values, to, concepts)
            except InputError as error:
                journal.fail(film.name, str(error))
                continue
            journal.write(film.name, state, rows, made, to)
        bar.update(len(some))
    bar.close()
    seen = set(trained_on)
    for name in names:
        for row in journal.rows.get(name, ()):
            row["trained_on"] = image_id_of(name) in seen
    unread = {name: journal.failed[name] for name in names if name in journal.failed}
    journal.remove([f for name in unread for f in journal.files_of(name, to)])
    journal.save()
    head = {
        "made_by": f"dollkit {dollkit.__version__}",
        "use": "research software, not for clinical use",
        "network_sha256": segmenter.digest,
        "size": segmenter.size,
        "classes": {name: k for k, name in enumerate(segmenter.classes, start=1)},
        "to": to,
    }
    index = predictions.write(journal, there, head)
    if failed is not None:
        failed |= unread
    elif unread:
        raise InputError(
            f"{next(iter(unread.values()))} ({len(unread)} of {len(names)} films could not be "
            f"read, {out / predictions.FAILED} lists them; masks of the others are written)"
        )
    return index[index["file"].isin(names)].reset_index(drop=True)


def _files(classes: Sequence[str], name: str, to: str) -> list[str]:
    """The files of a film's masks, one per class, below the folder of a call."""
    stem = plain(name)
    if to == "png":
        return [f"{one}/{stem}.png" for one in classes]
    return [f"{to}/{stem}.{'dcm' if to == 'dicom-seg' else 'png'}"] * len(classes)


def _read(
    films: Path, names: Sequence[str], size: int, journal: Journal
) -> Iterator[tuple[Film, State]]:
    """Films that can be read; the others are noted."""
    for name in names:
        try:
            yield read_film(films, name, size), state_of(films / name)
        except InputError as error:
            journal.fail(name, str(error))


def formats(
    films: Path, to: Sequence[str], classes: Sequence[str],
    codes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """Formats that masks of a folder can be written in, with the films to ask for; none: all.

    DICOM segmentations are of DICOM films; where there is none they are left out.
    """
    dicom = [name for name in films_below(films) if is_dicom(films / name)]
    found = {kind: dicom if kind == "dicom-seg" else [] for kind in to}
    if not dicom:
        found.pop("dicom-seg", None)
    if not found:
        raise InputError(
            f"parameter 'to' is {list(to)}, and no film in {films} is DICOM: add 'png' or 'values'"
        )
    for kind, names in found.items():
        check(films, names, classes, kind, codes)
    return found


def check(
    films: Path, names: Sequence[str], classes: Sequence[str], to: str,
    codes: Mapping[str, Sequence[str]] | None = None,
) -> list[Concept]:  # fmt: skip
    """Whether masks of some films can be written in a format; the codes of a segmentation."""
    if to not in TO:
        raise InputError(f"parameter 'to' is {to!r}: use one of {', '.join(TO)}")
    if to != "dicom-seg":
        return []
    from dollkit.interactive.your_radiographs import (
        dicom_seg,  # highdicom takes seconds to import, and few need it
    )

    return dicom_seg.check(films, names, classes, codes)


def _draw(
    segmenter: Segmenter, films: Path, film: Film,
    logits: npt.NDArray[np.float32], to: str, concepts: Sequence[Concept],
) -> tuple[Rows, dict[str, bytes]]:  # fmt: skip
    """Masks of one film: a row per class, and the files by path."""
    spacing = spacing_of(films / film.name)
    masks: list[U8] = []
    rows: Rows = []
    made: dict[str, bytes] = {}
    files = _files(segmenter.classes, film.name, to)
    values = None
    if to == "values":
        values = values_of(logits, film.height, film.width)
        made[files[0]] = _png(values)
    for k, (name, file) in enumerate(zip(segmenter.classes, files, strict=True)):
        one = next(drawn(logits[k : k + 1], film.height, film.width))
        mask, value = one.mask, k + 1
        if values is not None:
            mask = (values == value).astype(np.uint8)
        elif to == "png":
            value = 255
            made[file] = _png(mask * np.uint8(255))
        else:
            masks.append(mask)
        pixels = int(mask.sum())
        rows.append({
            "file": film.name, "class": name, "mask": file, "value": value, "pixels": pixels,
            "area_mm2": None if spacing is None else round(pixels * spacing.area, 3),
            "spacing_from": "" if spacing is None else spacing.source,
            "mean_probability": None if np.isnan(one.probability) else round(one.probability, 5),
        })  # fmt: skip
    if to == "dicom-seg":
        from dollkit.interactive.your_radiographs import dicom_seg

        source, classes = films / film.name, segmenter.classes
        made[files[0]] = dicom_seg.encode(source, masks, classes, concepts, segmenter.digest)
    return rows, made


def _png(picture: U8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


# From a network's square grid back to each film's own: masks, areas and probabilities.


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
