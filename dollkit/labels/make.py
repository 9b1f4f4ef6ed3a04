"""Explain the positive findings of many films and label them, shard by shard.

`make_labels` is the stage's; `make` goes from films and trained classifiers to a label store in
one call that can be stopped and shared out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.common import compute
from dollkit.common.build_key import code_of
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, POSITIVE
from dollkit.common.machine import Part, sha256
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.images import IGNORE
from dollkit.data.sets.own_folder import ENDINGS, read_own
from dollkit.data.splits import split_by_share
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store
from dollkit.data.store_writer import unwritable
from dollkit.explanations.ensemble import ExplainerSettings, explain_all, pair_settled, positives
from dollkit.labels import LabelSettings, distil
from dollkit.labels import store as labelstore
from dollkit.labels.store import LabelStore
from dollkit.labels.store import open as open_labels
from dollkit.training.classifiers import Classifier, load_classifiers

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
SHARD = 64
"""Films per shard: what a killed run may have to do again."""
CALLED = 0.5
"""Mean probability from which the classifiers call a finding."""


def rows_to_label(store: Store, n_train: int, n_valid: int) -> Rows:
    """First films with a positive finding of split ``train``, then of ``valid``, as rows."""
    labelled = (store.states == POSITIVE).any(1)
    split = store.films["split"].to_numpy()
    train = np.flatnonzero(labelled & (split == "train"))[:n_train]
    held = np.flatnonzero(labelled & (split == "valid"))[:n_valid]
    return np.concatenate([train, held])


def batches(
    store: Store, rows: Rows, size: int, device: torch.device
) -> Iterator[tuple[Rows, torch.Tensor, list[list[int]]]]:
    """Films with their targets, `size` at a time; films without positives are passed over."""
    targets = positives(store.states[rows])
    keep = [i for i, t in enumerate(targets) if t]
    for i in range(0, len(keep), size):
        some = keep[i : i + size]
        chosen = rows[some]
        yield chosen, compute.to_input(store.images[chosen], device), [targets[j] for j in some]


def fingerprint(*parts: object) -> str:
    """Short sha256 of JSON-able settings."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_labels(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    how: ExplainerSettings,
    settings: LabelSettings,
    folder: Path,
    weights: Mapping[str, str],
    shard: int = SHARD,
    part: Part | None = None,
) -> LabelStore:
    """Label rows of a film store; a killed call goes on where it stopped.

    `folder` gets `shards/` (of `shard` films each) while working and `store/` at the end;
    `weights`, the sha256 of each classifier's weights, are kept with the labels. With a `part`, the
    share of this process, its shards are written, none are joined, and `Done` is raised.
    """
    meta = _made_by(store, how, settings, weights)
    shards = _write_shards(models, store, rows, how, settings, folder / "shards", meta, shard, part)
    if part is not None:
        part.end()
    if not shards:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    return labelstore.merge(shards, folder / "store", meta)


def _made_by(
    store: Store, how: ExplainerSettings, settings: LabelSettings, weights: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "explain": asdict(how),
        "distil": asdict(settings),
        "classifiers": dict(weights),
        "films": store.digest,
        "size": store.size,
    }


def _write_shards(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    how: ExplainerSettings,
    settings: LabelSettings,
    folder: Path,
    made_by: Mapping[str, Any],
    size: int,
    part: Part | None = None,
) -> dict[Path, str]:
    """Shards of a part (None: of all) and their keys, written where none of that key is.

    The key: settings, classifiers, films, their findings, and the code that makes labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = code_of([__name__])
    rows = rows[(store.states[rows] == POSITIVE).any(1)]
    shards = {}
    bar = tqdm(total=len(rows), desc="labels", unit="film", disable=None)
    for number, start in enumerate(range(0, len(rows), size)):
        if part is None or part.takes(number):
            some = rows[start : start + size]
            path = folder / f"{number:05d}.npz"
            key = fingerprint(made_by, code, some.tolist(), store.states[some].tolist())
            shards[path] = key
            if labelstore.shard_key(path) != key:
                labelstore.write_shard(path, *_label(models, store, some, how, settings), key)
            bar.update(len(some))
    bar.close()
    return shards


def _label(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    how: ExplainerSettings,
    settings: LabelSettings,
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    device = next(next(iter(models.values())).parameters()).device
    # Few enough films that their maps are small beside the passes' own memory.
    batch = max(4, min(64, (1 << 22) // store.size**2))
    tables, labels = [], []
    for chosen, x, targets in batches(store, rows, batch, device):
        made = explain_all(models, x, targets, how)
        row = np.repeat(chosen, [len(t) for t in targets])
        names = [FINDINGS[t] for channels in targets for t in channels]
        _, label, hi = distil(made.maps, made.probability, settings, names, store.images[row])
        settled = pair_settled(made, settings.trust)
        if how.unsettled == "ignore":
            label[~settled] = IGNORE
        pairs = {
            "row": row,
            "image_id": store.films["image_id"].to_numpy()[row],
            "finding": names,
            "threshold": hi,
            "error": made.error.max(0),  # of error and steps the largest over classifiers
            "probability": made.probability.mean(0),
            "steps": made.steps.max(0),
            "settled": settled,
        }
        for column in ("error", "probability"):
            for name, values in zip(models, getattr(made, column), strict=True):
                pairs[f"{column}:{name}"] = values
        tables.append(pd.DataFrame(pairs))
        labels.append(label)
    return pd.concat(tables, ignore_index=True), np.concatenate(labels)


def find_classifiers(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders of trained classifiers by name: those given, or all just below one given."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give folders with weights.safetensors")
        inner = sorted(f for f in folder.iterdir() if (f / "weights.safetensors").is_file())
        listed = [folder] if (folder / "weights.safetensors").is_file() else inner
        if not listed:
            raise InputError(f"{folder}: no weights.safetensors here: train a classifier first")
        for one in listed:
            name = one.resolve().name
            if name in found:
                raise InputError(f"{one}: a second classifier named {name!r}: rename its folder")
            found[name] = one
    return found


def make(
    films: Path, classifiers: Sequence[Path], out: Path, size: int | None = None
) -> LabelStore:
    """Label films with trained classifiers; a stopped call goes on where it was.

    `films` is a film store or a folder of images, see `open_films`, of `size` pixels a side; if its
    table says nothing about findings, what the classifiers call is positive. `classifiers` are
    folders, see `find_classifiers`. `out` gets the label store, with ``positives`` and ``source``
    in its `meta`.
    """
    folders = find_classifiers(classifiers)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    store = open_films(films, out / "films", size)
    models = load_classifiers(folders, compute.device())
    weights = {name: sha256(folder / "weights.safetensors") for name, folder in folders.items()}
    how, distil = ExplainerSettings(), LabelSettings()
    made_by = _made_by(store, how, distil, weights)
    key = {**made_by, "code": code_of([__name__])}
    if (out / "labels.json").is_file():
        return _kept(out, key)
    positive = "given by the table of the films"
    if (store.states == NOT_MENTIONED).all():
        positive = f"called by the classifiers (mean probability above {CALLED:g})"
        log.info("no findings given: positive is what is %s", positive)
        store.states = calls(models, store)
    rows = np.flatnonzero((store.states == POSITIVE).any(1))
    if not len(rows):
        raise InputError(f"{films}: no film has a positive finding: give findings in films.csv")
    log.info("%d of %d films have a positive finding", len(rows), len(store))
    shards = _write_shards(models, store, rows, how, distil, out / "shards", made_by, SHARD)
    about = {"positives": positive, "source": store.made_from.get("source", "unknown")}
    labels = labelstore.merge(shards, out, {**key, **about})
    shutil.rmtree(out / "shards", ignore_errors=True)
    return labels


def _kept(out: Path, key: Mapping[str, Any]) -> LabelStore:
    """The labels that are there; those that something else made are refused, not replaced."""
    labels = open_labels(out)
    new = json.loads(json.dumps(key))  # where tuples are lists
    other = [name for name in new if labels.meta.get(name) != new[name]]
    if other:
        raise InputError(
            f"{out}: labels made with other {', '.join(other)} are there: choose another --out, or "
            "delete it"
        )
    log.info("%s: kept, nothing that makes it has changed", out)
    return labels


def open_films(films: Path, built: Path, size: int | None) -> Store:
    """A film store: the one given, or one built from a folder of images.

    The folder has ``films.csv`` (see `dollkit.data.sets.own_folder`), or images alone, at any
    depth; its store is built in `built`, at `size` pixels (224 if None), unless it is there
    already.
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
    return open_store(build_store(table, built, size))


def _listed(folder: Path) -> FilmTable:
    """Table of all images below a folder; nothing is known about any."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
    if not files:
        raise InputError(f"{folder}: no image here ({', '.join(ENDINGS)}): check the folder")
    names = [f.relative_to(folder).as_posix() for f in files]
    films = blank_films(len(files))
    # Without an image's ending, ``__`` for ``/``.
    ids = [str(PurePosixPath(name).with_suffix("")).replace("/", "__") for name in names]
    films["image_id"] = films["patient_id"] = films["study_id"] = ids
    films["split"] = split_by_share(films["patient_id"])
    films["source"] = "folder"
    films["path"] = [str(f) for f in files]
    films["where"] = names
    return FilmTable("folder", films, folder)


@torch.inference_mode()
def calls(models: Mapping[str, Classifier], store: Store, batch: int = 64) -> npt.NDArray[np.int8]:
    """(n, 14) states: 1 where the classifiers' mean probability is above `CALLED`, else 0."""
    device = next(iter(models.values())).head.weight.device
    states = np.zeros((len(store), len(FINDINGS)), np.int8)
    for start in tqdm(range(0, len(store), batch), desc="calls", disable=None):
        x = compute.to_input(store.images[start : start + batch], device)
        p = torch.stack([torch.sigmoid(m(x).float()) for m in models.values()]).mean(0)
        states[start : start + batch] = p.cpu().numpy() > CALLED
    return states
