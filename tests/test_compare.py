"""A run against committed results of its profile, whose differences are known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.report import claims, compare_runs, tables
from dollkit.report import rows as cases
from tests import synthetic_run as synthetic

GAIN = {"random": 0.0, "doll": 0.08, "shuffled": 0.03}


def results() -> dict[str, pd.DataFrame]:
    rows = synthetic.segmentation_cases(GAIN, tasks=["lungs", "infection"], patients=8)
    curves = synthetic.learning_curves(rows)
    runs = synthetic.run_rows(curves)
    return {
        "table1": tables.table1(rows, runs),
        "table2": tables.table2(rows, runs, curves),
        "claims": claims.evaluate(None, rows, curves, runs),
    }


def place(folder: Path, made: dict[str, pd.DataFrame]) -> None:
    for name, frame in made.items():
        cases.write_csv(frame, folder / f"{name}.csv")


@pytest.fixture(scope="module")
def made() -> dict[str, pd.DataFrame]:
    return results()


@pytest.fixture
def root(made: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with committed results of profile "mine"; new ones go to figures/, too."""
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    place(tmp_path / "figures" / "mine", made)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "figures"], [*who, "commit", "-q", "-m", "Results"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def read(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "runs/mine/comparison.csv", dtype={"within": str, "note": str})


def test_the_same_results_are_told_as_such(root: Path) -> None:
    lines = compare_runs.report("mine", root)
    found = read(root)
    assert lines[:3] == [
        "compared with the committed results:",
        f"  all {len(found)} numbers are as committed",
        "  no verdict changed",
    ]
    assert list(found.columns) == compare_runs.COLUMNS
    assert (found["change"] == 0).all()
    # mIoU and Dice of 2 x 3 settings; mIoU of 2 x 3 x 2 tunings.
    counts = found.groupby(["table", "quantity"]).size()
    assert counts["table1", "miou"] == counts["table1", "dice"] == 6
    assert counts["table2", "miou"] == counts["table2", "steps_own"] == 12
    sure = found[found["lo"].notna()]
    assert (sure["within"] == "yes").all()
    assert set(found.loc[found["lo"].isna(), "quantity"]) >= {"seconds_own", "trainable_share"}


def test_known_moves_come_out(root: Path, made: dict[str, pd.DataFrame]) -> None:
    new = {name: frame.copy() for name, frame in made.items()}
    table = new["table1"]
    doll = (table["task"] == "lungs") & (table["arm"] == "doll")
    random = (table["task"] == "lungs") & (table["arm"] == "random")
    half = (table["miou_hi"] - table["miou"]) / 2
    table.loc[doll, "miou"] += half
    table.loc[random, "dice"] += 0.5
    slower = new["table2"]["tuning"] == "adapter"
    new["table2"].loc[slower, "seconds_own"] *= 2
    place(root / "figures" / "mine", new)
    lines = compare_runs.report("mine", root)
    found = read(root)
    moved = found[found["change"] != 0]
    assert len(moved) == 2 + int(slower.sum())
    one = moved[moved["quantity"] == "miou"].iloc[0]
    assert (one["table"], one["setting"], one["within"]) == (
        "table1",
        "lungs PSPNet 16 doll",
        "yes",
    )
    assert one["change"] == pytest.approx(float(half[doll].iloc[0]), abs=2e-6)
    assert one["new"] - one["committed"] == pytest.approx(one["change"], abs=1e-6)
    other = moved[moved["quantity"] == "dice"].iloc[0]
    assert (other["setting"], other["within"]) == ("lungs PSPNet 16 random", "no")
    assert other["change"] == pytest.approx(0.5, abs=2e-6)
    late = moved[moved["quantity"] == "seconds_own"]
    assert late["within"].isna().all()
    np.testing.assert_allclose(late["new"], 2 * late["committed"], rtol=1e-5)
    assert lines[1] == (
        f"  {len(moved)} of {len(found)} numbers moved; of 2 with an interval 1 stay within the "
        "committed 95 % interval"
    )
    # The largest first, in half widths of its interval.
    assert lines[2].startswith("    table1 lungs PSPNet 16 random dice: ")
    assert "(+0.5), outside [" in lines[2]
    assert lines[3].startswith("    table1 lungs PSPNet 16 doll miou: ")
    assert ", within [" in lines[3]
    assert lines[4] == "  no verdict changed"


def test_changed_verdicts_are_named(root: Path, made: dict[str, pd.DataFrame]) -> None:
    frame = made["claims"].copy()
    at = (frame["claim"] == "C2") & (frame["contrast"] == "doll - shuffled")
    at &= frame["task"] == "lungs"
    assert at.sum() == 1
    before = str(frame.loc[at, "verdict"].iloc[0])
    assert before != claims.CONTRADICTED
    whole = claims.overall(frame, "C2")
    frame.loc[at, "verdict"] = claims.CONTRADICTED
    place(root / "figures" / "mine", {"claims": frame})
    lines = compare_runs.report("mine", root)
    assert f"  verdict changed: C2: {whole} -> contradicted" in lines
    setting = "C2 doll - shuffled lungs PSPNet 16"
    assert f"  verdict changed: {setting}: {before} -> contradicted" in lines
    assert sum("verdict changed" in line for line in lines) == 2
    row = read(root).set_index("setting").loc[setting]
    assert (row["verdict_committed"], row["verdict_new"]) == (before, "contradicted")


def test_settings_of_one_side_alone(root: Path, made: dict[str, pd.DataFrame]) -> None:
    table = made["table1"]
    fewer = table[table["arm"] != "shuffled"]
    more = fewer.assign(network=fewer["network"].where(fewer["task"] == "lungs", "UNet"))
    place(root / "figures" / "mine", {"table1": more})
    lines = compare_runs.report("mine", root)
    found = read(root)
    gone, added = (found[found["note"] == f"only {x}"] for x in ("committed", "new"))
    # Two numbers each: shuffled of both tasks, and infection's other two arms by another network.
    assert (len(gone), len(added)) == (2 * (2 + 2), 2 * 2)
    assert added["setting"].str.contains("infection UNet").all()
    assert {"  8 numbers only committed", "  4 numbers only new"} <= set(lines)
    assert gone["new"].isna().all()
    assert added["committed"].isna().all()


def test_without_git_or_commits_one_line_says_so(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "not compared with committed results: "
    assert compare_runs.report("other", root) == [f"{start}profile other has no committed results"]
    bare = tmp_path_factory.mktemp("bare")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(bare.parent))
    assert compare_runs.report("mine", bare) == [f"{start}this is no git checkout with a commit"]
    monkeypatch.setenv("PATH", str(bare))
    assert compare_runs.report("mine", root) == [f"{start}git cannot be run here"]


def test_a_damaged_result_fails_no_run(root: Path) -> None:
    (root / "figures/mine/table1.csv").write_text("task\nlungs\n")
    (line,) = compare_runs.report("mine", root)
    assert line.startswith("not compared with committed results: KeyError: ")
    (root / "figures/mine/table1.csv").write_bytes(b"")
    (line,) = compare_runs.report("mine", root)
    assert line.startswith("not compared with committed results: EmptyDataError: ")


def test_a_folder_that_cannot_be_written_fails_no_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "blocked").write_text("")
    monkeypatch.setenv("DOLLKIT_RUNS", str(root / "blocked"))
    (line,) = compare_runs.report("mine", root)
    assert line.startswith("not compared with committed results: NotADirectoryError: ")
