"""What a run would only find out after hours, found out before it starts.

Each parameter is held against its limit (`limits`), and those that hang together are given to
the same functions that the stages call. What only data can tell (how many masks there
are, whether an arm has weights that fit) is still told late.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dollkit import limits, paths, pipeline
from dollkit.errors import InputError, brief_stderr
from dollkit.pipeline import Instance


def check_apart(profile: str, data: Path | None) -> None:
    """`check` of a profile in a process of its own.

    Networks are built for it, and who waits for a run need not hold a gigabyte of torch meanwhile.

    Raises:
        ChildProcessError: that process was killed, or failed; its exception in one line.
    """
    command = [sys.executable, "-m", "dollkit.early", "--profile", profile]
    command += ["--data", str(data)] if data else []
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths.python_path()},
    )  # fmt: skip
    said = brief_stderr(done.stderr) or f"the check ended with {done.returncode}"
    if done.returncode < 0:
        said = f"killed by signal {-done.returncode}, perhaps out of memory"
    if done.returncode == 2:
        raise InputError(said)
    if done.returncode:
        raise ChildProcessError(said)


def check(instances: Iterable[Instance]) -> None:
    """Check the parameters of a whole plan.

    Args:
        instances: from `pipeline.plan`.
    """
    plan = list(instances)
    taught: dict[str, set[str]] = {}
    built: set[tuple[Any, ...]] = set()
    data = next((i.parameters for i in plan if i.stage.family == "data"), {})
    for instance in plan:
        if not limits.ours(instance):
            continue
        limits.check(instance)
        given, family = instance.parameters, instance.stage.family
        try:
            if family == "data":
                _data(given)
            elif family == "classifiers":
                classifier(given)
                if given["init"] == "imagenet":
                    _imagenet(str(given["imagenet_weights"]), str(given["architecture"]))
            elif family == "labels":
                _labels(given)
            elif family in ("pretrain", "finetune"):
                network = str(given["network"])
                kind: tuple[Any, ...] = (
                    network, given["encoder"], given["encoder_depth"], given["activation"],
                )  # fmt: skip
                if kind not in built:
                    build(*kind)
                    built.add(kind)
                if family == "pretrain":
                    _pretraining(given, data)
                    taught.setdefault(network, set()).add(str(given["arm"]))
                else:
                    _finetuning(given, taught.get(network, set()))
        except InputError as error:
            raise InputError(f"{instance.name}: {error}") from None


def _data(given: Mapping[str, Any]) -> None:
    from dollkit.phantom import Protocol
    from dollkit.readers.datasets import PHANTOM, check_stores, named

    Protocol.from_json(given["protocol"])
    check_stores(given["stores"], given["source"])
    if given["source"] not in (PHANTOM, "auto"):
        for name in given["source"].split("+"):
            named(name)


def classifier(given: Mapping[str, Any]) -> None:
    """Build a classifier without weights, or raise `InputError`."""
    import torch

    from dollkit.classifiers import Classifier

    with torch.device("meta"):
        Classifier(*(given[name] for name in ("architecture", "depth", "activation", "pooling")))


def _imagenet(source: str, architecture: str) -> None:
    """Refuse a start from ImageNet for which there are no weights."""
    from dollkit import imagenet

    if source == imagenet.DOWNLOAD:  # tried when it is needed
        return
    try:
        imagenet.find(source, architecture)
    except imagenet.Unavailable as error:
        raise InputError(f"parameter 'init' is 'imagenet', and there are {error}") from None


def _labels(given: Mapping[str, Any]) -> None:
    from dollkit.attribution import engine
    from dollkit.explaining import Explain
    from dollkit.labels import Distil, rules

    asked = ("max_error", "most_steps", "budget_mb", "unsettled", "mode")
    limits = {name: given[name] for name in asked}
    path = [given[name] for name in ("explainer", "baseline", "steps", "rule", "precision")]
    Explain(*path, **limits)
    engine.check(*(given[name] for name in ("steps", "rule", "max_error", "most_steps", "mode")))
    names = ("part", "percentile", "trust", "smooth", "guide", "ignore")
    cut: dict[str, Any] = {**rules.settings(given["threshold"]), **{n: given[n] for n in names}}
    Distil(**cut)


def build(network: str, encoder: str, depth: int, activation: str) -> None:
    """Build a segmentation network, or raise `InputError`."""
    from dollkit import networks

    networks.build(network, encoder, 1, depth=depth, activation=activation)


def _pretraining(given: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from dollkit import presets

    source = (data.get("stores") or {}).get("films", data.get("source", "phantom"))
    if given["arm"] == "truth" and source != "phantom":
        raise InputError(
            f"arm 'truth' needs true masks of every finding, and the films come from {source!r}: "
            "they exist on the phantom only; take it out of the matrix"
        )
    own = {name: given[name] for name in presets.Preset.__dataclass_fields__}
    presets.recipe(
        presets.settings(given["preset"], **own), given["steps"], given["batch"],
        given["evaluate_every"], given["precision"], given["seed"],
    )  # fmt: skip


def _finetuning(given: Mapping[str, Any], taught: set[str]) -> None:
    from dollkit import cells, grid, imagenet, robustness
    from dollkit.armnames import PRETRAINED
    from dollkit.loop import Recipe

    for arm in given["arms"]:
        if arm in PRETRAINED and arm not in taught:
            raise InputError(
                f"parameter 'arms' names {arm!r}, which the run does not pre-train: add it to "
                "'arms' of the profile's matrix"
            )
    tried = cells.tunings_of(given["arms"], given["tunings"], given["lrs"])
    sizes = dict.fromkeys(given["sizes"], given["size_arms"])
    grid.check(given["arms"], tried, sizes, given["seeds"], given["folds"])
    robustness.cells(given["robustness"])
    for lr in (rate for _, rates in tried.values() for rate in rates):
        Recipe(
            steps=given["steps"], batch=given["batch"], lr=lr, weight_decay=given["weight_decay"],
            evaluate_every=given["evaluate_every"], precision=given["precision"],
        )  # fmt: skip
    if "imagenet" in given["arms"] and given["imagenet_weights"] != imagenet.DOWNLOAD:
        with contextlib.suppress(imagenet.Unavailable):  # the arm is shown as not run
            imagenet.find(given["imagenet_weights"], given["encoder"])


def main() -> int:
    """Command line of `check_apart`: 0, or 2 with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.early", description="Check the parameters of a profile."
    )
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    try:
        check(pipeline.plan(given.profile, given.data))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
