"""The profiles of domain shift: each is one half of `laptop` and the other half of `open`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.workflow import stages

BEFORE = ("classifiers", "pretrain")
JUDGING = {"n_judge", "n_few", "n_occlude"}
"""Parameters of the labels that say how many films judge them, and change none of them."""
CHOICE = {"sizes", "size_arms", "robustness", "arms", "tunings", "folds", "lrs"}
"""Parameters of fine-tuning that choose which runs there are; rates are compared by themselves."""


@functools.cache  # a plan looks up what every notebook imports, which takes seconds
def plan(profile: str) -> dict[str, dict[str, Any]]:
    """Parameters of every instance, without what names the run."""
    instances = stages.plan(profile, paths.ROOT if profile != "laptop" else None)
    return {i.name: without(i.parameters, {"profile"}) for i in instances}


def without(parameters: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {k: v for k, v in parameters.items() if k not in names}


@pytest.mark.parametrize(
    ("profile", "films", "tasks"), [("to-real", "laptop", "open"), ("to-phantom", "open", "laptop")]
)
def test_it_is_one_up_to_pretraining_then_the_other(profile: str, films: str, tasks: str) -> None:
    here, before, after = plan(profile), plan(films), plan(tasks)
    early = [n for n in before if n.split("/")[0] in BEFORE]
    assert len(early) >= 4
    assert early == [n for n in here if n.split("/")[0] in BEFORE]
    assert {n: here[n] for n in early} == {n: before[n] for n in early}
    assert without(here["labels"], JUDGING) == without(before["labels"], JUDGING)
    arms = {"random", "imagenet", "classifier", "doll", "shuffled"}
    late = [n for n in here if n.startswith("finetune/")]
    assert len(late) >= 2
    for ours, theirs in ((here[name], after[name]) for name in late):
        assert without(ours, CHOICE) == without(theirs, CHOICE)
        assert ours["lrs"]["full"] == theirs["lrs"]["full"]
        assert set(ours["folds"]) <= set(theirs["folds"])
        assert (ours["tunings"], set(ours["arms"])) == ({}, arms)


def test_their_stores_are_those_of_the_two() -> None:
    alone, real, to_real, to_phantom = (
        plan(p)["data"] for p in ("laptop", "open", "to-real", "to-phantom")
    )
    assert to_real["stores"] == {"films": "phantom"}
    assert to_phantom["stores"] == dict.fromkeys(("lungs", "infection", "organs"), "phantom")
    films = ["n_films", "valid_fraction", "test_fraction"]
    tasks = ["n_train_pool", "n_valid", "n_test"]
    for mixed, names in ((to_real, films), (to_phantom, tasks)):
        for name in ("source", "options", "skip_bad", "fill_from", "size"):
            assert mixed[name] == real[name]
        for name in (*names, "size", "protocol", "seed"):
            assert mixed[name] == alone[name]
