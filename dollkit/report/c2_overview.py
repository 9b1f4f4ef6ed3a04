"""C2 in all profiles on one page: what DoLL gives beyond each other start, and where it is sure.

``python -m dollkit.report.c2_overview laptop desk`` writes ``figures/across/c2`` as CSV, Markdown
and LaTeX, from the stored ``claims.csv`` of the profiles; without names from those of all profiles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dollkit.common import paths
from dollkit.common.arm_names import ARMS
from dollkit.common.errors import InputError
from dollkit.report import claims, label_tables
from dollkit.report.render import write_table
from dollkit.report.rows import TASKS, read_table

CLAIM = "C2"
START = "doll - "
KEY = ["profile", "network", "n_train", "task"]
MARKS = {claims.CONFIRMED: " ↑", claims.CONTRADICTED: " ↓", claims.UNDECIDED: ""}
COLUMNS = [*KEY, "arm", "effect", "lo", "hi", "verdict", "decides", "n_patients", "n_seeds",
           "n_pretrained"]  # fmt: skip


def contrasts(profiles: Sequence[str]) -> pd.DataFrame:
    """DoLL minus every other start, all weights tuned: `COLUMNS`, in the order of `profiles`."""
    parts = []
    for profile in profiles:
        path = paths.figures() / profile / "claims.csv"
        if not path.is_file():
            raise InputError(f"{path}: no such file; name profiles that have been run")
        rows = pd.read_csv(path)
        gone = [c for c in claims.COLUMNS if c not in rows]
        if gone:
            raise InputError(f"{path}: column {gone[0]!r} is missing; run the claims stage again")
        named = rows["contrast"].str.startswith(START) & (rows["claim"] == CLAIM)
        some = rows[named & rows["effect"].notna()]
        arm = some["contrast"].str.removeprefix(START)
        made = path.with_name("pretraining.csv")
        runs = label_tables.repeats(read_table(made, label_tables.COLUMNS)) if made.is_file() else 0
        parts.append(some.assign(profile=profile, arm=arm, n_pretrained=runs)[COLUMNS])
    frame = pd.concat(parts, ignore_index=True)
    frame["n_train"] = frame["n_train"].astype(int)
    ranks = {"profile": list(profiles), "task": TASKS, "arm": ARMS}
    order = pd.DataFrame({
        c: frame[c].map({v: i for i, v in enumerate(ranks[c])}) if c in ranks else frame[c]
        for c in [*KEY, "arm"]
    })  # fmt: skip
    # The paper's network first, as everywhere.
    order["network"] = order["network"] != "pspnet"
    return frame.loc[order.sort_values([*KEY, "arm"], kind="stable").index].reset_index(drop=True)


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per profile, network and task; one column of text per other start."""
    text = [
        f"{effect:+.3f} [{lo:+.3f}, {hi:+.3f}]{MARKS[verdict]}"
        for effect, lo, hi, verdict in zip(
            *(frame[c] for c in ("effect", "lo", "hi", "verdict")), strict=True
        )
    ]
    cells = frame.assign(text=text)
    arms = [a for a in ARMS if a in set(frame["arm"])]
    rows: list[dict[str, object]] = []
    for key, part in cells.groupby(KEY, sort=False):
        own = dict(zip(part["arm"], part["text"], strict=True))
        row: dict[str, object] = dict(zip(KEY, key, strict=True))
        row |= {arm: own.get(arm, "–") for arm in arms}
        counts = {"patients": "n_patients", "seeds": "n_seeds", "pre-trained": "n_pretrained"}
        rows.append(row | {name: int(part[column].max()) for name, column in counts.items()})
    return pd.DataFrame(rows)


def write(profiles: Sequence[str], folder: Path) -> list[Path]:
    """Write ``c2`` to a folder; the CSV has a row per contrast, the others one per task."""
    frame = contrasts(profiles)
    table = wide(frame)
    caption = (
        "C2 in every profile: mIoU of DoLL minus that of each other start, all weights tuned, with "
        "its 95 % interval over patients and seeds. Pre-trained: networks of each arm that differ "
        "in their seed; with one, the interval covers fine-tuning runs alone. ↑: confirmed "
        "(Holm's p < 0.05 among the contrasts of its kind in its profile, effect of 0.005 or "
        "more); ↓: contradicted."
    )
    same = [c for c in ("n_train",) if table[c].nunique() == 1]
    made = write_table(table, folder / "c2", caption, hide=same, names={"n_train": "n train"})
    frame.to_csv(folder / "c2.csv", index=False, float_format="%.6g", lineterminator="\n")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.report.c2_overview", description=__doc__
    )
    parser.add_argument("profiles", nargs="*", help="default: every one with claims.csv")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: figures/across")
    given = parser.parse_args(argv)
    there = sorted(p.parent.name for p in paths.figures().glob("*/claims.csv"))
    out = given.out or paths.figures() / "across"
    try:
        if not (given.profiles or there):
            raise InputError(f"{paths.figures()}: no profile has claims.csv; run one first")
        out.mkdir(parents=True, exist_ok=True)
        made = write(given.profiles or there, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {out}: cannot write here ({error.strerror})", file=sys.stderr)
        return 2
    print(made[1].read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
