"""Numbers that a text quotes from committed tables: put in, and found out when they are stale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.report import quoted

CARD = paths.ROOT / "docs" / "card.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = pd.DataFrame(
        {
            "task": ["lungs", "organs", "infection"],
            "effect": [0.12345, -0.5, None],
            "lo": [0.1, -0.75, None],
            "hi": [0.2, -0.25, None],
            "n": [48, 1234, 7],
        }
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.json").write_text(json.dumps({"seconds": 2426.645, "ratio": 22.4}))
    return tmp_path


def row(source: str, value: str = "?") -> str:
    return f"| what it is | {value} | {source} |"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("[a](a.csv) `effect` where `task == 'lungs'`", "0.123"),
        ("[a](a.csv) `effect, lo, hi` where `task == 'organs'`", "-0.500 [-0.750, -0.250]"),
        ("[a](a.csv) `effect`", "-0.500 to 0.123"),
        ("[a](a.csv) `n` where `task == 'organs'`", "1,234"),
        ("[a](a.csv) `n` where `n < 100`", "7 to 48"),
        ("[b](b.json) `seconds`", "2,427"),
        ("[b](b.json) `ratio`", "22.400"),
    ],
)
def test_a_number_is_read_from_its_file(folder: Path, source: str, value: str) -> None:
    text = f"# Title\n\n{row(source)}\nrest | of it\n"
    after = quoted.renewed(text, folder)
    assert after == text.replace("| ? |", f"| {value} |")
    assert quoted.renewed(after, folder) == after


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[a](none.csv) `effect`", "line 1: .*none.csv does not exist"),
        ("[a](a.csv) `gain`", "line 1: .*a.csv cannot be asked so"),
        ("[a](a.csv) `effect` where `arm == 'x'`", "line 1: .*a.csv cannot be asked so"),
        ("[a](a.csv) `effect` where `task ==`", "line 1: .*a.csv cannot be asked so"),
        ("[a](a.csv) `effect` where `task == 'heart'`", "line 1: .*no row where task == 'heart'"),
        ("[a](a.csv) `effect` where `task == 'infection'`", "no row where"),
        ("[b](b.json) `minutes`", "line 1: .*has no key 'minutes'"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        quoted.renewed(row(source), folder)


def test_the_command_writes_and_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder / "text.md"
    text.write_text(row("[b](b.json) `seconds`", "9") + "\n")
    assert quoted.main([str(text)]) == 0
    assert quoted.main([str(text)]) == 0
    assert capsys.readouterr().out == f"{text}: 1 numbers renewed\n{text}: 0 numbers renewed\n"
    assert text.read_text() == row("[b](b.json) `seconds`", "2,427") + "\n"
    text.write_text(row("[b](b.json) `x`") + "\n")
    assert quoted.main([str(text)]) == 2
    assert "has no key 'x'" in capsys.readouterr().err


def test_the_numbers_of_the_card_are_those_of_the_results() -> None:
    """If this fails: ``python -m dollkit.report.quoted docs/card.md``, and read the card again."""
    text = CARD.read_text(encoding="utf-8")
    assert quoted.renewed(text, CARD.parent) == text
    quoting = [line for line in text.split("\n") if line.startswith("|") and ".csv" in line]
    assert quoting
    assert all(quoted.ROW.match(line) for line in quoting)


def test_the_card_says_no_other_number_of_a_result() -> None:
    """A decimal fraction in the prose would be one that nothing holds against the results."""
    prose = [p for p in CARD.read_text(encoding="utf-8").split("\n") if not quoted.ROW.match(p)]
    found = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", re.sub(r"arXiv \S+", "", "\n".join(prose)))
    assert [number for number in found if number != "2.0"] == []


def test_the_card_says_what_a_card_must() -> None:
    text = CARD.read_text(encoding="utf-8")
    assert "Not a medical device" in text
    for title in ("Data", "Known failures", "Bias", "On weak labels", "Licences", "Compute"):
        assert f"\n## {title}\n" in text
    assert "(docs/card.md)" in (paths.ROOT / "README.md").read_text(encoding="utf-8")
