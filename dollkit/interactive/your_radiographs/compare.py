"""Starts compared on held-out films of one's own, and the network to predict with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common import compute
from dollkit.common.arm_names import ARMS
from dollkit.common.errors import InputError
from dollkit.finetuning import grid, run
from dollkit.finetuning import starts as starting
from dollkit.finetuning.run import Films, Job, Parts, Start
from dollkit.interactive.your_radiographs import predict
from dollkit.interactive.your_radiographs.steps import (
    DEPTH,
    begin,
    code_of,
    encoder_of,
    finish,
    is_done,
)
from dollkit.labels.make import fingerprint
from dollkit.training import networks, weights
from dollkit.training.augment import Augmentation
from dollkit.training.recipe import Recipe

TASK = "own"
STARTS = tuple(arm for arm in ARMS if arm not in ("imagenet", "truth"))
"""Starts that need nothing but films and findings."""

LEAST = 6
"""Patients with masks below which none can be held out: a paired test of five has no p < 0.05."""


@dataclass(frozen=True)
class Setup:
    """What the comparison and the final network share."""

    data: Films
    starts: Mapping[str, Start]
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


def check_masks(films: pd.DataFrame, compare: bool, n_valid: int) -> str:
    """Whether there are masks enough, before anything is computed.

    Args:
        films: table of the films with masks.
        compare: whether some are to be held out to judge on.
        n_valid: films that choose rate and step.

    Returns:
        One sentence on what the comparison can be expected to tell.
    """
    patients = films["patient_id"].nunique()
    if not compare:
        if patients < 2:
            raise InputError(
                f"masks of {patients} patient: draw masks of at least 2, one to train on and one "
                "to choose the step by"
            )
        if _one_fold(films) and not {"train", "valid"} <= set(films["split"]):
            raise InputError(_parts_told(films, "train and valid"))
        return f"masks of {patients} patients, all to train with: nothing is held out to judge on"
    if patients < LEAST:
        raise InputError(
            f"masks of {patients} patients: too few to hold some out and compare starts ({LEAST} "
            "are the least, 20 and more can tell something): draw more, or set compare = False to "
            "fine-tune on all of them and only predict"
        )
    if n_valid < 1:
        raise InputError(f"parameter 'n_valid' is {n_valid}: rate and step need at least one film")
    for fold in sorted(films["fold"].unique()):
        try:
            run.split(films, int(fold), 1, n_valid, 0)
        except InputError:
            if _one_fold(films):
                raise InputError(_parts_told(films, "train, valid and test")) from None
            raise InputError(
                f"parameters 'n_valid' ({n_valid}) and 'folds' ({films['fold'].nunique()}): masks "
                f"of {len(films)} films of {patients} patients leave a fold without training or "
                "validation films: take a smaller 'n_valid' or other 'folds', or draw more masks"
            ) from None
    strength = (
        "only large effects will show"
        if patients < 20
        else "a moderate effect may show, a small one will not"
    )
    return f"masks of {len(films)} films of {patients} patients: {strength}"


def _one_fold(films: pd.DataFrame) -> bool:
    return films["fold"].nunique() == 1


def _parts_told(films: pd.DataFrame, wanted: str) -> str:
    kinds = films["split"].value_counts()
    there = ", ".join(f"{kind} {kinds.get(kind, 0)}" for kind in ("train", "valid", "test"))
    return (
        f"column 'split': films with masks are {there}: put some into each of {wanted}, or leave "
        'the column out (\'columns\': {"split": ""})'
    )


def check_starts(
    arms: Sequence[str], predict_with: str, lrs: Sequence[float], seeds: Sequence[int]
) -> None:
    """Whether the starts to compare and the one that draws go together, before anything starts."""
    for arm in arms:
        if arm not in STARTS:
            raise InputError(f"parameter 'arms' names {arm!r}: use some of {', '.join(STARTS)}")
    if predict_with not in arms:
        raise InputError(f"parameter 'predict_with' is {predict_with!r}: list it in 'arms' too")
    if len(set(arms)) < len(arms):
        raise InputError(f"parameter 'arms' is {list(arms)}: each start once")
    grid.check(arms, {"full": (arms, lrs)}, {}, seeds, [0])


def setup(
    data: Films, arms: Sequence[str], folders: Mapping[str, Path], pretrained: Mapping[str, Path],
    network: str, recipe: Recipe, lrs: Sequence[float], n_valid: int, digest: str,
    depth: int = DEPTH,
) -> Setup:  # fmt: skip
    """Starts and settings of all fine-tuning runs.

    Args:
        digest: of the store of films with masks.
    """
    first = encoder_of(folders)
    config = {"encoder": first["architecture"], "depth": depth, "activation": first["activation"]}
    own = {first["architecture"]: folders[first["name"]]}
    starts = starting.starts(arms, own, pretrained, network, config)
    about = {k: v for k, v in vars(recipe).items() if k not in ("lr", "seed")}
    key = fingerprint(digest, network, config, about, n_valid, code_of("finetune"))
    return Setup(data, starts, network, config, recipe, lrs, n_valid, key)


def compare(
    of: Setup, folder: Path, sizes: Sequence[int], seeds: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """Fine-tune every start with several numbers of masks and judge on held-out patients.

    The verdict is about all masks that every fold can train on; `sizes` are further points of
    the learning curve. Rates and steps are chosen on validation films (see
    `dollkit.finetuning.grid`).

    Returns:
        Frames ``cases``, ``curves``, ``selection``, ``runs``; written to `folder` too.
    """
    films, folds = of.data.films, of.folds
    most = min(len(run.split(films, f, 0, of.n_valid, 0).pool) for f in folds)
    fewer = [n for n in grid.sizes_of(sizes, most, films, folds, of.n_valid) if n < most]
    arms = list(of.starts)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = grid.Grid(
        TASK, of.network, of.config, of.data, of.starts, {"full": (arms, of.lrs)}, of.recipe,
        Augmentation(), most, of.n_valid, list(seeds), folds, folder, of.key, compute.device(),
        sizes=dict.fromkeys(fewer, arms),
    )  # fmt: skip
    frames = grid.execute(jobs)
    grid.write(folder, frames)
    return frames


def rate_of(selection: pd.DataFrame, arm: str) -> float:
    """The rate with the best validation mIoU over the folds, with the most masks."""
    own = selection[(selection["arm"] == arm) & (selection["tuning"] == "full")]
    own = own[own["n_train"] == own["n_train"].max()]
    means = own.groupby("lr")["val_miou"].mean().fillna(-1.0)
    return float(means.idxmax())


def final(
    of: Setup, folder: Path, arm: str, selection: pd.DataFrame | None, seed: int
) -> tuple[Path, list[str]]:
    """The network to predict with: `arm`, fine-tuned on all masks but those that choose the step.

    Args:
        folder: gets the network.
        arm: a start of `of`.
        selection: from `compare`, which has found the rate; None: it is found here, on the
            validation films.
        seed: of batch order and augmentation.

    Returns:
        `folder`; and the ids of the films whose masks it saw.
    """
    if arm not in of.starts:
        raise InputError(f"parameter 'predict_with' is {arm!r}: use one of {', '.join(of.starts)}")
    parts = _all(of)
    seen = of.data.films["image_id"].to_numpy()[np.concatenate([parts.train, parts.valid])]
    lrs = list(of.lrs) if selection is None else [rate_of(selection, arm)]
    start = of.starts[arm]
    key = fingerprint(of.key, start.key, arm, lrs, seed, parts.train.tolist())
    if is_done(folder, key):
        return folder, seen.tolist()
    begin(folder)
    best: tuple[float, Job] | None = None
    for lr in lrs:
        job = Job(TASK, of.network, arm, "full", len(parts.train), seed, -1, lr)
        made = run.run(
            job, of.data, parts, of.config, start, of.recipe, Augmentation(), compute.device(),
            keep=_kept(folder, job),
        )  # fmt: skip
        score = float(np.nan_to_num(made["run"]["best_val_miou"], nan=-1.0))
        if best is None or score > best[0]:
            best = (score, job)
    assert best is not None
    classes = of.data.classes
    net = run.restored(_kept(folder, best[1]), best[1], of.config, len(classes), start)
    weights.save(net, folder, networks.config_of(net))
    predict.save_note(
        folder, classes, of.data.images.shape[-1], arm=arm, masks=len(parts.train), lr=best[1].lr
    )
    for path in folder.glob("*.tuned.safetensors"):
        path.unlink()
    finish(folder, key, valid_miou=best[0])
    return folder, seen.tolist()


def _kept(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.tuned.safetensors"


def _all(of: Setup) -> Parts:
    """Every film with masks to train on, but the validation films of the first fold."""
    films = of.data.films
    if len(of.folds) > 1:
        parts = run.split(films, of.folds[0], 0, of.n_valid, 0)
        rest = np.setdiff1d(np.arange(len(films)), parts.valid)
        return replace(parts, train=rest, test=parts.valid, pool=rest)
    kind = films["split"].to_numpy()
    held = np.flatnonzero(kind == "valid")
    if not len(held):
        raise InputError(_parts_told(films, "train and valid"))
    rest = np.flatnonzero(kind != "valid")
    return Parts(rest, held, held, rest)
