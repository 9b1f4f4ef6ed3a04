"""Table and figure of robustness, from rows whose drops are known."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from dollkit.common.errors import InputError
from dollkit.finetuning.robustness import PERTURBATIONS
from dollkit.report import robustness
from dollkit.report import rows as cases
from dollkit.report.tables import summarise
from tests import synthetic_run as synthetic

UNION = 100_000
"""Pixels of truth or prediction in each synthetic row."""


def _loss(arm: str, name: str, strength: int) -> float:
    """Known drop: 0.04 per step of strength; doll loses half of it under noise."""
    return 0.04 * strength * (0.5 if (arm, name) == ("doll", "noise") else 1.0)


def _perturbed(
    plain: pd.DataFrame,
    loss: Callable[[str, str, int], float] = _loss,
    given: Mapping[str, list[float]] = PERTURBATIONS,
    jitter: float = 0.0,
) -> pd.DataFrame:
    """Rows whose IoU is lower by a known amount, plus and minus `jitter` in turn."""
    frames = []
    sign = np.where(np.arange(len(plain)) % 2, 1, -1)
    for name, levels in given.items():
        for strength, level in enumerate(levels, start=1):
            drop = np.array([loss(arm, name, strength) for arm in plain["arm"]]) + jitter * sign
            gone = np.rint(drop * UNION).astype(int)
            tp = plain["tp"] - gone
            frame = plain.assign(tp=tp, fn=plain["fn"] + gone, iou=tp / UNION)
            frame["dice"] = 2 * tp / (UNION + tp)
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


@pytest.fixture(scope="module")
def made(plain: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    return robustness.table(rows, plain)


def test_the_table_has_the_drops_that_were_put_in(made: pd.DataFrame) -> None:
    assert len(made) == 2 * 5 * (1 + 12)
    perturbed = made[made["perturbation"] != robustness.UNTOUCHED]
    for r in perturbed.to_dict("records"):
        step = PERTURBATIONS[r["perturbation"]].index(r["level"]) + 1
        own = _loss(r["arm"], r["perturbation"], step)
        # Equal in every row: the interval has no width.
        assert [r[f"drop{s}"] for s in ("", "_lo", "_hi")] == pytest.approx([own] * 3, abs=1e-12)
        gap = [r[f"drop_vs_random{s}"] for s in ("", "_lo", "_hi")]
        other = np.nan if r["arm"] == "random" else _loss("random", r["perturbation"], step)
        assert gap == pytest.approx([own - other] * 3, abs=1e-12, nan_ok=True)
        assert (r["n_cases"], r["n_patients"], r["n_seeds"]) == (12, 12, 3)
    doll = perturbed[(perturbed["arm"] == "doll") & (perturbed["perturbation"] == "noise")]
    assert (doll["drop_vs_random"] < -0.01).all()


def test_untouched_rows_are_those_of_table_1(made: pd.DataFrame, plain: pd.DataFrame) -> None:
    untouched = made[made["perturbation"] == robustness.UNTOUCHED].set_index(["task", "arm"])
    whole = summarise(plain).set_index(["task", "arm"])
    for column in ("miou", "miou_lo", "miou_hi"):
        pd.testing.assert_series_equal(
            untouched[column].sort_index(), whole[column].sort_index(), rtol=0, atol=1e-12
        )
    assert untouched["level"].isna().all()
    assert untouched["drop"].isna().all()


def test_miou_and_its_interval_move_with_the_drop(made: pd.DataFrame) -> None:
    base = made[made["perturbation"] == robustness.UNTOUCHED].set_index(["task", "arm"])
    for r in made[made["perturbation"] != robustness.UNTOUCHED].to_dict("records"):
        before = base.loc[(r["task"], r["arm"])]
        for column in ("miou", "miou_lo", "miou_hi"):
            assert r[column] == pytest.approx(before[column] - r["drop"], abs=1e-12)


def test_the_interval_of_a_drop_is_the_paired_t_test() -> None:
    """One seed, one class: drops of 0.1 +- 0.01 in turn, though patients differ by 0.05."""
    plain = synthetic.segmentation_cases(
        {"random": 0.0, "doll": 0.05}, tasks=["lungs"], tunings={"full": 1.0}, seeds=1
    )
    assert plain.groupby("arm").size().tolist() == [40, 40]

    def loss(arm: str, name: str, strength: int) -> float:
        return 0.1

    made = robustness.table(_perturbed(plain, loss, {"noise": [10.0]}, jitter=0.01), plain)
    row = made[(made["arm"] == "random") & made["level"].notna()].iloc[0]
    half = sps.t.ppf(0.975, 39) * 0.01 * np.sqrt(40 / 39) / np.sqrt(40)
    assert row["drop"] == pytest.approx(0.1, abs=1e-12)
    assert row["drop_lo"] == pytest.approx(0.1 - half, abs=1e-9)
    assert row["drop_hi"] == pytest.approx(0.1 + half, abs=1e-9)
    assert row["drop_hi"] - row["drop_lo"] < (row["miou_hi"] - row["miou_lo"]) / 2


def test_equal_rows_have_no_drop(plain: pd.DataFrame) -> None:
    made = robustness.table(_perturbed(plain, lambda *_: 0.0, {"rotation": [5.0]}), plain)
    moved = made[made["level"].notna()]
    assert (moved[["drop", "drop_lo", "drop_hi"]].to_numpy() == 0).all()
    gaps = moved.loc[moved["arm"] != "random", ["drop_vs_random", "drop_vs_random_lo"]]
    assert (gaps.to_numpy() == 0).all()


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
    made = robustness.table(rows, plain)
    assert made["miou"].tolist() == pytest.approx([0.75, 0.25])
    assert made["drop"].iloc[1] == pytest.approx(0.5)


def test_without_the_random_start_there_is_no_difference_from_it(plain: pd.DataFrame) -> None:
    some = plain[plain["arm"] != "random"]
    made = robustness.table(_perturbed(some, given={"noise": [5.0]}), some)
    assert made["drop_vs_random"].isna().all()
    assert made["drop"].notna().sum() == 2 * 4


def test_the_order_of_rows_does_not_matter(plain: pd.DataFrame) -> None:
    some = plain[plain["arm"].isin(["random", "doll", "truth"]) & (plain["task"] == "organs")]
    rows = _perturbed(some, jitter=0.01)
    made = robustness.table(rows, some)
    mixed = robustness.table(
        rows.sample(frac=1, random_state=1), some.sample(frac=1, random_state=2)
    )
    pd.testing.assert_frame_equal(mixed, made, rtol=0, atol=1e-12)
    doll = made[made["arm"] == "doll"]
    assert doll["perturbation"].unique().tolist() == [robustness.UNTOUCHED, *PERTURBATIONS]
    assert doll["level"].dropna().tolist() == [v for own in PERTURBATIONS.values() for v in own]


def test_two_networks_are_two_blocks_and_the_figure_shows_the_one_of_most_arms(
    plain: pd.DataFrame,
) -> None:
    few = plain[plain["arm"].isin(["random", "doll"])].assign(network="unet")
    both = pd.concat([plain.assign(network="deeplabv3plus"), few], ignore_index=True)
    rows = _perturbed(both, given={"contrast": [0.5]})
    made = robustness.table(rows, both)
    assert made.groupby("network").size().to_dict() == {"deeplabv3plus": 20, "unet": 8}
    drawn = robustness.figure_s4(rows, both, profile="p")
    assert set(drawn.data["network"]) == {"deeplabv3plus"}
    twice = pd.concat([plain, plain.assign(network="unet"), plain.assign(n_train=8)])
    data = robustness.lines(_perturbed(twice, given={"contrast": [0.5]}), twice)
    assert data[["network", "n_train"]].drop_duplicates().to_numpy().tolist() == [["PSPNet", 8]]


def test_lines_start_at_the_untouched_films(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    data = robustness.lines(rows, plain)
    assert len(data) == 2 * 5 * (4 + 12)
    part = data[(data["task"] == "organs") & (data["arm"] == "doll")]
    own = plain[(plain["task"] == "organs") & (plain["arm"] == "doll")]
    seeds = cases.contributions(own, "iou")[2].mean(1)
    for name, identity in (("contrast", 1.0), ("noise", 0.0), ("rotation", 0.0), ("window", 1.0)):
        first = part[(part["perturbation"] == name) & (part["level"] == identity)].iloc[0]
        shown = [first["mean"], first["lo"], first["hi"]]
        assert shown == pytest.approx([seeds.mean(), seeds.min(), seeds.max()], abs=1e-12)
        last = part[part["perturbation"] == name].iloc[-1]
        assert first["mean"] - last["mean"] == pytest.approx(_loss("doll", name, 3), abs=1e-12)


def test_the_figure_has_fixed_bytes_and_says_what_it_shows(
    plain: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path
) -> None:
    saved = []
    for name in ("a", "b"):
        drawn = robustness.figure_s4(rows, plain, profile="p")
        saved.append(drawn.save(tmp_path / name / "figure_s4"))
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    for words in ("profile p", "3 seeds", "12 test films", "lungs PSPNet, 16 training films",
                  "(0.75, 0.5, 0.25)", "from the lowest to the highest seed"):  # fmt: skip
        assert words in drawn.caption
    assert "imagenet" not in set(drawn.data["arm"])
    axes = drawn.figure.axes
    assert len(axes) == 8
    # Untouched on the left of every panel, whichever way the levels run.
    for ax in axes:
        ticks = dict(
            zip([t.get_text() for t in ax.get_xticklabels()], ax.get_xticks(), strict=True)
        )
        places = {k: float(ax.transData.transform((v, 0.5))[0]) for k, v in ticks.items()}
        assert min(places, key=lambda k: places[k]) == "none"


def test_written_tables_say_levels_as_they_are(made: pd.DataFrame, tmp_path: Path) -> None:
    paths = robustness.write(made, tmp_path, profile="p")
    assert [p.name for p in paths] == ["robustness.csv", "robustness.md", "robustness.tex"]
    back = pd.read_csv(paths[0])
    assert back["level"].tolist() == pytest.approx(made["level"].tolist(), nan_ok=True)
    text = paths[1].read_text()
    assert "| lungs | untouched | – | random |" in text
    assert "| lungs | window | 0.25 | doll |" in text
    assert "| lungs | noise | 20 | doll |" in text
    assert "0.060 [0.060, 0.060] | -0.060 [-0.060, -0.060]" in text
    assert "profile p" in text
    assert "3 seeds, 12 test films" in text
    assert "PSPNet" not in text.split("|", 1)[1]


def _write(run: Path, rows: pd.DataFrame) -> Path:
    for task, part in rows.groupby("task"):
        folder = run / "finetune" / str(task)
        cases.write_csv(part, folder / "robust.csv.gz")
    return run


def test_rows_come_back_from_a_run(rows: pd.DataFrame, tmp_path: Path) -> None:
    back = robustness.load(_write(tmp_path, rows.sample(frac=1, random_state=0)))
    assert list(back) == robustness.COLUMNS
    assert back["patient_id"].iloc[0] == "00000"
    key = [*cases.SETTING, "seed", "fold", "image_id", "class", "perturbation", "level"]
    pd.testing.assert_frame_equal(
        back.sort_values(key, ignore_index=True),
        rows.sort_values(key, ignore_index=True)[robustness.COLUMNS],
        check_dtype=False, rtol=0, atol=1e-5,
    )  # fmt: skip


def test_a_run_without_perturbed_films(plain: pd.DataFrame, tmp_path: Path) -> None:
    none = robustness.load(tmp_path)
    assert none.empty
    assert list(none) == robustness.COLUMNS
    with pytest.raises(InputError, match="no perturbed film was judged"):
        robustness.table(none, plain)
    with pytest.raises(InputError, match="no perturbed film was judged"):
        robustness.figure_s4(none, plain, profile="p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="perturbation"), "column 'perturbation' is missing"),
        (lambda f: f.drop(columns="level"), "column 'level' is missing"),
        (lambda f: f.assign(perturbation="blur"), "holds 'blur': use one of contrast"),
        (lambda f: f.assign(level=[np.nan] + [10.0] * (len(f) - 1)), "column 'level' has a blank"),
        (lambda f: f.assign(level="much"), "column 'level' holds text"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "noise 10: two rows for task=lungs"),
        (lambda f: f.assign(iou=0.5), "does not follow from its tp, fp, fn"),
    ],
)
def test_broken_rows_are_named(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
    plain: pd.DataFrame,
    tmp_path: Path,
) -> None:
    rows = _perturbed(plain[plain["task"] == "lungs"], given={"noise": [10.0]})
    path = tmp_path / "finetune" / "lungs" / "robust.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(change(rows).to_csv(index=False).encode()))
    with pytest.raises(InputError, match=message):
        robustness.load(tmp_path)


def test_perturbed_rows_alone_are_refused(plain: pd.DataFrame, rows: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="lungs, PSPNet, 16 training films, arm 'doll' has no"):
        robustness.table(rows, plain[(plain["arm"] != "doll") | (plain["task"] != "lungs")])
