"""Parameters: a slip is one clear line before any cell runs, a bad value one before any stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.workflow import parameter_ranges, reproduce, stages
from dollkit.workflow.parameters import check, declared
from dollkit.workflow.stages import Instance
from tests.small_files import error_of
from tests.toys import write_notebook

CELL = """\
# a heading
profile: str = "smoke"  # parameter file
epochs: int = 3  # passes, over "a = b" films
rate: float = 1  # per step # twice
names: list[str] = ["a # b", "c"]  # which
sizes: list[float] = [8, 16.5]  # px
limit: int | None = None  # films, none: all
split: dict[str, float] = {"train": 0.5}  # share
on: bool = True  # whether
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "01_data.ipynb", "print(1)", parameters=CELL)


def test_names_types_and_defaults(notebook: Path) -> None:
    found = declared(notebook).model_fields
    assert {name: p.annotation for name, p in found.items()} == {
        "profile": str, "epochs": int, "rate": float, "names": list[str], "sizes": list[float],
        "limit": int | None, "split": dict[str, float], "on": bool,
    }  # fmt: skip
    assert found["names"].default == ["a # b", "c"]
    values = check(declared(notebook), {"rate": 2, "sizes": [3]}, "")
    assert repr(values) == "{'rate': 2.0, 'sizes': [3.0]}"  # integers become floats


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = 3", "only lines like"),
        ("x: set[int] = 1", "the type of 'x' must be"),
        ("x: int = 1 + n", "plain JSON value"),
        ("x: int = 1.5", "'x' is 1.5: (float) it should be a valid integer"),
        ("epochs: int = 4", "declared twice"),
        ("x: int = = 1", "line 10"),
    ],
)
def test_bad_parameters_cells(tmp_path: Path, line: str, message: str) -> None:
    path = write_notebook(tmp_path / "n.ipynb", parameters=f"{CELL}{line}\n")
    assert message in error_of(declared, path)


def test_damaged_notebooks(notebook: Path) -> None:
    notebook.write_text(notebook.read_text().replace('"parameters"', '"other"'))
    assert "has 0 code cells tagged 'parameters'" in error_of(declared, notebook)
    for content in ("", '{"cells": [{', "\x00\xff", "[]"):
        notebook.write_text(content, encoding="latin-1")
        assert "01_data.ipynb: not a readable notebook" in error_of(declared, notebook)
    notebook.unlink()
    assert "01_data.ipynb: no such notebook" in error_of(declared, notebook)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 5}, "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ({"epochs": True}, "parameter 'epochs' is True: (bool) it should be a valid integer"),
        ({"rate": float("nan")}, "parameter 'rate' is nan: it should be a finite number"),
        ({"rate": "1e-3"}, "write 1.0e-3"),
    ],
)
def test_a_value_that_cannot_stand_is_named(
    notebook: Path, values: dict[str, Any], message: str
) -> None:
    error = error_of(check, declared(notebook), values, "here.yaml: data")
    assert error.startswith("here.yaml: data: ")
    assert message in error


@cache  # a plan looks up what every notebook imports
def planned(profile: str = "smoke") -> list[Instance]:
    return stages.plan(profile, paths.ROOT if profile in ("open", "paper") else None)


def changed(name: str, **more: Any) -> list[Instance]:
    return [
        replace(i, parameters={**i.parameters, **more}) if i.name.startswith(name) else i
        for i in planned()
    ]


def test_every_number_has_a_range() -> None:
    # The others are checked by the functions of their stage.
    others = {
        "labels": {"steps", "max_error", "most_steps", "percentile", "smooth", "guide", "ignore"},
        "pretrain": {"encoder_depth"}, "finetune": {"encoder_depth"},
    }  # fmt: skip
    for family, stage in stages.STAGES.items():
        known = declared(paths.NOTEBOOKS / stage.notebook).model_fields
        ranges = parameter_ranges.RANGES.get(family, {}).keys()
        assert ranges <= known.keys(), f"{family}: a range of no parameter"
        numbers = {n for n, p in known.items() if p.annotation in (int, float, list[int])}
        assert numbers - ranges == others.get(family, set())


IMAGENET = {"arms": ["imagenet"], "tunings": {}, "size_arms": []}
OTHERS = ("laptop", "open", "desk", "gpu")


@pytest.mark.parametrize(
    "profile", ["smoke", "paper", *(pytest.param(p, marks=pytest.mark.slow) for p in OTHERS)]
)
def test_shipped_profiles_pass(profile: str) -> None:
    parameter_ranges.check_plan(planned(profile))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("data", {"size": 33}, "data: parameter 'size' is 33: it should be a multiple of 32"),
        ("data", {"fill_from": "phantoms"}, "'phantoms': it should be '' or 'phantom'"),
        ("data", {"protocol": {"noise": 1.0}}, "no knob 'noise'"),
        ("data", {"source": "nih+chexprt"}, "'chexprt'"),
        ("data", {"stores": {"film": "phantom"}}, "'film'"),
        ("data", {"source": "nih"}, "pretrain/pspnet-truth: arm 'truth' needs true masks"),
        ("classifiers", {"architecture": "resnet51"}, "did you mean 'resnet50'"),
        ("classifiers", {"init": "imagenet"}, "'init' asks for ImageNet: no weights: no package"),
        ("finetune/", {**IMAGENET, "imagenet_weights": "no.pth"}, "no.pth: no such file"),
        ("labels", {"explainer": "shap"}, "'explainer' is 'shap'"),
        ("labels", {"threshold": "peak 1.5"}, "'threshold'"),
        ("pretrain/pspnet-doll", {"dice": 1.0}, "pretrain/pspnet-doll: parameter 'dice' is 1.0"),
        ("finetune/", {"network": "deeplabv3plus", "encoder": "tu-dla34"}, "deeplabv3plus on"),
        ("finetune/", {"encoder": "tu-swin_tiny_patch4_window7_224"}, "films of 64 pixels do not"),
        ("classifiers", {"small": 96}, "'small' is 96, and films have 64"),
        ("classifiers/tu-tf", {"activation": "relu"}, "give both one activation"),
        ("finetune/", {"encoder_depth": 4}, "(4, 'silu'), those of pre-training (3, 'silu')"),
        ("data", {"n_films": 10**12}, "it should be less than or equal to 100000000"),
        ("classifiers", {"seed": 2**70}, "it should be less than"),
        ("finetune/", {"arms": ["prior"], "tunings": {}, "size_arms": []}, "does not pre-train"),
        ("finetune/", {"tunings": {"lora": ["prior"]}}, "'prior' under 'lora'"),
        ("finetune/", {"robustness": {"blur": [1.0]}}, "'robustness' names 'blur'"),
        ("finetune/", {"lrs": {"other": [0.0]}}, "'lrs'['other'][0] is 0.0: it should be greater"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named(name: str, more: dict[str, Any], message: str) -> None:
    assert message in error_of(parameter_ranges.check_plan, changed(name, **more))


@pytest.mark.slow
def test_a_profile_is_checked_before_anything_runs(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, since who waits for a run need not hold torch."""
    book = shutil.copytree(paths.NOTEBOOKS, toy / "copy")
    smoke = book / "params/smoke.yaml"
    smoke.write_text(f"{smoke.read_text()}pretraining:\n  dice: 2.0\n")
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(book))
    message = error_of(reproduce.reproduce, "smoke", None, "1", "cpu")
    assert message.startswith("pretrain/pspnet-doll: parameter 'dice' is 2.0")
    assert not list((toy / "runs").rglob("*.npy"))


def test_waiting_for_a_run_and_reporting_it_need_no_torch() -> None:
    """It would hold 300 MB, and take three seconds of every report notebook."""
    ours = "dollkit.workflow.reproduce, dollkit.workflow.stage, dollkit.labels.summary"
    names = ("page", "results", "film_figures", "in_notebook")
    report = ", ".join(f"dollkit.report.{name}" for name in names)
    code = f"import sys, {ours}, {report}; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": paths.python_path()}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
