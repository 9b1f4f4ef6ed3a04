"""A made-up profile as a run leaves it: rows, and tables and figures made before they were rounded.

The writers are those of notebooks 06 to 08, in their order.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from dollkit.labels import summary
from dollkit.report import (
    agreement,
    claims,
    claims_figure,
    figures,
    label_efficiency,
    label_tables,
    page,
    robustness,
    tables,
)
from dollkit.report import rows as cases
from tests import synthetic_run as synthetic

NOT_RUN = {"imagenet": "no weights"}


def segmentation() -> pd.DataFrame:
    """Per-case rows of two tasks, one of them with two training sizes."""
    gain = {arm: synthetic.GAIN[arm] for arm in ("random", "doll", "shuffled")}
    few = synthetic.segmentation_cases(gain, tasks=["lungs", "organs"], patients=6)
    many = synthetic.segmentation_cases(
        gain, tasks=["lungs"], patients=6, tunings={"full": 1.0}, base=0.75, rng=1
    )
    return cases.check_cases(pd.concat([few, many.assign(n_train=64)], ignore_index=True))


def labels() -> pd.DataFrame:
    """Per-case rows of labels with the columns that the labels' stage writes."""
    frame = synthetic.label_cases(patients=8)
    parts = frame["variant"].str.partition("=")
    frame["factor"], frame["value"] = parts[0], parts[2].where(parts[2] != "", "shipped")
    frame["energy"], frame["area"] = frame["iou_matched"] / 2, frame["iou_prior"] / 3
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    return frame.sort_values(key, kind="stable", ignore_index=True)


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of losses: what the rows hold of it, and made-up numbers for the rest."""
    shipped = rows[rows["variant"] == "shipped"].groupby("finding")
    frame = shipped.agg(
        iou_label=("iou_label", "mean"), iou_area=("iou_matched", "mean"), n=("hit", "size")
    )
    names = ("iou_threshold", "iou_classifier", "iou_place", "iou_form")
    frame = frame.assign(**{k: 0.5 + i / 70 for i, k in enumerate(names)})
    mean = frame.mean().to_frame("mean").T.assign(n=frame["n"].sum())
    out = pd.concat([frame, mean]).rename_axis("finding").reset_index()
    return out.astype({"n": int})


def shaken(plain: pd.DataFrame) -> pd.DataFrame:
    """Rows of perturbed films: a twentieth of the true area is lost."""
    lost = plain[plain["tuning"] == "full"].copy()
    gone = lost["tp"] // 20
    lost["tp"], lost["fn"] = lost["tp"] - gone, lost["fn"] + gone
    lost["iou"] = lost["tp"] / (lost["tp"] + lost["fp"] + lost["fn"])
    lost["dice"] = 2 * lost["tp"] / (2 * lost["tp"] + lost["fp"] + lost["fn"])
    return lost.assign(perturbation="noise", level=20.0)


def selection(runs: pd.DataFrame) -> pd.DataFrame:
    """Three rates tried for each run; the middle one is chosen, for doll the highest."""
    key = ["task", "network", "arm", "tuning", "n_train", "seed", "fold", "steps"]
    tried = [runs[key].assign(lr=0.01 * f, val_miou=0.5) for f in (0.25, 1, 4)]
    out = pd.concat(tried, ignore_index=True)
    best = out["arm"].map(lambda a: 0.04 if a == "doll" else 0.01)
    return out.assign(selected=out["lr"] == best)


def make(folder: Path) -> Path:
    """Write the profile's folder, and return it."""
    profile = folder.name
    plain, rows = segmentation(), labels()
    curves = synthetic.learning_curves(plain)
    runs = synthetic.run_rows(curves).assign(n_valid=16)
    chosen, broken, lost = selection(runs), shaken(plain), losses(rows)
    graded = pd.concat(
        [synthetic.classifier_rows(n, i) for i, n in enumerate(synthetic.CLASSIFIERS)]
    )
    quality, ablation = summary.summarise(rows), summary.ablation(rows)
    stored = {
        "cases.csv.gz": plain, "curves.csv.gz": curves, "runs.csv": runs, "selection.csv": chosen,
        "robust.csv.gz": broken, "classifiers.csv": graded, "label_cases.csv.gz": rows,
        "labels.csv": quality, "pretraining.csv": synthetic.pretraining_rows(),
    }  # fmt: skip
    for name, frame in stored.items():
        cases.write_csv(frame, folder / name)
    three = [
        tables.table1(plain, runs, NOT_RUN),
        tables.table2(plain, runs, curves),
        tables.table3(rows, ablation),
    ]
    notes = cases.at_the_edge(chosen)
    for number, table in enumerate(three, start=1):
        tables.write_numbered(number, table, folder, profile=profile, notes=notes)
    worth = label_tables.table(synthetic.pretraining_rows(), plain)
    label_tables.write(worth, folder, profile=profile)
    robustness.write(robustness.table(broken, plain), folder, profile=profile)
    label_efficiency.write(label_efficiency.table_sizes(plain), folder, profile=profile)
    label_tables.write_goals(summary.goals(rows, graded), folder, profile=profile)
    label_tables.write_losses(lost, folder, profile=profile)
    verdicts = claims.evaluate(rows, plain, curves, runs, NOT_RUN)
    claims.write_claims(verdicts, folder, profile=profile, population="made-up films")
    drawn = {
        "figure4": figures.figure4(curves, profile=profile),
        "figure5": label_efficiency.figure5(plain, profile=profile),
        "figure6": agreement.figure6(graded, quality, profile=profile),
        "figure_s1": figures.figure_s1(graded, quality, profile=profile),
        "figure_s3": figures.figure_s3(ablation, lost, profile=profile),
        "figure_s4": robustness.figure_s4(broken, plain, profile=profile),
        "figure_s5": claims_figure.figure_s5(verdicts, profile=profile),
    }
    for name, figure in drawn.items():
        cases.write_csv(figure.data, folder / f"{name}.csv")
        (folder / f"{name}.txt").write_text(figure.caption + "\n", encoding="utf-8")
    made = {"parameters": {"source": "phantom", "data_dir": ""}}
    record = {"profile": profile, "seconds": 61.0, "stages": {"data": made}}
    (folder / "provenance.json").write_text(json.dumps(record))
    (folder / "figure1.csv").write_text("panel\nfilm\n")
    (folder / "notes.txt").write_text("by hand\n")
    page.write_index(folder)
    return folder
