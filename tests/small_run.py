"""Small films, labels and networks, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dollkit.common import compute
from dollkit.common.findings import FINDINGS
from dollkit.data.film_table import COLUMNS
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.labels import store as labelstore
from dollkit.training import networks, weights

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet"
CONFIG = {"encoder": ENCODER, "depth": 3, "activation": "silu"}
SIDE, SQUARE = 32, 8


def films_table(n: int) -> pd.DataFrame:
    """Two films a patient, half of them to train on, a fifth for validation; findings at random."""
    table = pd.DataFrame({c: [""] * n for c in COLUMNS if c not in FINDINGS})
    table["image_id"] = [f"film{i:03d}" for i in range(n)]
    table["patient_id"] = [f"patient{i // 2:03d}" for i in range(n)]
    table["study_id"] = table["image_id"]
    share = np.arange(n) // 2 * 2 / n
    table["split"] = np.where(share < 0.5, "train", np.where(share < 0.7, "valid", "test"))
    table["fold"], table["age"], table["width"], table["height"] = 0, 50, SIDE, SIDE
    table["view"], table["sex"], table["source"] = "PA", "F", "test"
    rng = np.random.default_rng(0)
    for finding in FINDINGS:
        table[finding] = rng.integers(0, 2, n)
    return table[list(COLUMNS)]


def make_store(path: Path, n: int, classes: tuple[str, ...]) -> Store:
    """Bright squares whose place the masks give; Edema says whether there is one."""
    rng = np.random.default_rng(1)
    table = films_table(n)
    images = rng.integers(20, 60, (n, SIDE, SIDE)).astype(np.uint8)
    masks = np.zeros((n, len(classes), SIDE, SIDE), np.uint8)
    for i in range(n):
        y, x = rng.integers(2, SIDE - SQUARE - 2, 2)
        if table["Edema"].iloc[i] or "Edema" not in classes:
            images[i, y : y + SQUARE, x : x + SQUARE] += 150
            masks[i, :, y : y + SQUARE, x : x + SQUARE] = 1
    with StoreWriter(path, SIDE, list(classes), n, {"test": 1}) as out:
        out.write(0, images, masks, np.ones((n, len(classes)), bool))
        out.finish(table)
    return open_store(path)


def label_some(store: Store, folder: Path) -> labelstore.LabelStore:
    """The true masks of Edema as labels."""
    folder.mkdir()
    rows = np.flatnonzero(store.states[:, FINDINGS.index("Edema")] == 1)
    table = pd.DataFrame(
        {"row": rows, "image_id": store.films["image_id"].to_numpy()[rows], "finding": "Edema",
         "threshold": 0.5, "error": 0.0, "probability": 0.9}
    )  # fmt: skip
    labelstore.write_shard(folder / "a.npz", table, store.masks(rows, ["Edema"])[:, 0])
    return labelstore.merge([folder / "a.npz"], folder / "store", {"size": store.size})


def save_network(folder: Path, seed: int = 3, **changed: object) -> Path:
    """A network as pre-training leaves it."""
    folder.mkdir(exist_ok=True)
    with compute.seeded(seed):
        net = networks.build("pspnet", **{**CONFIG, "classes": 14, **changed})  # type: ignore[arg-type]
    weights.save(net, folder, networks.config_of(net))
    return folder
