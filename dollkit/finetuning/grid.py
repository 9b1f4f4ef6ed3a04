"""The grid of fine-tuning runs of one task: every arm and tuning, each with its own learning rate.

Jobs are independent, write one small file when done, and are skipped when that file exists: a
killed stage goes on where it stopped. Learning rates are chosen on validation films, with the
same grid, steps and seed for every arm; a run's test counts are read only if its rate was chosen.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.common import TUNINGS, tuning_of
from dollkit.common.errors import InputError
from dollkit.common.machine import Part
from dollkit.data import store
from dollkit.finetuning import robustness
from dollkit.finetuning.run import Initialisation, Job, Split, TaskData, run, split, step_mb
from dollkit.training import adapters, metrics
from dollkit.training.augment import Augmentation
from dollkit.training.loss_and_optimiser import Recipe

log = logging.getLogger(__name__)

NETWORKS = "networks"
NO_MATTER = (
    "n_examples", "arms", "tunings", "lrs", "imagenet_weights", "seeds", "folds", "sizes",
    "size_arms", "n_train", "robustness", "classifiers", "pretrain",
)  # fmt: skip
"""Parameters and inputs of notebook 05 that say nothing about any one job but what is in its name,
its start's key or `Grid.changes_of`."""
ARRAYS = ("counts", "robust", "prediction")
"""What a job's file holds beside its text, see `finetuning.run`."""
OTHER = "other"  # learning rates of every tuning that has none of its own

Tunings = Mapping[str, tuple[Sequence[str], Sequence[float]]]
"""Tuning to its arms and its learning-rate grid, the same for each of them."""


class Setting(NamedTuple):
    """It chooses its rate among `lrs`, and is then run with every seed."""

    arm: str
    tuning: str
    n_train: int
    lrs: Sequence[float]


@dataclass
class Grid:
    """Everything a task's jobs share."""

    task: str
    network: str
    config: Mapping[str, Any]  # encoder, depth and activation of the network
    data: TaskData
    starts: Mapping[str, Initialisation]  # by arm
    tunings: Tunings
    recipe: Recipe  # rate and seed come from the job
    augmentation: Augmentation
    n_train: int
    n_valid: int
    seeds: Sequence[int]
    folds: Sequence[int]
    folder: Path  # gets jobs/ and networks/, what `run.restored` reads: one of each arm and tuning
    key: str  # fingerprint of data, weights and settings; jobs made under another one run again
    device: torch.device
    sizes: Mapping[int, Sequence[str]] = field(default_factory=dict)  # more numbers of films: arms
    changes: Mapping[str, Sequence[float]] = field(default_factory=dict)  # see `changes_of`

    def __post_init__(self) -> None:
        robustness.pairs_of(self.changes)
        check(list(self.starts), self.tunings, self.sizes, self.seeds, self.folds)
        for fold in self.folds:
            for n_train in (self.n_train, *self.sizes):  # too few films are an error at once
                self.split(fold, n_train, self.seeds[0])

    def split(self, fold: int, n_train: int, seed: int) -> Split:
        """The films of a run."""
        return split(self.data.films, fold, n_train, self.n_valid, seed)

    def first_job(self, tuning: str) -> Job:
        """A job of no arm: what a tuning trains and needs, whatever it starts from."""
        seed, fold = self.seeds[0], self.folds[0]
        return Job(self.task, self.network, "", tuning, self.n_train, seed, fold, 0.0)

    def changes_of(self, job: Job) -> Mapping[str, Sequence[float]]:
        """Perturbations that a job's test films are counted under (`robustness.KINDS`)."""
        return self.changes if job.tuning == "full" and job.n_train == self.n_train else {}

    def key_of(self, job: Job) -> str:
        """Fingerprint of all that decides a job and is not in its name."""
        start = self.starts[job.arm].of(job.seed).key
        return self.key + start + json.dumps(self.changes_of(job))

    def file_of(self, job: Job) -> Path:
        """Result of a job."""
        return self.folder / "jobs" / f"{job.name}.npz"

    def network_of(self, job: Job) -> Path | None:
        """What a job trained; None but for those among whose rates the first seed chooses."""
        kept = (job.n_train, job.seed, job.fold) == (self.n_train, self.seeds[0], self.folds[0])
        return self.folder / NETWORKS / f"{job.name}.safetensors" if kept else None


def tunings_of(
    arms: Sequence[str], tunings: Mapping[str, Sequence[str]], lrs: Mapping[str, Sequence[float]]
) -> Tunings:
    """Every tuning that has arms, with them and its learning rates, in `TUNINGS`' order; `arms`
    are tuned in full, those of `tunings` in other ways too.

    Rates of ``lora`` are those of ``lora16``, too, unless it has some of its own.
    """
    if "full" in tunings:
        raise InputError("parameter 'tunings' names 'full': name its arms in 'arms'")
    kinds = {name: tuning_of(name, "tunings") for name in ("full", *tunings)}
    if len({(kind, size or adapters.RANK) for kind, size in kinds.values()}) < len(kinds):
        raise InputError(f"parameter 'tunings' names one twice: {', '.join(tunings)}; 4 is default")
    for name in lrs.keys() - {OTHER}:
        tuning_of(name, "lrs")
    arms_of = {"full": arms, **tunings}
    out: dict[str, tuple[Sequence[str], Sequence[float]]] = {}
    for name in sorted(kinds, key=lambda name: (TUNINGS.index(kinds[name][0]), kinds[name][1])):
        rates = [lrs[key] for key in (name, kinds[name][0], OTHER) if key in lrs]
        if arms_of[name]:
            out[name] = arms_of[name], rates[0] if rates else ()
    return out


def sizes_of(
    sizes: Sequence[int], n_train: int, films: pd.DataFrame, folds: Sequence[int], n_valid: int
) -> list[int]:
    """Other numbers of training films than `n_train`, ascending, that every fold has (0: all)."""
    most = min(len(split(films, fold, 0, n_valid, 0).pool) for fold in folds)
    kept: set[int] = set()
    for size in sizes:
        if size < 0:
            raise InputError(f"parameter 'sizes' has {size}: use numbers of films, or 0 for all")
        if size > most:
            log.info("no run with %d training films: there are %d", size, most)
        else:
            kept.add(size or most)
    return sorted(kept - {n_train})


def settings_of(
    tunings: Tunings, n_train: int, sizes: Mapping[int, Sequence[str]]
) -> list[Setting]:
    """Every arm and tuning with `n_train` films, then the other sizes in full."""
    sized = [("full", size, arms, tunings["full"][1]) for size, arms in sizes.items() if arms]
    every = [(tuning, n_train, arms, lrs) for tuning, (arms, lrs) in tunings.items()] + sized
    return [Setting(arm, tuning, n, lrs) for tuning, n, arms, lrs in every for arm in arms]


def check(
    arms: Sequence[str], tunings: Tunings, sizes: Mapping[int, Sequence[str]],
    seeds: Sequence[int], folds: Sequence[int],
) -> None:  # fmt: skip
    """Whether the parameters of a grid go together, before there is anything to run."""
    used = [("size_arms", tuned, "") for tuned in sizes.values()]
    for tuning, (tuned, lrs) in tunings.items():
        used.append(("arms" if tuning == "full" else "tunings", tuned, f" under {tuning!r}"))
        if not lrs:
            raise InputError(f"parameter 'lrs' has no rate for {tuning!r}: give at least one")
    for parameter, tuned, place in used:
        if other := [arm for arm in tuned if arm not in arms]:
            raise InputError(f"parameter {parameter!r} names {other[0]!r}{place}: add it to 'arms'")
    if any(sizes.values()) and "full" not in tunings:
        raise InputError("parameter 'size_arms' is given, but 'arms' is empty: give both")
    lists: list[tuple[str, Sequence[object]]] = [("seeds", seeds), ("folds", folds)]
    lists += [("lrs", lrs) for _, lrs in tunings.values()]
    lists += [(parameter, tuned) for parameter, tuned, _ in used if tuned]
    for parameter, values in lists:
        if len(set(values)) < len(values) or not values:
            raise InputError(f"parameter {parameter!r} is {list(values)}: one or more, each once")


def execute(grid: Grid, part: Part | None = None) -> dict[str, pd.DataFrame]:
    """Run selection and final jobs of every arm, tuning and fold that can run.

    The first seed is trained at every rate, the others at that of the best validation mIoU. Frames
    ``cases``, ``curves``, ``selection``, ``runs`` and, with perturbations, ``robust`` come back;
    or, of the jobs of one `part`, their files alone and `PartDone`.
    """
    for name in ("jobs", NETWORKS):
        (grid.folder / name).mkdir(parents=True, exist_ok=True)
    pairs = [
        (setting, fold)
        for setting in settings_of(grid.tunings, grid.n_train, grid.sizes)
        if not grid.starts[setting.arm].reason
        for fold in grid.folds
    ]
    if not pairs:
        raise InputError("parameter 'arms': none of the arms can run")
    if part is not None:
        pairs = [pair for number, pair in enumerate(pairs) if part.takes(number)]
    total = sum(len(setting.lrs) + len(grid.seeds) for setting, _ in pairs)
    bar = tqdm(total=total, desc=f"fine-tune {grid.task}", unit="run", disable=None)
    frames: dict[str, list[pd.DataFrame]] = defaultdict(list)
    shared = grid.data, grid.config, grid.recipe, grid.device
    tunings = {setting.tuning for setting, _ in pairs}
    memory = {t: round(step_mb(grid.first_job(t), *shared), 3) for t in tunings}
    kept: set[Path | None] = set()
    for number, (setting, fold) in enumerate(pairs):
        best, selection = _choose_rate(grid, setting, fold, bar)
        kept.add(grid.network_of(best))
        frames["selection"].append(selection)
        held = len(grid.split(fold, setting.n_train, best.seed).valid)
        for seed in grid.seeds:
            job = replace(best, seed=seed)
            result, named = _result(grid, job), asdict(job)
            row = {**named, **result["run"], "memory_mb": memory[setting.tuning], "n_valid": held}
            cases = _cases(grid, job, result["counts"])
            frames["curves"].append(pd.DataFrame(result["curve"]).assign(**named))
            frames["runs"].append(pd.DataFrame([row]))
            frames["cases"].append(cases)
            if changes := grid.changes_of(job):
                frames["robust"].append(robustness.frame(cases, result["robust"], changes))
            bar.update()
        log.info(
            "%s  %d / %d  %s %s, %d films, fold %d: lr %g, validation mIoU %.3f", grid.task,
            number + 1, len(pairs), *setting[:3], fold, best.lr, row["best_val_miou"],
        )  # fmt: skip
    bar.close()
    if part is not None:
        part.end()
    for path in (grid.folder / NETWORKS).iterdir():
        if path not in kept:  # of another rate, or of a setting that is no longer asked for
            path.unlink()
    return {k: pd.concat(v, ignore_index=True) for k, v in frames.items()}


def _choose_rate(
    grid: Grid, setting: Setting, fold: int, bar: tqdm[Any]
) -> tuple[Job, pd.DataFrame]:
    """Job of the first seed with the best rate of a setting, and its rows of ``selection``."""
    common = grid.task, grid.network, *setting[:3], grid.seeds[0], fold
    jobs, scores = [Job(*common, lr) for lr in setting.lrs], []
    for job in jobs:
        try:
            scores.append(_result(grid, job)["run"]["best_val_miou"])
        except FloatingPointError as error:  # a rate too high for any result
            log.warning("%s: %s, so that this rate is not chosen", job.name, error)
            scores.append(np.nan)
        bar.update()
    # NaN: nothing to judge by. Overlaps are not negative.
    best = jobs[int(np.argmax(np.nan_to_num(scores, nan=-1.0)))]
    network = grid.network_of(best)
    if network is not None and not network.is_file():  # lost, or last time's choice was another
        grid.file_of(best).unlink()
        _result(grid, best)
    rows = [
        {**asdict(job), "steps": grid.recipe.steps, "val_miou": score, "selected": job is best}
        for job, score in zip(jobs, scores, strict=True)
    ]
    return best, pd.DataFrame(rows)


def _result(grid: Grid, job: Job) -> dict[str, Any]:
    """Result of a job (see `finetuning.run`), from its file if it was run as the grid asks."""
    path = grid.file_of(job)
    with contextlib.suppress(OSError, ValueError, KeyError):
        stored = store.read(path)
        text: dict[str, Any] = json.loads(str(stored["text"]))
        if text.pop("key") == grid.key_of(job):
            return {**text, **{name: stored[name] for name in ARRAYS}}
    result = run(
        job, grid.data, grid.split(job.fold, job.n_train, job.seed), grid.config,
        grid.starts[job.arm], grid.recipe, grid.augmentation, grid.device,
        grid.changes_of(job), grid.network_of(job),
    )  # fmt: skip
    text = {"key": grid.key_of(job), "curve": result["curve"], "run": result["run"]}
    part = path.with_suffix(".part.npz")
    np.savez(part, text=np.array(json.dumps(text)), **{name: result[name] for name in ARRAYS})
    part.replace(path)
    return result


def _cases(grid: Grid, job: Job, counts: npt.NDArray[np.int64]) -> pd.DataFrame:
    films = grid.data.films.iloc[grid.split(job.fold, job.n_train, job.seed).test]
    ids, classes = films[["image_id", "patient_id"]], np.array(grid.data.classes)
    cases: dict[str, Any] = {
        **{name: value for name, value in asdict(job).items() if name != "lr"},
        **{str(name): np.repeat(ids[name].to_numpy(), len(classes)) for name in ids},
        "class": np.tile(classes, len(ids)),
    }
    return robustness.scored(pd.DataFrame(cases), counts)


def write(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write the frames of `execute`: cases and robust as .csv.gz, the others as .csv."""
    (folder / "robust.csv.gz").unlink(missing_ok=True)  # of an earlier run that had it
    for name, frame in frames.items():
        file = folder / (f"{name}.csv.gz" if name in ("cases", "robust") else f"{name}.csv")
        # No time stamp inside: the same rows are the same bytes.
        frame.to_csv(file, index=False, compression={"method": "infer", "mtime": 0})


def examples(grid: Grid, runs: pd.DataFrame, tuning: str, limit: int) -> dict[str, Any]:
    """Predictions of every arm on the first test films of the first fold, for pictures.

    `runs` is of `execute`; shown are runs under `tuning` with `n_train` films. Arrays are image,
    image_id, truth (n, C, S, S) in {0, 1}, classes, arms, prediction (arms, n, C, S, S), iou (arms,
    n), task and network.
    """
    fold, seed = grid.folds[0], grid.seeds[0]
    first = {"tuning": tuning, "n_train": grid.n_train, "seed": seed, "fold": fold}
    chosen = runs[(runs[list(first)] == pd.Series(first)).all(axis=1)]
    test = grid.split(fold, grid.n_train, seed).test[:limit]
    jobs = [Job(*row) for row in chosen[list(Job.__dataclass_fields__)].itertuples(index=False)]
    packed = [_result(grid, job)["prediction"] for job in jobs]
    prediction = np.stack([np.unpackbits(bits, axis=-1)[: len(test)] for bits in packed])
    target = grid.data.targets[test]
    overlap = metrics.iou(*metrics.counts(prediction, np.broadcast_to(target, prediction.shape)))
    known = np.isfinite(overlap)
    per_film = np.where(known, overlap, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return {
        "task": np.array(grid.task), "network": np.array(grid.network),
        "image": grid.data.images[test],
        "image_id": grid.data.films["image_id"].to_numpy()[test].astype("U"),
        "truth": (target == 1).astype(np.uint8), "classes": np.array(grid.data.classes, "U"),
        "arms": chosen["arm"].to_numpy().astype("U"), "prediction": prediction, "iou": per_film,
    }  # fmt: skip
