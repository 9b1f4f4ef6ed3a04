"""Explain the positive findings of many films and label them, shard by shard."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit import compute
from dollkit.attribution import explain
from dollkit.classifiers import Classifier
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, POSITIVE
from dollkit.labels import Distil, distil
from dollkit.labels import store as labelstore
from dollkit.store import Store

log = logging.getLogger(__name__)
FloatMaps = npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Explain:
    """Settings of the explainer; `kind`, `steps`, `rule`, `precision`, `budget` are IG's."""

    explainer: str = "ig"
    kind: str = "black"
    steps: int = 16
    rule: str = "midpoint"
    precision: str = "float32"
    budget: int = 128


def positives(states: npt.NDArray[np.int8]) -> list[list[int]]:
    """Channels to explain per film: its positive labels, No Finding among them. (n, 14) -> n."""
    return [[int(c) for c in np.flatnonzero(row == POSITIVE)] for row in states]


def explain_films(
    models: Mapping[str, Classifier], x: torch.Tensor, targets: list[list[int]], how: Explain
) -> tuple[FloatMaps, FloatMaps, FloatMaps]:
    """Signed maps of every classifier.

    Returns:
        maps (K, pairs, S, S), probabilities (K, pairs), completeness errors (K, pairs).
    """
    options = {k: v for k, v in asdict(how).items() if k != "explainer"}
    maps, probability, error = [], [], []
    for model in models.values():
        a = explain(how.explainer, model, x, targets, **options)
        maps.append(a.maps.cpu().numpy())
        probability.append(torch.sigmoid(a.logit).cpu().numpy())
        error.append(a.error.cpu().numpy())
    return np.stack(maps), np.stack(probability), np.stack(error)


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
) -> labelstore.LabelStore:
    """Label films shard by shard; a killed call goes on where it stopped.

    Args:
        models: the classifiers by name.
        rows: rows of `store` to label.
        folder: gets `shards/` while working and `store/` at the end.
        weights: sha256 of each classifier's weights, kept with the labels.
        shard: films per shard.

    Returns:
        The label store.

    Raises:
        InputError: no film has a positive finding.
    """
    where = next(iter(models.values())).head.weight.device
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    settled = {
        "explain": asdict(how),
        "distil": asdict(settings),
        "classifiers": dict(weights),
        "films": store.digest,
        "size": store.size,
    }
    paths, began, done = [], time.perf_counter(), 0
    bar = tqdm(total=len(rows), desc="labels", unit="film", disable=None)
    for number, start in enumerate(range(0, len(rows), shard)):
        some = rows[start : start + shard]
        key = fingerprint(settled, some.tolist())
        path = folder / "shards" / f"{number:05d}.npz"
        paths.append(path)
        if labelstore.shard_key(path) != key:
            tables, labels = [], []
            for chosen, x, targets in batches(store, some, 16, where):
                maps, probability, error = explain_films(models, x, targets, how)
                _, label, hi = distil(maps, probability, settings)
                tables.append(_pairs(store, chosen, targets, hi, error, probability))
                labels.append(label)
            if tables:
                table = pd.concat(tables, ignore_index=True)
                labelstore.write_shard(path, table, np.concatenate(labels), key)
            else:
                paths.pop()
            done += len(some)
        bar.update(len(some))
        if done and number % 8 == 7:
            rate = done / (time.perf_counter() - began)
            log.info("labels  %d / %d films  %.1f films/s", start + len(some), len(rows), rate)
    bar.close()
    if not paths:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    return labelstore.merge(paths, folder / "store", settled)


def _pairs(
    store: Store, rows: Rows, targets: Sequence[Sequence[int]], hi: FloatMaps, error: FloatMaps,
    probability: FloatMaps,
) -> pd.DataFrame:  # fmt: skip
    films = [(int(r), FINDINGS[t]) for r, wanted in zip(rows, targets, strict=True) for t in wanted]
    ids = store.films["image_id"].to_numpy()
    return pd.DataFrame(
        {
            "row": [r for r, _ in films],
            "image_id": [ids[r] for r, _ in films],
            "finding": [f for _, f in films],
            "threshold": hi,
            "error": error.max(0),
            "probability": probability.mean(0),
        }
    )
