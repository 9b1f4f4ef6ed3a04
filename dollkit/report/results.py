"""All tables and figures of a profile from its rows, of a run or as stored."""

from __future__ import annotations

import pandas as pd

from dollkit.common import PRETRAINED
from dollkit.labels.summary import GROUPS, STEPS
from dollkit.report import curve_figures, robustness, tables
from dollkit.report.render import Table, constant, span
from dollkit.report.rows import Rows, difference, in_order, main_size
from dollkit.report.style import Drawn
from dollkit.report.tables import bounds, interval, summarise


def tables_of(rows: Rows, profile: str, *, reference: bool = False) -> dict[str, Table]:
    """Tables with rows, by the names of their files; published numbers go beside Table 1."""
    cases, notes = rows.cases, tables.at_the_edge(rows.selection)
    published = tables.load_reference(sorted(cases["task"].unique())) if reference else None
    found = {
        "table1": tables.table1(rows, profile, notes=notes, reference=published),
        "table2": tables.table2(rows, profile, notes=notes),
    }
    if len(rows.label_cases):
        found["table3"] = tables.table3(rows.label_cases, profile)
    found["table3_arms"] = worth_of_labels(rows.pretraining, cases, profile)
    found["table_starts"] = tables.table_starts(cases, profile)
    found["table_sizes"] = tables.table_sizes(cases, profile)
    if len(rows.robust):
        found["robustness"] = robustness.table(rows.robust, cases, profile)
    return {name: table for name, table in found.items() if len(table.frame)}


def label_tables_of(losses: pd.DataFrame | None, profile: str) -> dict[str, Table]:
    """Where there is a truth to judge labels by: `summary.losses`."""
    if losses is None:
        return {}
    caption = (
        f"Which step loses what (profile {profile}): IoU of the label, of labels that are told "
        "something by the truth, and of groups of films at matched area."
    )
    notes = [
        "Best threshold: of each film; best map: of the single classifiers and the consensus; "
        "box and form: somewhat wider than the truth.",
        "Called, missed: films to which the classifiers give a mean probability of at least, "
        "or below, one half; smallest, largest: thirds of each finding's films by size of the "
        "truth.",
    ]
    names = STEPS | {f"iou_{group}": group for group in GROUPS}
    return {"label_losses": Table(losses, caption, names=names, notes=notes)}


def figures_of(rows: Rows, losses: pd.DataFrame | None, profile: str) -> dict[str, Drawn]:
    """Figures that show no film, by the names of their files; `losses` as `label_tables_of`."""
    drawn = {"figure4": curve_figures.figure4(rows.curves, profile=profile)}
    if rows.cases["tuning"].nunique() >= curve_figures.MANY_TUNINGS:
        drawn["figure_s1"] = curve_figures.figure_s1(rows, profile=profile)
    if len(tables.several_sizes(rows.cases)):
        drawn["figure5"] = curve_figures.figure5(rows.cases, profile=profile)
    if len(rows.robust):
        drawn["figure_s4"] = robustness.figure_s4(rows.robust, rows.cases, profile=profile)
    graded = rows.classifiers, shipped_quality(rows), rows.difficulty
    drawn["figure6"] = curve_figures.figure6(*graded, profile=profile)
    if losses is not None:
        drawn["figure_s3"] = curve_figures.figure_s3(rows.ablation, losses, profile=profile)
    return drawn


def shipped_quality(rows: Rows) -> pd.DataFrame:
    """Rows of labels.csv about the labels as shipped: their explainer, all classifiers."""
    cases, labels = rows.label_cases, rows.labels
    explainers = cases.loc[cases["variant"] == "shipped", "explainer"]
    labels = labels[labels["explainer"].isin(explainers)]
    whole: pd.DataFrame = labels[labels["n_classifiers"] == labels["n_classifiers"].max()]
    return whole


def worth_of_labels(pretraining: pd.DataFrame, cases: pd.DataFrame, profile: str) -> Table:
    """The second part of Table 3: what each kind of labels is worth downstream.

    One row per network, task and arm that was taught labels of some kind: label_iou and true_iou
    (`rows.PRETRAINING_COLUMNS`), miou with its interval over patients, gap: mIoU of ``doll`` minus
    the arm's with a 95 % interval over seeds and patients. `main_size` and tuning "full" count.
    """
    full = main_size(cases[cases["tuning"] == "full"])
    iou = ["label_iou", "true_iou"]
    groups = pretraining.astype(dict.fromkeys(iou, float)).groupby(["network", "arm"])[iou]
    means = groups.mean().reset_index().merge(summarise(full), on=["network", "arm"])
    means = in_order(means[means["arm"].isin(PRETRAINED)], "network", "task", "arm")
    rows = []
    for row in means.to_dict("records"):
        block = full[(full["network"] == row["network"]) & (full["task"] == row["task"])]
        doll, other = (block[block["arm"] == arm] for arm in ("doll", row["arm"]))
        paired = row["arm"] != "doll" and len(doll)
        rows.append(row | (interval("gap", difference(doll, other)) if paired else {}))
    columns = ["network", "task", "arm", *iou, *bounds("miou", "gap"), "n_cases", "n_seeds"]
    frame = pd.DataFrame(rows, columns=columns)
    caption = (
        f"Table 3, continued (profile {profile}). Labels made in several ways, and what they are "
        "worth downstream: IoU of the labels with the truth on the films that they teach, of the "
        "network that they pre-trained on held-out films (mean over findings), and mIoU after "
        f"fine-tuning all weights, {span(frame['n_seeds'])} seeds, {span(frame['n_cases'])} test "
        "films; brackets: 95 % intervals, of differences over seeds and patients."
    )
    names = {"label_iou": "IoU of the labels", "true_iou": "IoU of the network"}
    names["gap"] = "DoLL minus it"
    return Table(frame, caption, hide=constant(frame, ("network",)), names=names)
