"""Small films, labels and networks, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dollkit.common import compute
from dollkit.common.findings import FINDINGS
from dollkit.data.store import Store
from dollkit.labels import store as labelstore
from dollkit.training import networks, weights
from tests.label_films import write_films

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet"
CONFIG = {"encoder": ENCODER, "depth": 3, "activation": "silu"}
SIDE, SQUARE = 32, 8


def make_store(path: Path, n: int, classes: tuple[str, ...]) -> Store:
    """Bright squares whose place the masks give; Edema says whether there is one.

    Two films a patient, half of them to train on, a fifth for validation; findings at random.
    """
    rng = np.random.default_rng(0)
    findings = {finding: rng.integers(0, 2, n) for finding in FINDINGS}
    rng = np.random.default_rng(1)
    images = rng.integers(20, 60, (n, SIDE, SIDE)).astype(np.uint8)
    squares = np.zeros((n, SIDE, SIDE), np.uint8)
    for i in range(n):
        y, x = rng.integers(2, SIDE - SQUARE - 2, 2)
        if findings["Edema"][i] or "Edema" not in classes:
            squares[i, y : y + SQUARE, x : x + SQUARE] = 1
    patient = np.arange(n) // 2
    share = patient * 2 / n
    split = np.where(share < 0.5, "train", np.where(share < 0.7, "valid", "test"))
    patients = [f"patient{p:03d}" for p in patient]
    return write_films(
        path, images + 150 * squares, findings, dict.fromkeys(classes, squares),
        image_id=[f"film{i:03d}" for i in range(n)], patient_id=patients, split=split, fold=0,
    )  # fmt: skip


def label_some(store: Store, folder: Path) -> labelstore.LabelStore:
    """The true masks of Edema as labels."""
    folder.mkdir()
    rows = np.flatnonzero(store.states[:, FINDINGS.index("Edema")] == 1)
    table = pd.DataFrame(
        {"row": rows, "image_id": store.films["image_id"].to_numpy()[rows], "finding": "Edema",
         "threshold": 0.5, "error": 0.0, "probability": 0.9}
    )  # fmt: skip
    labelstore.write_shard(folder / "a.npz", table, store.masks(rows, ["Edema"])[:, 0])
    return labelstore.merge({folder / "a.npz": ""}, folder / "store", {})


def save_network(folder: Path, seed: int = 3, **changed: object) -> Path:
    """A network as pre-training leaves it."""
    folder.mkdir(exist_ok=True)
    with compute.seeded(seed):
        net = networks.build("pspnet", **{**CONFIG, "classes": 14, **changed})  # type: ignore[arg-type]
    weights.save(net, folder, networks.config_of(net))
    return folder
