"""After a run: which numbers moved against the committed results of the same profile?

A run overwrites ``figures/<profile>``, so the committed tables are read from git's HEAD. Nothing
here can fail a run: without git, or without committed results, one line says so.
"""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import brief
from dollkit.report.claims import CLAIMS, overall
from dollkit.report.render import format_value
from dollkit.report.rows import write_csv

KEYS = {
    "table1": ("task", "network", "n_train", "arm"),
    "table2": ("task", "network", "n_train", "tuning", "arm"),
    "claims": ("claim", "contrast", "task", "network", "n_train"),
}
NUMBERS: dict[str, dict[str, tuple[str, str]]] = {
    "table1": {"miou": ("miou_lo", "miou_hi"), "dice": ("dice_lo", "dice_hi")},
    "table2": {"miou": ("miou_lo", "miou_hi")}
    | dict.fromkeys(
        ("trainable_share", "steps_own", "seconds_own", "steps_random", "memory_mb",
         "checkpoint_mb"),
        ("", ""),
    ),
    "claims": {"effect": ("lo", "hi")},
}  # fmt: skip
"""Per table the numbers compared, each with the bounds of its 95 % interval if it has one."""

COLUMNS = [
    "table", "setting", "quantity", "committed", "lo", "hi", "new", "change", "within",
    "verdict_committed", "verdict_new", "note",
]  # fmt: skip
LARGEST = 3
"""Moves that the summary names."""


class Nothing(Exception):
    """There is nothing to compare with; the message says why."""


def committed(profile: str, name: str, root: Path | None = None) -> pd.DataFrame | None:
    """One CSV of a profile as git's HEAD has it; None if HEAD has none.

    Args:
        profile: name of the profile.
        name: file in ``figures/<profile>``.
        root: checkout; default: the compendium's own.

    Raises:
        Nothing: no git, or no commit.
    """
    text = _git(root or paths.ROOT, "show", f"HEAD:./figures/{profile}/{name}")
    return None if text is None else _read(io.StringIO(text))


def _git(root: Path, *arguments: str) -> str | None:
    """Output of git; None if it finds no such file."""
    try:
        for command in (["rev-parse", "--short", "HEAD"], list(arguments)):
            done = subprocess.run(
                ["git", *command], cwd=root, capture_output=True, encoding="utf-8", check=False
            )
            if done.returncode and command[0] == "rev-parse":
                raise Nothing("this is no git checkout with a commit")
    except OSError as error:
        raise Nothing("git cannot be run here") from error
    return None if done.returncode else done.stdout


def _read(source: Path | io.StringIO) -> pd.DataFrame:
    return pd.read_csv(source, dtype={"network": "str", "arm": "str", "note": "str"})


def table(old: pd.DataFrame, new: pd.DataFrame, name: str) -> pd.DataFrame:
    """Compare one table with its committed form.

    Args:
        old, new: rows of "table1", "table2" or "claims", as stored.
        name: which of them.

    Returns:
        `COLUMNS`, one row per setting and quantity that both or either has: change is new minus
        committed; within: "yes" or "no", whether the new value lies in the committed interval
        (blank without one); note: "only committed" or "only new".
    """
    rows: list[dict[str, object]] = []
    sides = [_indexed(frame, KEYS[name]) for frame in (old, new)]
    for setting in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(setting) for side in sides)
        for quantity, interval in NUMBERS[name].items():
            a, b = _number(one, quantity), _number(other, quantity)
            if np.isnan(a) and np.isnan(b):
                continue
            lo, hi = (_number(one, bound) for bound in interval)
            within = "" if np.isnan([lo, hi, b]).any() else "yes" if lo <= b <= hi else "no"
            gap = "only new" if np.isnan(a) else "only committed" if np.isnan(b) else ""
            row: dict[str, object] = {"table": name, "setting": " ".join(setting)}
            row |= {"quantity": quantity, "committed": a, "lo": lo, "hi": hi, "new": b}
            row |= {"change": b - a, "within": within, "note": gap}
            if name == "claims":
                row |= {"verdict_committed": _word(one), "verdict_new": _word(other)}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _indexed(frame: pd.DataFrame, key: tuple[str, ...]) -> dict[tuple[str, ...], pd.Series]:
    names = [
        tuple(format_value(row[k], 0) for k in key if not pd.isna(row[k]))
        for _, row in frame[list(key)].iterrows()
    ]
    return {name: row for name, (_, row) in zip(names, frame.iterrows(), strict=True)}


def _number(row: pd.Series | None, column: str) -> float:
    return float("nan") if row is None or column not in row else float(row[column])


def _word(row: pd.Series | None) -> str:
    return "" if row is None else str(row["verdict"])


def compare(profile: str, root: Path | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Tables 1, 2 and the claims of ``figures/<profile>`` against the committed ones.

    Args:
        profile: name of the profile.
        root: checkout whose HEAD holds the committed results; default: the compendium's own.

    Returns:
        `table` of all three, and one line per claim whose verdict changed.

    Raises:
        Nothing: no git, nothing committed, or no result of this run.
    """
    found: list[pd.DataFrame] = []
    changed: list[str] = []
    for name in KEYS:
        old = committed(profile, f"{name}.csv", root)
        path = paths.figures() / profile / f"{name}.csv"
        if old is None or not path.is_file():
            continue
        new = _read(path)
        found.append(table(old, new, name))
        if name == "claims":
            for claim in CLAIMS:
                before, after = overall(old, claim.key), overall(new, claim.key)
                if before != after:
                    changed.append(f"{claim.key}: {before} -> {after}")
    if not found:
        raise Nothing(f"profile {profile} has no committed results")
    return pd.concat(found, ignore_index=True), changed


def summary(found: pd.DataFrame, changed: list[str]) -> list[str]:
    """What moved, in a few lines.

    Args:
        found: rows of `table`.
        changed: claims whose verdict changed.
    """
    both = found[found["note"] == ""]
    moved = both[both["change"] != 0]
    if len(moved):
        sure = moved[moved["within"] != ""]
        inside = int((sure["within"] == "yes").sum())
        lines = [
            f"{len(moved)} of {len(both)} numbers moved; of {len(sure)} with an interval {inside} "
            "stay within the committed 95 % interval"
        ]
        width = (sure["hi"] - sure["lo"]) / 2
        size = (sure["change"].abs() / width.where(width > 0)).fillna(np.inf)
        order = size.sort_values(ascending=False, kind="stable").index[:LARGEST]
        lines += [f"  {_move(row)}" for _, row in sure.loc[order].iterrows()]
    else:
        lines = [f"all {len(both)} numbers are as committed"]
    for gap in ("only committed", "only new"):
        count = int((found["note"] == gap).sum())
        lines += [f"{count} numbers {gap}"] if count else []
    claims = both[both["table"] == "claims"]
    other = claims[claims["verdict_committed"] != claims["verdict_new"]]
    lines += [f"verdict changed: {line}" for line in changed]
    lines += [
        f"verdict changed: {r['setting']}: {r['verdict_committed']} -> {r['verdict_new']}"
        for _, r in other.iterrows()
    ]
    return lines if len(changed) + len(other) else [*lines, "no verdict changed"]


def _move(row: pd.Series) -> str:
    numbers = [format_value(float(row[k])) for k in ("committed", "new", "lo", "hi")]
    place = "within" if row["within"] == "yes" else "outside"
    return (
        f"{row['table']} {row['setting']} {row['quantity']}: {numbers[0]} -> {numbers[1]} "
        f"({row['change']:+.3g}), {place} [{numbers[2]}, {numbers[3]}]"
    )


def report(profile: str, root: Path | None = None) -> list[str]:
    """Compare, write ``runs/<profile>/comparison.csv``, and return lines to print. Never fails.

    Args:
        profile: name of the profile.
        root: as for `compare`.
    """
    try:
        found, changed = compare(profile, root)
        path = paths.runs() / profile / "comparison.csv"
        write_csv(found, path)
        head = "compared with the committed results:"
        return [head, *(f"  {line}" for line in summary(found, changed)), f"  all of it: {path}"]
    except Nothing as reason:
        return [f"not compared with committed results: {reason}"]
    except Exception as error:  # a run that came through must not fail for want of a comparison
        return [f"not compared with committed results: {brief(error)}"]
