"""End-to-end pre-training of a segmentation network on 14 label channels, and its controls."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from dollkit.common import OTHER_START, OWN_LABELS, PRETRAINED, compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, UNCERTAIN
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.labels.make import hashes_of, make_labels
from dollkit.labels.maps_to_labels import LabelSettings
from dollkit.labels.store import LabelStore
from dollkit.training import metrics, networks, published_weights, weights
from dollkit.training.augment import Augmentation, augment
from dollkit.training.classifiers import load_classifier, load_classifiers, transfer_encoder
from dollkit.training.fit import TrainingResult, fit
from dollkit.training.loss_and_optimiser import Batch, Recipe, batch_indices, weighted_bce_dice

STARTS = ("classifier", "imagenet", "random")
LR, BACKGROUND, DICE = 2e-3, 0.1, 0.5
"""Peak learning rate and the two weights of the loss: our choice, the paper's is not known."""
REPEAT = "repeat"
Rows = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Targets = Callable[[Rows], U8]


def targets_of(arm: str, store: Store, labels: LabelStore, seed: int) -> Targets:
    """What each pre-training arm is taught: rows (n,) -> (n, 14, S, S) uint8 in {0, 1, 255}.

    ``doll``: the film's labels. ``gradcam``, ``single``, ``plain``: the same, with `labels` from
    `labels_of`. ``shuffled``: those of another film of the same split (a fixed permutation without
    fixed points). ``prior``: for each positive finding the mean of up to 500 labels of other
    training films, cut at its mean area. ``truth``: the true masks of a data set that has them (the
    phantom). Arms of `common.OTHER_START` are taught what the arm is that they are named after.
    """
    arm = OTHER_START.get(arm, (arm,))[0]
    if arm in ("doll", *OWN_LABELS):
        return lambda rows: labels.targets(rows, store.states[rows])
    if arm == "shuffled":
        return _shuffled(store, labels, seed)
    if arm == "prior":
        return _prior(store, labels)
    if arm == "truth":
        return _truth(store)
    raise InputError(f"parameter 'arm' is {arm!r}: use one of {', '.join(PRETRAINED)}")


def _shuffled(store: Store, labels: LabelStore, seed: int) -> Targets:
    other: dict[int, int] = {}
    for number, rows in enumerate(parts(store, labels)):
        turned = np.random.default_rng(compute.derive(seed, 4, number)).permutation(rows)
        other |= dict(zip(turned.tolist(), np.roll(turned, 1).tolist(), strict=True))

    def shuffled(rows: Rows) -> U8:
        swapped = np.array([other[int(r)] for r in rows])
        return labels.targets(swapped, store.states[swapped])

    return shuffled


def _prior(store: Store, labels: LabelStore) -> Targets:
    pairs = {(int(r), FINDINGS.index(f)): p for p, (r, f) in
             enumerate(labels.pairs[["row", "finding"]].to_numpy().tolist())}  # fmt: skip
    known = set(parts(store, labels)[0].tolist())
    counted = [
        dict.fromkeys([key for key in pairs if key[1] == c and key[0] in known][:500])
        for c in range(len(FINDINGS))
    ]

    def drawn_and_judged(key: tuple[int, int]) -> npt.NDArray[np.int64]:
        label = labels.label(pairs[key])
        return np.stack([label == 1, label != IGNORE]).astype(np.int64)

    nothing = np.zeros((2, labels.size, labels.size), np.int64)
    sums = [sum(map(drawn_and_judged, keys), nothing) for keys in counted]

    @cache
    def mean_label(finding: int, without: int) -> npt.NDArray[np.bool_]:
        own = drawn_and_judged((without, finding)) if without >= 0 else nothing
        drawn, judged = sums[finding] - own
        mean = drawn / np.maximum(judged, 1)
        inside: npt.NDArray[np.bool_] = mean > np.quantile(mean, 1 - mean.mean())
        return inside

    def prior(rows: Rows) -> U8:
        out = np.zeros((len(rows), len(FINDINGS), labels.size, labels.size), np.uint8)
        out[store.states[rows] == UNCERTAIN] = IGNORE  # as in the labels
        for place, row in enumerate(rows.tolist()):
            for finding in range(len(FINDINGS)):
                if (row, finding) in pairs:
                    own = row if (row, finding) in counted[finding] else -1
                    out[place, finding] = mean_label(finding, own)
        return out

    return prior


def _truth(store: Store) -> Targets:
    if missing := [f for f in PATHOLOGIES if f not in store.mask_classes]:
        raise InputError(f"arm 'truth': {store.path} has no masks of {missing[0]}: phantom only")

    def truth(rows: Rows) -> U8:
        out = np.full((len(rows), len(FINDINGS), store.size, store.size), IGNORE, np.uint8)
        out[:, 1:] = store.masks(rows, list(PATHOLOGIES))
        return out

    return truth


def truth_if_known(store: Store) -> Targets | None:
    """True masks, to watch pre-training by, where the data set has them; else None."""
    return _truth(store) if set(PATHOLOGIES) <= set(store.mask_classes) else None


def taught_iou(targets: Targets, truth: Targets, rows: Rows) -> float:
    """IoU of what an arm is taught with the truth: mean over films, then over findings; pixels
    that the arm ignores are not drawn, and a film without the finding does not count.
    """
    values = [_overlap(targets(part) == 1, truth(part)) for part in _parts(rows)]
    return metrics.mean_iou(np.concatenate(values))


def folders_of(folder: Path, repeats: int) -> list[Path]:
    """Where the networks of an arm go that are trained alike but for their seed, the first into
    the folder itself; what is left of a run with more is deleted.
    """
    folders = [folder, *(folder / f"{REPEAT}{number}" for number in range(1, repeats))]
    for old in set(folder.glob(f"{REPEAT}*")) - set(folders):
        shutil.rmtree(old)
    for repeat in folders:
        repeat.mkdir(parents=True, exist_ok=True)
    return folders


def made_in(folder: Path) -> list[Path]:
    """Folders of an arm's networks, in the order of their seeds."""
    repeats = [f.parent for f in folder.glob(f"{REPEAT}*/{weights.FILE}")]
    return [folder, *sorted(repeats, key=lambda f: int(f.name.removeprefix(REPEAT)))]


def parts(store: Store, labels: LabelStore) -> tuple[Rows, Rows]:
    """Labelled rows of split ``train`` and of split ``valid``; an empty part is an `InputError`."""
    split = store.films["split"].to_numpy()[labels.rows]
    train, held = labels.rows[split == "train"], labels.rows[split == "valid"]
    if not len(train) or not len(held):
        raise InputError(
            f"{labels.path}: {len(train)} labelled training and {len(held)} validation films; "
            "label some of both (parameters 'n_label', 'n_hold' of notebook 03)"
        )
    return train, held


def network(
    kind: str, encoder: str, depth: int, activation: str, start: str,
    classifiers: Mapping[str, Path], seed: int, device: torch.device,
    imagenet_weights: str = published_weights.PACKAGED,
) -> nn.Module:  # fmt: skip
    """The network to pre-train, its backbone from the classifier, from ImageNet or at random."""
    if start not in STARTS:
        raise InputError(f"parameter 'start' is {start!r}: use {' or '.join(STARTS)}")
    with compute.seeded(seed, 9):
        net = networks.build(kind, encoder, len(FINDINGS), depth=depth, activation=activation)
    if start == "classifier":
        if encoder not in classifiers:
            raise InputError(f"parameter 'encoder' is {encoder!r}: no classifier of that name ran")
        transfer_encoder(net, load_classifier(classifiers[encoder], device))
    elif start == "imagenet":
        try:
            published_weights.find(imagenet_weights, encoder).into(net)
        except published_weights.Unavailable as error:
            raise InputError(f"parameter 'start' is 'imagenet': {error}") from None
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def pretrain(
    net: nn.Module, store: Store, rows: Rows, held_out: Rows, targets: Targets, recipe: Recipe, *,
    background: float = BACKGROUND, dice: float = DICE, augmentation: Augmentation,
    folder: Path | None, truth: Targets | None = None, label: str = "pre-training", key: str = "",
) -> TrainingResult:  # fmt: skip
    """Train the whole network on label channels (`targets_of`); it ends with its last weights.

    Validation is on `held_out` labels and, with `truth`, on true masks too (``valid_true_iou``).
    """
    device = next(net.parameters()).device

    def load(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        x = compute.to_input(store.images[rows], device)
        return x, torch.from_numpy(targets(rows)).to(device)

    def sample(step: int) -> Batch:
        pick = batch_indices(len(rows), recipe.batch, step, recipe.seed).numpy()
        x, y = load(rows[pick])
        rng = compute.generator(recipe.seed, 3, step)
        return augment(x, y, augmentation, rng, fill_mask=IGNORE)  # type: ignore[return-value]

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return weighted_bce_dice(model(batch[0]), batch[1], background, dice)

    def evaluate(model: nn.Module) -> dict[str, float]:
        losses, taught, true = [], [], []
        for part in _parts(held_out):
            x, y = load(part)
            logits = model(x).float()
            losses.append(float(weighted_bce_dice(logits, y, background, dice)))
            drawn = (logits > 0).cpu().numpy()
            taught.append(_overlap(drawn, y.cpu().numpy()))
            if truth is not None:
                true.append(_overlap(drawn, truth(part)))
        overlaps = {"valid_iou": taught, "valid_true_iou": true}
        means = {k: metrics.mean_iou(np.concatenate(v)) for k, v in overlaps.items() if v}
        return {"valid_loss": float(np.mean(losses)), **means}

    return fit(
        net, sample, loss, recipe, evaluate=evaluate, score="valid_iou", folder=folder,
        label=label, key=key,
    )  # fmt: skip


def _parts(rows: Rows, batch: int = 32) -> list[Rows]:
    return [rows[i : i + batch] for i in range(0, len(rows), batch)]


def _overlap(drawn: npt.NDArray[np.bool_], target: U8) -> npt.NDArray[np.float64]:
    """IoU per (film, channel) where the target has an object; ignored pixels do not count."""
    value = metrics.iou(*metrics.counts(drawn, target))
    value[~(target == 1).any((2, 3))] = np.nan
    return value


# Labels of the arms that have their own. Each takes one thing away from DoLL: ``gradcam``
# Integrated Gradients (nothing is tuned for Grad-CAM's coarse maps), ``single`` the committee (the
# classifier with the best validation AUROC is left), ``plain`` what makes labels of maps better.

PLAIN = LabelSettings(
    part="magnitude", trust="all", smooth=0.0, guide=0.0, threshold="otsu", ignore=1.0
)


def labels_of(
    arm: str, store: Store, labels: LabelStore, classifiers: Mapping[str, Path], folder: Path,
    device: torch.device,
) -> LabelStore:  # fmt: skip
    """The labels that an arm's targets are made from: those of the run, `labels`, or its own.

    One of `common.OWN_LABELS` explains again with the `classifiers` that made `labels`, shard by
    shard into `folder`: a killed call goes on where it stopped.
    """
    if arm not in OWN_LABELS:
        return labels
    hashes, now = dict(labels.meta["classifiers"]), hashes_of(classifiers)
    if changed := [name for name in hashes if now.get(name) != hashes[name]]:
        raise InputError(
            f"arm {arm!r}: {labels.path} was made by classifier {changed[0]!r}, which is missing "
            "or has changed; make the labels again"
        )
    explain = ExplainerSettings(**labels.meta["explain"])
    settings = LabelSettings(**labels.meta["distil"])
    if arm == "gradcam":
        explain = replace(explain, explainer="gradcam")
    elif arm == "single":
        best = max(hashes, key=lambda name: validation_auroc(classifiers[name]))
        hashes = {best: hashes[best]}
    else:
        explain, settings = replace(explain, kind="black"), PLAIN
    models = load_classifiers({name: classifiers[name] for name in hashes}, device)
    own_labels = make_labels(models, store, labels.rows, explain, settings, folder, hashes)
    if not np.array_equal(own_labels.rows, labels.rows):
        raise AssertionError(f"arm {arm!r} labelled other films than the label set holds")
    return own_labels


def validation_auroc(folder: Path) -> float:
    """Macro AUROC on validation films of a classifier's kept weights, the best of its history."""
    path = folder / "history.csv"
    try:
        return max(pd.read_csv(path)["valid_auroc"].dropna().astype(float))
    except (OSError, KeyError, ValueError) as error:
        said = f"no validation AUROC ({error}), by which arm 'single' picks: run notebook 02"
        raise InputError(f"{path}: {said}") from error
