"""What "segmentation adapters" may mean: tunings of a pre-trained network.

The paper's own design is not known to us. ``full`` (A) tunes everything; ``head`` (B, after FSEFT,
arXiv 2303.17051) a small residual head on the frozen network; ``adapter`` (C, after Conv-Adapter,
arXiv 2208.07463) bottlenecks parallel to the spatial convolutions of the frozen encoder; ``lora``
(arXiv 2106.09685) low-rank updates of the encoder's convolutions; ``bn`` scales and shifts of the
normalisation layers (arXiv 2003.00152); ``bias`` the biases (BitFit, arXiv 2106.10199). All of
them tune the new output layer. Frozen means frozen: batch-norm statistics too. A number behind
``adapter`` divides the bottleneck's width, one behind ``lora`` is the rank; without, both are 4.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dollkit.common import tuning_of
from dollkit.common.errors import InputError
from dollkit.training.networks import ENCODER, HEAD

RANK = GAMMA = 4  # of a LoRA, of a Conv-Adapter
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ConvAdapter(nn.Module):
    """A frozen convolution (odd square kernel) with a trainable bottleneck beside it.

    ``y = conv(x) + scale * up(relu(down(x)))`` with `down` a convolution of the same kernel to
    width / gamma channels in as many groups as go, `up` 1x1, and one learnable scale per output
    channel. `up` starts at zero, so the network starts as it was pre-trained.
    """

    def __init__(self, conv: nn.Conv2d, gamma: int) -> None:
        super().__init__()
        width = max(1, conv.in_channels // gamma)
        groups = math.gcd(conv.in_channels, width)
        side, stride, spread = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
        self.conv = conv
        self.down = nn.Conv2d(
            conv.in_channels, width, side, stride, side // 2 * spread, spread, groups, bias=False
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
    """A frozen convolution without groups and dilation, and a low-rank update (LoRA) beside it.

    ``y = conv(x) + up(down(x))`` with `down` a convolution of the same kernel to `rank` channels
    and `up` 1x1. `up` starts at zero, so the network starts as it was pre-trained.
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
    zero: the head starts as the output layer (`inner`) alone.
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


def prepare(net: nn.Module, tuning: str) -> list[str]:
    """Freeze what a tuning freezes and add what it adds to a pre-trained network, in place.

    Names of the trainable parameters are returned, in order. All tunings but ``full`` train in eval
    mode: ``requires_grad = False`` alone lets batch-norm statistics and dropout move on.
    """
    tuning, size = tuning_of(tuning)
    used = {name for name, p in net.named_parameters() if p.requires_grad}
    trained: set[str] = set()
    if tuning == "bn":
        norms = {path for path, module in net.named_modules() if isinstance(module, NORMS)}
        trained = {name for name in used if name.rpartition(".")[0] in norms}
    elif tuning == "bias":
        trained = {name for name in used if name.endswith(".bias")}
    elif tuning == "head":
        inner: nn.Module = net.segmentation_head  # type: ignore[assignment]
        first = next(m for m in inner.modules() if isinstance(m, nn.Conv2d))
        net.segmentation_head = ResidualHead(inner, first.in_channels)
    elif tuning in ("adapter", "lora"):
        for path, conv in list(net.named_modules()):
            inside = path.startswith(ENCODER) and f"{path}.weight" in used  # an output needs it
            if not inside or not isinstance(conv, nn.Conv2d):
                continue
            side = conv.kernel_size[0]
            beside: nn.Module
            if tuning == "adapter" and side % 2 and side > 1 and conv.in_channels > 1:
                beside = ConvAdapter(conv, size or GAMMA)
            elif tuning == "lora" and conv.groups == 1 and conv.dilation == (1, 1):
                beside = LowRank(conv, size or RANK)  # not in DeepLabV3+'s dilated last stage
            else:
                continue
            net.set_submodule(path, beside)
            added = {f"{path}.{name}" for name, _ in beside.named_parameters()}
            trained |= {name for name in added if not name.startswith(f"{path}.conv.")}
        if not trained:
            raise InputError(
                f"parameter 'tunings': {tuning!r} finds no convolution in this encoder"
            )
    if tuning != "full":
        for name, p in net.named_parameters():
            p.requires_grad_(name in trained or name.startswith(HEAD))
    return [name for name, p in net.named_parameters() if p.requires_grad]
