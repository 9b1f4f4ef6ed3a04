"""Table and figure of robustness, from rows whose drops are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.finetuning.robustness import KINDS
from dollkit.report import robustness
from dollkit.report.rows import UNTOUCHED
from tests import synthetic_run as synthetic

LEVELS = {name: kind.levels for name, kind in KINDS.items()}


def _loss(arm: str, name: str, strength: int) -> float:
    """Known drop: 0.04 per step of strength; doll loses half of it under noise."""
    return 0.04 * strength * (0.5 if (arm, name) == ("doll", "noise") else 1.0)


def _perturbed(plain: pd.DataFrame, given: Mapping[str, Sequence[float]] = LEVELS) -> pd.DataFrame:
    """Rows whose IoU is lower by a known amount."""
    frames = []
    for name, levels in given.items():
        for strength, level in enumerate(levels, start=1):
            drop = plain["arm"].map(lambda arm, s=strength, n=name: _loss(arm, n, s))
            frame = synthetic.moved(plain, -np.rint(drop * synthetic.UNION).astype(int))
            frames.append(frame.assign(perturbation=name, level=level))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    return synthetic.segmentation_cases(
        tasks=["lungs", "organs"], patients=12, tunings={"full": 1.0}
    )


@pytest.fixture(scope="module")
def rows(plain: pd.DataFrame) -> pd.DataFrame:
    return _perturbed(plain)


def test_the_table_has_the_drops_that_were_put_in(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    made = robustness.table(rows, plain, "p").frame
    assert len(made) == 2 * 5 * (1 + 12)
    got = made[made["perturbation"] != UNTOUCHED]
    settings = list(zip(got["perturbation"], got["level"], strict=True))
    steps = [(name, LEVELS[name].index(float(level)) + 1) for name, level in settings]
    own = np.array([_loss(arm, *step) for arm, step in zip(got["arm"], steps, strict=True)])
    other = np.array([_loss("random", *step) for step in steps])
    gap = np.where(got["arm"] == "random", np.nan, own - other)
    assert np.nanmin(gap) < -0.01
    for end in ("", "_lo", "_hi"):  # equal in every row: the interval has no width
        np.testing.assert_allclose(got[f"drop{end}"], own, atol=1e-12)
        np.testing.assert_allclose(got[f"drop_vs_random{end}"], gap, atol=1e-12)
    assert (got[["n_cases", "n_patients", "n_seeds"]] == [12, 12, 3]).all(axis=None)


def test_a_case_that_becomes_empty_on_both_sides_counts_nowhere() -> None:
    """IoU 1, 1/2 before; the first film's truth leaves the frame, the second falls to 1/4."""
    plain = synthetic.segmentation_cases(
        {"doll": 0.0}, tasks=["lungs"], tunings={"full": 1.0}, patients=2, seeds=1
    )
    plain[["tp", "fp", "fn"]] = [[4, 0, 0], [2, 2, 0]]
    plain["iou"], plain["dice"] = [1.0, 0.5], [1.0, 2 / 3]
    rows = plain.assign(perturbation="rotation", level=20.0)
    rows[["tp", "fp", "fn"]] = [[0, 0, 0], [1, 3, 0]]
    rows["iou"], rows["dice"] = [np.nan, 0.25], [np.nan, 0.4]
    made = robustness.table(rows, plain, "p").frame
    assert made["miou"].tolist() == pytest.approx([0.75, 0.25])
    assert made["drop"].iloc[1] == pytest.approx(0.5)


def test_two_networks_are_two_blocks_and_the_figure_shows_the_one_of_most_arms(
    plain: pd.DataFrame,
) -> None:
    few = plain[plain["arm"].isin(["random", "doll"])].assign(network="unet")
    both = pd.concat([plain.assign(network="deeplabv3plus"), few], ignore_index=True)
    rows = _perturbed(both, given={"contrast": [0.5]})
    made = robustness.table(rows, both, "p").frame
    assert made.groupby("network").size().to_dict() == {"deeplabv3plus": 20, "unet": 8}
    drawn = robustness.figure_s4(rows, both, profile="p")
    assert set(drawn.data["network"]) == {"deeplabv3plus"}


def test_the_figure_says_what_it_shows(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    drawn = robustness.figure_s4(rows, plain, profile="p")
    for words in ("profile p", "3 seeds", "12 test films", "lungs PSPNet, 16 training films",
                  "(0.75, 0.5, 0.25)", "from the lowest to the highest seed"):  # fmt: skip
        assert words in drawn.caption
    assert "imagenet" not in set(drawn.data["arm"])
    axes = drawn.figure.axes
    assert len(axes) == 8
    # Untouched on the left of every panel, whichever way the levels run.
    for ax in axes:
        places = ax.transData.transform([(x, 0.5) for x in ax.get_xticks()])[:, 0]
        assert ax.get_xticklabels()[int(places.argmin())].get_text() == "none"


def test_perturbed_films_without_plain_ones_or_none_at_all(
    plain: pd.DataFrame, rows: pd.DataFrame
) -> None:
    none = rows.iloc[:0]
    with pytest.raises(InputError, match="no perturbed film was judged"):
        robustness.table(none, plain, "p")
    with pytest.raises(InputError, match="no perturbed film was judged"):
        robustness.figure_s4(none, plain, profile="p")
    some = plain[(plain["arm"] != "doll") | (plain["task"] != "lungs")]
    with pytest.raises(InputError, match="lungs, PSPNet, 16 training films, arm 'doll' has no"):
        robustness.table(rows, some, "p")
