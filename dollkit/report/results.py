"""All tables and figures of a profile from its rows, of a run or as stored."""

from __future__ import annotations

import pandas as pd

from dollkit.labels.summary import GROUPS, STEPS
from dollkit.report import curve_figures, tables
from dollkit.report.render import Table
from dollkit.report.rows import Rows, main_size, with_draws
from dollkit.report.style import Drawn


def tables_of(rows: Rows, profile: str, *, reference: bool = False) -> dict[str, Table]:
    """Tables with rows, by the names of their files; published numbers go beside Table 1."""
    notes = tables.at_the_edge(rows.selection)
    cases, robust = (with_draws(f, rows.pretraining) for f in (rows.cases, rows.robust))
    published = tables.load_reference(sorted(cases["task"].unique())) if reference else None
    found = {
        "table1": tables.table1(rows, profile, notes=notes, reference=published),
        "table2": tables.table2(rows, profile, notes=notes),
    }
    if len(rows.label_cases):
        found["table3"] = tables.table3(rows.label_cases, profile)
    found["table_starts"] = tables.table_starts(cases, rows.pretraining, profile)
    found["table_sizes"] = tables.table_sizes(cases, profile)
    if len(rows.robust):
        found["robustness"] = tables.table_robustness(robust, cases, profile)
    return {name: table for name, table in found.items() if len(table.frame)}


def label_tables_of(losses: pd.DataFrame | None, profile: str) -> dict[str, Table]:
    """Where there is a truth to judge labels by: `summary.losses`."""
    if losses is None:
        return {}
    caption = (
        f"Which step loses what (profile {profile}): IoU of the label, of labels that use part of "
        "the truth, and of groups of films at matched area."
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
    tunings = main_size(rows.cases).groupby(["task", "network"])["tuning"].nunique()
    if tunings.max() >= curve_figures.MANY_TUNINGS:
        drawn["figure_s1"] = curve_figures.figure_s1(rows, profile=profile)
    if len(tables.several_sizes(rows.cases)):
        drawn["figure5"] = curve_figures.figure5(rows.cases, profile=profile)
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
