"""Every network on every encoder: one class of tests that each network inherits."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import networks, weights
from dollkit.training.networks import encoder
from tests import far, same

CPU = torch.device("cpu")
ENCODERS = ("resnet18", "resnet50", "densenet121", "tu-convnext_atto", "tu-resnet10t")
SIDES = (64, 96)
CLASSES = 3


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this file may open a connection."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network was fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refused)


class Checks:
    """What holds for every network; a subclass names the network."""

    network: str
    lacks: tuple[str, ...] = ()

    def build(self, encoder: str, activation: str = "silu") -> nn.Module:
        with compute.seeded(0):
            return networks.build(self.network, encoder, CLASSES, activation=activation)

    @pytest.mark.parametrize("encoder", ENCODERS)
    def test_pair(self, encoder: str, tmp_path: Path) -> None:
        if encoder in self.lacks:
            with pytest.raises(InputError, match=f"no {self.network} on '{encoder}'"):
                self.build(encoder)
            return
        net = self.build(encoder)
        self.gradients(net)
        self.shapes(net.eval())
        self.saved_and_loaded(net, tmp_path)

    def shapes(self, net: nn.Module) -> None:
        with torch.no_grad():
            for side in SIDES:
                out = net(torch.randn(1, 1, side, side))
                assert out.shape == (1, CLASSES, side, side)
                assert torch.isfinite(out).all()

    def gradients(self, net: nn.Module) -> None:
        # Two films: batch norm has no statistics of a single value.
        net(torch.randn(2, 1, SIDES[0], SIDES[0])).square().mean().backward()
        for name, p in net.named_parameters():
            if not p.requires_grad:  # a stage beyond the network's depth
                assert name.startswith("encoder."), name
                continue
            assert p.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(p.grad).all(), name

    def saved_and_loaded(self, net: nn.Module, folder: Path) -> None:
        weights.save(net, folder, networks.config_of(net))
        again = weights.load_network(folder, CPU)
        (folder / "weights.safetensors").unlink()  # up to 150 MB, and pytest keeps folders
        assert same(again.state_dict(), net.state_dict())
        x = torch.randn(1, 1, SIDES[0], SIDES[0])
        with torch.no_grad():
            assert far(again(x), net(x)) < 1e-4  # another memory format: sums in another order

    def test_activation_is_as_asked(self) -> None:
        for activation, kept in (("relu", True), ("silu", False)):
            net = self.build("tu-resnet10t", activation)
            assert any(isinstance(m, nn.ReLU) for m in net.modules()) is kept


class TestPSPNet(Checks):
    network = "pspnet"

    def test_stages_beyond_its_depth_are_not_trained(self) -> None:
        net = self.build("resnet18")
        idle = {n for n, p in net.named_parameters() if not p.requires_grad}
        assert idle == {
            n
            for n, _ in net.named_parameters()
            if n.startswith(("encoder.layer3", "encoder.layer4"))
        }
        assert networks.unused(net) == idle
        trained, total = networks.trainable(net)
        assert trained == total == sum(p.numel() for p in net.parameters() if p.requires_grad)

    def test_stages_that_timm_would_run_for_nothing_are_removed(self) -> None:
        net = self.build("tu-tf_efficientnet_lite0")
        whole = encoder("tu-tf_efficientnet_lite0", 5, "silu").eval()
        own = net.get_submodule("encoder").eval()
        own.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own.state_dict()})
        x = torch.rand(2, 1, 64, 64)
        assert not networks.unused(net)
        assert own(x)[-1].equal(whole(x)[3])


class TestDeepLabV3Plus(Checks):
    network = "deeplabv3plus"
    lacks = ("densenet121",)  # it pools between stages: they cannot be dilated


class TestUNet(Checks):
    network = "unet"


class TestUPerNet(Checks):
    network = "upernet"


def test_every_network_is_tested() -> None:
    assert {c.network for c in Checks.__subclasses__()} == set(networks.NETWORKS)


@pytest.mark.parametrize(
    ("network", "encoder", "said"),
    [("segnet", "resnet18", "'network' is 'segnet'"), ("unet", "resnet19", "no unet on 'resnet19'"),
     ("unet", "tu-nothing", "no unet on 'tu-nothing'")],
)  # fmt: skip
def test_what_cannot_be_built_is_named(network: str, encoder: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        networks.build(network, encoder, CLASSES)


def test_the_encoder_alone_moves_into_another_network() -> None:
    source = networks.build("unet", "tu-resnet10t", 14)
    target = networks.build("deeplabv3plus", "tu-resnet10t", 2)
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
