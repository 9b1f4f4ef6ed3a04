"""The whole idea, small enough for two minutes on two cores (notebook 00)."""

from __future__ import annotations

import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field

from dollkit import pretraining
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, index
from dollkit.data import phantom
from dollkit.explanations import ensemble
from dollkit.explanations.integrated_gradients import integrated_gradients
from dollkit.finetuning import run
from dollkit.labels.maps_to_labels import LabelSettings, maps_to_labels, scale
from dollkit.training import classifiers, metrics, networks, published_weights, weights
from dollkit.training.augment import Augmentation
from dollkit.training.loss_and_optimiser import Recipe
from dollkit.workflow.parameter_ranges import COUNT, NATURAL, SIDE, among

NOTEBOOK = "00_quickstart.ipynb"
RANGES = {
    "size": SIDE, "passes": COUNT, "steps": COUNT, "seed": NATURAL,
    "n_films": Annotated[int, Field(ge=64)], "finding": among(PATHOLOGIES),
}  # fmt: skip
"""What the type of a parameter cannot say."""
STEPS = 8
ENCODER = "tu-tf_efficientnet_lite0"
NETWORK = {"encoder": ENCODER, "depth": 3, "activation": "silu"}
SIDES = ("left lung", "right lung")  # the phantom's first organs
LABELLED, MASKED, TESTED = 96, 8, 48
"""Films with labels to pre-train on, with masks to fine-tune on and as many to choose the step by,
and to test on."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Few:
    """Phantom films in memory; of the patients 5/8 teach, 1/8 validate, 1/4 test."""

    images: npt.NDArray[np.uint8]
    states: npt.NDArray[np.int8]
    masks: npt.NDArray[np.uint8]
    lungs: npt.NDArray[np.uint8]  # (n, 1, S, S), both lungs
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
    lungs = np.asarray(drawn.organs[:, : len(SIDES)].any(1, keepdims=True), np.uint8)
    return Few(drawn.images, states, drawn.findings, lungs, films, titles)


def train(few: Few, finding: str, passes: int, seed: int) -> tuple[classifiers.Classifier, float]:
    """EfficientNet-Lite0 from ImageNet on all 14 findings, and the finding's test AUROC."""
    model = classifiers.create(ENCODER, 5, "silu", "lse", seed, CPU)
    published_weights.find(published_weights.PACKAGED, ENCODER).into(model)
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


class Comparison(NamedTuple):
    """Test films (n, S, S), their lungs, what each network drew (n, 1, S, S), and its mean IoU."""

    images: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    drawn: dict[str, npt.NDArray[np.uint8]]
    miou: dict[str, float]


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


def compare(model: classifiers.Classifier, few: Few, steps: int, seed: int) -> Comparison:
    """Lungs from eight masks: a PSPNet from ImageNet, and one pre-trained on DoLL labels."""
    rows = few.rows("train")[:LABELLED]
    targets = [[t for t in film if t] for film in ensemble.positives(few.states[rows])]
    explained = ensemble.explain_all(
        {ENCODER: model}, compute.to_input(few.images[rows], CPU), targets,
        ensemble.ExplainerSettings(steps=STEPS, precision="float32"),
    )  # fmt: skip
    at = np.repeat(np.arange(len(rows)), [len(film) for film in targets])
    channel = np.concatenate(targets).astype(int)
    names = [FINDINGS[t] for t in channel]
    _, label, _ = maps_to_labels(
        explained.maps, explained.probability, LabelSettings(), names, few.images[rows][at]
    )
    taught = np.zeros((len(few.images), len(FINDINGS), *label.shape[1:]), np.uint8)
    taught[rows[at], channel] = label
    with tempfile.TemporaryDirectory() as folder:
        weights.save(model, Path(folder), model.config)
        backbone = {ENCODER: Path(folder)}
        doll = pretraining.network("pspnet", ENCODER, 3, "silu", "classifier", backbone, seed, CPU)
    how: dict[str, Any] = {"evaluate_every": 10**6, "precision": "float32", "seed": seed}
    pretraining.pretrain(
        doll, few, rows[8:], rows[:8], lambda some: taught[some], Recipe(steps, 16, 2e-3, **how),  # type: ignore[arg-type]
        augmentation=Augmentation(), folder=None,
    )  # fmt: skip
    state = doll.state_dict()
    starts = {
        "ImageNet": run.Initialisation(
            published_weights.find(published_weights.PACKAGED, ENCODER).into
        ),
        "DoLL": run.Initialisation(lambda net: networks.transfer(net, state)),
    }
    data = run.TaskData(few.images, few.lungs, few.films, ("lungs",))
    valid, test = few.rows("valid")[:MASKED], few.rows("test")[:TESTED]
    parts = run.Split(few.rows("train")[-MASKED:], valid, test, few.rows("train"))
    drawn, miou = {}, {}
    for name, start in starts.items():
        job = run.Job("lungs", "pspnet", name, "full", MASKED, seed, 0, 0.015)
        recipe = Recipe(steps, 8, 1.0, evaluate_every=max(1, steps // 4), precision="float32")
        made = run.run(job, data, parts, NETWORK, start, recipe, Augmentation(), CPU)
        miou[name] = metrics.mean_iou(metrics.iou(*made["counts"]))
        drawn[name] = np.unpackbits(made["prediction"], axis=-1)
    return Comparison(few.images[test], few.lungs[test], drawn, miou)
