"""The steps of the paper on your films, by the stages' functions (notebooks 02 to 05).

Each keeps its result under a key of its settings, inputs and code. Called again with the same, it
returns what is there; a killed one goes on from its checkpoint, shard or job.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit import pretraining
from dollkit.common import ARMS, OTHER_START, PRETRAINED, build_key, compute
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.finetuning import grid, run
from dollkit.finetuning.run import Job
from dollkit.finetuning.starts import starts
from dollkit.interactive.your_radiographs import predict
from dollkit.interactive.your_radiographs.read_and_check import Radiographs
from dollkit.labels import make
from dollkit.labels.make import fingerprint, hashes_of
from dollkit.labels.maps_to_labels import LabelSettings
from dollkit.labels.store import LabelStore
from dollkit.training import classifiers, networks, published_weights, weights
from dollkit.training.augment import Augmentation
from dollkit.training.loss_and_optimiser import Recipe

log = logging.getLogger(__name__)

TASK = "own"
KEY = "done.txt"
DEPTH = 3
"""Encoder stages of a PSPNet: stride 8."""

STARTS = tuple(arm for arm in ARMS if arm not in ("truth", *OTHER_START))
"""Starts that need nothing but films and findings, and for ImageNet an encoder with weights."""

LEAST = 6
"""Patients with masks below which none can be held out: a paired test of five has no p < 0.05."""


@cache
def _code_of(*modules: str) -> str:
    """Fingerprint of modules of the package, of all that they import, and of this one."""
    return fingerprint(build_key.code_of(modules), sha256(Path(__file__)))


def _is_done(folder: Path, key: str) -> bool:
    """Whether a step was finished there under this key; if not, its folder is made ready for it."""
    lines = (folder / KEY).read_text("utf-8").splitlines() if (folder / KEY).is_file() else []
    if lines[:1] == [key] and all((folder / name).is_file() for name in lines[1:]):
        log.info("%s: kept, nothing that makes it has changed", folder)
        return True
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).unlink(missing_ok=True)
    return False


def _finish(folder: Path, key: str) -> None:
    files = sorted(f.name for f in folder.iterdir() if f.is_file())
    (folder / KEY).write_text("\n".join([key, *files]), encoding="utf-8")


def build_stores(yours: Radiographs, folder: Path, size: int) -> tuple[Store, Store]:
    """Packed stores of the films with findings and of the films with masks."""
    films = build_store(yours.films, folder / "films", size)
    return open_store(films), open_store(build_store(yours.task, folder / "masked", size))


def train_classifiers(
    store: Store, folder: Path, architectures: Sequence[str], recipe: Recipe, activation: str
) -> dict[str, Path]:
    """Folder of a trained classifier of each architecture, from ImageNet where a package has it."""
    out = {name: folder / name for name in architectures}
    code = _code_of(classifiers.__name__, published_weights.__name__)
    for name, place in out.items():
        key = fingerprint(store.digest, name, activation, vars(recipe), code)
        if not _is_done(place, key):
            model = classifiers.create(name, 5, activation, "lse", recipe.seed, compute.device())
            if name in published_weights.PACKAGES:
                published_weights.find(published_weights.PACKAGED, name).into(model)
            classifiers.train(model, store, "U-Ones", recipe, Augmentation(), place, key=key)
            weights.save(model, place, model.config)
            _finish(place, key)
    return out


def trained_classifiers(folder: Path, first: str = "") -> dict[str, Path]:
    """Classifiers below a folder such as ``runs/laptop/classifiers``; `first`, if it is there,
    foremost, since its backbone is the networks'."""
    folders = make.find_classifiers([folder])
    return {name: folders[name] for name in sorted(folders, key=lambda name: name != first)}


def score_classifiers(
    store: Store, folders: Mapping[str, Path], folder: Path, split: str, precision: str = "float32"
) -> pd.DataFrame:
    """AUROC of each classifier on films that are new to it; empty if there is nothing to score."""
    code = _code_of(classifiers.__name__)
    for name, digest in hashes_of(folders).items():
        key = fingerprint(store.digest, digest, split, precision, code)
        if not _is_done(folder / name, key):
            model = classifiers.load_classifier(folders[name], compute.device())
            table = classifiers.evaluate(model, store, split, precision=precision)
            table.assign(classifier=name).to_csv(folder / name / "metrics.csv", index=False)
            _finish(folder / name, key)
    tables = [pd.read_csv(folder / name / "metrics.csv") for name in folders]
    return pd.concat(tables, ignore_index=True)


def label_films(
    store: Store, folders: Mapping[str, Path], folder: Path, *, n_label: int, n_hold: int,
    most_steps: int, precision: str = "float32",
) -> LabelStore:  # fmt: skip
    """DoLL labels of films of splits ``train`` and ``valid``, each map cut by Otsu's threshold."""
    explain = ExplainerSettings(most_steps=most_steps, precision=precision, unsettled="keep")
    models = classifiers.load_classifiers(folders, compute.device())
    made_by = explain, LabelSettings(), folder, hashes_of(folders)
    return make.make_labels(models, store, make.rows_to_label(store, n_label, n_hold), *made_by)


def _encoder_of(folders: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Settings of the networks, whose encoder is the first classifier's, and its folder by name."""
    folder = next(iter(folders.values()))
    config, _ = weights.read(folder)
    encoder, activation = config["architecture"], config["activation"]
    return {"encoder": encoder, "depth": DEPTH, "activation": activation}, {encoder: folder}


def pretrain(
    arms: Sequence[str], store: Store, labels: LabelStore, folders: Mapping[str, Path],
    folder: Path, network: str, *, steps: int, precision: str, batch: int = 16, seed: int = 0,
) -> dict[str, Path]:  # fmt: skip
    """Folder of the pre-trained network of each arm that needs one."""
    recipe = Recipe(
        steps, batch, pretraining.LR, evaluate_every=max(1, steps // 4), precision=precision,
        seed=seed,
    )  # fmt: skip
    device = compute.device()
    config, encoder = _encoder_of(folders)
    train, held = pretraining.parts(store, labels)
    out = {arm: folder / f"{network}-{arm}" for arm in arms if arm in PRETRAINED}
    built = network, config["encoder"], DEPTH, config["activation"]
    inputs = store.digest, labels.meta["sha256"], hashes_of(folders), network, config
    code = _code_of(pretraining.__name__)
    for arm, place in out.items():
        key = fingerprint(*inputs, arm, vars(recipe), code)
        if _is_done(place, key):
            continue
        taught = pretraining.labels_of(arm, store, labels, folders, place / "labels", device)
        targets = pretraining.targets_of(arm, store, taught, seed)
        net = pretraining.network(*built, "classifier", encoder, seed, device)
        pretraining.pretrain(
            net, store, train, held, targets, recipe, augmentation=Augmentation(),
            folder=place, label=f"pretrain {arm}", key=key,
        )  # fmt: skip
        weights.save(net, place, networks.config_of(net))
        _finish(place, key)
    return out


# Starts compared on held-out films, and the network that draws.


def check_masks(films: pd.DataFrame, compare: bool, n_valid: int) -> str:
    """What to expect of the films with masks, if there are enough; with `compare` some are held
    out to judge on.
    """
    patients, folds = films["patient_id"].nunique(), sorted(films["fold"].unique())
    needed = {"train", "valid", "test"} if compare else {"train", "valid"}
    if len(folds) == 1 and not needed <= set(films["split"]):
        raise InputError(
            f"column 'split': films with masks are {films['split'].value_counts().to_dict()}: put "
            f"some into each of {', '.join(sorted(needed))}, or leave the column out"
        )
    if patients < (LEAST if compare else 2):
        raise InputError(
            f"masks of {patients} patients: {LEAST} are the least to hold some out and compare "
            "starts (20 and more can tell something), 2 to fine-tune and only predict "
            "(compare = False): draw more"
        )
    if not compare:
        return f"masks of {patients} patients, all to train with: nothing is held out to judge on"
    try:
        for fold in folds:
            run.split(films, int(fold), 1, n_valid, 0)
    except InputError:
        raise InputError(
            f"parameters 'n_valid' ({n_valid}) and 'folds' ({len(folds)}): masks of {len(films)} "
            f"films of {patients} patients leave a fold without training or validation films: take "
            "a smaller 'n_valid' or other 'folds', or draw more masks"
        ) from None
    effects = "only large effects" if patients < 20 else "a moderate effect, but no small one,"
    return f"masks of {len(films)} films of {patients} patients: {effects} may show"


@dataclass(frozen=True)
class Setup:
    """What the comparison and the final network share."""

    data: run.TaskData
    starts: Mapping[str, run.Initialisation]
    network: str
    config: Mapping[str, Any]
    recipe: Recipe
    lrs: Sequence[float]
    n_valid: int
    key: str

    @property
    def folds(self) -> list[int]:
        """Folds to test in; one where the table has a split."""
        return sorted(int(f) for f in self.data.films["fold"].unique())


def set_up(
    masked: Store, arms: Sequence[str], folders: Mapping[str, Path],
    pretrained: Mapping[str, Path], network: str, recipe: Recipe, lrs: Sequence[float],
    n_valid: int,
) -> Setup:  # fmt: skip
    """Starts and settings of all fine-tuning runs."""
    config, encoder = _encoder_of(folders)
    initial = starts(arms, encoder, pretrained, network, config)
    same = {k: v for k, v in vars(recipe).items() if k not in ("lr", "seed")}
    code = _code_of(grid.__name__, starts.__module__)
    key = fingerprint(masked.digest, network, config, same, n_valid, code)
    return Setup(run.load_films(masked), initial, network, config, recipe, lrs, n_valid, key)


def compare_starts(
    setup: Setup, folder: Path, sizes: Sequence[int], seeds: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """Fine-tune every start with all masks that every fold can train on, and with `sizes` of them,
    and judge on held-out patients: frames of `grid.execute`, written to `folder` too.
    """
    films, folds, arms = setup.data.films, setup.folds, list(setup.starts)
    *fewer, most = grid.sizes_of([*sizes, 0], 0, films, folds, setup.n_valid)
    folder.mkdir(parents=True, exist_ok=True)
    frames = grid.execute(grid.Grid(
        TASK, setup.network, setup.config, setup.data, setup.starts, {"full": (arms, setup.lrs)},
        setup.recipe, Augmentation(), most, setup.n_valid, list(seeds), folds, folder, setup.key,
        compute.device(), sizes=dict.fromkeys(fewer, arms),
    ))  # fmt: skip
    grid.write(folder, frames)
    return frames


def final_network(
    setup: Setup, folder: Path, arm: str, selection: pd.DataFrame | None, seed: int
) -> tuple[Path, list[str]]:
    """The network to predict with, fine-tuned on all masks but those that choose the step: its
    folder, and ids of the films whose masks it saw. The rate is that of `selection`, if any.
    """
    data, start = setup.data, setup.starts[arm]
    held = np.flatnonzero(data.films["split"] == "valid")
    if len(setup.folds) > 1:  # the validation films of the first one
        held = run.split(data.films, setup.folds[0], 0, setup.n_valid, 0).valid
    train = np.setdiff1d(np.arange(len(data.films)), held)
    seen = data.films["image_id"].to_numpy()[np.concatenate([train, held])].tolist()
    lrs = list(setup.lrs)
    if selection is not None:  # the best over the folds with the most masks
        tried = selection[(selection["arm"] == arm) & (selection["tuning"] == "full")]
        tried = tried[tried["n_train"] == tried["n_train"].max()]
        lrs = [float(tried.groupby("lr")["val_miou"].mean().fillna(-1.0).idxmax())]
    key = fingerprint(setup.key, start.key, arm, lrs, seed, train.tolist())
    if _is_done(folder, key):
        return folder, seen
    jobs = [Job(TASK, setup.network, arm, "full", len(train), seed, -1, lr) for lr in lrs]
    files = {job: folder / f"{job.name}.tuned.safetensors" for job in jobs}
    scores: dict[Job, float] = {}
    for job, file in files.items():
        result = run.run(
            job, data, run.Split(train, held, held, train), setup.config, start, setup.recipe,
            Augmentation(), compute.device(), keep=file,
        )  # fmt: skip
        scores[job] = float(np.nan_to_num(result["run"]["best_val_miou"], nan=-1.0))
    best = max(jobs, key=scores.__getitem__)
    net = run.restored(files[best], best, setup.config, len(data.classes), start)
    weights.save(net, folder, networks.config_of(net))
    chosen = {"masks": len(train), "lr": best.lr, "valid_miou": scores[best]}
    predict.save_note(folder, data.classes, data.images.shape[-1], arm=arm, **chosen)
    for file in files.values():
        file.unlink()
    _finish(folder, key)
    return folder, seen
