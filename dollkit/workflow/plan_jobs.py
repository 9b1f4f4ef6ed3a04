"""Which stages would run, and of how many training runs fine-tuning consists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.machine import Json, sha256
from dollkit.finetuning import grid, run
from dollkit.training import imagenet
from dollkit.workflow import stage, stages
from dollkit.workflow.plan_films import Films
from dollkit.workflow.stages import Instance


def stale(instances: Iterable[Instance], profile: str) -> dict[str, str]:
    """Why each instance would run; "" for one that is up to date.

    Told from manifests alone: parameters, our modules, inputs, and files that are gone. What
    Snakemake knows beside (a data folder that has changed, a notebook's text) is not seen here.

    Args:
        instances: of a plan, each after its inputs.
    """
    out: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for instance in instances:
        folder = paths.runs() / profile / instance.name
        manifest = stage.read_manifest(folder)
        late = next((i for i in instance.inputs if out.get(i)), "")
        if manifest is None:
            out[instance.name] = "has not run"
        elif late:
            out[instance.name] = f"{late} runs"
        elif manifest.get("parameters") != dict(instance.parameters):
            out[instance.name] = "parameters changed"
        elif any(manifest["inputs"].get(i) != hashes[i] for i in instance.inputs):
            out[instance.name] = "an input changed"
        elif _code(instance) != manifest["code"]["files"]:
            out[instance.name] = "a module changed"
        elif not all((folder / f).is_file() for f in manifest["outputs"]):
            out[instance.name] = "a file of it is gone"
        else:
            out[instance.name] = ""
            hashes[instance.name] = sha256(folder / stage.MANIFEST)
    return out


def _code(instance: Instance) -> dict[str, str]:
    """Hashes of our modules and tables, as in a manifest; not of the user's own files."""
    files = stages.files_of(instance.stage)
    return {os.path.relpath(f, paths.ROOT).replace(os.sep, "/"): sha256(f) for f in files}


def not_run(given: Mapping[str, Any]) -> dict[str, str]:
    """Arms of a fine-tuning stage that cannot run, and why."""
    weights = given["imagenet_weights"]
    if "imagenet" not in given["arms"]:
        return {}
    if not weights:
        return {"imagenet": f"{imagenet.NO_WEIGHTS}: name a file in 'imagenet_weights'"}
    if weights == imagenet.PACKAGED:
        try:
            imagenet.shipped(str(given["encoder"]))
        except imagenet.Unavailable as error:
            return {"imagenet": str(error)}
    return {}


def doubtful(given: Mapping[str, Any]) -> dict[str, str]:
    """Arms that may turn out not to run, which only trying can tell."""
    if "imagenet" in given["arms"] and given["imagenet_weights"] == imagenet.DOWNLOAD:
        return {"imagenet": "runs only if its weights can be downloaded; not tried here"}
    return {}


def runs_of(given: Mapping[str, Any], films: Films) -> list[tuple[grid.Cell, int, int]]:
    """Cells of a fine-tuning stage with their fold, and training runs of each.

    A cell tries every rate with the first seed and repeats the chosen one with the others, so it
    trains ``rates + seeds - 1`` times, which `grid` counts as ``rates + seeds``.
    """
    folds, seeds, n_valid = given["folds"], given["seeds"], given["n_valid"]
    table = films.masked
    if not len(table):
        raise InputError(
            f"no film of {films.source} has all of the masks {', '.join(films.classes) or '(none)'}"
        )
    if len(folds) > 1 and table["fold"].nunique() < 2:
        raise InputError(
            f"parameter 'folds' is {list(folds)}: these films have a split of their own and no "
            "folds; use [0]"
        )
    for fold in folds:
        run.split(table, fold, given["n_train"], n_valid, seeds[0])
    tried = grid.tunings_of(given["arms"], given["tunings"], given["lrs"])
    sizes: Sequence[int] = []
    if given["size_arms"]:
        sizes = grid.sizes_of(given["sizes"], given["n_train"], table, folds, n_valid)
    every = grid.cells_of(tried, given["n_train"], dict.fromkeys(sizes, given["size_arms"]))
    lost = not_run(given)
    found = [(c, f, len(c.lrs) + len(seeds) - 1) for c in every if c.arm not in lost for f in folds]
    if not found:
        raise InputError("parameter 'arms': none of the arms can run")
    return found


def finetuning_of(instance: Instance, stores: Mapping[str, Films]) -> dict[str, Json]:
    """What a fine-tuning stage consists of.

    Returns:
        name, task, network, from, films (with all masks), parts (per fold: fold, pool, valid,
        test), n_train, sizes, left_out (numbers of `sizes` beyond the pool), arms, cells,
        counted (cells x (rates + seeds)), trainings, done (files of finished runs that lie
        there), not_run, doubtful.
    """
    given, task = instance.parameters, str(instance.parameters["task"])
    try:
        if task not in stores:
            raise InputError(
                f"no data set gives films of task {task!r}: add one to DATA, say 'fill_from': "
                "phantom, or take the task out of the matrix"
            )
        films = stores[task]
        found = runs_of(given, films)
    except InputError as error:
        raise InputError(f"{instance.name}: {error}") from None
    parts: list[Json] = []
    table, seeds = films.masked, _list(given["seeds"])
    most = len(table)
    for fold in _list(given["folds"]):
        own = run.split(table, fold, 0, whole(given["n_valid"]), seeds[0])
        sizes = {"pool": len(own.pool), "valid": len(own.valid), "test": len(own.test)}
        most = min(most, len(own.pool))
        parts.append({"fold": fold, **sizes})
    jobs = paths.runs() / str(given["profile"]) / instance.name / "jobs"
    asked = _list(given["sizes"]) if given["size_arms"] else []
    further: list[Json] = [*sorted({c.n_train for c, _, _ in found} - {whole(given["n_train"])})]
    beyond: list[Json] = [size for size in asked if size > most]
    return {
        "name": instance.name,
        "task": task,
        "network": given["network"],
        "from": films.source,
        "films": len(table),
        "parts": parts,
        "n_train": given["n_train"],
        "n_valid": given["n_valid"],
        "sizes": further,
        "left_out": beyond,
        "cells": len(found),
        "counted": sum(n + 1 for _, _, n in found),
        "trainings": sum(n for _, _, n in found),
        "done": sum(not f.name.endswith(".part.npz") for f in jobs.glob("*.npz")),
        "not_run": dict(not_run(given)),
        "doubtful": dict(doubtful(given)),
    }


def _list(value: Json) -> list[int]:
    assert isinstance(value, list)
    return [whole(v) for v in value]


def whole(value: Json) -> int:
    """A parameter that is a whole number."""
    assert isinstance(value, int)
    return value
