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
from dollkit.report.label_tables import COLUMNS
from dollkit.report.rows import ABLATION_COLUMNS, write_csv

Arrays = dict[str, Any]
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
    rows = []
    for task in tasks:
        level = draw.normal(0, 0.05, (patients, films, len(CLASSES[task])))
        for tuning, share in kept.items():
            for arm, plus in gain.items():
                for seed in range(seeds):
                    run = draw.normal(0, seed_noise) if seed_noise else 0.0
                    values = base + share * plus + run + level
                    values = np.clip(values + draw.normal(0, noise, level.shape), 0.01, 0.99)
                    for (p, f, c), iou in np.ndenumerate(values):
                        rows.append((task, arm, tuning, seed, p, f, CLASSES[task][c], iou))
    names = ["task", "arm", "tuning", "seed", "patient_id", "film", "class", "iou"]
    frame = pd.DataFrame(rows, columns=names)
    union = 100_000
    tp = np.round(frame["iou"].to_numpy() * union).astype(int)
    frame["tp"], frame["fp"], frame["fn"] = tp, (union - tp) // 2, union - tp - (union - tp) // 2
    frame["iou"] = tp / union
    frame["dice"] = 2 * tp / (union + tp)
    frame["network"], frame["n_train"], frame["fold"] = "PSPNet", 16, 0
    frame["image_id"] = [
        f"{t}{p:04d}_{f}"
        for t, p, f in zip(frame["task"], frame["patient_id"], frame["film"], strict=True)
    ]
    frame["patient_id"] = [f"{p:05d}" for p in frame["patient_id"]]
    order = [
        "task", "network", "arm", "tuning", "n_train", "seed", "fold",
        "image_id", "patient_id", "class", "tp", "fp", "fn", "iou", "dice",
    ]  # fmt: skip
    return frame[order]


def learning_curves(cases: pd.DataFrame, *, rng: int = 0, fast: float = 0.5) -> pd.DataFrame:
    """Saturating validation curves; doll rises ``1 / fast`` times as quickly."""
    draw = np.random.default_rng(rng)
    key = ["task", "network", "arm", "tuning", "n_train", "seed", "fold"]
    frames = []
    for values, part in cases.groupby(key):
        steps = np.arange(0, 201, 10)
        tau = 25.0 * (fast if values[2] == "doll" else 1.0) * np.exp(draw.normal(0, 0.01))
        top = float(part["iou"].mean())
        frames.append(
            pd.DataFrame(
                {**dict(zip(key, values, strict=True)), "lr": 0.01, "step": steps}
                | {"seconds": 0.1 * steps, "val_miou": top * (1 - np.exp(-(steps + 1) / tau))}
            )
        )
    return pd.concat(frames, ignore_index=True)


def pretraining_rows() -> pd.DataFrame:
    """One row per pre-trained network, as pretraining.csv."""
    arms = {"doll": (0.44, 0.41), "shuffled": (0.11, 0.19), "truth": (1.0, 0.52)}
    return pd.DataFrame(
        [
            ("PSPNet", arm, "classifier", 400, 16, 800, 0, label, 0.5, own)
            for arm, (label, own) in arms.items()
        ],
        columns=COLUMNS,
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
    """Rates tried with the first seed, as selection.csv: the chosen one and one on either side."""
    first = runs[runs["seed"] == runs["seed"].min()]
    tried = [
        first.assign(lr=first["lr"] * factor, val_miou=first["best_val_miou"], selected=factor == 1)
        for factor in (0.5, 1, 2)
    ]
    columns = ["task", "network", "arm", "tuning", "n_train", "seed", "fold", "lr", "steps"]
    return pd.concat(tried, ignore_index=True)[[*columns, "val_miou", "selected"]]


def label_cases(
    gap: float = 0.1, *, committee: float = 0.03, cam: float = -0.02, patients: int = 60,
    noise: float = 0.05, rng: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Label quality: shipped labels ``gap`` above the prior, ``committee`` above single ones."""
    draw = np.random.default_rng(rng)
    every = "+".join(CLASSIFIERS)
    setups = [("ig", every, 3, "shipped", 0.0)]
    setups += [("ig", c, 1, f"classifiers={c}", -committee) for c in CLASSIFIERS]
    pairs = [f"{a}+{b}" for i, a in enumerate(CLASSIFIERS) for b in CLASSIFIERS[i + 1 :]]
    setups += [("ig", two, 2, f"classifiers={two}", -committee / 2) for two in pairs]
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
                    | {"hit": (iou > 0.25).astype(int)}
                )
            )
    return pd.concat(frames, ignore_index=True)


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


def label_examples(size: int = 64, n: int = 4, *, maps: bool = True, rng: int = 0) -> Arrays:
    """Arrays of labels/examples.npz, n films of each of six findings."""
    draw = np.random.default_rng(rng)
    keys = ("image", "finding", "image_id", "map", "label", "truth", "iou", "maps")
    out: dict[str, list[object]] = {k: [] for k in keys}
    for finding in (FINDINGS[4], FINDINGS[6], FINDINGS[8], FINDINGS[9], FINDINGS[10], FINDINGS[12]):
        for i in range(n):
            x, y, r = draw.uniform(0.25, 0.75), draw.uniform(0.3, 0.7), draw.uniform(0.06, 0.14)
            truth = _blob(size, x, y, r, 1.3 * r) < 1
            single = [
                np.exp(-_blob(size, x + draw.normal(0, 0.05), y + draw.normal(0, 0.05), r, r))
                + 0.2 * draw.random((size, size))
                for _ in CLASSIFIERS
            ]
            map_ = np.mean(single, 0) / np.max(single)
            label = np.where(map_ > 0.5, 1, np.where(map_ > 0.3, 255, 0)).astype(np.uint8)
            iou = ((label == 1) & truth).sum() / ((label == 1) | truth).sum()
            shown = _film(size, draw) + 50 * truth
            values = (_byte(shown), finding, f"{finding[:4]}{i}", map_.astype(np.float32), label,
                      truth.astype(np.uint8), iou, np.stack(single).astype(np.float32))  # fmt: skip
            for key, value in zip(keys, values, strict=True):
                out[key].append(value)
    arrays = {k: np.array(v) for k, v in out.items()}
    arrays["classifiers"] = np.array(CLASSIFIERS)
    arrays["probability"] = draw.uniform(0.1, 0.99, arrays["maps"].shape[:2]).astype(np.float32)
    if not maps:
        del arrays["maps"], arrays["classifiers"], arrays["probability"]
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


def label_summary(cases: pd.DataFrame) -> pd.DataFrame:
    """labels.csv from per-case rows (intervals made up: +-0.01)."""
    rows = []
    whole = cases[cases["n_classifiers"] == 3]
    for (explainer, variant), part in whole.groupby(["explainer", "variant"]):
        for finding in [*PATHOLOGIES, "mean"]:
            p = part if finding == "mean" else part[part["finding"] == finding]
            m = p[["iou_matched", "iou_chance", "iou_prior", "precision", "recall", "hit"]].mean()
            rows.append(
                {"finding": finding, "explainer": explainer, "n_classifiers": 3}
                | {"iou_matched": m["iou_matched"], "iou_matched_lo": m["iou_matched"] - 0.01}
                | {"iou_matched_hi": m["iou_matched"] + 0.01, "iou_chance": m["iou_chance"]}
                | {"iou_prior": m["iou_prior"], "precision": m["precision"]}
                | {"recall": m["recall"], "hit_rate": m["hit"], "n": len(p), "variant": variant}
            )
    return pd.DataFrame(rows)


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


def make_run(root: Path, *, size: int = 64, maps: bool = True) -> Path:
    """Write a complete run folder and return its path."""
    run = root / "synthetic"
    for number, name in enumerate(CLASSIFIERS):
        folder = run / "classifiers" / name
        write_csv(classifier_rows(name, number), folder / "metrics.csv")
        _manifest(folder, 10.0)
    labels = label_cases()
    write_csv(labels, run / "labels" / "label_cases.csv.gz")
    write_csv(label_summary(labels), run / "labels" / "labels.csv")
    ablation = pd.DataFrame(
        [
            ("shipped", "shipped", 0.31, 0.3, 0.32, 0.7, 780, 0.0, 0.0, 0.0),
            ("steps", "4", 0.3, 0.29, 0.31, 0.7, 780, -0.01, -0.02, 0.01),
            ("baseline", "blur", 0.2, 0.1, 0.3, 0.6, 780, -0.11, -0.13, -0.09),
            ("threshold", "otsu", 0.31, 0.3, 0.32, 0.7, 780, 0.0, 0.0, 0.0),
        ],
        columns=ABLATION_COLUMNS,
    )
    write_csv(ablation, run / "labels" / "ablation.csv")
    np.savez(run / "labels" / "examples.npz", **label_examples(size, maps=maps))
    _manifest(run / "labels", 20.0)
    cases = segmentation_cases()
    curves = learning_curves(cases)
    runs = run_rows(curves)
    tried = selection_rows(runs)
    for task in CLASSES:
        folder = run / "finetune" / task
        write_csv(cases[cases["task"] == task], folder / "cases.csv.gz")
        write_csv(curves[curves["task"] == task], folder / "curves.csv")
        write_csv(runs[runs["task"] == task], folder / "runs.csv")
        write_csv(tried[tried["task"] == task], folder / "selection.csv")
        np.savez(folder / "examples.npz", **task_examples(task, size))
        _manifest(folder, 30.0, notes={"not_run": {"imagenet": "no weights"}})
    return run
