"""Small film stores and untrained classifiers for the tests of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dollkit.classifiers.model import create
from dollkit.data.film_table import blank_films
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.training import weights


def write_models(folder: Path, names: str = "ab") -> Path:
    """Classifiers in folders of their names; returns the folder."""
    for seed, name in enumerate(names):
        model = create("tu-test_resnet", 3, "silu", "avg", seed, torch.device("cpu"))
        (folder / name).mkdir(parents=True)
        weights.save(model, folder / name, model.config)
    return folder


def write_films(
    folder: Path,
    images: np.ndarray,
    findings: Mapping[str, Sequence[float]] | None = None,
    split: Sequence[str] | str = "train",
    masks: Mapping[str, np.ndarray] | None = None,
) -> Store:
    """A store of films ``film 0`` and so on, each of a patient; masks (n, S, S) by class."""
    n, size = len(images), images.shape[1]
    table = blank_films(n)
    table["image_id"] = table["patient_id"] = table["study_id"] = [f"film {i}" for i in range(n)]
    table["split"] = split
    for finding, values in (findings or {}).items():
        table[finding] = np.asarray(values, float)
    drawn = None if masks is None else np.stack(list(masks.values()), 1)
    with StoreWriter(folder, size, tuple(masks or ()), {"source": "test"}) as out:
        out.write(images, drawn)
        out.finish(table)
    return open_store(folder)


def noise(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """(n, size, size) uint8 grey values."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size)).astype(np.uint8)
