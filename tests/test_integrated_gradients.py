"""Integrated Gradients: the prepared classifier, memory, refining until settled, and gates."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from captum.attr import IntegratedGradients
from skimage.filters import threshold_otsu
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.explanations import integrated_gradients as module
from dollkit.explanations.integrated_gradients import baseline_films, integrated_gradients
from dollkit.explanations.prepared_classifier import prepare
from dollkit.training.classifiers import Classifier
from tests import far
from tests.small_files import error_of

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = [[1, 3], [2], [], [0, 5, 7]]
PAIRS = [(i, t) for i, wanted in enumerate(TARGETS) for t in wanted]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively(model: nn.Module) -> nn.Module:
    """Statistics and weights as after training: no BatchNorm is the identity."""
    for i, m in enumerate(model.modules()):
        if isinstance(m, nn.BatchNorm2d):
            n = m.num_features
            m.running_mean.copy_(0.2 * draw(n, seed=i))
            m.running_var.copy_(0.5 + draw(n, seed=i + 1).square())
            with torch.no_grad():
                m.weight.copy_(1 + 0.2 * draw(n, seed=i + 2))
                m.bias.copy_(0.2 * draw(n, seed=i + 3))
    return model.eval()


class Pooled(nn.Module):
    """ReLU network as torchvision has them: max pool, grouped convolution, linear head.

    ``shifted`` divides by the film's own spread first.
    """

    def __init__(self, kind: str = "pooled") -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(1, 8, 7, 2, 3, bias=False, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.mid = nn.Conv2d(8, 16, 3, 1, 1, groups=4)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        film = x / (1 + x.std((1, 2, 3), keepdim=True)) if self.kind == "shifted" else x
        out = self.pool(self.act(self.norm(self.stem(film))))
        return self.head(self.act(self.norm2(self.mid(out))).mean((2, 3)))


class Loose(nn.Module):
    """A second reader of the convolution's output: its BatchNorm must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head((torch.tanh(self.norm(x)) + x.sigmoid()).mean((2, 3)))


def make(name: str) -> nn.Module:
    with compute.seeded(5):
        if name == "convnext":
            return timm.create_model("convnext_atto", in_chans=1, num_classes=8).eval()
        if name in ("resnet10t", "ese_vovnet19b_slim", "tf_efficientnet_lite0"):
            return lively(Classifier(f"tu-{name}", 5, "silu", "lse"))
        return lively(Loose() if name == "loose" else Pooled(name))


def by_captum(model: nn.Module, x: torch.Tensor, rule: str, steps: int) -> torch.Tensor:
    """captum's maps in float64, one film and one target at a time."""
    wide = IntegratedGradients(copy.deepcopy(model).double())
    films = x.double()
    pairs = [(films[i : i + 1], t) for i, t in PAIRS]
    maps = [
        wide.attribute(film, baseline_films(film, "black"), target=t, n_steps=steps, method=rule)
        for film, t in pairs
    ]
    return torch.cat(maps)[:, 0]


NETWORKS = {  # BatchNorm layers folded, first convolution split off
    "resnet10t": (14, True), "ese_vovnet19b_slim": (19, True), "pooled": (2, True),
    "tf_efficientnet_lite0": (48, True), "convnext": (0, True), "shifted": (2, False),
    "loose": (0, True),
}  # fmt: skip
LARGE = ("ese_vovnet19b_slim", "tf_efficientnet_lite0", "convnext")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in NETWORKS]
)
def test_prepared_network_is_the_same_function(name: str) -> None:
    model, x = make(name), draw(4, 1, 32, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    layers = [type(m) for m in model.modules()]
    made = prepare(model, "float32", x)
    assert (made.folded, made.stem is not None) == NETWORKS[name]
    with torch.no_grad():
        assert far(made.logits(x, 3), model(x)) < 1e-5
    exact = integrated_gradients(model, x, TARGETS, steps=2)
    assert far(exact.maps.double(), by_captum(model, x, "riemann_middle", 2)) < 1e-4
    for rule, theirs in (("midpoint", "riemann_middle"), ("gausslegendre", "gausslegendre")):
        wide = integrated_gradients(model, x, TARGETS, steps=2, rule=rule, precision="float64")
        assert wide.maps.dtype == torch.float64
        # A dollkit classifier pools in float32 at most.
        near = 2e-6 if isinstance(model, Classifier) else 1e-10
        assert far(wide.maps, by_captum(model, x, theirs, 2)) < near
    assert [type(m) for m in model.modules()] == layers
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_changed_weight_is_noticed() -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    first = prepare(model, "float32", x)
    assert prepare(model, "float32", x) is first
    assert prepare(model, "float64", x) is not first
    for change in (
        lambda: model.head.weight.data.mul_(1.5),  # past autograd: neither version nor pointer
        lambda: model.head.weight.data.copy_(model.head.weight.data.flip(0)),
        lambda: nn.init.zeros_(model.head.bias),
        lambda: setattr(model, "head", nn.Linear(16, 8)),
        lambda: setattr(model, "act", nn.LeakyReLU(0.1)),
        lambda: setattr(model.act, "negative_slope", 0.3),
        lambda: setattr(model.norm, "eps", 0.5),
        lambda: model.mid.register_forward_hook(lambda _m, _i, out: 2 * out),
    ):
        change()
        second = prepare(model, "float32", x)
        assert second is not first
        assert far(second.logits(x, 3), model(x).detach()) < 1e-5
        first = second


class OverItsShortcut(nn.Module):
    """``c(relu_(x)) + x``: the ReLU changes the shortcut, too."""

    def __init__(self, channels: int, functional: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.functional = functional

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.relu_(x) if self.functional else self.act(x)) + x


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("stem", [False, True])
def test_layers_that_work_in_place_are_part_of_the_function(functional: bool, stem: bool) -> None:
    with compute.seeded(1):
        first = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)] if stem else []
        body = OverItsShortcut(6 if stem else 1, functional)
        layers = [*first, body, nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(96 if stem else 16, 5)).eval()
    x = draw(3, 1, 32, 32) - 0.5
    kept = x.clone()
    made = integrated_gradients(model, x, [[1], [0, 4], []], steps=9, precision="float64")
    assert torch.equal(x, kept)
    by_captum = IntegratedGradients(lambda z: model(z.clone())).attribute
    for row, (i, t) in enumerate([(0, 1), (1, 0), (1, 4)]):
        film = x[i : i + 1]
        base = baseline_films(film, "black")
        theirs = by_captum(film, base, target=t, n_steps=9, method="riemann_middle")
        assert far(made.maps[row][None], theirs[0]) < 1e-5
        assert far(made.logit[row].view(1, 1), model(film.clone())[:, [t]].detach()) < 1e-5


def test_a_first_layer_with_a_hook_is_not_taken_for_affine() -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    model.stem.register_forward_hook(lambda _m, _i, out: out.square())
    assert prepare(model, "float64", x).stem is None
    ours = integrated_gradients(model, x, TARGETS, steps=6, precision="float64").maps
    assert far(ours, by_captum(model, x, "riemann_middle", 6)) < 1e-6


def test_bfloat16_is_close_and_not_the_same() -> None:
    model, x = make("resnet10t"), draw(4, 1, 32, 32)
    assert prepare(model, "bfloat16", x).narrow is torch.bfloat16
    exact = integrated_gradients(model, x, TARGETS, steps=4)
    short = integrated_gradients(model, x, TARGETS, steps=4, precision="bfloat16")
    assert 1e-5 < far(short.maps, exact.maps) < 0.25
    assert short.maps.dtype == torch.float32
    assert far(short.logit[None], exact.logit[None]) < 1e-5  # end points are float32
    wrong = integrated_gradients(model, x, [[3, 1], [4], [], [5, 0, 8]], steps=4)
    gap = (wrong.maps - exact.maps).flatten(1).norm(dim=1) / exact.maps.flatten(1).norm(dim=1)
    assert gap.min() > 0.5  # the tolerance tells targets apart


def test_neither_chunks_nor_order_change_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    whole = integrated_gradients(model, x, TARGETS, steps=6).maps
    for rows in (1, 4, 7, 1000):
        monkeypatch.setattr(module, "CPU_ROWS", rows)
        assert far(integrated_gradients(model, x, TARGETS, steps=6).maps, whole) < 1e-5
    turned = integrated_gradients(model, x.flip(0), [[7, 0, 5], [], [2], [3, 1]], steps=6).maps
    assert far(turned[[5, 4, 3, 1, 2, 0]], whole) < 1e-5


def test_added_points_and_old_ones_are_the_rule_of_three_times_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    monkeypatch.setattr(module, "MIN_LOGIT_CHANGE", 0.0)
    never = {"max_error": 1e-9, "most_steps": 18}
    nested = integrated_gradients(model, x, TARGETS, **never)  # type: ignore[arg-type]
    fresh = integrated_gradients(model, x, TARGETS, steps=18)
    assert (nested.steps == 18).all()
    assert far(nested.maps, fresh.maps) < 1e-5
    assert far(integrated_gradients(model, x, TARGETS, steps=6).maps, fresh.maps) > 1e-3


class Memory:
    """A network whose passes of more than `most` rows fail as the named device would."""

    def __init__(self, most: int, problem: Exception) -> None:
        self.most, self.problem, self.seen = most, problem, [0]

    def __call__(self, _module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            if len(given[0]) > self.most:
                raise self.problem
            self.seen.append(len(given[0]))


def test_out_of_memory_halves_the_pass_and_other_errors_are_not_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    whole = integrated_gradients(model, x, TARGETS, steps=6).maps
    memory = Memory(5, RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"))
    body = prepare(model, "float32", x).body
    hook = body.register_forward_pre_hook(memory)
    cut = integrated_gradients(model, x, TARGETS, steps=6).maps
    assert far(cut, whole) < 1e-5
    assert max(memory.seen) <= 5
    assert "out of memory" in caplog.text
    memory.most = 0
    assert "one film at one point" in error_of(integrated_gradients, model, x, TARGETS, steps=6)
    hook.remove()
    body.register_forward_pre_hook(Memory(0, RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        integrated_gradients(model, x, TARGETS, steps=6)


def test_budget_sets_the_pass_by_measured_bytes() -> None:
    model, x = make("resnet10t"), draw(4, 1, 64, 64)
    made = prepare(model, "float32", x)
    row = made.row_bytes
    # The film's own bytes and those of the stem's output are a lower bound.
    assert row > 4 * (64 * 64 + 24 * 32 * 32)
    assert 3 * row < prepare(model, "float32", draw(1, 1, 128, 128)).row_bytes < 5 * row
    bases = baseline_films(x, "black")
    budget = max(1, 10 * row >> 20)
    assert module.Walker(made, x, bases, budget).rows == (budget << 20) // row
    assert module.Walker(made, x, bases, 10**6).rows == module.CPU_ROWS


class Steps(nn.Module):
    """f_0 is linear, f_1 jumps late on the path, f_2 nearly stays, f_3 oscillates."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(32 * 32, seed=3).abs())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = (x.flatten(1) * self.weight).mean(1)
        sharp = torch.sigmoid(12 * (s - 0.9))
        return torch.stack([s, sharp, 1e-4 * s, s + torch.sin(400 * s)], 1)


@pytest.mark.parametrize(("mode", "used"), [("fast", [4, 4, 36]), ("exact", [6, 18, 54])])
def test_a_mode_says_where_to_start_and_what_has_settled(mode: str, used: list[int]) -> None:
    x = torch.full((1, 1, 32, 32), 1.0) + 0.5 * draw(1, 1, 32, 32).clamp(-1, 1)
    model, channels = Steps(), [0, 1, 3]
    flat = integrated_gradients(model, x, [[2]], mode=mode)
    assert (flat.settled.item(), flat.steps.item()) == (False, used[0])  # too flat to ask for more
    made = integrated_gradients(model, x, [channels], mode=mode)
    # The jump's first error is 0.7 of a quarter of a logit: little in logits, which is enough for
    # the fast mode alone.
    assert made.steps.tolist() == used
    moved = made.logit - model(baseline_films(x, "black")).detach()[0, channels]
    gap = (made.maps.sum((1, 2)) - moved).abs()
    held = moved.abs().clamp_min(1.0) if mode == "fast" else moved.abs()
    assert torch.equal(made.settled, gap / held <= module.MAX_ERROR[mode])
    torch.testing.assert_close(made.error, gap / moved.abs(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        made.maps[0], (x + 2)[0, 0] * model.weight.detach().view(32, 32) / 32**2
    )
    asked = integrated_gradients(model, x, [[1]], mode=mode, max_error=0.02)
    assert asked.steps.item() == 9 * used[0]  # what a caller asks for goes before the mode's


class Turning(nn.Module):
    """Two halves of the film take turns along the path, so that completeness holds throughout.

    The mean of ``cos(4 pi a) + 0.3`` is 0.3 by 6 steps and more, and -0.7 by 2: the wrong half.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = (x.mean((1, 2, 3)) + 2) / 4  # 0 on black, 1 on white
        left, right = x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))
        turn = torch.cos(4 * torch.pi * a.detach()) + 0.3
        return torch.stack([left * (1 + 3 * turn) + right * (1 - 3 * turn)], 1)


def test_a_label_that_has_not_settled_is_refined_though_completeness_holds() -> None:
    x = torch.full((1, 1, 32, 32), 2.0)
    made = integrated_gradients(Turning(), x, [[0]])
    assert made.error.item() < 1e-5
    assert (made.steps.item(), made.settled.item()) == (18, True)
    halves = made.maps[0, :, :16].sum().item(), made.maps[0, :, 16:].sum().item()
    assert halves == pytest.approx((4 * 1.9, 4 * 0.1), rel=1e-4)
    # A number of steps that is its caller's: looked at, not refined.
    given = integrated_gradients(Turning(), x, [[0]], steps=6)
    assert (given.steps.item(), given.settled.item()) == (6, False)


def test_otsu_and_dice() -> None:
    values = draw(3, 500).abs().clamp_max(3) / 3
    values[:, :60] = 0.9 + 0.1 * values[:, :60]
    ours = module.otsu(values)[:, 0]
    for row, level in zip(values, ours, strict=True):
        theirs = threshold_otsu(row.numpy())
        assert abs(float(level) - theirs) < 0.03
    maps = draw(3, 32, 32)
    assert (module.mask_dice(maps, 5 * maps) == 1).all()
    assert module.mask_dice(maps, -maps).amin(1).max() < 0.5
    assert (module.mask_dice(-maps.abs(), -maps.abs()) == 1).all()  # both empty


def test_classifiers_that_cannot_be_walked_are_named() -> None:
    model, x = make("pooled"), draw(4, 1, 32, 32)
    with pytest.raises(InputError, match=r"'norm' is in training mode: call eval"):
        integrated_gradients(copy.deepcopy(model).train(), x, TARGETS)
    with pytest.raises(InputError, match=r"must give \(n, outputs\)"):
        integrated_gradients(nn.Conv2d(1, 8, 3, padding=1), x, TARGETS)
