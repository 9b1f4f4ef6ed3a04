"""Table and figure of robustness, from rows whose drops are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from dollkit.common.errors import InputError
from dollkit.finetuning.robustness import KINDS
from dollkit.report import tables
from dollkit.report.rows import UNTOUCHED
from tests import synthetic_run as synthetic

LEVELS = {name: kind.levels for name, kind in KINDS.items()}
ONE = {"tasks": ["lungs"], "tunings": {"full": 1.0}, "seeds": 1}
"""One task, tuning and seed."""


def _loss(arm: str, name: str, strength: int) -> float:
    """Known drop: 0.04 per step of strength; doll loses half of it under noise."""
    return 0.04 * strength * (0.5 if (arm, name) == ("doll", "noise") else 1.0)


def _perturbed(
    plain: pd.DataFrame, loss: Callable[[str, str, int], float] = _loss,
    given: Mapping[str, Sequence[float]] = LEVELS, jitter: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Rows whose IoU is lower by a known amount, plus and minus `jitter` in turn."""
    frames = []
    sign = np.where(np.arange(len(plain)) % 2, 1, -1)
    for name, levels in given.items():
        for strength, level in enumerate(levels, start=1):
            drop = np.array([loss(arm, name, strength) for arm in plain["arm"]]) + jitter * sign
            gone = np.rint(drop * synthetic.UNION).astype(int)
            lost = plain.assign(tp=plain["tp"] - gone, fn=plain["fn"] + gone)
            frames.append(lost.assign(perturbation=name, level=level))
    return synthetic.judged(pd.concat(frames, ignore_index=True))


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    full = {"full": 1.0}
    return synthetic.segmentation_cases(tasks=["lungs", "organs"], patients=12, tunings=full)


@pytest.fixture(scope="module")
def rows(plain: pd.DataFrame) -> pd.DataFrame:
    return _perturbed(plain)


def test_the_table_has_the_drops_that_were_put_in(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    made = tables.table_robustness(rows, plain, "p").frame
    assert len(made) == 2 * 5 * (1 + 12)
    perturbed = made[made["perturbation"] != UNTOUCHED]
    for r in perturbed.to_dict("records"):
        step = LEVELS[r["perturbation"]].index(float(r["level"])) + 1
        own = _loss(r["arm"], r["perturbation"], step)
        # Equal in every row: the interval has no width.
        assert [r[f"drop{s}"] for s in ("", "_lo", "_hi")] == pytest.approx([own] * 3, abs=1e-12)
        gap = [r[f"drop_vs_random{s}"] for s in ("", "_lo", "_hi")]
        other = np.nan if r["arm"] == "random" else _loss("random", r["perturbation"], step)
        assert gap == pytest.approx([own - other] * 3, abs=1e-12, nan_ok=True)
        assert (r["n_cases"], r["n_patients"], r["n_seeds"]) == (12, 12, 3)
    doll = perturbed[(perturbed["arm"] == "doll") & (perturbed["perturbation"] == "noise")]
    assert (doll["drop_vs_random"] < -0.01).all()


def test_the_interval_of_a_drop_is_the_paired_t_test() -> None:
    """One seed, one class: drops of 0.1 +- 0.01 in turn, though patients differ by 0.05."""
    plain = synthetic.segmentation_cases({"random": 0.0, "doll": 0.05}, **ONE)
    rows = _perturbed(plain, lambda *_: 0.1, {"noise": [10.0]}, jitter=0.01)
    made = tables.table_robustness(rows, plain, "p").frame
    row = made[(made["arm"] == "random") & made["level"].notna()].iloc[0]
    half = sps.t.ppf(0.975, 39) * 0.01 * np.sqrt(40 / 39) / np.sqrt(40)
    ends = [row[f"drop{s}"] for s in ("", "_lo", "_hi")]
    assert ends == pytest.approx([0.1, 0.1 - half, 0.1 + half], abs=1e-9)
    assert row["drop_hi"] - row["drop_lo"] < (row["miou_hi"] - row["miou_lo"]) / 2


def test_a_case_that_becomes_empty_on_both_sides_counts_nowhere() -> None:
    """IoU 1, 1/2 before; the first film's truth leaves the frame, the second falls to 1/4."""
    plain = synthetic.segmentation_cases({"doll": 0.0}, patients=2, **ONE)
    plain[["tp", "fp", "fn"]] = [[4, 0, 0], [2, 2, 0]]
    rows = plain.assign(perturbation="rotation", level=20.0)
    rows[["tp", "fp", "fn"]] = [[0, 0, 0], [1, 3, 0]]
    made = tables.table_robustness(synthetic.judged(rows), synthetic.judged(plain), "p").frame
    assert made["miou"].tolist() == pytest.approx([0.75, 0.25])
    assert made["drop"].iloc[1] == pytest.approx(0.5)


def test_two_networks_are_two_blocks(plain: pd.DataFrame) -> None:
    few = plain[plain["arm"].isin(["random", "doll"])].assign(network="unet")
    both = pd.concat([plain.assign(network="deeplabv3plus"), few], ignore_index=True)
    rows = _perturbed(both, given={"contrast": [0.5]})
    made = tables.table_robustness(rows, both, "p").frame
    assert made.groupby("network").size().to_dict() == {"deeplabv3plus": 20, "unet": 8}


def test_rows_that_are_missing_are_told(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    less = plain[(plain["arm"] != "doll") | (plain["task"] != "lungs")]
    with pytest.raises(InputError, match="lungs, PSPNet, 16 training films, arm 'doll' has no"):
        tables.table_robustness(rows, less, "p")
