"""The whole idea on one film, small enough for a minute on two cores (notebook 00)."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, index
from dollkit.data import phantom
from dollkit.explanations import ensemble
from dollkit.explanations.integrated_gradients import integrated_gradients
from dollkit.labels.maps_to_labels import LabelSettings, maps_to_labels, scale
from dollkit.training import classifiers, metrics
from dollkit.training.augment import Augmentation
from dollkit.training.loss_and_optimiser import Recipe
from dollkit.workflow.parameter_ranges import COUNT, NATURAL, SIDE, among

NOTEBOOK = "00_quickstart.ipynb"
RANGES = {
    "size": SIDE, "passes": COUNT, "seed": NATURAL, "n_films": Annotated[int, Field(ge=32)],
    "finding": among(PATHOLOGIES),
}  # fmt: skip
"""What the type of a parameter cannot say."""
STEPS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Few:
    """Phantom films in memory; of the patients 5/8 teach, 1/8 validate, 1/4 test."""

    images: npt.NDArray[np.uint8]
    states: npt.NDArray[np.int8]
    masks: npt.NDArray[np.uint8]
    films: pd.DataFrame
    titles: list[str]
    path: str = "quickstart"

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Films of a split."""
        return np.flatnonzero(self.films["split"] == split)


def phantom_films(n: int, size: int, seed: int) -> Few:
    """Render `n` films of as many patients as the population has."""
    protocol = phantom.Protocol()
    people = phantom.sample_population(n, seed, "ward", protocol)
    drawn = phantom.render(people, size, seed, protocol)
    states = people[list(FINDINGS)].to_numpy().astype(np.int8)
    named = [", ".join(f for f, s in zip(FINDINGS, row, strict=True) if s) for row in states]
    titles = [textwrap.shorten(names, 34, placeholder=" …") for names in named]
    _, patient = np.unique(people["patient_id"], return_inverse=True)
    share = patient / patient.max()
    split = np.where(share > 0.75, "test", np.where(share > 0.625, "valid", "train"))
    films = pd.DataFrame({"patient_id": people["patient_id"], "split": split})
    return Few(drawn.images, states, drawn.findings, films, titles)


def train(few: Few, finding: str, passes: int, seed: int) -> tuple[classifiers.Classifier, float]:
    """A tiny ResNet on all 14 findings; returns it with the finding's AUROC on the test films."""
    model = classifiers.create("resnet18", 4, "silu", "lse", seed, CPU)
    recipe = Recipe(
        steps=max(1, passes * len(few.rows("train")) // 16), batch=16, lr=2e-3, weight_decay=0.05,
        evaluate_every=10**6, precision="float32", seed=seed,
    )  # fmt: skip
    classifiers.train(model, few, "U-Ones", recipe, Augmentation(), None)  # type: ignore[arg-type]
    rows = few.rows("test")
    with torch.inference_mode():
        logits = classifiers.predict(model, few.images, rows, CPU)[:, index(finding)]
    truth = few.states[rows, index(finding)] == 1
    area = metrics.weighted_auroc(truth, logits.astype(float), np.ones((1, len(rows))))
    return model, float(area[0])


class Case(NamedTuple):
    """One film with its raw map, refined map, label, truth and scores."""

    image: npt.NDArray[np.uint8]
    raw: npt.NDArray[np.float32]
    map: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    error: float
    iou: float
    chance: float


def explain(model: classifiers.Classifier, few: Few, finding: str) -> Case:
    """Label all positive test films and return the one with the median IoU."""
    rows = few.rows("test")
    rows = rows[few.states[rows, index(finding)] == 1]
    if not len(rows):
        raise InputError(f"parameter 'finding': no test film has {finding}; use more films")
    images, names = few.images[rows], [finding] * len(rows)
    targets = [[index(finding)]] * len(rows)
    x, baseline = compute.to_input(images, CPU), ensemble.baseline_of(finding)
    explained = integrated_gradients(model, x, targets, baseline=baseline, steps=STEPS)
    signed, ones = explained.maps.numpy(), np.ones((1, len(rows)), np.float32)
    maps, label, _ = maps_to_labels(signed[None], ones, LabelSettings(), names, images)
    truth = few.masks[rows, PATHOLOGIES.index(finding)]
    overlap, chance = metrics.iou_matched(maps, truth), metrics.iou_chance(truth)
    i = int(np.argsort(overlap)[len(rows) // 2])
    arrays = images[i], scale(signed[i], "positive", 99.5), maps[i], label[i], truth[i]
    return Case(*arrays, float(explained.error[i]), float(overlap[i]), float(chance[i]))
