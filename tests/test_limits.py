"""Limits of parameters: each has one, shipped profiles keep to it, and it refuses what it says."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import limits, stages
from dollkit.workflow.limits import CALLED, FREE, Limit
from dollkit.workflow.parameters import declared, mismatch
from dollkit.workflow.stages import Instance


@cache
def planned() -> dict[str, Instance]:
    """The first instance of each notebook family of the smoke profile."""
    found: dict[str, Instance] = {}
    for instance in stages.plan("smoke"):
        found.setdefault(instance.stage.family, instance)
    return found


def refused() -> list[Any]:
    """Each bad value of each limit, by family and parameter."""
    return [
        pytest.param(family, name, value, id=f"{family}-{name}-{value}")
        for family, by_name in limits.known().items()
        for name, limit in by_name.items()
        for value in limit.bad
    ]


def test_every_parameter_has_a_limit_and_no_other() -> None:
    for family, instance in planned().items():
        assert set(limits.known()[family]) == set(instance.parameters), family


@pytest.mark.parametrize(("family", "name", "value"), refused())
def test_bad_values_are_of_their_type_and_refused(family: str, name: str, value: Any) -> None:
    limit = limits.known()[family][name]
    notebook = paths.NOTEBOOKS / stages.STAGES[family].notebook
    known = declared(notebook)
    kind = known[name].kind
    value = int(value) if kind.name == "int" and isinstance(value, float) else value
    assert mismatch(value, kind) == ""
    assert limit.holds(known[name].default)
    assert not limit.holds(value)
    instance = planned()[family]
    spoiled = replace(instance, parameters=instance.parameters | {name: value})
    with pytest.raises(InputError) as error:
        limits.check_early([spoiled])
    assert f"parameter {name!r}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("limit", "fine", "wrong"),
    [
        (limits.least(1), [1, 5], [0, -1]),
        (limits.above(0), [0.1], [0, -1]),
        (limits.within(1, 5), [1, 5], [0, 6]),
        (limits.between(0, 1), [0.5], [0, 1]),
        (limits.side(), [32, 64], [0, 33, -32]),
        (limits.side(zero=True), [0, 32], [-32, 31]),
        (limits.among(("", "a")), ["", "a"], ["b"]),
        (limits.each(limits.least(1)), [[], [1, 2]], [[1, 0]]),
        (limits.each(limits.least(1), 2), [[1, 2]], [[], [1], [0, 1]]),
        (limits.maybe(limits.above(0)), [None, 1], [0]),
    ],
)
def test_each_kind_of_limit(limit: Limit, fine: list[Any], wrong: list[Any]) -> None:
    assert all(map(limit.holds, fine))
    assert not any(map(limit.holds, wrong))
    assert not any(map(limit.holds, limit.bad))
    assert limit.bad


def test_the_wrong_element_is_named() -> None:
    few = limits.each(limits.least(1), 1)
    assert few.told([3, -2]).startswith("has -2: use 1 or more")
    assert few.told([]).startswith("is empty")
    assert limits.each(limits.among(("a",))).told(["a", "b"]).startswith("names 'b'")


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("data", {"protocol": {"noise": 1.0}}, "no knob 'noise'"),
        ("data", {"source": "phantoms"}, "'phantoms'"),
        ("data", {"source": "nih+chexprt"}, "'chexprt'"),
        ("data", {"stores": {"film": "phantom"}}, "'film'"),
        ("classifiers", {"architecture": "tu-resnet11t"}, "no encoder 'tu-resnet11t'"),
        ("classifiers", {"architecture": "resnet51"}, "did you mean 'resnet50'"),
        ("labels", {"explainer": "shap"}, "'explainer' is 'shap'"),
        ("labels", {"baseline": "red"}, "'baseline' is 'red'"),
        ("labels", {"steps": -1}, "'steps' is -1"),
        ("labels", {"rule": "simpson", "steps": 9}, "'rule' is 'simpson'"),
        ("labels", {"rule": "gausslegendre"}, "only midpoint can be refined"),
        ("labels", {"max_error": -0.1}, "'max_error' is -0.1"),
        ("labels", {"mode": "quick"}, "'mode' is 'quick'"),
        ("labels", {"most_steps": 0}, "'most_steps' is 0"),
        ("labels", {"unsettled": "drop"}, "'unsettled' is 'drop'"),
        ("labels", {"part": "negative"}, "'part' is 'negative'"),
        ("labels", {"percentile": 101.0}, "'percentile' is 101.0"),
        ("labels", {"trust": "some"}, "'trust' is 'some'"),
        ("labels", {"smooth": -0.1}, "'smooth' is -0.1"),
        ("labels", {"guide": 0.6}, "'guide' is 0.6"),
        ("labels", {"threshold": "otzu"}, "'threshold'"),
        ("labels", {"threshold": "peak 1.5"}, "'threshold'"),
        ("labels", {"ignore": 1.2}, "'ignore' is 1.2"),
    ],
)
def test_what_hangs_together_goes_to_its_function(
    family: str, more: dict[str, Any], message: str
) -> None:
    instance = planned()[family]
    with pytest.raises(InputError) as error:
        limits.check_early([replace(instance, parameters=instance.parameters | more)])
    assert message in str(error.value)
    assert str(error.value).startswith(f"{instance.name}: ")
    assert "\n" not in str(error.value)


def test_nothing_called_or_free_claims_to_refuse() -> None:
    assert CALLED.bad == FREE.bad == ()
