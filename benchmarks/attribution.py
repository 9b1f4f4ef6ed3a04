"""Integrated Gradients of a run's classifiers, and of a stranger's, against captum."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import arithmetic
from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.store import Store, open_store
from dollkit.explanations.attribution import Targets
from dollkit.explanations.cost import CAPTUM_STEPS, captum_maps, films_of, measure
from dollkit.explanations.integrated_gradients import integrated_gradients
from dollkit.training import classifiers, weights
from dollkit.training.augment import Augmentation
from dollkit.training.classifiers import Classifier, load_classifier, load_classifiers
from dollkit.training.loss_and_optimiser import Recipe
from dollkit.workflow.stage import read_manifest

RUNS = ("laptop", "smoke")
"""Runs whose classifiers are taken if none is named, in this order."""
GOALS = {
    "fast": {"speedup": 15.0, "dice": 0.97},
    "exact": {"speedup": 8.0, "dice": 0.99},
    "relu": {"speedup": 8.0, "dice": 0.96},
}
TWIN = "tu-resnet10t"
AT_ONCE = 4  # pairs that captum explains in a call where its seconds do not count
SAME_PASSES = {"same": {"precision": "float32", "steps": 6}}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    `films` are the first test films with a finding, `same` of them are compared with captum at its
    own steps; `reference_steps` make the maps that labels are held against, `relu_steps` train the
    stranger's network.
    """

    films: int = 8
    rounds: int = 2
    reference_steps: int = 256  # shares no point with the rules that are judged
    same: int = 2
    relu_steps: int = 200
    sides: tuple[int, ...] = (1024, 2048, 4096)  # of the matrices whose product rate counts


QUICK = Sizes(films=4, rounds=1, reference_steps=54, same=1, sides=(256,))


@dataclass(frozen=True)
class TrainedRun:
    """A run with trained classifiers: their folders by name, the parameters of the first one."""

    name: str
    store: Store
    folders: Mapping[str, Path]
    parameters: Mapping[str, Any]


def find_run(name: str | None = None) -> TrainedRun:
    """The named run, or the first of `RUNS` that has trained classifiers."""
    for candidate in RUNS if name is None else (name,):
        folder = paths.runs() / candidate
        files = sorted((folder / "classifiers").glob("*/manifest.json"))
        manifests = {f.parent.name: read_manifest(f.parent) for f in files}
        finished = {k: m for k, m in manifests.items() if m is not None}
        if finished and read_manifest(folder / "data") is not None:
            folders = {k: folder / "classifiers" / k for k in finished}
            first = next(iter(finished.values()))["parameters"]
            return TrainedRun(candidate, open_store(folder / "data" / "films"), folders, first)
    wanted = " or ".join(RUNS) if name is None else name
    raise InputError(
        f"{paths.runs()}: no trained classifiers of run {wanted}: make them by "
        f"`make reproduce PROFILE={name or RUNS[-1]}`, or name another run by --run"
    )


def relu_network(
    run: TrainedRun, architecture: str, pooling: str, steps: int, device: torch.device
) -> tuple[Classifier, dict[str, Any]]:
    """A ReLU network trained for `steps` on the run's films, in eval mode, and its record.

    The record has how it was made and its macro AUROC on test patients; a second call finds the
    network in ``runs/bench``.
    """
    settings = run.parameters
    kept = {name: settings[name] for name in ("batch", "lr", "weight_decay", "precision")}
    recipe = Recipe(steps=steps, evaluate_every=steps, **kept)
    folder = paths.runs() / "bench" / f"{run.name}-{architecture}-relu"
    model = classifiers.create(architecture, 5, "relu", pooling, recipe.seed, device)
    policy, small = settings["policy"], settings["small"]
    key = json.dumps([run.store.digest, model.config, policy, small])
    classifiers.train(
        model, run.store, policy, recipe, Augmentation(), folder, small=small, key=key
    )
    weights.save(model, folder, model.config)
    table = classifiers.evaluate(model, run.store, "test", 20, recipe.precision)
    made = {"architecture": architecture, "activation": "relu", "pooling": pooling}
    about = {"steps": steps, "batch": recipe.batch, "lr": recipe.lr, "small": small}
    return model, {**made, **about, **_weights(folder), "macro_auroc": _macro(table)}


def run(
    run: TrainedRun, sizes: Sizes, relu_twin: bool = False, device: torch.device | None = None
) -> dict[str, Any]:
    """Measure the run's classifiers and a ReLU ResNet-18, one thread, all ways in turns.

    With `relu_twin`, a member of the run is also trained anew with ReLU, as long as it was trained,
    and both are measured at the same number of passes. JSON-able; keys start with ``ig_``.
    Speed-ups are geometric means over classifiers of captum's seconds per pair over ours, Dice
    means over pairs against the reference.
    """
    device = compute.device() if device is None else device
    # Trained first, with all threads.
    relu, about_relu = relu_network(run, "resnet18", "avg", sizes.relu_steps, device)
    models = load_classifiers(run.folders, device)
    x, targets = films_of(run.store, "test", sizes.films, device)
    how = {"rounds": sizes.rounds, "reference_steps": sizes.reference_steps}
    with one_thread():
        told = measure(models, x, targets, **how)  # type: ignore[arg-type]
        stranger = measure({"resnet18": relu}, x, targets, **how)  # type: ignore[arg-type]
        few = [x[: sizes.same], targets[: sizes.same]]
        gaps = [differences(m, *few) for m in models.values()]  # type: ignore[arg-type]
        fastest = "bfloat16" if compute.computes_bfloat16(device) else "float32"
        walk: Any = {"precision": fastest, "steps": 16, "rounds": sizes.rounds}
        sides = [*sizes.sides, *([8192] if device.type == "cuda" else [])]
        used = arithmetic.use(models, x, targets, sides=sides, **walk)
    rows = told["models"]
    for name, folder in run.folders.items():
        rows[name] |= {**_weights(folder), "macro_auroc": _macro_of(folder)}
    walks = [partial(integrated_gradients, model, x, targets) for model in models.values()]
    peaks = [peak for walk in walks if (peak := peak_mb(walk, device)) is not None]
    fast, exact = told["overall"]["fast"], told["overall"]["exact"]
    other = stranger["models"]["resnet18"]
    record: dict[str, Any] = {
        "ig_speedup_vs_captum": round(fast["ratio"], 2),
        "ig_dice_vs_reference": round(fast["dice"], 4),
        "ig_exact_speedup": round(exact["ratio"], 2),
        "ig_exact_dice": round(exact["dice"], 4),
        "ig_relu_speedup": round(other["fast"]["ratio"], 2),
        "ig_relu_dice": round(other["fast"]["dice"], 4),
        "ig_goals": GOALS | {"gpu_share": arithmetic.GOAL_SHARE},
        "ig_share_of_matmul": round(float(used["share"].median()), 3),
        "ig_arithmetic": used.round(6).to_dict("records"),
        "ig_peak_mb": round(max(peaks), 1) if peaks else None,
        "ig_captum_difference": _gaps(gaps),
        "ig_models": rows,
        "ig_relu": about_relu | other,
        "ig_run": run.name,
        **{f"ig_{k}": told[k] for k in ("pairs", "films", "size", "threads", "rounds")},
        "ig_reference_steps": told["reference_steps"],
        "ig_device": device.type,
        "torch": torch.__version__,
    }
    if relu_twin:
        record["ig_smooth"] = _twins(run, x, targets, how, device)
    return record


def differences(
    model: torch.nn.Module, x: torch.Tensor, targets: Targets
) -> dict[str, torch.Tensor]:
    """How far maps are from captum's of the same rule and steps, pair by pair.

    In float32, two layers that round differently may pick different places of a max pooling where
    two nearly tie, and the gradients then differ for good. So captum's own rounding stands beside.

    Returns:
        Each (pairs,) float64, norm of the difference over the norm of captum's map: ``float32``
        and ``float64``, the same precision on both sides; ``captum``, its float32 maps against
        its own in float64.
    """
    how: dict[str, Any] = {"baseline": "black", "steps": CAPTUM_STEPS, "rule": "gausslegendre"}
    single = captum_maps(model, x, targets, "black", AT_ONCE)
    double = captum_maps(copy.deepcopy(model).double(), x.double(), targets, "black", AT_ONCE)
    maps = {
        precision: integrated_gradients(model, x, targets, precision=precision, **how).maps
        for precision in ("float32", "float64")
    }
    return {
        "float32": _far(maps["float32"], single),
        "float64": _far(maps["float64"], double),
        "captum": _far(single, double),
    }


def _far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    norm = torch.linalg.vector_norm
    far: torch.Tensor = norm(a - b, dim=1) / norm(b, dim=1).clamp_min(1e-30)
    return far


def _gaps(gaps: Sequence[dict[str, torch.Tensor]]) -> dict[str, dict[str, float]]:
    joined = {name: torch.cat([one[name] for one in gaps]) for name in gaps[0]}
    return {
        name: {"median": float(f"{v.median().item():.2g}"), "largest": float(f"{v.max():.2g}")}
        for name, v in joined.items()
    }


def _twins(
    run: TrainedRun, x: torch.Tensor, targets: list[list[int]], how: Mapping[str, int],
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """AUROC, speed and Dice of one member, smooth and not, at the same passes."""
    name = TWIN if TWIN in run.folders else next(iter(run.folders))
    smooth = load_classifier(run.folders[name], device)
    steps, pooling = run.parameters["steps"], str(smooth.config["pooling"])
    rough, about = relu_network(run, name, pooling, steps, device)
    pair = {str(smooth.config["activation"]): smooth, "relu": rough}
    with one_thread():
        told = measure(pair, x, targets, modes=SAME_PASSES, **how)  # type: ignore[arg-type]
    areas = {"relu": about["macro_auroc"]}
    return {
        "architecture": name,
        "passes": SAME_PASSES["same"],
        **{
            k: {"macro_auroc": areas.get(k, _macro_of(run.folders[name])), **row["same"]}
            for k, row in told["models"].items()
        },
    }


def peak_mb(work: Callable[[], Any], device: torch.device) -> float | None:
    """Most memory held while `work` runs, above what was held before, in MiB.

    None where the system does not tell (neither CUDA nor Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - held) / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still held would hide the peak
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_mb("VmRSS")
    except (OSError, StopIteration):  # not Linux
        work()
        return None
    work()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) / 1024


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one CPU thread: what others do on the machine weighs less."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights(folder: Path) -> dict[str, str]:
    return {"weights_sha256": sha256(folder / "weights.safetensors")}


def _macro_of(folder: Path) -> float | None:
    try:
        return _macro(pd.read_csv(folder / "metrics.csv"))
    except OSError:
        return None


def _macro(table: pd.DataFrame) -> float | None:
    values = table.loc[table["finding"] == "macro", "auroc"].to_numpy(np.float64)
    return round(float(values[0]), 4) if len(values) else None
