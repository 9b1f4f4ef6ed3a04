"""Tables 1-3 (pre-training, tuning, labels) and label efficiency, as frames and with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common import paths
from dollkit.common.arm_names import ARMS, OPTIONAL
from dollkit.common.errors import InputError
from dollkit.common.statistics import NO_EFFECT, Floats, bootstrap_interval
from dollkit.labels.summary import judged, mean_interval
from dollkit.report.convergence import speed
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import (
    NOT_RUN,
    SETTING,
    TASKS,
    contributions,
    difference,
    in_order,
    main_size,
)

UPPER_BOUND = "upper bound, phantom only"
NAMES = {
    "dice": "Dice", "lr": "learning rate", "memory_mb": "step, MB",
    "checkpoint_mb": "checkpoint, MB", "trainable_share": "trained share",
    "steps_own": "steps (own)", "seconds_own": "seconds (own)", "steps_random": "steps (random)",
    "n_classifiers": "classifiers", "iou_matched": "IoU (matched area)", "n": "pairs",
}  # fmt: skip
DIGITS = {
    "steps_own": 0, "seconds_own": 1, "steps_random": 0, "memory_mb": 0, "checkpoint_mb": 2,
}  # fmt: skip
AGAINST = ("random", "classifier", "shuffled")
"""Starts that DoLL is compared with at each number of training masks."""


def bounds(*names: str) -> list[str]:
    """Columns of numbers and of the ends of their intervals."""
    return [f"{n}{s}" for n in names for s in ("", "_lo", "_hi")]


def interval(name: str, values: Sequence[float]) -> dict[str, object]:
    """A number and the ends of its interval, the first three values, by these columns."""
    return dict(zip(bounds(name), values, strict=False))


def summarise(cases: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """One row per setting: mIoU and Dice with 95 % bootstrap intervals over patients.

    Seeds are averaged before patients are resampled; their spread is ``miou_sd_seeds``.
    Columns: those of `by`, miou, miou_lo, miou_hi, miou_sd_seeds, dice, dice_lo, dice_hi, n_cases
    (films), n_patients, n_seeds.
    """
    rows: list[dict[str, object]] = []
    for key, part in cases.groupby(list(by), sort=True, dropna=False):
        iou, dice = (contributions(part, value) for value in ("iou", "dice"))
        row: dict[str, object] = dict(zip(by, key, strict=True))
        row |= interval("miou", (float(iou.mean()), *bootstrap_interval(iou.mean(0))))
        row["miou_sd_seeds"] = iou.mean(1).std(ddof=1) if len(iou) > 1 else np.nan
        row |= interval("dice", (float(dice.mean()), *bootstrap_interval(dice.mean(0))))
        row["n_cases"] = part["image_id"].nunique()
        rows.append(row | dict(zip(("n_seeds", "n_patients"), iou.shape, strict=True)))
    columns = [*by, *bounds("miou"), "miou_sd_seeds", *bounds("dice")]
    return pd.DataFrame(rows, columns=[*columns, "n_cases", "n_patients", "n_seeds"])


def table1(
    cases: pd.DataFrame, runs: pd.DataFrame, not_run: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Arms x (task, network, training size), all weights tuned: mIoU and Dice.

    Only tuning "full" and `main_size` are shown. `summarise`'s columns without tuning, then lr (of
    several folds "0.003/0.01"), n_valid (films that rate and step were chosen by, the most of any
    fold) and status: "run", "upper bound, ..." or "not run: reason". Every arm but those of
    `arm_names.OPTIONAL` has a row in every block, run or not.
    """
    cases = main_size(cases)
    full, tuned = cases[cases["tuning"] == "full"], runs[runs["tuning"] == "full"]
    if full.empty:
        raise InputError("table 1: no case has tuning 'full'; fine-tune with it")
    grouped = tuned.groupby(SETTING, sort=True)
    rates = grouped["lr"].agg(lambda s: "/".join(f"{v:g}" for v in sorted(set(s))))
    chosen = pd.DataFrame({"lr": rates, "n_valid": grouped["n_valid"].max()}).reset_index()
    frame = summarise(full).merge(chosen, on=SETTING, how="left", validate="1:1")
    frame["status"] = np.where(frame["arm"] == "truth", UPPER_BOUND, "run")
    reasons = {"truth": f"no true masks ({UPPER_BOUND})"} | dict(not_run or {})
    block = ["task", "network", "n_train"]
    records: list[dict[Any, Any]] = frame.to_dict("records")
    for key, part in frame.groupby(block, sort=True):
        for arm in [a for a in ARMS if a not in {*part["arm"], *OPTIONAL}]:
            reason = reasons.get(arm, "not part of this profile")
            absent = {"tuning": "full", "arm": arm, "status": NOT_RUN + reason}
            records.append(dict(zip(block, key, strict=True)) | absent)
    frame = pd.DataFrame(records, columns=frame.columns)
    counts = dict.fromkeys(("n_cases", "n_patients", "n_seeds", "n_valid"), "Int64")
    return in_order(frame.astype(counts), *SETTING).drop(columns="tuning")


def table2(cases: pd.DataFrame, runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Tuning x arm per task: what is trained, how long it takes, what it gives, what it weighs.

    `main_size` alone is shown. Columns: task, network, n_train, tuning, arm, trainable_share
    (trainable / total weights), steps_own, seconds_own (mean over runs, to 95 % of the run's own
    best validation mIoU), steps_random (to 95 % of the best of random/full, same seed and fold;
    only if every run gets there), reached ("2/3" runs that do), miou, miou_lo, miou_hi, memory_mb
    (2^20 bytes that a training step holds, see `run.step_mb`), checkpoint_mb (10^6 bytes),
    n_cases, n_seeds.
    """
    grouped = runs.assign(share=runs["trainable"] / runs["total"]).groupby(SETTING, sort=True)
    cost = grouped.agg(
        trainable_share=("share", "mean"),
        memory_mb=("memory_mb", "mean"),
        checkpoint_mb=("checkpoint_bytes", "mean"),
    )
    cost["checkpoint_mb"] /= 1e6
    pace = speed(curves).groupby(SETTING, sort=True)
    fast = pace[["steps_own", "seconds_own"]].mean()
    hits = pace["steps_random"].agg(["count", "size", "mean"])
    fast["steps_random"] = hits["mean"].where(hits["count"] == hits["size"])
    fast["reached"] = hits["count"].astype(str) + "/" + hits["size"].astype(str)
    frame = summarise(main_size(cases))
    for part in (cost, fast):
        frame = frame.merge(part.reset_index(), on=SETTING, how="left")
    columns = [
        *SETTING, "trainable_share", "steps_own", "seconds_own", "steps_random", "reached",
        *bounds("miou"), "memory_mb", "checkpoint_mb", "n_cases", "n_seeds",
    ]  # fmt: skip
    return in_order(frame[columns], *SETTING)


def configurations(labels: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Every way of making labels that was tried: (factor, value, its per-case rows).

    The first is ("shipped", "shipped"). Subsets of the classifiers are listed one by one
    and averaged per film and finding over all subsets of one size.
    """
    tried = {(str(f), str(v)): part for (f, v), part in labels.groupby(["factor", "value"])}
    if ("shipped", "shipped") not in tried:
        raise InputError(
            "label_cases.csv.gz: no row of variant 'shipped'; run the labels stage again"
        )
    most = labels["n_classifiers"].max()
    fewer = labels[labels["factor"] == "classifiers"]
    for count, part in fewer.groupby("n_classifiers", sort=True):
        keys = ["image_id", "patient_id", "finding", "explainer", "n_classifiers"]
        mean = part.groupby(keys, as_index=False, sort=True)[["iou_matched", "hit"]].mean()
        tried["classifiers", f"any {count} of {most}"] = mean
    first = ["shipped", "classifiers", "explainer"]
    order = sorted(tried, key=lambda key: [*first, key[0]].index(key[0]))
    return [(*key, tried[key]) for key in order]


def table3(labels: pd.DataFrame) -> pd.DataFrame:
    """What the labels owe to what: each configuration alone, and paired with the shipped one.

    Columns: factor, value, explainer, n_classifiers, iou_matched, hit_rate, delta (minus shipped,
    over the films and findings that both have), n (films x findings), n_patients. Means are over
    findings (see `labels.summary.judged`) of means over films; intervals (_lo, _hi) are 95 %
    bootstraps over patients.
    """
    rows: list[dict[str, object]] = []
    setups = configurations(judged(labels))
    shipped = setups[0][2][["image_id", "finding", "iou_matched"]]
    for position, (factor, value, part) in enumerate(setups):
        row: dict[str, object] = {"factor": factor, "value": value}
        row |= {name: part[name].iloc[0] for name in ("explainer", "n_classifiers")}
        row |= interval("iou_matched", mean_interval(part, "iou_matched"))
        row["hit_rate"] = part.groupby("finding")["hit"].mean().mean()
        if position:
            both = part.merge(shipped, on=["image_id", "finding"], suffixes=("", "_shipped"))
            gap = both.assign(gap=both["iou_matched"] - both["iou_matched_shipped"])
            row |= interval("delta", mean_interval(gap, "gap"))
        rows.append(row | {"n": len(part), "n_patients": part["patient_id"].nunique()})
    columns = ["factor", "value", "explainer", "n_classifiers", *bounds("iou_matched"), "hit_rate"]
    frame = pd.DataFrame(rows, columns=[*columns, *bounds("delta"), "n", "n_patients"])
    return frame.astype(dict.fromkeys(("n_classifiers", "n", "n_patients"), "Int64"))


def several_sizes(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows under full tuning of tasks, networks and arms that were trained with several sizes."""
    full = cases[cases["tuning"] == "full"]
    counts = full.groupby(["task", "network", "arm"])["n_train"].transform("nunique")
    return full[counts > 1]


def table_sizes(cases: pd.DataFrame) -> pd.DataFrame:
    """DoLL at each number of training masks, and what it is ahead by; empty for one number.

    Columns: task, network, n_train; miou of doll with its interval over patients; the paired
    differences to `AGAINST` with 95 % intervals over seeds and patients (blank where the arm was
    not run); masks: how many the random arm needs to get where doll is; n_cases, n_seeds.
    """
    rows: list[dict[str, object]] = []
    kept = several_sizes(cases)
    blocks = [(t, *b) for t in TASKS for b in kept[kept["task"] == t].groupby("network")]
    for task, network, block in blocks:
        means = summarise(block).pivot(index="n_train", columns="arm", values="miou")
        for n, part in block.groupby("n_train", sort=True):
            arms = dict(list(part.groupby("arm")))
            if "doll" not in arms:
                continue
            own = summarise(arms["doll"]).iloc[0]
            row: dict[str, object] = {"task": task, "network": network, "n_train": n, "masks": ""}
            row |= {k: own[k] for k in (*bounds("miou"), "n_cases", "n_seeds")}
            for arm in AGAINST:
                effect = difference(arms["doll"], arms[arm]) if arm in arms else NO_EFFECT
                row |= interval(arm, effect)
            if "random" in means:
                sizes, random = means.index.to_numpy(np.float64), means["random"].to_numpy()
                row["masks"] = masks_needed(sizes, random, float(own["miou"]))
            rows.append(row)
    columns = ["task", "network", "n_train", *bounds("miou", *AGAINST)]
    return pd.DataFrame(rows, columns=[*columns, "masks", "n_cases", "n_seeds"])


def masks_needed(sizes: Floats, miou: Floats, target: float) -> str:
    """Number of masks at which a curve first reaches a target, as text.

    Between two sizes (ascending) linear in the logarithm of the number; "< 4" or "> 128" beyond
    the curve. Sizes of unknown mIoU (NaN) are passed over.
    """
    known = np.isfinite(miou)
    x, y = np.log(sizes[known]), miou[known]
    if not len(x):
        return ""
    if y[0] >= target:
        return f"{'≤' if y[0] == target else '<'} {sizes[known][0]:.0f}"
    above = np.flatnonzero(y >= target)
    if not len(above):
        return f"> {sizes[known][-1]:.0f}"
    i = int(above[0])
    at = x[i - 1] + (target - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
    return f"{np.exp(at):.0f}"


def at_the_edge(selection: pd.DataFrame) -> list[str]:
    """Notes that name the settings whose chosen learning rate is the last of its grid.

    A better rate may lie beyond it, so these rows may undersell their setting.
    """
    found: dict[str, list[str]] = {"lowest": [], "highest": []}
    for key, part in main_size(selection).groupby([*SETTING, "fold"], sort=True):
        chosen = part.loc[part["selected"], "lr"]
        name = f"{key[0]} {key[3]}/{key[4]}"
        for side, last in (("lowest", part["lr"].min()), ("highest", part["lr"].max())):
            if part["lr"].nunique() > 1 and (chosen == last).any() and name not in found[side]:
                found[side].append(name)
    return [
        f"Chosen rate is the {side} of its grid, so that a better one may lie beyond: "
        f"{', '.join(names)}."
        for side, names in found.items()
        if names
    ]


def numbered(
    number: int,
    frame: pd.DataFrame,
    profile: str,
    notes: Sequence[str] = (),
    reference: pd.DataFrame | None = None,
) -> Table:
    """Table 1, 2 or 3 with its caption; what is the same in all rows stands in the caption."""
    same = constant(frame, ("network", "n_train"))
    where = ""
    if len(same) == 2:
        where = f", {frame['network'].iloc[0]}, {frame['n_train'].iloc[0]} training films"
    runs = span(frame["n_seeds"].dropna()) if "n_seeds" in frame else ""
    films = span(frame["n_cases" if "n_cases" in frame else "n"].dropna())
    chosen_by = "validation films"
    if "n_valid" in frame and frame["n_valid"].notna().any():
        chosen_by = f"{span(frame['n_valid'].dropna())} further films with masks"
    interval = "brackets: 95 % bootstrap interval over patients"
    words = {
        1: "Pre-training arms, all weights tuned: mean IoU and Dice over foreground classes, mean "
        f"over {runs} seeds, {films} test films per task; {interval}. Learning rate and step "
        f"chosen on {chosen_by}, same budget for every arm.",
        2: f"What each tuning trains and what it gives: {runs} seeds, {films} test films per "
        f"task; {interval}. Steps and seconds (own) run to 95 % of the run's own best validation "
        "mIoU, steps (random) to 95 % of the best of the random arm tuned in full; reached: runs "
        "that get there; step: memory of one training step, counted from its tensors.",
        3: "What the labels owe to what: IoU with the truth at matched area, mean over findings; "
        f"{films} pairs of film and finding per row; delta: minus the shipped labels on the same "
        f"pairs; {interval}.",
    }
    return Table(
        frame,
        f"Table {number} (profile {profile}{where}). {words[number]}",
        hide=["miou_sd_seeds", "n_patients", "n_valid", *same],
        names=NAMES,
        digits=DIGITS,
        notes=notes,
        reference=reference,
    )


def efficiency(frame: pd.DataFrame, profile: str) -> Table:
    """`table_sizes` with its caption."""
    networks = ", ".join(sorted(set(frame["network"])))
    caption = (
        f"Label efficiency (profile {profile}, {networks}). mIoU after DoLL pre-training with n "
        "training masks, all weights tuned, with a 95 % bootstrap interval over patients; paired "
        "differences to other starts with 95 % intervals over seeds and patients; masks that a "
        "random start needs for the same mIoU (interpolated); "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films. Each start and size "
        "with the learning rate chosen for it on validation."
    )
    names = {"miou": "DoLL", "masks": "masks that random needs"}
    return Table(frame, caption, names=names | {arm: f"minus {arm}" for arm in AGAINST})


REFERENCE_COLUMNS = ["task", "class", "metric", "value", "source", "arxiv", "population", "tag"]
"""Of published numbers that stand beside ours, each with its source, and never among ours."""


def load_reference(tasks: Sequence[str], folder: Path = paths.REFERENCE) -> pd.DataFrame:
    """Published numbers of ``data/reference/*.csv`` for these tasks; other CSVs are passed over."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)
        if not set(REFERENCE_COLUMNS) <= set(frame):
            continue
        for row in np.flatnonzero(frame["source"].str.strip() == "")[:1]:
            raise InputError(f"{path}: row {row + 2} has no source; name it")
        found.append(frame[REFERENCE_COLUMNS])
    if not found:
        raise InputError(f"{folder}: no *.csv with columns {', '.join(REFERENCE_COLUMNS)}")
    every = pd.concat(found, ignore_index=True)
    return every[every["task"].isin(list(tasks))].reset_index(drop=True)
