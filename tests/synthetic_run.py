"""A made-up run folder in the layout that the report reads, drawn around means that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.labels import summary
from dollkit.report import claims, page, results
from dollkit.report import rows as stored
from dollkit.training import metrics

Arrays = dict[str, Any]
CLASSES = {
    "lungs": ["lungs"],
    "infection": ["infection"],
    "organs": ["left lung", "right lung", "heart"],
}
TRAINED = stored.CASE_COLUMNS[:7]
UNION = 100_000
"""Pixels of truth or prediction in each row of a case."""

GAIN = {"random": 0.0, "classifier": 0.02, "doll": 0.08, "shuffled": 0.03, "truth": 0.12}
TUNINGS = {"full": 1.0, "adapter": 0.9}
"""Tuning: share of the gain that it keeps."""

CLASSIFIERS = ("convnet", "mobilenet", "resnet18")


def segmentation_cases(
    gain: Mapping[str, float] = GAIN, *, tasks: Sequence[str] = tuple(CLASSES),
    tunings: Mapping[str, float] = TUNINGS, patients: int = 40, films: int = 1, seeds: int = 3,
    base: float = 0.7, noise: float = 0.03, rng: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Per-case rows: IoU = base + share of the arm's gain that the tuning keeps + noise.

    Noise is a standard deviation per film, class and run; films also differ by 0.05.
    """
    draw = np.random.default_rng(rng)
    frames = []
    for task in tasks:
        level = draw.normal(0, 0.05, (patients, films, len(CLASSES[task])))
        patient, film, channel = np.indices(level.shape).reshape(3, -1)
        for tuning, arm, seed in product(tunings, gain, range(seeds)):
            values = base + tunings[tuning] * gain[arm] + level
            values = np.clip(values + draw.normal(0, noise, level.shape), 0.01, 0.99)
            where = {"task": task, "arm": arm, "tuning": tuning, "seed": seed}
            names = [f"{task}{p:04d}_{f}" for p, f in zip(patient, film, strict=True)]
            where |= {"image_id": names, "patient_id": [f"{p:05d}" for p in patient]}
            where |= {"class": np.array(CLASSES[task])[channel], "iou": values.ravel()}
            frames.append(pd.DataFrame(where))
    frame = pd.concat(frames, ignore_index=True).assign(network="PSPNet", n_train=16, fold=0)
    tp = np.round(frame["iou"].to_numpy() * UNION).astype(int)
    fp = (UNION - tp) // 2
    return judged(frame.assign(tp=tp, fp=fp, fn=UNION - tp - fp))[stored.CASE_COLUMNS]


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the IoU and Dice of their counts."""
    counts = [rows[c] for c in ("tp", "fp", "fn")]
    return rows.assign(iou=metrics.iou(*counts), dice=metrics.dice(*counts))


def learning_curves(cases: pd.DataFrame) -> pd.DataFrame:
    """Saturating validation curves; doll rises twice as quickly."""
    draw = np.random.default_rng(0)
    steps = np.arange(0, 201, 10)
    frames = []
    for values, part in cases.groupby(TRAINED):
        tau = 25.0 * (0.5 if values[2] == "doll" else 1.0) * np.exp(draw.normal(0, 0.01))
        height = float(part["iou"].mean()) * (1 - np.exp(-(steps + 1) / tau))
        curve = {"lr": 0.01, "step": steps, "seconds": 0.1 * steps, "val_miou": height}
        frames.append(pd.DataFrame(dict(zip(TRAINED, values, strict=True)) | curve))
    return pd.concat(frames, ignore_index=True)


def pretraining_rows() -> pd.DataFrame:
    """One row per pre-trained network, three of each arm but for the truth, as pretraining.csv."""
    arms = {"doll": (0.44, 0.41), "shuffled": (0.11, 0.19), "truth": (1.0, 0.52)}
    made = [
        ("PSPNet", arm, "classifier", 400, 16, 800, seed, iou, 0.5, own)
        for arm, (iou, own) in arms.items()
        for seed in range(1 if arm == "truth" else 3)
    ]
    return pd.DataFrame(made, columns=stored.PRETRAINING_COLUMNS)


def run_rows(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per trained network, as runs.csv."""
    out = curves.groupby([*TRAINED, "lr"], as_index=False).agg(
        steps=("step", "max"), best_step=("step", "max"), best_val_miou=("val_miou", "max"),
        seconds=("seconds", "max"),
    )  # fmt: skip
    adapter = out["tuning"] == "adapter"
    trainable = np.where(adapter, 350_000, 10_000_000)
    memory, total = np.where(adapter, 90.0, 160.0), np.where(adapter, 10_350_000, 10_000_000)
    out = out.assign(trainable=trainable, total=total, memory_mb=memory)
    return out.assign(checkpoint_bytes=4 * trainable, n_valid=16)


def selection_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Rates tried for each run, as selection.csv: the middle one is chosen, of doll the highest."""
    tried = [runs[[*TRAINED, "steps"]].assign(lr=0.01 * f, val_miou=0.5) for f in (0.25, 1, 4)]
    out = pd.concat(tried, ignore_index=True)
    best = out["arm"].map(lambda a: 0.04 if a == "doll" else 0.01)
    return out.assign(selected=out["lr"] == best)


def perturbed(plain: pd.DataFrame) -> pd.DataFrame:
    """Rows of perturbed films: a twentieth of the true area is lost."""
    lost = plain[plain["tuning"] == "full"].copy()
    gone = lost["tp"] // 20
    lost["tp"], lost["fn"] = lost["tp"] - gone, lost["fn"] + gone
    return stored.check_cases(judged(lost.assign(perturbation="noise", level=20.0)), "made up")


def label_cases(gap: float = 0.1, *, committee: float = 0.03, patients: int = 60) -> pd.DataFrame:
    """Label quality: shipped labels ``gap`` above the prior, ``committee`` above single ones."""
    draw = np.random.default_rng(0)
    every = "+".join(CLASSIFIERS)
    setups = [("ig", every, 3, "shipped", 0.0)]
    for n, loss in ((1, committee), (2, committee / 2)):
        subsets = map("+".join, combinations(CLASSIFIERS, n))
        setups += [("ig", names, n, f"classifiers={names}", -loss) for names in subsets]
    setups += [
        ("gradcam", every, 3, "explainer=gradcam", -0.02),
        ("gradient", every, 3, "explainer=gradient", -0.05),
        ("ig", every, 3, "steps=4", -0.01), ("ig", every, 3, "smooth=0", -0.03),
    ]  # fmt: skip
    frames = []
    for finding in PATHOLOGIES:
        prior = np.clip(draw.normal(0.2, 0.05, patients), 0.02, 0.9)
        for explainer, names, count, variant, shift in setups:
            iou = np.clip(prior + gap + shift + draw.normal(0, 0.05, patients), 0, 1)
            frames.append(pd.DataFrame({
                "image_id": [f"{finding[:4]}{p:03d}" for p in range(patients)],
                "patient_id": [f"{p:05d}" for p in range(patients)], "finding": finding,
                "explainer": explainer, "classifiers": names, "n_classifiers": count,
                "variant": variant, "iou_matched": iou, "iou_label": iou,
                "iou_chance": 0.05, "iou_prior": prior, "precision": iou, "recall": iou,
                "hit": (iou > 0.25).astype(int), "energy": iou / 2, "area": prior / 3,
            }))  # fmt: skip
    out = pd.concat(frames, ignore_index=True)
    parts = out["variant"].str.partition("=")
    out["factor"], out["value"] = parts[0], parts[2].where(parts[2] != "", "shipped")
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    return out.sort_values(key, kind="stable", ignore_index=True)


def _blob(size: int, x: float, y: float, rx: float, ry: float) -> npt.NDArray[np.float64]:
    v, u = np.mgrid[0:size, 0:size] / size
    return np.asarray(((u - x) / rx) ** 2 + ((v - y) / ry) ** 2)


def label_examples(size: int = 64, n: int = 4) -> Arrays:
    """Arrays of labels/examples.npz, n films of each of six findings."""
    draw = np.random.default_rng(0)
    cases: list[dict[str, object]] = []
    for finding, i in product([FINDINGS[k] for k in (4, 6, 8, 9, 10, 12)], range(n)):
        x, y, r = draw.uniform(0.25, 0.75), draw.uniform(0.3, 0.7), draw.uniform(0.06, 0.14)
        truth = _blob(size, x, y, r, 1.3 * r) < 1
        places = np.array([x, y]) + draw.normal(0, 0.05, (len(CLASSIFIERS), 2))
        single = np.exp([-_blob(size, *place, r, r) for place in places])
        single += 0.2 * draw.random(single.shape)
        map_ = single.mean(0) / single.max()
        label = np.where(map_ > 0.5, 1, np.where(map_ > 0.3, 255, 0)).astype(np.uint8)
        cases.append({
            "image": (draw.uniform(80, 120, truth.shape) + 50 * truth).astype(np.uint8),
            "finding": finding, "image_id": f"{finding[:4]}{i}", "label": label,
            "map": map_.astype(np.float32), "maps": single.astype(np.float32),
            "truth": truth.astype(np.uint8),
            "iou": ((label == 1) & truth).sum() / ((label == 1) | truth).sum(),
        })  # fmt: skip
    arrays = {key: np.array([case[key] for case in cases]) for key in cases[0]}
    arrays["classifiers"] = np.array(CLASSIFIERS)
    arrays["probability"] = draw.uniform(0.1, 0.99, arrays["maps"].shape[:2]).astype(np.float32)
    return arrays


def task_examples(task: str, size: int = 64, n: int = 5) -> Arrays:
    """Arrays of finetune/<task>/examples.npz; arms with more gain have fewer wrong pixels."""
    draw = np.random.default_rng(0)
    classes, arms = CLASSES[task], list(GAIN)
    truth = np.zeros((n, len(classes), size, size), bool)
    truth[..., size // 4 : size // 2, size // 4 : -size // 4] = True
    wrong = [draw.random(truth.shape) < 0.1 - 0.5 * GAIN[arm] for arm in arms]
    pred = truth ^ np.stack(wrong)
    return {
        "task": np.array(task), "network": np.array("pspnet"),
        "image": draw.integers(0, 256, (n, size, size), np.uint8),
        "image_id": np.array([f"{task}{i}" for i in range(n)]),
        "truth": truth.astype(np.uint8), "classes": np.array(classes), "arms": np.array(arms),
        "prediction": pred.astype(np.uint8),
        "iou": ((pred & truth).sum((-1, -2)) / (pred | truth).sum((-1, -2))).mean(-1),
    }  # fmt: skip


def classifier_rows(name: str, rng: int) -> pd.DataFrame:
    """Rows of classifiers/<name>/metrics.csv."""
    draw = np.random.default_rng(rng)
    names = [*PATHOLOGIES, "macro"]
    auroc = np.clip(draw.normal(0.9, 0.04, len(names)), 0.55, 0.99)
    frame = pd.DataFrame({"classifier": name, "finding": names, "auroc": auroc})
    frame["auroc_lo"], frame["auroc_hi"] = auroc - 0.02, np.minimum(auroc + 0.02, 1)
    return frame.assign(ap=auroc - 0.3, n_pos=50, n=400)


def difficulty_rows(probe: float = 0.6) -> pd.DataFrame:
    """Rows of difficulty.csv: what a probe without the diagnosis reaches."""
    ends = {"probe_auroc": probe, "probe_lo": probe - 0.05, "probe_hi": probe + 0.05}
    return pd.DataFrame({"finding": PATHOLOGIES, "linear_auroc": 0.7, **ends})


def rows() -> stored.Rows:
    """All rows of two tasks, one of them with two training sizes, with more digits than stored."""
    gain = {arm: GAIN[arm] for arm in ("random", "doll", "shuffled")}
    few = segmentation_cases(gain, tasks=["lungs", "organs"], patients=6)
    full = {"full": 1.0}
    many = segmentation_cases(gain, tasks=["lungs"], patients=6, tunings=full, base=0.75, rng=1)
    cases = stored.check_cases(pd.concat([few, many.assign(n_train=64)], ignore_index=True))
    curves, labels = learning_curves(cases), label_cases(patients=8)
    runs = run_rows(curves)
    graded = [classifier_rows(n, i) for i, n in enumerate(CLASSIFIERS)]
    return stored.Rows(
        classifiers=pd.concat(graded, ignore_index=True), labels=summary.summarise(labels),
        cases=cases, label_cases=labels, curves=curves, runs=runs, selection=selection_rows(runs),
        robust=perturbed(cases), pretraining=pretraining_rows(),
        difficulty=difficulty_rows(), ablation=summary.ablation(labels),
        not_run={"imagenet": "no weights"},
    )  # fmt: skip


def losses(cases: pd.DataFrame) -> pd.DataFrame:
    """A table of losses: what per-case rows of labels hold of it, made-up numbers for the rest."""
    frame = cases[cases["variant"] == "shipped"].groupby("finding").agg(
        iou_label=("iou_label", "mean"), iou_area=("iou_matched", "mean"), n=("hit", "size")
    )  # fmt: skip
    for i, name in enumerate(("iou_threshold", "iou_classifier", "iou_place", "iou_form")):
        frame[name] = 0.5 + i / 70
    frame.loc["mean"] = {**frame.mean(), "n": frame["n"].sum()}
    return frame.reset_index().astype({"n": int})


def stored_profile(folder: Path) -> Path:
    """Results of `rows` as a run leaves them: rows, and what was made before they were rounded."""
    found, profile = rows(), folder.name
    lost = losses(found.label_cases)
    found.write(folder)
    tables = results.tables_of(found, profile) | results.label_tables_of(lost, profile)
    for name, table in tables.items():
        table.save(folder / name)
    verdicts = claims.evaluate(found)
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
        "parameters": {"seed": 0}, "seconds": seconds, "notes": {},
        "outputs": {"weights.safetensors": {"bytes": 1, "sha256": "ab" * 32}},
        "code": {"commit": "c0ffee", "modified": False, "files": {}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content | more))


def make_run(root: Path, found: stored.Rows | None = None, *, size: int = 32) -> Path:
    """Write a run folder with these rows, and examples of films, and return its path."""
    run, found = root / "synthetic", found or rows()
    for name, column in (("classifiers", "classifier"), ("pretraining", "arm")):
        family, file = stored.SOURCES[name].in_run.split("*/")
        for key, part in getattr(found, name).groupby(column):
            stored.write_csv(part, run / family / str(key) / file)
            _manifest(run / family / str(key), 10.0)
    for name in ("labels", "label_cases"):
        stored.write_csv(getattr(found, name), run / stored.SOURCES[name].in_run)
    stored.write_csv(found.ablation, run / "labels" / "ablation.csv")
    stored.write_csv(found.difficulty, run / stored.SOURCES["difficulty"].in_run)
    np.savez(run / "labels" / "examples.npz", **label_examples(size))
    _manifest(run / "labels", 20.0)
    for task in found.cases["task"].unique():
        folder = run / "finetune" / task
        for name in ("cases", "curves", "runs", "selection", "robust"):
            frame, file = getattr(found, name), stored.SOURCES[name].in_run.replace("*", task)
            stored.write_csv(frame[frame["task"] == task], run / file)
        np.savez(folder / "examples.npz", **task_examples(task, size))
        _manifest(folder, 30.0, notes={"not_run": found.not_run})
    return run
