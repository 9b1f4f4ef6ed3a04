"""Label efficiency: sizes of a grid, and the table and figure that compare them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.finetuning import grid
from dollkit.finetuning.grid import Cell, cells_of, sizes_of
from dollkit.report.label_efficiency import (
    caption,
    figure5,
    masks_needed,
    several_sizes,
    table_sizes,
)
from dollkit.report.rows import at_the_edge, main_network, main_size

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


def rows(miou: dict[tuple[str, int], float], tuning: str = "full") -> pd.DataFrame:
    """Per-case rows whose mIoU is as given, in every seed and film alike but for a shared wave."""
    made = []
    for (arm, n), level in miou.items():
        for seed in range(3):
            for film in range(6):
                made.append(
                    {"task": "lungs", "network": "pspnet", "arm": arm, "tuning": tuning}
                    | {"n_train": n, "seed": seed, "fold": 0, "class": "lung"}
                    | {"image_id": f"f{film}", "patient_id": f"p{film}"}
                    | {"iou": level + 0.01 * (film - 2.5) + 0.001 * (seed - 1), "dice": level}
                )
    return pd.DataFrame(made)


CURVE = {("random", 4): 0.5, ("random", 16): 0.7, ("doll", 4): 0.6, ("doll", 16): 0.75}


def test_differences_and_masks_needed() -> None:
    table = table_sizes(rows(CURVE | {("truth", 4): 0.9}))
    assert table["n_train"].tolist() == [4, 16]
    np.testing.assert_allclose(table["miou"], [0.6, 0.75])
    np.testing.assert_allclose(table["random"], [0.1, 0.05])
    assert table["classifier"].isna().all()
    # Half of the way from 4 to 16 is 8, on a logarithmic axis.
    assert table["masks"].tolist() == ["8", "> 16"]
    assert table["n_seeds"].tolist() == [3, 3]
    assert "3 seeds, 6 test films" in caption(table, "toy")


def test_masks_needed_beyond_the_curve() -> None:
    sizes, curve = np.array([4.0, 8.0, 16.0]), np.array([0.5, np.nan, 0.7])
    assert masks_needed(sizes, curve, 0.6) == "8"
    assert masks_needed(sizes, curve, 0.4) == "< 4"
    assert masks_needed(sizes, curve, 0.5) == "≤ 4"
    assert masks_needed(sizes, curve, 0.7) == "16"
    assert masks_needed(sizes, curve, 0.71) == "> 16"
    assert masks_needed(sizes, np.full(3, np.nan), 0.5) == ""


def test_one_size_has_no_figure_and_an_empty_table() -> None:
    one = rows({("random", 4): 0.5, ("doll", 4): 0.6})
    assert several_sizes(one).empty
    assert table_sizes(one).empty
    with pytest.raises(InputError, match="one training size only"):
        figure5(one, profile="toy")


def test_figure_shows_what_the_table_says() -> None:
    drawn = figure5(rows(CURVE), profile="toy")
    assert set(drawn.data["arm"]) == {"random", "doll"}
    lines = drawn.figure.axes[0].get_lines()
    heights = sorted(tuple(np.round(line.get_ydata(), 6)) for line in lines)
    assert heights == [(0.5, 0.7), (0.6, 0.75)]
    assert "3 seeds, 6 test films" in drawn.caption


def test_the_main_size_has_most_settings_then_is_the_smallest() -> None:
    both = rows(CURVE)
    assert set(main_size(both)["n_train"]) == {4}
    more = pd.concat([both, rows({("doll", 16): 0.6}, "bn")])
    assert set(main_size(more)["n_train"]) == {16}
    apart = pd.concat([both, rows({("doll", 64): 0.6}).assign(network="unet")])
    assert main_size(apart).groupby("network")["n_train"].unique().map(list).to_dict() == {
        "pspnet": [4], "unet": [64],
    }  # fmt: skip


def test_the_main_network_has_most_settings_then_is_pspnet() -> None:
    both = rows({("doll", 4): 0.6, ("random", 4): 0.5})
    assert main_network(pd.concat([both.assign(network="deeplabv3plus"), both])) == "pspnet"
    more = both.assign(network="unet", tuning="bn")
    assert main_network(pd.concat([both, both.assign(network="unet"), more])) == "unet"
    assert main_network(pd.concat([both.assign(network=n) for n in ("unet", "fpn")])) == "fpn"


def test_rates_at_the_edge_of_their_grid_are_told() -> None:
    def tried(arm: str, chosen: float, grid: tuple[float, ...] = (0.1, 0.2, 0.4)) -> pd.DataFrame:
        where = {"task": "lungs", "network": "pspnet", "n_train": 4, "tuning": "full", "arm": arm}
        own = [{**where, "fold": 0, "lr": lr, "selected": lr == chosen} for lr in grid]
        return pd.DataFrame(own)

    inside = [tried("doll", 0.2), tried("truth", 0.1, (0.1,))]
    assert at_the_edge(pd.concat(inside)) == []
    low, high = at_the_edge(pd.concat([*inside, tried("random", 0.4), tried("classifier", 0.1)]))
    assert "the lowest of its grid" in low
    assert low.endswith(": lungs full/classifier.")
    assert "the highest of its grid" in high
    assert high.endswith(": lungs full/random.")
