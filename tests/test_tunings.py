"""Every tuning: what moves, what stays, where it starts, what its checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import adapters, networks, weights
from tests import far

ENCODERS = ("resnet18", "tu-convnext_atto")
PARTIAL = adapters.TUNINGS[1:]


def network(encoder: str = "resnet18", seed: int = 0) -> nn.Module:
    """As after pre-training: statistics that are not those of a fresh network."""
    with compute.seeded(seed):
        net = networks.build("pspnet", encoder, 2)
        net.train()
        with torch.no_grad():
            for _ in range(2):
                net(2 * torch.randn(2, 1, 64, 64) + 1)
        return net.eval()


def films(n: int = 2) -> torch.Tensor:
    with compute.seeded(5):
        return torch.randn(n, 1, 64, 64)


def train(net: nn.Module, tuning: str, steps: int = 3) -> None:
    """Some steps as `loop.fit` takes them."""
    moving = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=0.01)
    adapters.train_mode(net, tuning)
    for _ in range(steps):
        optimiser.zero_grad()
        net(films()).sub(1).square().mean().backward()
        optimiser.step()
    net.eval()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("tuning", adapters.TUNINGS)
def test_only_what_is_listed_moves(tuning: str, encoder: str) -> None:
    net = network(encoder)
    names = adapters.prepare(net, tuning)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, tuning)
    state = net.state_dict()
    moved = {k for k, v in state.items() if not torch.equal(v, before[k])}
    statistics = {k for k in state if "running_" in k or "num_batches" in k}
    if tuning == "full":
        assert moved & statistics
        moved -= statistics
    assert moved == set(names)


@pytest.mark.parametrize("tuning", PARTIAL)
def test_it_starts_where_the_network_was(tuning: str) -> None:
    net = network()
    with torch.no_grad():
        before = net(films())
        adapters.prepare(net, tuning)
        adapters.train_mode(net, tuning)
        assert far(net(films()), before) < 1e-4


@pytest.mark.parametrize("tuning", PARTIAL)
@pytest.mark.parametrize("kind", [k for k in networks.NETWORKS if k != "pspnet"])
def test_it_works_on_every_network(kind: str, tuning: str) -> None:
    with compute.seeded(0):
        net = networks.build(kind, ENCODERS[0], 2).eval()
    with torch.no_grad():
        before = net(films())
    names = adapters.prepare(net, tuning)
    with torch.no_grad():
        assert far(net(films()), before) < 1e-4
    train(net, tuning, 1)
    assert all(p.grad is not None for n, p in net.named_parameters() if n in names)


@pytest.mark.parametrize("tuning", PARTIAL)
def test_checkpoint_holds_what_was_trained_and_comes_back(tuning: str, tmp_path: Path) -> None:
    net, again = network(), network()
    names = adapters.prepare(net, tuning, rank=2)
    train(net, tuning, 1)
    size = weights.save_tuned(net, names, tuning, tmp_path / "tuned.safetensors", rank=2)
    trained, total = networks.trainable(net)
    assert size == (tmp_path / "tuned.safetensors").stat().st_size
    assert 4 * trained <= size < 4 * trained + 200 * len(names) + 1000  # numbers and a header
    assert trained < (0.5 if tuning == "head" else 0.1) * total
    assert weights.load_tuned(again, tmp_path / "tuned.safetensors") == names
    with torch.no_grad():
        assert torch.equal(net(films()), again.eval()(films()))


def test_what_each_tuning_trains() -> None:
    found = {}
    for tuning in adapters.TUNINGS:
        net = network()
        found[tuning] = set(adapters.prepare(net, tuning))
    head = {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert all(head <= names for tuning, names in found.items() if tuning != "head")
    assert all(".down." in n or ".up." in n for n in found["lora"] - head)
    assert all(n.startswith("encoder.") for n in found["adapter"] - head)
    norms = {n for n, m in network().named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n.rpartition(".")[0] for n in found["bn"] - head} <= norms
    assert all(n.endswith(".bias") for n in found["bias"] - head)
    assert not any(n.startswith(("encoder.layer3", "encoder.layer4")) for n in found["lora"])


def test_rank_decides_the_size() -> None:
    counts = []
    for rank in (1, 4):
        net = network()
        adapters.prepare(net, "lora", rank=rank)
        head = sum(p.numel() for p in net.segmentation_head.parameters())  # type: ignore[union-attr]
        counts.append(networks.trainable(net)[0] - head)
    assert counts[1] == 4 * counts[0]


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


@pytest.mark.parametrize("kind", ["pspnet", "unet"])
def test_lora_finds_the_encoders_convolutions_and_no_others(kind: str) -> None:
    net = networks.build(kind, "densenet121", 2)
    used = {n for n, p in net.named_parameters() if p.requires_grad and n.startswith("encoder.")}
    wanted = {n for n in used if net.get_parameter(n).ndim == 4}
    names = adapters.prepare(net, "lora")
    downs = {n.replace(".down.", ".") for n in names if ".down." in n}
    assert downs == wanted
    assert len(wanted) > (60 if kind == "unet" else 20)


def test_norm_layers_of_a_convnext_are_layer_norms() -> None:
    net = network("tu-convnext_atto")
    names = adapters.prepare(net, "bn")
    assert any(n.startswith("encoder.") and n.endswith("norm.weight") for n in names)


def test_bad_tunings_and_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'prompt'"):
        adapters.prepare(network(), "prompt")
    with pytest.raises(InputError, match="'lora_rank' is 0"):
        adapters.prepare(network(), "lora", rank=0)
    with pytest.raises(InputError, match="no readable adapter"):
        weights.load_tuned(network(), tmp_path / "none.safetensors")
    net = network()
    names = adapters.prepare(net, "bn")
    path = tmp_path / "tuned.safetensors"
    weights.save_tuned(net, names[1:], "bn", path, rank=1)
    with pytest.raises(InputError, match="one side only"):
        weights.load_tuned(network(), path)
    with torch.no_grad():
        net.get_parameter(names[0])[0] = float("nan")
    weights.save_tuned(net, names, "bn", path, rank=1)
    with pytest.raises(InputError, match="NaN"):
        weights.load_tuned(network(), path)
