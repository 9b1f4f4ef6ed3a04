"""The profiles of domain shift: each is one half of `laptop` and the other half of `open`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.machine import Json
from dollkit.workflow import stages

BEFORE = ("classifiers", "pretrain")
JUDGING = {"n_judge", "n_few", "n_occlude"}
"""Parameters of the labels that say how many films judge them, and change none of them."""

CHOICE = {"sizes", "size_arms", "robustness", "arms", "tunings", "folds", "lrs"}
"""Parameters of fine-tuning that choose which runs there are; rates are compared by themselves."""

PHANTOM_FILMS = {"n_films", "valid_fraction", "test_fraction"}
PHANTOM_TASKS = {"n_train_pool", "n_valid", "n_test"}


@pytest.fixture(autouse=True)
def _own_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOLLKIT_NOTEBOOKS", raising=False)


@functools.cache  # a plan looks up what every notebook imports, which takes seconds
def plan(profile: str) -> dict[str, Mapping[str, Json]]:
    """Parameters of every instance, without what names the run."""
    folder: Path | None = paths.ROOT if profile != "laptop" else None
    found = stages.plan(profile, folder)
    return {i.name: {k: v for k, v in i.parameters.items() if k != "profile"} for i in found}


def without(parameters: Mapping[str, Json], names: set[str]) -> dict[str, Json]:
    return {k: v for k, v in parameters.items() if k not in names}


HALVES = [("to-real", "laptop", "open"), ("to-phantom", "open", "laptop")]


@pytest.mark.parametrize(("profile", "films", "tasks"), HALVES)
def test_up_to_pretraining_it_is_the_one(profile: str, films: str, tasks: str) -> None:
    here, there = plan(profile), plan(films)
    early = [n for n in there if n.split("/")[0] in BEFORE]
    assert len(early) >= 5
    assert early == [n for n in here if n.split("/")[0] in BEFORE]
    for name in early:
        assert here[name] == there[name], name
    assert without(here["labels"], JUDGING) == without(there["labels"], JUDGING)


@pytest.mark.parametrize(("profile", "films", "tasks"), HALVES)
def test_from_there_on_it_is_the_other(profile: str, films: str, tasks: str) -> None:
    here, there = plan(profile), plan(tasks)
    mine = [n for n in here if n.startswith("finetune/")]
    assert len(mine) >= 2
    for name in mine:
        assert without(here[name], CHOICE) == without(there[name], CHOICE), name
        one, other = (_mapping(p[name]["lrs"]) for p in (here, there))
        assert one["full"] == other["full"]
        assert set(_list(here[name]["folds"])) <= set(_list(there[name]["folds"]))
        assert here[name]["tunings"] == {}
        arms = {"random", "classifier", "doll", "shuffled"}
        assert set(_list(here[name]["arms"])) == arms | ({"truth"} if films == "laptop" else set())


def test_their_stores_are_those_of_the_two() -> None:
    alone, real, to_real, to_phantom = (
        plan(p)["data"] for p in ("laptop", "open", "to-real", "to-phantom")
    )
    assert to_real["stores"] == {"films": "phantom"}
    assert to_phantom["stores"] == dict.fromkeys(("lungs", "infection", "organs"), "phantom")
    for mixed, phantoms in ((to_real, PHANTOM_FILMS), (to_phantom, PHANTOM_TASKS)):
        for name in ("source", "options", "skip_bad", "fill_from", "size"):
            assert mixed[name] == real[name]
        for name in (*phantoms, "size", "protocol", "seed"):
            assert mixed[name] == alone[name]


def _mapping(value: Any) -> Mapping[str, Any]:
    assert isinstance(value, dict)
    return value


def _list(value: Any) -> list[Any]:
    assert isinstance(value, list)
    return value
