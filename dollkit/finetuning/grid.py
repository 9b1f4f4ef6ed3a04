"""The grid of fine-tuning runs of one task: every arm and tuning, each with its own learning rate.

Jobs are independent, write one small file when done, and are skipped when that file exists: a
killed stage goes on where it stopped. Learning rates are chosen on validation films, with the
same grid, steps and seed for every arm; a run's test counts are read only if its rate was chosen.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.common.errors import InputError
from dollkit.common.shares import Part
from dollkit.data import store
from dollkit.finetuning import robustness
from dollkit.finetuning import run as tuned
from dollkit.finetuning.run import Films, Job, Start, run, split
from dollkit.finetuning.settings import Tunings, cells_of
from dollkit.training import adapters, metrics
from dollkit.training.augment import Augmentation
from dollkit.training.recipe import Recipe

log = logging.getLogger(__name__)

NETWORKS = "networks"
NO_MATTER = (
    "n_examples", "arms", "tunings", "lrs", "imagenet_weights", "seeds", "folds", "sizes",
    "size_arms", "n_train", "robustness", "classifiers", "pretrain",
)  # fmt: skip
"""Parameters and inputs of notebook 05 that say which jobs there are, and nothing about any one
of them but what is in the job's name, its start's key or `_changes`."""
ARRAYS = ("counts", "robust", "prediction")
"""What a job's file holds beside its text, see `finetuning.run`."""


@dataclass
class Grid:
    """Everything a task's jobs share.

    Attributes:
        tunings: tuning to its arms and its learning-rate grid, see `cells.tunings_of`.
        recipe: steps, batch and the rest; rate and seed come from the job.
        starts: arm to `Start`.
        folder: gets ``jobs/`` and ``networks/``, what each arm and tuning trained with the first
            seed and fold and `n_train` films (one file each; `tuned.restored` reads it).
        key: fingerprint of data, weights and settings; jobs made under another key run again.
        rank: of the updates under tuning ``lora``.
        sizes: other numbers of training films to the arms that are tuned in full with them.
        changes: perturbations of the test films, counted for what is tuned in full with
            `n_train` films; see `robustness.PERTURBATIONS`.
    """

    task: str
    network: str
    config: Mapping[str, Any]
    data: Films
    starts: Mapping[str, Start]
    tunings: Tunings
    recipe: Recipe
    augmentation: Augmentation
    n_train: int
    n_valid: int
    seeds: Sequence[int]
    folds: Sequence[int]
    folder: Path
    key: str
    where: torch.device
    rank: int = adapters.RANK
    sizes: Mapping[int, Sequence[str]] = field(default_factory=dict)
    changes: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        robustness.cells(self.changes)
        check(list(self.starts), self.tunings, self.sizes, self.seeds, self.folds)
        if len(self.folds) > 1 and self.data.films["fold"].nunique() < 2:
            raise InputError(
                f"parameter 'folds' is {list(self.folds)}: these films have a split of their own "
                "and no folds; use [0]"
            )
        for fold in self.folds:
            held = len(split(self.data.films, fold, 0, self.n_valid, 0).valid)
            if held < self.n_valid:
                log.info("%s, fold %d: %d validation films, 'n_valid' is %d", self.task, fold, held,
                         self.n_valid)  # fmt: skip
        for seed in self.seeds:
            for fold in self.folds:  # too few films is an error before any run starts
                for n_train in (self.n_train, *self.sizes):
                    split(self.data.films, fold, n_train, self.n_valid, seed)


def check(
    arms: Sequence[str], tunings: Tunings, sizes: Mapping[int, Sequence[str]],
    seeds: Sequence[int], folds: Sequence[int],
) -> None:  # fmt: skip
    """Whether the parameters of a grid go together, before there is anything to run.

    Args:
        arms: starts that there will be; the others as for `Grid`.
    """
    uses = [("tunings", own, f" under {tuning!r}") for tuning, (own, _) in tunings.items()]
    uses += [("size_arms", own, "") for own in sizes.values()]
    for parameter, own, where in uses:
        _once(parameter, own)
        for arm in own:
            if arm not in arms:
                raise InputError(
                    f"parameter {parameter!r} names {arm!r}{where}: list it in 'arms' too"
                )
    for tuning, (own, lrs) in tunings.items():
        _once("lrs", lrs)
        if own and not lrs:
            raise InputError(f"parameter 'lrs' has no rate for {tuning!r}: give at least one")
    if any(sizes.values()) and "full" not in tunings:
        raise InputError("parameter 'size_arms' is given, but 'arms' is empty: give both")
    for name, values in (("seeds", seeds), ("folds", folds)):
        if not values:
            raise InputError(f"parameter {name!r} is empty: give at least one")
        _once(name, values)


def _once(parameter: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise InputError(f"parameter {parameter!r} has {list(values)}: each one once")


def execute(grid: Grid, part: Part | None = None) -> dict[str, pd.DataFrame]:
    """Run selection and final jobs of every arm, tuning and fold that can run.

    Selection trains the first seed at every rate of the grid and takes the best validation mIoU;
    the final runs repeat the chosen rate over all seeds (the first seed's run is the same run).

    Args:
        part: share of this process: its settings' jobs are run and left in files.

    Returns:
        Frames ``cases``, ``curves``, ``selection``, ``runs`` and, with perturbations, ``robust``.

    Raises:
        Done: after a part.
    """
    for name in ("jobs", NETWORKS):
        (grid.folder / name).mkdir(parents=True, exist_ok=True)
    every = cells_of(grid.tunings, grid.n_train, grid.sizes)
    cells = [(c, fold) for c in every if not grid.starts[c.arm].reason for fold in grid.folds]
    if not cells:
        raise InputError("parameter 'arms': none of the arms can run")
    if part is not None:
        cells = [cell for number, cell in enumerate(cells) if part.takes(number)]
    total = sum(len(cell.lrs) + len(grid.seeds) for cell, _ in cells)
    bar = tqdm(total=total, desc=f"fine-tune {grid.task}", unit="run", disable=None)
    names = ("cases", "curves", "selection", "runs", *(("robust",) if grid.changes else ()))
    frames: dict[str, list[pd.DataFrame]] = {k: [] for k in names}
    memory = {cell.tuning: _memory(grid, cell.tuning) for cell, _ in cells}
    chosen: set[str] = set()
    for number, (cell, fold) in enumerate(cells):
        arm, tuning, n_train, lrs = cell
        first = grid.seeds[0]
        jobs = [Job(grid.task, grid.network, arm, tuning, n_train, first, fold, lr) for lr in lrs]
        scores = []
        for job in jobs:
            try:
                scores.append(_job(grid, job)["run"]["best_val_miou"])
            except FloatingPointError as error:  # a rate too high for any result
                log.warning("%s: %s, so that this rate is not chosen", job.name, error)
                scores.append(np.nan)
            bar.update()
        # NaN: nothing to judge by. Overlaps are not negative.
        best = jobs[int(np.argmax(np.nan_to_num(scores, nan=-1.0)))]
        _keep(grid, jobs, best)
        chosen.add(best.name)
        if len(lrs) > 1 and best.lr in (min(lrs), max(lrs)):
            log.info("%s: rate %g is the last of its grid", best.name, best.lr)
        frames["selection"].append(
            pd.DataFrame(
                [
                    {**asdict(j), "steps": grid.recipe.steps, "val_miou": s, "selected": j is best}
                    for j, s in zip(jobs, scores, strict=True)
                ]
            )
        )
        held = len(split(grid.data.films, fold, n_train, grid.n_valid, first).valid)
        own = {"memory_mb": memory[tuning], "n_valid": held}
        for seed in grid.seeds:
            job = replace(best, seed=seed)
            result = _job(grid, job)
            frames["curves"].append(pd.DataFrame(result["curve"]).assign(**asdict(job)))
            frames["runs"].append(pd.DataFrame([{**asdict(job), **result["run"], **own}]))
            frames["cases"].append(_cases(grid, job, result["counts"]))
            if changes := _changes(grid, job):
                found = robustness.frame(frames["cases"][-1], result["robust"], changes)
                frames["robust"].append(found)
            bar.update()
        mean = frames["runs"][-1]["best_val_miou"].iloc[0]
        log.info(
            "%s  %d / %d  %s %s, %d films, fold %d: lr %g, validation mIoU %.3f",
            grid.task, number + 1, len(cells), arm, tuning, n_train, fold, best.lr, mean,
        )  # fmt: skip
    bar.close()
    if part is not None:
        part.end()
    for path in (grid.folder / NETWORKS).iterdir():  # of settings that are no longer asked for
        if path.stem not in chosen:
            path.unlink()
    return {k: pd.concat(v, ignore_index=True) for k, v in frames.items()}


def _job(grid: Grid, job: Job) -> dict[str, Any]:
    """Result of a job, from its file if it is there."""
    path = grid.folder / "jobs" / f"{job.name}.npz"
    found = done(grid, job)
    if found is not None:
        return found
    parts = split(grid.data.films, job.fold, job.n_train, grid.n_valid, job.seed)
    result = run(
        job, grid.data, parts, grid.config, grid.starts[job.arm], grid.recipe, grid.augmentation,
        grid.where, grid.rank, _changes(grid, job),
        path.with_suffix(".safetensors") if _keeps(grid, job) else None,
    )  # fmt: skip
    text = json.dumps({"key": _key(grid, job), "curve": result["curve"], "run": result["run"]})
    part = path.with_suffix(".part.npz")
    np.savez(part, text=np.array(text), **{name: result[name] for name in ARRAYS})
    part.replace(path)
    return result


def _memory(grid: Grid, tuning: str) -> float:
    job = Job(grid.task, grid.network, "", tuning, grid.n_train, grid.seeds[0], grid.folds[0], 0.0)
    found = tuned.step_mb(job, grid.data, grid.config, grid.recipe, grid.where, grid.rank)
    return round(found, 3)


def _keeps(grid: Grid, job: Job) -> bool:
    first = (grid.n_train, grid.seeds[0], grid.folds[0])
    return (job.n_train, job.seed, job.fold) == first


def _keep(grid: Grid, jobs: Sequence[Job], best: Job) -> None:
    """Of a cell's first networks, the one with the chosen rate goes to ``networks/``."""
    if not _keeps(grid, best):
        return
    tried = [grid.folder / "jobs" / f"{job.name}.safetensors" for job in jobs]
    chosen = grid.folder / "jobs" / f"{best.name}.safetensors"
    target = grid.folder / NETWORKS / chosen.name
    if not chosen.is_file() and not target.is_file():  # the choice is another one than last time
        chosen.with_suffix(".npz").unlink()
        _job(grid, best)
    if chosen.is_file():
        chosen.replace(target)
    for path in tried:
        path.unlink(missing_ok=True)


def _changes(grid: Grid, job: Job) -> Mapping[str, Sequence[float]]:
    return grid.changes if job.tuning == "full" and job.n_train == grid.n_train else {}


def _key(grid: Grid, job: Job) -> str:
    return grid.key + grid.starts[job.arm].of(job.seed).key + json.dumps(_changes(grid, job))


def done(grid: Grid, job: Job) -> dict[str, Any] | None:
    """Result of a job (see `finetuning.run`) if it has been run as the grid asks for it."""
    try:
        z = store.read(grid.folder / "jobs" / f"{job.name}.npz")
        meta: dict[str, Any] = json.loads(str(z["text"]))
        if meta.pop("key") != _key(grid, job):
            return None
        return {**meta, **{name: z[name] for name in ARRAYS}}
    except (OSError, ValueError, KeyError):
        return None


def _cases(grid: Grid, job: Job, counts: npt.NDArray[np.int64]) -> pd.DataFrame:
    """One row per test film and class."""
    parts = split(grid.data.films, job.fold, job.n_train, grid.n_valid, job.seed)
    tp, fp, fn = (c.ravel() for c in counts)
    films = grid.data.films.iloc[parts.test]
    n, c = len(films), len(grid.data.classes)
    return pd.DataFrame(
        {
            "task": job.task, "network": job.network, "arm": job.arm, "tuning": job.tuning,
            "n_train": job.n_train, "seed": job.seed, "fold": job.fold,
            "image_id": np.repeat(films["image_id"].to_numpy(), c),
            "patient_id": np.repeat(films["patient_id"].to_numpy(), c),
            "class": np.tile(np.array(grid.data.classes), n),
            "tp": tp, "fp": fp, "fn": fn,
            "iou": metrics.iou(tp, fp, fn), "dice": metrics.dice(tp, fp, fn),
        }
    )  # fmt: skip


# What a grid of fine-tuning runs leaves: its files, and a first look.


def write(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write the frames of `execute`: cases and robust as .csv.gz, the others as .csv."""
    (folder / "robust.csv.gz").unlink(missing_ok=True)  # of an earlier run that had it
    for name, frame in frames.items():
        if name in ("cases", "robust"):
            # No time stamp inside: the same rows are the same bytes.
            how = {"method": "gzip", "mtime": 0}
            frame.to_csv(folder / f"{name}.csv.gz", index=False, compression=how)
        else:
            frame.to_csv(folder / f"{name}.csv", index=False)


def overview(cases: pd.DataFrame) -> pd.DataFrame:
    """Mean test IoU per tuning, size and arm (rows) and class (columns), and their mean."""
    per_class = cases.pivot_table(
        index=["tuning", "n_train", "arm"],
        columns="class",
        values="iou",
        aggfunc="mean",
        sort=False,
    )
    return per_class.assign(mIoU=per_class.mean(axis=1))


def examples(grid: Grid, runs: pd.DataFrame, tuning: str, limit: int) -> dict[str, Any]:
    """Predictions of every arm on the first test films of the first fold, for pictures.

    Args:
        runs: the frame from `execute`.
        tuning: which tuning to show, with `n_train` training films.
        limit: most films.

    Returns:
        task, network, image, image_id, truth (n, C, S, S) in {0, 1}, classes, arms,
        prediction (arms, n, C, S, S), iou (arms, n).
    """
    chosen = runs[
        (runs["tuning"] == tuning)
        & (runs["n_train"] == grid.n_train)
        & (runs["seed"] == grid.seeds[0])
        & (runs["fold"] == grid.folds[0])
    ]
    parts = split(grid.data.films, grid.folds[0], grid.n_train, grid.n_valid, grid.seeds[0])
    test = parts.test[:limit]
    fields = list(Job.__dataclass_fields__)
    drawn = []
    for row in chosen[fields].itertuples(index=False):
        job = Job(*row)
        found = done(grid, job)
        assert found is not None
        drawn.append(np.unpackbits(found["prediction"], axis=-1)[: len(test)])
    prediction = np.stack(drawn)
    target = grid.data.targets[test]
    overlap = metrics.iou(*metrics.counts(prediction, np.broadcast_to(target, prediction.shape)))
    known = np.isfinite(overlap)
    per_film = np.where(known, overlap, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return {
        "task": np.array(grid.task),
        "network": np.array(grid.network),
        "image": grid.data.images[test],
        "image_id": grid.data.films["image_id"].to_numpy()[test].astype("U"),
        "truth": (target == 1).astype(np.uint8),
        "classes": np.array(grid.data.classes, "U"),
        "arms": chosen["arm"].to_numpy().astype("U"),
        "prediction": prediction,
        "iou": per_film,
    }
