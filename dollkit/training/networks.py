"""Segmentation networks (segmentation-models-pytorch), strict transfer, and what is trained.

PSPNet is the paper's network (its figure 4); backbone, depth and width are our choice. The other
networks are there to ask whether a result is PSPNet's own: DeepLabV3+ (arXiv 1802.02611), U-Net
(1505.04597) and UPerNet (1807.10221).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
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
ENCODER, HEAD = "encoder.", "segmentation_head."
"""Before the names of an encoder's tensors, and of the output layer's, which transfer leaves."""


def encoder(name: str, depth: int, activation: str, channels: int = 1) -> nn.Module:
    """smp encoder (``tu-...``: timm's) without weights, of `depth` stages of stride 2.

    `activation` ``relu`` leaves the architecture as it is; ``silu`` puts SiLU in place of every
    ReLU: smooth networks need far fewer integration steps for the same labels.
    """
    try:
        net: nn.Module = smp.encoders.get_encoder(name, channels, depth, weights=None)
    except (KeyError, RuntimeError, ValueError) as error:
        names = [] if name.startswith("tu-") else smp.encoders.get_encoder_names()
        raise InputError(
            f"parameter 'architecture': no encoder {name!r} of depth {depth} in "
            f"segmentation-models-pytorch{near(name, names)} ({brief(error)})"
        ) from error
    smooth(net, activation)
    return net


def check_pass(what: str, make: Callable[[], nn.Module], size: int) -> None:
    """Refuse a network, `what`, that films of `size` pixels a side do not pass: it is made and run
    without arithmetic or, where it cannot do without, with."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                # A copy: the attribution engine works on one, and not every network can be copied.
                copy.deepcopy(make())(torch.zeros(2, 1, size, size))
            return
        except Exception as error:  # each architecture raises its own types
            if device == "meta":
                continue
            if isinstance(error, InputError):
                raise
            fault = f"films of {size} pixels do not pass it ({brief(error)}): use another one"
            raise InputError(f"{what}: {fault}") from error


def smooth(net: nn.Module, activation: str) -> None:
    """Put SiLU in place of every ReLU if `activation` is ``silu``; and, whatever it is, mend
    convolutions on which oneDNN fails (`_in_plain_order`).

    SiLU never works in place, even where ReLU did: its gradient needs its input, of which
    autograd would then keep a copy.
    """
    if activation not in {"relu", "silu"}:
        raise InputError(f"parameter 'activation' is {activation!r}: use relu or silu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 1 == max(module.kernel_size):
            module.register_forward_pre_hook(_in_plain_order)
    if activation == "silu":
        for module in net.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU | nn.ReLU6):
                    setattr(module, name, nn.SiLU())


def _in_plain_order(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    # oneDNN's backward pass of a convolution of one pixel over one channel, channels-last, ends the
    # process.
    return (given[0].clone(memory_format=torch.contiguous_format),)


def build(
    network: str, encoder: str, classes: int, *, depth: int = 3, activation: str = "silu"
) -> nn.Module:
    """A segmentation network without weights: films (n, 1, S, S) -> logits (n, classes, S, S).

    S is a multiple of 32. PSPNet has `depth` encoder stages (3: stride 8), the others five. Stages
    that are not run do not require gradients, see `unused`. DeepLabV3+ needs an encoder whose
    stages can be dilated, which DenseNet's cannot.
    """
    if network not in NETWORKS:
        raise InputError(f"parameter 'network' is {network!r}: use one of {', '.join(NETWORKS)}")
    arguments: dict[str, Any] = {"encoder_weights": None, "in_channels": 1, "classes": classes}
    if network == "pspnet":
        arguments |= {"encoder_depth": depth, "upsampling": 2**depth, "psp_dropout": 0.1}
    try:
        net: nn.Module = NETWORKS[network](encoder, **arguments)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        why = brief(error)
        raise InputError(f"parameter 'encoder': no {network} on {encoder!r} ({why})") from error
    smooth(net, activation)
    config = {
        "network": network, "encoder": encoder, "classes": classes,
        "depth": depth if network == "pspnet" else 5, "activation": activation,
    }  # fmt: skip
    idle = _cut(net, _unused(net, encoder, depth)) if network == "pspnet" else []
    for name in idle:
        net.get_parameter(name).requires_grad_(False)
    net.config_, net.unused_ = config, frozenset(idle)  # type: ignore[assignment]
    return net


_known_unused: dict[tuple[str, int], list[str]] = {}
"""Encoder and depth to what `_unused` found: it takes longer than building the network."""


def _unused(net: nn.Module, encoder: str, depth: int) -> list[str]:
    """Names of parameters that no output of a PSPNet depends on, by a pass without arithmetic."""
    if (encoder, depth) not in _known_unused:
        ghost = copy.deepcopy(net).to("meta")
        ghost(torch.empty(2, 1, 64, 64, device="meta")).sum().backward()
        unused = [name for name, p in ghost.named_parameters() if p.grad is None]
        _known_unused[encoder, depth] = unused
    return _known_unused[encoder, depth]


def _cut(net: nn.Module, unused: list[str]) -> list[str]:
    """Remove last stages that timm's EfficientNets and MobileNets run for nothing.

    Those of `unused` that are left: stages that smp keeps and does not run.
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


def transfer(
    target: nn.Module, source: Mapping[str, torch.Tensor], part: str = "all",
    origin: str = "the pre-trained network",
) -> list[str]:  # fmt: skip
    """Copy every tensor but the output layer, or those of the encoder alone, or fail.

    PSSL copies whatever matches by name and shape; a silent mismatch would then look like a
    weak pre-training. Here anything else that does not match is an error. Under `part` ``encoder``
    what else `source` has stays behind. Names of the copied tensors are returned.
    """
    if part not in PARTS:
        raise InputError(f"parameter 'transfer' is {part!r}: use one of {', '.join(PARTS)}")
    prefix = ENCODER if part == "encoder" else ""
    here, there = (
        {k: v for k, v in state.items() if not k.startswith(HEAD)}
        for state in (target.state_dict(), source)
    )
    needed = {k: v for k, v in here.items() if k.startswith(prefix)}
    state = {k: v for k, v in there.items() if k in needed or part == "all"}
    check_tensors(origin, state, needed)
    target.load_state_dict(state, strict=False)
    return list(needed)


def check_tensors(
    origin: Path | str, state: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a state that has not the tensors that are needed, of their shapes, and finite."""
    for key in sorted({*needed, *state}):
        have, need = (tuple(s[key].shape) if key in s else "missing" for s in (state, needed))
        if have != need:
            raise InputError(
                f"{origin}: tensor {key} is {have} there and {need} in the network here; use the "
                "same architecture for both"
            )
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{origin}: tensor {key} holds NaN or infinity")
        counter = key.endswith("num_batches_tracked")
        if tensor.is_floating_point() != needed[key].is_floating_point() and not counter:
            raise InputError(
                f"{origin}: tensor {key} holds {tensor.dtype}, not {needed[key].dtype}"
            )
        if key.endswith("running_var") and (tensor < 0).any():
            raise InputError(f"{origin}: tensor {key} holds variances below zero")


def trainable(net: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of all parameters that an output depends on."""
    used = [p for name, p in net.named_parameters() if name not in unused(net)]
    return sum(p.numel() for p in used if p.requires_grad), sum(p.numel() for p in used)


def unused(net: nn.Module) -> frozenset[str]:
    """Names of parameters that no output depends on; see `build`."""
    names: frozenset[str] = getattr(net, "unused_", frozenset())
    return names
