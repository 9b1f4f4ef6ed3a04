"""Tables 1-3 (pre-training, tuning, labels), label efficiency and robustness, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common import ARMS, OPTIONAL, paths
from dollkit.common.errors import InputError
from dollkit.common.statistics import Floats, bootstrap_interval, crossed_effect
from dollkit.finetuning.robustness import KINDS
from dollkit.labels.summary import judged, mean_interval
from dollkit.report.contrasts import crossing, speed
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import (
    NOT_RUN,
    SETTING,
    UNTOUCHED,
    Rows,
    aligned,
    contributions,
    difference,
    in_order,
    main_size,
)

BLOCK = ["task", "network", "n_train"]
UPPER_BOUND = "upper bound, phantom only"
INTERVAL = "brackets: 95 % bootstrap interval over patients"
AGAINST = ("random", "imagenet")  # starts that DoLL is compared with at each size


def bounds(*names: str) -> list[str]:
    """Columns of numbers and of the ends of their intervals."""
    return [f"{n}{s}" for n in names for s in ("", "_lo", "_hi")]


def interval(name: str, values: Sequence[float]) -> dict[str, object]:
    """A number and the ends of its interval, the first three values, by these columns."""
    return dict(zip(bounds(name), values, strict=False))


def summarise(cases: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """One row per setting: mIoU and Dice with 95 % bootstrap intervals over patients.

    Seeds are averaged before patients are resampled; n_cases counts films.
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


def _numbered(number: int, frame: pd.DataFrame, profile: str, words: str, **more: Any) -> Table:
    """Table 1, 2 or 3; what is the same in all rows stands in its caption."""
    same = constant(frame, ("network", "n_train"))
    where = ""
    if len(same) == 2:
        where = f", {frame['network'].iloc[0]}, {frame['n_train'].iloc[0]} training films"
    caption = f"Table {number} (profile {profile}{where}). {words}"
    hide = ["miou_sd_seeds", "n_patients", "n_valid", *same]
    return Table(frame, caption, hide, **more)


def table1(rows: Rows, profile: str, **more: Any) -> Table:
    """Arms x (task, network, training size), all weights tuned: mIoU and Dice.

    Only tuning "full" and `main_size` are shown. Beyond `summarise`: lr (of several folds
    "0.003/0.01"), n_valid (films that rate and step were chosen by, the most of any fold), status.
    Every arm but those of `common.OPTIONAL` has a row in every block, run or not.
    """
    full = main_size(rows.cases).query("tuning == 'full'")
    if full.empty:
        raise InputError("table 1: no case has tuning 'full'; fine-tune with it")
    grouped = rows.runs.groupby(SETTING, sort=True)
    rates = grouped["lr"].agg(lambda s: "/".join(f"{v:g}" for v in sorted(set(s))))
    chosen = pd.DataFrame({"lr": rates, "n_valid": grouped["n_valid"].max()}).reset_index()
    frame = summarise(full).merge(chosen, on=SETTING, how="left", validate="1:1")
    frame["status"] = np.where(frame["arm"] == "truth", UPPER_BOUND, "run")
    always = pd.DataFrame({"arm": [arm for arm in ARMS if arm not in OPTIONAL]})
    always = frame[BLOCK].drop_duplicates().merge(always, how="cross")
    frame = frame.drop(columns="tuning").merge(always, on=[*BLOCK, "arm"], how="outer")
    absent = NOT_RUN + frame["arm"].map(rows.not_run).fillna("not part of this profile")
    frame["status"] = frame["status"].fillna(absent)
    counts = dict.fromkeys(("n_cases", "n_patients", "n_seeds", "n_valid"), "Int64")
    frame = in_order(frame.astype(counts), *BLOCK, "arm")
    words = (
        "Pre-training arms, all weights tuned: mean IoU and Dice over foreground classes, mean "
        f"over {span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films per task; "
        f"{INTERVAL}. Learning rate and step chosen on {span(frame['n_valid'])} further films with "
        "masks, same budget for every arm."
    )
    return _numbered(1, frame, profile, words, **more)


def table2(rows: Rows, profile: str, **more: Any) -> Table:
    """Tuning x arm per task: what is trained, how long it takes, what it gives, what it weighs.

    `main_size` alone is shown. Steps and seconds are means over runs, see `speed`; steps_random
    only if every run gets there, reached says how many do. memory_mb: 2^20 bytes that a training
    step holds, see `run.step_mb`; checkpoint_mb: 10^6 bytes.
    """
    share = rows.runs["trainable"] / rows.runs["total"]
    cost = rows.runs.assign(trainable_share=share, checkpoint_mb=rows.runs["checkpoint_bytes"])
    cost["step_seconds"] = cost["seconds"] / cost["steps"]
    shown = ["trainable_share", "memory_mb", "step_seconds", "checkpoint_mb"]
    cost = cost.groupby(SETTING)[shown].mean()
    cost["checkpoint_mb"] /= 1e6
    pace = speed(rows.curves).groupby(SETTING)
    hits = pace["steps_random"].agg(["count", "size", "mean"])
    fast = pace[["steps_own", "seconds_own"]].mean()
    fast["steps_random"] = hits["mean"].where(hits["count"] == hits["size"])
    fast["reached"] = hits["count"].astype(str) + "/" + hits["size"].astype(str)
    frame = summarise(main_size(rows.cases)).join(cost, on=SETTING).join(fast, on=SETTING)
    columns = [
        *SETTING, "trainable_share", "steps_own", "seconds_own", "steps_random", "reached",
        *bounds("miou"), *shown[1:], "n_cases", "n_seeds",
    ]  # fmt: skip
    words = (
        f"What each tuning trains and what it gives: {span(frame['n_seeds'])} seeds, "
        f"{span(frame['n_cases'])} test films per task; {INTERVAL}. Steps and seconds (own) run to "
        "95 % of the run's own best validation mIoU, steps (random) to 95 % of the best of the "
        "random arm tuned in full; reached: runs that get there; step: memory of one training "
        "step, counted from its tensors, and its seconds, validation included."
    )
    return _numbered(2, in_order(frame[columns], *SETTING), profile, words, **more)


def table3(labels: pd.DataFrame, profile: str) -> Table:
    """What the labels owe to what: each configuration alone, and paired with the shipped one.

    delta: minus shipped, over the n films x findings that both have. Means are over findings (see
    `labels.summary.judged`) of means over films; intervals are 95 % bootstraps over patients.
    Subsets of the classifiers are listed, and averaged per film and finding over those of one size.
    """
    labels = judged(labels)
    tried = {(str(f), str(v)): part for (f, v), part in labels.groupby(["factor", "value"])}
    if ("shipped", "shipped") not in tried:
        raise InputError(
            "label_cases.csv.gz: no row of variant 'shipped'; run the labels stage again"
        )
    most = labels["n_classifiers"].max()
    for count, part in labels[labels["factor"] == "classifiers"].groupby("n_classifiers"):
        keys = ["image_id", "patient_id", "finding", "explainer", "n_classifiers"]
        mean = part.groupby(keys, as_index=False)[["iou_matched", "hit"]].mean()
        tried["classifiers", f"any {count} of {most}"] = mean
    first = ["shipped", "classifiers", "explainer"]
    shipped = tried["shipped", "shipped"][["image_id", "finding", "iou_matched"]]
    rows: list[dict[str, object]] = []
    for factor, value in sorted(tried, key=lambda key: [*first, key[0]].index(key[0])):
        part = tried[factor, value]
        row: dict[str, object] = {"factor": factor, "value": value}
        row |= {name: part[name].iloc[0] for name in ("explainer", "n_classifiers")}
        row |= interval("iou_matched", mean_interval(part, "iou_matched"))
        row["hit_rate"] = part.groupby("finding")["hit"].mean().mean()
        if factor != "shipped":
            both = part.merge(shipped, on=["image_id", "finding"], suffixes=("", "_shipped"))
            gap = both.assign(gap=both["iou_matched"] - both["iou_matched_shipped"])
            row |= interval("delta", mean_interval(gap, "gap"))
        rows.append(row | {"n": len(part), "n_patients": part["patient_id"].nunique()})
    columns = ["factor", "value", "explainer", "n_classifiers", *bounds("iou_matched"), "hit_rate"]
    frame = pd.DataFrame(rows, columns=[*columns, *bounds("delta"), "n", "n_patients"])
    frame = frame.astype(dict.fromkeys(("n_classifiers", "n", "n_patients"), "Int64"))
    words = (
        "What the labels owe to what: IoU with the truth at matched area, mean over findings; "
        f"{span(frame['n'])} pairs of film and finding per row; delta: minus the shipped labels on "
        f"the same pairs; {INTERVAL}."
    )
    return _numbered(3, frame, profile, words, names={"n": "pairs"})


STARTS = {
    "random": ("doll_random", "shuffled_random"), "imagenet": ("doll_imagenet", ""),
    "classifier": ("doll", "shuffled"),
}  # fmt: skip
"""Where a backbone comes from, and the arms that are pre-trained from there: on DoLL, and on the
labels of other films."""


def table_starts(cases: pd.DataFrame, pretraining: pd.DataFrame, profile: str) -> Table:
    """Backbone x dense pre-training: what each ingredient gives; empty but for several backbones.

    alone, with_doll: mIoU; gain: the second minus the first; diagnosis: on DoLL minus on the labels
    of other films. Intervals of differences are over seeds and patients.
    """
    full = main_size(cases[cases["tuning"] == "full"])
    began = pretraining.groupby("arm")["start"].first().to_dict()
    rows: list[dict[str, object]] = []
    for (task, network), part in full.groupby(["task", "network"]):
        arms = dict(list(part.groupby("arm")))
        for start, (doll, shuffled) in STARTS.items():
            if not {start, doll} <= set(arms) or began.get(doll, start) != start:
                continue
            row: dict[str, object] = {"task": task, "network": network, "start": start}
            for column, arm in (("alone", start), ("with_doll", doll)):
                iou = contributions(arms[arm], "iou")
                row |= interval(column, (float(iou.mean()), *bootstrap_interval(iou.mean(0))))
            row |= interval("gain", difference(arms[doll], arms[start]))
            if shuffled in arms:
                row |= interval("diagnosis", difference(arms[doll], arms[shuffled]))
            counts = {"n_cases": part["image_id"].nunique(), "n_seeds": part["seed"].nunique()}
            rows.append(row | counts)
    columns = ["task", "network", "start", *bounds("alone", "with_doll", "gain", "diagnosis")]
    frame = pd.DataFrame(rows, columns=[*columns, "n_cases", "n_seeds"])
    if frame["start"].nunique() < 2:
        frame = frame[:0]
    caption = (
        f"What each ingredient gives (profile {profile}). mIoU of a network whose backbone starts "
        "at random, from ImageNet or from the classifier, alone and after pre-training on DoLL; "
        "gain: their difference; diagnosis: DoLL minus the labels of other films, from the same "
        f"start. {span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films; brackets: "
        "95 % intervals, of differences over seeds and patients."
    )
    return Table(frame, caption, hide=constant(frame, ("network",)), names={"alone": "mIoU alone"})


def several_sizes(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows under full tuning of tasks, networks and arms that were trained with several sizes."""
    full = cases[cases["tuning"] == "full"]
    counts = full.groupby(["task", "network", "arm"])["n_train"].transform("nunique")
    return full[counts > 1]


def table_sizes(cases: pd.DataFrame, profile: str) -> Table:
    """DoLL at each number of training masks, and what it is ahead by; empty for one number.

    miou of doll has its interval over patients, the paired differences to `AGAINST` over seeds and
    patients (blank where the arm was not run); masks: what random needs to get where doll is.
    """
    cases = several_sizes(cases)
    means = summarise(cases)
    rows: list[dict[str, object]] = []
    doll: Any = in_order(means[means["arm"] == "doll"], *SETTING).to_dict("records")
    for row in doll:
        block = (cases["task"] == row["task"]) & (cases["network"] == row["network"])
        arms = dict(list(cases[block & (cases["n_train"] == row["n_train"])].groupby("arm")))
        for arm in [arm for arm in AGAINST if arm in arms]:
            row |= interval(arm, difference(arms["doll"], arms[arm]))
        same = (means["task"] == row["task"]) & (means["network"] == row["network"])
        random = means[same & (means["arm"] == "random")]
        sizes, miou = random[["n_train", "miou"]].to_numpy(np.float64).T
        rows.append(row | {"masks": masks_needed(sizes, miou, row["miou"])})
    columns = ["task", "network", "n_train", *bounds("miou", *AGAINST)]
    frame = pd.DataFrame(rows, columns=[*columns, "masks", "n_cases", "n_seeds"])
    caption = (
        f"Label efficiency (profile {profile}, {', '.join(sorted(set(frame['network'])))}). mIoU "
        "after DoLL pre-training with n training masks, all weights tuned, with a 95 % bootstrap "
        "interval over patients; paired differences to other starts with 95 % intervals over seeds "
        "and patients; masks that a random start needs for the same mIoU (interpolated); "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films. Each start and size "
        "with the learning rate chosen for it on validation."
    )
    names = {"miou": "DoLL", "random": "minus random", "imagenet": "minus ImageNet"}
    return Table(frame, caption, names=names | {"masks": "masks that random needs"})


def masks_needed(sizes: Floats, miou: Floats, target: float) -> str:
    """Number of masks at which a curve first reaches a target, as text.

    Between two sizes (ascending) linear in the logarithm of the number; "< 4" or "> 128" beyond
    the curve. Sizes of unknown mIoU (NaN) are passed over.
    """
    sizes, miou = sizes[np.isfinite(miou)], miou[np.isfinite(miou)]
    if not len(sizes):
        return ""
    at = crossing(miou, target)
    if at == 0:
        return f"< {sizes[0]:.0f}"
    if np.isnan(at):
        return f"> {sizes[-1]:.0f}"
    return f"{np.exp(np.interp(at, range(len(sizes)), np.log(sizes))):.0f}"


def at_the_edge(selection: pd.DataFrame) -> list[str]:
    """Notes that name the settings whose chosen learning rate is the last of its grid."""
    tried = main_size(selection).sort_values([*SETTING, "fold"], kind="stable")
    rates = tried.groupby([*SETTING, "fold"])["lr"]
    ends = {"lowest": rates.transform("min"), "highest": rates.transform("max")}
    chosen = tried["selected"] & (ends["lowest"] < ends["highest"])
    names = tried["task"] + " " + tried["tuning"] + "/" + tried["arm"]
    found = {side: names[chosen & (tried["lr"] == end)].unique() for side, end in ends.items()}
    return [
        f"Chosen rate is the {side} of its grid, so that a better one may lie beyond: "
        f"{', '.join(settings)}."
        for side, settings in found.items()
        if len(settings)
    ]


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


# What perturbed test films cost each arm. Films, seeds and patients are paired throughout: an arm's
# drop is taken on the same films of the same networks, and its difference from the random start's
# drop on the same seeds too.


CELL = [*BLOCK, "perturbation", "level", "arm"]
IDENTITY = {name: kind.identity for name, kind in KINDS.items()}


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by task, network, size, perturbation, strength of the level and arm."""
    strength = (frame["level"] - frame["perturbation"].map(IDENTITY)).abs()
    order = [*BLOCK, "perturbation", "strength", "level", "arm"]
    return in_order(frame.assign(strength=strength), *order).drop(columns="strength")


def table_robustness(rows: pd.DataFrame, plain: pd.DataFrame, profile: str) -> Table:
    """mIoU under each perturbation, what it costs, and whether it costs the random start more.

    One row per perturbation, level (NaN: untouched) and arm of tuning "full", the untouched films
    first: miou as `summarise`; drop (untouched minus perturbed); drop_vs_random (the arm's drop
    minus that of the random start). Intervals of drops: 95 %, patients and seeds both random.

    Args:
        rows, plain: per-case rows of the perturbed and of the untouched films.
    """
    trained = [*BLOCK, "arm"]
    rows, plain = (f[f["tuning"] == "full"] for f in (rows, plain))
    untouched = rows[trained].drop_duplicates().merge(plain, on=trained, how="left")
    for lost in untouched[untouched["image_id"].isna()][:1].to_dict("records"):
        raise InputError(
            f"robustness: {lost['task']}, {lost['network']}, {lost['n_train']} training films, arm "
            f"{lost['arm']!r} has no rows of the untouched films; run its fine-tuning again"
        )
    every = pd.concat([rows, untouched.assign(perturbation=UNTOUCHED, level=np.nan)])
    before = dict(list(untouched.groupby(trained)))
    drops: list[dict[str, object]] = []
    for key, part in rows.groupby(CELL[:-1]):
        pairs = {arm: (before[*key[:3], arm], own) for arm, own in part.groupby("arm")}
        for arm, pair in pairs.items():
            row: dict[str, object] = dict(zip(CELL, (*key, arm), strict=True))
            row |= interval("drop", difference(*pair))
            if arm != "random" and "random" in pairs:
                (a, b, c, d), _, _ = aligned([*pair, *pairs["random"]])
                row |= interval("drop_vs_random", crossed_effect((a - b) - (c - d)))
            drops.append(row)
    frame = summarise(every, CELL).merge(pd.DataFrame(drops), on=CELL, how="left")
    columns = [*CELL, *bounds("miou", "drop", "drop_vs_random"), "n_cases", "n_patients", "n_seeds"]
    frame = _ordered(frame.reindex(columns=columns))
    levels = [None if np.isnan(v) else f"{v:g}" for v in frame["level"].tolist()]
    caption = (
        f"Robustness (profile {profile}). Pre-training arms, all weights tuned on untouched films, "
        f"on perturbed test films: mean IoU over foreground classes, mean over "
        f"{span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test films per task; "
        "brackets: 95 % bootstrap interval over patients. Drop: untouched minus perturbed, the "
        "same films and networks, its interval over patients and seeds."
    )
    notes = [
        f"Levels: {_meanings(frame)}.",
        "Drop minus random's: the arm's drop minus that of the random start, paired by film and "
        "seed; negative where the arm loses less. No correction is made for the number of rows.",
    ]
    return Table(
        frame.assign(level=pd.Series(levels, dtype="object")),  # as written, without decimals
        caption,
        hide=["n_patients", *constant(frame, ("network", "n_train"))],
        names={"drop_vs_random": "drop minus random's"},
        notes=notes,
    )


def _meanings(frame: pd.DataFrame) -> str:
    """What each perturbation does and the levels that `frame` has, as a sentence."""
    shown = _ordered(frame[frame["level"] != frame["perturbation"].map(IDENTITY)])
    levels = shown.dropna(subset="level").groupby("perturbation", sort=False)["level"].unique()
    return "; ".join(
        f"{name}: {KINDS[str(name)].meaning} ({', '.join(f'{v:g}' for v in values)})"
        for name, values in levels.items()
    )
