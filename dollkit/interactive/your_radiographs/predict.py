"""Masks on every film of a folder, each on its own grid: PNG or DICOM segmentations."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

import dollkit
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.images import U8, fit, is_dicom, load_image, unfit
from dollkit.data.sets.own_folder import list_films, stem
from dollkit.data.store_writer import unwritable
from dollkit.labels.make import fingerprint
from dollkit.training import networks, weights

if TYPE_CHECKING:
    from dollkit.interactive.your_radiographs.dicom_seg import Concept

log = logging.getLogger(__name__)

Codes = Mapping[str, Sequence[str]]

FORMATS = ("png", "dicom-seg")
COLUMNS = ["file", "class", "mask", "pixels", "trained_on"]
NOTE = "segmenter.json"
"""What a network draws, beside its weights."""
LARGEST = 4096  # pixels

LOG = "films.jsonl"
"""In the folder that a call works in: a line for each film that is done."""


@dataclass(frozen=True)
class Segmenter:
    """A fine-tuned network in eval mode, and the sha256 of its weights."""

    net: nn.Module
    classes: tuple[str, ...]
    size: int  # side of its films in pixels
    digest: str


def save_note(folder: Path, classes: Sequence[str], size: int, **more: Any) -> None:
    """Write beside a network's weights what it draws; `load_segmenter` reads it."""
    text = json.dumps({"classes": list(classes), "size": size, **more}, indent=1)
    (folder / NOTE).write_text(text + "\n", encoding="utf-8")


def load_segmenter(folder: Path) -> Segmenter:
    """A network from a folder with ``weights.safetensors``, ``model.json``, ``segmenter.json``."""
    net = weights.load(folder, networks.build, compute.device())
    channels = networks.config_of(net)["classes"]
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        classes, size = note["classes"], note["size"]
    except (OSError, ValueError, KeyError, TypeError):
        classes, size = [], 0
    # They become names of folders.
    name = re.compile(r"[^\x00-\x1f/\\.][^\x00-\x1f/\\]*")
    texts = isinstance(classes, list) and all(
        isinstance(c, str) and name.fullmatch(c) for c in classes
    )
    different = texts and len({c.casefold() for c in classes}) == channels == len(classes)
    if not different or type(size) is not int or size % 32 or not 32 <= size <= LARGEST:
        raise InputError(
            f"{folder / NOTE}: does not name {channels} different classes and a size that is a "
            f'multiple of 32 up to {LARGEST}: write one like {{"classes": ["lungs"], "size": 256}}'
        )
    return Segmenter(net, tuple(classes), size, sha256(folder / weights.FILE))


def films_for(
    films: Path, to: str, classes: Sequence[str], codes: Codes | None
) -> tuple[list[str], list[Concept]]:
    """Films that masks can be written for in a format, and the codes of the classes there."""
    if to not in FORMATS:
        raise InputError(f"parameter 'to' is {to!r}: use one of {', '.join(FORMATS)}")
    names = list_films(films)
    if to == "png":
        return names, []
    # highdicom takes seconds to import, and few need it.
    from dollkit.interactive.your_radiographs import dicom_seg

    names = [name for name in names if is_dicom(films / name)]  # a segmentation refers to DICOM
    return names, [dicom_seg.find_concept(name, codes) for name in classes] if names else []


def formats_for(
    films: Path, to: Sequence[str], classes: Sequence[str], codes: Codes | None
) -> list[str]:
    """Those of some formats that masks of a folder can be written in; an error if none."""
    kinds = [kind for kind in to if films_for(films, kind, classes, codes)[0]]
    if not kinds:
        raise InputError(f"parameter 'to': no film in {films} is DICOM: add 'png'")
    return kinds


def predict(
    segmenter: Segmenter, films: Path, out: Path, *, to: str = "png",
    trained_on: Collection[str] = (), codes: Codes | None = None, overwrite: bool = False,
) -> tuple[pd.DataFrame, dict[str, str]]:  # fmt: skip
    """Draw masks on the films of a folder; the same call again draws nothing.

    Nothing in `out` is ever changed, be it a mask corrected by hand: a folder that holds anything
    else is an error, or with `overwrite` set aside as ``<out>.1``. A killed call goes on.

    `out` gets ``predictions.csv``, ``predictions.json`` and the masks: ``<class>/<film>.png`` with
    0 and 255, or ``<film>.dcm``, a segment per class, of DICOM films alone. `trained_on` are ids of
    films whose masks the network has seen. Returns a row per film and class (`COLUMNS`), and why
    films could not be read.
    """
    names, concepts = films_for(films, to, segmenter.classes, codes)
    if not names:
        raise InputError(f"{films}: no DICOM film, which a segmentation refers to: ask for PNG")
    if films.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out}: lies in the folder of the films: choose another to write to")
    about = {
        "made_by": f"dollkit {dollkit.__version__}", "use": "research, not for clinical use",
        "network_sha256": segmenter.digest, "classes": segmenter.classes, "size": segmenter.size,
        "to": to,
    }  # fmt: skip
    state = [(name, s.st_size, s.st_mtime_ns) for name in names for s in [(films / name).stat()]]
    key = fingerprint(about, dict(codes or {}), sorted(trained_on), state)
    if (finished := _finished(out, key)) is not None:
        return finished
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out}: is not empty, and this call did not make what it holds: name another folder, "
            "or ask to overwrite (what is there is set aside, not lost)"
        )
    part = out.with_name(f".{out.name}.{key}")
    try:
        part.mkdir(parents=True, exist_ok=True)
        done = _read_log(part / LOG)
        for name in tqdm(names, desc="predict", unit="film", disable=None):
            if name in done:
                continue
            done[name] = {"film": name, "rows": [], "reason": ""}
            try:
                done[name]["rows"] = _write_masks(segmenter, films, name, part, concepts)
            except InputError as error:
                done[name]["reason"] = str(error)
            with (part / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[name]) + "\n")
        seen = {name for name in names if stem(name).replace("/", "__") in trained_on}
        rows = [row | {"trained_on": n in seen} for n in names for row in done[n]["rows"]]
        failed = {name: done[name]["reason"] for name in names if done[name]["reason"]}
        text = json.dumps({"key": key, **about, "failed": failed, "predictions": rows}, indent=1)
        (part / "predictions.json").write_text(text + "\n", encoding="utf-8")
        table = pd.DataFrame(rows, columns=COLUMNS)
        table.to_csv(part / "predictions.csv", index=False, lineterminator="\n")
        (part / LOG).unlink()
        if out.exists():
            kept = (out.with_name(f"{out.name}.{number}") for number in itertools.count(1))
            aside = next(folder for folder in kept if not folder.exists())
            out.rename(aside)
            log.info("%s: what was there is in %s now", out, aside)
        part.rename(out)
    except OSError as error:
        raise unwritable(out, error) from None
    return table, failed


def _finished(out: Path, key: str) -> tuple[pd.DataFrame, dict[str, str]] | None:
    """What a call of the same key has left in a folder, if all of it is there."""
    try:
        about = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
        if about["key"] != key:
            return None
        table, failed = pd.DataFrame(about["predictions"], columns=COLUMNS), about["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (table, failed) if all((out / mask).is_file() for mask in table["mask"]) else None


def _read_log(path: Path) -> dict[str, dict[str, Any]]:
    """Films that a killed call has done."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]  # its last line may be cut off
    path.write_text(whole, encoding="utf-8")
    return {line["film"]: line for line in map(json.loads, whole.splitlines())}


def _write_masks(
    segmenter: Segmenter, films: Path, name: str, folder: Path, concepts: Sequence[Concept]
) -> list[dict[str, Any]]:
    """Write the masks of one film; returns a row for each."""
    classes = segmenter.classes
    masks = draw_film(segmenter, load_image(films / name))
    files = [f"{stem(name)}.dcm" if concepts else f"{one}/{stem(name)}.png" for one in classes]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if concepts:
        from dollkit.interactive.your_radiographs import dicom_seg

        content = dicom_seg.encode(films / name, masks, classes, concepts, segmenter.digest)
        (folder / files[0]).write_bytes(content)
    else:
        for file, mask in zip(files, masks, strict=True):
            Image.fromarray(mask * np.uint8(255)).save(folder / file, format="PNG")
    return [
        {"file": name, "class": one, "mask": file, "pixels": int(mask.sum())}
        for one, file, mask in zip(classes, files, masks, strict=True)
    ]


@torch.inference_mode()
def draw_film(segmenter: Segmenter, image: U8) -> list[U8]:
    """The mask of each class on a film's own grid, (H, W) in {0, 1}: the logits are resized, which
    gives smooth outlines where resized masks would have stairs.
    """
    device = next(segmenter.net.parameters(), torch.empty(0)).device
    x = compute.to_input(fit(image, segmenter.size)[None], device)
    logits = segmenter.net(x)[0].float().cpu().numpy()
    return [(unfit(values, *image.shape) > 0).astype(np.uint8) for values in logits]
