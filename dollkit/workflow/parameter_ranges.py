"""What the parameters of every stage may be, so that a whole plan is checked before it starts.

Names and types are in the notebook's cell; here is what a type cannot say. Values that hang
together go to the functions that the stage itself calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import Field

from dollkit import pretraining
from dollkit.common import ARMS, OTHER_START, PRETRAINED, compute
from dollkit.common.errors import InputError
from dollkit.common.findings import POLICIES
from dollkit.data import PHANTOM, check_stores, named
from dollkit.data.film_table import SPLITS
from dollkit.data.phantom.population import Protocol
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.explanations.integrated_gradients import BASELINES
from dollkit.finetuning import grid, robustness
from dollkit.labels.maps_to_labels import LabelSettings, threshold_settings
from dollkit.training import networks, published_weights
from dollkit.training.classifiers import Classifier
from dollkit.workflow import parameters
from dollkit.workflow.stages import Instance


def among(names: Iterable[str]) -> Any:
    """A text that is one of these."""
    return Literal[tuple(names)]


def several(element: Any, fewest: int = 1) -> Any:
    """A list of these, with `fewest` or more."""
    return Annotated[list[element], Field(min_length=fewest)]


COUNT = Annotated[int, Field(ge=1, le=10**8)]
NATURAL = Annotated[int, Field(ge=0, lt=2**63)]  # a seed, too
DECAY = Annotated[float, Field(ge=0)]
POSITIVE = Annotated[float, Field(gt=0)]
SHARE = Annotated[float, Field(gt=0, lt=1)]
SIDE = Annotated[int, Field(gt=0, multiple_of=32)]  # pixels

PRECISION = {"precision": among(compute.PRECISIONS)}
COUNTS = dict.fromkeys(("steps", "batch", "evaluate_every"), COUNT)
TRAINING = {**PRECISION, **COUNTS, "weight_decay": DECAY}
ONE_RATE = {**TRAINING, "lr": POSITIVE, "seed": NATURAL}
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
        **ONE_RATE,
        "init": among(("random", "imagenet")),
        "depth": Annotated[int, Field(ge=1, le=5)],
        "activation": NETWORK["activation"],
        "pooling": among(("avg", "lse")),
        "policy": among(POLICIES),
        "small": Annotated[int, Field(ge=0, multiple_of=32)],
        "draws": COUNT,
    },
    "labels": {
        **PRECISION,
        **dict.fromkeys(("n_label", "n_hold", "n_judge", "budget_mb"), COUNT),
        **dict.fromkeys(("n_tune", "n_occlude", "n_few"), NATURAL),
        "judge_split": among(SPLITS),
    },
    "pretrain": {
        **ONE_RATE,
        **NETWORK,
        "arm": among(PRETRAINED),
        "start": among(pretraining.STARTS),
        "background": Annotated[float, Field(gt=0, le=1)],
        "dice": Annotated[float, Field(ge=0, lt=1)],  # alone it teaches nothing on empty channels
        "repeats": COUNT,
    },
    "finetune": {
        **TRAINING,
        **NETWORK,
        **dict.fromkeys(("n_train", "n_valid", "n_examples"), COUNT),
        **dict.fromkeys(("seeds", "folds"), several(NATURAL)),
        "arms": several(among(ARMS)),
        "size_arms": several(among(ARMS), 0),
        "sizes": several(NATURAL, 0),
        "transfer": among(networks.PARTS),
        "lrs": dict[str, list[POSITIVE]],
    },
    "figures": {"arm": among(ARMS), "columns": COUNT},
    "cost": {
        **dict.fromkeys(("n_films", "rounds", "captum_films", "reference_steps"), COUNT),
        "kind": among(BASELINES),
        "budget_mb": COUNT,
    },
}


def _data(settings: SimpleNamespace) -> None:
    Protocol.from_json(settings.protocol)
    check_stores(settings.stores, settings.source)
    if settings.source not in (PHANTOM, "auto"):
        for name in settings.source.split("+"):
            named(name)


def _classifiers(settings: SimpleNamespace, size: int) -> None:
    config = settings.depth, settings.activation, settings.pooling
    check_classifier(size, settings.architecture, *config)
    if settings.small > size:
        raise InputError(f"parameter 'small' is {settings.small}, and films have {size} pixels")
    if settings.init == "imagenet":
        need_imagenet("init", settings.imagenet_weights, settings.architecture)


def need_imagenet(parameter: str, weights: str, architecture: str) -> None:
    """Refuse an encoder that there are no ImageNet weights of."""
    if weights != published_weights.DOWNLOAD:
        try:
            published_weights.find(weights, architecture)
        except published_weights.Unavailable as error:
            why = f"parameter {parameter!r} asks for ImageNet: {error}"
            raise InputError(f"{why}; take another encoder, or do without") from None


def _labels(settings: SimpleNamespace) -> None:
    given = vars(settings) | {"kind": settings.baseline}
    ExplainerSettings(**{name: given[name] for name in ExplainerSettings.__dataclass_fields__})
    names = ("part", "percentile", "trust", "smooth", "guide", "ignore")
    cut: dict[str, Any] = {**threshold_settings(settings.threshold)}
    LabelSettings(**cut, **{name: vars(settings)[name] for name in names})


def _finetuning(settings: SimpleNamespace) -> None:
    tried = grid.tunings_of(settings.arms, settings.tunings, settings.lrs)
    sizes = dict.fromkeys(settings.sizes, settings.size_arms)
    grid.check(settings.arms, tried, sizes, settings.seeds, settings.folds)
    robustness.pairs_of(settings.robustness)
    if "imagenet" in settings.arms and settings.imagenet_weights != published_weights.DOWNLOAD:
        with contextlib.suppress(published_weights.Unavailable):  # the arm is shown as not run
            published_weights.find(settings.imagenet_weights, settings.encoder)


@cache
def check_classifier(size: int, architecture: str, *config: Any) -> None:
    """Refuse a classifier that films of `size` do not pass; `config` is the rest of its own."""
    what = f"parameter 'architecture', {architecture!r}"
    networks.check_pass(what, lambda: Classifier(architecture, *config), size)


@cache
def check_network(size: int, network: str, encoder: str, depth: int, activation: str) -> None:
    """Refuse a segmentation network, likewise."""
    config = {"depth": depth, "activation": activation}
    what = f"parameters 'network' and 'encoder', {network} on {encoder!r}"
    networks.check_pass(what, lambda: networks.build(network, encoder, 1, **config), size)  # type: ignore[arg-type]


def _check_transfer(built: Mapping[str, tuple[int, str]], encoder: str) -> None:
    """Refuse depths and activations, by family or classifier, between which weights cannot go."""
    classifier, pretrained, tuned = map(built.get, (encoder, "pretrain", "finetune"))
    network = tuned or pretrained
    if classifier and network and (classifier[1] != network[1] or classifier[0] < network[0]):
        raise InputError(
            f"parameters 'encoder_depth', 'activation' are {network}, those of the classifier of "
            f"{encoder} {classifier}: give both one activation, and the classifier no less depth"
        )
    if tuned and pretrained and tuned != pretrained:
        raise InputError(
            f"parameters 'encoder_depth', 'activation' are {tuned}, those of pre-training "
            f"{pretrained}: give both the same"
        )


def check_plan(plan: Iterable[Instance]) -> None:
    """Refuse the first parameter of a plan that its stage could not work with."""
    films, size = PHANTOM, 0
    built: dict[str, tuple[int, str]] = {}
    pretrained: set[tuple[str, str]] = set()
    for instance in plan:
        family, model = instance.stage.family, parameters.declared(instance.notebook)
        ranges = RANGES.get(family, {})
        if not ranges.keys() <= model.model_fields.keys():
            continue  # another notebook stands in the place of ours
        model = parameters.narrowed(model, ranges)
        values = parameters.check(model, instance.parameters, instance.name)
        settings: Any = SimpleNamespace(**values)
        try:
            if "encoder_depth" in values:
                network = settings.network, settings.encoder, settings.encoder_depth
                check_network(size, *network, settings.activation)
                built[family] = settings.encoder_depth, settings.activation
                _check_transfer(built, settings.encoder)
            if family == "data":
                _data(settings)
                size = settings.size
                films = settings.stores.get("films", settings.source)
            elif family == "classifiers":
                _classifiers(settings, size)
                built[settings.architecture] = settings.depth, settings.activation
            elif family == "labels":
                _labels(settings)
            elif family == "pretrain":
                pretrained.add((settings.network, settings.arm))
                if OTHER_START.get(settings.arm, ("", settings.start))[1] == "imagenet":
                    need_imagenet("arm", settings.imagenet_weights, settings.encoder)
                if settings.arm == "truth" and films != PHANTOM:
                    raise InputError(
                        "arm 'truth' needs true masks of every finding, and the films come from "
                        f"{films!r}: they exist on the phantom only; take it out of the matrix"
                    )
            elif family == "finetune":
                _finetuning(settings)
                for arm in settings.arms:
                    if arm in PRETRAINED and (settings.network, arm) not in pretrained:
                        raise InputError(
                            f"parameter 'arms' names {arm!r}, which the run does not pre-train: "
                            "add it to 'arms' of the profile's matrix"
                        )
        except InputError as error:
            raise InputError(f"{instance.name}: {error}") from None
