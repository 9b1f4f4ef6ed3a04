"""What every parameter of every stage may be, so that a whole plan is checked before it starts.

A number out of range would be told by the stage that it belongs to, hours after the start of a
large run. The names and bounds here are those of the functions that the stages call; what takes
more than a look at one value (`CALLED`) is handed to such a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dollkit.errors import InputError
from dollkit.pipeline import Instance


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
    from dollkit import compute, networks, presets, pretraining
    from dollkit.armnames import ARMS, PRETRAINED
    from dollkit.attribution.path import BASELINES
    from dollkit.films import SPLITS
    from dollkit.findings import FINDINGS, POLICIES
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
        | {"start": among(pretraining.STARTS), "preset": among(presets.PRESETS)}
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


def check(instance: Instance) -> None:
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
