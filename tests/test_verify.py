"""Stored results are made anew from their rows, and any number that does not follow is found."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.report import recompute, stored_rows
from dollkit.report import rows as cases
from dollkit.report.recompute import MAKERS, Derived
from dollkit.report.stored_rows import Lacking, Rows
from dollkit.report.verify import DIFFERS, NOT_DERIVED, SAME, committed_profiles, main, verify
from tests import stored_profile


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "made-up"
    folder.mkdir()
    return stored_profile.make(folder)


@pytest.fixture(scope="module")
def made(original: Path) -> dict[str, Derived]:
    rows = Rows(original)
    return {name: maker(rows) for name, maker in MAKERS.items()}


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "figures" / "made-up"))


def only(folder: Path, *names: str) -> Path:
    """The folder with the rows and these artefacts alone, to be quick."""
    for path in folder.iterdir():
        if path.name not in recompute.ROWS and path.name.partition(".")[0] not in names:
            path.unlink()
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path.name, old)
    path.write_text(text.replace(old, new, 1))


def test_what_a_run_stored_follows_from_its_rows(folder: Path) -> None:
    lines = {line.artefact: line for line in verify(folder)}
    assert set(lines) == {*MAKERS, "figure1", "notes", "provenance"}
    assert {n for n, line in lines.items() if line.state == SAME} == set(MAKERS), lines
    assert "films" in lines["figure1"].detail
    assert lines["figure1"].state == lines["notes"].state == NOT_DERIVED
    assert "knows no rule" in lines["notes"].detail
    # What comes from pixel counts agrees to the last digit; a mean of rounded rows need not.
    assert lines["table1"].detail == "csv md tex"
    assert "rounding of rows" in lines["claims"].detail


def altered(text: str, digits: int) -> str:
    """A number with one digit changed: the last of so many significant ones, if above 1e-6."""
    places = [m.start() for m in re.finditer(r"\d", text.partition("e")[0])]
    first = next((i for i, p in enumerate(places) if text[p] != "0"), len(places) - 1)
    at = places[min(first + digits - 1, len(places) - 1)]
    if digits < 6 and "." in text:
        at = min(at, text.index(".") + 5)
    return text[:at] + str((int(text[at]) + 5) % 10) + text[at + 1 :]


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "index"])
def test_one_altered_digit_of_a_csv_is_found(
    name: str, made: dict[str, Derived], original: Path, folder: Path
) -> None:
    path = folder / f"{name}.csv"
    stored = pd.read_csv(original / path.name, dtype=str, keep_default_na=False)
    assert not recompute.check(name, Rows(folder), made[name]).differences
    digits = 6 if made[name].exact else 4
    draw = np.random.default_rng(len(name))
    numbers = [c for c in stored if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", stored[c].max())]
    if name == "label_losses":
        numbers = list(recompute.SEEN)
    assert numbers
    for column in numbers:
        filled = np.flatnonzero(stored[column] != "")
        at = int(draw.choice(filled))
        wrong = stored.copy()
        wrong.loc[at, column] = altered(str(stored[column][at]), digits)
        wrong.to_csv(path, index=False, lineterminator="\n")
        found = recompute.check(name, Rows(folder), made[name]).differences
        assert len(found) == 1, (column, stored[column][at], wrong[column][at], found)
        assert found[0].startswith(f"{path.name}, line {at + 2}, {column}: ")


@pytest.mark.parametrize("name", list(MAKERS))
def test_one_altered_digit_or_letter_of_a_text_is_found(
    name: str, made: dict[str, Derived], original: Path, folder: Path
) -> None:
    texts = [p for p in sorted(folder.glob(f"{name}.*")) if p.suffix != ".csv"]
    assert texts or name == "labels"
    for path in texts:
        text = (original / path.name).read_text()
        # Numbers with decimals are results; the last letter is one of a note or a caption.
        results = [m for m in re.finditer(r"(?<=\d\.)\d+", text) if m.start() > 400]
        places = [m.end() - 1 for m in results[:: max(1, len(results) // 5)]]
        letters = [m.start() for m in re.finditer("[a-z]", text)]
        for at in [*places, letters[-1], letters[len(letters) // 2]]:
            other = "x" if text[at].isalpha() else str((int(text[at]) + 1) % 10)
            path.write_text(text[:at] + other + text[at + 1 :])
            found = recompute.check(name, Rows(folder), made[name]).differences
            assert len(found) == 1, (path.name, at)
            assert found[0].startswith(f"{path.name}, line {text[:at].count(chr(10)) + 1}: ")
        path.write_text(text)


def test_lost_and_added_lines_are_found(made: dict[str, Derived], folder: Path) -> None:
    path = folder / "table1.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    found = recompute.check("table1", Rows(folder), made["table1"]).differences
    assert found == [f"table1.csv: {len(lines) - 2} rows, made anew {len(lines) - 1}"]
    path.write_text("".join([lines[0].replace("miou_lo", "miou_low"), *lines[1:]]))
    found = recompute.check("table1", Rows(folder), made["table1"]).differences
    assert found == ["table1.csv: columns differ: miou_lo, miou_low"]
    path.write_text("".join(lines))
    with (folder / "table1.md").open("a") as stream:
        stream.write("- One more note.\n")
    (found,) = recompute.check("table1", Rows(folder), made["table1"]).differences
    assert "has no counterpart" in found


def test_an_altered_row_changes_what_is_made_of_it(folder: Path) -> None:
    path = only(folder, "table1") / "cases.csv.gz"
    rows = cases.read_table(path, cases.CASE_COLUMNS)
    wrong = rows.copy()
    wrong.loc[7, "iou"] += 2e-6
    cases.write_csv(wrong, path)
    (line,) = verify(folder)
    assert line.state == DIFFERS
    assert "row 9: iou is " in line.detail
    # One pixel, its IoU and Dice in keeping: only what is made of it can tell.
    at = int(np.flatnonzero((rows["tuning"] == "full") & (rows["arm"] == "doll"))[0])
    rows.loc[at, ["tp", "fn"]] += [-1, 1]
    counts = rows.loc[at, ["tp", "fp", "fn"]].astype(float)
    rows.loc[at, "iou"] = counts["tp"] / counts.sum()
    rows.loc[at, "dice"] = 2 * counts["tp"] / (counts["tp"] + counts.sum())
    cases.write_csv(rows, path)
    (line,) = verify(folder)
    assert line.state == DIFFERS
    assert line.detail.startswith("table1.csv, line ")


def test_what_is_not_stored_is_named(folder: Path) -> None:
    (folder / "selection.csv").unlink()
    (folder / "robust.csv.gz").unlink()
    rows = cases.read_table(folder / "label_cases.csv.gz", cases.LABEL_CASE_COLUMNS)
    cases.write_csv(rows.drop(columns="factor"), folder / "label_cases.csv.gz")
    few = ("table1", "table3", "robustness", "figure_s3", "figure_s4", "labels", "label_goals")
    only(folder, *few)
    lines = {line.artefact: line for line in verify(folder)}
    assert lines["table1"].state == SAME
    assert "its notes need selection.csv, which is not stored" in lines["table1"].detail
    for name in ("robustness", "figure_s4"):
        assert lines[name][1:] == (NOT_DERIVED, "robust.csv.gz is not stored")
    for name in ("table3", "figure_s3", "labels"):
        assert lines[name][1:] == (NOT_DERIVED, "label_cases.csv.gz has no column 'factor'")
    assert lines["label_goals"].state == SAME


def test_losses_of_other_films_are_not_judged(folder: Path) -> None:
    rows = cases.read_table(folder / "label_cases.csv.gz", cases.LABEL_CASE_COLUMNS)
    cases.write_csv(
        rows[rows.index != rows.index[rows["variant"] == "shipped"][0]],
        folder / "label_cases.csv.gz",
    )
    with pytest.raises(Lacking, match="not all of those in label_cases"):
        MAKERS["label_losses"](Rows(folder))


def test_an_older_version_may_print_otherwise_but_not_other_numbers(folder: Path) -> None:
    runs = pd.read_csv(folder / "runs.csv").drop(columns="memory_mb")
    runs.to_csv(folder / "runs.csv", index=False)
    made = MAKERS["table2"](Rows(folder))
    assert list(made.older) == ["memory_mb"]
    made.write(made.frame, folder)
    path = folder / "table2.md"
    text = path.read_text().replace("What each tuning trains", "What is trained")
    path.write_text(re.sub(r"\| (\d+)\.(\d)\d \| 6 \|", r"| \1.\2 | 6 |", text))
    assert path.read_text().count("| 40.0 | 6 |") == 6
    assert recompute.check("table2", Rows(folder), made).differences == []
    for old, new in (("| 40.0 | 6 |", "| 40.1 | 6 |"), ("3 seeds", "4 seeds")):
        good = path.read_text()
        edit(path, old, new)
        assert len(recompute.check("table2", Rows(folder), made).differences) == 1
        path.write_text(good)


def test_rounding_of_rows_is_undone_within_their_digits() -> None:
    frame = pd.DataFrame({"a": [0.123456, 12.3456, 0.0, 1.5e-7, -654321.0], "b": "x"})
    draws = stored_rows.rounded_otherwise(frame, ["a"])
    several = [next(draws) for _ in range(50)]
    for other in several:
        assert [f"{v:.6g}" for v in other["a"]] == [f"{v:.6g}" for v in frame["a"]]
    spread = np.ptp([o["a"] for o in several], axis=0)
    unit = np.array([1e-6, 1e-4, 0, 1e-12, 1])
    assert (spread <= unit).all()
    assert (spread[unit > 0] > 0.8 * unit[unit > 0]).all()


def _flat(made_of: Callable[[pd.DataFrame], float]) -> Derived:
    """A number made of a curve, which the curve's rounding moves."""
    curve = pd.DataFrame({"step": [0.0, 100.0], "val_miou": [0.5, 0.5001]})

    def frame(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"name": ["a"], "steps": [made_of(rows)]})

    def write(made: pd.DataFrame, folder: Path) -> None:
        cases.write_csv(made, folder / "flat.csv")

    def redo():  # type: ignore[no-untyped-def]
        return (frame(r) for r in stored_rows.rounded_otherwise(curve, ["val_miou"]))

    return Derived(frame(curve), write, redo=redo)


def test_a_flat_curve_may_move_by_its_rounding_and_no_more(tmp_path: Path) -> None:
    """At a slope of 1e-6 a step, half a unit (5e-7) at each end moves the crossing by one half."""

    def crossing(rows: pd.DataFrame) -> float:
        low, high = rows["val_miou"]
        return float(100 * (0.50005 - low) / (high - low))

    made = _flat(crossing)
    (allowed,) = made.allowed["steps"]
    assert 0.25 < allowed <= recompute.SPREADS * 0.51
    for moved, found in ((0.9, 0), (1.1, 1)):
        steps = made.frame["steps"] + moved * allowed
        cases.write_csv(made.frame.assign(steps=steps), tmp_path / "flat.csv")
        assert len(recompute.check("flat", Rows(tmp_path), made).differences) == found
    made.redo = None
    cases.write_csv(made.frame.assign(steps=50.01), tmp_path / "flat.csv")
    assert len(recompute.check("flat", Rows(tmp_path), made).differences) == 1


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [("1.9", "1.94", True), ("1.9", "1.96", False), ("1.94", "1.95", False), ("2", "1.94", True),
     ("2", "2", True), ("2", "3", False), ("-0.0", "0.04", True)],
)  # fmt: skip
def test_two_roundings_of_one_number(theirs: str, ours: str, same: bool) -> None:
    assert recompute._rounds_to(theirs, ours) is same


def test_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(folder.parent))
    only(folder, "table1", "table_sizes", "figure1")
    edit(folder / "table1.md", "| 6 | 3 |", "| 6 | 4 |")
    assert main(["made-up"]) == 1
    out = capsys.readouterr().out
    assert "profile made-up" in out
    assert re.search(r"table1 +differs: table1\.md, line \d+: .*made anew", out)
    assert "  1 same, 1 differs, 1 cannot be derived" in out
    before = {p: p.read_bytes() for p in folder.iterdir()}
    edit(folder / "table1.md", "| 6 | 4 |", "| 6 | 3 |")
    assert main([]) == 0
    assert set(before) == set(folder.iterdir())
    assert main(["nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_profiles_that_git_tracks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(folder.parent))
    shutil.copytree(folder, folder.parent / "mine")
    assert committed_profiles() == ["made-up", "mine"]
    for command in (["init", "-q"], ["add", "figures/made-up"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert committed_profiles() == ["made-up"]
    with pytest.raises(InputError, match="no such file"):
        verify(folder.parent / "nowhere")
