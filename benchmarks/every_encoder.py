"""Encoders that smp and timm list, of at most 30 million parameters, through the whole use.

``python -m benchmarks.every_encoder [families | all]`` builds each, puts SiLU in place of ReLU,
makes a training step, explains two films beside captum, saves and loads; one process for many, and
a new one where an encoder ends it. ``families`` takes the smallest network of each of timm's
modules, all of them take hours. Outcomes go to ``runs/encoders.csv`` (a second call goes on), and
what is refused, with the reason, to ``docs/encoders.md``.
"""

from __future__ import annotations

import csv
import multiprocessing
import re
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from captum.attr import IntegratedGradients
from torch import nn

from dollkit.common import compute, paths
from dollkit.common.errors import InputError, brief
from dollkit.explanations.integrated_gradients import baseline_films, integrated_gradients
from dollkit.training import classifiers, networks, weights
from dollkit.training.classifiers import Classifier

LARGEST, SIDE, STEPS = 30_000_000, 64, 4
CPU = torch.device("cpu")
OUTCOMES = paths.ROOT / "runs" / "encoders.csv"


def names(which: str) -> list[str]:
    """Encoders by smp's names: its own, then timm's."""
    found = timm.list_models()
    if which == "families":
        smallest: dict[str, tuple[int, str]] = {}
        for module in timm.list_modules():
            for name in timm.list_models(module=module):
                smallest[module] = min(smallest.get(module, (LARGEST, "")), (_size(name), name))
        found = sorted(name for _, name in smallest.values() if name)
    return [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in found)]


def _size(name: str) -> int:
    """Parameters of timm's network; more than `LARGEST` where it cannot be built."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:
        return LARGEST + 1


def through(name: str) -> str:
    """What became of an encoder: ``works``, ``large``, or ``refused: `` with the one line."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config = name, 5, "silu", "lse"
    try:
        networks.check_pass(f"architecture {name!r}", lambda: Classifier(*config), SIDE)
    except InputError as error:
        return f"refused: {error}"
    model = classifiers.create(*config, seed=0, device=CPU)
    if sum(p.numel() for p in model.encoder.parameters()) > LARGEST:
        return "large"
    films = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x = compute.normalise(films).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logits = model(x)
    nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    optimiser.step()
    model.eval()
    ours = integrated_gradients(model, x[:2], [[3], [7]], steps=STEPS)
    base = baseline_films(x[:2], "black")
    theirs = IntegratedGradients(model).attribute(
        x[:2], base, target=[3, 7], n_steps=STEPS, method="riemann_middle"
    )
    # Of a deep network after one step they may be as small as 1e-20.
    one, other = (maps.double().flatten(1) / maps.norm() for maps in (ours.maps, theirs))
    cosine = nn.functional.cosine_similarity(one, other, eps=0).min().item()
    if not cosine > 0.999:
        return f"differs from captum: cosine {cosine:.4f}"
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights.save(model, Path(folder), model.config)
        again = weights.load(Path(folder), Classifier, CPU)
        if not all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items()):
            return "weights do not come back"
    return "works"


def _guarded(name: str) -> str:
    try:
        return through(name)
    except Exception as error:  # what a user would see as a traceback
        return f"fails: {brief(error)}"


def main(which: str = "families") -> None:
    """Try the encoders that have no stored outcome, and write the page of all."""
    OUTCOMES.parent.mkdir(exist_ok=True)
    done = dict(csv.reader(OUTCOMES.open())) if OUTCOMES.is_file() else {}
    spawn = multiprocessing.get_context("spawn")
    pool, wanted = None, names(which)
    for name in [n for n in wanted if n not in done]:
        pool = pool or ProcessPoolExecutor(1, spawn, max_tasks_per_child=40)
        try:
            outcome = pool.submit(_guarded, name).result(timeout=600)
        except (BrokenProcessPool, TimeoutError) as error:
            pool.shutdown(wait=False, cancel_futures=True)
            pool, outcome = None, f"ends the process: {type(error).__name__}"
        print(name, outcome, flush=True)
        done[name] = outcome
        with OUTCOMES.open("a", newline="") as file:
            csv.writer(file).writerow([name, outcome])
    if pool is not None:
        pool.shutdown()
    write_page({name: done[name] for name in wanted}, which)


def write_page(outcomes: dict[str, str], which: str) -> None:
    """``docs/encoders.md``: how many work, and what is refused or fails, reason by reason."""
    tried = {name: outcome for name, outcome in outcomes.items() if outcome != "large"}
    bad: dict[str, list[str]] = {}
    for name, outcome in tried.items():
        if outcome != "works":
            kind, _, said = outcome.partition(": ")
            error = re.search(r"\((\w+Error.*)\)", said)  # the library's own words, if any
            reason = (error[1] if error else said).replace(name, "it")
            bad.setdefault(f"{kind}: {reason}", []).append(name)
    scope = "all of timm" if which == "all" else "the smallest of each timm module"
    lines = [
        "# Encoders",
        "",
        "This page lists the encoders of segmentation-models-pytorch and timm that dollkit "
        "refuses.",
        "",
        f"`python -m benchmarks.every_encoder {which}` tested {len(tried)} encoders with at most "
        f"30 million parameters: all of segmentation-models-pytorch, and {scope}. "
        f"**{len(tried) - sum(map(len, bad.values()))} work.** dollkit refuses the others in one "
        "line before training starts.",
        "",
        f"Each encoder was built with {SIDE} px images and SiLU instead of ReLU, trained for one "
        "step, explained beside captum (cosine above 0.999), saved and loaded. Versions: timm "
        f"{timm.__version__}, segmentation-models-pytorch {smp.__version__}, PyTorch "
        f"{torch.__version__.partition('+')[0]}.",
        "",
        "| encoders | result |",
        "| --- | --- |",
        *(f"| {', '.join(found)} | {reason} |" for reason, found in sorted(bad.items())),
    ]
    (paths.ROOT / "docs" / "encoders.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
