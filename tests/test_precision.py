"""`precision: auto` becomes what the machine computes, wherever it is asked for."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import pytest
import torch

from dollkit.common import compute
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.explanations.prepared_classifier import prepare
from dollkit.training.loss_and_optimiser import Recipe
from dollkit.workflow.stage import begin


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine that computes bfloat16, and one that does not: what `auto` is there."""
    monkeypatch.setattr(compute, "computes_bfloat16", lambda device: request.param)
    return "bfloat16" if request.param else "float32"


@pytest.mark.usefixtures("toy")
def test_checkpoints_and_parts_of_another_precision_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = []
    for answer in (True, False, False):
        monkeypatch.setattr(compute, "computes_bfloat16", lambda device, a=answer: a)
        stage = begin("data", {"profile": "toy", "size": 3})
        stage.params = {**stage.params, "precision": "auto"}
        keys.append(stage.key())
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize(
    "settings",
    [
        lambda p: Recipe(steps=1, batch=1, lr=1.0, precision=p),
        lambda p: ExplainerSettings(precision=p),
    ],
)
def test_what_a_checkpoint_or_label_keeps_is_never_auto(settings: Any, machine: str) -> None:
    for asked, kept in (("auto", machine), ("float32", "float32"), ("bfloat16", "bfloat16")):
        assert asdict(settings(asked))["precision"] == kept
    with compute.autocast(torch.device("cpu"), "auto"):
        assert str((torch.ones(2, 2) @ torch.ones(2, 2)).dtype) == f"torch.{machine}"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="flags of x86")
def test_the_hardware_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for onednn, avx512_bf16, amx, answer in (
        (True, True, False, True),
        (True, False, True, True),
        (True, False, False, False),  # AVX-512 that converts to float32: slower than float32
        (False, True, True, False),  # switched off by ONEDNN_MAX_CPU_ISA
    ):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda a=onednn: a)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda a=avx512_bf16: a)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda a=amx: a)
        assert compute.computes_bfloat16(torch.device("cpu")) is answer


def test_depthwise_convolutions_stay_in_float32_on_a_cpu() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Conv2d(4, 4, 1),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    assert [compute.depthwise(layer) for layer in net] == [False, True, False, False, False]
    x = torch.randn(2, 1, 9, 9)
    seen: list[torch.dtype] = []
    for layer in net[:3]:
        layer.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    with compute.autocast(torch.device("cpu"), "bfloat16"):
        net(x).sum().backward()
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]
    body = prepare(net, "bfloat16", x).body
    assert body.get_submodule("1")(torch.ones(1, 4, 3, 3).bfloat16()).dtype is torch.bfloat16
    assert next(body.get_submodule("1").parameters()).dtype is torch.float32
