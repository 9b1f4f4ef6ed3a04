"""Integrated Gradients against closed forms, captum, and its own axioms."""

from __future__ import annotations

import copy

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from dollkit import explanations
from dollkit.classifiers.model import Classifier
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations import explain
from dollkit.explanations.engine import baseline, integrated_gradients
from dollkit.explanations.others import gradcam, gradient
from tests import far

TARGETS = [[1, 3], [2], [], [0, 5, 7]]


class Linear(nn.Module):
    """f_t = sum(w_t * x)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)


class Product(nn.Module):
    """f_0 = x_0 * x_1 over the first two pixels, f_1 = relu(x_0 - 0.25)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return torch.stack([flat[:, 0] * flat[:, 1], torch.relu(flat[:, 0] - 0.25)], 1)


@pytest.fixture(scope="module", params=["relu", "silu"])
def network(request: pytest.FixtureRequest) -> Classifier:
    with compute.seeded(3):
        return Classifier("resnet18", 4, request.param, "lse").eval()


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_linear_network_is_exact_with_one_step() -> None:
    model, x = Linear(), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    made = integrated_gradients(model, x, [[0], [1], [0, 1]], steps=1)
    closed = model.weight[[0, 1, 0, 1], 0] * (x + 2)[[0, 1, 2, 2], 0]
    torch.testing.assert_close(made.maps, closed.detach())
    assert made.error.max() < 1e-5


def test_product_has_its_closed_form() -> None:
    # From b to x, IG of x0 * x1 gives pixel 0 (x0 - b0) * (x1 + b1) / 2, and the same turned round.
    x = torch.tensor([[[[1.0, 3.0], [0.5, -1.0]]]])
    made = integrated_gradients(Product(), x, [[0]], steps=4)
    b = -2.0
    expected = torch.tensor([[(1 - b) * (3 + b) / 2, (3 - b) * (1 + b) / 2], [0.0, 0.0]])
    torch.testing.assert_close(made.maps[0], expected)


def test_relu_converges_to_its_closed_form() -> None:
    # relu(x0 - 1/4): the gradient is one on the last 0.75 / 3 of the path from -2 to 1.
    x = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    few = integrated_gradients(Product(), x, [[1]], steps=3).maps[0, 0, 0]
    many = integrated_gradients(Product(), x, [[1]], steps=4000).maps[0, 0, 0]
    assert many == pytest.approx(0.75, abs=1e-3)
    assert abs(float(few) - 0.75) > 0.2  # three steps must not pass for an integral


@pytest.mark.parametrize("rule", ["midpoint", "gausslegendre"])
def test_agrees_with_captum(network: Classifier, films: torch.Tensor, rule: str) -> None:
    # In float64: where two places tie in a max pooling, float32 rounding chooses the gradient.
    made = integrated_gradients(network, films, TARGETS, steps=10, rule=rule, precision="float64")
    method = {"midpoint": "riemann_middle", "gausslegendre": "gausslegendre"}[rule]
    reference = captum.attr.IntegratedGradients(copy.deepcopy(network).double())
    pairs = [(i, t) for i, wanted in enumerate(TARGETS) for t in wanted]
    for pair, (i, t) in enumerate(pairs):
        x = films[i : i + 1].double()
        theirs = reference.attribute(
            x, baseline(x, "black"), target=t, n_steps=10, method=method
        ).sum(1)[0]
        difference = (made.maps[pair] - theirs).norm() / theirs.norm()
        assert difference < 1e-6, (i, t)


@pytest.mark.parametrize("kind", explanations.BASELINES)
def test_completeness(network: Classifier, films: torch.Tensor, kind: str) -> None:
    # In float64: some errors are as small as float32 rounding, and would pass for any other.
    made = integrated_gradients(
        network, films, TARGETS, kind=kind, steps=64, rule="gausslegendre", precision="float64"
    )
    wide = copy.deepcopy(network).double()
    with torch.no_grad():
        moved = wide(films.double()) - wide(baseline(films, kind).double())
    pairs = [(i, t) for i, wanted in enumerate(TARGETS) for t in wanted]
    expected = torch.stack([moved[i, t] for i, t in pairs])
    gap = (made.maps.sum((1, 2)) - expected).abs() / expected.abs()
    assert gap.min() > 1e-6
    np.testing.assert_allclose(made.error, gap, rtol=1e-3, atol=1e-7)  # what moved is float32
    if network.config["activation"] == "silu":
        assert made.error.max() < 0.01


def test_smooth_network_needs_few_steps(films: torch.Tensor) -> None:
    errors = {}
    for activation in ("relu", "silu"):
        with compute.seeded(3):
            model = Classifier("resnet18", 4, activation, "lse").eval()
        errors[activation] = integrated_gradients(model, films, TARGETS, steps=8).error.mean()
    assert errors["silu"] < 0.5 * errors["relu"]


def test_targets_do_not_mix(network: Classifier, films: torch.Tensor) -> None:
    together = integrated_gradients(network, films, TARGETS, steps=5).maps
    alone = [
        integrated_gradients(network, films[i : i + 1], [[t]], steps=5).maps
        for i, wanted in enumerate(TARGETS)
        for t in wanted
    ]
    assert far(together, torch.cat(alone)) < 1e-5


def test_bfloat16_maps_agree(network: Classifier, films: torch.Tensor) -> None:
    exact = integrated_gradients(network, films, TARGETS, steps=8).maps.flatten(1)
    short = integrated_gradients(network, films, TARGETS, steps=8, precision="bfloat16").maps
    correlation = torch.nn.functional.cosine_similarity(exact, short.flatten(1))
    assert correlation.min() > 0.98


def test_parameters_keep_their_gradient_flag(network: Classifier, films: torch.Tensor) -> None:
    integrated_gradients(network, films, TARGETS, steps=2)
    assert all(p.requires_grad for p in network.parameters())


def test_black_pixels_of_a_black_baseline_get_nothing(network: Classifier) -> None:
    x = compute.to_input(np.zeros((1, 32, 32), np.uint8), torch.device("cpu"))
    x[..., 10:20, 10:20] = 1.0
    maps = integrated_gradients(network, x, [[4]], steps=4).maps[0]
    assert (maps[:10] == 0).all()
    assert maps[10:20, 10:20].abs().sum() > 0


def test_gradcam_agrees_with_captum(network: Classifier, films: torch.Tensor) -> None:
    made = gradcam(network, films, TARGETS).maps

    class Whole(nn.Module):
        """The same network with the layer of 8 x 8 places as a module of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = network.encoder.layer1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = network(x)
            return out

    whole = Whole()
    reference = captum.attr.LayerGradCam(whole, whole.layer)
    theirs = []
    for i, t in [(i, t) for i, wanted in enumerate(TARGETS) for t in wanted]:
        grid = reference.attribute(films[i : i + 1], target=t, relu_attributions=True)
        theirs += torch.nn.functional.interpolate(
            grid, size=(32, 32), mode="bilinear", align_corners=False
        )[0].detach()
    # All maps as one: some are zero throughout.
    assert far(made[None], torch.stack(theirs)[None]) < 1e-5


def test_gradient_agrees_with_captum(network: Classifier, films: torch.Tensor) -> None:
    made = gradient(network, films, TARGETS)
    reference = captum.attr.Saliency(network)
    pairs = [(i, t) for i, wanted in enumerate(TARGETS) for t in wanted]
    for pair, (i, t) in enumerate(pairs):
        x = films[i : i + 1].clone().requires_grad_()
        theirs = reference.attribute(x, target=t, abs=False)[0, 0]
        assert far(made.maps[pair][None], theirs[None]) < 1e-5
    assert made.error.isnan().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 0, "rule": "gausslegendre"}, "rule"),
        ({"max_error": -0.1}, "max_error"),
        ({"max_error": float("nan")}, "max_error"),
        ({"mode": "quick"}, "mode"),
        ({"budget_mb": 0}, "budget_mb"),
        ({"precision": "float16"}, "precision"),
        ({"rule": "simpson"}, "rule"),
        ({"kind": "red"}, "baseline"),
        ({"targets": [[14], [], [], []]}, "film 0: target 14"),
        ({"targets": [[1]]}, "target lists"),
    ],
)
def test_bad_settings_are_named(
    network: Classifier, films: torch.Tensor, change: dict[str, object], said: str
) -> None:
    settings: dict[str, object] = {"targets": TARGETS, **change}
    with pytest.raises(InputError, match=said):
        explain("ig", network, films, **settings)  # type: ignore[arg-type]


def test_unknown_explainer_is_named(network: Classifier, films: torch.Tensor) -> None:
    with pytest.raises(InputError, match="'shap'"):
        explain("shap", network, films, TARGETS)


@pytest.mark.parametrize("explainer", explanations.EXPLAINERS)
def test_a_film_that_is_not_finite_is_named(
    network: Classifier, films: torch.Tensor, explainer: str
) -> None:
    broken = films.clone()
    broken[2, 0, 3, 3] = float("nan")
    with pytest.raises(InputError, match="film 2: holds NaN"):
        explain(explainer, network, broken, TARGETS)


@pytest.mark.parametrize("explainer", explanations.EXPLAINERS)
def test_films_without_targets_give_nothing(
    network: Classifier, films: torch.Tensor, explainer: str
) -> None:
    made = explain(explainer, network, films, [[], [], [], []])
    assert made.maps.shape == (0, 32, 32)
    assert len(made.error) == len(made.logit) == len(made.steps) == len(made.settled) == 0
