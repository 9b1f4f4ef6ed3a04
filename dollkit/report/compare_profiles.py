"""Two profiles that test on the same films: what does it matter what they were pre-trained on?

``python -m dollkit.report.compare_profiles PROFILE_A PROFILE_B`` pairs the per-case rows of both
(``figures/<profile>/cases.csv.gz``) film by film and seed by seed, and writes two tables. Arms that
start alike in both (`CONTROLS`) must come out alike: they tell whether anything else differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.common import paths
from dollkit.common.arm_names import ARMS, TUNINGS
from dollkit.common.errors import InputError
from dollkit.common.statistics import NO_EFFECT, Effect, Floats, crossed_effect, holm
from dollkit.report.contrasts import aligned
from dollkit.report.render import write_table
from dollkit.report.rows import CASE_COLUMNS, SETTING, TASKS, check_cases, read_table

CONTROLS = ("random", "imagenet")
"""Arms whose start has nothing to do with the profile's own films."""

BASELINES = ("random", "classifier")
FILM = ["task", "image_id", "class"]
COUNTS = ["n_cases", "n_patients", "n_seeds"]
TRANSFER_COLUMNS = [
    "profile_a", "profile_b", *SETTING, "miou_a", "miou_b", "difference", "difference_lo",
    "difference_hi", "p", "p_holm", "same", *COUNTS,
]  # fmt: skip
GAIN_COLUMNS = [
    "profile_a", "profile_b", *SETTING[:-1], "contrast", "gain_a", "gain_a_lo", "gain_a_hi", "p_a",
    "gain_b", "gain_b_lo", "gain_b_hi", "p_b", "change", "change_lo", "change_hi", "p", *COUNTS,
]  # fmt: skip

Key = tuple[str, str, int, str, str]


def load(profile: str) -> pd.DataFrame:
    """Checked per-case rows of a profile's folder of figures."""
    path = paths.figures() / profile / "cases.csv.gz"
    if not path.is_file():
        raise InputError(f"{path}: no such file: run profile {profile!r} first, or mend its name")
    return check_cases(read_table(path, CASE_COLUMNS), str(path))


def on_shared_films(
    a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of both profiles on the films that both test.

    Args:
        a, b: per-case rows.
        names: the profiles.
    """
    films = [_films(rows) for rows in (a, b)]
    keys = [f[FILM[:2]].drop_duplicates() for f in films]
    shared = keys[0].merge(keys[1])
    between = f"profiles {names[0]} and {names[1]}"
    if shared.empty:
        raise InputError(f"{between} test no film in common: name two that share a task's films")
    both = films[0].merge(films[1], on=FILM, how="outer", suffixes=("_a", "_b"), indicator=True)
    both = both.merge(shared)
    single = both[both["_merge"] != "both"]
    if len(single):
        row = single.iloc[0]
        raise InputError(
            f"{between}: film {row['image_id']} of {row['task']} has the class {row['class']!r} in "
            "one of them alone: they do not test the same films"
        )
    for column, what in (("patient_id", "patient"), ("area", "true area"), ("fold", "fold")):
        differ = both[both[f"{column}_a"] != both[f"{column}_b"]]
        if len(differ):
            row = differ.iloc[0]
            raise InputError(
                f"{between}: film {row['image_id']}, {row['class']} of {row['task']}, has {what} "
                f"{row[f'{column}_a']} and {row[f'{column}_b']}: they do not test the same films "
                "after the same training; run both at one size, seed and split"
            )
    kept = (rows.merge(shared, on=FILM[:2]) for rows in (a, b))
    return next(kept), next(kept)


def _films(cases: pd.DataFrame) -> pd.DataFrame:
    """What a profile tests: film and class, with patient, fold and true area in pixels."""
    rows = cases.assign(area=cases["tp"] + cases["fn"])
    return rows[[*FILM, "patient_id", "fold", "area"]].drop_duplicates()


def _cells(cases: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    """Rows of each setting."""
    return {
        (str(task), str(network), int(str(n)), str(tuning), str(arm)): part
        for (task, network, n, tuning, arm), part in cases.groupby(SETTING)
    }


def _rank(key: Key) -> tuple[int, str, int, int, int]:
    task, network, n_train, tuning, arm = key
    return TASKS.index(task), network, n_train, TUNINGS.index(tuning), ARMS.index(arm)


def _effect(matrix: Floats) -> Effect:
    return crossed_effect(matrix) if matrix.size else NO_EFFECT


def _counts(matrix: Floats, seeds: Sequence[int], films: int) -> dict[str, object]:
    return dict(zip(COUNTS, (films, matrix.shape[-1], len(seeds)), strict=True))


def transfer(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """Every setting that both profiles have, on the films and seeds that both have.

    Args:
        a, b: what `on_shared_films` gives.
        names: the profiles.

    Returns:
        `TRANSFER_COLUMNS`: mIoU of each; difference (a - b) with 95 % interval and p of the crossed
        random-effects design over seeds and patients; p_holm over all rows but `CONTROLS`; same:
        share of rows (film, class, seed) whose tp, fp and fn are equal; films, patients, seeds.
    """
    cells = _cells(a), _cells(b)
    rows: list[dict[str, object]] = []
    for key in sorted(set(cells[0]) & set(cells[1]), key=_rank):
        pair = cells[0][key], cells[1][key]
        seeds, (one, other), films = aligned(pair)
        if not one.size:
            continue
        effect = _effect(one - other)
        matched = pair[0].merge(pair[1], on=["seed", "image_id", "class"], suffixes=("_a", "_b"))
        equal = [matched[f"{c}_a"] == matched[f"{c}_b"] for c in ("tp", "fp", "fn")]
        row: dict[str, object] = dict(zip(SETTING, key, strict=True))
        row |= {"profile_a": names[0], "profile_b": names[1]}
        row |= {"miou_a": float(one.mean()), "miou_b": float(other.mean())}
        row |= {"difference": effect.estimate, "difference_lo": effect.lo}
        row |= {"difference_hi": effect.hi, "p": effect.p}
        row["same"] = float((equal[0] & equal[1] & equal[2]).mean())
        rows.append(row | _counts(one, seeds, films))
    if not rows:
        raise InputError(
            f"profiles {names[0]} and {names[1]} share films, but no arm with the same network, "
            "training size, tuning and seed: nothing can be paired"
        )
    frame = pd.DataFrame(rows).reindex(columns=TRANSFER_COLUMNS)
    frame["p_holm"] = holm(frame["p"].where(~frame["arm"].isin(CONTROLS)))
    return frame


def gains(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """What each arm gives beyond `BASELINES` within each profile, and how that changes.

    Args:
        a, b: what `on_shared_films` gives.
        names: the profiles.

    Returns:
        `GAIN_COLUMNS`: gain (arm - baseline) in each, with 95 % interval and p; change (gain in a
        - gain in b); counts. A row rests on the films and seeds that all its settings have; a
        profile without the arm leaves its part blank.
    """
    cells = _cells(a), _cells(b)
    rows: list[dict[str, object]] = []
    for key in sorted(set(cells[0]) | set(cells[1]), key=_rank):
        for base in BASELINES:
            if key[-1] in CONTROLS or key[-1] == base:
                continue
            wanted = key, (*key[:-1], base)
            have = [all(k in cell for k in wanted) for cell in cells]
            parts = [c[k] for c, yes in zip(cells, have, strict=True) if yes for k in wanted]
            if not parts:
                continue
            seeds, matrices, films = aligned(parts)
            if not matrices[0].size:
                continue
            gaps = [x - y for x, y in zip(matrices[::2], matrices[1::2], strict=True)]
            row: dict[str, object] = dict(zip(SETTING[:-1], key[:-1], strict=True))
            row |= {"profile_a": names[0], "profile_b": names[1]}
            row["contrast"] = f"{key[-1]} - {base}"
            for side, gap in zip([s for s, yes in zip("ab", have, strict=True) if yes], gaps,
                                 strict=True):  # fmt: skip
                one = _effect(gap)
                row |= {f"gain_{side}": one.estimate, f"gain_{side}_lo": one.lo}
                row |= {f"gain_{side}_hi": one.hi, f"p_{side}": one.p}
            if all(have):
                both = _effect(gaps[0] - gaps[1])
                row |= {"change": both.estimate, "change_lo": both.lo}
                row |= {"change_hi": both.hi, "p": both.p}
            rows.append(row | _counts(matrices[0], seeds, films))
    return pd.DataFrame(rows).reindex(columns=GAIN_COLUMNS)


def _caption(frame: pd.DataFrame, names: tuple[str, str], what: str) -> str:
    """One paragraph with profiles, what they were pre-trained on, n and seeds."""
    span = {c: sorted({int(frame[c].min()), int(frame[c].max())}) for c in COUNTS}
    films, patients, seeds = ("-".join(map(str, span[c])) for c in COUNTS)
    made = [pretrained_on(paths.figures() / name) for name in names]
    told = [f"{n} ({m})" if m else n for n, m in zip(names, made, strict=True)]
    return (
        f"Profiles {told[0]} and {told[1]}: {what} Same test films and seeds in both: {films} "
        f"films of {patients} patients per task, {seeds} seeds; brackets: 95 % interval over "
        "patients and seeds (crossed random effects)."
    )


def _control_note(frame: pd.DataFrame) -> str:
    """What the arms say that start alike in both profiles."""
    control = frame[frame["arm"].isin(CONTROLS)]
    if control.empty:
        return (
            f"No control: neither of {', '.join(CONTROLS)} was run in both, so nothing tells "
            "whether they differ in more than pre-training."
        )
    told = [
        f"{row['task']}, {row['arm']}: {100 * row['same']:.3g} % of rows with the same tp, fp, fn, "
        f"mIoU apart by {row['difference']:+.4f}"
        for row in control.to_dict("records")
    ]
    return "Control (starts alike in both, should come out alike): " + "; ".join(told) + "."


def write(a: str, b: str, folder: Path) -> list[Path]:
    """Write ``<a>_<b>`` (paired arms) and ``<a>_<b>_gains`` as CSV, Markdown and LaTeX."""
    if a == b:
        raise InputError(f"profile {a!r} is named twice: name two profiles")
    names = (a, b)
    rows = on_shared_films(load(a), load(b), names)
    paired, gained = transfer(*rows, names), gains(*rows, names)
    notes = [_control_note(paired)]
    stages = sorted(set(zip(paired["network"], paired["task"], strict=True)))
    notes += differences(paths.figures() / a, paths.figures() / b, stages)
    heads = {"n_train": "n train", "n_cases": "films", "n_patients": "patients", "n_seeds": "seeds"}
    heads |= {"miou_a": f"mIoU ({a})", "miou_b": f"mIoU ({b})", "p_holm": "p (Holm)"}
    heads |= {"same": "same rows", "gain_a": f"gain ({a})", "gain_b": f"gain ({b})"}
    words = {
        "": "mean IoU over foreground classes of each; difference: the first minus the second, "
        "Holm's p over all arms but the controls; same rows: share of (film, class, seed) with "
        "equal tp, fp and fn.",
        "_gains": "mIoU that an arm has beyond another of the same profile; change: the first "
        "profile's gain minus the second's, its p as it is.",
    }
    made: list[Path] = []
    for (end, what), frame in zip(words.items(), (paired, gained), strict=True):
        if frame.empty:
            continue
        same = [c for c in SETTING[1:-1] if frame[c].nunique() == 1]
        hide = ["profile_a", "profile_b", "p_a", "p_b", *same]
        stem = folder / f"{a}_{b}{end}"
        try:
            made += write_table(
                frame, stem, _caption(frame, names, what), hide=hide, names=heads,
                notes=[] if end else notes,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"{folder}: cannot write here ({error.strerror})") from None
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.report.compare_profiles", description=__doc__
    )
    parser.add_argument("a", metavar="PROFILE_A")
    parser.add_argument("b", metavar="PROFILE_B")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: figures/across")
    given = parser.parse_args(argv)
    try:
        made = write(given.a, given.b, given.out or paths.figures() / "across")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(made[1].read_text(encoding="utf-8"))
    print(*made, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())


# Do two profiles fine-tune alike? What their ``provenance.json`` say of it.


FREE = (
    "profile", "arms", "tunings", "seeds", "folds", "sizes", "size_arms", "robustness",
    "n_examples",
)  # fmt: skip
"""Parameters of fine-tuning that choose which runs there are, and change none of them."""


def _record(folder: Path) -> Mapping[str, Any]:
    """A profile's provenance; empty if it has none."""
    path = folder / "provenance.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record, stages=dict(record["stages"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no provenance ({error}); run its claims stage again") from error


def _parameters(record: Mapping[str, Any], stage: str) -> dict[str, Any]:
    found: dict[str, Any] = record.get("stages", {}).get(stage, {}).get("parameters", {})
    return found


def pretrained_on(folder: Path) -> str:
    """Source of a profile's films, such as "pre-trained on: phantom"; empty if not known.

    Args:
        folder: ``figures/<profile>``.
    """
    data = _parameters(_record(folder), "data")
    source = (data.get("stores") or {}).get("films", data.get("source", ""))
    return f"pre-trained on: {source}" if source else ""


def differences(a: Path, b: Path, stages: Iterable[tuple[str, str]]) -> list[str]:
    """One line per fine-tuning stage in which two profiles differ by more than pre-training.

    Args:
        a, b: ``figures/<profile>``; without provenance there is nothing to compare.
        stages: (network, task) of those to look at.
    """
    records = _record(a), _record(b)
    lines = []
    for network, task in stages:
        one, other = (_parameters(r, f"finetune/{network}-{task}") for r in records)
        if not (one and other):
            lines.append(f"{task}: no provenance in both, so settings were not compared.")
            continue
        found = [
            f"{key} {one[key]!r} and {other[key]!r}"
            for key in sorted(set(one) & set(other) - {*FREE, "lrs"})
            if one[key] != other[key]
        ]
        rates = [p.get("lrs", {}) for p in (one, other)]
        full = [r.get("full", r.get("other")) for r in rates]
        if all(full) and full[0] != full[1]:
            found.append(f"learning rates {full[0]!r} and {full[1]!r}")
        store = f"data/{task}/store.json"
        hashes = [r.get("data", {}).get(store) for r in records]
        if hashes[0] != hashes[1]:
            found.append("stores of other bytes")
        if found:
            lines.append(f"{task}: fine-tuning differs in {'; '.join(found)}.")
    return lines
