"""Films to label, from a packed store or a plain folder of images, and their positive findings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.classifiers.model import Classifier
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, POSITIVE
from dollkit.data.csvfile import read_csv
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.sets.own_folder import ENDINGS, FIELDS, read_own
from dollkit.data.splits import split_by_share
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store
from dollkit.data.store_writer import unwritable

log = logging.getLogger(__name__)

States = npt.NDArray[np.int8]
HINT = "write a CSV file with a column 'image' and one per finding: 1, 0, -1 or blank"
CALLED = 0.5
"""Mean probability from which the classifiers call a finding."""


def open_films(films: Path, built: Path, size: int | None, workers: int | None = None) -> Store:
    """A film store: the one given, or one built from a folder of images.

    Args:
        films: a packed store; or a folder with ``films.csv`` (see `dollkit.data.sets.own_folder`);
        or one
            of images alone (PNG, JPEG, TIFF, GIF, DICOM), at any depth.
        built: where to build the store of a folder; one that still stands is kept.
        size: side in pixels; of a packed store its own or None, of a folder 224 if None.
        workers: decoding threads.
    """
    if not films.is_dir():
        raise InputError(f"{films}: no such folder: give a folder of images or a film store")
    if (films / "store.json").is_file():
        store = open_store(films)
        if size not in (None, store.size):
            raise InputError(
                f"parameter 'size' is {size}, but {films} holds films of {store.size} px: leave "
                "it out, or build a store of that size"
            )
        return store
    if size is None:
        size = 224
        log.info("films are read at 224 px: give --size if the classifiers learnt at another size")
    table = read_own(films)["films"] if (films / "films.csv").is_file() else _listed(films)
    return open_store(build_store(table, built, size, workers=workers))


def _listed(folder: Path) -> FilmTable:
    """Table of all images below a folder; nothing is known about any."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
    if not files:
        raise InputError(f"{folder}: no image here ({', '.join(ENDINGS)}): check the folder")
    films = blank_films(len(files))
    names = [f.relative_to(folder).as_posix() for f in files]
    films["image_id"] = [image_id_of(name) for name in names]
    films["patient_id"] = films["study_id"] = films["image_id"]
    films["split"] = split_by_share(films["patient_id"])
    films["source"] = "folder"
    films["path"] = [str(f) for f in files]
    films["where"] = names
    return FilmTable("folder", films, folder)


def image_id_of(name: str) -> str:
    """Id of a film from its path: without an image's ending, ``__`` for ``/``."""
    ending = PurePosixPath(name).suffix
    plain = name.removesuffix(ending) if ending.lower() in ENDINGS else name
    return plain.replace("/", "__")


def read_states(path: Path, store: Store) -> States:
    """Label states (n, 14) int8 of a store's films, from a CSV of findings.

    Columns: ``image`` (the film's `image_id`, or its path below the folder), any of the 14
    findings, and such columns as a folder's ``films.csv`` may have, which are not read. A film
    without a row, or a finding without a column, is not mentioned.
    """
    table = read_csv(path, ("image",), hint=HINT)
    columns = [c for c in table.frame.columns if c in FINDINGS]
    for column in table.frame.columns:
        known = column in FINDINGS or column in (*FIELDS, "row", "") or column.startswith("note")
        if not known:
            raise InputError(
                f"{path}: unknown column {column!r}: use 'image' and findings as in "
                f"{', '.join(FINDINGS[1:4])}, ..."
            )
    if not columns:
        raise InputError(f"{path}: no column of a finding: {HINT}")
    rows = {str(image_id): i for i, image_id in enumerate(store.films["image_id"])}
    out: States = np.full((len(store), len(FINDINGS)), NOT_MENTIONED, np.int8)
    values = {column: table.states(column) for column in columns}
    seen: dict[int, int] = {}
    for i, (name, number) in enumerate(zip(table.frame["image"], table.frame["row"], strict=True)):
        text = name.strip().replace("\\", "/").removeprefix("images/")
        film = rows.get(text, rows.get(image_id_of(text)))
        if film is None:
            raise InputError(
                f"{path}, row {number}: no film {name!r} in {store.path}: mend the row"
            )
        if film in seen:
            first = seen[film]
            raise InputError(f"{path}, row {number}: film {name!r} stands in row {first} too")
        seen[film] = number
        for column, states in values.items():
            if not np.isnan(states.iloc[i]):
                out[film, FINDINGS.index(column)] = int(states.iloc[i])
    return out


def mentioned(store: Store) -> bool:
    """Whether the store's own table says anything about any finding."""
    return bool((store.states != NOT_MENTIONED).any())


@torch.inference_mode()
def calls(models: Mapping[str, Classifier], store: Store, path: Path, batch: int = 64) -> States:
    """States from the classifiers themselves: positive where their mean probability is above 0.5.

    Args:
        models: the classifiers, all on one device.
        store: the films.
        path: CSV file that keeps them; one that is there is read, not made again.

    Returns:
        (n, 14) int8: 1 or 0.
    """
    if not path.is_file():
        where = next(iter(models.values())).head.weight.device
        found = np.zeros((len(store), len(FINDINGS)), np.int8)
        bar = tqdm(desc="calls", total=len(store), unit="film", disable=None)
        for start in range(0, len(store), batch):
            x = compute.to_input(store.images[start : start + batch], where)
            p = torch.stack([torch.sigmoid(m(x).float()) for m in models.values()]).mean(0)
            found[start : start + batch] = np.where(p.cpu().numpy() > CALLED, POSITIVE, 0)
            bar.update(len(x))
        bar.close()
        frame = pd.DataFrame(found, columns=list(FINDINGS))
        frame.insert(0, "image", store.films["image_id"].to_numpy())
        part = path.with_name(path.name + ".part")
        try:
            frame.to_csv(part, index=False, lineterminator="\n")
            part.replace(path)
        except OSError as error:
            raise unwritable(path.parent, error) from None
    return read_states(path, store)
