"""What chance do the open pack's real films give a label maker? Matching, more films, other starts.

``python -m benchmarks.real_films DATA [--run laptop]`` trains EfficientNet-Lite0 on Pneumonia in
several ways, explains it on the test films that have a box, and writes
``figures/across/real_films``: a row per way with the AUROC of network and probe, on all test films
and on pairs matched by view and patient number (among which acquisition tells nothing), and the
labels' IoU with the boxes at matched area beside chance and the mean box. Then, from the spread
over patients that was measured, how many boxed patients would tell labels from the mean box.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from dollkit import data
from dollkit.common import compute, paths
from dollkit.common.findings import FINDINGS
from dollkit.common.statistics import paired, patient_values
from dollkit.data.film_table import blank_films
from dollkit.data.images import fit, load_image
from dollkit.data.sets.nih import NIH_FINDINGS, nih_states
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.explanations.ensemble import ExplainerSettings, explain_all
from dollkit.labels.maps_to_labels import LabelSettings, maps_to_labels
from dollkit.report.render import Table
from dollkit.training import classifiers, metrics, published_weights, shortcuts
from dollkit.training.augment import Augmentation
from dollkit.training.loss_and_optimiser import Recipe

ENCODER = "tu-tf_efficientnet_lite0"
FINDING = "Pneumonia"
SEEDS = (0, 1, 2)
APART = 1000  # most that the patient numbers of a matched pair differ by
EFFECT = 0.05  # IoU above the mean box that would be worth having

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Way:
    """How the classifier comes about: its start, steps, and training films."""

    name: str
    start: str  # imagenet, random or phantom
    steps: int
    films: str = "all"  # or matched, or 64 px


WAYS = (
    Way("from random", "random", 240),
    Way("from ImageNet", "imagenet", 120),
    Way("from phantom classifier", "phantom", 120),
    Way("from ImageNet, matched films", "imagenet", 120, "matched"),
    Way("from phantom classifier, matched films", "phantom", 120, "matched"),
    Way("from ImageNet, with 769 films of 64 px", "imagenet", 120, "64 px"),
)


def matched_pairs(films: pd.DataFrame, positive: npt.NDArray[np.bool_], rows: Rows) -> Rows:
    """Rows of pairs with and without the finding, of one view and of near patient numbers."""
    number = films["patient_id"].str.extract(r"(\d+)")[0].astype(int).to_numpy()
    view = films["view"].to_numpy()
    free, kept = set(rows[~positive[rows]].tolist()), []
    for row in sorted(rows[positive[rows]].tolist(), key=lambda r: number[r]):
        near = [r for r in free if view[r] == view[row] and abs(number[r] - number[row]) <= APART]
        if near:
            other = min(near, key=lambda r: (abs(number[r] - number[row]), r))
            free.remove(other)
            kept += [row, other]
    return np.array(sorted(kept), np.int64)


def with_small_films(store: Store, root: Path, folder: Path) -> Store:
    """The store at 64 px, and the pack's films of 64 px of patients that it does not test."""
    table = pd.read_csv(root / "findings_nih64.csv", dtype={"image_id": str, "patient_id": str})
    tested = set(store.films.loc[store.films["split"] != "train", "patient_id"])
    table = table[~table["patient_id"].isin(tested)].reset_index(drop=True)
    more = blank_films(len(table))
    more = more.assign(image_id=table["image_id"], patient_id=table["patient_id"], split="train")
    more = more.assign(study_id=table["image_id"], view=table["view"], width=64, height=64)
    present = table[list(NIH_FINDINGS)].astype(bool)
    more[list(FINDINGS)] = nih_states(present)[list(FINDINGS)].to_numpy()
    images = [fit(load_image(root / name), 64) for name in table["file"]]
    small = [fit(film, 64) for film in store.images[:]]
    at = np.linspace(0, store.size - 1, 64).round().astype(int)
    inside = store.masks(slice(None))[:, :, at][..., at]
    none = np.zeros((len(more), *inside.shape[1:]), np.uint8)
    valid = store.mask_valid(slice(None))
    with StoreWriter(folder, 64, store.mask_classes, {"source": "open"}) as out:
        out.write(np.stack(small), inside, valid)
        out.write(np.stack(images), none, np.zeros((len(more), valid.shape[1]), bool))
        out.finish(pd.concat([store.films, more], ignore_index=True))
    return open_store(folder)


def trained(way: Way, store: Store, start: Path, seed: int) -> classifiers.Classifier:
    """A classifier of all findings."""
    device = compute.device()
    model = classifiers.create(ENCODER, 5, "silu", "lse", seed, device)
    if way.start == "imagenet":
        published_weights.find(published_weights.PACKAGED, ENCODER).into(model)
    elif way.start == "phantom":
        model.load_state_dict(classifiers.load_classifier(start, device).state_dict())
    recipe = Recipe(way.steps, 32, 0.002, 0.05, way.steps // 4, "auto", seed)
    classifiers.train(model, store, "U-Ones", recipe, Augmentation(), None)
    return model


def measure(way: Way, store: Store, start: Path) -> dict[str, Any]:
    """One row of the table."""
    channel = FINDINGS.index(FINDING)
    positive = store.states[:, channel] == 1
    split = store.films["split"].to_numpy()
    if way.films == "matched":
        pairs = matched_pairs(store.films, positive, np.flatnonzero(split == "train"))
        store.films.loc[np.setdiff1d(np.flatnonzero(split == "train"), pairs), "split"] = "unused"
    test = np.flatnonzero(split == "test")
    pairs = matched_pairs(store.films, positive, test)
    models = {str(seed): trained(way, store, start, seed) for seed in SEEDS}
    device = compute.device()
    with torch.inference_mode():
        logits = np.mean(
            [
                classifiers.predict(m, store.images, test, device)[:, channel]
                for m in models.values()
            ],
            0,
        )
    patients = store.films["patient_id"].to_numpy()
    row: dict[str, Any] = {
        "way": way.name,
        "training_films": int((store.films["split"] == "train").sum()),
    }
    for name, rows in (("auroc", test), ("auroc_matched", pairs)):
        scores = logits[np.searchsorted(test, rows)]
        area, draws = metrics.auroc(positive[rows], scores, patients[rows])
        row |= dict(
            zip((name, f"{name}_lo", f"{name}_hi"), (area, *metrics.interval(draws)), strict=True)
        )
    probe = shortcuts.probe(store).set_index("finding").loc[FINDING]
    row |= {
        "probe": probe["probe_auroc"],
        "probe_lo": probe["probe_lo"],
        "probe_hi": probe["probe_hi"],
    }
    boxed = test[positive[test] & store.mask_valid(test, [FINDING])[:, 0]]
    truth = store.masks(boxed, [FINDING])[:, 0]
    boxed, truth = boxed[truth.any((1, 2))], truth[truth.any((1, 2))]
    x = compute.to_input(store.images[boxed], device)
    explained = explain_all(models, x, [[channel]] * len(boxed), ExplainerSettings())
    names, films = [FINDING] * len(boxed), store.images[boxed]
    maps, _, _ = maps_to_labels(
        explained.maps, explained.probability, LabelSettings(threshold="otsu"), names, films
    )
    prior = metrics.prior_maps(truth, patients[boxed].astype(object))
    values = {"iou": metrics.iou_matched(maps, truth), "iou_chance": metrics.iou_chance(truth)}
    values |= {"iou_prior": metrics.iou_matched(np.asarray(prior, np.float32), truth)}
    values |= {"hit": metrics.hit(maps, truth).astype(float), "hit_chance": metrics.area(truth)}
    for name, value in values.items():
        row[name] = value.mean()
    for name, other in (("iou_chance", "beyond_chance"), ("iou_prior", "beyond_prior")):
        _, units = patient_values(values["iou"] - values[name], patients[boxed], ["x"] * len(boxed))
        effect = paired(units)
        row |= {other: effect.estimate, f"{other}_lo": effect.lo, f"{other}_hi": effect.hi}
    row |= {"sd": float(units.std(ddof=1)), "n": len(boxed), "patients": len(units)}
    row["needed"] = int(np.ceil(((1.96 + 0.84) * row["sd"] / EFFECT) ** 2))
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_films", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the open pack")
    parser.add_argument("--run", default="laptop", help="run with the phantom classifier (laptop)")
    args = parser.parse_args(arguments)
    start = paths.runs() / args.run / "classifiers" / ENCODER
    if not (start / "weights.safetensors").is_file():
        print(f"error: {start}: no classifier; run `make reproduce PROFILE={args.run}` first")
        return 2
    caption = (
        f"{FINDING} on the open pack's real films, EfficientNet-Lite0, {len(SEEDS)} networks of "
        "each way: AUROC on test films, and on pairs matched by view and patient number; probe: "
        "AUROC of what is no diagnosis. IoU of the labels with boxes at matched area, of chance "
        f"and of the mean box of other patients; needed: patients with boxes to tell {EFFECT} "
        "above the mean box (power 80 %, from the spread measured). Brackets: 95 % intervals over "
        "patients."
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        made = data.build("open", str(args.data), Path(scratch), 96, alone=True)
        more = with_small_films(open_store(made["films"]), args.data, Path(scratch) / "small")
        for way in WAYS:
            # Opened anew: measuring may take films out of the training split.
            store = open_store(more.path if way.films == "64 px" else made["films"])
            rows.append(measure(way, store, start))
            print(way.name, flush=True)
            table = Table(pd.DataFrame(rows), caption, hide=("sd",))
            table.save(paths.figures() / "across" / "real_films")
    return 0


if __name__ == "__main__":
    sys.exit(main())
