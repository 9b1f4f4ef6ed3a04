"""Explainers against closed forms, captum and their own axioms."""

from __future__ import annotations

import copy
from collections.abc import Callable

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations.attribution import gradcam, gradient, occlusion
from dollkit.explanations.integrated_gradients import (
    BASELINES,
    baseline_films,
    integrated_gradients,
)
from dollkit.training.classifiers import Classifier
from tests import far
from tests.small_files import error_of

TARGETS = [[1, 3], [2], [], [0, 5, 7]]
PAIRS = [(i, t) for i, channels in enumerate(TARGETS) for t in channels]
FILM, CHANNEL = torch.tensor(PAIRS).T


class Product(nn.Module):
    """f_0 = x_0 * x_1 over the first two pixels, f_1 = relu(x_0 - 0.25)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return torch.stack([flat[:, 0] * flat[:, 1], torch.relu(flat[:, 0] - 0.25)], 1)


class Corner(nn.Module):
    """Logit t is (t + 1) times the sum of the top left quarter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = x[..., :12, :12].sum((1, 2, 3))
        return corner[:, None] * torch.arange(1, 5, dtype=x.dtype)


def make(architecture: str) -> Classifier:
    with compute.seeded(3):
        return Classifier(architecture, 4, "silu", "lse").eval()


@pytest.fixture(scope="module")
def network() -> Classifier:
    return make("tu-test_resnet")


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_product_and_relu_have_their_closed_forms() -> None:
    # From b to x, IG of x0 * x1 gives pixel 0 (x0 - b0) * (x1 + b1) / 2, and the same turned round.
    x, b = torch.tensor([[[[1.0, 3.0], [0.5, -1.0]]]]), -2.0
    product = integrated_gradients(Product(), x, [[0]], steps=4).maps[0]
    expected = torch.tensor([[(1 - b) * (3 + b) / 2, (3 - b) * (1 + b) / 2], [0.0, 0.0]])
    torch.testing.assert_close(product, expected)
    # relu(x0 - 1/4): the gradient is one on the last 0.75 / 3 of the path from -2 to 1.
    few, many = (integrated_gradients(Product(), x, [[1]], steps=n) for n in (3, 4000))
    assert many.maps[0, 0, 0] == pytest.approx(0.75, abs=1e-3)
    assert abs(few.maps[0, 0, 0] - 0.75) > 0.2  # three steps must not pass for an integral


@pytest.mark.parametrize("baseline", BASELINES)
def test_completeness(network: Classifier, films: torch.Tensor, baseline: str) -> None:
    # In float64: some errors are as small as float32 rounding, and would pass for any other.
    made = integrated_gradients(
        network, films, TARGETS, baseline=baseline, steps=64, rule="gausslegendre",
        precision="float64",
    )  # fmt: skip
    wide = copy.deepcopy(network).double()
    with torch.no_grad():
        moved = wide(films.double()) - wide(baseline_films(films, baseline).double())
    expected = moved[FILM, CHANNEL]
    gap = (made.maps.sum((1, 2)) - expected).abs() / expected.abs()
    assert gap.min() > 1e-6
    np.testing.assert_allclose(made.error, gap, rtol=1e-3, atol=1e-7)  # what moved is float32
    assert made.error.max() < 0.01


def test_gradcam_agrees_with_captum(films: torch.Tensor) -> None:
    resnet18 = make("resnet18")
    made = gradcam(resnet18, films, TARGETS).maps
    # Of the layer of 8 x 8 places.
    reference = captum.attr.LayerGradCam(resnet18, resnet18.encoder.layer1)
    grid = reference.attribute(films[FILM], target=CHANNEL, relu_attributions=True)
    theirs = nn.functional.interpolate(grid, size=(32, 32), mode="bilinear")[:, 0].detach()
    # All maps as one: some are zero throughout.
    assert far(made[None], theirs[None]) < 1e-5


def test_gradient_agrees_with_captum(network: Classifier, films: torch.Tensor) -> None:
    made = gradient(network, films, TARGETS)
    x = films[FILM].requires_grad_()
    theirs = captum.attr.Saliency(network).attribute(x, target=CHANNEL, abs=False)
    assert far(made.maps, theirs[:, 0]) < 1e-5
    assert made.error.isnan().all()


def test_occlusion_is_the_loss_of_the_hidden_sum() -> None:
    x = torch.zeros(3, 1, 24, 24)
    x[0, 0, :12, :12], x[2, 0, :12, :12] = 1, 3
    made = occlusion(Corner(), x, [[0, 3], [], [0]])
    assert made.settled.all()
    assert made.error.isnan().all()
    assert made.logit.tolist() == [144.0, 576.0, 432.0]
    # Windows of 3 hidden by the film's mean (a quarter): the sum falls by 9 * 0.75 inside.
    assert made.maps[:, 4, 4].tolist() == pytest.approx([6.75, 4 * 6.75, 3 * 6.75], rel=1e-4)
    assert made.maps[2, 20, 20].abs().item() < 1e-4


def test_bad_settings_are_named(network: Classifier, films: torch.Tensor) -> None:
    for change, said in (
        ({"budget_mb": 0}, "budget_mb"),
        ({"precision": "float16"}, "precision"),
        ({"baseline": "red"}, "baseline"),
        ({"targets": [[14], [], [], []]}, "film 0: target 14"),
        ({"targets": [[1]]}, "1 target lists"),
        ({"targets": [[], [], [], []]}, "not all of them empty"),
    ):
        with pytest.raises(InputError, match=said):
            integrated_gradients(network, films, **{"targets": TARGETS, **change})


@pytest.mark.parametrize("explainer", [integrated_gradients, gradient, gradcam, occlusion])
def test_every_explainer_refuses_targets_and_films_that_it_would_misread(
    network: Classifier, films: torch.Tensor, explainer: Callable[..., object]
) -> None:
    assert "film 1: target -1" in error_of(explainer, network, films, [[1], [-1], [], []])
    films = films.clone()
    films[2, 0, 3, 3] = torch.nan
    assert "row 2" in error_of(explainer, network, films, TARGETS)
