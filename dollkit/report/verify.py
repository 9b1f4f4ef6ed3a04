"""``make verify``: do the stored tables and figures follow from the rows stored beside them?

Every table, and the data and caption of every figure, is made again from the rows in
``figures/<profile>`` alone, by the functions that notebooks 06 to 08 use, into a temporary folder,
and compared with what is stored. Text and whole numbers must be equal, and so must all that is made
of pixel counts (`EXACT`). Of the rest, `near` says how far the rounding of rows may move it. Pages
that quote results (`PAGES`) must quote them as they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import brief
from dollkit.labels import summary
from dollkit.report import claims, page, results
from dollkit.report import rows as stored_rows
from dollkit.report.rows import Rows, read_table, write_csv

SAME, DIFFERS, NOT_DERIVED = "same", "differs", "cannot be derived"
NEEDED = "cases.csv.gz"

EXACT = {
    "table1", "table_sizes", "robustness", "figure5", "figure6", "figure_s5",
}  # fmt: skip
"""Made of whole numbers, or copied: every printed digit must agree."""

FILMS = "it shows films, of which no array is stored"
UNDERIVED = {**dict.fromkeys(page.FILMS, FILMS), "provenance": "it is the record of the run"}

SEEN = ("iou_label", "iou_area", "n")  # of label_losses; its other columns need the maps
STEPS = ("steps_own", "seconds_own", "steps_random")


def near(ours: float, theirs: float, of_steps: bool) -> bool:
    """Whether two numbers may be one, made of rows before and after these were rounded.

    Rows have six significant digits, tables were made from more. That moves a mean of differences
    of numbers below one by at most 1e-6, and others by half a unit of their fifth digit. Steps at
    which a flat curve reaches a target, and the p values of their ratios, move by more: in the
    committed profiles by less than one in a hundred.
    """
    room = 0.01 if of_steps else 5e-5
    return abs(ours - theirs) <= max(1e-6, room * abs(theirs)) * (1 + 1e-9)


class Line(NamedTuple):
    """What is said of one artefact."""

    artefact: str
    state: str
    detail: str = ""


class Made(NamedTuple):
    """Content of an artefact's CSV, and what writes such a frame as all files of the artefact."""

    frame: pd.DataFrame
    write: Callable[[pd.DataFrame, Path], object]


def made_again(rows: Rows, folder: Path) -> dict[str, Made]:
    """Every artefact that follows from rows, by the name of its files."""
    profile, losses = folder.name, _losses(rows, folder)
    published = (folder / "table1_reference.csv").is_file()
    tables = results.tables_of(rows, profile, reference=published)
    tables |= results.label_tables_of(losses, profile)
    drawn = results.figures_of(rows, losses, profile)
    drawn["figure_s5"] = claims.figure_s5(claims.read_claims(folder), profile=profile)
    verdicts = claims.evaluate(rows)
    population = page.stated_population(folder).partition(". Seeds per")[0]
    about: dict[str, Any] = {"profile": profile, "population": population}

    def again(name: str) -> Made:
        if name in tables:
            table = tables[name]
            return Made(table.frame, lambda new, to: replace(table, frame=new).save(to / name))
        figure = drawn[name]
        return Made(figure.data, lambda new, to: replace(figure, data=new).save_text(to / name))

    made = {name: again(name) for name in (*tables, *drawn)}
    labels = summary.summarise(rows.label_cases)
    made["labels"] = Made(labels, lambda frame, to: write_csv(frame, to / "labels.csv"))
    made["claims"] = Made(verdicts, lambda frame, to: claims.write_claims(frame, to, **about))
    index = page.page(folder)
    made["index"] = Made(pd.DataFrame(), lambda _, to: (to / "index.md").write_text(index, "utf-8"))
    return made


def _losses(rows: Rows, folder: Path) -> pd.DataFrame | None:
    """The stored table of losses with the columns `SEEN` made again; None if it is not stored."""
    if not (folder / "label_losses.csv").is_file():
        return None
    frame = read_table(folder / "label_losses.csv", ("finding", *SEEN))
    taught = rows.label_cases[rows.label_cases["variant"] == "shipped"]
    own = taught.groupby("finding").agg(
        iou_label=("iou_label", "mean"), iou_area=("iou_matched", "mean"), n=("hit", "size")
    )  # fmt: skip
    own = own.reindex(frame["finding"][:-1]).fillna(0)
    own.loc["mean"] = [own["iou_label"].mean(), own["iou_area"].mean(), own["n"].sum()]
    return frame.assign(**{c: own[c].to_numpy() for c in SEEN}).astype({"n": np.int64})


def verify(folder: Path) -> list[Line]:
    """One line for each artefact that is stored in ``figures/<profile>``."""
    rows = stored_rows.read_stored(folder)
    stems = {p.name.partition(".")[0] for p in folder.iterdir() if p.is_file()}
    # What is written only beside another artefact is checked with it.
    stems -= {s.stored.partition(".")[0] for s in stored_rows.SOURCES.values()} - {"labels"}
    stems -= {"table1_reference"}
    lines = []
    for name, made in made_again(rows, folder).items():
        if name in stems:
            found = differences(name, made, folder)
            also = f" (and {len(found) - 1} more)" * (len(found) > 1)
            lines.append(Line(name, DIFFERS, found[0] + also) if found else Line(name, SAME))
    underived = sorted(stems - {line.artefact for line in lines})
    no_rule = "this check knows no rule for it"
    return lines + [Line(n, NOT_DERIVED, UNDERIVED.get(n, no_rule)) for n in underived]


def differences(name: str, made: Made, folder: Path) -> list[str]:
    """Where the stored files of an artefact differ from the same made again, one line each."""
    with tempfile.TemporaryDirectory() as temporary:
        anew, again = Path(temporary) / "anew", Path(temporary) / "again"
        anew.mkdir()
        again.mkdir()
        made.write(made.frame, anew)
        found: list[str] = []
        frame = made.frame
        if (anew / f"{name}.csv").is_file():
            found, frame = _numbers(name, frame, anew, folder)
        # Cells that the rounding of rows has moved stand in a text as they are stored.
        made.write(frame, again)
        for file in sorted(p.name for p in anew.iterdir() if p.name != f"{name}.csv"):
            texts = [
                (place / file).read_text("utf-8").splitlines() if (place / file).is_file() else []
                for place in (folder, anew, again)
            ]
            found += [
                f"{file}, line {number}: {theirs!r}, made again {ours!r}"
                for number, (theirs, ours, other) in enumerate(itertools.zip_longest(*texts), 1)
                if theirs not in (ours, other)
            ]
    return found


def _numbers(
    name: str, frame: pd.DataFrame, anew: Path, folder: Path
) -> tuple[list[str], pd.DataFrame]:
    """Differences of the CSV, and the frame with the stored numbers that rounding explains."""
    ours, stored = (
        pd.read_csv(place / f"{name}.csv", dtype="str", keep_default_na=False)
        for place in (anew, folder)
    )
    if ours.shape != stored.shape or list(ours) != list(stored):
        sides = [f"{len(f)} rows of {', '.join(map(str, f))}" for f in (stored, ours)]
        return [f"{name}.csv: {sides[0]}; made again {sides[1]}"], frame
    order = np.arange(len(ours))
    if name == "figure_s3":  # rows in the order in which variants were judged, which none stores
        keys = [(f["panel"] + f["row"]).to_numpy().argsort(kind="stable") for f in (ours, stored)]
        order[keys[0]] = keys[1]
    stored = stored.iloc[order].reset_index(drop=True)
    numbers = [texts.apply(pd.to_numeric, errors="coerce") for texts in (ours, stored)]
    found: list[str] = []
    frame = frame.reset_index(drop=True).copy()
    for i, column in zip(*np.nonzero((ours != stored).to_numpy()), strict=True):
        label, a, b = str(ours.columns[column]), *(str(f.iat[i, column]) for f in (ours, stored))
        of_steps = label in STEPS or (name == "claims" and str(ours.at[i, "claim"]) == "C3")
        rounded = frame[label].dtype.kind == "f" and name not in EXACT
        mine, theirs = (float(f.iat[i, column]) for f in numbers)
        if rounded and near(mine, theirs, of_steps):
            frame.loc[i, label] = theirs
        else:
            place = f"{name}.csv, line {order[i] + 2}, {label}"
            found.append(f"{place}: {b or 'blank'}, made again {a or 'blank'}")
    return found, frame


PAGES = ("docs/results.md", "docs/card.md", "docs/shift.md", "notebooks/*.ipynb")
QUOTED = re.compile(
    r"\| ([^|]*) \| \[[^\]]*\]\(([^)]+)\) `([^`|]+)`(?: where `([^`|]+)`)? \|(?:(?:\\n)?\",?)?$"
)
"""End of a table's row: a number, the file it is from, its columns there, and which rows."""


def quoted(page: Path) -> list[tuple[str, str, str]]:
    """Rows of a page that quote results: the line, the number as stated, and as the file has it.

    Of one row of the file a number and its interval; of several the lowest and the highest.
    """
    out = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := QUOTED.search(line):
            stated, file, columns, query = found.groups()
            path = page.parent / file
            try:
                out.append((line, stated, _quotation(path, columns.split(", "), query)))
            except (OSError, ValueError, KeyError, IndexError, TypeError, NameError) as error:
                out.append((line, stated, f"not there ({brief(error)})"))
    return out


def _quotation(path: Path, columns: list[str], query: str | None) -> str:
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text(encoding="utf-8"))[columns[0]])
    rows = pd.read_csv(path)
    rows = (rows.query(query) if query else rows)[columns].dropna()
    if len(rows) > 1:
        return f"{_plain(rows.iloc[:, 0].min())} to {_plain(rows.iloc[:, 0].max())}"
    first, *interval = map(_plain, rows.iloc[0])
    return f"{first} [{', '.join(interval)}]" if interval else first


def _plain(value: float) -> str:
    whole = abs(value) >= 100 or float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:.3f}"


def committed_profiles() -> list[str]:
    """Profiles under ``figures/`` with per-case rows; of a git checkout, those that it tracks."""
    root = paths.figures()
    names = sorted(p.parent.name for p in root.glob(f"*/{NEEDED}"))
    try:
        command = ["git", "ls-files", f"*/{NEEDED}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    return [n for n in names if f"{n}/{NEEDED}" in done.stdout.splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 0: nothing differs, 1: something does."""
    parser = argparse.ArgumentParser(prog="python -m dollkit verify", description=__doc__)
    parser.add_argument("profile", nargs="*", help="default: every stored one that has its rows")
    parsed = parser.parse_args(arguments)
    names = parsed.profile or committed_profiles()
    status = 0 if names else 2
    pages = itertools.chain.from_iterable(sorted(paths.ROOT.glob(page)) for page in PAGES)
    for path in pages if not parsed.profile else ():
        every, text = quoted(path), path.relative_to(paths.ROOT)
        wrong = [q for q in every if q[1] != q[2]]
        print(f"{text}: {len(wrong)} of {len(every)} quoted numbers differ", *wrong, sep="\n  ")
        status = max(status, int(bool(wrong)))
    for name in names:
        lines = verify(paths.figures() / name)
        print(f"profile {name}")
        for line in lines:
            print(f"  {line.artefact:<13} {': '.join(filter(None, line[1:]))}")
        count = {s: sum(x.state == s for x in lines) for s in (SAME, DIFFERS, NOT_DERIVED)}
        print("  " + ", ".join(f"{n} {state}" for state, n in count.items()), flush=True)
        status = max(status, int(count[DIFFERS] > 0))
    return status
