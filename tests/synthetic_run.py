"""A made-up run folder with known effects, in the layout that the report reads.

No network is trained: every number is drawn around a mean that the caller chooses, so that a
test knows what a table or a verdict must say.
"""

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
from dollkit.report.rows import (
    CASE_COLUMNS,
    PRETRAINING_COLUMNS,
    SOURCES,
    Rows,
    check_cases,
    write_csv,
)
from dollkit.training import metrics

Arrays = dict[str, Any]
CLASSES = {
    "lungs": ["lungs"],
    "infection": ["infection"],
    "organs": ["left lung", "right lung", "heart"],
}
TRAINED = CASE_COLUMNS[:7]
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
    seed_noise: float = 0.0,
    rng: int = 0,
) -> pd.DataFrame:
    """Per-case rows: IoU = base + share of the arm's gain that the tuning keeps + noise.

    Args:
        tunings: tuning -> share of the gain kept; default full 1, adapter 0.9.
        noise: standard deviation per film, class and run; films also differ by 0.05.
        seed_noise: standard deviation of each trained run.
    """
    draw = np.random.default_rng(rng)
    kept = {"full": 1.0, "adapter": 0.9} if tunings is None else tunings
    frames = []
    for task in tasks:
        level = draw.normal(0, 0.05, (patients, films, len(CLASSES[task])))
        patient, film, channel = np.indices(level.shape).reshape(3, -1)
        for tuning, arm, seed in product(kept, gain, range(seeds)):
            run = draw.normal(0, seed_noise) if seed_noise else 0.0
            values = base + kept[tuning] * gain[arm] + run + level
            values = np.clip(values + draw.normal(0, noise, level.shape), 0.01, 0.99)
            where = {
                "task": task,
                "arm": arm,
                "tuning": tuning,
                "seed": seed,
                "iou": values.ravel(),
            }
            names = [f"{task}{p:04d}_{f}" for p, f in zip(patient, film, strict=True)]
            where |= {"image_id": names, "patient_id": [f"{p:05d}" for p in patient]}
            frames.append(pd.DataFrame(where | {"class": np.array(CLASSES[task])[channel]}))
    frame = pd.concat(frames, ignore_index=True).assign(network="PSPNet", n_train=16, fold=0)
    union = 100_000
    tp = np.round(frame["iou"].to_numpy() * union).astype(int)
    frame["tp"], frame["fp"], frame["fn"] = tp, (union - tp) // 2, union - tp - (union - tp) // 2
    return frame.assign(iou=tp / union, dice=2 * tp / (union + tp))[CASE_COLUMNS]


def learning_curves(cases: pd.DataFrame, *, rng: int = 0, fast: float = 0.5) -> pd.DataFrame:
    """Saturating validation curves; doll rises ``1 / fast`` times as quickly."""
    draw = np.random.default_rng(rng)
    steps = np.arange(0, 201, 10)
    frames = []
    for values, part in cases.groupby(TRAINED):
        tau = 25.0 * (fast if values[2] == "doll" else 1.0) * np.exp(draw.normal(0, 0.01))
        height = float(part["iou"].mean()) * (1 - np.exp(-(steps + 1) / tau))
        curve = {"lr": 0.01, "step": steps, "seconds": 0.1 * steps, "val_miou": height}
        frames.append(pd.DataFrame(dict(zip(TRAINED, values, strict=True)) | curve))
    return pd.concat(frames, ignore_index=True)


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
    counts = [lost[c] for c in ("tp", "fp", "fn")]
    lost["iou"], lost["dice"] = metrics.iou(*counts), metrics.dice(*counts)
    return check_cases(lost.assign(perturbation="noise", level=20.0), "made up")


def label_cases(
    gap: float = 0.1, *, committee: float = 0.03, cam: float = -0.02, patients: int = 60,
    noise: float = 0.05, rng: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Label quality: shipped labels ``gap`` above the prior, ``committee`` above single ones."""
    draw = np.random.default_rng(rng)
    every = "+".join(CLASSIFIERS)
    setups = [("ig", every, 3, "shipped", 0.0)]
    for n, loss in ((1, committee), (2, committee / 2)):
        subsets = map("+".join, combinations(CLASSIFIERS, n))
        setups += [("ig", names, n, f"classifiers={names}", -loss) for names in subsets]
    setups += [("gradcam", every, 3, "explainer=gradcam", cam)]
    setups += [("gradient", every, 3, "explainer=gradient", -0.05)]
    setups += [("ig", every, 3, "steps=4", -0.01), ("ig", every, 3, "smooth=0", -0.03)]
    frames = []
    for finding in PATHOLOGIES:
        prior = np.clip(draw.normal(0.2, 0.05, patients), 0.02, 0.9)
        for explainer, names, count, variant, shift in setups:
            iou = np.clip(prior + gap + shift + draw.normal(0, noise, patients), 0, 1)
            frames.append(
                pd.DataFrame(
                    {"image_id": [f"{finding[:4]}{p:03d}" for p in range(patients)]}
                    | {"patient_id": [f"{p:05d}" for p in range(patients)], "finding": finding}
                    | {"explainer": explainer, "classifiers": names, "n_classifiers": count}
                    | {"variant": variant, "iou_matched": iou, "iou_label": iou}
                    | {"iou_chance": 0.05, "iou_prior": prior, "precision": iou, "recall": iou}
                    | {"hit": (iou > 0.25).astype(int), "energy": iou / 2, "area": prior / 3}
                )
            )
    out = pd.concat(frames, ignore_index=True)
    parts = out["variant"].str.partition("=")
    out["factor"], out["value"] = parts[0], parts[2].where(parts[2] != "", "shipped")
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    return out.sort_values(key, kind="stable", ignore_index=True)


def _blob(size: int, x: float, y: float, rx: float, ry: float) -> npt.NDArray[np.float64]:
    v, u = np.mgrid[0:size, 0:size] / size
    return np.asarray(((u - x) / rx) ** 2 + ((v - y) / ry) ** 2)


def _film(size: int, draw: np.random.Generator) -> npt.NDArray[np.float64]:
    grey = np.full((size, size), 175.0)
    for x in (0.3, 0.7):
        grey -= 115 * np.exp(-(_blob(size, x, 0.48, 0.17, 0.32) ** 3))
    grey += 60 * np.exp(-_blob(size, 0.55, 0.65, 0.16, 0.14))
    return grey + draw.normal(0, 5, grey.shape)


def _byte(x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.clip(x, 0, 255).astype(np.uint8)


def label_examples(size: int = 64, n: int = 4, *, rng: int = 0) -> Arrays:
    """Arrays of labels/examples.npz, n films of each of six findings."""
    draw = np.random.default_rng(rng)
    cases: list[dict[str, object]] = []
    for finding, i in product([FINDINGS[k] for k in (4, 6, 8, 9, 10, 12)], range(n)):
        x, y, r = draw.uniform(0.25, 0.75), draw.uniform(0.3, 0.7), draw.uniform(0.06, 0.14)
        truth = _blob(size, x, y, r, 1.3 * r) < 1
        single = [
            np.exp(-_blob(size, x + draw.normal(0, 0.05), y + draw.normal(0, 0.05), r, r))
            + 0.2 * draw.random((size, size))
            for _ in CLASSIFIERS
        ]
        map_ = np.mean(single, 0) / np.max(single)
        label = np.where(map_ > 0.5, 1, np.where(map_ > 0.3, 255, 0)).astype(np.uint8)
        cases.append({
            "image": _byte(_film(size, draw) + 50 * truth), "finding": finding,
            "image_id": f"{finding[:4]}{i}", "map": map_.astype(np.float32), "label": label,
            "truth": truth.astype(np.uint8), "maps": np.stack(single).astype(np.float32),
            "iou": ((label == 1) & truth).sum() / ((label == 1) | truth).sum(),
        })  # fmt: skip
    arrays = {key: np.array([case[key] for case in cases]) for key in cases[0]}
    arrays["classifiers"] = np.array(CLASSIFIERS)
    arrays["probability"] = draw.uniform(0.1, 0.99, arrays["maps"].shape[:2]).astype(np.float32)
    return arrays


def task_examples(task: str, size: int = 64, n: int = 5, rng: int = 0) -> Arrays:
    """Arrays of finetune/<task>/examples.npz; arms with more gain follow the truth closer."""
    draw = np.random.default_rng(rng)
    shapes = {"left lung": (0.7, 0.48, 0.15, 0.3), "right lung": (0.3, 0.48, 0.15, 0.3),
              "heart": (0.55, 0.65, 0.14, 0.12), "infection": (0.32, 0.66, 0.1, 0.12)}  # fmt: skip

    def draw_mask(name: str, slip: float) -> npt.NDArray[np.bool_]:
        if name == "lungs":
            return draw_mask("left lung", slip) | draw_mask("right lung", slip)
        x, y, rx, ry = shapes[name]
        moved = (x + draw.normal(0, slip), y + draw.normal(0, slip), rx, ry)
        return np.asarray(_blob(size, *moved) < 1)

    classes, arms = CLASSES[task], list(GAIN)
    image = np.stack([_byte(_film(size, draw)) for _ in range(n)])
    truth = np.stack([[draw_mask(c, 0.0) for c in classes] for _ in range(n)])
    slips = [0.07 * (1 - 6 * GAIN[a]) for a in arms]
    pred = np.stack([[[draw_mask(c, s) for c in classes] for _ in range(n)] for s in slips])
    both = (pred & truth).sum((-1, -2)) / (pred | truth).sum((-1, -2))
    return {
        "task": np.array(task), "network": np.array("pspnet"),
        "image": image, "image_id": np.array([f"{task}{i}" for i in range(n)]),
        "truth": truth.astype(np.uint8), "classes": np.array(classes), "arms": np.array(arms),
        "prediction": pred.astype(np.uint8), "iou": both.mean(-1),
    }  # fmt: skip


def classifier_rows(name: str, rng: int) -> pd.DataFrame:
    """Rows of classifiers/<name>/metrics.csv."""
    draw = np.random.default_rng(rng)
    names = [*PATHOLOGIES, "macro"]
    auroc = np.clip(draw.normal(0.9, 0.04, len(names)), 0.55, 0.99)
    frame = pd.DataFrame({"classifier": name, "finding": names, "auroc": auroc})
    frame["auroc_lo"], frame["auroc_hi"] = auroc - 0.02, np.minimum(auroc + 0.02, 1)
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
    graded = [classifier_rows(n, i) for i, n in enumerate(CLASSIFIERS)]
    return Rows(
        classifiers=pd.concat(graded, ignore_index=True),
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
    tables = results.tables_of(found, profile) | results.label_tables_of(found, lost, profile)
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
        "instance": folder.name, "profile": "synthetic", "parameters": {"seed": 0},
        "inputs": {}, "outputs": {"weights.safetensors": {"bytes": 1, "sha256": "ab" * 32}},
        "code": {"dollkit": "0", "commit": "c0ffee", "modified": False, "files": {}},
        "versions": {"numpy": "2"}, "python": "3.11", "platform": "test", "cpus": 2,
        "threads": 1, "device": "cpu", "precision": "float32", "seeds": [0, 1, 2],
        "started": "2024-01-01T00:00:00+00:00", "seconds": seconds, "notes": {},
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
