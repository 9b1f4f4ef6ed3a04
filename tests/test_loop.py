"""The training loop against a plain one; resuming, memory, waiting for data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.training.fit import TrainingResult, batches, fit
from dollkit.training.loss_and_optimiser import Batch, Recipe, batch_indices
from tests import same
from tests.small_files import error_of

X = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X > 0.3).float()


class Small(nn.Module):
    """Convolutions; out of memory above `most` films in training, after the first of them."""

    def __init__(self, most: int = 99, norm: bool = True, drop: float = 0.3) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop, self.last = nn.Dropout(drop), nn.Conv2d(4, 1, 1)
        self.most, self.seen = most, [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(len(x))
        hidden = self.norm(self.first(x))
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)} films\nat all")
        out: torch.Tensor = self.last(self.drop(F.silu(hidden)))
        return out


def small(device: torch.device = X.device, **how: Any) -> Small:
    with compute.seeded(1):
        return Small(**how).to(device)


def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])


def recipe(**more: Any) -> Recipe:
    given = {"steps": 12, "batch": 6, "lr": 0.01, "evaluate_every": 3, "precision": "float32"}
    return Recipe(**{**given, **more})


def draw(how: Recipe, device: torch.device = X.device) -> Callable[[int], Batch]:
    def sample(step: int) -> Batch:
        pick = batch_indices(len(X), how.batch, step, how.seed)
        return X[pick].to(device), Y[pick].to(device)

    return sample


def go(
    net: nn.Module, folder: Path | None = None, sample: Any = None, key: str = "", **more: Any
) -> TrainingResult:
    how, device = recipe(**more), next(net.parameters()).device
    whole = X.to(device), Y.to(device)
    return fit(
        net, sample or draw(how, device), loss, how, score="score", folder=folder, label="small",
        evaluate=lambda m: {"score": -float(loss(m, whole))}, key=key,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twenty_steps_are_those_of_a_plain_loop_to_the_bit(precision: str) -> None:
    net, plain = small(), small()
    how = recipe(steps=20, precision=precision)
    history = go(net, steps=20, precision=precision).history
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others}]
    opt = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    for step in range(20):
        for group in opt.param_groups:
            group["lr"] = how.rate(step)
        with compute.seeded(0, 2, step), compute.autocast(X.device, precision):
            value = loss(plain, draw(how)(step))
        opt.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        opt.step()
    assert same(net.state_dict(), plain.state_dict())
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    go(other := small(), steps=20, precision=precision, seed=1)
    assert not same(net.state_dict(), other.state_dict())


@pytest.mark.parametrize(("killed_at", "most"), [(4, 99), (11, 99), (2, 2), (7, 3)])
def test_a_killed_run_ends_in_the_same_bits(
    device: torch.device, tmp_path: Path, killed_at: int, most: int
) -> None:
    done = go(whole := small(device, most=most), tmp_path / "whole")

    def dying(step: int) -> Batch:
        if step == killed_at:
            raise KeyboardInterrupt
        return draw(recipe(), device)(step)

    with pytest.raises(KeyboardInterrupt):
        go(small(device, most=most), tmp_path / "cut", dying)
    again = go(cut := small(device, most=most), tmp_path / "cut")
    assert same(whole.state_dict(), cut.state_dict())
    assert same(done.best_state, again.best_state)
    for key in ("step", "train_loss", "score"):
        assert [r[key] for r in done.history] == [r[key] for r in again.history]
    assert pd.read_csv(tmp_path / "cut" / "history.csv").to_dict("records") == again.history
    assert all(0 < r["wait_share"] <= 1 and r["images_per_s"] > 0 for r in again.history)
    assert (again.best_step, again.at_once) == (done.best_step, done.at_once)
    # The films at once are in the checkpoint: they are not found out a second time.
    known = again.at_once if killed_at > 3 else 0
    assert cut.seen[1] == (known or 6)


def test_a_checkpoint_of_other_settings_is_never_resumed(tmp_path: Path) -> None:
    go(small(), tmp_path)
    runs = [small() for _ in range(3)]
    for net, key in zip(runs, ("", "", "other data"), strict=True):
        go(net, tmp_path, key=key, steps=15)
    # The second time nothing is left to do.
    assert [net.seen.count(6) for net in runs] == [15, 0, 15]
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"not a checkpoint")
    assert "last.pt: not a readable checkpoint" in error_of(go, small(), tmp_path)


def test_out_of_memory_halves_the_batch_and_keeps_its_gradient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    how: dict[str, Any] = {"norm": False, "drop": 0.0}
    whole, tight = small(**how), small(most=2, **how)
    history = go(whole, batch=7).history
    done = go(tight, batch=7)
    assert done.at_once == 1  # 7; then 2 + 2 + 3 with 3 at most; then 1
    assert tight.seen[1:5] == [7, 2, 2, 3]
    assert set(tight.seen[5:]) == {1}
    assert caplog.text.count("out of memory with") == 2
    assert "7 films at once (OutOfMemoryError: no room for 7 films): 3 from here on" in caplog.text
    go(normed := small(most=3, drop=0.0))  # a pass that failed leaves no trace in batch norm
    assert int(normed.norm.num_batches_tracked) == 24  # type: ignore[arg-type]
    for k, v in tight.state_dict().items():
        torch.testing.assert_close(v, whole.state_dict()[k], rtol=1e-4, atol=1e-6)
    for key in ("train_loss", "films"):
        assert [r[key] for r in done.history] == pytest.approx([r[key] for r in history], rel=1e-5)


def test_what_stops_a_run() -> None:
    with pytest.raises(FloatingPointError, match="small: loss is not finite at step 3"):
        go(small(), sample=lambda step: (X[:6], Y[:6] * float("nan")))
    assert "small: out of memory with one film at once" in error_of(go, small(most=0))
    with pytest.raises(ValueError, match="size"):
        go(small(), sample=lambda step: (X[:4], Y[:3]))
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Upsample((8, 8)))
    assert "small: one film at once is too few" in error_of(go, pooled, batch=1)


def test_errors_that_say_that_memory_ran_out() -> None:
    for error in (
        MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling create"),
    ):  # fmt: skip
        assert compute.out_of_memory(error)
    assert not compute.out_of_memory(RuntimeError("shapes differ"))
    assert not compute.out_of_memory(ValueError("out of memory"))


def test_batches_drawn_ahead_are_the_same() -> None:
    asked: list[int] = []

    def sample(step: int) -> Batch:
        asked.append(step)
        return (torch.tensor([step]),)

    assert [int(batch) for (batch,) in batches(sample, range(2, 6), True)] == asked == [2, 3, 4, 5]
    with pytest.raises(ZeroDivisionError):
        next(batches(lambda step: (X[step // 0],), range(1), True))


def test_every_film_is_drawn_once_in_each_pass() -> None:
    first, second = torch.cat([batch_indices(10, 4, step, 3) for step in range(5)]).split(10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    wide = batch_indices(3, 7, 0, 0).tolist()
    assert sorted(wide[:3]) == sorted(wide[3:6]) == [0, 1, 2]


def test_rate_warms_up_and_falls_to_zero() -> None:
    rates = [recipe(steps=100, lr=2.0).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 15)
    assert rates[14] == rates[15] == max(rates) == 2.0
    assert rates[-1] < 0.002


def test_bad_recipes_are_named() -> None:
    for name, value in (
        ("steps", 0), ("batch", 0), ("evaluate_every", 0), ("lr", -1.0), ("lr", float("nan")),
        ("weight_decay", -1.0), ("precision", "float16"),
    ):  # fmt: skip
        assert name in error_of(recipe, **{name: value})
