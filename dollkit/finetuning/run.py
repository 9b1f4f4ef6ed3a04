"""Fine-tuning: the films of a task, their split, and one training run (a *job*)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from dollkit.training.loss_and_optimiser import Batch, Recipe, batch_indices, weighted_bce_dice

Rows = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


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
        """What tells it from other jobs of its task and network; the stem of its file."""
        return f"{self.arm}-{self.tuning}-n{self.n_train}-s{self.seed}-f{self.fold}-lr{self.lr:g}"

    def made_by(self, start: Initialisation) -> str:
        """What the file of its tensors says of itself."""
        return f"{self.task} {self.network} {self.name} {start.of(self.seed).key}".strip()


@dataclass(frozen=True)
class TaskData:
    """A task's films in memory: (N, S, S) images, (N, C, S, S) targets in {0, 1, 255 = ignore}."""

    images: U8
    targets: U8
    films: pd.DataFrame
    classes: tuple[str, ...]


def load_films(store: Store) -> TaskData:
    """All films of a task store whose masks are known, in memory."""
    classes = list(store.mask_classes)
    if not classes:
        raise InputError(f"{store.path}: a task store needs masks and has none")
    rows = np.flatnonzero(store.mask_valid(np.arange(len(store.films)), classes).all(1))
    if not len(rows):
        raise InputError(f"{store.path}: no film has all of the masks {', '.join(classes)}")
    films = store.films.iloc[rows].reset_index(drop=True)
    return TaskData(store.images[rows], store.targets(rows, classes), films, tuple(classes))


@dataclass(frozen=True)
class Split:
    """Rows of `TaskData` for one seed and fold; `train` is drawn from `pool`."""

    train: Rows
    valid: Rows
    test: Rows
    pool: Rows


def split(films: pd.DataFrame, fold: int, n_train: int, n_valid: int, seed: int) -> Split:
    """Training, validation and test films; no patient is in two of them.

    With more than one fold the test part is fold `fold` and the other films are split by patient;
    else the table's split column rules. The training films are the first `n_train` of an order
    drawn from `seed`: the same for every arm, a smaller set inside a larger one. There are at most
    `n_valid` validation films, but where every patient has more.
    """
    if films["fold"].nunique() > 1:
        tested = np.flatnonzero(films["fold"].to_numpy() == fold)
        rest = np.setdiff1d(np.arange(len(films)), tested)
        patients = films["patient_id"].to_numpy()[rest]
        turned = np.random.default_rng(compute.derive(5, fold)).permutation(sorted(set(patients)))
        films_of = {patient: rest[patients == patient].tolist() for patient in turned}
        valid: list[int] = []
        for rows in films_of.values():
            if len(valid) + len(rows) <= n_valid:
                valid += rows
        if not valid and n_valid and len(films_of) > 1:  # each has more films than asked for
            valid = min(films_of.values(), key=len)
        held = np.array(sorted(valid), np.int64)
        pool = np.setdiff1d(rest, held)
    elif fold > 0:
        raise InputError(f"parameter 'folds' has {fold}: these films have a split of their own and "
                         "no folds; use [0]")  # fmt: skip
    else:
        pool, held, tested = (
            np.flatnonzero(films["split"] == name) for name in ("train", "valid", "test")
        )
        held = held[:n_valid]
    if len(pool) < n_train or not len(held) or not len(tested):
        raise InputError(
            f"parameter 'n_train' is {n_train}, 'n_valid' {n_valid}: fold {fold} has only "
            f"{len(pool)} training, {len(held)} validation and {len(tested)} test films"
        )
    drawn = np.random.default_rng(compute.derive(seed, 6, fold)).permutation(pool)
    return Split(drawn[:n_train], held, tested, pool)


@dataclass(frozen=True)
class Initialisation:
    """Where an arm's weights come from."""

    load: Callable[[nn.Module], list[str]] = lambda net: []
    """Copies them into a fresh network, and names the copied tensors."""
    reason: str = ""  # why the arm cannot run
    key: str = ""  # fingerprint of the weights
    note: str = ""  # what a reader should know of them
    others: tuple[Initialisation, ...] = ()  # the same arm, pre-trained again with other seeds

    def of(self, seed: int) -> Initialisation:
        """What a run with `seed` starts from: they are taken in turns."""
        every = (self, *self.others)
        return every[seed % len(every)]


def network(
    job: Job, config: Mapping[str, Any], classes: int, start: Initialisation
) -> tuple[nn.Module, list[str], list[str]]:
    """A network ready for the job, names of the tensors that its start brings, of those it trains;
    what the start does not bring is drawn from the job's seed, so arms differ in nothing else.
    """
    with compute.seeded(job.seed, 7):
        net = networks.build(job.network, classes=classes, **config)
        copied = start.of(job.seed).load(net)
        trained = adapters.prepare(net, job.tuning)
    return net, copied, trained


def run(
    job: Job, data: TaskData, parts: Split, config: Mapping[str, Any], start: Initialisation,
    recipe: Recipe, augmentation: Augmentation, device: torch.device,
    changes: Mapping[str, Sequence[float]] | None = None, keep: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one job; the tensors that were trained go to the file `keep`, see `restored`.

    The result: ``curve`` (history rows), ``run`` (one row for runs.csv), ``counts`` (3, test films,
    classes) of tp, fp, fn, ``robust``, the same of each of the K perturbations in `changes` (K, 3,
    films, classes), and ``prediction`` (test films, C, S, S / 8) bits.
    """
    recipe = replace(recipe, lr=job.lr, seed=job.seed)
    net, _, trained = network(job, config, len(data.classes), start)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if job.tuning == "full":  # batch-norm statistics move too
        trained = list(net.state_dict())
    frozen = {k: v.clone() for k, v in net.state_dict().items() if k not in trained}
    images = compute.to_input(data.images[parts.train], device)
    targets = torch.from_numpy(data.targets[parts.train]).to(device)
    held = compute.to_input(data.images[parts.valid], device)

    def sample(step: int) -> Batch:
        pick = batch_indices(len(images), recipe.batch, step, recipe.seed).to(device)
        rng = compute.generator(recipe.seed, 3, step)
        return augment(images[pick], targets[pick], augmentation, rng)  # type: ignore[return-value]

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return weighted_bce_dice(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> dict[str, float]:
        counts = metrics.counts(_predict(model, held), data.targets[parts.valid])
        return {"val_miou": metrics.mean_iou(metrics.iou(*counts))}

    done = fit(
        net, sample, loss, recipe, evaluate=evaluate, score="val_miou",
        train_mode=lambda net: net.train(job.tuning == "full"), label=job.name,
    )  # fmt: skip
    state = net.state_dict()
    for name, tensor in frozen.items():
        if not state[name].equal(tensor):
            raise AssertionError(f"{job.name}: {name} should have stayed as it was")
    trainable, total = networks.trainable(net)
    used = [name for name in trained if name not in networks.unused(net)]
    result: dict[str, Any] = {
        "curve": [{k: row[k] for k in ("step", "seconds", "val_miou")} for row in done.history],
        "run": {
            "steps": recipe.steps, "best_step": done.best_step,
            "best_val_miou": done.best_score if done.best_state else float("nan"),
            "trainable": trainable, "total": total, "seconds": done.seconds,
            "checkpoint_bytes": bytes_of(state[name] for name in used),
        },
    }  # fmt: skip
    if done.best_state:  # else no validation film has a pixel to judge by: the last state stands
        net.load_state_dict(done.best_state)
    net.eval()
    if keep is not None:
        weights.save_tuned(net, trained, job.tuning, keep, made_by=job.made_by(start))

    def predict(films: U8) -> U8:
        with torch.inference_mode(), compute.autocast(device, recipe.precision):
            return _predict(net, compute.to_input(films, device))

    films, truth = data.images[parts.test], data.targets[parts.test]
    drawn = predict(films)
    result["counts"] = np.stack(metrics.counts(drawn, truth))
    result["robust"] = robustness.judge(predict, films, truth, changes or {}, parts.test)
    result["prediction"] = np.packbits(drawn, axis=-1)
    return result


def _predict(net: nn.Module, x: torch.Tensor, batch: int = 64) -> U8:
    """Masks at probability one half: (n, 1, S, S) -> (n, C, S, S) uint8."""
    parts = [net(x[i : i + batch]) > 0 for i in range(0, len(x), batch)]
    return torch.cat(parts).to(torch.uint8).cpu().numpy()


def restored(
    path: Path, job: Job, config: Mapping[str, Any], classes: int, start: Initialisation
) -> nn.Module:
    """The network that a job trained, in eval mode: its start, and the file that `run` kept."""
    with compute.seeded(job.seed):
        net, _, _ = network(replace(job, tuning="full"), config, classes, start)
        weights.load_tuned(net, path, made_by=job.made_by(start))
    return net.eval()


def step_mb(
    job: Job, data: TaskData, config: Mapping[str, Any], recipe: Recipe, device: torch.device
) -> float:
    """Memory of one training step of a job, in MB of 2**20 bytes; NaN where it does not fit."""
    net, _, _ = network(job, config, len(data.classes), Initialisation())
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train(job.tuning == "full")
    picked = np.resize(np.arange(len(data.images)), recipe.batch)
    x = compute.to_input(data.images[picked], device)
    y = torch.from_numpy(data.targets[picked]).to(device)
    try:
        return tensors_of_step(net, lambda m: weighted_bce_dice(m(x), y), recipe) / 2**20
    except RuntimeError as error:
        if not compute.out_of_memory(error):
            raise
        return float("nan")


def tensors_of_step(
    net: nn.Module, loss: Callable[[nn.Module], torch.Tensor], recipe: Recipe
) -> int:
    """Bytes of the tensors that one training step holds: the same on every machine.

    Weights and buffers, gradients and optimiser state of what is trained, and every tensor kept for
    the backward pass (a storage counts once, and not if it is a weight).
    """
    weights = [*net.parameters(), *net.buffers()]
    addresses = {tensor.untyped_storage().data_ptr() for tensor in weights}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        bare = tensor.detach()  # with its history it would keep itself alive, for good
        address = tensor.untyped_storage().data_ptr()
        if address not in addresses:
            kept[address] = bare  # held on to, so that no later tensor gets the same address
        return bare

    device = next(net.parameters()).device
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, compute.autocast(device, recipe.precision):
        loss(net)
    trained = bytes_of(p for p in net.parameters() if p.requires_grad)
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return bytes_of(weights) + 3 * trained + held  # AdamW has two states


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes that tensors take."""
    return sum(t.nbytes for t in tensors)
