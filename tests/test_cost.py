"""Costs of explanations: what is counted, derived and drawn. No time is asserted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import arithmetic
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.explanations import cost
from tests.label_films import noise, write_films
from tests.small_files import error_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Module:
    """A first layer, one 3 x 3 convolution of 4 to 6 channels, and a head of 14."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 6, 3, 1, 1), nn.Tanh()
    head = nn.Flatten(), nn.Linear(6, len(FINDINGS))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head).eval()


X = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_measure_tells_ratio_labels_and_memory(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        told = cost.measure({"a": model}, X, [[1, 3], [2]], rounds=1, reference_steps=54)
    assert len([r for r in caplog.messages if r.startswith("a: fast ")]) == 1
    row = told["models"]["a"]
    assert (told["pairs"], told["films"]) == (3, 2)
    assert row["exact"]["dice"] > 0.9
    assert row["exact"]["dice"] >= row["exact"]["dice_min"]
    expected = row["captum"]["seconds_per_pair"] / row["exact"]["seconds_per_pair"]
    assert row["exact"]["ratio"] == pytest.approx(expected)
    assert told["overall"]["fast"]["ratio"] == pytest.approx(row["fast"]["ratio"])
    assert "nothing to measure" in error_of(cost.measure, {"a": model}, X, [[], []])


def test_captum_in_batches_gives_the_same_maps(model: nn.Module) -> None:
    maps = [cost.captum_maps(model, X, [[1, 3], [2]], "black", n) for n in (1, 2)]
    torch.testing.assert_close(*maps)


def test_work_is_what_a_hand_counts_and_use_is_consistent(model: nn.Module) -> None:
    by_hand = 2 * 16 * 16 * 4 * 6 * 9 + 2 * 6 * len(FINDINGS)  # the first layer is not walked
    assert arithmetic.work(model, X, "float32") == (by_hand, by_hand)
    how = {"precision": "float32", "steps": 2, "rounds": 1}
    used = arithmetic.use({"a": model}, X, [[1, 2], []], sides=[16, 32], **how)
    row = used.iloc[0]
    assert row["gflop_pair"] == pytest.approx(2 * (0.5 + 1) * row["gflop_forward"])
    assert row["share"] == pytest.approx(row["tflops"] / row["matmul_tflops"])
    assert row["tflops"] == pytest.approx(row["gflop_pair"] / row["seconds_per_pair"] / 1e3)
    with pytest.raises(InputError, match="at least one round"):
        arithmetic.use({"a": model}, X, [[1], []], sides=[], **how)


def test_films_with_findings(tmp_path: Path) -> None:
    films = {0: [1, 1, 0, 0], 3: [0, 1, 0, 0], 2: [0, 0, 0, 1], 5: [0, 0, 0, 1]}
    positive = {FINDINGS[channel]: states for channel, states in films.items()}
    store = write_films(tmp_path, noise(4, 8), positive, split="test")
    x, targets = cost.films_of(store, "test", 5, torch.device("cpu"))
    assert (len(x), targets) == (2, [[3], [2, 5]])
    for split, count in (("valid", 1), ("test", 0)):
        with pytest.raises(InputError, match=f"no film .*{split}"):
            cost.films_of(store, split, count, torch.device("cpu"))
