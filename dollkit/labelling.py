"""Explain the positive findings of many films and label them, shard by shard."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit import compute
from dollkit.buildkey import code_of
from dollkit.classifiers import Classifier
from dollkit.errors import InputError
from dollkit.explaining import Explain, Explained, explain_all, pair_settled, positives
from dollkit.findings import FINDINGS, POSITIVE
from dollkit.labels import Distil, distil
from dollkit.labels import store as labelstore
from dollkit.losses import IGNORE
from dollkit.parts import Part
from dollkit.store import Store

__all__ = ["Rows", "batches", "fingerprint", "make_labels", "rows_to_label"]

log = logging.getLogger(__name__)
Rows = npt.NDArray[np.int64]


def rows_to_label(store: Store, n_train: int, n_valid: int) -> Rows:
    """First films with a positive finding of split ``train``, then of ``valid``, as rows.

    Asking for more than there are gives all of them.
    """
    some = (store.states == POSITIVE).any(1)
    split = store.films["split"].to_numpy()
    train = np.flatnonzero(some & (split == "train"))[:n_train]
    held = np.flatnonzero(some & (split == "valid"))[:n_valid]
    return np.concatenate([train, held])


def batches(
    store: Store, rows: Rows, size: int, where: torch.device
) -> Iterator[tuple[Rows, torch.Tensor, list[list[int]]]]:
    """Films with their targets, `size` at a time; films without positives are passed over."""
    targets = positives(store.states[rows])
    keep = [i for i, t in enumerate(targets) if t]
    for i in range(0, len(keep), size):
        some = keep[i : i + size]
        chosen = rows[some]
        yield chosen, compute.to_input(store.images[chosen], where), [targets[j] for j in some]


def fingerprint(*parts: object) -> str:
    """Short sha256 of JSON-able settings."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_labels(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    how: Explain,
    settings: Distil,
    folder: Path,
    weights: Mapping[str, str],
    shard: int = 64,
    keep_maps: bool = False,
    part: Part | None = None,
) -> labelstore.LabelStore:
    """Label films shard by shard; a killed call goes on where it stopped.

    A shard that other settings, classifiers, films or modules have made is made anew.

    Args:
        models: the classifiers by name.
        rows: rows of `store` to label.
        folder: gets `shards/` while working and `store/` at the end.
        weights: sha256 of each classifier's weights, kept with the labels.
        shard: films per shard.
        keep_maps: keep the maps that are cut, too, as float16.
        part: share of this process: its shards are written, none are joined.

    Returns:
        The label store.

    Raises:
        Done: after a part.
    """
    where = next(next(iter(models.values())).parameters()).device
    # Few enough films that their maps are small beside the passes' own memory.
    batch = max(4, min(64, (1 << 22) // store.size**2))
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    meta = {
        "explain": asdict(how),
        "distil": asdict(settings),
        "classifiers": dict(weights),
        "films": store.digest,
        "size": store.size,
    }
    if keep_maps:
        meta["maps"] = True
    code = code_of([__name__])
    paths, began, done = [], time.perf_counter(), 0
    bar = tqdm(total=len(rows), desc="labels", unit="film", disable=None)
    for number, start in enumerate(range(0, len(rows), shard)):
        if part is not None and not part.takes(number):
            continue
        some = rows[start : start + shard]
        key = fingerprint(meta, code, some.tolist())
        path = folder / "shards" / f"{number:05d}.npz"
        paths.append(path)
        if labelstore.shard_key(path) != key:
            tables, labels, maps = [], [], []
            for chosen, x, targets in batches(store, some, batch, where):
                made = explain_all(models, x, targets, how)
                names = [FINDINGS[t] for wanted in targets for t in wanted]
                films = store.images[np.repeat(chosen, [len(t) for t in targets])]
                boosted, label, hi = distil(made.maps, made.probability, settings, names, films)
                settled = pair_settled(made, settings.trust)
                if how.unsettled == "ignore":
                    label[~settled] = IGNORE
                tables.append(_pairs(store, list(models), chosen, targets, hi, made, settled))
                labels.append(label)
                maps.append(boosted)
            if tables:
                table = pd.concat(tables, ignore_index=True)
                kept = np.concatenate(maps) if keep_maps else None
                labelstore.write_shard(path, table, np.concatenate(labels), key, kept)
            else:
                paths.pop()
            done += len(some)
        bar.update(len(some))
        if done and number % 8 == 7:
            rate = done / (time.perf_counter() - began)
            log.info("labels  %d / %d films  %.1f films/s", start + len(some), len(rows), rate)
    bar.close()
    if part is not None:
        part.end()
    if not paths:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    return labelstore.merge(paths, folder / "store", meta)


def _pairs(
    store: Store, names: Sequence[str], rows: Rows, targets: Sequence[Sequence[int]],
    hi: npt.NDArray[np.float32], made: Explained, settled: npt.NDArray[np.bool_],
) -> pd.DataFrame:  # fmt: skip
    """The pairs table: of error and steps the largest over classifiers, and each one's own."""
    films = [(int(r), FINDINGS[t]) for r, wanted in zip(rows, targets, strict=True) for t in wanted]
    ids = store.films["image_id"].to_numpy()
    return pd.DataFrame(
        {
            "row": [r for r, _ in films],
            "image_id": [ids[r] for r, _ in films],
            "finding": [f for _, f in films],
            "threshold": hi,
            "error": made.error.max(0),
            "probability": made.probability.mean(0),
            "steps": made.steps.max(0),
            "settled": settled,
            **labelstore.by_classifier(names, error=made.error, probability=made.probability),
        }
    )
