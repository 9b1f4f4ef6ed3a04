"""Fine-tuning: the films of a task, their parts, and one training run (a *job*)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.data.store import Store
from dollkit.finetuning import robustness
from dollkit.training import adapters, metrics, networks, weights
from dollkit.training.augment import Augmentation, augment
from dollkit.training.fit import fit
from dollkit.training.footprint import footprint
from dollkit.training.losses import weighted_bce_dice
from dollkit.training.recipe import Recipe, order

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """One training run."""

    task: str
    network: str
    arm: str
    tuning: str
    n_train: int
    seed: int
    fold: int
    lr: float

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.tuning}-n{self.n_train}-s{self.seed}-f{self.fold}-lr{self.lr:g}"

    def made_by(self, start: Start) -> str:
        """What the file of its tensors says of itself."""
        return f"{self.task} {self.network} {self.name} {start.of(self.seed).key}".strip()


@dataclass(frozen=True)
class Films:
    """A task's films in memory.

    Attributes:
        images: (N, S, S) uint8.
        targets: (N, C, S, S) uint8 in {0, 1, 255 = ignore}.
        films: their table.
        classes: C names.
    """

    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.uint8]
    films: pd.DataFrame
    classes: tuple[str, ...]

    @property
    def masks(self) -> npt.NDArray[np.uint8]:
        """Pixels inside: (N, C, S, S) uint8 in {0, 1}."""
        return np.asarray(self.targets == 1, np.uint8)


def load_films(store: Store) -> Films:
    """All films of a task store whose masks are known, in memory."""
    classes = list(store.mask_classes)
    rows = np.arange(len(store.films))
    if not classes:
        raise InputError(f"{store.path}: a task store needs masks and has none")
    rows = rows[store.mask_valid(rows, classes).all(1)]
    if not len(rows):
        raise InputError(f"{store.path}: no film has all of the masks {', '.join(classes)}")
    return Films(
        np.asarray(store.images[rows]),
        store.targets(rows, classes),
        store.films.iloc[rows].reset_index(drop=True),
        tuple(classes),
    )


@dataclass(frozen=True)
class Parts:
    """Rows of `Films` for one seed and fold; `train` is drawn from `pool`."""

    train: Rows
    valid: Rows
    test: Rows
    pool: Rows


def split(films: pd.DataFrame, fold: int, n_train: int, n_valid: int, seed: int) -> Parts:
    """Training, validation and test films; no patient is in two of them.

    With cross-validation (more than one fold) the test part is fold `fold` and the other films
    are split by patient; otherwise the table's own split column rules. The training films are
    the first `n_train` of an order drawn from `seed`: the same for every arm, and a smaller set
    lies inside a larger one. Test and validation films do not depend on the seed; of the latter
    there are at most `n_valid`, fewer where a data set has fewer or patients do not divide so;
    more only where every patient has more, who are not divided.
    """
    n_folds = films["fold"].nunique()
    if n_folds > 1:
        test = films["fold"].to_numpy() == fold
        rest = np.flatnonzero(~test)
        who = films["patient_id"].to_numpy()
        patients = np.array(sorted(set(who[rest])))
        turned = np.random.default_rng(compute.derive(5, fold)).permutation(patients)
        valid: list[int] = []
        for patient in turned:
            own = [int(r) for r in rest if who[r] == patient]
            if len(valid) + len(own) <= n_valid:
                valid += own
        if not valid and n_valid and len(patients) > 1:  # each has more films than asked for
            counts = [int((who[rest] == patient).sum()) for patient in turned]
            valid = rest[who[rest] == turned[int(np.argmin(counts))]].tolist()
        pool = np.array([r for r in rest if r not in set(valid)])
        tested, held = np.flatnonzero(test), np.array(sorted(valid), np.int64)
    else:
        kind = films["split"].to_numpy()
        pool = np.flatnonzero(kind == "train")
        held = np.flatnonzero(kind == "valid")[:n_valid]
        tested = np.flatnonzero(kind == "test")
    if len(pool) < n_train or not len(held) or not len(tested):
        raise InputError(
            f"parameter 'n_train' is {n_train}, 'n_valid' {n_valid}: fold {fold} has only "
            f"{len(pool)} training, {len(held)} validation and {len(tested)} test films"
        )
    drawn = np.random.default_rng(compute.derive(seed, 6, fold)).permutation(pool)
    return Parts(drawn[:n_train], held, tested, pool)


@dataclass(frozen=True)
class Start:
    """Where an arm's weights come from.

    Attributes:
        load: puts them into a fresh network, in place; returns the names of the copied tensors.
        reason: why the arm cannot run; empty if it can.
        key: fingerprint of weights that are no artefact of the run.
        note: what a reader should know of them.
        others: the same arm, pre-trained again with other seeds.
    """

    load: Callable[[nn.Module], list[str]]
    reason: str = ""
    key: str = ""
    note: str = ""
    others: tuple[Start, ...] = ()

    def of(self, seed: int) -> Start:
        """What a run with `seed` starts from: they are taken in turns."""
        every = (self, *self.others)
        return every[seed % len(every)]


def network(
    job: Job, config: Mapping[str, Any], classes: int, start: Start, rank: int = adapters.RANK
) -> tuple[nn.Module, list[str]]:
    """A network ready for the job, and the names of what it will train.

    Every tensor that the arm does not bring is drawn from the job's seed, so arms differ in
    nothing else.
    """
    with compute.seeded(job.seed, 7):
        net = networks.build(job.network, classes=classes, **config)
        start.of(job.seed).load(net)
        names = adapters.prepare(net, job.tuning, rank=rank)
    return net, names


def _state(net: nn.Module, but: Collection[str]) -> dict[str, torch.Tensor]:
    """Copies of parameters and buffers, some left out."""
    return {k: v.clone() for k, v in net.state_dict().items() if k not in but}


def run(
    job: Job, data: Films, parts: Parts, config: Mapping[str, Any], start: Start, recipe: Recipe,
    augmentation: Augmentation, where: torch.device, rank: int = adapters.RANK,
    changes: Mapping[str, Sequence[float]] | None = None, keep: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one job.

    Args:
        rank: of the updates under tuning ``lora``.
        changes: perturbations of the test films to count too, see `robustness.PERTURBATIONS`.
        keep: file for the tensors that were trained, see `tuned.restored`.

    Returns:
        ``curve`` (history rows), ``run`` (one row for runs.csv), ``counts`` (3, test films,
        classes) of tp, fp, fn, ``robust``, the same of each perturbation (K, 3, films, classes),
        and ``prediction`` (test films, C, S, S / 8) bits.
    """
    recipe = replace(recipe, lr=job.lr, seed=job.seed)
    net, names = network(job, config, len(data.classes), start, rank)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if names != [n for n, p in net.named_parameters() if p.requires_grad]:
        raise AssertionError("the set of trainable tensors changed")
    frozen = {} if job.tuning == "full" else _state(net, names)
    images = compute.to_input(data.images[parts.train], where)
    targets = torch.from_numpy(data.targets[parts.train]).to(where)
    held = compute.to_input(data.images[parts.valid], where)
    held_truth = data.targets[parts.valid]

    def sample(step: int) -> tuple[torch.Tensor, ...]:
        pick = order(len(images), recipe.batch, step, recipe.seed).to(where)
        rng = compute.generator(recipe.seed, 3, step)
        x, y = augment(images[pick], targets[pick], augmentation, rng)
        assert y is not None
        return x, y

    def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return weighted_bce_dice(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> dict[str, float]:
        drawn = _predict(model, held)
        return {"val_miou": metrics.mean_iou(metrics.iou(*metrics.counts(drawn, held_truth)))}

    done = fit(
        net, sample, loss, recipe, evaluate=evaluate, score="val_miou", quiet=True,
        set_mode=lambda m: adapters.train_mode(m, job.tuning), label=job.name,
    )  # fmt: skip
    moved = [k for k, v in _state(net, names).items() if k in frozen and not v.equal(frozen[k])]
    if moved:
        raise AssertionError(f"{job.name}: {moved[0]} should have stayed as it was")
    count, total = networks.trainable(net)
    kept = names if job.tuning != "full" else list(net.state_dict())
    state = net.state_dict()
    out: dict[str, Any] = {
        "curve": [
            {"step": r["step"], "seconds": r["seconds"], "val_miou": r["val_miou"]}
            for r in done.history
        ],
        "run": {
            "steps": recipe.steps, "best_step": done.best_step,
            "best_val_miou": done.best_score if done.best_state else float("nan"),
            "trainable": count, "total": total, "seconds": done.seconds,
            "checkpoint_bytes": sum(
                state[k].numel() * state[k].element_size()
                for k in kept
                if k not in networks.unused(net)
            ),
        },
    }  # fmt: skip
    if done.best_state:  # else no validation film has a pixel to judge by: the last state stands
        net.load_state_dict(done.best_state)
    net.eval()
    if keep is not None:
        weights.save_tuned(net, kept, job.tuning, keep, rank, made_by=job.made_by(start))

    def predict(films: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        with torch.inference_mode(), compute.autocast(where, recipe.precision):
            return _predict(net, compute.to_input(films, where))

    films, truth = data.images[parts.test], data.targets[parts.test]
    drawn = predict(films)
    out["counts"] = np.stack(metrics.counts(drawn, truth))
    out["robust"] = robustness.judge(predict, films, truth, changes or {}, parts.test)
    out["prediction"] = np.packbits(drawn, axis=-1)
    return out


def _predict(net: nn.Module, x: torch.Tensor, batch: int = 64) -> npt.NDArray[np.uint8]:
    """Masks at probability one half: (n, 1, S, S) -> (n, C, S, S) uint8."""
    parts = [net(x[i : i + batch]) > 0 for i in range(0, len(x), batch)]
    return torch.cat(parts).to(torch.uint8).cpu().numpy()


# What a job of fine-tuning needs in memory, and the network that it left.


def step_mb(
    job: Job, data: Films, config: Mapping[str, Any], recipe: Recipe, where: torch.device,
    rank: int = adapters.RANK,
) -> float:  # fmt: skip
    """Memory of one training step of a job, in MB; NaN where it does not fit.

    See `training.footprint`; it depends on the tuning and the batch, not on the start.
    """
    net, _ = network(job, config, len(data.classes), Start(lambda net: []), rank)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    picked = np.resize(np.arange(len(data.images)), recipe.batch)
    x = compute.to_input(data.images[picked], where)
    y = torch.from_numpy(data.targets[picked]).to(where)
    try:
        return footprint(
            net,
            lambda m: weighted_bce_dice(m(x), y),
            recipe,
            lambda m: adapters.train_mode(m, job.tuning),
        )
    except RuntimeError as error:
        if not compute.out_of_memory(error):
            raise
        return float("nan")


def restored(
    path: Path, job: Job, config: Mapping[str, Any], classes: int, start: Start
) -> nn.Module:
    """The network that a job trained, in eval mode: its start, and the file of what it trained.

    Args:
        path: a file that `run` kept; it holds the trained tensors alone.
        job, config, classes, start: as for `run`.
    """
    with compute.seeded(job.seed, 7):
        net = networks.build(job.network, classes=classes, **config)
        start.of(job.seed).load(net)
        weights.load_tuned(net, path, made_by=job.made_by(start))
    return net.eval()
