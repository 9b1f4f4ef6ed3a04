"""What "segmentation adapters" may mean: tunings of a pre-trained network.

The paper's own design is not known to us. ``full`` (A) puts a new output layer on the network and
tunes everything; ``head`` (B, after FSEFT, arXiv 2303.17051) tunes a small residual head on the
frozen network; ``adapter`` (C, after Conv-Adapter, arXiv 2208.07463) puts bottlenecks parallel to
the spatial convolutions of the frozen encoder. Beside them, three that are in wide use: ``lora``
(arXiv 2106.09685) adds low-rank updates to the encoder's convolutions;
``bn`` tunes the scales and shifts of the normalisation layers (arXiv 2003.00152); ``bias`` tunes
the biases (BitFit, arXiv 2106.10199). All of them tune the new output layer. Frozen means frozen:
batch-norm statistics too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from dollkit.common.arm_names import TUNINGS
from dollkit.common.errors import InputError

RANK = 4
"""Rank of LoRA's updates where none is given."""
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ConvAdapter(nn.Module):
    """A frozen convolution with a trainable bottleneck beside it.

    ``y = conv(x) + scale * up(relu(down(x)))`` with `down` a convolution of the same kernel to
    width / gamma channels in as many groups, `up` 1x1, and one learnable scale per output channel.
    `up` starts at zero, so the network starts as it was pre-trained.

    Args:
        conv: convolution to stand beside, with an odd square kernel; its stride is kept.
        gamma: compression of the bottleneck.
    """

    def __init__(self, conv: nn.Conv2d, gamma: int = 4) -> None:
        super().__init__()
        width = max(1, conv.in_channels // gamma)
        groups = width if conv.in_channels % width == 0 else 1
        self.conv = conv
        stride, spread = (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])
        side = conv.kernel_size[0]
        pad = (side // 2 * spread[0], side // 2 * spread[1])
        self.down = nn.Conv2d(
            conv.in_channels, width, side, stride, pad, spread, groups=groups, bias=False
        )
        self.act = nn.ReLU(inplace=True)
        self.up = nn.Conv2d(width, conv.out_channels, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(conv.out_channels))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        side = self.up(self.act(self.down(x)))
        out: torch.Tensor = self.conv(x) + self.scale.view(1, -1, 1, 1) * side
        return out


class LowRank(nn.Module):
    """A frozen convolution with a low-rank update beside it (LoRA, scaled by one).

    ``y = conv(x) + up(down(x))`` with `down` a convolution of the same kernel to `rank` channels
    and `up` 1x1. `up` starts at zero, so the network starts as it was pre-trained.

    Args:
        conv: convolution to stand beside, without groups and dilation; its stride is kept.
        rank: channels between `down` and `up`.
    """

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        super().__init__()
        kind = type(conv)  # timm's Conv2dSame pads by itself
        side, stride, pad = conv.kernel_size, conv.stride, conv.padding
        self.conv = conv
        self.down = kind(conv.in_channels, rank, side, stride, pad, bias=False)  # type: ignore[arg-type]
        self.up = kind(rank, conv.out_channels, 1, bias=False)
        # Drawn a second time, as by Hugging Face's peft: with the same seed, the same bits.
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        out: torch.Tensor = self.conv(x) + self.up(self.down(x))
        return out


class ResidualHead(nn.Module):
    """A residual bottleneck, then the output layer (tuning B).

    ``y = inner(x + up(relu(mid(relu(down(x))))))`` with `down` and `up` 1x1 and `mid` 3x3 in few
    channels: with PSPNet's 512 at full width the head would outgrow the network. `up` starts at
    zero: the head starts as the output layer alone.

    Args:
        inner: the output layer.
        channels: of its input.
        width: most channels of the bottleneck.
    """

    def __init__(self, inner: nn.Module, channels: int, width: int = 64) -> None:
        super().__init__()
        width = min(width, channels)
        self.down = nn.Conv2d(channels, width, 1)
        self.mid = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(width, channels, 1)
        self.act = nn.ReLU()
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.zeros_(self.up.bias)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> logits of the inner output layer."""
        side = self.up(self.act(self.mid(self.act(self.down(x)))))
        out: torch.Tensor = self.inner(x + side)
        return out


def prepare(net: nn.Module, tuning: str, gamma: int = 4, rank: int = RANK) -> list[str]:
    """Freeze what the tuning freezes and add what it adds, in place.

    Args:
        net: a network from `networks.build`, pre-trained weights already loaded.
        tuning: one of `TUNINGS`.
        gamma: compression of Conv-Adapter.
        rank: of LoRA's updates, at least 1.

    Returns:
        Names of the trainable parameters, in order; nothing else will move.
    """
    if tuning not in TUNINGS:
        raise InputError(f"parameter 'tuning' is {tuning!r}: use one of {', '.join(TUNINGS)}")
    if rank < 1:
        raise InputError(f"parameter 'lora_rank' is {rank}: it must be at least 1")
    used = {name for name, p in net.named_parameters() if p.requires_grad}
    chosen: list[str] = []
    if tuning == "bn":
        chosen = [n for n in _norms(net) if n in used]
    elif tuning == "bias":
        chosen = [n for n in used if n.endswith(".bias")]
    head: nn.Module = net.segmentation_head  # type: ignore[assignment]
    if tuning == "head":
        first = next(m for m in head.modules() if isinstance(m, nn.Conv2d))
        head = net.segmentation_head = ResidualHead(head, first.in_channels)
    elif tuning == "adapter":
        for path, conv in _convolutions(net, used):
            if conv.kernel_size[0] % 2 and conv.kernel_size[0] > 1 and conv.in_channels > 1:
                _replace(net, path, ConvAdapter(conv, gamma))
    elif tuning == "lora":
        for path, conv in _convolutions(net, used):
            if conv.groups == 1 and conv.dilation == (1, 1):  # not DeepLabV3+'s last stage
                _replace(net, path, LowRank(conv, rank))
    if tuning in ("adapter", "lora"):
        chosen = [n for n, _ in net.named_parameters() if _added(net, n)]
        if not chosen:
            what = f"{tuning!r} finds no convolution in this encoder"
            raise InputError(f"parameter 'tunings': {what}")
    if tuning != "full":
        kept = set(chosen)
        for name, p in net.named_parameters():
            p.requires_grad_(name in kept)
        head.requires_grad_(True)
    return [name for name, p in net.named_parameters() if p.requires_grad]


def _norms(net: nn.Module) -> list[str]:
    """Scales and shifts of the normalisation layers (BatchNorm; LayerNorm in ConvNeXt)."""
    return [
        f"{path}.{name}"
        for path, module in net.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    ]


def _added(net: nn.Module, name: str) -> bool:
    """Does a parameter belong to what the tuning added, not to the convolution beside it?"""
    parts = name.split(".")
    return any(
        isinstance(net.get_submodule(".".join(parts[:i])), ConvAdapter | LowRank)
        and parts[i] != "conv"
        for i in range(1, len(parts))
    )


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def _convolutions(net: nn.Module, used: set[str]) -> Iterator[tuple[str, nn.Conv2d]]:
    """The encoder's convolutions that an output depends on, with their paths."""
    for path, module in list(net.named_modules()):
        if (
            path.startswith("encoder.")
            and isinstance(module, nn.Conv2d)
            and f"{path}.weight" in used
        ):
            yield path, module


def train_mode(net: nn.Module, tuning: str) -> None:
    """Training mode for a tuning: all but ``full`` leave the whole network in eval mode.

    ``requires_grad = False`` alone lets batch-norm statistics and dropout move on; under ``bn``
    too, where scales and shifts are trained, the statistics stay those of pre-training.
    """
    net.train(tuning == "full")


def tuned_state(net: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """The tensors an adapter checkpoint holds: those that were trained, nothing else."""
    state = net.state_dict()
    return {name: state[name].detach().cpu() for name in names}


def load_tuned(net: nn.Module, state: dict[str, torch.Tensor], names: list[str]) -> None:
    """Put an adapter checkpoint back onto a prepared network with the same pre-trained weights."""
    if sorted(state) != sorted(names):
        odd = sorted(set(state) ^ set(names))[0]
        raise InputError(f"adapter checkpoint: tensor {odd} is on one side only")
    own = net.state_dict()
    for name in names:
        if own[name].shape != state[name].shape:
            raise InputError(
                f"adapter checkpoint: tensor {name} is {tuple(state[name].shape)}, "
                f"here {tuple(own[name].shape)}"
            )
    net.load_state_dict({**own, **state})
