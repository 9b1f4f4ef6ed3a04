"""The training loop, losses, augmentation and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.data.images import IGNORE
from dollkit.training import metrics
from dollkit.training.augment import NONE, Augmentation, augment
from dollkit.training.fit import fit
from dollkit.training.losses import weighted_bce_dice
from dollkit.training.recipe import Recipe, order


def small_net() -> nn.Module:
    with compute.seeded(1):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv2d(4, 1, 1),
        )  # fmt: skip


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x > 0.3).float()


def run(
    folder: Path | None,
    steps: int = 12,
    key: str = "",
    watch: list[int] | None = None,
    **more: object,
) -> tuple[nn.Module, object]:
    x, y = problem()
    net = small_net()
    recipe = Recipe(steps=steps, batch=5, lr=0.01, evaluate_every=3, precision="float32", **more)  # type: ignore[arg-type]

    def sample(step: int) -> tuple[torch.Tensor, ...]:
        pick = order(len(x), recipe.batch, step, recipe.seed)
        if watch is not None:
            watch.append(step)
        return x[pick], y[pick]

    done = fit(
        net, sample, lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]), recipe,
        evaluate=lambda m: {"score": -float(F.binary_cross_entropy_with_logits(m(x), y))},
        score="score", folder=folder, quiet=True, key=key,
    )  # fmt: skip
    return net, done


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    assert states_equal(run(None)[0], run(None)[0])
    assert not states_equal(run(None)[0], run(None, seed=1)[0])


def test_training_lowers_the_loss() -> None:
    history = run(None, steps=60)[1].history  # type: ignore[attr-defined]
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


@pytest.mark.parametrize("killed_at", [4, 7, 11])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, killed_at: int) -> None:
    whole, done = run(tmp_path / "whole")
    x, _ = problem()
    calls = {"n": 0}
    original = torch.optim.AdamW.step

    class Killed(Exception):
        pass

    def step(self: torch.optim.AdamW, *a: object, **k: object) -> object:
        calls["n"] += 1
        if calls["n"] == killed_at:
            raise Killed
        return original(self, *a, **k)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    resumed, again = run(tmp_path / "cut")
    assert states_equal(whole, resumed)
    for key in ("step", "train_loss", "score"):
        assert [r[key] for r in done.history] == [r[key] for r in again.history]  # type: ignore[attr-defined]
    assert again.best_step == done.best_step  # type: ignore[attr-defined]
    assert x.shape[0] == 24


def test_a_checkpoint_of_other_settings_is_never_resumed(tmp_path: Path) -> None:
    run(tmp_path)
    longer, done = run(tmp_path, steps=15)
    assert states_equal(longer, run(None, steps=15)[0])
    assert len(done.history) == 5  # type: ignore[attr-defined]
    seen: list[int] = []
    run(tmp_path, steps=15, watch=seen)
    assert seen == []  # the same settings: nothing is left to do
    run(tmp_path, steps=15, watch=seen, key="other data")
    assert seen == list(range(15))
    run(tmp_path, steps=15, key="other data")
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.pt"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    x, _ = problem()
    with pytest.raises(FloatingPointError, match="step 3"):
        fit(
            small_net(), lambda s: (x,), lambda m, b: m(b[0]).sum() * float("nan"),
            Recipe(steps=6, batch=4, lr=0.1, evaluate_every=3, precision="float32"),
            evaluate=lambda m: {"score": 0.0}, score="score", quiet=True,
        )  # fmt: skip


def test_order_shows_every_film_once_in_each_pass() -> None:
    seen = torch.cat([order(10, 4, step, 3) for step in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    wide = order(3, 7, 0, 0).tolist()
    assert sorted(wide[:3]) == sorted(wide[3:6]) == [0, 1, 2]


def test_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, batch=1, lr=2.0, warmup=0.1)
    rates = [recipe.rate(s) for s in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 0.002


@pytest.mark.parametrize(
    "change",
    [{"steps": -5}, {"steps": 0}, {"batch": 0}, {"lr": -1.0}, {"lr": float("nan")},
     {"optimizer": "lion"}, {"precision": "float16"}, {"evaluate_every": 0}],
)  # fmt: skip
def test_bad_recipes_are_named(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Recipe(**{"steps": 1, "batch": 1, "lr": 0.1, **change})  # type: ignore[arg-type]


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, generator=rng)
    return logits, (torch.rand(2, 3, 8, 8, generator=rng) > 0.7).to(torch.uint8)


def test_plain_loss_is_binary_cross_entropy() -> None:
    logits, y = random_case()
    ours = weighted_bce_dice(logits, y, 1.0, 0.0)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, y.float()))


def test_dice_term_agrees_with_smp_film_by_film() -> None:
    logits, y = random_case()
    ours = weighted_bce_dice(logits[:1, :1], y[:1, :1], 1.0, 1.0)
    theirs = smp.losses.DiceLoss("multilabel", smooth=0.5)(logits[:1, :1], y[:1, :1].float())
    torch.testing.assert_close(ours, theirs)


def test_background_weight_scales_the_background_alone() -> None:
    logits, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    y[..., 0] = 1
    logits.requires_grad_()
    weighted_bce_dice(logits, y, 0.1, 0.0).backward()
    gradient = logits.grad[0, 0]  # type: ignore[index]
    assert float(gradient[0, 0] / gradient[0, 1]) == pytest.approx(-10.0)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, y = random_case()
    y[:, :, :4] = IGNORE
    logits.requires_grad_()
    weighted_bce_dice(logits, y, 0.5, 0.5).backward()
    assert (logits.grad[:, :, :4] == 0).all()  # type: ignore[index]
    assert (logits.grad[:, :, 4:] != 0).any()  # type: ignore[index]


def test_an_empty_channel_still_learns() -> None:
    logits, y = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    y[0, 0, 0] = 1
    logits.requires_grad_()
    weighted_bce_dice(logits, y, 1.0, 0.5).backward()
    assert (logits.grad[0, 1] > 0).all()  # type: ignore[index]


def test_all_ignored_is_zero_not_nan() -> None:
    target = torch.full((1, 1, 4, 4), IGNORE, dtype=torch.uint8)
    value = weighted_bce_dice(torch.randn(1, 1, 4, 4), target)
    assert float(value) == 0


def test_augmentation_moves_film_and_mask_together() -> None:
    x = torch.full((6, 1, 64, 64), -2.0)
    x[:, :, 20:40, 24:36] = 1.0
    masks = (x > 0).to(torch.uint8)
    how = Augmentation(15, 0.2, 0.1, 0, 0)
    moved, warped = augment(x, masks, how, compute.generator(0))
    assert warped is not None
    again = (moved > -0.5).to(torch.uint8)
    differ = (again != warped).float().mean((1, 2, 3))
    assert differ.max() < 0.01
    assert (warped != masks).float().mean() > 0.02
    assert set(warped.unique().tolist()) <= {0, 1}


def test_augmentation_keeps_the_ignore_value_as_it_is() -> None:
    masks = torch.zeros(4, 3, 48, 48, dtype=torch.uint8)
    masks[:, 0, 10:30, 12:36] = 255
    masks[:, 0, 14:22, 16:28] = 1
    masks[:, 1] = 255  # a class that is ignored all over
    x = masks[:, :1].float()
    how = Augmentation(degrees=30.0, scale=0.2, shift=0.1, contrast=0.0, brightness=0.0)
    _, warped = augment(x, masks, how, compute.generator(5))
    assert warped is not None
    assert warped.unique().tolist() == [0, 1, 255]  # none in between
    assert not torch.equal(warped, masks)
    shares = [(m[:, 0] == 255).float().mean((1, 2)) for m in (warped, masks)]
    torch.testing.assert_close(shares[0], shares[1], rtol=0.5, atol=0.0)
    assert set(warped[:, 1].unique().tolist()) == {0, 255}
    assert not warped[:, 2].any()


def test_augmentation_off_is_the_identity_and_seed_decides() -> None:
    x = torch.randn(2, 1, 16, 16)
    assert augment(x, None, NONE, compute.generator(0))[0] is x
    a = augment(x, None, Augmentation(), compute.generator(1))[0]
    assert torch.equal(a, augment(x, None, Augmentation(), compute.generator(1))[0])
    assert not torch.equal(a, augment(x, None, Augmentation(), compute.generator(2))[0])


def test_auroc_agrees_with_scikit_learn_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.random(60) > 0.6
        scores = np.round(rng.normal(size=60) + truth, 1)
        weights = rng.integers(0, 4, (3, 60)).astype(float)
        ours = metrics.weighted_auroc(truth, scores, weights)
        theirs = [roc_auc_score(truth, scores, sample_weight=w) for w in weights]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_auroc_interval_holds_the_value_and_needs_both_classes() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) > 0.5
    area, values = metrics.auroc(truth, truth + rng.normal(size=200), np.arange(200))
    assert area.lo < area.value < area.hi
    assert 0.03 < area.hi - area.lo < 0.2
    assert len(values) == 500
    assert np.isnan(metrics.auroc(np.ones(5), np.arange(5), np.arange(5))[0].value)


def test_overlap_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    p, t = ((rng.random((1, 12, 12)) > c).astype(np.uint8) for c in (0.5, 0.6))
    counted = metrics.counts(p, t)
    assert metrics.iou(*counted)[0] == pytest.approx(jaccard_score(t.ravel(), p.ravel()))
    assert metrics.dice(*counted)[0] == pytest.approx(f1_score(t.ravel(), p.ravel()))


def test_empty_masks_do_not_count_and_one_sided_ones_are_zero() -> None:
    empty, full = np.zeros((1, 4, 4), np.uint8), np.ones((1, 4, 4), np.uint8)
    assert np.isnan(metrics.iou(*metrics.counts(empty, empty))[0])
    assert metrics.iou(*metrics.counts(empty, full))[0] == 0
    values = np.array([[1.0, np.nan], [0.5, np.nan]])
    assert metrics.mean_iou(values) == 0.75
    assert np.isnan(metrics.mean_iou(np.full((2, 2), np.nan)))


def test_ignored_pixels_count_neither_way() -> None:
    truth = np.array([[[1, 1, 255], [0, 0, 255], [1, 0, 255]]], np.uint8)
    drawn = np.array([[[1, 0, 1], [1, 0, 0], [0, 0, 1]]], np.uint8)
    assert [int(c[0]) for c in metrics.counts(drawn, truth)] == [1, 1, 2]
    other = drawn.copy()
    other[truth == 255] ^= 1
    np.testing.assert_array_equal(metrics.counts(other, truth), metrics.counts(drawn, truth))
    assert metrics.iou(*metrics.counts(drawn, truth))[0] == 0.25
    nothing = np.full((2, 1, 4, 4), 255, np.uint8)
    tp, fp, fn = metrics.counts(np.ones((2, 1, 4, 4), np.uint8), nothing)
    assert tp.tolist() == fp.tolist() == fn.tolist() == [[0], [0]]
    assert np.isnan(metrics.iou(tp, fp, fn)).all()
    # A bool truth has no ignored pixels.
    assert [int(c[0]) for c in metrics.counts(drawn, truth == 1)] == [1, 3, 2]
