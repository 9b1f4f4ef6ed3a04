"""Memory of a training step, against sums that can be done by hand."""

from __future__ import annotations

import torch
from torch import nn

from dollkit.training.footprint import MB, footprint
from dollkit.training.recipe import Recipe

N, IN, MID = 4, 8, 16


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(IN, MID), nn.Tanh(), nn.Linear(MID, 1))


def measured(net: nn.Module, optimizer: str = "adamw") -> float:
    x = torch.zeros(N, IN)
    recipe = Recipe(steps=1, batch=N, lr=0.1, optimizer=optimizer, precision="float32")
    return MB * footprint(net, lambda m: m(x).sum(), recipe, lambda m: m.train() and None)


WEIGHTS = IN * MID + MID + MID + 1
X, TANH = N * IN, N * MID  # the first layer keeps its input; tanh its output, which the next shares


def test_all_weights_trained() -> None:
    assert measured(chain()) == 4 * (WEIGHTS + 3 * WEIGHTS + X + TANH)
    assert measured(chain(), "sgd") == 4 * (WEIGHTS + 2 * WEIGHTS + X + TANH)


def test_frozen_body_keeps_only_what_the_head_needs() -> None:
    net = chain()
    net[0].requires_grad_(False)
    assert measured(net) == 4 * (WEIGHTS + 3 * (MID + 1) + TANH)


def test_biases_need_what_lies_behind_them_but_no_inputs() -> None:
    net = chain()
    for layer in (net[0], net[2]):
        layer.weight.requires_grad_(False)
    # The input of the first layer is needed for its weight alone; tanh needs its own output.
    assert measured(net) == 4 * (WEIGHTS + 3 * (MID + 1) + TANH)


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm1d(IN), nn.Linear(IN, 1)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    measured(net)
    assert not net.training
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
