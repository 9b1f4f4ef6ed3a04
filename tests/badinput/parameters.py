"""Profiles that are none, and knobs of `make reproduce`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from dollkit.common import paths
from dollkit.workflow import stages
from dollkit.workflow.reproduce import check_knobs
from tests.badinput.case import Case

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


def _bad_profile(text: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        notebooks = folder / "notebooks"
        shutil.copytree(paths.NOTEBOOKS, notebooks)
        (notebooks / "params" / "bad.yaml").write_text(text)
        with mock.patch.dict(os.environ, DOLLKIT_NOTEBOOKS=str(notebooks)):
            return stages.plan("bad")

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
    for name, text in PROFILES.items():
        yield Case("profile", name, _bad_profile(text), ("bad.yaml", "profile bad"))
    for knob, calls in KNOBS.items():
        for given in calls:
            named = (f"{knob}=", "unknown profile") if knob == "PROFILE" else (f"{knob}=",)
            yield Case("knob", f"{knob} {given}", _knobs(*given), named)
