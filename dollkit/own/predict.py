"""Predictions for a folder of films, each on its own grid: PNG or DICOM segmentations."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

import dollkit
from dollkit import compute, networks, weights
from dollkit.errors import InputError
from dollkit.labelling import fingerprint
from dollkit.labels.filmset import image_id_of
from dollkit.own import ongrid
from dollkit.own.concepts import Concept
from dollkit.own.listing import chosen, films_below, plain
from dollkit.readers.fingerprint import batched
from dollkit.sources import sha256
from dollkit.storewriter import unwritable

log = logging.getLogger(__name__)

NOTE = "segmenter.json"
INDEX = "predictions"
JOURNAL = "predictions.part"
TO = ("png", "values", "dicom-seg")
BATCH = 8
COLUMNS = [
    "file", "class", "mask", "value", "pixels", "area_mm2", "spacing_from", "mean_probability",
    "trained_on",
]  # fmt: skip


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

    Raises:
        InputError: no network there, or nothing says what it draws.
    """
    where = compute.device()
    net = weights.load_network(folder, where)
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        note = {}
    names = tuple(classes) or tuple(note.get("classes", ()))
    side = size or note.get("size")
    channels = networks.config_of(net)["classes"]
    if len(names) != channels or not side:
        raise InputError(
            f"{folder}: {NOTE} does not say what the {channels} channels are, or at which size: "
            "give 'classes' and 'size'"
        )
    if side < 32 or side % 32:
        raise InputError(f"parameter 'size' is {side}: use a multiple of 32")
    return Segmenter(net, names, int(side), sha256(folder / weights.FILE))


def predict(
    segmenter: Segmenter,
    films: Path,
    out: Path,
    *,
    to: str = "png",
    only: Sequence[str] = (),
    trained_on: Collection[str] = (),
    codes: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Draw masks on the films of a folder, each on its own grid. A killed call goes on.

    Args:
        segmenter: from `load`.
        films: folder of films, any depth.
        out: folder to write; it gets ``predictions.csv`` and ``.json``, the index, too.
        to: ``png``: ``<class>/<film>.png`` with 0 and 255 (so that it is a folder of masks, to be
            corrected and trained on); ``values``: ``values/<film>.png`` with the number of the
            class, the likelier one where classes overlap (areas are then of what is drawn); or
            ``dicom-seg``: ``dicom-seg/<film>.dcm``.
        only: films by name; none: all.
        trained_on: ids of films that the network saw with their masks (`comparing.final`): marked
            in the index, because such a mask says nothing of how good others are.
        codes: see `concepts.concept`.

    Returns:
        The index, one row per film and class: `COLUMNS`. ``area_mm2`` is blank where the film
        does not say its spacing; ``spacing_from`` names the attribute it came from.

    Raises:
        InputError: before anything is computed: no films, an unknown name, DICOM segmentations
            of films that are no DICOM, or of a class without code; later: a film that cannot be
            read, or `out` cannot be written.
    """
    names = chosen(films_below(films), only, films)
    if out.resolve() == films.resolve() or films.resolve() in out.resolve().parents:
        raise InputError(f"{out}: lies in the folder of the films: choose another to write to")
    concepts = check(films, names, segmenter.classes, to, codes)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    settings = [segmenter.digest, list(segmenter.classes), segmenter.size, to]
    key = fingerprint(settings, dict(codes or {}), dollkit.__version__)
    journal = _Journal(out / JOURNAL, key)
    waiting = [name for name in names if not journal.stands(out, films, name)]
    where = next(segmenter.net.parameters()).device
    bar = tqdm(total=len(names), initial=len(names) - len(waiting), desc="predict", unit="film",
               disable=None)  # fmt: skip
    for some in batched(waiting, BATCH):
        read = [ongrid.read_film(films, name, segmenter.size) for name in some]
        for film, logits in zip(read, ongrid.logits_of(segmenter.net, read, where), strict=True):
            try:
                rows = list(_write(segmenter, films, out, film, logits, to, concepts))
            except OSError as error:
                raise unwritable(out, error) from None
            journal.add(films, film.name, rows)
            bar.update()
    bar.close()
    rows = [row for name in names for row in journal.rows[name]]
    index = pd.DataFrame(rows)
    seen = set(trained_on)
    index["trained_on"] = [image_id_of(name) in seen for name in index["file"]]
    index = index[COLUMNS]
    _write_index(index, out, segmenter, to)
    return index


def check(
    films: Path, names: Sequence[str], classes: Sequence[str], to: str,
    codes: Mapping[str, Sequence[str]] | None = None,
) -> list[Concept]:  # fmt: skip
    """Whether masks of some films can be written in a format; the codes of a segmentation.

    Raises:
        InputError: an unknown format, or see `dicomseg.check`.
    """
    if to not in TO:
        raise InputError(f"parameter 'to' is {to!r}: use one of {', '.join(TO)}")
    if to != "dicom-seg":
        return []
    from dollkit.own import dicomseg  # highdicom takes seconds to import, and few need it

    return dicomseg.check(films, names, classes, codes)


def _write(
    segmenter: Segmenter, films: Path, out: Path, film: ongrid.Film,
    logits: npt.NDArray[np.float32], to: str, concepts: Sequence[Concept],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Write the masks of one film; yields a row per class."""
    spacing = ongrid.spacing_of(films / film.name)
    masks: list[ongrid.U8] = []
    values = None
    if to == "values":
        values = ongrid.values_of(logits, film.height, film.width)
        _save(values, out / "values" / f"{plain(film.name)}.png")
    for k, name in enumerate(segmenter.classes):
        one = next(ongrid.drawn(logits[k : k + 1], film.height, film.width))
        where, mask, value = f"dicom-seg/{plain(film.name)}.dcm", one.mask, k + 1
        if values is not None:
            where, mask = f"values/{plain(film.name)}.png", (values == value).astype(np.uint8)
        elif to == "png":
            where, value = f"{name}/{plain(film.name)}.png", 255
            _save(mask * np.uint8(255), out / where)
        else:
            masks.append(mask)
        pixels = int(mask.sum())
        yield {
            "file": film.name, "class": name, "mask": where, "value": value, "pixels": pixels,
            "area_mm2": None if spacing is None else round(pixels * spacing.area, 3),
            "spacing_from": "" if spacing is None else spacing.source,
            "mean_probability": None if np.isnan(one.probability) else round(one.probability, 5),
        }  # fmt: skip
    if to == "dicom-seg":
        from dollkit.own import dicomseg

        path = out / "dicom-seg" / f"{plain(film.name)}.dcm"
        source, classes = films / film.name, segmenter.classes
        dicomseg.write(path, source, masks, classes, concepts, segmenter.digest)


def _save(picture: ongrid.U8, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(part, format="PNG")
    part.replace(path)


def _write_index(index: pd.DataFrame, out: Path, segmenter: Segmenter, to: str) -> None:
    head = {
        "made_by": f"dollkit {dollkit.__version__}",
        "use": "research software, not for clinical use",
        "network_sha256": segmenter.digest,
        "size": segmenter.size,
        "classes": {name: k for k, name in enumerate(segmenter.classes, start=1)},
        "to": to,
    }
    rows = index.astype(object).where(index.notna(), None).to_dict("records")
    text = json.dumps({**head, "predictions": rows}, indent=1, ensure_ascii=False)
    try:
        index.to_csv(out / f"{INDEX}.csv", index=False, lineterminator="\n")
        (out / f"{INDEX}.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(out, error) from None


class _Journal:
    """Rows of the films that are done, one line each, under the key of what made them."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._state: dict[str, list[int]] = {}
        lines: list[Any] = []
        if path.is_file():
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:
                    break  # cut off where the process was killed
        if lines and lines[0] == {"key": key}:
            for line in lines[1:]:
                self.rows[line["film"]], self._state[line["film"]] = line["rows"], line["state"]
        try:
            head: list[dict[str, Any]] = [{"key": key}]
            head += [{"film": f, "state": self._state[f], "rows": r} for f, r in self.rows.items()]
            path.write_text("".join(json.dumps(h) + "\n" for h in head), encoding="utf-8")
        except OSError as error:
            raise unwritable(path.parent, error) from None

    def stands(self, out: Path, films: Path, name: str) -> bool:
        """Whether a film has not changed since it was done, and its masks are there."""
        rows = self.rows.get(name)
        return (
            rows is not None
            and self._state[name] == _state(films / name)
            and all((out / row["mask"]).is_file() for row in rows)
        )

    def add(self, films: Path, name: str, rows: list[dict[str, Any]]) -> None:
        state = _state(films / name)
        self.rows[name], self._state[name] = rows, state
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"film": name, "state": state, "rows": rows}) + "\n")


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
