"""What "segmentation adapters" may mean: three tunings of a pre-trained network.

The paper's own design is not known to us. ``full`` (A) puts a new output layer on the network and
tunes everything; ``head`` (B, after FSEFT, arXiv 2303.17051) tunes a small residual head on the
frozen network; ``adapter`` (C, after Conv-Adapter, arXiv 2208.07463) puts bottlenecks parallel to
the 3x3 convolutions of the frozen network. Frozen means frozen: batch-norm statistics too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from dollkit.errors import InputError

TUNINGS = ("full", "head", "adapter")


class ConvAdapter(nn.Module):
    """A frozen convolution with a trainable bottleneck beside it.

    ``y = conv(x) + scale * up(relu(down(x)))`` with `down` a 3x3 convolution to width / gamma
    channels in as many groups, `up` 1x1, and one learnable scale per output channel. `up` starts
    at zero, so the network starts as it was pre-trained.

    Args:
        conv: 3x3 convolution to stand beside; its stride and padding are kept.
        gamma: compression of the bottleneck.
    """

    def __init__(self, conv: nn.Conv2d, gamma: int = 4) -> None:
        super().__init__()
        width = max(1, conv.in_channels // gamma)
        groups = width if conv.in_channels % width == 0 else 1
        self.conv = conv
        stride, spread = (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])
        self.down = nn.Conv2d(
            conv.in_channels, width, 3, stride, spread, spread, groups=groups, bias=False
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


class ResidualHead(nn.Module):
    """Two 3x3 convolutions with a residual, then the output layer (tuning B).

    The second convolution starts at zero: the head starts as the output layer alone.
    """

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> logits of the inner output layer."""
        out: torch.Tensor = self.inner(x + self.second(self.act(self.first(x))))
        return out


def prepare(net: nn.Module, tuning: str, gamma: int = 4) -> list[str]:
    """Freeze what the tuning freezes and add what it adds, in place.

    Args:
        net: a network from `networks.build`, pre-trained weights already loaded.
        tuning: ``full``, ``head`` or ``adapter``.
        gamma: compression of Conv-Adapter.

    Returns:
        Names of the trainable parameters, in order; nothing else will move.

    Raises:
        InputError: unknown tuning.
    """
    if tuning not in TUNINGS:
        raise InputError(f"parameter 'tuning' is {tuning!r}: use one of {', '.join(TUNINGS)}")
    if tuning != "full":
        for p in net.parameters():
            p.requires_grad_(False)
        head: nn.Module = net.segmentation_head  # type: ignore[assignment]
        for p in head.parameters():
            p.requires_grad_(True)
    if tuning == "head":
        first = next(m for m in net.segmentation_head.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
        net.segmentation_head = ResidualHead(net.segmentation_head, first.in_channels)  # type: ignore[arg-type]
    if tuning == "adapter":
        for parent, name, conv in list(_convolutions(net.encoder)):  # type: ignore[arg-type]
            setattr(parent, name, ConvAdapter(conv, gamma))
    return [name for name, p in net.named_parameters() if p.requires_grad]


def _convolutions(net: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """3x3 convolutions with more than one input channel: the ones an adapter stands beside."""
    for parent in net.modules():
        for name, child in parent.named_children():
            if (
                isinstance(child, nn.Conv2d)
                and child.kernel_size == (3, 3)
                and child.in_channels > 1
            ):
                yield parent, name, child


def train_mode(net: nn.Module, tuning: str) -> None:
    """Training mode for a tuning: under ``head`` and ``adapter`` the frozen network stays in eval.

    ``requires_grad = False`` alone lets batch-norm statistics and dropout move on.
    """
    net.train(tuning == "full")
    if tuning != "full":
        for module in net.modules():
            own = list(module.parameters(recurse=False))
            if own and all(p.requires_grad for p in own):
                module.train()


def tuned_state(net: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """The tensors an adapter checkpoint holds: those that were trained, nothing else."""
    state = net.state_dict()
    return {name: state[name].detach().cpu() for name in names}


def load_tuned(net: nn.Module, state: dict[str, torch.Tensor], names: list[str]) -> None:
    """Put an adapter checkpoint back onto a prepared network with the same pre-trained weights.

    Raises:
        InputError: the checkpoint's tensors are not exactly the trainable ones.
    """
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
