"""The corpus of bad inputs: every one is refused in one clear line, and the page counts them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from tests.badinput import artefacts, notebooks, own, own_folder, parameters, pictures
from tests.badinput import case as judging
from tests.badinput.case import CLEAR, HANG, SILENT, TRACEBACK, UNCLEAR, Case, judge

PAGE = paths.ROOT / "docs" / "safety.md"
GROUPS = (
    "profile", "knob", "own settings",
    "parameters cell", "notebook file", "rows of results", "image file", "mask file",
    "own table", "own masks", "own films", "film store",
    "label store", "classifier", "network", "adapter", "ImageNet weights", "export", "explorer",
)  # fmt: skip


@cache
def whole() -> tuple[Case, ...]:
    parts = (parameters, own, notebooks, pictures, own_folder, artefacts)
    return tuple(case for part in parts for case in part.cases())


QUICK = ("profile", "knob", "parameters cell", "notebook file", "rows of results", "own table")


@pytest.mark.parametrize(
    "group", [pytest.param(g, marks=() if g in QUICK else pytest.mark.slow) for g in GROUPS]
)
def test_each_is_refused_in_one_clear_line(group: str, tmp_path: Path) -> None:
    cases = [c for c in whole() if c.group == group]
    assert cases
    wrong = []
    for number, one in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome, message = judge(one, folder)
        if outcome != CLEAR:
            wrong.append(f"{one.name}: {outcome}: {message[:300]}")
    assert wrong == []


def test_groups_and_names() -> None:
    assert set(GROUPS) == {c.group for c in whole()}
    twice = [k for k, n in Counter((c.group, c.name) for c in whole()).items() if n > 1]
    assert twice == []


def test_the_page_counts_them() -> None:
    counted = {
        k: int(n)
        for k, n in re.findall(r"(?m)^\| ([^|]+) \| (\d+) \|", PAGE.read_text(encoding="utf-8"))
    }
    found = Counter(c.group for c in whole())
    assert counted == dict(found) | {"all": len(whole())}
    assert len(whole()) >= 200


def refuse(message: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        raise InputError(message)

    return run


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (refuse("a.csv, row 3: age is -1: use years"), CLEAR),
        (refuse("something is wrong with one of the files"), UNCLEAR),
        (refuse("a.csv"), UNCLEAR),
        (refuse("a.csv " * 200), UNCLEAR),
        (lambda folder: 1 / 0, TRACEBACK),
        (lambda folder: folder, SILENT),
    ],
)
def test_what_came_of_a_case(run: Callable[[Path], object], outcome: str, tmp_path: Path) -> None:
    assert judge(Case("g", "n", run, ("a.csv",)), tmp_path)[0] == outcome


def test_what_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SECONDS", 1)
    assert judge(Case("g", "n", lambda folder: time.sleep(30), ("x",)), tmp_path)[0] == HANG
