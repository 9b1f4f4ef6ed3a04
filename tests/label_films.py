"""Small film stores and untrained classifiers for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dollkit.data.film_table import blank_films
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.training import weights
from dollkit.training.classifiers import create


def write_models(folder: Path, names: str = "ab") -> Path:
    """Classifiers in folders of their names; returns the folder."""
    for seed, name in enumerate(names):
        model = create("tu-test_resnet", 3, "silu", "avg", seed, torch.device("cpu"))
        (folder / name).mkdir(parents=True)
        weights.save(model, folder / name, model.config)
    return folder


def write_films(
    folder: Path, images: np.ndarray, findings: Mapping[str, npt.ArrayLike] | None = None,
    masks: Mapping[str, np.ndarray] | None = None, **columns: Any,
) -> Store:  # fmt: skip
    """A store of films ``film 0`` and so on, each of a patient and of split ``train``.

    `columns` are others; masks are (n, S, S) by class.
    """
    n, size = len(images), images.shape[1]
    table = blank_films(n)
    table["image_id"] = table["patient_id"] = table["study_id"] = [f"film {i}" for i in range(n)]
    table = table.assign(**{"split": "train", **columns})
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


def bump(y: float, x: float, sigma: float) -> np.ndarray:
    """A Gaussian as a map (40, 40) float32."""
    yy, xx = np.mgrid[:40, :40]
    return np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2)).astype(np.float32)
