"""Tables 1-3: what pre-training gives, what tuning costs, what the labels owe to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.arm_names import ARMS, OPTIONAL, TUNINGS
from dollkit.common.errors import InputError
from dollkit.common.statistics import bootstrap_interval, paired, patient_values
from dollkit.labels.summary import judged
from dollkit.report.convergence import speed
from dollkit.report.render import span, write_table
from dollkit.report.rows import SETTING, TASKS, contributions, explainer_of, main_size

UPPER_BOUND = "upper bound, phantom only"
NAMES = {
    "miou": "mIoU", "dice": "Dice", "lr": "learning rate", "n_train": "n train",
    "memory_mb": "step, MB", "checkpoint_mb": "checkpoint, MB", "trainable_share": "trained share",
    "steps_own": "steps (own)", "seconds_own": "seconds (own)", "steps_random": "steps (random)",
    "n_cases": "films", "n_seeds": "seeds", "n_classifiers": "classifiers",
    "iou_matched": "IoU (matched area)", "n": "pairs",
}  # fmt: skip
DIGITS = {"steps_own": 0, "seconds_own": 1, "steps_random": 0, "memory_mb": 0,
    "checkpoint_mb": 2,
}  # fmt: skip


def hidden(frame: pd.DataFrame) -> list[str]:
    """Columns of a table that only its CSV has: seed spread, patients, and what never varies."""
    same = [c for c in ("network", "n_train") if c in frame and frame[c].nunique() == 1]
    return [c for c in ("miou_sd_seeds", "n_patients", "n_valid") if c in frame] + same


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of tasks, networks, sizes, tunings, arms, whatever order they came in."""
    rank = {name: i for names in (TASKS, TUNINGS, ARMS) for i, name in enumerate(names)}
    keys = [frame[c].map(rank) if c in ("task", "tuning", "arm") else frame[c] for c in SETTING]
    order = np.lexsort([k.to_numpy() for k in reversed(keys)])
    return frame.iloc[order].reset_index(drop=True)


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per setting: mIoU and Dice with bootstrap intervals over patients.

    Seeds are averaged before patients are resampled; their spread is ``miou_sd_seeds``.
    Columns: task, network, n_train, tuning, arm, miou, miou_lo, miou_hi, miou_sd_seeds, dice,
    dice_lo, dice_hi, n_cases (films), n_patients, n_seeds.
    """
    rows: list[dict[str, object]] = []
    for key, part in cases.groupby(SETTING, sort=True):
        row: dict[str, object] = dict(zip(SETTING, key, strict=True))
        for name, column in (("miou", "iou"), ("dice", "dice")):
            seeds, patients, units = contributions(part, column)
            lo, hi = bootstrap_interval(units.mean(0))
            row |= {name: float(units.mean()), f"{name}_lo": lo, f"{name}_hi": hi}
            if name == "miou":
                spread = units.mean(1).std(ddof=1) if len(seeds) > 1 else np.nan
                row["miou_sd_seeds"] = float(spread)
        row |= {"n_cases": part["image_id"].nunique(), "n_patients": len(patients)}
        rows.append(row | {"n_seeds": len(seeds)})
    bounds = [f"{m}{s}" for m in ("miou", "dice") for s in ("", "_lo", "_hi")]
    columns = [*SETTING, *bounds[:3], "miou_sd_seeds", *bounds[3:]]
    return pd.DataFrame(rows, columns=[*columns, "n_cases", "n_patients", "n_seeds"])


def _chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """Per setting the learning rates selected, as text ("0.01" or "0.003/0.01"), and n_valid."""
    grouped = runs.groupby(SETTING, sort=True)
    rates = grouped["lr"].agg(lambda s: "/".join(f"{v:g}" for v in sorted(set(s))))
    return pd.DataFrame({"lr": rates, "n_valid": grouped["n_valid"].max()}).reset_index()


def table1(
    cases: pd.DataFrame, runs: pd.DataFrame, not_run: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Arms x (task, network, training size), all weights tuned: mIoU and Dice.

    Args:
        cases: per-case rows; only tuning "full" and `main_size` are shown.
        runs: rows of runs.csv, for the selected learning rate.
        not_run: arm -> reason, for arms that could not run.

    Returns:
        `summarise`'s columns without tuning, then lr, n_valid (films that rate and step were
        chosen by, the most of any fold) and status: "run", "upper bound, ..."
        or "not run: reason". Every arm but those of `armnames.OPTIONAL` has a row in every
        block, run or not.
    """
    cases = main_size(cases)
    full = cases[cases["tuning"] == "full"]
    if full.empty:
        raise InputError("table 1: no case has tuning 'full'; fine-tune with it")
    frame = summarise(full).merge(
        _chosen(runs[runs["tuning"] == "full"]), on=SETTING, how="left", validate="1:1"
    )
    frame["status"] = np.where(frame["arm"] == "truth", UPPER_BOUND, "run")
    reasons = {"truth": f"no true masks ({UPPER_BOUND})"} | dict(not_run or {})
    block = ["task", "network", "n_train"]
    gaps: list[dict[str, object]] = []
    for key, part in frame.groupby(block, sort=True):
        for arm in ARMS:
            if arm not in {*part["arm"], *OPTIONAL}:
                reason = reasons.get(arm, "not part of this profile")
                row: dict[str, object] = dict(zip(block, key, strict=True))
                gaps.append(row | {"tuning": "full", "arm": arm, "status": f"not run: {reason}"})
    if gaps:
        extra = pd.DataFrame(gaps).reindex(columns=frame.columns)
        records = frame.to_dict("records") + extra.to_dict("records")
        frame = pd.DataFrame(records, columns=frame.columns)
    for column in ("n_cases", "n_patients", "n_seeds", "n_valid"):
        frame[column] = frame[column].astype("Int64")
    return _ordered(frame).drop(columns="tuning")


def table2(cases: pd.DataFrame, runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Tuning x arm per task: what is trained, how long it takes, what it gives, what it weighs.

    `main_size` alone is shown. Columns: task, network, n_train, tuning, arm, trainable_share
    (trainable / total weights), steps_own, seconds_own (mean over runs, to 95 % of the run's own
    best validation mIoU), steps_random (to 95 % of the best of random/full, same seed and fold;
    only if every run gets there), reached ("2/3" runs that do), miou, miou_lo, miou_hi, memory_mb
    (2^20 bytes that a training step holds, see `run.step_mb`), checkpoint_mb (10^6 bytes),
    n_cases, n_seeds.
    """
    frame = summarise(main_size(cases))
    grouped = runs.assign(share=runs["trainable"] / runs["total"]).groupby(SETTING, sort=True)
    cost = grouped.agg(
        trainable_share=("share", "mean"),
        memory_mb=("memory_mb", "mean"),
        checkpoint_mb=("checkpoint_bytes", "mean"),
    ).reset_index()
    cost["checkpoint_mb"] /= 1e6
    pace = speed(curves).groupby(SETTING, sort=True)
    fast = pace[["steps_own", "seconds_own"]].mean()
    hits = pace["steps_random"].agg(["count", "size", "mean"])
    fast["steps_random"] = hits["mean"].where(hits["count"] == hits["size"])
    fast["reached"] = hits["count"].astype(str) + "/" + hits["size"].astype(str)
    frame = frame.merge(cost, on=SETTING, how="left").merge(
        fast.reset_index(), on=SETTING, how="left"
    )
    columns = [
        *SETTING, "trainable_share", "steps_own", "seconds_own", "steps_random", "reached",
        "miou", "miou_lo", "miou_hi", "memory_mb", "checkpoint_mb", "n_cases", "n_seeds",
    ]  # fmt: skip
    return _ordered(frame[columns])


def configurations(labels: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Every way of making labels that was tried: (factor, value, its per-case rows).

    The first is ("shipped", "shipped"). Subsets of the classifiers are listed one by one
    and averaged per film and finding over all subsets of one size.
    """
    most = labels["n_classifiers"].max()
    own = explainer_of(labels)
    mine = labels[labels["explainer"] == own]
    shipped = mine[(mine["variant"] == "shipped") & (mine["n_classifiers"] == most)]
    if shipped.empty:
        raise InputError(
            f"label_cases.csv.gz: no row of explainer {own!r} with all classifiers and variant "
            "'shipped'; run the labels stage again"
        )
    found = [("shipped", "shipped", shipped)]
    subsets = mine["variant"].str.startswith("classifiers=") | (mine["variant"] == "shipped")
    fewer = mine[(mine["n_classifiers"] < most) & subsets]
    for name, part in fewer.groupby("classifiers", sort=True):
        found.append(("classifiers", str(name), part))
    for count, part in fewer.groupby("n_classifiers", sort=True):
        keys = ["image_id", "patient_id", "finding"]
        mean = part.groupby(keys, as_index=False, sort=True)[["iou_matched", "hit"]].mean()
        found.append(
            (
                "classifiers",
                f"any {count} of {most}",
                mean.assign(n_classifiers=count, explainer=own),
            )
        )
    for name, part in labels[labels["explainer"] != own].groupby("explainer", sort=True):
        part = part[part["n_classifiers"] == part["n_classifiers"].max()]
        for variant, rows in part.groupby("variant", sort=True):
            plain = variant in ("shipped", f"explainer={name!s}")
            found.append(("explainer", str(name) if plain else f"{name!s} ({variant!s})", rows))
    changed = mine[(mine["variant"] != "shipped") & (mine["n_classifiers"] == most)]
    for variant, part in changed.groupby("variant", sort=True):
        factor, _, value = str(variant).partition("=")
        found.append((factor, value or "changed", part))
    return found


def table3(labels: pd.DataFrame, ablation: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the labels owe to what: each configuration alone, and paired with the shipped one.

    Args:
        labels: rows of label_cases.csv.gz.
        ablation: rows of labels/ablation.csv; those without per-case rows are listed with their
            own interval and a difference without one.

    Returns:
        factor, value, explainer, n_classifiers, iou_matched, iou_matched_lo, iou_matched_hi,
        hit_rate, delta, delta_lo, delta_hi (minus shipped, over the films and findings that
        both have), n (films x findings), n_patients. Means are over findings (see
        `labelquality.judged`) of means over films; intervals are 95 % bootstraps over patients.
    """
    rows: list[dict[str, object]] = []
    setups = configurations(judged(labels))
    shipped = setups[0][2][["image_id", "finding", "iou_matched"]]
    for position, (factor, value, part) in enumerate(setups):
        _, units = patient_values(part["iou_matched"], part["patient_id"], part["finding"])
        lo, hi = bootstrap_interval(units)
        row: dict[str, object] = {"factor": factor, "value": value}
        row |= {"explainer": part["explainer"].iloc[0]}
        row |= {"n_classifiers": int(part["n_classifiers"].iloc[0])}
        row |= {"iou_matched": units.mean(), "iou_matched_lo": lo, "iou_matched_hi": hi}
        row["hit_rate"] = part.groupby("finding")["hit"].mean().mean()
        if position:
            both = part.merge(shipped, on=["image_id", "finding"], suffixes=("", "_shipped"))
            gap = both["iou_matched"] - both["iou_matched_shipped"]
            effect = paired(patient_values(gap, both["patient_id"], both["finding"])[1])
            row |= {"delta": effect.estimate, "delta_lo": effect.lo, "delta_hi": effect.hi}
        row |= {"n": len(part), "n_patients": len(units)}
        rows.append(row)
    if ablation is not None:
        seen = {(f, v) for f, v, _ in setups}
        base = float(rows[0]["iou_matched"])  # type: ignore[arg-type]
        for record in ablation.sort_values(["factor", "value"], kind="stable").to_dict("records"):
            if (str(record["factor"]), str(record["value"])) in seen:
                continue
            alone = float(record["iou_matched"])
            rows.append(
                {"factor": record["factor"], "value": record["value"], "iou_matched": alone}
                | {"iou_matched_lo": record["iou_lo"], "iou_matched_hi": record["iou_hi"]}
                | {"hit_rate": record["hit_rate"], "delta": alone - base, "n": record["n"]}
            )
    columns = [
        "factor", "value", "explainer", "n_classifiers", "iou_matched", "iou_matched_lo",
        "iou_matched_hi", "hit_rate", "delta", "delta_lo", "delta_hi", "n", "n_patients",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    for column in ("n_classifiers", "n", "n_patients"):
        frame[column] = frame[column].astype("Int64")
    return frame


def _choosers(frame: pd.DataFrame) -> str:
    """Films that rates and steps were chosen by, in words."""
    known = frame["n_valid"].dropna()
    return f"{span(known)} further films with masks" if len(known) else "validation films"


def caption(table: int, frame: pd.DataFrame, profile: str) -> str:
    """Caption of a table with profile, n and seeds."""
    seeds = frame["n_seeds"].dropna() if "n_seeds" in frame else pd.Series([], dtype="Int64")
    counts = frame["n_cases"].dropna() if "n_cases" in frame else frame["n"].dropna()
    films = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()}-{counts.max()}"
    runs = (
        "-".join(str(s) for s in sorted({int(seeds.min()), int(seeds.max())})) if len(seeds) else ""
    )
    interval = "brackets: 95 % bootstrap interval over patients"
    where = ""
    if "network" in frame and not {"network", "n_train"} - set(hidden(frame)):
        where = f", {frame['network'].iloc[0]}, {frame['n_train'].iloc[0]} training films"
    head = f"Table {table} (profile {profile}{where})."
    if table == 1:
        return (
            f"{head} Pre-training arms, all weights tuned: mean IoU and Dice over foreground "
            f"classes, mean over {runs} seeds, {films} test films per task; {interval}. Learning "
            f"rate and step chosen on {_choosers(frame)}, same budget for every arm."
        )
    if table == 2:
        return (
            f"{head} What each tuning trains and what it gives: {runs} seeds, {films} test films "
            f"per task; {interval}. Steps and seconds (own) run to 95 % of the run's own best "
            "validation mIoU, steps (random) to 95 % of the best of the random arm tuned in "
            "full; reached: runs that get there; step: memory of one training step, "
            "counted from its tensors."
        )
    if table == 3:
        return (
            f"{head} What the labels owe to what: IoU with the truth at matched area, mean over "
            f"findings; {films} pairs of film and finding per row; "
            f"delta: minus the shipped labels on the same pairs; {interval}."
        )
    raise InputError(f"parameter 'table' is {table}: use 1, 2 or 3")


# Tables 1-3 as files: one call for the notebook that makes them and for whoever checks them.


def write_numbered(
    number: int,
    table: pd.DataFrame,
    folder: Path,
    *,
    profile: str,
    notes: Sequence[str] = (),
    reference: pd.DataFrame | None = None,
) -> list[Path]:
    """Write Table 1, 2 or 3 as CSV, Markdown and LaTeX.

    Args:
        number: 1, 2 or 3.
        table: result of `tables.table1`, `table2` or `table3`.
        folder: ``figures/<profile>``.
        profile: name for the caption.
        notes: lines under Tables 1 and 2 (`settings.at_the_edge`).
        reference: published numbers, for Table 1.

    Returns:
        The files written.
    """
    return write_table(
        table,
        folder / f"table{number}",
        caption(number, table, profile),
        hide=hidden(table),
        names=NAMES,
        digits=DIGITS,
        notes=notes if number < 3 else (),
        reference=reference if number == 1 else None,
    )


# Published numbers that stand beside ours, each with its source, and never among ours.


REFERENCE_COLUMNS = ["task", "class", "metric", "value", "source", "arxiv", "population", "tag"]


def load_reference(tasks: Sequence[str], folder: Path | None = None) -> pd.DataFrame:
    """Published numbers of ``data/reference/*.csv`` for these tasks; source kept with each."""
    root = folder or paths.REFERENCE
    wanted = set(REFERENCE_COLUMNS)
    found = [
        read_reference(path)
        for path in sorted(root.glob("*.csv"))
        if wanted <= set(pd.read_csv(path, nrows=0).columns)
    ]
    if not found:
        raise InputError(f"{root}: no *.csv with columns {', '.join(REFERENCE_COLUMNS)}")
    frame = pd.concat(found, ignore_index=True)
    return frame[frame["task"].isin(list(tasks))].reset_index(drop=True)


def read_reference(path: Path) -> pd.DataFrame:
    """One reference CSV; a missing column or a number without source is an `InputError`."""
    frame = pd.read_csv(path, dtype="str", keep_default_na=False)
    for column in REFERENCE_COLUMNS:
        if column not in frame.columns:
            raise InputError(f"{path}: column {column!r} is missing")
    bare = frame["source"].str.strip() == ""
    if bare.any():
        raise InputError(f"{path}: row {int(np.flatnonzero(bare)[0]) + 2} has no source; name it")
    return frame[REFERENCE_COLUMNS]
