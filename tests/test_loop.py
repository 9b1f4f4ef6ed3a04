"""The training loop against a plain one; resuming, memory, waiting for data."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.training.checkpoint import Fit
from dollkit.training.fit import fit
from dollkit.training.gradients import Feed
from dollkit.training.recipe import Batch, Recipe, order, parameter_groups
from tests import same

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


def small(**how: Any) -> Small:
    with compute.seeded(1):
        return Small(**how)


def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])


def draw(recipe: Recipe) -> Callable[[int], Batch]:
    def sample(step: int) -> Batch:
        pick = order(len(X), recipe.batch, step, recipe.seed)
        return X[pick], Y[pick]

    return sample


def go(
    net: nn.Module, folder: Path | None = None, sample: Any = None, loop: Any = None, **more: Any
) -> Fit:
    given: dict[str, Any] = {
        "steps": 12, "batch": 6, "lr": 0.01, "evaluate_every": 3, "precision": "float32", **more,
    }  # fmt: skip
    recipe = Recipe(**given)
    return fit(
        net, sample or draw(recipe), loss, recipe, score="score", folder=folder, label="small",
        evaluate=lambda m: {"score": -float(loss(m, (X, Y)))}, **{"quiet": True, **(loop or {})},
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twenty_steps_are_those_of_a_plain_loop_to_the_bit(optimizer: str, precision: str) -> None:
    net, plain = small(), small()
    recipe = Recipe(steps=20, batch=6, lr=0.01, optimizer=optimizer, precision=precision)
    go(net, steps=20, optimizer=optimizer, precision=precision)
    groups = parameter_groups(plain, recipe.weight_decay)
    opt = (
        torch.optim.AdamW(groups, fused=True) if optimizer == "adamw"
        else torch.optim.SGD(groups, momentum=0.9)
    )  # fmt: skip
    for step in range(20):
        for group in opt.param_groups:
            group["lr"] = recipe.rate(step)
        batch = draw(recipe)(step)
        with compute.seeded(0, 2, step), compute.autocast(X.device, precision):
            value = loss(plain, batch)
        opt.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        opt.step()
    assert same(net.state_dict(), plain.state_dict())


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [2, 4, 11])
@pytest.mark.parametrize(
    ("most", "more"),
    [(99, {}), (2, {}), (99, {"at_once": 4}), (3, {"schedule": "constant"})],
)
def test_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    most: int,
    more: dict[str, Any],
    killed_at: int,
) -> None:
    whole = small(most=most)
    done = go(whole, tmp_path / "whole", **more)

    def dying(step: int) -> Batch:
        if step == killed_at:
            raise Killed
        return draw(Recipe(steps=12, batch=6, lr=0.01))(step)

    cut = small(most=most)
    with pytest.raises(Killed):
        go(cut, tmp_path / "cut", dying, **more)
    caplog.clear()
    cut = small(most=most)
    again = go(cut, tmp_path / "cut", **more)
    assert same(whole.state_dict(), cut.state_dict())
    assert same(done.best_state, again.best_state)
    for key in ("step", "train_loss", "score"):
        assert [r[key] for r in done.history] == [r[key] for r in again.history]
    assert (again.best_step, again.at_once) == (done.best_step, done.at_once)
    # The films at once stand in the checkpoint: they are not found out a second time.
    assert ("out of memory" in caplog.text) is (most < 6 and killed_at < 3)


@pytest.mark.parametrize("change", [{"schedule": "step"}, {"at_once": -1}])
def test_bad_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Recipe(**{"steps": 1, "batch": 1, "lr": 0.1, **change})


def test_out_of_memory_halves_the_batch_and_keeps_its_gradient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    how: dict[str, Any] = {"norm": False, "drop": 0.0}
    whole, tight, given = small(**how), small(most=2, **how), small(most=2, **how)
    history = go(whole, batch=7).history
    with caplog.at_level(logging.INFO):
        done = go(tight, batch=7)
    assert done.at_once == 1  # 7; then 2 + 2 + 3 with 3 at most; then 1
    assert tight.seen[1:5] == [7, 2, 2, 3]
    assert set(tight.seen[5:]) == {1}
    lines = [r.message for r in caplog.records if "out of memory" in r.message]
    assert lines[0] == (
        "small: out of memory with 7 films at once (OutOfMemoryError: no room for 7 films): "
        "3 from here on, their gradients accumulated to the same batch"
    )
    assert len(lines) == 2
    set_once = go(given, batch=7, at_once=2)
    assert (set_once.at_once, max(given.seen)) == (2, 2)
    for net, rows in ((tight, done.history), (given, set_once.history)):
        for k, v in net.state_dict().items():
            torch.testing.assert_close(v, whole.state_dict()[k], rtol=1e-4, atol=1e-6)
        for a, b in zip(rows, history, strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
            assert a["films"] == b["films"]


def test_a_pass_that_failed_leaves_no_trace_in_batch_norm() -> None:
    once, found = small(drop=0.0), small(most=3, drop=0.0)
    go(once, at_once=3)
    go(found)
    assert same(once.state_dict(), found.state_dict())
    assert int(found.norm.num_batches_tracked) == 24  # type: ignore[arg-type]


def test_no_room_for_one_film_and_other_errors() -> None:
    with pytest.raises(InputError, match=r"small: out of memory with one film at once.*bfloat16"):
        go(small(most=0))

    def odd(step: int) -> Batch:
        return X[:4], Y[:3]

    with pytest.raises(ValueError, match="size"):
        go(small(), sample=odd)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling create"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out(error: Exception, said: bool) -> None:
    assert compute.out_of_memory(error) is said


def test_history_csv_holds_the_history(tmp_path: Path) -> None:
    done = go(small(), tmp_path)
    with (tmp_path / "history.csv").open() as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    assert rows == done.history


def test_waiting_for_data_is_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    ready = draw(Recipe(steps=12, batch=6, lr=0.01))

    def slow(step: int) -> Batch:
        time.sleep(0.02)
        return ready(step)

    with caplog.at_level(logging.INFO):
        done = go(small(), sample=slow, loop={"quiet": False})
    assert 0.24 <= done.waited <= done.trained <= done.seconds
    assert 0.1 < done.wait_share < 1
    assert done.wait_share == done.waited / done.trained
    assert all(0 < r["wait_share"] <= 1 for r in done.history)
    assert done.films == 72
    assert done.images_per_s == pytest.approx(72 / done.trained)
    told = f"small  {100 * done.wait_share:.1f} % of the training time spent waiting for data"
    assert caplog.records[-1].message.startswith(told)
    assert f"{done.images_per_s:.1f} films/s, peak " in caplog.records[-1].message


def test_batches_drawn_ahead_are_the_same_and_ready() -> None:
    asked: list[int] = []

    def slow(step: int) -> Batch:
        asked.append(step)
        time.sleep(0.02)
        return (torch.tensor([step]),)

    ahead = Feed(slow, 2, 6, X.device, True)
    waits = []
    for step in range(2, 6):
        (batch,), waited = ahead.take(step)
        assert batch.item() == step
        waits.append(waited)
        time.sleep(0.05)
    ahead.close()
    assert asked == [2, 3, 4, 5]
    assert min(waits[1:]) < 0.01
    inline, threaded = small(), small()
    go(inline)
    go(threaded, loop={"ahead": True})
    assert same(inline.state_dict(), threaded.state_dict())

    def broken(step: int) -> Batch:
        raise Killed

    with pytest.raises(Killed):
        go(small(), sample=broken, loop={"ahead": True})


PEAK = """
import json
import torch
from dollkit.training.gradients import Memory
from tests.test_loop import X, Y, go, small

def hungry(step):
    torch.ones(48 * 2**20 // 4).add_(1)
    return X[:6], Y[:6]

go(small())  # loads what a first run loads
bulk = torch.ones(64 * 2**20 // 4)
del bulk  # before the run: not counted
memory = Memory(X.device)
held = torch.ones(96 * 2**20 // 4)
held += 1
del held
print(json.dumps([memory.peak_mb(), go(small(), sample=hungry).peak_mb]))
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the mark cannot be set back here"
)
def test_peak_memory_is_that_of_the_run() -> None:
    # In a process of its own: of a large old one the system takes pages away meanwhile.
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    held, run = json.loads(done.stdout.splitlines()[-1])
    assert 90 < held < 140
    assert 45 < run < 140
