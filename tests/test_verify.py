"""Stored results are made again from their rows, and any number that does not follow is found."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.report import rows, verify
from dollkit.report.verify import DIFFERS, NOT_DERIVED, SAME, Made
from tests import synthetic_run as synthetic
from tests.small_files import error_of

NAMES = [
    "table1", "table2", "table3", "table_sizes", "robustness",
    "label_losses", "figure4", "figure5", "figure6", "figure_s3",
    "figure_s5", "labels", "claims", "index",
]  # fmt: skip
QUICK = ("table1", "table2", "label_losses", "figure_s3", "claims")
EVERY = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.stored_profile(tmp_path_factory.mktemp("figures") / "made-up")


@pytest.fixture(scope="module")
def made(original: Path) -> dict[str, Made]:
    return verify.made_again(rows.read_stored(original), original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "figures" / "made-up"))


def test_what_a_run_stored_follows_from_its_rows(folder: Path) -> None:
    (folder / "notes.txt").write_text("by hand\n")
    lines = {line.artefact: line for line in verify.verify(folder)}
    assert {n for n, line in lines.items() if line.state == SAME} == set(NAMES)
    underived = [n for n, line in lines.items() if line.state == NOT_DERIVED]
    assert sorted(underived) == ["figure1", "notes", "provenance"]
    assert "films" in lines["figure1"].detail
    assert "knows no rule" in lines["notes"].detail


def altered(text: str, digits: int) -> str:
    """A number with one digit changed: the last of so many significant ones, if above 1e-6."""
    places = [m.start() for m in re.finditer(r"\d", text.partition("e")[0])]
    first = next((i for i, p in enumerate(places) if text[p] != "0"), len(places) - 1)
    at = places[min(first + digits - 1, len(places) - 1)]
    if digits < 6 and "." in text:
        at = min(at, text.index(".") + 5)
    return text[:at] + str((int(text[at]) + 5) % 10) + text[at + 1 :]


@pytest.mark.parametrize("name", EVERY)
def test_an_altered_digit_or_letter(name: str, made: dict[str, Made], folder: Path) -> None:
    assert verify.differences(name, made[name], folder) == []
    for path in sorted(folder.glob(f"{name}.*")):
        text = path.read_text()
        for wrong, place in (_numbers if path.suffix == ".csv" else _texts)(name, text):
            path.write_text(wrong)
            (found,) = verify.differences(name, made[name], folder)
            assert found.startswith(f"{path.name}, line {place}: ")
        path.write_text(text)


def _numbers(name: str, text: str) -> Iterator[tuple[str, str]]:
    """A CSV with one number of each column altered, and its place."""
    stored = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    draw = np.random.default_rng(len(name))
    numbers = [c for c in stored if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", stored[c].max())]
    for column in verify.SEEN if name == "label_losses" else numbers:
        at = int(draw.choice(np.flatnonzero(stored[column] != "")))
        of_steps = column in verify.STEPS or (name == "claims" and stored["claim"][at] == "C3")
        digits = 6 if name in verify.EXACT else 2 if of_steps else 4
        wrong = stored.copy()
        wrong.loc[at, column] = altered(str(stored[column][at]), digits)
        yield wrong.to_csv(index=False, lineterminator="\n"), f"{at + 2}, {column}"


def _texts(name: str, text: str) -> Iterator[tuple[str, str]]:
    """A text with one character altered: of three results, which have decimals, and of a word."""
    results = [m for m in re.finditer(r"(?<=\d\.)\d+", text) if m.start() > 400]
    letters = [m.start() for m in re.finditer("[a-z]", text)]
    for at in [*(m.end() - 1 for m in results[:: len(results) // 3 + 1]), letters[-1]]:
        other = "x" if text[at].isalpha() else str((int(text[at]) + 1) % 10)
        yield text[:at] + other + text[at + 1 :], str(text[:at].count("\n") + 1)


def test_lost_and_added_lines_are_found(made: dict[str, Made], folder: Path) -> None:
    path = folder / "table1.csv"
    lines = path.read_text().splitlines(keepends=True)
    for wrong in (lines[:-1], [lines[0].replace("miou_lo", "miou_low"), *lines[1:]]):
        path.write_text("".join(wrong))
        (found,) = verify.differences("table1", made["table1"], folder)
        assert "made again" in found
    path.write_text("".join(lines))
    with (folder / "table1.md").open("a") as file:
        file.write("- One more note.\n")
    (found,) = verify.differences("table1", made["table1"], folder)
    assert found.endswith("'- One more note.', made again None")
    (folder / "table1.tex").unlink()
    assert len(verify.differences("table1", made["table1"], folder)) > 1


def test_an_altered_row_changes_what_is_made_of_it(folder: Path) -> None:
    path = folder / "cases.csv.gz"
    cases = rows.read_table(path, rows.CASE_COLUMNS)
    # One pixel, its IoU and Dice in keeping: only what is made of it can tell.
    at = int(np.flatnonzero((cases["tuning"] == "full") & (cases["arm"] == "doll"))[0])
    cases.loc[at, ["tp", "fn"]] += [-1, 1]
    rows.write_csv(synthetic.judged(cases), path)
    lines = {line.artefact: line for line in verify.verify(folder)}
    assert lines["table1"].state == DIFFERS
    assert lines["table1"].detail.startswith("table1.csv, line ")
    assert lines["labels"].state == SAME


def test_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(folder.parent))
    monkeypatch.setattr(verify, "PAGES", ())
    text = (folder / "table1.md").read_text()
    (folder / "table1.md").write_text(text.replace("| 6 | 3 |", "| 6 | 4 |", 1))
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert verify.main(["made-up"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"table1 +differs: table1\.md, line \d+: .*made again", out)
    assert f"  {len(NAMES) - 2} same, 2 differs, 2 cannot be derived" in out  # index has it, too
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    (folder / "table1.md").write_text(text)
    assert verify.main([]) == 0
    assert "nowhere" in error_of(verify.main, ["nowhere"])


def test_profiles_that_git_tracks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLKIT_FIGURES", str(folder.parent))
    shutil.copytree(folder, folder.parent / "mine")
    assert verify.committed_profiles() == ["made-up", "mine"]
    for command in (["init", "-q"], ["add", "figures/made-up"]):
        subprocess.run(["git", *command], cwd=folder.parents[1], check=True)
    assert verify.committed_profiles() == ["made-up"]
