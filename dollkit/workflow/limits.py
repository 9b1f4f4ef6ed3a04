"""What the parameters of every stage may be, so that a whole plan is checked before it starts.

Names and types are in the notebook's cell; here is what a type cannot say. Values that hang
together go to the functions that the stage itself calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field

from dollkit import pretraining
from dollkit.classifiers.model import Classifier
from dollkit.common import ARMS, PRETRAINED, compute
from dollkit.common.errors import InputError, nearest
from dollkit.common.findings import FINDINGS, POLICIES
from dollkit.data import PHANTOM, check_stores, named
from dollkit.data.film_table import SPLITS
from dollkit.data.phantom.population import Protocol
from dollkit.explanations import engine
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.finetuning import grid, robustness
from dollkit.labels import LabelSettings, threshold_rules
from dollkit.training import imagenet, networks
from dollkit.training.recipe import Recipe
from dollkit.workflow import parameters
from dollkit.workflow.stages import Instance


def among(names: Iterable[str]) -> Any:
    """A text that is one of these; the message about another names the nearest."""
    known = tuple(names)

    def check(text: str) -> str:
        if text not in known:
            raise ValueError(nearest(text, known))
        return text

    return Annotated[str, AfterValidator(check)]


def several(element: Any, fewest: int = 1) -> Any:
    """A list of these, with `fewest` or more."""
    return Annotated[list[element], Field(min_length=fewest)]


COUNT = Annotated[int, Field(ge=1)]
NATURAL = Annotated[int, Field(ge=0)]
DECAY = Annotated[float, Field(ge=0)]
POSITIVE = Annotated[float, Field(gt=0)]
SHARE = Annotated[float, Field(gt=0, lt=1)]
SIDE = Annotated[int, Field(gt=0, multiple_of=32)]  # pixels

PRECISION = {"precision": among(compute.PRECISIONS)}
TRAINING = {**PRECISION, "steps": COUNT, "batch": COUNT, "evaluate_every": COUNT}
NETWORK = {"network": among(networks.NETWORKS), "activation": among(("relu", "silu"))}

RANGES: dict[str, dict[str, Any]] = {
    "data": {
        **dict.fromkeys(("n_films", "n_train_pool", "n_valid", "n_test"), COUNT),
        **dict.fromkeys(("valid_fraction", "test_fraction"), SHARE),
        "size": SIDE,
        "fill_from": among(("", PHANTOM)),
        "seed": NATURAL,
    },
    "classifiers": {
        **TRAINING,
        "init": among(("random", "imagenet")),
        "depth": Annotated[int, Field(ge=1, le=5)],
        "activation": NETWORK["activation"],
        "pooling": among(("avg", "lse")),
        "policy": among(POLICIES),
        "lr": POSITIVE,
        "weight_decay": DECAY,
        "small": Annotated[int, Field(ge=0, multiple_of=32)],
        "draws": COUNT,
        "seed": NATURAL,
    },
    "labels": {
        **PRECISION,
        **dict.fromkeys(("n_label", "n_hold", "n_judge", "budget_mb"), COUNT),
        **dict.fromkeys(("n_tune", "n_occlude", "n_few"), NATURAL),
        "judge_split": among(SPLITS),
    },
    "pretrain": {
        **TRAINING,
        **NETWORK,
        "arm": among(PRETRAINED),
        "start": among(pretraining.STARTS),
        "lr": POSITIVE,
        "weight_decay": DECAY,
        "background": Annotated[float, Field(gt=0, le=1)],
        "dice": Annotated[float, Field(ge=0, lt=1)],  # alone it teaches nothing on empty channels
        "repeats": COUNT,
        "seed": NATURAL,
    },
    "finetune": {
        **TRAINING,
        **NETWORK,
        **dict.fromkeys(("n_train", "n_valid", "n_examples", "lora_rank"), COUNT),
        **dict.fromkeys(("seeds", "folds"), several(NATURAL)),
        "arms": several(among(ARMS)),
        "size_arms": several(among(ARMS), 0),
        "sizes": several(NATURAL, 0),
        "transfer": among(networks.PARTS),
        "weight_decay": DECAY,
    },
    "figures": {"arm": among(ARMS), "columns": COUNT},
    "cost": {
        **PRECISION,
        **dict.fromkeys(("n_films", "steps", "rounds", "captum_films", "reference_steps"), COUNT),
        **dict.fromkeys(("grow_films", "grow_steps"), several(COUNT, 2)),
        "grow_targets": several(Annotated[int, Field(ge=1, le=len(FINDINGS))], 2),
        "grow_sides": several(SIDE, 2),
        "matmul_sides": several(COUNT),
        "kind": among(engine.BASELINES),
        "budget_mb": COUNT,
        "gpu_tflops": POSITIVE,
    },
}


def _data(given: SimpleNamespace) -> None:
    Protocol.from_json(given.protocol)
    check_stores(given.stores, given.source)
    if given.source not in (PHANTOM, "auto"):
        for name in given.source.split("+"):
            named(name)


def _classifiers(given: SimpleNamespace) -> None:
    build_classifier(given.architecture, given.depth, given.activation, given.pooling)
    if given.init == "imagenet" and given.imagenet_weights != imagenet.DOWNLOAD:
        try:
            imagenet.find(given.imagenet_weights, given.architecture)
        except imagenet.Unavailable as error:
            raise InputError(f"parameter 'init' is 'imagenet', and there are {error}") from None


def _labels(given: SimpleNamespace) -> None:
    ExplainerSettings(
        given.explainer, given.baseline, given.steps, given.rule, given.precision,
        max_error=given.max_error, most_steps=given.most_steps, budget_mb=given.budget_mb,
        unsettled=given.unsettled, mode=given.mode,
    )  # fmt: skip
    engine.check(given.steps, given.rule, given.max_error, given.most_steps, given.mode)
    cut: dict[str, Any] = {**threshold_rules.settings(given.threshold)}
    cut |= {n: vars(given)[n] for n in ("part", "percentile", "trust", "smooth", "guide", "ignore")}
    LabelSettings(**cut)


def _pretraining(given: SimpleNamespace) -> None:
    build_network(given.network, given.encoder, given.encoder_depth, given.activation)


def _finetuning(given: SimpleNamespace) -> None:
    build_network(given.network, given.encoder, given.encoder_depth, given.activation)
    tried = grid.tunings_of(given.arms, given.tunings, given.lrs)
    sizes = dict.fromkeys(given.sizes, given.size_arms)
    grid.check(given.arms, tried, sizes, given.seeds, given.folds)
    robustness.pairs_of(given.robustness)
    for rate in (rate for _, rates in tried.values() for rate in rates):
        Recipe(
            steps=given.steps, batch=given.batch, lr=rate, weight_decay=given.weight_decay,
            evaluate_every=given.evaluate_every, precision=given.precision,
        )  # fmt: skip
    if "imagenet" in given.arms and given.imagenet_weights != imagenet.DOWNLOAD:
        with contextlib.suppress(imagenet.Unavailable):  # the arm is shown as not run
            imagenet.find(given.imagenet_weights, given.encoder)


TOGETHER: dict[str, Callable[[SimpleNamespace], None]] = {
    "data": _data,
    "classifiers": _classifiers,
    "labels": _labels,
    "pretrain": _pretraining,
    "finetune": _finetuning,
}
"""Checks of values that hang together."""


@cache
def build_classifier(architecture: str, depth: int, activation: str, pooling: str) -> None:
    """Build a classifier without weights: no other way tells whether its encoder fits."""
    with torch.device("meta"):
        Classifier(architecture, depth, activation, pooling)


@cache
def build_network(network: str, encoder: str, depth: int, activation: str) -> None:
    """Build a segmentation network, likewise."""
    networks.build(network, encoder, 1, depth=depth, activation=activation)


def check_plan(plan: Iterable[Instance]) -> None:
    """Refuse the first parameter of a plan that its stage could not work with."""
    films = PHANTOM
    pretrained: set[tuple[str, str]] = set()
    for instance in plan:
        family, known = instance.stage.family, parameters.declared(instance.notebook)
        ranges = RANGES.get(family, {})
        if not ranges.keys() <= known.keys():
            continue  # another notebook stands in the place of ours
        model = parameters.model_of(known, ranges)
        given = SimpleNamespace(**parameters.check(model, instance.parameters, instance.name))
        try:
            if family in TOGETHER:
                TOGETHER[family](given)
            if family == "data":
                films = given.stores.get("films", given.source)
            elif family == "pretrain":
                pretrained.add((given.network, given.arm))
                if given.arm == "truth" and films != PHANTOM:
                    raise InputError(
                        "arm 'truth' needs true masks of every finding, and the films come from "
                        f"{films!r}: they exist on the phantom only; take it out of the matrix"
                    )
            elif family == "finetune":
                for arm in given.arms:
                    if arm in PRETRAINED and (given.network, arm) not in pretrained:
                        raise InputError(
                            f"parameter 'arms' names {arm!r}, which the run does not pre-train: "
                            "add it to 'arms' of the profile's matrix"
                        )
        except InputError as error:
            raise InputError(f"{instance.name}: {error}") from None
