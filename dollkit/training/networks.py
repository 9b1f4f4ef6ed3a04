"""Segmentation networks (segmentation-models-pytorch), strict transfer, and what is trained.

PSPNet is the paper's network (its figure 4); backbone, depth and width are our choice. The other
networks are there to ask whether a result is PSPNet's own: DeepLabV3+ (arXiv 1802.02611), U-Net
(1505.04597) and UPerNet (1807.10221).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from dollkit.common.errors import InputError, brief, near

NETWORKS = {
    "pspnet": smp.PSPNet,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "unet": smp.Unet,
    "upernet": smp.UPerNet,
}
PARTS = ("all", "encoder")
HEAD = "segmentation_head."
"""Prefix of the output layer, the only part that transfer leaves alone."""


def encoder(name: str, depth: int, activation: str, channels: int = 1) -> nn.Module:
    """smp encoder without weights, of one input channel if not said otherwise.

    Args:
        name: smp encoder name, ``tu-...`` for timm's.
        depth: number of stride-2 stages kept.
        activation: ``relu`` leaves the architecture as it is; ``silu`` puts SiLU in place of
            every ReLU. Smooth networks need far fewer integration steps for the same labels.
        channels: input channels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: nn.Module = smp.encoders.get_encoder(
                name, in_channels=channels, depth=depth, weights=None
            )
    except (KeyError, RuntimeError, ValueError) as error:
        own = [] if name.startswith("tu-") else smp.encoders.get_encoder_names()
        raise InputError(
            f"parameter 'architecture': no encoder {name!r} of depth {depth} in "
            f"segmentation-models-pytorch{near(name, own)} ({brief(error)})"
        ) from error
    smooth(net, activation)
    return net


def smooth(net: nn.Module, activation: str) -> None:
    """Put SiLU in place of every ReLU if `activation` is ``silu``.

    Never working in place, even where ReLU did: SiLU's gradient needs its input, of which autograd
    would then keep a copy.
    """
    if activation not in {"relu", "silu"}:
        raise InputError(f"parameter 'activation' is {activation!r}: use relu or silu")
    if activation == "silu":
        for module in net.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU | nn.ReLU6):
                    setattr(module, name, nn.SiLU())


_known_unused: dict[tuple[str, int], list[str]] = {}
"""Encoder and depth to what `_unused` found: it takes longer than building the network."""


def build(
    network: str, encoder: str, classes: int, *, depth: int = 3, activation: str = "silu"
) -> nn.Module:
    """A one-channel segmentation network without weights.

    Args:
        network: one of `NETWORKS`.
        encoder: smp encoder name, ``tu-...`` for timm's. DeepLabV3+ needs one whose stages can
            be dilated; DenseNet pools between them and cannot.
        classes: output channels (independent sigmoids).
        depth: encoder stages for PSPNet (3: stride 8, smp's default and PaddleSeg's stride);
            the others use five, whatever is given.
        activation: as in `encoder`.

    Returns:
        (n, 1, S, S) normalised films -> (n, classes, S, S) logits, S a multiple of 32; see
        `config_of`. Stages of the encoder beyond `depth` are not run; those that smp keeps all the
        same do not require gradients.
    """
    if network not in NETWORKS:
        raise InputError(f"parameter 'network' is {network!r}: use one of {', '.join(NETWORKS)}")
    config: dict[str, Any] = {
        "network": network, "encoder": encoder, "classes": classes,
        "depth": depth_of(network, depth), "activation": activation,
    }  # fmt: skip
    extra: dict[str, Any] = {}
    if network == "pspnet":
        extra = {"encoder_depth": depth, "upsampling": 2**depth, "psp_dropout": 0.1}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: nn.Module = NETWORKS[network](
                encoder, encoder_weights=None, in_channels=1, classes=classes, **extra
            )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"parameter 'encoder': no {network} on {encoder!r} ({brief(error)})"
        ) from error
    smooth(net, activation)
    unused: list[str] = []
    if network == "pspnet":  # the others use all five
        if (encoder, depth) not in _known_unused:
            _known_unused[encoder, depth] = _unused(net)
        unused = _cut(net, _known_unused[encoder, depth])
    for name in unused:
        net.get_parameter(name).requires_grad_(False)
    net.config_, net.unused_ = config, frozenset(unused)  # type: ignore[assignment]
    return net


def depth_of(network: str, depth: int) -> int:
    """Encoder stages that a network has: what is asked for by PSPNet, five in the others."""
    return depth if network == "pspnet" else 5


def _unused(net: nn.Module) -> list[str]:
    """Names of parameters that no output depends on, by one pass without any arithmetic."""
    ghost = copy.deepcopy(net).to("meta")
    ghost(torch.empty(2, 1, 64, 64, device="meta")).sum().backward()
    return [name for name, p in ghost.named_parameters() if p.grad is None]


def _cut(net: nn.Module, unused: list[str]) -> list[str]:
    """Remove last stages that timm's EfficientNets and MobileNets run for nothing.

    Returns:
        Those of `unused` that are left: stages that are kept and not run.
    """
    blocks = getattr(getattr(net.encoder, "model", None), "blocks", None)
    if isinstance(blocks, nn.Sequential):
        for place in reversed(range(len(blocks))):
            prefix = f"encoder.model.blocks.{place}."
            if not {n for n, _ in net.named_parameters() if n.startswith(prefix)} <= set(unused):
                break
            del blocks[place]
    kept = dict(net.named_parameters())
    return [name for name in unused if name in kept]


def config_of(net: nn.Module) -> dict[str, Any]:
    """The arguments a network was built with."""
    config: dict[str, Any] = net.config_  # type: ignore[assignment]
    return config


def transfer(target: nn.Module, source: dict[str, torch.Tensor], part: str = "all") -> list[str]:
    """Copy every tensor but the output layer, or those of the encoder alone, or fail.

    PSSL copies whatever matches by name and shape; a silent mismatch would then look like a
    weak pre-training. Here anything else that does not match is an error.

    Args:
        target: a network from `build`.
        source: state of a network of the same kind, with any number of output channels.
        part: ``all``, or ``encoder``: the segmentation module stays as drawn, as where the
            backbone alone was pre-trained; it may then be of another kind.

    Returns:
        Names of the copied tensors.
    """
    if part not in PARTS:
        raise InputError(f"parameter 'transfer' is {part!r}: use one of {', '.join(PARTS)}")

    def ours(key: str) -> bool:
        return key.startswith("encoder.") if part == "encoder" else not key.startswith(HEAD)

    own = target.state_dict()
    wanted, given = [k for k in own if ours(k)], [k for k in source if ours(k)]
    for key in wanted:
        if key not in source:
            raise InputError(f"transfer: tensor {key} is not in the pre-trained network")
        if source[key].shape != own[key].shape:
            raise InputError(
                f"transfer: tensor {key} is {tuple(source[key].shape)} in the pre-trained "
                f"network and {tuple(own[key].shape)} here"
            )
    for key in given:
        if key not in own:
            raise InputError(f"transfer: the pre-trained tensor {key} has no place here")
    target.load_state_dict({k: source[k] for k in wanted}, strict=False)
    return wanted


def trainable(net: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of all parameters that an output depends on."""
    used = [p for name, p in net.named_parameters() if name not in unused(net)]
    return sum(p.numel() for p in used if p.requires_grad), sum(p.numel() for p in used)


def unused(net: nn.Module) -> frozenset[str]:
    """Names of parameters that no output depends on; see `build`."""
    names: frozenset[str] = getattr(net, "unused_", frozenset())
    return names
