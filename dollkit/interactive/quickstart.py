"""The whole idea on one film, small enough for a minute on two cores (notebook 00)."""

from __future__ import annotations

import textwrap
import types
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from dollkit.classifiers import model as classifiers
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, index
from dollkit.data import phantom
from dollkit.explanations import ensemble
from dollkit.explanations.engine import integrated_gradients
from dollkit.labels import Distil, distil, scale
from dollkit.training import metrics
from dollkit.training.augment import Augmentation
from dollkit.training.recipe import Recipe

STEPS = 8


@dataclass(frozen=True)
class Few:
    """Phantom films in memory: the last quarter is for testing, an eighth before for validation."""

    images: npt.NDArray[np.uint8]
    states: npt.NDArray[np.int8]
    masks: npt.NDArray[np.uint8]
    films: pd.DataFrame
    titles: list[str]

    @property
    def n_test(self) -> int:
        """Unseen films."""
        return int((self.films["split"] == "test").sum())


def phantom_films(n: int, size: int, seed: int) -> Few:
    """Render `n` films of as many patients as the population has."""
    if n < 32:
        raise InputError(f"parameter 'n_films' is {n}: use at least 32")
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
    channel = index(finding)
    n_train = int((few.films["split"] == "train").sum())
    store = types.SimpleNamespace(
        images=few.images, states=few.states, films=few.films, path="quickstart"
    )
    model = classifiers.create("resnet18", 4, "silu", "lse", seed, torch.device("cpu"))
    recipe = Recipe(
        steps=max(1, passes * n_train // 16), batch=16, lr=2e-3, weight_decay=0.05,
        evaluate_every=10**6, precision="float32", seed=seed,
    )  # fmt: skip
    classifiers.train(model, store, "U-Ones", recipe, Augmentation(), None, quiet=True)  # type: ignore[arg-type]
    rows = np.flatnonzero(few.films["split"] == "test")
    with torch.inference_mode():
        logits = classifiers.predict(model, few.images, rows, torch.device("cpu"))
    truth = few.states[rows, channel] == 1
    area = metrics.weighted_auroc(truth, logits[:, channel].astype(float), np.ones((1, len(rows))))
    return model, float(area[0])


@dataclass(frozen=True)
class Case:
    """One film with its raw map, boosted map, label, truth and scores."""

    image: npt.NDArray[np.uint8]
    raw: npt.NDArray[np.float32]
    map: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    error: float
    iou: float
    chance: float
    steps: int = STEPS


def explain(model: classifiers.Classifier, few: Few, finding: str) -> Case:
    """Label all positive test films and return the one with the median IoU."""
    if finding not in PATHOLOGIES:
        index(finding)
        raise InputError(f"parameter 'finding' is {finding!r}: it has no place in the film")
    rows = np.flatnonzero((few.films["split"] == "test") & (few.states[:, index(finding)] == 1))
    if not len(rows):
        raise InputError(f"parameter 'finding': no test film has {finding}; use more films")
    x = compute.to_input(few.images[rows], torch.device("cpu"))
    targets = [[index(finding)]] * len(rows)
    made = integrated_gradients(model, x, targets, kind=ensemble.baseline_of(finding), steps=STEPS)
    signed, ones = made.maps.numpy(), np.ones((1, len(rows)), np.float32)
    names = [finding] * len(rows)
    boosted, label, _ = distil(signed[None], ones, Distil(), names, few.images[rows])
    truth = few.masks[rows, PATHOLOGIES.index(finding)]
    overlap = metrics.iou_matched(boosted, truth)
    i = int(np.argsort(overlap)[len(rows) // 2])
    return Case(
        few.images[rows[i]], scale(signed[i], "positive", 99.5), boosted[i], label[i], truth[i],
        float(made.error[i]), float(overlap[i]), float(metrics.iou_chance(truth)[i]),
    )  # fmt: skip
