"""A finished run in miniature, with the files that the explorer reads: tiny networks, square marks.

Films have a bright square where Lung Lesion or Fracture is; those of the task have masks of two
classes instead, and two arms that drew them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dollkit.common.findings import FINDINGS
from dollkit.common.machine import sha256
from dollkit.data.film_table import blank_films
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.labels import make
from dollkit.labels.steps import LabelSettings
from dollkit.training import weights
from dollkit.training.classifiers import create, load_classifiers

SIDE, N = 32, 16
MARKED = ("Lung Lesion", "Fracture")
HOW = ExplainerSettings(steps=2, unsettled="keep")
GIVEN = {"judge_split": "test", "n_judge": 8, "n_label": 6, "n_hold": 2}


def models(folder: Path) -> dict[str, Path]:
    """Two untrained classifiers, each in a folder of its name."""
    for seed, name in enumerate("ab"):
        made = create("tu-test_resnet", 3, "silu", "avg", seed, torch.device("cpu"))
        (folder / name).mkdir(parents=True)
        weights.save(made, folder / name, made.config)
    return {name: folder / name for name in "ab"}


def films(folder: Path, seed: int = 0, marked: bool = True) -> Store:
    """`N` films: Lung Lesion and Fracture by turns, every fourth pair of films without any.

    Their masks are known if `marked`, but for every fourth pair.
    """
    rng = np.random.default_rng(seed)
    table = blank_films(N)
    table["image_id"] = [f"film{i:02d}" for i in range(N)]
    table["patient_id"] = [f"p{i:02d}" for i in range(N)]
    table["split"] = ["train", "test"] * (N // 2)
    table[list(FINDINGS)] = 0.0
    with StoreWriter(folder, SIDE, MARKED if marked else (), {"source": "test"}) as out:
        for i in range(N):
            masks = np.zeros((1, 2, SIDE, SIDE), np.uint8)
            which = i // 2 % 2
            top, left = rng.integers(2, 20, 2)
            masks[0, which, top : top + 8, left : left + 8] = 1
            if i % 8 not in (6, 7):
                table.loc[i, MARKED[which]] = 1.0
            grey = rng.integers(30, 200, (1, SIDE, SIDE)) + 50 * masks[:, which]
            valid = np.full((1, 2), i % 8 not in (2, 3))
            known = (masks, valid) if marked else ()
            out.write(grey.astype(np.uint8), *known)
        out.finish(table)
    return open_store(folder)


def run(root: Path, profile: str) -> None:
    """The run in ``root/profile``: data, classifiers, labels and one fine-tuned task."""
    folder = root / profile
    store = films(folder / "data" / "films")
    task = films(folder / "data" / "lungs", seed=1, marked=False)
    _manifest(folder / "data")
    folders = models(folder / "classifiers")
    for name in folders:
        _manifest(folder / "classifiers" / name)
    rows = make.rows_to_label(store, GIVEN["n_label"], GIVEN["n_hold"])
    hashes = {name: sha256(f / weights.FILE) for name, f in folders.items()}
    nets = load_classifiers(folders, torch.device("cpu"))
    make.make_labels(nets, store, rows, HOW, LabelSettings(), folder / "labels", hashes)
    _manifest(folder / "labels", GIVEN)
    (folder / "finetune" / "pspnet-lungs").mkdir(parents=True)
    np.savez(folder / "finetune" / "pspnet-lungs" / "examples.npz", **_drawn(task))
    _manifest(folder / "finetune" / "pspnet-lungs")


def _drawn(task: Store) -> dict[str, Any]:
    """Four films; arm doll drew film 0 exactly, random nothing; film 3 has no truth at all."""
    truth = np.zeros((4, 2, SIDE, SIDE), np.uint8)
    for i in range(3):
        truth[i, 0, 4:12, 4:20] = truth[i, 1, 20:28, 4:12] = 1
    prediction: npt.NDArray[np.uint8] = np.stack([np.zeros_like(truth), truth])
    prediction[1, 1, 0, :8] = 0
    prediction[1, 2, :, :22] = 0
    rows = [0, 1, 2, 6]
    return {
        "task": "lungs",
        "network": "pspnet",
        "image": task.images[rows],
        "image_id": task.films["image_id"].to_numpy()[rows].astype("U"),
        "truth": truth,
        "classes": np.array(["lung", "heart"]),
        "arms": np.array(["random", "doll"]),
        "prediction": prediction,
        "iou": np.zeros((2, 4)),
    }


def _manifest(folder: Path, parameters: dict[str, Any] | None = None) -> None:
    text = json.dumps({"outputs": {}, "parameters": parameters or {}})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
