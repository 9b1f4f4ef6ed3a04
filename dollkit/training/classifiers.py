"""Classifiers of the 14 observations, whose explanations become labels.

The backbone is one of segmentation-models-pytorch's encoders, so that its weights move to a
segmentation network by name. What the paper used is not known to us.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, apply_policy
from dollkit.data.store import Store
from dollkit.training import metrics, networks, weights
from dollkit.training.augment import Augmentation, augment
from dollkit.training.fit import TrainingResult, fit
from dollkit.training.loss_and_optimiser import Batch, Recipe, batch_indices
from dollkit.training.networks import encoder


class Classifier(nn.Module):
    """Encoder, pooling over places, one logit per observation; `config` makes it again."""

    def __init__(self, architecture: str, depth: int, activation: str, pooling: str) -> None:
        super().__init__()
        if pooling not in {"avg", "lse"}:
            raise InputError(f"parameter 'pooling' is {pooling!r}: use avg or lse")
        self.config: dict[str, str | int] = {
            "architecture": architecture, "depth": depth, "activation": activation,
            "pooling": pooling,
        }  # fmt: skip
        self.encoder = encoder(architecture, depth, activation)
        self.head = nn.Conv2d(int(self.encoder.out_channels[-1]), len(FINDINGS), 1)  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits: (n, 1, S, S) normalised films -> (n, 14)."""
        grid: torch.Tensor = self.head(self.encoder(x)[-1])  # logits of every place
        if self.config["pooling"] == "avg":
            return grid.mean((2, 3))
        # Log-mean-exp: a soft maximum, so that one small finding can carry the film.
        flat = grid.float().flatten(2)
        return torch.logsumexp(flat, 2) - float(np.log(flat.shape[2]))


def create(
    architecture: str, depth: int, activation: str, pooling: str, seed: int, device: torch.device
) -> Classifier:
    """A classifier with weights drawn from `seed`, on its device."""
    with compute.seeded(seed, 8):
        model = Classifier(architecture, depth, activation, pooling)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(
    model: Classifier, store: Store, policy: str, recipe: Recipe, augmentation: Augmentation,
    folder: Path | None, small: int = 0, key: str = "",
) -> TrainingResult:  # fmt: skip
    """Train on split ``train``; `model` ends with the weights that are best on split ``valid``.

    Loss: binary cross-entropy per observation, weight 0 where the policy ignores a label.
    The score is the mean validation AUROC over the pathologies that have both classes there.

    With `small`, the first half of the steps sees films of that side (progressive resizing): the
    network is convolutional, and early steps learn as much from coarse films at a fraction of
    the cost. Validation always sees full films.
    """
    if small and (small % 32 or not 32 <= small <= store.images.shape[-1]):
        raise InputError(
            f"parameter 'small' is {small}: use 0, or a multiple of 32 up to the films' side "
            f"{store.images.shape[-1]}"
        )
    rows, valid = split_rows(store, "train"), split_rows(store, "valid")
    targets, weights = apply_policy(store.states[rows], policy)
    truth, valid_weights = apply_policy(store.states[valid], policy)
    known = [c for c in range(len(FINDINGS)) if targets[:, c].any()]
    if not known:
        raise InputError(f"{store.path}: no finding has a positive film in split 'train'")
    device = next(model.parameters()).device
    weights[:, ~targets.any(0)] = 0  # nothing teaches these
    y, w = torch.from_numpy(targets).to(device), torch.from_numpy(weights).to(device)

    def sample(step: int) -> Batch:
        pick = batch_indices(len(rows), recipe.batch, step, recipe.seed)
        x = compute.to_input(store.images[rows[pick.numpy()]], device)
        x, _ = augment(x, None, augmentation, compute.generator(recipe.seed, 3, step))
        if small and step < recipe.steps // 2:
            x = F.interpolate(x, size=(small, small), mode="bilinear", antialias=True)
        pick = pick.to(device)
        return x, y[pick], w[pick]

    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        x, target, weight = batch
        value = F.binary_cross_entropy_with_logits(
            net(x).float(), target, weight=weight, reduction="sum"
        )
        return value / weight.sum().clamp_min(1.0)

    def evaluate(net: nn.Module) -> dict[str, float]:
        logits = predict(net, store.images, valid, device)
        scores, target, weight = (
            torch.from_numpy(v[:, known]) for v in (logits, truth, valid_weights)
        )
        value = F.binary_cross_entropy_with_logits(scores, target, weight)
        scored = [c for c in known if FINDINGS[c] in PATHOLOGIES]
        ranked, film_weights = logits.astype(float), valid_weights.T.astype(float)
        areas = [
            metrics.weighted_auroc(truth[:, c] > 0.5, ranked[:, c], film_weights[[c]])[0]
            for c in scored
        ]
        area = float(np.nanmean(areas)) if np.isfinite(areas).any() else 0.5
        return {"valid_loss": float(value), "valid_auroc": area}

    done = fit(
        model, sample, loss, recipe, evaluate=evaluate, score="valid_auroc", folder=folder,
        label=str(model.config["architecture"]), key=key,
    )  # fmt: skip
    model.load_state_dict(done.best_state)
    model.eval()
    return done


def split_rows(store: Store, split: str) -> npt.NDArray[np.int64]:
    """Rows of a split; an empty one is an `InputError`."""
    rows = np.flatnonzero(store.films["split"].to_numpy() == split)
    if not len(rows):
        raise InputError(f"{store.path}/films.csv: no film in split {split!r}")
    return rows


def predict(
    model: nn.Module, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64],
    device: torch.device, batch: int = 128,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """Logits of some films, in the caller's autocast and grad mode: (len(rows), 14) float32."""
    out = [
        model(compute.to_input(images[rows[i : i + batch]], device)).float().cpu().numpy()
        for i in range(0, len(rows), batch)
    ]
    return np.concatenate(out)


def evaluate(
    model: Classifier, store: Store, split: str = "test", draws: int = 500,
    precision: str = "float32",
) -> pd.DataFrame:  # fmt: skip
    """Ranking scores per finding on a split, with intervals from a bootstrap over patients.

    Only certain labels (positive or negative; not mentioned counts as negative) are scored. One row
    per finding with both classes, then ``macro``: the mean over the pathologies among them. Columns
    classifier, finding, auroc, auroc_lo, auroc_hi, ap, n_pos, n.
    """
    from sklearn.metrics import average_precision_score

    device = next(model.parameters()).device
    rows = split_rows(store, split)
    with torch.inference_mode(), compute.autocast(device, precision):
        logits = predict(model, store.images, rows, device)
    truth, weight = apply_policy(store.states[rows], "U-Ignore")
    patients = store.films["patient_id"].to_numpy()[rows]
    table, bootstraps = [], []
    for c, finding in enumerate(FINDINGS):
        sure = weight[:, c] > 0
        positive, scores = truth[sure, c] > 0.5, logits[sure, c]
        if not 0 < positive.sum() < len(positive):
            continue
        area, values = metrics.auroc(positive, scores, patients[sure], draws)
        ap = float(average_precision_score(positive, scores))
        table.append((finding, area, *metrics.interval(values), ap, positive.sum(), len(positive)))
        if finding in PATHOLOGIES:
            bootstraps.append(values)
    inner = [row for row in table if row[0] in PATHOLOGIES]
    if inner:
        ends = metrics.interval(np.nanmean(np.stack(bootstraps), axis=0))
        _, areas, _, _, aps, positives, _ = zip(*inner, strict=True)
        table.append(("macro", np.mean(areas), *ends, np.mean(aps), sum(positives), len(rows)))
    columns = ["finding", "auroc", "auroc_lo", "auroc_hi", "ap", "n_pos", "n"]
    frame = pd.DataFrame(table, columns=columns)
    frame.insert(0, "classifier", str(model.config["architecture"]))
    return frame


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """A trained classifier in eval mode; weights that do not fit are an `InputError`."""
    return weights.load(folder, Classifier, device)


def load_classifiers(folders: Mapping[str, Path], device: torch.device) -> dict[str, Classifier]:
    """Several classifiers by name."""
    return {name: load_classifier(folder, device) for name, folder in folders.items()}


def transfer_encoder(target: nn.Module, classifier: Classifier) -> list[str]:
    """Copy a classifier's backbone into a network; names of the copied tensors.

    Stages of the classifier beyond the network's encoder depth stay behind.
    """
    # No tensor tells the activation: weights of one would load into the other without a word.
    theirs, ours = classifier.config["activation"], networks.config_of(target)["activation"]
    if theirs != ours:
        raise InputError(
            f"transfer: the classifier's activation is {theirs!r} and parameter 'activation' here "
            f"is {ours!r}; use the same for both"
        )
    origin = f"the classifier ({classifier.config['architecture']})"
    return networks.transfer(target, classifier.state_dict(), "encoder", origin)
