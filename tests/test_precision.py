"""`precision: auto` becomes what the machine computes, wherever it is asked for."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.ensemble import Explain
from dollkit.training.recipe import Recipe
from dollkit.workflow import parameters, stages
from dollkit.workflow.stage import RunningStage, begin

NOTEBOOKS = sorted(parameters.notebooks().glob("*.ipynb"))
HEAVY = ("classifiers", "labels", "pretrain", "finetune", "cost")
CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine that computes bfloat16, and one that does not: what `auto` is there."""
    monkeypatch.setattr(compute, "computes_bfloat16", lambda device: request.param)
    return "bfloat16" if request.param else "float32"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_auto_is_the_default_of_every_notebook(notebook: Path) -> None:
    declared = parameters.declared(notebook)
    if "precision" in declared:
        assert declared["precision"].default == "auto"


@pytest.mark.parametrize("profile", ["laptop", "desk", "gpu", "open", "smoke"])
def test_no_profile_asks_for_what_some_machines_lack(profile: str, tmp_path: Path) -> None:
    needs = parameters.read_profile(profile).get("needs_data")
    plan = stages.plan(profile, tmp_path if needs else None)
    heavy = [i for i in plan if i.stage.family in HEAVY]
    assert {i.parameters["precision"] for i in heavy} == {"auto"}


@pytest.mark.parametrize("family", HEAVY)
def test_a_stage_tells_what_auto_became(family: str, machine: str, toy: Path) -> None:
    del toy
    stage = _stage(family, "auto")
    assert stage.precision == machine
    other = {"float32": "bfloat16", "bfloat16": "float32"}[machine]
    assert _stage(family, other).precision == other


def test_checkpoints_and_parts_of_another_precision_do_not_count(
    monkeypatch: pytest.MonkeyPatch, toy: Path
) -> None:
    del toy
    keys = {}
    for answer in (True, False):
        monkeypatch.setattr(compute, "computes_bfloat16", lambda device, a=answer: a)
        keys[answer] = _stage("finetune", "auto").key()
    assert keys[True] != keys[False]
    assert keys[False] == _stage("finetune", "auto").key()


def _stage(family: str, precision: str) -> RunningStage:
    stage = begin("data", {"profile": "toy", "size": 3})
    stage.params = {**stage.params, "precision": precision}
    assert "precision" in parameters.declared(
        parameters.paths.NOTEBOOKS / stages.STAGES[family].notebook
    )
    return stage


def test_stages_without_the_parameter_are_float32(toy: Path, machine: str) -> None:
    del toy, machine
    assert begin("data", {"profile": "toy", "size": 3}).precision == "float32"


@pytest.mark.parametrize(
    "settings",
    [lambda p: Recipe(steps=1, batch=1, lr=1.0, precision=p), lambda p: Explain(precision=p)],
)
def test_what_a_checkpoint_or_label_keeps_is_never_auto(settings: Any, machine: str) -> None:
    assert asdict(settings("auto"))["precision"] == machine
    assert asdict(settings("float32"))["precision"] == "float32"
    assert asdict(settings("bfloat16"))["precision"] == "bfloat16"


def test_autocast_computes_in_what_auto_became(machine: str) -> None:
    with compute.autocast(CPU, "auto"):
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert str(made.dtype) == f"torch.{machine}"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="flags of x86")
@pytest.mark.parametrize(
    ("onednn", "avx512_bf16", "amx", "answer"),
    [
        (True, True, False, True),
        (True, False, True, True),
        (True, False, False, False),  # AVX-512 that converts to float32: slower than float32
        (False, True, True, False),  # switched off by ONEDNN_MAX_CPU_ISA
    ],
)
def test_the_hardware_is_asked(
    onednn: bool, avx512_bf16: bool, amx: bool, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert compute.computes_bfloat16(CPU) is answer


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="'precision' is 'half': use one of auto, bfloat16"):
        compute.resolve_precision("half")
    with pytest.raises(InputError, match="precision"):
        Recipe(steps=1, batch=1, lr=1.0, precision="half")
