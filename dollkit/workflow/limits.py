"""What every parameter of every stage may be, so that a whole plan is checked before it starts.

A number out of range would be told by the stage that it belongs to, hours after the start of a
large run. The names and bounds here are those of the functions that the stages call; what takes
more than a look at one value (`CALLED`) is handed to such a function.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError, brief_stderr
from dollkit.workflow import stages
from dollkit.workflow.stages import Instance


@dataclass(frozen=True)
class Limit:
    """What a parameter may be.

    Attributes:
        words: what to use instead, at the end of a message.
        holds: whether a value of the declared type may stand.
        bad: values of that type that may not.
        of: of a list, what its elements may be.
    """

    words: str
    holds: Callable[[Any], bool]
    bad: tuple[Any, ...]
    of: Limit | None = None

    def told(self, value: Any) -> str:
        """What is wrong with a value, in words that follow the parameter's name."""
        if value == []:
            return f"is empty: {self.words}"
        wrong = [v for v in value if not self.of.holds(v)] if self.of else []
        if self.of and wrong:
            return f"{'names' if isinstance(wrong[0], str) else 'has'} {wrong[0]!r}: {self.words}"
        return f"is {value!r}: {self.words}"


def least(low: float) -> Limit:
    """A number from `low` on."""
    return Limit(f"use {low} or more", lambda v: v >= low, (low - 1, -1000))


def above(low: float) -> Limit:
    """A number above `low`."""
    return Limit(f"it must be above {low:g}", lambda v: v > low, (low, low - 1.5))


def within(low: float, high: float) -> Limit:
    """A number in [low, high]."""
    words = f"it must lie in [{low:g}, {high:g}]"
    return Limit(words, lambda v: low <= v <= high, (low - 1, high + 1))


def between(low: float, high: float) -> Limit:
    """A number in (low, high)."""
    words = f"it must lie between {low:g} and {high:g}"
    return Limit(words, lambda v: low < v < high, (low, high, high + 3))


def side(zero: bool = False) -> Limit:
    """The side of a film: a multiple of 32; 0 too if `zero`."""
    words = "use a multiple of 32" + ", or 0" * zero
    fits: Callable[[Any], bool] = lambda v: v % 32 == 0 and (v > 0 or (zero and v == 0))  # noqa: E731
    return Limit(words, fits, (33, -32, *(() if zero else (0,))))


def among(names: Iterable[str]) -> Limit:
    """One of some names."""
    known = tuple(names)
    words = f"use one of {', '.join(n or repr(n) for n in known)}"
    return Limit(words, lambda v: v in known, ("nonsense", known[-1] + "s"))


def each(limit: Limit, fewest: int = 0) -> Limit:
    """A list whose elements keep to a limit."""
    words = limit.words + (f", {fewest} or more of them" if fewest else "")
    holds: Callable[[Any], bool] = lambda v: len(v) >= fewest and all(map(limit.holds, v))  # noqa: E731
    return Limit(words, holds, (*([b] for b in limit.bad), *([[]] if fewest else [])), limit)


def maybe(limit: Limit) -> Limit:
    """What may be None too."""
    return replace(limit, holds=lambda v: v is None or limit.holds(v))


CALLED = Limit("checked by the function of its stage", lambda v: True, ())
"""`early` hands it to that function before the run; the names of a run's own are of this kind."""

FREE = Limit("any", lambda v: True, ())
"""Text for people, True or False, and what the plan itself has set."""


@cache
def known() -> dict[str, dict[str, Limit]]:
    """Notebook family -> parameter -> limit; a parameter that is missing has none yet."""
    from dollkit import pretraining
    from dollkit.common import compute
    from dollkit.common.arm_names import ARMS, PRETRAINED
    from dollkit.common.findings import FINDINGS, POLICIES
    from dollkit.data.films import SPLITS
    from dollkit.explanations.engine import BASELINES
    from dollkit.training import networks
    from dollkit.training.recipe import SCHEDULES

    count, natural = least(1), least(0)
    named = {"profile": FREE}
    precise = named | {"precision": among(compute.PRECISIONS)}
    trained = precise | {"steps": count, "batch": count, "evaluate_every": count}
    lists = {"grow_films": count, "grow_targets": within(1, len(FINDINGS)), "grow_steps": count}
    return {
        "data": named
        | dict.fromkeys(("n_films", "n_train_pool", "n_valid", "n_test"), count)
        | dict.fromkeys(("valid_fraction", "test_fraction"), between(0, 1))
        | dict.fromkeys(("source", "stores", "options", "protocol"), CALLED)
        | {"data_dir": FREE, "skip_bad": FREE, "size": side(), "fill_from": among(("", "phantom"))}
        | {"seed": natural},
        "classifiers": trained
        | {
            "architecture": CALLED,
            "init": among(("random", "imagenet")),
            "imagenet_weights": CALLED,
        }
        | {"depth": within(1, 5), "activation": among(("relu", "silu"))}
        | {"pooling": among(("avg", "lse")), "policy": among(POLICIES), "lr": above(0)}
        | {"weight_decay": natural, "small": side(zero=True), "draws": count, "seed": natural},
        "labels": precise
        | dict.fromkeys(("explainer", "baseline", "steps", "rule", "mode", "max_error"), CALLED)
        | dict.fromkeys(("most_steps", "unsettled", "part", "percentile", "trust"), CALLED)
        | dict.fromkeys(("smooth", "guide", "threshold", "ignore"), CALLED)
        | dict.fromkeys(("n_label", "n_hold", "n_judge", "budget_mb"), count)
        | dict.fromkeys(("n_tune", "n_occlude", "n_few"), natural)
        | {"judge_split": among(SPLITS)},
        "pretrain": trained
        | {"arm": among(PRETRAINED), "network": among(networks.NETWORKS), "encoder": CALLED}
        | {"encoder_depth": CALLED, "activation": among(("relu", "silu"))}
        | {"start": among(pretraining.STARTS), "preset": among(pretraining.PRESETS)}
        | {"optimizer": maybe(among(("adamw", "sgd"))), "schedule": maybe(among(SCHEDULES))}
        | {"repeats": count, "seed": natural}
        | dict.fromkeys(("lr", "weight_decay", "background", "dice", "backbone"), CALLED),
        "finetune": trained
        | {"task": FREE, "network": among(networks.NETWORKS), "encoder": CALLED}
        | {"encoder_depth": CALLED, "activation": among(("relu", "silu"))}
        | dict.fromkeys(("tunings", "lrs", "robustness", "imagenet_weights"), CALLED)
        | {"arms": each(among(ARMS), 1), "size_arms": each(among(ARMS))}
        | {"lora_rank": count, "transfer": among(networks.PARTS), "weight_decay": natural}
        | {"n_train": count, "sizes": each(natural), "n_valid": count, "n_examples": count}
        | {"seeds": each(natural, 1), "folds": each(natural, 1)},
        "tables": named | {"reference": FREE},
        "figures": named | {"arm": among(ARMS), "columns": count},
        "claims": named | {"population": FREE},
        "cost": precise
        | dict.fromkeys(("n_films", "steps", "rounds", "captum_films", "reference_steps"), count)
        | {"kind": among(BASELINES), "matmul_sides": each(count, 1), "budget_mb": count}
        | {"gpu_tflops": above(0), "grow_sides": each(side(), 2)}
        | {name: each(limit, 2) for name, limit in lists.items()},
    }


def ours(instance: Instance) -> bool:
    """Whether a stage has all the parameters of the shipped one: another may stand in its place."""
    return set(known().get(instance.stage.family, {})) <= set(instance.parameters)


def check_limits(instance: Instance) -> None:
    """Refuse a planned stage with a value that it cannot work with; for `ours` alone.

    Args:
        instance: from `pipeline.plan`.
    """
    limits = known().get(instance.stage.family, {})
    for name, value in instance.parameters.items():
        limit = limits.get(name, FREE)
        if not limit.holds(value):
            raise InputError(
                f"{instance.name}: parameter {name!r} {limit.told(value)} "
                f"(section '{instance.stage.section}' of the profile)"
            )


# What a run would only find out after hours, found out before it starts.
#
# Each parameter is held against its limit (`limits`), and those that hang together are given to
# the same functions that the stages call. What only data can tell (how many masks there
# are, whether an arm has weights that fit) is still told late.


def check_apart(profile: str, data: Path | None) -> None:
    """`check` of a profile in a process of its own.

    Networks are built for it, and who waits for a run need not hold a gigabyte of torch meanwhile.

    Raises:
        ChildProcessError: that process was killed, or failed; its exception in one line.
    """
    command = [sys.executable, "-m", "dollkit.workflow.limits", "--profile", profile]
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


def check_early(instances: Iterable[Instance]) -> None:
    """Check the parameters of a whole plan.

    Args:
        instances: from `pipeline.plan`.
    """
    plan = list(instances)
    taught: dict[str, set[str]] = {}
    built: set[tuple[Any, ...]] = set()
    data = next((i.parameters for i in plan if i.stage.family == "data"), {})
    for instance in plan:
        if not ours(instance):
            continue
        check_limits(instance)
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
    from dollkit.data.datasets import PHANTOM, check_stores, named
    from dollkit.data.phantom.protocol import Protocol

    Protocol.from_json(given["protocol"])
    check_stores(given["stores"], given["source"])
    if given["source"] not in (PHANTOM, "auto"):
        for name in given["source"].split("+"):
            named(name)


def classifier(given: Mapping[str, Any]) -> None:
    """Build a classifier without weights, or raise `InputError`."""
    import torch

    from dollkit.classifiers.model import Classifier

    with torch.device("meta"):
        Classifier(*(given[name] for name in ("architecture", "depth", "activation", "pooling")))


def _imagenet(source: str, architecture: str) -> None:
    """Refuse a start from ImageNet for which there are no weights."""
    from dollkit.training import imagenet

    if source == imagenet.DOWNLOAD:  # tried when it is needed
        return
    try:
        imagenet.find(source, architecture)
    except imagenet.Unavailable as error:
        raise InputError(f"parameter 'init' is 'imagenet', and there are {error}") from None


def _labels(given: Mapping[str, Any]) -> None:
    from dollkit.explanations import engine
    from dollkit.explanations.ensemble import Explain
    from dollkit.labels import Distil, threshold_rules

    asked = ("max_error", "most_steps", "budget_mb", "unsettled", "mode")
    limits = {name: given[name] for name in asked}
    path = [given[name] for name in ("explainer", "baseline", "steps", "rule", "precision")]
    Explain(*path, **limits)
    engine.check(*(given[name] for name in ("steps", "rule", "max_error", "most_steps", "mode")))
    names = ("part", "percentile", "trust", "smooth", "guide", "ignore")
    cut: dict[str, Any] = {
        **threshold_rules.settings(given["threshold"]),
        **{n: given[n] for n in names},
    }
    Distil(**cut)


def build(network: str, encoder: str, depth: int, activation: str) -> None:
    """Build a segmentation network, or raise `InputError`."""
    from dollkit.training import networks

    networks.build(network, encoder, 1, depth=depth, activation=activation)


def _pretraining(given: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from dollkit import pretraining

    source = (data.get("stores") or {}).get("films", data.get("source", "phantom"))
    if given["arm"] == "truth" and source != "phantom":
        raise InputError(
            f"arm 'truth' needs true masks of every finding, and the films come from {source!r}: "
            "they exist on the phantom only; take it out of the matrix"
        )
    own = {name: given[name] for name in pretraining.Preset.__dataclass_fields__}
    pretraining.recipe(
        pretraining.settings(given["preset"], **own), given["steps"], given["batch"],
        given["evaluate_every"], given["precision"], given["seed"],
    )  # fmt: skip


def _finetuning(given: Mapping[str, Any], taught: set[str]) -> None:
    from dollkit.common.arm_names import PRETRAINED
    from dollkit.finetuning import grid, robustness
    from dollkit.training import imagenet
    from dollkit.training.recipe import Recipe

    for arm in given["arms"]:
        if arm in PRETRAINED and arm not in taught:
            raise InputError(
                f"parameter 'arms' names {arm!r}, which the run does not pre-train: add it to "
                "'arms' of the profile's matrix"
            )
    tried = grid.tunings_of(given["arms"], given["tunings"], given["lrs"])
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
        prog="python -m dollkit.workflow.limits", description="Check the parameters of a profile."
    )
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    try:
        check_early(stages.plan(given.profile, given.data))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
