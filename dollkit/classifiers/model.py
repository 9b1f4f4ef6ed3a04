"""Classifiers of the 14 observations, whose explanations become labels.

The backbone is one of segmentation-models-pytorch's encoders, so that its weights move to a
segmentation network by name. Which architectures, image size, optimiser and passes the paper
used is not known to us; all are parameters here.
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
from dollkit.training.checkpoint import Fit
from dollkit.training.fit import fit
from dollkit.training.networks import encoder
from dollkit.training.recipe import Recipe, order

METRICS = ["classifier", "finding", "auroc", "auroc_lo", "auroc_hi", "ap", "n_pos", "n"]
"""Columns of ``metrics.csv``."""


class Classifier(nn.Module):
    """Encoder, pooling over places, one logit per observation.

    Attributes:
        config: what `build` needs to make the same network again.
    """

    def __init__(self, architecture: str, depth: int, activation: str, pooling: str) -> None:
        super().__init__()
        if pooling not in {"avg", "lse"}:
            raise InputError(f"parameter 'pooling' is {pooling!r}: use avg or lse")
        self.config: dict[str, str | int] = {
            "architecture": architecture,
            "depth": depth,
            "activation": activation,
            "pooling": pooling,
        }
        self.pooling = pooling
        self.encoder = encoder(architecture, depth, activation)
        self.head = nn.Conv2d(int(self.encoder.out_channels[-1]), len(FINDINGS), 1)  # type: ignore[index]

    def places(self, x: torch.Tensor) -> torch.Tensor:
        """Logit of every finding at every place: (n, 1, S, S) -> (n, 14, S / stride, ...)."""
        out: torch.Tensor = self.head(self.encoder(x)[-1])
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits: (n, 1, S, S) normalised films -> (n, 14)."""
        grid = self.places(x)
        if self.pooling == "avg":
            return grid.mean((2, 3))
        # Log-mean-exp: a soft maximum, so that one small finding can carry the film.
        flat = grid.float().flatten(2)
        return torch.logsumexp(flat, 2) - float(np.log(flat.shape[2]))


def create(
    architecture: str, depth: int, activation: str, pooling: str, seed: int, where: torch.device
) -> Classifier:
    """A classifier with weights drawn from `seed`, on its device."""
    with compute.seeded(seed, 8):
        model = Classifier(architecture, depth, activation, pooling)
    return model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(
    model: Classifier,
    store: Store,
    policy: str,
    recipe: Recipe,
    augmentation: Augmentation,
    folder: Path | None,
    quiet: bool = False,
    small: int = 0,
    key: str = "",
) -> Fit:
    """Train on split ``train``, keep the checkpoint that is best on split ``valid``.

    Loss: binary cross-entropy per observation, weight 0 where the policy ignores a label.
    The score is the mean validation AUROC over the pathologies that have both classes there.

    With `small`, the first half of the steps sees films of that side (progressive resizing): the
    network is convolutional, and early steps learn as much from coarse films at a fraction of
    the cost. Validation always sees full films.

    Returns:
        The `Fit`; `model` holds the best weights.
    """
    if small and (small % 32 or not 32 <= small <= store.images.shape[-1]):
        raise InputError(
            f"parameter 'small' is {small}: use 0, or a multiple of 32 up to the films' side "
            f"{store.images.shape[-1]}"
        )
    rows = split_rows(store, "train")
    valid = split_rows(store, "valid")
    targets, weights = apply_policy(store.states[rows], policy)
    known = [c for c in range(len(FINDINGS)) if targets[:, c].any()]
    if not known:
        raise InputError(f"{store.path}: no finding has a positive film in split 'train'")
    keep = torch.zeros(len(FINDINGS))
    keep[known] = 1.0
    where = next(model.parameters()).device
    y = torch.from_numpy(targets).to(where)
    w = torch.from_numpy(weights).to(where) * keep.to(where)
    images = store.images

    def sample(step: int) -> tuple[torch.Tensor, ...]:
        pick = order(len(rows), recipe.batch, step, recipe.seed)
        x = compute.to_input(images[rows[pick.numpy()]], where)
        rng = compute.generator(recipe.seed, 3, step)
        x, _ = augment(x, None, augmentation, rng)
        if small and step < recipe.steps // 2:
            x = F.interpolate(x, size=(small, small), mode="bilinear", antialias=True)
        pick = pick.to(where)
        return x, y[pick], w[pick]

    def loss(net: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x, target, weight = batch
        value = F.binary_cross_entropy_with_logits(
            net(x).float(), target, weight=weight, reduction="sum"
        )
        return value / weight.sum().clamp_min(1.0)

    truth, valid_weight = apply_policy(store.states[valid], policy)

    def evaluate(net: nn.Module) -> dict[str, float]:
        logits = predict(net, images, valid, where)
        loss_value = F.binary_cross_entropy_with_logits(
            torch.from_numpy(logits[:, known]),
            torch.from_numpy(truth[:, known]),
            weight=torch.from_numpy(valid_weight[:, known]),
        )
        areas = [
            metrics.weighted_auroc(
                truth[:, c] > 0.5,
                logits[:, c].astype(float),
                valid_weight[None, :, c].astype(float),
            )[0]
            for c in known
            if FINDINGS[c] in PATHOLOGIES
        ]
        area = float(np.nanmean(areas)) if np.isfinite(areas).any() else 0.5
        return {"valid_loss": float(loss_value), "valid_auroc": area}

    done = fit(
        model,
        sample,
        loss,
        recipe,
        evaluate=evaluate,
        score="valid_auroc",
        folder=folder,
        label=str(model.config["architecture"]),
        quiet=quiet,
        key=key,
    )
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
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    where: torch.device,
    batch: int = 128,
) -> npt.NDArray[np.float32]:
    """Logits of some films, in the caller's autocast and grad mode: (len(rows), 14) float32."""
    out = [
        model(compute.to_input(images[rows[i : i + batch]], where)).float().cpu().numpy()
        for i in range(0, len(rows), batch)
    ]
    return np.concatenate(out)


def evaluate(
    model: Classifier,
    store: Store,
    split: str = "test",
    draws: int = 500,
    precision: str = "float32",
) -> pd.DataFrame:
    """Ranking scores per finding on a split, with intervals from a bootstrap over patients.

    Only certain labels (positive or negative; not mentioned counts as negative) are scored.

    Returns:
        Columns classifier, finding, auroc, auroc_lo, auroc_hi, ap, n_pos, n; one row per finding
        with both classes, then ``macro``: the mean over the pathologies among them. No row where
        no finding has both.
    """
    where = next(model.parameters()).device
    rows = split_rows(store, split)
    with torch.inference_mode(), compute.autocast(where, precision):
        logits = predict(model, store.images, rows, where)
    truth, weight = apply_policy(store.states[rows], "U-Ignore")
    patients = store.films["patient_id"].to_numpy()[rows]
    name = str(model.config["architecture"])
    table: list[dict[str, object]] = []
    macro: list[npt.NDArray[np.float64]] = []
    for c, finding in enumerate(FINDINGS):
        sure = weight[:, c] > 0
        positive = truth[sure, c] > 0.5
        if not 0 < positive.sum() < len(positive):
            continue
        area, values = metrics.auroc(positive, logits[sure, c], patients[sure], draws)
        table.append(
            {
                "classifier": name,
                "finding": finding,
                "auroc": area.value,
                "auroc_lo": area.lo,
                "auroc_hi": area.hi,
                "ap": metrics.average_precision(positive, logits[sure, c]),
                "n_pos": int(positive.sum()),
                "n": len(positive),
            }
        )
        if finding in PATHOLOGIES:
            macro.append(values)
    inner = [r for r in table if r["finding"] in PATHOLOGIES]
    if inner:
        lo, hi = metrics.interval(np.nanmean(np.stack(macro), axis=0))
        table.append(
            {
                "classifier": name,
                "finding": "macro",
                "auroc": float(np.mean([float(str(r["auroc"])) for r in inner])),
                "auroc_lo": lo,
                "auroc_hi": hi,
                "ap": float(np.mean([float(str(r["ap"])) for r in inner])),
                "n_pos": sum(int(str(r["n_pos"])) for r in inner),
                "n": len(rows),
            }
        )
    return pd.DataFrame(table, columns=METRICS)


def load_classifier(folder: Path, where: torch.device) -> Classifier:
    """A trained classifier in eval mode; weights that do not fit are an `InputError`."""
    return weights.load(folder, Classifier, where)


def load_classifiers(folders: Mapping[str, Path], where: torch.device) -> dict[str, Classifier]:
    """Several classifiers by name."""
    return {name: load_classifier(folder, where) for name, folder in folders.items()}


def transfer_encoder(target: nn.Module, classifier: Classifier) -> list[str]:
    """Copy a classifier's backbone into the network's encoder; every encoder tensor must match.

    Stages of the classifier beyond the network's encoder depth have no place there and stay
    behind.

    Returns:
        Names of the copied tensors, as in the target.
    """
    encoder: nn.Module = target.encoder  # type: ignore[assignment]
    own = encoder.state_dict()
    source = classifier.encoder.state_dict()
    # No tensor tells the activation: weights of one would load into the other without a word.
    theirs, here = classifier.config["activation"], networks.config_of(target)["activation"]
    if theirs != here:
        raise InputError(
            f"transfer: the classifier's activation is {theirs!r} and parameter 'activation' here "
            f"is {here!r}; use the same for both"
        )
    for key, tensor in own.items():
        if key not in source or source[key].shape != tensor.shape:
            have = tuple(source[key].shape) if key in source else "missing"
            raise InputError(
                f"transfer: encoder tensor {key} is {have} in the classifier "
                f"({classifier.config['architecture']}) and {tuple(tensor.shape)} here; use the "
                "same architecture and activation for both"
            )
    encoder.load_state_dict({k: source[k] for k in own})
    return [f"encoder.{k}" for k in own]
