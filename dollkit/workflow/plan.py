"""What a run would do and need (``make plan``): films, masks and positives counted, time estimated.

No picture is decoded and nothing is written. Time is pixels that pass through networks, at the
rate of the committed run of profile ``laptop``; docs/plan.md tells how far off that is.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit import data
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.common.machine import cores
from dollkit.data import PHANTOM
from dollkit.data.film_table import SPLITS, STORES, check_files, states_of
from dollkit.data.sets.phantom import CLASSES, PhantomPlan, phantom_films
from dollkit.finetuning import grid, run
from dollkit.training import published_weights
from dollkit.workflow import parameter_ranges, stage, stages

BASE = "figures/laptop/provenance.json"
"""The run that the rate comes from: it makes its own films, so its work is known."""
BASE_CORES = 2
NETWORK_MB = 70
"""Of a network that is trained: weights, two moments of AdamW, the best and the last weights."""

Params = Mapping[str, Any]
"""Parameters of one instance."""


@dataclass(frozen=True)
class Films:
    """One store to be: its table, and (films, classes) bool: which film has which mask."""

    source: str
    films: pd.DataFrame
    masks: pd.DataFrame

    @property
    def masked(self) -> pd.DataFrame:
        """Films with all their masks: those that a task can use."""
        kept = self.masks.all(axis=1).to_numpy() & (self.masks.shape[1] > 0)
        return self.films[kept].reset_index(drop=True)

    @property
    def positives(self) -> pd.DataFrame:
        """(films, 14) bool."""
        return pd.DataFrame(states_of(self.films) == POSITIVE, columns=list(FINDINGS))

    @property
    def to_label(self) -> Counter[str]:
        """Films with a positive finding, by split."""
        return Counter(self.films["split"][self.positives.any(axis=1).to_numpy()])


def stores_of(params: Params) -> dict[str, Films]:
    """Stores that a run with these parameters of notebook 01 will have."""
    source, asked = params["source"], params["stores"]
    out: dict[str, Films] = {}
    if source != data.PHANTOM:
        tables = data.read(
            source, params["data_dir"], params["valid_fraction"],
            skip_bad=params["skip_bad"], options=params["options"], stores=asked,
        )  # fmt: skip
        for store, table in tables.items():
            if not params["skip_bad"]:
                check_files(table)
            out[store] = Films(table.source, table.films, table.masks.notna())
    whole = PHANTOM in (source, params["fill_from"])
    rendered = {store for store in STORES if whole or asked.get(store) == PHANTOM}
    quotas = PhantomPlan(**{name: params[name] for name in PhantomPlan.__dataclass_fields__})
    for store in rendered - out.keys():
        films, _ = phantom_films(store, quotas, params["seed"])
        out[store] = Films(PHANTOM, films, pd.DataFrame(True, films.index, CLASSES[store]))
    return {store: out[store] for store in STORES if store in out}


def lines(profile: str, folder: Path | None) -> Iterator[str]:
    """Lines about a run; `InputError` at the first thing that it cannot work with."""
    plan = stages.plan(profile, folder)
    parameter_ranges.check_plan(plan)
    run: dict[str, dict[str, Any]] = {i.name: dict(i.parameters) for i in plan}
    yield f"profile {profile}, data: {folder or 'none, the phantom alone'}"
    stores = stores_of(run["data"])
    yield "Films (patients): training / validation / test"
    for name, store in stores.items():
        yield from _store_lines(name, store)
    yield from (f"  note: {note}" for note in _notes(run, stores))
    for name, params in run.items():
        if name.startswith("finetune/"):
            yield from _tuning_lines(name, params, stores)
    todo = [n for n in run if stage.read_manifest(paths.runs() / profile / n) is None]
    yield f"Stages: {len(todo)} of {len(run)} have not run yet"
    yield _time(run, todo, stores)
    yield _disk(run, stores)


def _three(films: pd.DataFrame) -> str:
    return " / ".join(f"{(films['split'] == split).sum():,}" for split in SPLITS)


def _store_lines(name: str, store: Films) -> Iterator[str]:
    films, patients = store.films, store.films["patient_id"].nunique()
    yield f"  {name}, from {store.source}: {len(films):,} ({patients:,}): {_three(films)}"
    if name != "films":
        yield f"    with all masks ({', '.join(map(str, store.masks))}): {_three(store.masked)}"
        return
    for finding, positive in store.positives.items():
        yield f"    {finding:<27} {_three(films[positive.to_numpy()])} positive"


def _notes(run: Mapping[str, Params], stores: Mapping[str, Films]) -> Iterator[str]:
    """What the run can do without; `InputError` for what stops it."""
    if "films" not in stores:
        raise InputError(
            "no data set gives films with findings: add CheXpert, NIH or one of your own to DATA, "
            "or say 'fill_from': phantom"
        )
    films, labels = stores["films"], run["labels"]
    split, positive, count = films.films["split"], films.positives, films.to_label
    if not count["train"] or not count["valid"] or not (split == "test").any():
        raise InputError(
            "films: training and validation need films with a positive finding, and the test "
            "split films: add films of more patients, or change 'valid_fraction'"
        )
    if count["train"] < labels["n_label"]:
        yield f"n_label is {labels['n_label']}: {count['train']} training films have a finding"
    for name, store in stores.items():
        if store.source == data.PHANTOM != run["data"]["stores"].get(name, run["data"]["source"]):
            yield f"{name} come from the phantom: no data set in the folder gives them"
    classes = [finding for finding in PATHOLOGIES if finding in films.masks]
    usable = (films.masks[classes].to_numpy() & positive[classes].to_numpy()).any(axis=1)
    judged = int((usable & (split == labels["judge_split"]).to_numpy()).sum())
    if not classes:
        yield "no masks of findings: labels are stored and not judged, claims say so"
    elif not judged:
        raise InputError(f"films: split {labels['judge_split']!r} has no mask to judge labels by")
    elif judged < labels["n_judge"]:
        yield f"n_judge is {labels['n_judge']}: {judged} films have a mask to judge by"


def _tuning_lines(name: str, params: dict[str, Any], stores: Mapping[str, Films]) -> Iterator[str]:
    """What a fine-tuning stage consists of; drops the sizes that it has too few masks for."""
    task = params["task"]
    if task not in stores:
        raise InputError(
            f"{name}: no data set gives films of task {task!r}: add one to DATA, say 'fill_from': "
            "phantom, or take the task out of the matrix"
        )
    table = stores[task].masked
    try:
        if len(params["folds"]) > 1 and table["fold"].nunique() < 2:
            raise InputError("parameter 'folds': these films have no folds, use [0]")
        sizes = params["n_train"], params["n_valid"]
        parts = [run.split(table, fold, *sizes, 0) for fold in params["folds"]]
    except InputError as error:
        raise InputError(
            f"{name}: {error}; or take the phantom's films: "
            f"'stores: {{{task}: {data.PHANTOM}}}' in section 'data' of the profile"
        ) from None
    most = min(len(part.pool) for part in parts)
    if lost := [size for size in params["sizes"] if size > most and params["size_arms"]]:
        yield f"  note: too few masks for sizes {lost}: left out"
    params["sizes"] = [size for size in params["sizes"] if size <= most]
    if "imagenet" in params["arms"] and params["imagenet_weights"] != published_weights.DOWNLOAD:
        try:
            published_weights.find(params["imagenet_weights"], params["encoder"])
        except published_weights.Unavailable as error:
            yield f"  note: arm imagenet is not run: {error}"
    yield f"{name}: {trainings(params)} trainings; {most} films with masks to train on"


def trainings(params: Params) -> int:
    """Training runs of a fine-tuning stage: each setting tries its rates, then the other seeds."""
    tried = grid.tunings_of(params["arms"], params["tunings"], params["lrs"])
    sizes: dict[int, Any] = dict.fromkeys(params["sizes"], params["size_arms"])
    settings = grid.settings_of(tried, params["n_train"], sizes)
    each = sum(len(setting.lrs) + len(params["seeds"]) - 1 for setting in settings)
    return each * len(params["folds"])


def work(run: Mapping[str, Params], names: Collection[str]) -> float:
    """Pixels that pass through networks in some stages of a run."""
    side, pixels = run["data"]["size"], 0.0
    models = sum(name.startswith("classifiers/") for name in run)
    for params in (run[name] for name in names):
        if "n_label" in params:
            films = params["n_label"] + params["n_hold"] + params["n_judge"]
            pixels += films * (params["steps"] or params["most_steps"]) * models * side**2
        elif "batch" in params:
            times = trainings(params) if "task" in params else params.get("repeats", 1)
            first = params.get("small") or side  # side of films in the first half of the steps
            pixels += times * params["steps"] * params["batch"] * (first**2 + side**2) / 2
    return pixels


def pixels_per_second() -> float:
    """Pixels per second and core in the base run, from its first stage's start to its last end."""
    record = json.loads((paths.ROOT / BASE).read_text(encoding="utf-8"))["stages"]
    starts = [datetime.fromisoformat(s["started"]).timestamp() for s in record.values()]
    ends = [at + s["seconds"] for at, s in zip(starts, record.values(), strict=True)]
    pixels = work({name: stage["parameters"] for name, stage in record.items()}, record)
    return float(pixels / (max(ends) - min(starts)) / BASE_CORES)


def _time(run: dict[str, dict[str, Any]], todo: list[str], stores: Mapping[str, Films]) -> str:
    run["labels"]["n_label"] = min(run["labels"]["n_label"], stores["films"].to_label["train"])
    seconds = work(run, todo) / pixels_per_second() / cores()
    time = f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
    return (
        f"Time: at most about {time} on {cores()} cores like the two of {BASE} with networks of "
        "that size; less with bfloat16 in the processor; a GPU was not measured"
    )


def _disk(run: Mapping[str, Params], stores: Mapping[str, Films]) -> str:
    side = run["data"]["size"]
    size = sum(len(s.films) * (1 + s.masks.shape[1] / 8) * side**2 for s in stores.values())
    for params in run.values():
        size += NETWORK_MB * 1e6 * params.get("repeats", 1) * ("batch" in params)
        if "task" in params:
            store = stores[params["task"]]
            tested = store.masks.loc[store.films["split"] == "test"]
            size += trainings(params) * tested.size * side**2 / 8  # predicted masks, a bit a pixel
    free = shutil.disk_usage(next(p for p in paths.runs().parents if p.is_dir())).free
    enough = "enough" if size < free else "NOT ENOUGH"
    return f"Disk: about {size / 1e6:,.0f} MB; free: {free / 1e6:,.0f} MB, {enough}"
