"""Every tuning: what moves, what stays, where it starts, what its checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dollkit.common import TUNINGS, compute
from dollkit.common.errors import InputError
from dollkit.training import adapters, networks, weights
from tests import far, same
from tests.small_files import error_of
from tests.small_run import ENCODER

PARTIAL = (*TUNINGS[1:], "adapter2", "lora2")


def network(kind: str = "pspnet", encoder: str = ENCODER) -> nn.Module:
    """As after pre-training: statistics that are not those of a fresh network."""
    with compute.seeded(0):
        net = networks.build(kind, encoder, 2)
        net.train()
        with torch.no_grad():
            net(2 * torch.randn(2, 1, 32, 32) + 1)
        return net.eval()


def films() -> torch.Tensor:
    with compute.seeded(5):
        return torch.randn(2, 1, 32, 32)


def train(net: nn.Module, tuning: str) -> None:
    """Some steps as `fit` takes them."""
    moving = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=0.01)
    net.train(tuning == "full")
    for _ in range(3):
        optimiser.zero_grad()
        net(films()).sub(1).square().mean().backward()
        optimiser.step()
    net.eval()


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize(
    ("kind", "encoder"),
    [("pspnet", "resnet18"), ("pspnet", "tu-convnext_atto"),
     *(pytest.param(k, "resnet18", marks=pytest.mark.slow) for k in [*networks.NETWORKS][1:])],
)  # fmt: skip
def test_only_what_is_listed_moves_from_where_it_was(tuning: str, kind: str, encoder: str) -> None:
    net = network(kind, encoder)
    with torch.no_grad():
        before = net(films())
        names = adapters.prepare(net, tuning)
        assert far(net(films()), before) < 1e-4
    state = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, tuning)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, state[k])}
    statistics = {k for k in state if "running_" in k or "num_batches" in k}
    if tuning == "full" and statistics:
        assert moved & statistics
        moved -= statistics
    assert moved == set(names)


@pytest.mark.parametrize("tuning", PARTIAL)
def test_checkpoint_holds_what_was_trained_and_comes_back(tuning: str, tmp_path: Path) -> None:
    net, again, path = network(), network(), tmp_path / "tuned.safetensors"
    names = adapters.prepare(net, tuning)
    train(net, tuning)
    weights.save_tuned(net, names, tuning, path)
    trained, total = networks.trainable(net)
    assert 4 * trained <= path.stat().st_size < 4 * trained + 200 * len(names) + 1000  # a header
    assert trained < total / 2
    assert weights.load_tuned(again, path) == names
    assert same(net.state_dict(), again.state_dict())


def test_what_each_tuning_trains() -> None:
    found = {}
    for tuning in TUNINGS:
        net = network(encoder="resnet18")
        found[tuning] = set(adapters.prepare(net, tuning))
    head = {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert all(head <= names for tuning, names in found.items() if tuning != "head")
    assert all(".down." in n or ".up." in n for n in found["lora"] - head)
    assert all(n.startswith("encoder.") for n in found["adapter"] - head)
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n.rpartition(".")[0] for n in found["bn"] - head} <= norms
    assert all(n.endswith(".bias") for n in found["bias"] - head)
    assert not any(n.startswith(("encoder.layer3", "encoder.layer4")) for n in found["lora"])
    sizes = [networks.trainable(network())[1]]
    for tuning in ("adapter16", "adapter", "adapter2", "adapter1", "lora1", "lora", "lora16"):
        net = network(encoder="resnet18")
        adapters.prepare(net, tuning)
        sizes.append(networks.trainable(net)[0])
        beside = [m for m in net.modules() if isinstance(m, adapters.LowRank)]
        assert {m.down.out_channels for m in beside} == (
            {int(tuning[4:] or 4)} if beside else set()
        )
    assert sizes[1] < sizes[2] < sizes[3] < sizes[4]
    assert sizes[5] < sizes[6] < sizes[7]
    layer_norms = adapters.prepare(network(encoder="tu-convnext_atto"), "bn")
    assert any(n.startswith("encoder.") and n.endswith("norm.weight") for n in layer_norms)


def test_lora_is_a_change_of_the_weight_of_low_rank() -> None:
    with compute.seeded(1):
        conv = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        beside = adapters.LowRank(conv, 2)
        nn.init.normal_(beside.up.weight)
        x = torch.randn(2, 6, 9, 9)
    change = torch.einsum("or,rikl->oikl", beside.up.weight[:, :, 0, 0], beside.down.weight)
    assert torch.linalg.matrix_rank(change.flatten(1)) == 2
    whole = nn.functional.conv2d(x, conv.weight + change, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(beside(x), whole, rtol=1e-5, atol=1e-6)


def test_bad_tunings_and_checkpoints_are_named(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "tuned.safetensors"
    for tuning in ("prompt", "bn4", "lora0", "lora04"):
        assert f"'tuning' names '{tuning}'" in error_of(adapters.prepare, net, tuning)
    assert "no readable adapter" in error_of(weights.load_tuned, net, path)
    names = adapters.prepare(net, "bn")
    weights.save_tuned(net, names[1:], "bn", path)
    assert f"tensor {names[0]} is missing" in error_of(weights.load_tuned, network(), path)
    with pytest.raises(InputError, match="made by '', not by 'another run'"):
        weights.load_tuned(network(), path, made_by="another run")
