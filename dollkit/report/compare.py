"""Results beside results: two profiles on the same films, a run and its past.

``python -m dollkit compare PROFILE_A PROFILE_B`` pairs the per-case rows of both film by
film and seed by seed and writes two tables: what does it matter what they were pre-trained on?
Arms that start alike in both (`CONTROLS`) must come out alike, or something else differs.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.errors import InputError, brief
from dollkit.common.statistics import Floats, crossed_effect, holm
from dollkit.data.store_writer import writing
from dollkit.report import page
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import CASE_COLUMNS, SETTING, aligned, check_cases, in_order, read_table
from dollkit.report.tables import bounds, interval

CONTROLS = ("random", "imagenet")  # arms whose start has nothing to do with the profile's own films
BASELINES = ("random", "imagenet", "classifier")
FILM = ["task", "image_id", "class"]
COUNTS = ["n_cases", "n_patients", "n_seeds"]
TRANSFER_COLUMNS = [
    "profile_a", "profile_b", *SETTING, "miou_a", "miou_b", *bounds("difference"), "p", "p_holm",
    "same", *COUNTS,
]  # fmt: skip
GAIN_COLUMNS = [
    "profile_a", "profile_b", *SETTING[:-1], "contrast", *bounds("gain_a"), "p_a",
    *bounds("gain_b"), "p_b", *bounds("change"), "p", *COUNTS,
]  # fmt: skip

Pair = Mapping[str, pd.DataFrame]  # per-case rows of two profiles, by name


def on_shared_films(pair: Pair) -> Pair:
    """The rows on the films that both profiles test."""
    columns = [*FILM, "patient_id", "fold", "area"]
    films = [
        rows.assign(area=rows["tp"] + rows["fn"])[columns].drop_duplicates()
        for rows in pair.values()
    ]
    shared = films[0][FILM[:2]].drop_duplicates().merge(films[1][FILM[:2]].drop_duplicates())
    between = f"profiles {' and '.join(pair)}"
    if shared.empty:
        raise InputError(f"{between} test no film in common: name two that share a task's films")
    both = films[0].merge(films[1], how="outer", indicator=True).merge(shared)
    for row in both[both["_merge"] != "both"][:1].to_dict("records"):
        raise InputError(
            f"{between}: film {row['image_id']} of {row['task']} has class {row['class']!r} with "
            f"patient {row['patient_id']}, fold {row['fold']} and true area {row['area']} in one "
            "of them alone: they do not test the same films after the same training; run both at "
            "one size, seed and split"
        )
    return {name: rows.merge(shared, on=FILM[:2]) for name, rows in pair.items()}


def transfer(pair: Pair) -> pd.DataFrame:
    """Every setting of two profiles on the films and seeds that both have: `TRANSFER_COLUMNS`.

    difference is a - b, over seeds and patients; p_holm is over all rows but `CONTROLS`; same is
    the share of rows (film, class, seed) whose tp, fp and fn are equal.
    """
    profiles = dict(zip(("profile_a", "profile_b"), pair, strict=True))
    a, b = (dict(list(cases.groupby(SETTING))) for cases in pair.values())
    rows: list[dict[str, object]] = []
    for key in set(a) & set(b):
        (one, other), _, counts = aligned([a[key], b[key]])
        if not one.size:
            continue
        matched = a[key].merge(b[key], on=["seed", "image_id", "class"], suffixes=("_a", "_b"))
        equal = [matched[f"{c}_a"] == matched[f"{c}_b"] for c in ("tp", "fp", "fn")]
        row = profiles | dict(zip(SETTING, key, strict=True)) | counts
        row |= {"miou_a": one.mean(), "miou_b": other.mean(), "same": np.all(equal, 0).mean()}
        rows.append(row | _effect("difference", "p", one - other))
    if not rows:
        raise InputError(
            f"profiles {' and '.join(pair)} share films, but no arm with the same network, "
            "training size, tuning and seed: nothing can be paired"
        )
    frame = in_order(pd.DataFrame(rows), *SETTING)
    frame["p_holm"] = holm(frame["p"].where(~frame["arm"].isin(CONTROLS)))
    return frame[TRANSFER_COLUMNS]


def _effect(name: str, p: str, matrix: Floats) -> dict[str, object]:
    effect = crossed_effect(matrix)
    return interval(name, effect) | {p: effect.p}


def gains(pair: Pair) -> pd.DataFrame:
    """What each arm gives beyond `BASELINES` in each profile, and how it changes: `GAIN_COLUMNS`.

    A row rests on films and seeds that all its settings have; blank where there is no such arm.
    """
    profiles = dict(zip(("profile_a", "profile_b"), pair, strict=True))
    a, b = (dict(list(cases.groupby(SETTING))) for cases in pair.values())
    rows: list[dict[str, object]] = []
    for key, base in product(set(a) | set(b), BASELINES):
        arm, both = key[-1], (key, (*key[:-1], base))
        sides = {
            s: [cases[k] for k in both] for s, cases in (("a", a), ("b", b)) if {*both} <= {*cases}
        }
        if arm in CONTROLS or arm == base or not sides:
            continue
        matrices, _, counts = aligned(list(chain.from_iterable(sides.values())))
        if not matrices[0].size:
            continue
        row = profiles | dict(zip(SETTING, key, strict=True)) | counts
        row["contrast"] = f"{arm} - {base}"
        gaps = [one - other for one, other in zip(matrices[::2], matrices[1::2], strict=True)]
        for side, gap in zip(sides, gaps, strict=True):
            row |= _effect(f"gain_{side}", f"p_{side}", gap)
        if len(gaps) == 2:
            row |= _effect("change", "p", gaps[0] - gaps[1])
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*GAIN_COLUMNS, "arm"])
    return in_order(frame, *SETTING)[GAIN_COLUMNS]


def write_pair(a: str, b: str, folder: Path) -> list[Path]:
    """Write ``<a>_<b>`` (paired arms) and ``<a>_<b>_gains`` as CSV, Markdown and LaTeX."""
    if a == b:
        raise InputError(f"profile {a!r} is named twice: name two profiles")
    files = {name: paths.figures() / name / "cases.csv.gz" for name in (a, b)}
    pair = on_shared_films(
        {n: check_cases(read_table(p, CASE_COLUMNS), str(p)) for n, p in files.items()}
    )
    frames = {"": transfer(pair), "_gains": gains(pair)}
    starts = frames[""][frames[""]["arm"].isin(CONTROLS)]
    alike = [
        f"{row['task']}, {row['arm']}: {100 * row['same']:.3g} % of rows with the same tp, fp, fn, "
        f"mIoU apart by {row['difference']:+.4f}"
        for row in starts.to_dict("records")
    ]
    control = (
        f"No control: neither of {', '.join(CONTROLS)} was run in both, so nothing tells "
        "whether they differ in more than pre-training."
    )
    if alike:
        control = f"Control (starts alike in both, should come out alike): {'; '.join(alike)}."
    words = {
        "": "mean IoU over foreground classes of each; difference: the first minus the second, "
        "Holm's p over all arms but the controls; same rows: share of (film, class, seed) with "
        "equal tp, fp and fn.",
        "_gains": "mIoU that an arm has beyond another of the same profile; change: the first "
        "profile's gain minus the second's, its p as it is.",
    }
    heads = {"miou_a": f"mIoU ({a})", "miou_b": f"mIoU ({b})", "p_holm": "p (Holm)"}
    heads |= {"same": "same rows", "gain_a": f"gain ({a})", "gain_b": f"gain ({b})"}
    profiles = " and ".join(name + pretrained_on(paths.figures() / name) for name in (a, b))
    made: list[Path] = []
    for end, frame in frames.items():
        if len(frame):
            films, patients, seeds = (span(frame[c]) for c in COUNTS)
            caption = (
                f"Profiles {profiles}: {words[end]} Same test films and seeds in "
                f"both: {films} films of {patients} patients per task, {seeds} seeds; brackets: "
                "95 % interval over patients and seeds (crossed random effects)."
            )
            hide = ["profile_a", "profile_b", "p_a", "p_b", *constant(frame, SETTING[1:-1])]
            table = Table(frame, caption, hide, heads, notes=() if end else [control])
            made += table.save(folder / f"{a}_{b}{end}")
    return made


def pretrained_on(folder: Path) -> str:
    """Source of a profile's films, such as " (pre-trained on: phantom)"; empty if not known."""
    if not (folder / "provenance.json").is_file():
        return ""
    data = page.read_record(folder)["stages"].get("data", {}).get("parameters", {})
    source = (data.get("stores") or {}).get("films", data.get("source", ""))
    return f" (pre-trained on: {source})" if source else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dollkit compare", description=__doc__)
    parser.add_argument("profile", nargs="*", help="two of them")
    names, folder = parser.parse_args(arguments).profile, paths.figures() / "across"
    there = sorted(p.parent.name for p in paths.figures().glob("*/claims.csv"))
    if len(names) != 2:
        raise InputError(f"name two profiles; {paths.figures()} has {there}")
    with writing(folder):
        made = write_pair(names[0], names[1], folder)
    print(made[1].read_text(encoding="utf-8"), *made, sep="\n")
    return 0


# After a run: which numbers moved against the committed results of the same profile?


NUMBERS = (("table1", "miou"), ("table1", "dice"), ("table2", "miou"), ("claims", "effect"))


def moves(committed: pd.DataFrame, new: pd.DataFrame, number: str) -> list[str]:
    """How many numbers of a table moved, and each verdict that changed, of settings in both."""
    key = [c for c in ("claim", "contrast", *SETTING) if c in committed]
    both = committed.merge(new, on=key, suffixes=("", "_new"))
    after, stem = both[f"{number}_new"], "" if number == "effect" else f"{number}_"
    moved = both[number].notna() & (both[number] != after)
    inside = moved & (both[f"{stem}lo"] <= after) & (after <= both[f"{stem}hi"])
    lines = [
        f"{int(moved.sum())} of {len(both)} moved, {int(inside.sum())} of them within the "
        "committed 95 % interval"
    ]
    turned = both[both["verdict"] != both["verdict_new"]] if "verdict" in both else both[:0]
    return lines + [
        f"verdict changed: {r['contrast']}, {r['task']}: {r['verdict']} -> {r['verdict_new']}"
        for r in turned.to_dict("records")
    ]


def against_committed(profile: str, root: Path = paths.ROOT) -> list[str]:
    """Lines that say what a run moved against git's HEAD of a checkout. Never fails."""
    lines = ["compared with the committed results:"]
    try:
        for name, number in NUMBERS:
            command = ["git", "show", f"HEAD:./figures/{profile}/{name}.csv"]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            path = paths.figures() / profile / f"{name}.csv"
            if done.returncode or not path.is_file():
                return [f"not compared: git has no committed results of profile {profile}"]
            committed = pd.read_csv(io.StringIO(done.stdout))
            found = moves(committed, pd.read_csv(path), number)
            lines += [f"  {name}, {number}: {line}" for line in found]
        return lines
    except Exception as error:  # a run that came through must not fail for want of a comparison
        return [f"not compared with committed results: {brief(error)}"]
