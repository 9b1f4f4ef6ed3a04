"""Networks and encoders: shapes, gradients, saved, loaded, exported, transfer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.every_encoder import through
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import networks, weights
from tests import far, same
from tests.small_files import error_of
from tests.small_run import CPU, ENCODER

PAIRS = [
    ("pspnet", "tu-convnext_atto"),
    *((network, ENCODER) for network in networks.NETWORKS),
    *(pytest.param("unet", name, marks=pytest.mark.slow) for name in ("resnet50", "densenet121")),
]


def build(classes: int = 2, network: str = "pspnet", encoder: str = ENCODER) -> nn.Module:
    with compute.seeded(classes):
        return networks.build(network, encoder, classes)


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
    trained, total = networks.trainable(net)
    assert trained == total == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    weights.save(net, tmp_path, networks.config_of(net))
    again = weights.load(tmp_path, networks.build, CPU)
    (tmp_path / "weights.safetensors").unlink()  # up to 150 MB, and pytest keeps folders
    assert same(again.state_dict(), net.state_dict())
    with torch.no_grad():
        for side in (64, 96):
            x = torch.randn(1, 1, side, side)
            out = net.eval()(x)
            assert out.shape == (1, 3, side, side)
            assert far(again(x), out) < 1e-4  # another memory format: sums in another order


def test_stages_that_timm_would_run_for_nothing_are_removed() -> None:
    net = build(encoder="tu-tf_efficientnet_lite0")
    assert not networks.unused(net)
    whole = networks.encoder("tu-tf_efficientnet_lite0", 5, "silu").eval()
    cut = net.get_submodule("encoder").eval()
    cut.load_state_dict({k: v for k, v in whole.state_dict().items() if k in cut.state_dict()})
    x = torch.rand(2, 1, 64, 64)
    assert cut(x)[-1].equal(whole(x)[3])


def test_what_cannot_be_built_is_named() -> None:
    for network, encoder, said in (
        ("segnet", "resnet18", "'network' is 'segnet'"),
        ("unet", "tu-nothing", "no unet on 'tu-nothing'"),
        ("deeplabv3plus", "densenet121", "no deeplabv3plus on 'densenet121'"),
    ):
        assert said in error_of(networks.build, network, encoder, 2)


@pytest.mark.parametrize(
    ("start", "end", "part"), [("pspnet", "pspnet", "all"), ("unet", "deeplabv3plus", "encoder")]
)
def test_transfer_copies_all_but_the_output_layer_or_the_encoder(
    start: str, end: str, part: str
) -> None:
    source, target = build(14, start).state_dict(), build(2, end)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    copied = set(networks.transfer(target, source, part))
    state = target.state_dict()
    kept = {k for k in state if not k.startswith("encoder.")}
    head = {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert set(state) - copied == (head if part == "all" else kept)
    assert all(torch.equal(v, (source if k in copied else before)[k]) for k, v in state.items())


def test_transfer_fails_on_the_first_mismatch() -> None:
    source, target = dict(build(14).state_dict()), build(2)
    less = {k: v for k, v in source.items() if k != "encoder.model.conv1.0.weight"}
    for state, said in (
        (less, "conv1.0.weight is missing there"),
        ({**source, "encoder.model.bn1.bias": torch.zeros(3)}, "bn1.bias is (3,) there"),
        ({**source, "extra": torch.zeros(1)}, "extra is (1,) there and missing in"),
    ):
        assert said in error_of(networks.transfer, target, state)
    assert "decoder" in error_of(networks.transfer, build(2, "unet"), source)
    assert "'transfer' is 'head'" in error_of(networks.transfer, target, source, "head")


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_pytorch_and_smp_get_equal_logits(activation: str, tmp_path: Path) -> None:
    net = networks.build("unet", "tu-test_resnet", 14, activation=activation)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights.export(net, tmp_path, 64)
    assert net.training  # the caller's network is left as it is
    if activation == "relu":
        theirs = smp.from_pretrained(tmp_path).eval()
    else:  # what the card says of an activation that smp cannot name
        assert not (tmp_path / "config.json").exists()
        call = re.search(r"`(smp\..*?\))`", (tmp_path / "README.md").read_text())
        theirs = eval(call[1]).eval()  # type: ignore[index]
        for module in list(theirs.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU | nn.ReLU6):
                    setattr(module, name, nn.SiLU())
        theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    program = torch.export.load(tmp_path / "network.pt2").module()
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        wanted = net.eval()(x)
        assert far(program(x), wanted) < 1e-4
        assert far(theirs(x), wanted) < 1e-4


def test_the_card_says_what_the_folder_holds(tmp_path: Path) -> None:
    net = networks.build("unet", "tu-test_resnet", 14)
    weights.save(net, tmp_path, networks.config_of(net))
    (tmp_path / "manifest.json").write_text('{"instance": "pretrain/pspnet-prior", "outputs": {}}')
    assert weights.main([str(tmp_path), str(tmp_path / "out"), "--side", "64"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f.name in card for f in (tmp_path / "out").iterdir() if f.name != "README.md")
    for said in ("activation silu", "stage pretrain/pspnet-prior.", "Pneumothorax", "smp.Unet("):
        assert said in card
    with pytest.raises(InputError, match="'side' is 50: use a multiple of 32"):
        weights.main([str(tmp_path), str(tmp_path / "out"), "--side", "50"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "tu-repvgg_a0", "tu-edgenext_xx_small"])
def test_an_encoder_passes_through_the_whole_use(name: str) -> None:
    assert through(name) == "works"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tu-xception41", "tu-swin_tiny_patch4_window7_224"])
def test_an_encoder_that_cannot_is_refused_in_one_line(name: str) -> None:
    words = f"refused: architecture {name!r}: films of 64 pixels do not pass it "
    assert through(name).startswith(words)
