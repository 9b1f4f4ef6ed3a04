"""Networks and encoders: shapes, gradients, saved and loaded, transfer; tunings in test_tunings."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import networks, weights
from dollkit.training.networks import encoder
from tests import far, same
from tests.small_run import CPU, ENCODER

ENCODERS = ("resnet18", "resnet50", "densenet121", "tu-convnext_atto", "tu-resnet10t")
QUICK = [("pspnet", "tu-convnext_atto"), *((network, ENCODER) for network in networks.NETWORKS)]
PAIRS = [
    *QUICK,
    *(
        pytest.param(network, name, marks=pytest.mark.slow)
        for network in networks.NETWORKS
        for name in ENCODERS
        if (network, name) not in [*QUICK, ("deeplabv3plus", "densenet121")]
    ),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this file may open a connection."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network was fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refused)


def build(
    classes: int = 2, network: str = "pspnet", encoder: str = ENCODER, activation: str = "silu"
) -> nn.Module:
    with compute.seeded(classes):
        return networks.build(network, encoder, classes, activation=activation)


@pytest.mark.parametrize(("network", "encoder"), PAIRS)
def test_shapes_gradients_saved_and_loaded(network: str, encoder: str, tmp_path: Path) -> None:
    net = build(3, network, encoder)
    # Two films: batch norm has no statistics of a single value.
    net(torch.randn(2, 1, 64, 64)).square().mean().backward()
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(p.grad).all(), name
        else:  # a stage beyond the network's depth
            assert name in networks.unused(net), name
            assert name.startswith("encoder."), name
    weights.save(net, tmp_path, networks.config_of(net))
    again = weights.load_network(tmp_path, CPU)
    (tmp_path / "weights.safetensors").unlink()  # up to 150 MB, and pytest keeps folders
    assert same(again.state_dict(), net.state_dict())
    with torch.no_grad():
        for side in (64, 96):
            x = torch.randn(1, 1, side, side)
            out = net.eval()(x)
            assert out.shape == (1, 3, side, side)
            assert far(again(x), out) < 1e-4  # another memory format: sums in another order


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_activation_is_as_asked(network: str) -> None:
    for activation, kept in (("relu", True), ("silu", False)):
        net = build(network=network, activation=activation)
        assert any(isinstance(m, nn.ReLU) for m in net.modules()) is kept


def test_stages_beyond_its_depth_are_not_trained() -> None:
    net = build(encoder="resnet18")
    idle = {n for n, p in net.named_parameters() if not p.requires_grad}
    late = ("encoder.layer3", "encoder.layer4")
    assert idle == {n for n, _ in net.named_parameters() if n.startswith(late)}
    assert networks.unused(net) == idle
    trained, total = networks.trainable(net)
    assert trained == total == sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_stages_that_timm_would_run_for_nothing_are_removed() -> None:
    net = build(encoder="tu-tf_efficientnet_lite0")
    whole = encoder("tu-tf_efficientnet_lite0", 5, "silu").eval()
    own = net.get_submodule("encoder").eval()
    own.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own.state_dict()})
    x = torch.rand(2, 1, 64, 64)
    assert not networks.unused(net)
    assert own(x)[-1].equal(whole(x)[3])


@pytest.mark.parametrize(
    ("network", "encoder", "said"),
    [("segnet", "resnet18", "'network' is 'segnet'"), ("unet", "resnet19", "no unet on 'resnet19'"),
     ("unet", "tu-nothing", "no unet on 'tu-nothing'"),
     ("deeplabv3plus", "densenet121", "no deeplabv3plus on 'densenet121'")],
)  # fmt: skip
def test_what_cannot_be_built_is_named(network: str, encoder: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        networks.build(network, encoder, 2)


def test_transfer_copies_all_but_the_output_layer() -> None:
    source, target = build(14), build(2)
    head = target.state_dict()["segmentation_head.0.weight"].clone()
    copied = networks.transfer(target, source.state_dict())
    state = target.state_dict()
    assert set(state) - set(copied) == {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert all(torch.equal(state[k], source.state_dict()[k]) for k in copied)
    assert torch.equal(state["segmentation_head.0.weight"], head)


def test_the_encoder_alone_moves_into_another_network() -> None:
    source, target = build(14, "unet"), build(2, "deeplabv3plus")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    copied = networks.transfer(target, source.state_dict(), "encoder")
    state = target.state_dict()
    assert set(copied) == {k for k in state if k.startswith("encoder.")}
    assert all(torch.equal(state[k], source.state_dict()[k]) for k in copied)
    assert all(torch.equal(state[k], before[k]) for k in state if k not in set(copied))
    with pytest.raises(InputError, match="decoder"):
        networks.transfer(target, source.state_dict())
    with pytest.raises(InputError, match="'transfer' is 'head'"):
        networks.transfer(target, source.state_dict(), "head")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.pop("encoder.model.conv1.0.weight"), "conv1.0.weight is missing there"),
        (
            lambda s: s.update({"encoder.model.bn1.bias": torch.zeros(3)}),
            r"bn1.bias is \(3,\) there",
        ),
        (lambda s: s.update({"extra": torch.zeros(1)}), r"extra is \(1,\) there and missing in"),
    ],
)
def test_transfer_fails_on_the_first_mismatch(
    spoil: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    source = dict(build(14).state_dict())
    spoil(source)
    with pytest.raises(InputError, match=said):
        networks.transfer(build(2), source)
