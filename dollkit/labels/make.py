"""Explain the positive findings of many films and label them, shard by shard: `make_labels` for
the stage, `make` from films and trained classifiers to a label store in one call.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.common import compute
from dollkit.common.build_key import code_of, digest
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, POSITIVE
from dollkit.common.machine import Part, sha256
from dollkit.data.film_table import FilmTable
from dollkit.data.images import IGNORE
from dollkit.data.sets.common_steps import films_of
from dollkit.data.sets.own_folder import image_id, list_films, read_own
from dollkit.data.splits import split_by_share
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store
from dollkit.data.store_writer import writing
from dollkit.explanations.ensemble import ExplainerSettings, explain_all, pair_settled, positives
from dollkit.labels import store as labelstore
from dollkit.labels.maps_to_labels import LabelSettings, maps_to_labels
from dollkit.labels.store import LabelStore, open_labels
from dollkit.training import weights
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
    models: Mapping[str, Classifier], store: Store, rows: Rows, size: int
) -> Iterator[tuple[Rows, torch.Tensor, list[list[int]]]]:
    """Rows, films and targets, `size` films at a time; films without positives are passed over."""
    rows = rows[(store.states[rows] == POSITIVE).any(1)]
    for i in range(0, len(rows), size):
        films = rows[i : i + size]
        x = compute.to_input(store.images[films], device_of(models))
        yield films, x, positives(store.states[films])


def device_of(models: Mapping[str, Classifier]) -> torch.device:
    """Device that classifiers lie on."""
    return next(next(iter(models.values())).parameters()).device


@torch.inference_mode()
def mean_probability(models: Mapping[str, Classifier], x: torch.Tensor) -> npt.NDArray[np.float32]:
    """Mean over classifiers of what they give each finding: (n, 1, S, S) films -> (n, 14)."""
    p = torch.stack([torch.sigmoid(model(x).float()) for model in models.values()])
    return np.asarray(p.mean(0).cpu())


def fingerprint(*parts: object) -> str:
    """Short sha256 of JSON-able settings."""
    return digest(parts)[:16]


def make_labels(
    models: Mapping[str, Classifier], store: Store, rows: Rows, explain: ExplainerSettings,
    settings: LabelSettings, folder: Path, hashes: Mapping[str, str], part: Part | None = None,
    out: Path | None = None, **about: str | dict[str, str],
) -> LabelStore:  # fmt: skip
    """Label rows of a film store; a killed call goes on where it stopped.

    `folder` gets ``shards/`` while working and the labels at the end, in `out` (None: ``store/``).
    `hashes`, the sha256 of each classifier's weights, and `about` are kept with the labels. Of a
    `part`, the share of this process, the shards are written, and `PartDone` is raised.
    """
    positive = rows[(store.states[rows] == POSITIVE).any(1)]
    if not len(positive):
        raise InputError(f"{store.path}: no film to label has a positive finding: give some")
    made_by, code = _made_by(store, explain, settings, hashes), code_of([__name__])
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    shards = {}
    bar = tqdm(total=len(positive), desc="labels", unit="film", disable=None)
    for number, start in enumerate(range(0, len(positive), SHARD)):
        if part is None or part.takes(number):
            films = positive[start : start + SHARD]
            path = folder / "shards" / f"{number:05d}.npz"
            key = fingerprint(made_by, code, films.tolist(), store.states[films].tolist())
            shards[path] = key
            if labelstore.shard_key(path) != key:
                labelstore.write_shard(path, *_label(models, store, films, explain, settings), key)
            bar.update(len(films))
    bar.close()
    if part is not None:
        part.end()
    return labelstore.merge(shards, out or folder / "store", made_by | about)


def _made_by(
    store: Store, explain: ExplainerSettings, settings: LabelSettings, hashes: Mapping[str, str]
) -> dict[str, Any]:
    made_by: dict[str, Any] = {"explain": asdict(explain), "distil": asdict(settings)}
    return made_by | {"classifiers": dict(hashes), "films": store.digest, "size": store.size}


def _label(
    models: Mapping[str, Classifier], store: Store, rows: Rows, explain: ExplainerSettings,
    settings: LabelSettings,
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:  # fmt: skip
    # Few enough films that their maps are small beside the passes' own memory.
    batch = max(4, min(64, (1 << 22) // store.size**2))
    tables, labels = [], []
    for chosen, x, targets in batches(models, store, rows, batch):
        explained = explain_all(models, x, targets, explain)
        row = np.repeat(chosen, [len(t) for t in targets])
        names = [FINDINGS[t] for channels in targets for t in channels]
        _, label, thresholds = maps_to_labels(
            explained.maps, explained.probability, settings, names, store.images[row]
        )
        settled = pair_settled(explained, settings.trust)
        if explain.unsettled == "ignore":
            label[~settled] = IGNORE
        pairs = {
            "row": row,
            "image_id": store.films["image_id"].to_numpy()[row],
            "finding": names,
            "threshold": thresholds,
            "error": explained.error.max(0),  # of error and steps the largest over classifiers
            "probability": explained.probability.mean(0),
            "steps": explained.steps.max(0),
            "settled": settled,
        }
        for column in ("error", "probability"):
            for name, values in zip(models, getattr(explained, column), strict=True):
                pairs[f"{column}:{name}"] = values
        tables.append(pd.DataFrame(pairs))
        labels.append(label)
    return pd.concat(tables, ignore_index=True), np.concatenate(labels)


def find_classifiers(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders of trained classifiers by name: those given, or all just below one given."""
    classifiers: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give folders with {weights.FILE}")
        trained = [f for f in (folder, *sorted(folder.iterdir())) if (f / weights.FILE).is_file()]
        if not trained:
            raise InputError(f"{folder}: no {weights.FILE} here: train a classifier first")
        for place in trained[:1] if trained[0] == folder else trained:
            name = place.resolve().name
            if name in classifiers:
                raise InputError(f"{place}: a second classifier named {name!r}: rename its folder")
            classifiers[name] = place
    return classifiers


def hashes_of(classifiers: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the weights in folders of classifiers."""
    return {name: sha256(folder / weights.FILE) for name, folder in classifiers.items()}


def make(
    films: Path, classifiers: Sequence[Path], out: Path, size: int | None = None
) -> LabelStore:
    """Label films with trained classifiers; a stopped call goes on where it was.

    `films` as `open_films`, `classifiers` as `find_classifiers` takes them; if no table says
    anything about findings, what the classifiers call is positive. `out` gets the label store, with
    ``positives`` and ``source`` in its `meta`.
    """
    folders = find_classifiers(classifiers)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    store = open_films(films, out / "films", size)
    models = load_classifiers(folders, compute.device())
    hashes = hashes_of(folders)
    explain, settings = ExplainerSettings(), LabelSettings()
    code = code_of([__name__])
    if (out / "labels.json").is_file():
        labels = open_labels(out)
        # As JSON, where tuples are lists.
        key = json.loads(json.dumps({**_made_by(store, explain, settings, hashes), "code": code}))
        if other := [name for name in key if labels.meta.get(name) != key[name]]:
            old = f"labels made with other {', '.join(other)}"
            raise InputError(f"{out}: {old} are there: choose another --out, or delete it")
        log.info("%s: kept, nothing that makes it has changed", out)
        return labels
    positive = "given by the table of the films"
    if (store.states == NOT_MENTIONED).all():
        positive = f"called by the classifiers (mean probability above {CALLED:g})"
        log.info("no findings given: positive is what is %s", positive)
        device = device_of(models)
        for i in tqdm(range(0, len(store), 64), desc="calls", disable=None):
            x = compute.to_input(store.images[i : i + 64], device)
            store.states[i : i + 64] = mean_probability(models, x) > CALLED
    rows = np.flatnonzero((store.states == POSITIVE).any(1))
    log.info("%d of %d films have a positive finding", len(rows), len(store))
    labels = make_labels(
        models, store, rows, explain, settings, out, hashes, out=out, code=code,
        positives=positive, source=store.made_from.get("source", "unknown"),
    )  # fmt: skip
    shutil.rmtree(out / "shards", ignore_errors=True)
    return labels


def open_films(films: Path, built: Path, size: int | None) -> Store:
    """A film store: the one given, or one built from a folder of images.

    The folder has ``films.csv`` (see `dollkit.data.sets.own_folder`), or images alone, at any
    depth; its store is built in `built`, at `size` pixels (224 if None), unless it is there.
    """
    if not films.is_dir():
        raise InputError(f"{films}: no such folder: give a folder of images or a film store")
    if (films / "store.json").is_file():
        store = open_store(films)
        if size not in (None, store.size):
            raise InputError(f"'size' is {size}; {films} holds films of {store.size} px: drop it")
        return store
    if size is None:
        size = 224
        log.info("films are read at 224 px: give --size if the classifiers learnt at another size")
    if (films / "films.csv").is_file():
        return open_store(build_store(read_own(films)["films"], built, size))
    names = list_films(films)
    table = films_of(
        "folder", [image_id(name) for name in names], [films / name for name in names], names
    )
    table["split"] = split_by_share(table["patient_id"])
    return open_store(build_store(FilmTable("folder", table, films), built, size))
