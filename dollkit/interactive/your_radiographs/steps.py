"""The steps of the paper on one's own films: the stages' functions, each kept once it is done.

A step writes ``done.json`` last, with a fingerprint of its settings, its inputs and the modules
that the stage of the same name depends on. Called again with the same, it returns what is there; a
killed one goes on from its checkpoint, shard or job.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dollkit import pretraining
from dollkit.classifiers import model as classifiers
from dollkit.classifiers.model import load_classifier, load_classifiers
from dollkit.common import compute, paths
from dollkit.common.arm_names import PRETRAINED
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store
from dollkit.explanations.ensemble import Explain
from dollkit.interactive.your_radiographs.read import Own
from dollkit.labels import Distil, make, threshold_rules
from dollkit.labels.make import fingerprint, make_labels, rows_to_label
from dollkit.labels.store import LabelStore
from dollkit.training import networks, weights
from dollkit.training.augment import Augmentation
from dollkit.training.recipe import Recipe
from dollkit.workflow.stage import make_writable
from dollkit.workflow.stages import STAGES, files_of

log = logging.getLogger(__name__)
DONE = "done.json"
DEPTH = 3
"""Encoder stages of a PSPNet: stride 8."""


@cache
def code_of(family: str) -> str:
    """Fingerprint of the modules that a stage of the pipeline depends on, and of those here that
    do as its notebook does."""
    state = hashlib.sha256()
    here = Path(__file__)
    for path in (*files_of(STAGES[family]), here, here.with_name("compare.py")):
        state.update(sha256(path).encode())
    return state.hexdigest()[:16]


def work_folder(run: str) -> Path:
    """``runs/<run>``: everything that is made from the films stays below it."""
    if not re.fullmatch(r"\w[\w.+-]*", run) or (paths.PARAMS / f"{run}.yaml").is_file():
        raise InputError(f"parameter 'run' is {run!r}: use a name of letters, no profile's")
    make_writable(paths.runs() / run)
    return paths.runs() / run


def numbers(name: str, given: Mapping[str, int], known: Sequence[str]) -> dict[str, int]:
    """A parameter that holds several numbers, each one there and above zero."""
    for key in (*known, *given):
        if key not in given or key not in known or given[key] < 1:
            raise InputError(
                f"parameter {name!r} is {dict(given)}: give {', '.join(known)}, each 1 or more"
            )
    return dict(given)


def is_done(folder: Path, key: str) -> bool:
    """Whether a step was finished there under this key and its files are there; the log says so."""
    try:
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        whole = done["key"] == key and all((folder / name).is_file() for name in done["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if whole:
        log.info("%s: kept, nothing that makes it has changed", folder)
    return bool(whole)


def begin(folder: Path) -> None:
    """Make a step's folder; whatever was done there no longer counts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DONE).unlink(missing_ok=True)


def finish(folder: Path, key: str, **more: Any) -> None:
    """Note that a step is done, and which files it left."""
    files = sorted(f.name for f in folder.iterdir() if f.is_file() and f.name != DONE)
    text = json.dumps({"key": key, "files": files, **more}, indent=1)
    (folder / DONE).write_text(text + "\n", encoding="utf-8")


def stores(own: Own, folder: Path, size: int) -> tuple[Store, Store]:
    """Packed stores of the films with findings and of the films with masks."""
    if size < 32 or size % 32:
        raise InputError(f"parameter 'size' is {size}: use a multiple of 32")
    films, task = (
        open_store(build_store(table, folder / name, size))
        for name, table in (("films", own.films), ("masked", own.task))
    )
    return films, task


def train_classifiers(
    store: Store, folder: Path, architectures: Sequence[str], recipe: Recipe, activation: str
) -> dict[str, Path]:
    """Train a classifier of each architecture (notebook 02), with its AUROC on held-out patients.

    Returns:
        Folder of each, with ``weights.safetensors``, ``model.json``, ``history.csv`` and, if films
        of split ``test`` have findings, ``metrics.csv``.
    """
    if not architectures:
        raise InputError("parameter 'architectures' is empty: name at least one")
    out = {}
    for name in architectures:
        out[name] = place = folder / name
        key = fingerprint(store.digest, name, activation, vars(recipe), code_of("classifiers"))
        if is_done(place, key):
            continue
        begin(place)
        model = classifiers.create(name, 5, activation, "lse", recipe.seed, compute.device())
        classifiers.train(model, store, "U-Ones", recipe, Augmentation(), place, key=key)
        weights.save(model, place, model.config)
        (place / "metrics.csv").unlink(missing_ok=True)
        if (store.films["split"] == "test").any():
            table = classifiers.evaluate(model, store, "test", precision=recipe.precision)
            table.to_csv(place / "metrics.csv", index=False)
        finish(place, key)
    return out


def given_classifiers(folder: Path, first: str = "") -> dict[str, Path]:
    """Trained classifiers below a folder, as ``runs/laptop/classifiers`` holds them.

    Args:
        folder: of one classifier, or of several such folders.
        first: the one whose backbone the networks take, if it is there.
    """
    found = make.find_classifiers([folder])
    for one in found.values():
        load_classifier(one, torch.device("cpu"))
    order = sorted(found, key=lambda name: name != first)  # stable: the others stay as they are
    return {name: found[name] for name in order}


def judge_given(
    store: Store, folders: Mapping[str, Path], folder: Path, precision: str = "float32"
) -> pd.DataFrame:
    """AUROC of classifiers given trained on the films to learn from (split ``train``).

    They are new to those classifiers, unless these were trained on the very same films.
    """
    for name, one in folders.items():
        place = folder / name
        digest = sha256(one / weights.FILE)
        key = fingerprint(store.digest, digest, precision, code_of("classifiers"))
        if not is_done(place, key):
            begin(place)
            model = load_classifier(one, compute.device())
            table = classifiers.evaluate(model, store, "train", precision=precision)
            table.assign(classifier=name).to_csv(place / "metrics.csv", index=False)
            finish(place, key)
    return aurocs({name: folder / name for name in folders})


def aurocs(folders: Mapping[str, Path]) -> pd.DataFrame:
    """``metrics.csv`` of the classifiers that have one, below each other; may be empty."""
    files = [f / "metrics.csv" for f in folders.values() if (f / "metrics.csv").is_file()]
    tables = [t for t in map(pd.read_csv, files) if len(t)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def label(
    store: Store, folders: Mapping[str, Path], folder: Path, *, n_label: int, n_hold: int,
    threshold: str = "otsu", most_steps: int = 54, precision: str = "float32",
) -> LabelStore:  # fmt: skip
    """DoLL labels of films of splits ``train`` and ``valid`` (notebook 03)."""
    how = Explain(most_steps=most_steps, precision=precision, unsettled="keep")
    cut: dict[str, Any] = dict(threshold_rules.settings(threshold))
    settings = Distil(**cut)
    models = load_classifiers(folders, compute.device())
    hashes = {name: sha256(f / weights.FILE) for name, f in folders.items()}
    rows = rows_to_label(store, n_label, n_hold)
    folder.mkdir(parents=True, exist_ok=True)
    return make_labels(models, store, rows, how, settings, folder, hashes)


def pretrain(
    arms: Sequence[str], store: Store, labels: LabelStore, folders: Mapping[str, Path],
    folder: Path, network: str, *, steps: int, precision: str, batch: int = 16, seed: int = 0,
    depth: int = DEPTH,
) -> dict[str, Path]:  # fmt: skip
    """Pre-train the network of each arm that needs it (notebook 04), on the first encoder.

    Returns:
        Folder of each pre-trained arm.
    """
    how = pretraining.settings("modern")
    recipe = pretraining.recipe(how, steps, batch, max(1, steps // 4), precision, seed)
    where, config = compute.device(), encoder_of(folders)
    train, held = pretraining.parts(store, labels)
    out = {}
    for arm in (a for a in arms if a in PRETRAINED):
        out[arm] = place = folder / f"{network}-{arm}"
        hashes = {name: sha256(f / weights.FILE) for name, f in folders.items()}
        about = [labels.meta["sha256"], hashes, vars(recipe), vars(how), code_of("pretrain")]
        key = fingerprint(store.digest, network, depth, config, arm, *about)
        if is_done(place, key):
            continue
        begin(place)
        taught = pretraining.labels_of(arm, store, labels, folders, place / "labels", where)
        targets = pretraining.targets_of(arm, store, taught, seed)
        start = {config["architecture"]: folders[config["name"]]}
        net = pretraining.network(
            network, config["architecture"], depth, config["activation"], "classifier", start,
            seed, where,
        )  # fmt: skip
        pretraining.pretrain(
            net, store, train, held, targets, recipe, background=how.background, dice=how.dice,
            augmentation=Augmentation(), folder=place, label=f"pretrain {arm}", key=key,
        )  # fmt: skip
        weights.save(net, place, networks.config_of(net))
        finish(place, key)
    return out


def encoder_of(folders: Mapping[str, Path]) -> dict[str, str]:
    """Name, architecture and activation of the first classifier: its backbone is the network's."""
    name, folder = next(iter(folders.items()))
    made, _ = weights.read(folder)
    return {"name": name} | {k: str(made[k]) for k in ("architecture", "activation")}
