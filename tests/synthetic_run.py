"""A made-up run folder with known effects, in the layout that the report reads.

No network is trained: every number is drawn around a mean that the caller chooses, so that a
test knows what a table or a verdict must say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.labels import summary
from dollkit.report import claims, page, results
from dollkit.report.rows import (
    CASE_COLUMNS,
    CURVE_COLUMNS,
    PRETRAINING_COLUMNS,
    SOURCES,
    Rows,
    check_cases,
    check_robust,
    write_csv,
)

Arrays = dict[str, Any]
UNION = 100_000
"""Pixels of truth or prediction in each row."""
CLASSES = {
    "lungs": ["lungs"],
    "infection": ["infection"],
    "organs": ["left lung", "right lung", "heart"],
}
GAIN = {"random": 0.0, "classifier": 0.02, "doll": 0.08, "shuffled": 0.03, "truth": 0.12}
CLASSIFIERS = ("convnet", "mobilenet", "resnet18")


def segmentation_cases(
    gain: Mapping[str, float] = GAIN,
    *,
    tasks: Sequence[str] = tuple(CLASSES),
    tunings: Mapping[str, float] | None = None,
    patients: int = 40,
    films: int = 1,
    seeds: int = 3,
    base: float = 0.7,
    noise: float = 0.03,
    rng: int = 0,
) -> pd.DataFrame:
    """Per-case rows: IoU = base + share of the arm's gain that the tuning keeps + noise.

    Args:
        tunings: tuning -> share of the gain kept; default full 1, adapter 0.9.
        noise: standard deviation per film, class and run; films also differ by 0.05.
    """
    draw = np.random.default_rng(rng)
    kept = {"full": 1.0, "adapter": 0.9} if tunings is None else tunings
    rows = []
    for task in tasks:
        level = draw.normal(0, 0.05, (patients, films, len(CLASSES[task])))
        for tuning, share in kept.items():
            for arm, plus in gain.items():
                for seed in range(seeds):
                    values = base + share * plus + level + draw.normal(0, noise, level.shape)
                    values = np.clip(values, 0.01, 0.99)
                    for (p, f, c), iou in np.ndenumerate(values):
                        rows.append((task, arm, tuning, seed, p, f, CLASSES[task][c], iou))
    names = ["task", "arm", "tuning", "seed", "patient_id", "film", "class", "iou"]
    frame = pd.DataFrame(rows, columns=names)
    tp = np.round(frame["iou"].to_numpy() * UNION).astype(int)
    frame["tp"], frame["fp"], frame["fn"] = tp, (UNION - tp) // 2, UNION - tp - (UNION - tp) // 2
    frame["iou"], frame["dice"] = tp / UNION, 2 * tp / (UNION + tp)
    frame["network"], frame["n_train"], frame["fold"] = "PSPNet", 16, 0
    films = frame[["task", "patient_id", "film"]].itertuples(index=False)
    frame["image_id"] = [f"{task}{p:04d}_{film}" for task, p, film in films]
    frame["patient_id"] = [f"{p:05d}" for p in frame["patient_id"]]
    return frame[CASE_COLUMNS]


def learning_curves(cases: pd.DataFrame) -> pd.DataFrame:
    """Saturating validation curves; doll rises twice as quickly."""
    draw = np.random.default_rng(0)
    key = ["task", "network", "arm", "tuning", "n_train", "seed", "fold"]
    runs = cases.groupby(key, as_index=False)["iou"].mean()
    runs["tau"] = 25.0 * (1 - 0.5 * (runs["arm"] == "doll"))
    runs["tau"] *= np.exp(draw.normal(0, 0.01, len(runs)))
    rows = runs.merge(pd.DataFrame({"step": np.arange(0, 201, 10)}), how="cross")
    rise = 1 - np.exp(-(rows["step"] + 1) / rows["tau"])
    rows = rows.assign(lr=0.01, seconds=0.1 * rows["step"], val_miou=rows["iou"] * rise)
    return rows[CURVE_COLUMNS]


def pretraining_rows() -> pd.DataFrame:
    """One row per pre-trained network, as pretraining.csv."""
    arms = {"doll": (0.44, 0.41), "shuffled": (0.11, 0.19), "truth": (1.0, 0.52)}
    return pd.DataFrame(
        [
            ("PSPNet", arm, "classifier", 400, 16, 800, 0, label, 0.5, own)
            for arm, (label, own) in arms.items()
        ],
        columns=PRETRAINING_COLUMNS,
    )


def run_rows(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per trained network, as runs.csv."""
    key = ["task", "network", "arm", "tuning", "n_train", "seed", "fold", "lr"]
    out = curves.groupby(key, as_index=False).agg(
        steps=("step", "max"), best_step=("step", "max"), best_val_miou=("val_miou", "max"),
        seconds=("seconds", "max"),
    )  # fmt: skip
    adapter = out["tuning"] == "adapter"
    out["trainable"] = np.where(adapter, 350_000, 10_000_000)
    out["total"] = np.where(adapter, 10_350_000, 10_000_000)
    out["memory_mb"] = np.where(adapter, 90.0, 160.0)
    out["checkpoint_bytes"] = 4 * out["trainable"]
    return out.assign(n_valid=16)


def selection_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Rates tried for each run, as selection.csv: the middle one is chosen, of doll the highest."""
    key = ["task", "network", "arm", "tuning", "n_train", "seed", "fold", "steps"]
    tried = [runs[key].assign(lr=0.01 * f, val_miou=0.5) for f in (0.25, 1, 4)]
    out = pd.concat(tried, ignore_index=True)
    best = out["arm"].map(lambda a: 0.04 if a == "doll" else 0.01)
    return out.assign(selected=out["lr"] == best)


def moved(cases: pd.DataFrame, plus: Any) -> pd.DataFrame:
    """The same films and truth, with so many more pixels found in each row."""
    tp, wrong = cases["tp"] + plus, cases["fp"] + cases["fn"] - plus
    scores = {"iou": tp / (tp + wrong), "dice": 2 * tp / (2 * tp + wrong)}
    return cases.assign(tp=tp, fn=cases["fn"] - plus, **scores)


def perturbed(plain: pd.DataFrame) -> pd.DataFrame:
    """Rows of perturbed films: a twentieth of the pixels found is lost."""
    full = plain[plain["tuning"] == "full"]
    lost = moved(full, -(full["tp"] // 20))
    return check_robust(lost.assign(perturbation="noise", level=20.0), "made up")


def label_cases(
    gap: float = 0.1, *, committee: float = 0.03, cam: float = -0.02, patients: int = 60
) -> pd.DataFrame:
    """Label quality: shipped labels ``gap`` above the prior, ``committee`` above single ones."""
    draw = np.random.default_rng(0)
    every = "+".join(CLASSIFIERS)
    setups = [("ig", every, 3, "shipped", 0.0)]
    setups += [("ig", c, 1, f"classifiers={c}", -committee) for c in CLASSIFIERS]
    pairs = [f"{a}+{b}" for i, a in enumerate(CLASSIFIERS) for b in CLASSIFIERS[i + 1 :]]
    setups += [("ig", two, 2, f"classifiers={two}", -committee / 2) for two in pairs]
    setups += [("gradcam", every, 3, "explainer=gradcam", cam)]
    setups += [("gradient", every, 3, "explainer=gradient", -0.05)]
    setups += [("ig", every, 3, "steps=4", -0.01), ("ig", every, 3, "smooth=0", -0.03)]
    frames = []
    patient = pd.Series(range(patients))
    for finding in PATHOLOGIES:
        prior = np.clip(draw.normal(0.2, 0.05, patients), 0.02, 0.9)
        of_film = pd.DataFrame(
            {"image_id": finding[:4] + patient.map("{:03d}".format), "finding": finding}
            | {"patient_id": patient.map("{:05d}".format), "iou_prior": prior, "area": prior / 3}
        )
        for explainer, names, count, variant, shift in setups:
            iou = np.clip(prior + gap + shift + draw.normal(0, 0.05, patients), 0, 1)
            row = of_film.assign(explainer=explainer, classifiers=names, n_classifiers=count)
            row = row.assign(iou_matched=iou, iou_label=iou, precision=iou, recall=iou)
            row = row.assign(hit=(iou > 0.25).astype(int), energy=iou / 2, iou_chance=0.05)
            frames.append(row.assign(variant=variant))
    out = pd.concat(frames, ignore_index=True)
    parts = out["variant"].str.partition("=")
    out["factor"], out["value"] = parts[0], parts[2].where(parts[2] != "", "shipped")
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    return out.sort_values(key, kind="stable", ignore_index=True)


def _blob(size: int, x: float, y: float, rx: float, ry: float) -> npt.NDArray[np.float64]:
    v, u = np.mgrid[0:size, 0:size] / size
    return np.asarray(((u - x) / rx) ** 2 + ((v - y) / ry) ** 2)


def label_examples(size: int = 64, n: int = 4) -> Arrays:
    """Arrays of labels/examples.npz, n films (noise) of each of six findings."""
    draw = np.random.default_rng(0)
    names = np.repeat([FINDINGS[i] for i in (4, 6, 8, 9, 10, 12)], n)
    places = draw.uniform(0.25, 0.75, (len(names), 2))
    slips = draw.normal(0, 0.05, (len(names), len(CLASSIFIERS), 2))
    truth = np.stack([_blob(size, x, y, 0.1, 0.13) < 1 for x, y in places])
    hot = [[_blob(size, *place, 0.1, 0.1) for place in x] for x in places[:, None] + slips]
    maps = np.exp(-np.array(hot)) + 0.2 * draw.random((*slips.shape[:2], size, size))
    mean = maps.mean(1) / maps.max((1, 2, 3))[:, None, None]
    label = np.select([mean > 0.5, mean > 0.3], [1, 255], 0).astype(np.uint8)
    return {
        "image": draw.integers(0, 256, truth.shape, np.uint8), "finding": names,
        "image_id": np.array([f"{name[:4]}{i % n}" for i, name in enumerate(names)]),
        "map": mean.astype(np.float32), "label": label, "truth": truth.astype(np.uint8),
        "iou": ((label == 1) & truth).sum((1, 2)) / ((label == 1) | truth).sum((1, 2)),
        "maps": maps.astype(np.float32), "classifiers": np.array(CLASSIFIERS),
        "probability": draw.uniform(0.1, 0.99, slips.shape[:2]).astype(np.float32),
    }  # fmt: skip


def task_examples(task: str, size: int = 64, n: int = 5) -> Arrays:
    """Arrays of finetune/<task>/examples.npz; arms with more gain follow the truth closer."""
    draw = np.random.default_rng(0)
    classes, arms = CLASSES[task], list(GAIN)

    def masks(slip: float) -> npt.NDArray[np.bool_]:
        places = [[(0.3 + 0.2 * k, 0.5) for k in range(len(classes))]] * n
        moved = np.array(places) + draw.normal(0, slip, (n, len(classes), 2))
        return np.array([[_blob(size, x, y, 0.15, 0.3) < 1 for x, y in film] for film in moved])

    truth, pred = masks(0), np.stack([masks(0.07 * (1 - 6 * GAIN[a])) for a in arms])
    both = (pred & truth).sum((-1, -2)) / (pred | truth).sum((-1, -2))
    return {
        "task": np.array(task), "network": np.array("pspnet"), "image_id": np.arange(n).astype(str),
        "image": draw.integers(0, 256, (n, size, size), np.uint8),
        "truth": truth.astype(np.uint8), "classes": np.array(classes), "arms": np.array(arms),
        "prediction": pred.astype(np.uint8), "iou": both.mean(-1),
    }  # fmt: skip


def classifier_rows() -> pd.DataFrame:
    """Rows of classifiers/<name>/metrics.csv, of every classifier."""
    key = [(name, f) for name in CLASSIFIERS for f in (*PATHOLOGIES, "macro")]
    frame = pd.DataFrame(key, columns=["classifier", "finding"])
    auroc = np.clip(np.random.default_rng(0).normal(0.9, 0.04, len(key)), 0.55, 0.98)
    frame = frame.assign(auroc=auroc, auroc_lo=auroc - 0.02, auroc_hi=auroc + 0.02)
    return frame.assign(ap=auroc - 0.3, n_pos=50, n=400)


def rows(patients: int = 6) -> Rows:
    """All rows of two tasks, one of them with two training sizes, with more digits than stored."""
    gain = {arm: GAIN[arm] for arm in ("random", "doll", "shuffled")}
    few = segmentation_cases(gain, tasks=["lungs", "organs"], patients=patients)
    many = segmentation_cases(
        gain, tasks=["lungs"], patients=patients, tunings={"full": 1.0}, base=0.75, rng=1
    )
    cases = check_cases(pd.concat([few, many.assign(n_train=64)], ignore_index=True))
    curves, labels = learning_curves(cases), label_cases(patients=8)
    runs = run_rows(curves)
    return Rows(
        classifiers=classifier_rows(),
        labels=summary.summarise(labels),
        cases=cases,
        label_cases=labels,
        curves=curves,
        runs=runs,
        selection=selection_rows(runs),
        robust=perturbed(cases),
        pretraining=pretraining_rows(),
        ablation=summary.ablation(labels),
        not_run={"imagenet": "no weights"},
    )


def losses(cases: pd.DataFrame) -> pd.DataFrame:
    """A table of losses: what per-case rows of labels hold of it, made-up numbers for the rest."""
    shipped = cases[cases["variant"] == "shipped"].groupby("finding")
    frame = shipped.agg(
        iou_label=("iou_label", "mean"), iou_area=("iou_matched", "mean"), n=("hit", "size")
    )
    names = ("iou_threshold", "iou_classifier", "iou_place", "iou_form")
    frame = frame.assign(**{k: 0.5 + i / 70 for i, k in enumerate(names)})
    mean = frame.mean().to_frame("mean").T.assign(n=frame["n"].sum())
    out = pd.concat([frame, mean]).rename_axis("finding").reset_index()
    return out.astype({"n": int})


def stored_profile(folder: Path) -> Path:
    """Results of `rows` as a run leaves them: rows, and what was made before they were rounded."""
    found, profile = rows(), folder.name
    lost = losses(found.label_cases)
    found.write(folder)
    tables = results.tables_of(found, profile) | results.label_tables_of(found, lost, profile)
    for name, table in tables.items():
        table.save(folder / name)
    verdicts = claims.evaluate(
        found.label_cases, found.cases, found.curves, found.runs, found.not_run
    )
    claims.write_claims(verdicts, folder, profile=profile, population="made-up films")
    drawn = results.figures_of(found, lost, profile)
    drawn["figure_s5"] = claims.figure_s5(verdicts, profile=profile)
    for name, figure in drawn.items():
        figure.save_text(folder / name)
    stages = {"data": {"parameters": {"source": "phantom", "data_dir": ""}}}
    record = {"profile": profile, "seconds": 61.0, "stages": stages}
    (folder / "provenance.json").write_text(json.dumps(record))
    (folder / "figure1.csv").write_text("panel\nfilm\n")
    page.write_index(folder)
    return folder


def _manifest(folder: Path, seconds: float, **more: object) -> None:
    content = {
        "profile": "synthetic", "parameters": {"seed": 0}, "seeds": [0, 1, 2], "seconds": seconds,
        "outputs": {"weights.safetensors": {"bytes": 1, "sha256": "ab" * 32}},
        "code": {"commit": "c0ffee", "modified": False, "files": {}}, "notes": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content | more))


def make_run(root: Path, found: Rows | None = None, *, size: int = 32) -> Path:
    """Write a run folder with these rows, and examples of films, and return its path."""
    run, found = root / "synthetic", found or rows()
    for name, column in (("classifiers", "classifier"), ("pretraining", "arm")):
        family, file = SOURCES[name].in_run.split("*/")
        for key, part in getattr(found, name).groupby(column):
            write_csv(part, run / family / str(key) / file)
            _manifest(run / family / str(key), 10.0)
    for name in ("labels", "label_cases"):
        write_csv(getattr(found, name), run / SOURCES[name].in_run)
    write_csv(found.ablation, run / "labels" / "ablation.csv")
    np.savez(run / "labels" / "examples.npz", **label_examples(size))
    _manifest(run / "labels", 20.0)
    for task in found.cases["task"].unique():
        folder = run / "finetune" / task
        for name in ("cases", "curves", "runs", "selection", "robust"):
            frame = getattr(found, name)
            write_csv(frame[frame["task"] == task], run / SOURCES[name].in_run.replace("*", task))
        np.savez(folder / "examples.npz", **task_examples(task, size))
        _manifest(folder, 30.0, notes={"not_run": found.not_run})
    return run
