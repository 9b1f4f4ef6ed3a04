"""Two profiles on the same films: made-up rows whose differences are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dollkit.common.errors import InputError
from dollkit.report import compare_profiles
from dollkit.report.rows import write_csv
from tests import synthetic_run as synthetic

NAMES = ("here", "there")
UNION = 100_000


def moved(cases: pd.DataFrame, by: Mapping[str, float]) -> pd.DataFrame:
    """The same films in another profile: each arm's IoU moved by so much, the truth as it was."""
    out = cases.copy()
    plus = np.round(UNION * out["arm"].map(dict(by)).fillna(0)).astype(int)
    # Truth stays: what tp gains, fn loses; and fp makes up for it in the union.
    area = out["tp"] + out["fn"]
    out["tp"] = out["tp"] + plus
    out["fn"] = area - out["tp"]
    out["fp"] = UNION - area
    assert (out[["tp", "fp", "fn"]] >= 0).all(axis=None)
    out["iou"] = out["tp"] / UNION
    out["dice"] = 2 * out["tp"] / (UNION + out["tp"])
    return out


def cases(**more: Any) -> pd.DataFrame:
    """Rows with a true area that leaves room to move."""
    drawn = synthetic.segmentation_cases(tunings={"full": 1.0}, base=0.4, noise=0.01, **more)
    return drawn.assign(fn=65_000 - drawn["tp"], fp=UNION - 65_000)


def place(folder: Path, profile: str, rows: pd.DataFrame) -> None:
    write_csv(rows, folder / profile / "cases.csv.gz")


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path))
    return tmp_path


def test_known_differences_come_out_exactly() -> None:
    by = {"classifier": -0.02, "doll": 0.03, "shuffled": 0.0}
    there = cases()
    here = moved(there, by)
    table = compare_profiles.transfer(here, there, NAMES).set_index(["task", "arm"])
    assert len(table) == 3 * len(synthetic.GAIN)
    for (_, arm), row in table.iterrows():
        assert row["difference"] == pytest.approx(by.get(arm, 0.0), abs=1e-12)
        assert row["miou_a"] - row["miou_b"] == pytest.approx(row["difference"], abs=1e-12)
        assert (row["n_cases"], row["n_patients"], row["n_seeds"]) == (40, 40, 3)
        assert row["same"] == (1.0 if by.get(arm, 0.0) == 0 else 0.0)
    control = table.xs("random", level="arm")
    assert (control["p"] == 1).all()
    assert control["p_holm"].isna().all()
    assert (control[["difference_lo", "difference_hi"]] == 0).all(axis=None)


def test_interval_and_p_are_those_of_a_paired_t_test_when_there_is_one_seed() -> None:
    there = cases(seeds=1, tasks=["lungs"], patients=12)
    here = cases(seeds=1, tasks=["lungs"], patients=12, rng=1)
    films = dict(zip(there["image_id"], there["tp"] + there["fn"], strict=True))
    assert set(films.values()) == {65_000}
    row = compare_profiles.transfer(here, there, NAMES).query("arm == 'doll'").iloc[0]
    x, y = (f.query("arm == 'doll'").set_index("image_id")["iou"] for f in (here, there))
    gap = (x - y[x.index]).to_numpy()
    want = stats.ttest_1samp(gap, 0.0)
    low, high = want.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(gap.mean(), abs=1e-12)
    assert (row["difference_lo"], row["difference_hi"]) == pytest.approx((low, high), abs=1e-9)
    assert row["p"] == pytest.approx(want.pvalue, abs=1e-9)


def test_holm_counts_no_control() -> None:
    there = cases(tasks=["lungs"])
    table = compare_profiles.transfer(cases(tasks=["lungs"], rng=1), there, NAMES).set_index("arm")
    others = table.drop(index="random")
    assert others["p_holm"].max() <= 1
    smallest = others["p"].idxmin()
    want = min(1.0, (len(synthetic.GAIN) - 1) * others.loc[smallest, "p"])
    assert others.loc[smallest, "p_holm"] == pytest.approx(want, rel=1e-12)


def test_gains_and_their_change_by_hand() -> None:
    there = cases(tasks=["organs"])
    here = moved(there, {"doll": 0.03, "random": 0.01})
    table = compare_profiles.gains(here, there, NAMES).set_index("contrast")
    mean = {
        (side, arm): part.groupby("class")["iou"].mean().mean()
        for side, rows in (("a", here), ("b", there))
        for arm, part in rows.groupby("arm")
    }
    assert set(table.index) == {
        "classifier - random", "doll - random", "doll - classifier", "shuffled - random",
        "shuffled - classifier", "truth - random", "truth - classifier",
    }  # fmt: skip
    for contrast, row in table.iterrows():
        arm, base = str(contrast).split(" - ")
        for side in "ab":
            want = mean[side, arm] - mean[side, base]
            assert row[f"gain_{side}"] == pytest.approx(want, abs=1e-12)
            assert row[f"gain_{side}_lo"] < want < row[f"gain_{side}_hi"]
    want = {"doll - random": 0.02, "doll - classifier": 0.03, "truth - random": -0.01}
    for contrast, change in want.items():
        assert table.loc[contrast, "change"] == pytest.approx(change, abs=1e-12)


def test_what_only_one_has_is_left_out_of_pairs_and_blank_in_gains() -> None:
    there = cases(tasks=["lungs"])
    here = there[there["arm"] != "truth"]
    assert "truth" not in set(compare_profiles.transfer(here, there, NAMES)["arm"])
    row = compare_profiles.gains(here, there, NAMES).set_index("contrast").loc["truth - random"]
    assert row["gain_b"] > 0.1
    assert np.isnan(row[["gain_a", "gain_a_lo", "change", "p"]].astype(float)).all()
    assert row["n_cases"] == 40


def test_only_films_and_seeds_that_both_have_count() -> None:
    whole = cases(tasks=["lungs"], patients=20)
    whole["fold"] = whole["patient_id"].astype(int) % 4
    # Other films in one, other seeds in the other: neither may move a number.
    one = moved(whole, {"doll": 0.02})
    spoilt = moved(one, dict.fromkeys(synthetic.GAIN, 0.05))
    here = pd.concat([one[one["fold"] < 2], spoilt[(spoilt["seed"] == 0)].assign(seed=9)])
    here = here[here["fold"] < 2]
    table = compare_profiles.transfer(
        *compare_profiles.on_shared_films(here, whole, NAMES), NAMES
    ).set_index("arm")
    assert table["difference"].round(12).to_dict() == {
        arm: 0.02 if arm == "doll" else 0.0 for arm in synthetic.GAIN
    }
    assert set(table["n_cases"]) == {10}
    assert set(table["n_seeds"]) == {3}
    assert table.loc["random", "same"] == 1


def test_profiles_that_share_no_film_are_refused() -> None:
    there = cases()
    here = there.assign(image_id="other-" + there["image_id"])
    with pytest.raises(InputError, match="here and there test no film in common"):
        compare_profiles.on_shared_films(here, there, NAMES)
    only = there[there["task"] == "lungs"], there[there["task"] == "organs"]
    with pytest.raises(InputError, match="no film in common"):
        compare_profiles.on_shared_films(*only, NAMES)


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
        compare_profiles.on_shared_films(here, there, NAMES)


def test_films_but_no_setting_in_common_is_refused() -> None:
    there = cases(tasks=["lungs"])
    for changed in ({"n_train": 4}, {"network": "unet"}, {"tuning": "head"}, {"seed": 9}):
        with pytest.raises(InputError, match="nothing can be paired"):
            compare_profiles.transfer(there.assign(**changed), there, NAMES)


def test_the_command_writes_both_tables(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = cases()
    place(figures, "there", there)
    place(figures, "here", moved(there, {"doll": 0.03, "random": 0.0001}))
    assert compare_profiles.main(["here", "there"]) == 0
    out = figures / "across"
    stems = ("here_there", "here_there_gains")
    assert {p.name for p in out.iterdir()} == {
        f"{s}.{e}" for s in stems for e in ("csv", "md", "tex")
    }
    text = (out / "here_there.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "40 films of 40 patients per task, 3 seeds" in text
    assert "Profiles here and there: " in text
    assert "lungs, random: 0 % of rows with the same tp, fp, fn, mIoU apart by +0.0001" in text
    assert "| 0.030 [0.030, 0.030] |" in text
    stored = pd.read_csv(out / "here_there.csv")
    assert stored.columns.tolist() == compare_profiles.TRANSFER_COLUMNS
    assert set(stored["profile_a"] + stored["profile_b"]) == {"herethere"}
    assert (
        pd.read_csv(out / "here_there_gains.csv").columns.tolist() == compare_profiles.GAIN_COLUMNS
    )
    assert compare_profiles.main(["there", "here", "--out", str(figures / "else")]) == 0
    turned = pd.read_csv(figures / "else" / "there_here.csv")
    np.testing.assert_allclose(turned["difference"], -stored["difference"], atol=1e-6)


def test_without_a_control_the_table_says_so(figures: Path) -> None:
    there = cases(tasks=["lungs"])
    place(figures, "there", there)
    place(figures, "here", there[there["arm"] != "random"])
    compare_profiles.write("here", "there", figures)
    assert "No control: neither of random, imagenet" in (figures / "here_there.md").read_text()


def test_what_cannot_be_compared_ends_with_two(
    figures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(figures, "there", cases(tasks=["lungs"]))
    place(figures, "here", cases(tasks=["lungs"]))
    (figures / "file").write_text("in the way")
    for arguments, words in (
        (["there", "there"], "profile 'there' is named twice"),
        (["there", "nowhere"], "nowhere/cases.csv.gz: no such file: run profile 'nowhere' first"),
        (["here", "there", "--out", str(figures / "file")], "cannot write here"),
    ):
        assert compare_profiles.main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert words in told
        assert told.count("\n") == 1


def provenance(folder: Path, source: str, films: str, store: str, **changed: Any) -> None:
    tuned = {"profile": folder.name, "steps": 8, "arms": [folder.name], "lrs": {"full": [0.1]}}
    record = {
        "data": {"data/lungs/store.json": store},
        "stages": {
            "data": {"parameters": {"source": source, "stores": {"films": films} if films else {}}},
            "finetune/pspnet-lungs": {"parameters": tuned | changed},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(record))


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert compare_profiles.pretrained_on(a) == ""
    (line,) = compare_profiles.differences(a, b, [("pspnet", "lungs")])
    assert line.startswith("lungs: no provenance in both")
    provenance(a, "open", "phantom", "ab")
    provenance(b, "open", "", "ab", lrs={"full": [0.1], "other": [0.2]}, folds=[1])
    assert [compare_profiles.pretrained_on(p) for p in (a, b)] == [
        "pre-trained on: phantom",
        "pre-trained on: open",
    ]
    assert compare_profiles.differences(a, b, [("pspnet", "lungs")]) == []
    provenance(b, "open", "", "cd", steps=9, lrs={"other": [0.2]})
    (line,) = compare_profiles.differences(a, b, [("pspnet", "lungs")])
    assert line == (
        "lungs: fine-tuning differs in steps 8 and 9; learning rates [0.1] and [0.2]; stores of "
        "other bytes."
    )
    (b / "provenance.json").write_text("[]")
    with pytest.raises(InputError, match=r"provenance.json: no provenance"):
        compare_profiles.differences(a, b, [("pspnet", "lungs")])
