"""Results beside results: made-up rows whose differences are known."""

from __future__ import annotations

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
from dollkit.report import claims, compare
from dollkit.report.rows import write_csv
from tests import synthetic_run as synthetic

ACROSS = paths.ROOT / "figures" / "across"


def moved(cases: pd.DataFrame, by: Mapping[str, float]) -> pd.DataFrame:
    """The same films in another profile: each arm's IoU moved by so much, the truth as it was."""
    plus = np.round(synthetic.UNION * cases["arm"].map(dict(by)).fillna(0)).astype(int)
    return synthetic.moved(cases, plus)


def cases(**more: Any) -> pd.DataFrame:
    """Rows with a true area that leaves room to move."""
    drawn = synthetic.segmentation_cases(tunings={"full": 1.0}, base=0.4, noise=0.01, **more)
    return drawn.assign(fn=65_000 - drawn["tp"], fp=synthetic.UNION - 65_000)


def pair(here: pd.DataFrame, there: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"here": here, "there": there}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


def test_known_differences_come_out_exactly() -> None:
    by = {"classifier": -0.02, "doll": 0.03, "shuffled": 0.0}
    there = cases()
    table = compare.transfer(pair(moved(there, by), there)).set_index(["task", "arm"])
    assert len(table) == 3 * len(synthetic.GAIN)
    arms = table.index.get_level_values("arm")
    want = arms.map(lambda a: by.get(a, 0.0)).to_numpy()
    np.testing.assert_allclose(table["difference"], want, atol=1e-12)
    np.testing.assert_allclose(table["miou_a"] - table["miou_b"], want, atol=1e-12)
    assert (table[["n_cases", "n_patients", "n_seeds"]] == [40, 40, 3]).all(axis=None)
    assert (table["same"] == (want == 0)).all()
    control = table.xs("random", level="arm")
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
        ends = [mean[str(c).split(" - ")].to_numpy() for c in table.index]
        want = np.array([arm - base for arm, base in ends])
        np.testing.assert_allclose(table[f"gain_{side}"], want, atol=1e-12)
        assert (table[f"gain_{side}_lo"] < want).all()
        assert (want < table[f"gain_{side}_hi"]).all()
    wanted = {"doll - random": 0.02, "doll - classifier": 0.03, "truth - random": -0.01}
    assert table.loc[list(wanted), "change"].tolist() == pytest.approx(list(wanted.values()))


def test_what_only_one_has_is_left_out_of_pairs_and_blank_in_gains() -> None:
    there = cases(tasks=["lungs"])
    here = there[there["arm"] != "truth"]
    assert "truth" not in set(compare.transfer(pair(here, there))["arm"])
    row = compare.gains(pair(here, there)).set_index("contrast").loc["truth - random"]
    assert row["gain_b"] > 0.1
    assert np.isnan(row[["gain_a", "gain_a_lo", "change", "p"]].astype(float)).all()


def test_only_films_and_seeds_that_both_have_count() -> None:
    whole = cases(tasks=["lungs"], patients=20)
    whole["fold"] = whole["patient_id"].astype(int) % 4
    # Other films in one, other seeds in the other: neither may move a number.
    one = moved(whole, {"doll": 0.02})
    spoilt = moved(one, dict.fromkeys(synthetic.GAIN, 0.05))
    here = pd.concat([one, spoilt[spoilt["seed"] == 0].assign(seed=9)])
    shared = compare.on_shared_films(pair(here[here["fold"] < 2], whole))
    table = compare.transfer(shared).set_index("arm")
    assert table["difference"].round(12).to_dict() == {
        arm: 0.02 if arm == "doll" else 0.0 for arm in synthetic.GAIN
    }
    assert (set(table["n_cases"]), set(table["n_seeds"])) == ({10}, {3})


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("patient_id", "somebody", "film lungs0003_0, lungs of lungs, has patient"),
        ("fold", 2, "has fold 2 and 0: they do not test the same films after the same training"),
        ("fn", 7, r"has true area \d+ and 65000"),
        ("class", "heart", r"class '\w+' in one of them alone"),
    ],
)
def test_films_that_are_not_the_same_are_refused(column: str, value: object, words: str) -> None:
    there = cases(tasks=["lungs"])
    here = there.copy()
    here.loc[here["image_id"] == "lungs0003_0", column] = value
    with pytest.raises(InputError, match=words):
        compare.on_shared_films(pair(here, there))


def test_nothing_in_common_is_refused() -> None:
    there = cases(tasks=["lungs"], patients=3)
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
        (["there", "there"], "profile 'there' is named twice"),
        (["there"], "name two profiles, or none"),
        (["there", "nowhere"], "nowhere/cases.csv.gz: no such file; run"),
        (["here", "there"], "Error: "),
    ):
        assert compare.main(arguments) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: ")
        assert words in said


def contrast(task: str, arm: str, effect: float, **more: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(claims.COLUMNS, 0)
    row |= {"claim": "C2", "contrast": f"doll - {arm}", "task": task, "effect": effect}
    row |= {"lo": effect - 0.01, "hi": effect + 0.01, "network": "pspnet", "n_train": 8}
    row |= {"verdict": claims.UNDECIDED, "decides": True, "n_patients": 40, "n_seeds": 5}
    return row | more


def test_c2_has_one_row_per_profile_network_and_task(figures: Path) -> None:
    rows = [
        contrast("organs", "random", 0.02, verdict=claims.CONFIRMED),
        contrast("lungs", "random", -0.03, verdict=claims.CONTRADICTED),
        contrast("lungs", "random", 0.05, network="unet", decides=False),
        contrast("lungs", "imagenet", np.nan),
        contrast("lungs", "random", 0.5, claim="C3"),
    ]
    write_csv(pd.DataFrame(rows), figures / "b" / "claims.csv")
    other = pd.DataFrame([contrast("lungs", "shuffled", 0.004, n_seeds=3)])
    write_csv(other, figures / "a" / "claims.csv")
    table = compare.c2_table(compare.c2_contrasts(["b", "a"]))
    assert table[["profile", "network", "task"]].to_numpy().tolist() == [
        ["b", "pspnet", "lungs"], ["b", "pspnet", "organs"], ["b", "unet", "lungs"],
        ["a", "pspnet", "lungs"],
    ]  # fmt: skip
    assert table["random"].tolist() == [
        "-0.030 [-0.040, -0.020] ↓", "+0.020 [+0.010, +0.030] ↑", "+0.050 [+0.040, +0.060]", "–",
    ]  # fmt: skip
    assert table["shuffled"].tolist() == ["–"] * 3 + ["+0.004 [-0.006, +0.014]"]
    assert table["seeds"].tolist() == [5, 5, 5, 3]
    assert compare.main([]) == 0
    assert r"$\uparrow$" in (figures / "across" / "c2.tex").read_text()
    (figures / "a" / "claims.csv").write_text("claim\nC2\n")
    assert compare.main([]) == 2


def test_the_stored_comparisons_follow_from_the_stored_results(tmp_path: Path) -> None:
    profiles = list(dict.fromkeys(pd.read_csv(ACROSS / "c2.csv")["profile"]))
    made = compare.write_c2(profiles, tmp_path)
    made += compare.write_pair("to-real", "open", tmp_path)
    for path in made:
        assert path.read_bytes() == (ACROSS / path.name).read_bytes(), path.name


def test_a_run_against_the_committed_results(figures: Path) -> None:
    found = synthetic.stored_profile(figures / "mine")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "figures"], [*who, "commit", "-q", "-m", "Results"]):
        subprocess.run(["git", *command], cwd=figures.parent, check=True)
    told = compare.against_committed("mine", figures.parent)
    assert len(told) == 1 + len(compare.NUMBERS)
    assert all(": 0 of " in line for line in told[1:])

    table = pd.read_csv(found / "table1.csv")
    doll = (table["task"] == "lungs") & (table["arm"] == "doll")
    table.loc[doll, "miou"] += (table["miou_hi"] - table["miou"]) / 2
    table.loc[doll, "dice"] += 0.5
    write_csv(table, found / "table1.csv")
    verdicts = pd.read_csv(found / "claims.csv")
    at = verdicts.index[verdicts["contrast"] == "doll - random"][0]
    verdicts.loc[at, "verdict"] = "unheard of"
    write_csv(verdicts, found / "claims.csv")
    _, miou, dice, other, *_, turned = compare.against_committed("mine", figures.parent)
    assert miou.startswith("  table1, miou: 1 of ")
    assert "moved, 1 of them within" in miou
    assert "moved, 0 of them within" in dice
    assert other.startswith("  table2, miou: 0 of ")
    assert turned.startswith("  claims, effect: verdict changed: doll - random, lungs: ")
    assert turned.endswith(" -> unheard of")


def test_no_comparison_fails_no_run(figures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = compare.against_committed("nowhere")
    assert line == "not compared: git has no committed results of profile nowhere"
    (figures / "laptop").mkdir(parents=True)
    (figures / "laptop" / "table1.csv").write_text("task\nlungs\n")
    (line,) = compare.against_committed("laptop")
    assert line.startswith("not compared with committed results: KeyError: ")
    monkeypatch.setenv("PATH", str(figures))
    (line,) = compare.against_committed("laptop")
    assert line.startswith("not compared with committed results: FileNotFoundError: ")
