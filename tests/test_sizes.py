"""Training sizes of a fine-tuning grid."""

from __future__ import annotations

import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.finetuning import grid
from dollkit.finetuning.grid import Cell, cells_of, sizes_of

FILMS = pd.DataFrame(
    {
        "patient_id": [f"p{i}" for i in range(16)],
        "split": ["train"] * 10 + ["valid"] * 2 + ["test"] * 4,
        "fold": 0,
    }
)


def test_sizes_are_sorted_and_zero_is_all() -> None:
    assert sizes_of([0, 2, 4], 8, FILMS, [0], 2) == [2, 4, 10]
    folded = FILMS.assign(fold=[0, 1] * 8)
    # Eight films outside a fold, of which two validate: every fold has six.
    assert sizes_of([0], 2, folded, [0, 1], 2) == [6]


def test_what_there_is_not_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert sizes_of([8, 11, 10, 0, 4], 8, FILMS, [0], 2) == [4, 10]
    assert "no run with 11 training films: there are 10" in caplog.text
    with pytest.raises(InputError, match="'sizes' has -1"):
        sizes_of([-1], 8, FILMS, [0], 2)


def test_sizes_take_the_rates_of_full_tuning() -> None:
    tunings = grid.tunings_of(["random", "doll"], {"bn": ["doll"]}, {"full": [1.0], "bn": [2.0]})
    assert cells_of(tunings, 8, {4: ["doll"]}) == [
        Cell("random", "full", 8, [1.0]),
        Cell("doll", "full", 8, [1.0]),
        Cell("doll", "bn", 8, [2.0]),
        Cell("doll", "full", 4, [1.0]),
    ]
