"""Results beside results: made-up rows whose differences are known."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.report import compare
from dollkit.report.rows import write_csv
from tests import synthetic_run as synthetic
from tests.small_files import error_of

UNION = 100_000


def moved(cases: pd.DataFrame, by: Mapping[str, float]) -> pd.DataFrame:
    """The same films in another profile: each arm's IoU moved by so much, the truth as it was."""
    plus = np.round(UNION * cases["arm"].map(dict(by)).fillna(0)).astype(int)
    # Truth stays: what tp gains, fn loses; and fp makes up for it in the union.
    area, tp = cases["tp"] + cases["fn"], cases["tp"] + plus
    out = cases.assign(tp=tp, fn=area - tp, fp=UNION - area, iou=tp / UNION)
    assert (out[["tp", "fp", "fn"]] >= 0).all(axis=None)
    return out.assign(dice=2 * tp / (UNION + tp))


def cases(**more: Any) -> pd.DataFrame:
    """Rows with a true area that leaves room to move."""
    drawn = synthetic.segmentation_cases(tunings={"full": 1.0}, base=0.4, noise=0.01, **more)
    return drawn.assign(fn=65_000 - drawn["tp"], fp=UNION - 65_000)


def pair(here: pd.DataFrame, there: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"here": here, "there": there}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


def test_known_differences_come_out_exactly() -> None:
    by = {"classifier": -0.02, "doll": 0.03, "shuffled": 0.0}
    there = cases()
    table = compare.transfer(pair(moved(there, by), there))
    assert len(table) == 3 * len(synthetic.GAIN)
    known = table["arm"].map(by).fillna(0.0)
    np.testing.assert_allclose(table["difference"], known, atol=1e-12)
    np.testing.assert_allclose(table["miou_a"] - table["miou_b"], known, atol=1e-12)
    assert table["same"].tolist() == (known == 0).astype(float).tolist()
    assert set(table[["n_cases", "n_patients", "n_seeds"]].itertuples(index=False)) == {(40, 40, 3)}
    control = table[table["arm"] == "random"]
    assert (control["p"] == 1).all()
    assert control["p_holm"].isna().all()


def test_interval_and_p_are_those_of_a_paired_t_test_when_there_is_one_seed() -> None:
    here, there = (cases(seeds=1, tasks=["lungs"], patients=12, rng=r) for r in (1, 0))
    table = compare.transfer(pair(here, there)).set_index("arm")
    x, y = (f.query("arm == 'doll'").set_index("image_id")["iou"] for f in (here, there))
    want = stats.ttest_1samp((x - y[x.index]).to_numpy(), 0.0)
    ends = want.confidence_interval(0.95)
    row = table.loc["doll"]
    assert (row["difference_lo"], row["difference_hi"]) == pytest.approx(tuple(ends), abs=1e-9)
    assert row["p"] == pytest.approx(want.pvalue, abs=1e-9)
    least = table.drop(index="random").nsmallest(1, "p").iloc[0]  # Holm counts no control
    adjusted = min(1.0, (len(synthetic.GAIN) - 1) * least["p"])
    assert least["p_holm"] == pytest.approx(adjusted, rel=1e-12)


def test_gains_and_their_change_by_hand() -> None:
    there = cases(tasks=["organs"])
    here = moved(there, {"doll": 0.03, "random": 0.01})
    table = compare.gains(pair(here, there)).set_index("contrast")
    assert len(table) == 7
    for side, rows in (("a", here), ("b", there)):
        mean = rows.groupby(["arm", "class"])["iou"].mean().groupby("arm").mean()
        for contrast, row in table.iterrows():
            arm, base = contrast.split(" - ")
            gain = mean[arm] - mean[base]
            assert row[f"gain_{side}"] == pytest.approx(gain, abs=1e-12)
            assert row[f"gain_{side}_lo"] < gain < row[f"gain_{side}_hi"]
    change = table.loc[["doll - random", "doll - classifier", "truth - random"], "change"]
    assert change.tolist() == pytest.approx([0.02, 0.03, -0.01], abs=1e-12)
    less = pair(here[here["arm"] != "truth"], there)
    assert "truth" not in set(compare.transfer(less)["arm"])
    row = compare.gains(less).set_index("contrast").loc["truth - random"]
    assert row["gain_b"] > 0.1
    assert row[["gain_a", "gain_a_lo", "change", "p"]].isna().all()


def test_only_films_and_seeds_that_both_have_count() -> None:
    whole = cases(tasks=["lungs"], patients=20)
    whole["fold"] = whole["patient_id"].astype(int) % 4
    # Other films in one, other seeds in the other: neither may move a number.
    one = moved(whole, {"doll": 0.02})
    spoilt = moved(one, dict.fromkeys(synthetic.GAIN, 0.05))
    here = pd.concat([one, spoilt[spoilt["seed"] == 0].assign(seed=9)])
    shared = compare.on_shared_films(pair(here[here["fold"] < 2], whole))
    table = compare.transfer(shared).set_index("arm")
    known = dict.fromkeys(synthetic.GAIN, 0.0) | {"doll": 0.02}
    assert table["difference"].round(12).to_dict() == known
    assert (set(table["n_cases"]), set(table["n_seeds"])) == ({10}, {3})


def test_films_that_are_not_the_same_are_refused() -> None:
    there = cases(tasks=["lungs"])
    for column, value, words in (
        ("patient_id", "somebody", "lungs0003_0 of lungs has class 'lungs' with patient"),
        ("fold", 2, r"fold [02] and .* not test the same films after the same training"),
        ("fn", 7, r"true area \d+ in one of them alone"),
        ("class", "heart", r"class '\w+' .* in one of them alone"),
    ):
        here = there.copy()
        here.loc[here["image_id"] == "lungs0003_0", column] = value
        assert re.search(words, error_of(compare.on_shared_films, pair(here, there)))
    with pytest.raises(InputError, match="here and there test no film in common"):
        compare.on_shared_films(pair(there.assign(image_id="a" + there["image_id"]), there))
    with pytest.raises(InputError, match="nothing can be paired"):
        compare.transfer(pair(there.assign(n_train=4), there))


def test_the_command_writes_both_tables(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = cases()
    for name, rows in (("there", there), ("here", moved(there, {"doll": 0.03, "random": 1e-4}))):
        write_csv(rows, figures / name / "cases.csv.gz")
        (figures / name / "claims.csv").touch()
    assert compare.main(["here", "there"]) == 0
    out = figures / "across"
    made = {p.name for p in out.iterdir()}
    assert made == {f"here_there{s}.{e}" for s in ("", "_gains") for e in ("csv", "md", "tex")}
    text = (out / "here_there.md").read_text()
    assert text in capsys.readouterr().out
    assert "40 films of 40 patients per task, 3 seeds" in text
    assert "lungs, random: 0 % of rows with the same tp, fp, fn, mIoU apart by +0.0001" in text
    assert "| 0.030 [0.030, 0.030] |" in text
    stored = pd.read_csv(out / "here_there.csv")
    assert stored.columns.tolist() == compare.TRANSFER_COLUMNS
    write_csv(there[there["arm"] != "random"], figures / "here" / "cases.csv.gz")
    compare.write_pair("here", "there", out)
    assert "No control: neither of random, imagenet" in (out / "here_there.md").read_text()
    out.rename(figures / "before")
    out.write_text("in the way")
    for arguments, words in (
        ("there there", "profile 'there' is named twice"),
        ("there", "name two profiles; "),
        ("there nowhere", "nowhere/cases.csv.gz: no such file; run"),
        ("here there", "cannot write here"),
    ):
        assert words in error_of(compare.main, arguments.split())


def test_the_stored_comparisons_follow_from_the_stored_results(tmp_path: Path) -> None:
    across = paths.ROOT / "figures" / "across"
    for path in compare.write_pair("to-real", "open", tmp_path):
        assert path.read_bytes() == (across / path.name).read_bytes(), path.name


def test_a_run_against_the_committed_results(figures: Path) -> None:
    found = synthetic.stored_profile(figures / "mine")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "figures"], [*who, "commit", "-q", "-m", "Results"]):
        subprocess.run(["git", *command], cwd=figures.parent, check=True)
    told = compare.against_committed("mine", figures.parent)
    assert len(told) == 1 + len(compare.NUMBERS)
    assert all(": 0 of " in line for line in told[1:])

    table, verdicts = (pd.read_csv(found / f"{name}.csv") for name in ("table1", "claims"))
    doll = (table["task"] == "lungs") & (table["arm"] == "doll")
    table.loc[doll, "miou"] += (table["miou_hi"] - table["miou"]) / 2
    table.loc[doll, "dice"] += 0.5
    write_csv(table, found / "table1.csv")
    at = verdicts.index[verdicts["contrast"] == "doll - random"][0]
    verdicts.loc[at, "verdict"] = "unheard of"
    write_csv(verdicts, found / "claims.csv")
    _, miou, dice, other, *_, turned = compare.against_committed("mine", figures.parent)
    assert miou.startswith("  table1, miou: 1 of ")
    assert "moved, 1 of them within" in miou
    assert "moved, 0 of them within" in dice
    assert other.startswith("  table2, miou: 0 of ")
    assert turned.startswith("  claims, effect: verdict changed: doll - random, all tasks: ")
    assert turned.endswith(" -> unheard of")


def test_no_comparison_fails_no_run(figures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = compare.against_committed("nowhere")
    assert line == "not compared: git has no committed results of profile nowhere"
    (figures / "laptop").mkdir(parents=True)
    (figures / "laptop" / "table1.csv").write_text("task\nlungs\n")
    for error in ("KeyError", "FileNotFoundError"):
        (line,) = compare.against_committed("laptop")
        assert line.startswith(f"not compared with committed results: {error}: ")
        monkeypatch.setenv("PATH", str(figures))  # no git on it
