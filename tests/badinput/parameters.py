"""Parameters: values out of range, of another type, and profiles that are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.workflow import limits, parameters, stages
from dollkit.workflow.reproduce import check_knobs
from tests.badinput.case import Case

OTHER_TYPES: dict[str, tuple[Any, ...]] = {
    "int": ("many", 1.5, True, None, [3]),
    "float": ("1e-3", None, [0.1], float("nan")),
    "str": (3, None, ["a"]),
    "bool": ("yes", 1, None),
    "list": ("a", 3, {"a": 1}, [None]),
    "dict": ("a", 3, [1], {1: 2}),
}
"""Values that YAML gives for a slip of the pen, by the type that is wanted."""

PROFILES = {
    "no YAML": "data: [",
    "tab": "data:\n\tn_films: 3\n",
    "key twice": "data:\n  size: 64\n  size: 96\n",
    "key twice, a list": "? [data]\n: 64\n? [data]\n: 96\n",
    "no date": "data: 2026-13-01\n",
    "deep": "data: " + "[" * 5000,
    "empty": "",
    "a list": "- data\n- labels\n",
    "text": "hello\n",
    "unknown section": "dta:\n  size: 64\n",
    "unknown parameter": "data:\n  n_film: 3\n",
    "unknown common": "common:\n  n_filmz: 3\n",
    "section is a number": "data: 3\n",
    "set by the run": "pretrain:\n  arm: doll\n",
    "matrix is text": "matrix: all\n",
    "matrix unknown": "matrix:\n  arm: [doll]\n",
    "matrix empty": "matrix:\n  architectures: []\n",
    "matrix path": "matrix:\n  architectures: [../../etc]\n",
    "matrix twice": "matrix:\n  tasks: [lungs, lungs]\n",
    "encoder not trained": "matrix:\n  encoder: resnet999\n",
    "needs_data is text": "needs_data: maybe\n",
    "bytes": "data: !!binary aGVsbG8=\n",
    "python object": "data: !!python/object/apply:os.getcwd []\n",
}


@cache
def _planned() -> dict[str, stages.Instance]:
    found: dict[str, stages.Instance] = {}
    for instance in stages.plan("smoke"):
        found.setdefault(instance.stage.family, instance)
    return found


def _out_of_range(family: str, name: str, value: Any) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        instance = _planned()[family]
        spoiled = replace(instance, parameters=instance.parameters | {name: value})
        return limits.check_early([spoiled])

    return run


def _other_type(family: str, name: str, value: Any) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        notebook = _planned()[family].notebook
        return parameters.resolve(notebook, [("bad.yaml: section", {name: value}, True)])

    return run


def slip(parameter: parameters.Parameter) -> Any:
    """One value of another type for each parameter, another one for the next of its type."""
    wrong = OTHER_TYPES[parameter.kind.name]
    value = wrong[parameter.line % len(wrong)]
    return [1] if value is None and parameter.kind.optional else value


@contextmanager
def _profile(folder: Path, text: str) -> Iterator[str]:
    """The real notebooks with one more profile, ``bad``."""
    notebooks = folder / "notebooks"
    shutil.copytree(paths.NOTEBOOKS, notebooks)
    (notebooks / "params" / "bad.yaml").write_text(text)
    before = os.environ.get("DOLLKIT_NOTEBOOKS")
    os.environ["DOLLKIT_NOTEBOOKS"] = str(notebooks)
    try:
        yield "bad"
    finally:
        if before is None:
            del os.environ["DOLLKIT_NOTEBOOKS"]
        else:
            os.environ["DOLLKIT_NOTEBOOKS"] = before


def _bad_profile(text: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        with _profile(folder, text) as name:
            return stages.plan(name)

    return run


def _knobs(*given: str) -> Callable[[Path], object]:
    return lambda folder: check_knobs(*(g.replace("{}", str(folder)) for g in given))


KNOBS = {
    "PROFILE": [("lap top", "", "1", "auto"), ("", "", "1", "auto"), ("../x", "", "1", "auto")],
    "JOBS": [("smoke", "", j, "auto") for j in ("0", "-1", "two", "1.5", "")],
    "DEVICE": [("smoke", "", "1", d) for d in ("tpu", "cuda:0", "")],
    "EXECUTOR": [("smoke", "", "1", "auto", "pbs")],
    "DATA": [("open", "{}/nowhere", "1", "auto"), ("open", "{}/a\0b", "1", "auto")],
}


def cases() -> Iterator[Case]:
    for family, by_name in limits.known().items():
        declared = parameters.declared(_planned()[family].notebook)
        for name, limit in by_name.items():
            for value in limit.bad:
                told = f"{family}.{name} = {value!r}"
                run = _out_of_range(family, name, value)
                yield Case("parameter out of range", told, run, (f"parameter {name!r}",))
        for name, parameter in declared.items():
            value = slip(parameter)
            told = f"{family}.{name} = {value!r}"
            run = _other_type(family, name, value)
            yield Case("parameter of another type", told, run, (f"'{name}'",))
    for name, text in PROFILES.items():
        yield Case("profile", name, _bad_profile(text), ("bad.yaml", "profile bad"))
    for knob, calls in KNOBS.items():
        for given in calls:
            named = (f"{knob}=", "unknown profile") if knob == "PROFILE" else (f"{knob}=",)
            yield Case("knob", f"{knob} {given}", _knobs(*given), named)
