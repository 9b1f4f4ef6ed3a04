"""End-to-end pre-training of a segmentation network on 14 label channels, and its controls."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dollkit import compute, metrics, networks, weights
from dollkit.armnames import OWN_LABELS, PRETRAINED
from dollkit.augment import Augmentation, augment
from dollkit.classifiers import load_classifier, transfer_encoder
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, PATHOLOGIES, UNCERTAIN
from dollkit.labels.store import LabelStore
from dollkit.loop import Fit, Recipe, fit, order
from dollkit.losses import IGNORE, weighted_bce_dice
from dollkit.store import Store

STARTS = ("classifier", "random")
REPEAT = "repeat"
Rows = npt.NDArray[np.int64]
Targets = Callable[[Rows], npt.NDArray[np.uint8]]


def targets_of(arm: str, store: Store, labels: LabelStore, seed: int) -> Targets:
    """What each pre-training arm is taught on a film.

    ``doll``: its labels. ``gradcam``, ``single``, ``plain``: the same, with `labels` from
    `armlabels`. ``shuffled``: the labels of another film (a fixed permutation without fixed
    points): same shapes, same frequencies, no relation to the film. ``prior``: for each positive
    finding the mean label of that finding, cut at the finding's mean area: the anatomy, and of
    this film no more than any of the up to 500 labels in the mean. ``truth``: the true masks,
    where a data set has them (the phantom): the upper bound.

    Returns:
        rows (n,) -> (n, 14, S, S) uint8 in {0, 1, 255}.
    """
    if arm in ("doll", *OWN_LABELS):
        return lambda rows: labels.targets(rows, store.states[rows])
    if arm == "shuffled":
        rows = labels.rows
        turned = np.random.default_rng(compute.derive(seed, 4)).permutation(len(rows))
        other = dict(zip(rows[turned].tolist(), rows[np.roll(turned, 1)].tolist(), strict=True))

        def shuffled(asked: Rows) -> npt.NDArray[np.uint8]:
            swapped = np.array([other[int(r)] for r in asked])
            return labels.targets(swapped, store.states[swapped])

        return shuffled
    if arm == "prior":
        return _prior(labels, store)
    if arm == "truth":
        missing = [f for f in PATHOLOGIES if f not in store.mask_classes]
        if missing:
            raise InputError(
                f"arm 'truth': {store.path} has no masks of {missing[0]}; true masks exist on "
                "the phantom only"
            )

        def truth(asked: Rows) -> npt.NDArray[np.uint8]:
            out = np.full((len(asked), len(FINDINGS), store.size, store.size), IGNORE, np.uint8)
            out[:, 1:] = store.masks(asked, list(PATHOLOGIES))
            return out

        return truth
    raise InputError(f"parameter 'arm' is {arm!r}: use one of {', '.join(PRETRAINED)}")


def _prior(labels: LabelStore, store: Store) -> Targets:
    size = int(labels.meta["size"])
    drawn = np.zeros((len(FINDINGS), size, size), np.uint8)
    finding = labels.pairs["finding"].to_numpy()
    for c, f in enumerate(FINDINGS):
        pairs = np.flatnonzero(finding == f)[:500]
        if len(pairs):
            known, inside = np.zeros((2, size, size))
            for p in pairs:
                label = labels.label(int(p))
                known += label != IGNORE
                inside += label == 1
            mean = inside / np.maximum(known, 1)
            level = np.quantile(mean, 1 - mean.mean())
            drawn[c] = mean > level
    held: dict[int, list[int]] = {}
    for row, f in zip(labels.pairs["row"], finding, strict=True):
        held.setdefault(int(row), []).append(FINDINGS.index(f))

    def prior(asked: Rows) -> npt.NDArray[np.uint8]:
        out = np.zeros((len(asked), len(FINDINGS), size, size), np.uint8)
        out[store.states[asked] == UNCERTAIN] = IGNORE  # as in the labels themselves
        for i, row in enumerate(asked):
            for c in held.get(int(row), []):
                out[i, c] = drawn[c]
        return out

    return prior


def truth_if_known(store: Store, labels: LabelStore) -> Targets | None:
    """True masks, to watch pre-training by, where the data set has them; else None."""
    if all(f in store.mask_classes for f in PATHOLOGIES):
        return targets_of("truth", store, labels, 0)
    return None


def taught_iou(targets: Targets, truth: Targets, rows: Rows) -> float:
    """IoU of what an arm is taught with the truth: mean over films, then over findings.

    Counted as ``valid_true_iou`` is for the network's own output: pixels that the arm ignores are
    not drawn, and a film without the finding does not count.
    """
    parts = []
    for i in range(0, len(rows), 32):
        some = rows[i : i + 32]
        parts.append(_overlap(targets(some) == 1, truth(some)))
    return _mean(parts)


def folders_of(folder: Path, repeats: int) -> list[Path]:
    """Where the networks of an arm go that are trained alike but for their seed.

    The first one lies in the folder itself, so that who needs one network need not know of more.
    What is left of a run with more of them is deleted.
    """
    wanted = [folder, *(folder / f"{REPEAT}{number}" for number in range(1, repeats))]
    for old in set(folder.glob(f"{REPEAT}*")) - set(wanted):
        shutil.rmtree(old)
    for one in wanted:
        one.mkdir(parents=True, exist_ok=True)
    return wanted


def made_in(folder: Path) -> list[Path]:
    """Folders of an arm's networks, in the order of their seeds."""
    found = [f.parent for f in folder.glob(f"{REPEAT}*/{weights.FILE}")]
    return [folder, *sorted(found, key=lambda f: int(f.name.removeprefix(REPEAT)))]


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
    kind: str,
    encoder: str,
    depth: int,
    activation: str,
    start: str,
    classifiers: Mapping[str, Path],
    seed: int,
    where: torch.device,
) -> nn.Module:
    """The network to pre-train, its backbone from the classifier or at random."""
    if start not in STARTS:
        raise InputError(f"parameter 'start' is {start!r}: use {' or '.join(STARTS)}")
    with compute.seeded(seed, 9):
        net = networks.build(kind, encoder, len(FINDINGS), depth=depth, activation=activation)
    if start == "classifier":
        if encoder not in classifiers:
            raise InputError(f"parameter 'encoder' is {encoder!r}: no classifier of that name ran")
        transfer_encoder(net, load_classifier(classifiers[encoder], where))
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def pretrain(
    net: nn.Module,
    store: Store,
    rows: Rows,
    held_out: Rows,
    targets: Targets,
    recipe: Recipe,
    *,
    background: float,
    dice: float,
    augmentation: Augmentation,
    folder: Path | None,
    truth: Targets | None = None,
    label: str = "",
    key: str = "",
) -> Fit:
    """Train the whole network on label channels; it ends with its last weights.

    Args:
        net: 14 output channels.
        rows: films to train on; the same films and number of steps for every arm.
        held_out: labelled films kept for validation.
        targets: from `targets_of`.
        background, dice: see `losses.weighted_bce_dice`.
        truth: with it, the validation IoU against true masks is logged too (``valid_true_iou``).

    Returns:
        The `Fit`; history has valid_loss, valid_iou and, with `truth`, valid_true_iou.
    """
    where = next(net.parameters()).device

    def load(asked: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        x = compute.to_input(store.images[asked], where)
        return x, torch.from_numpy(targets(asked)).to(where)

    def sample(step: int) -> tuple[torch.Tensor, ...]:
        pick = order(len(rows), recipe.batch, step, recipe.seed).numpy()
        x, y = load(rows[pick])
        rng = compute.generator(recipe.seed, 3, step)
        x, warped = augment(x, y, augmentation, rng, fill_mask=IGNORE)
        assert warped is not None
        return x, warped

    def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return weighted_bce_dice(model(batch[0]), batch[1], background, dice)

    def evaluate(model: nn.Module) -> dict[str, float]:
        losses, own, true = [], [], []
        for i in range(0, len(held_out), 32):
            asked = held_out[i : i + 32]
            x, y = load(asked)
            logits = model(x).float()
            losses.append(float(weighted_bce_dice(logits, y, background, dice)))
            drawn = (logits > 0).cpu().numpy()
            own.append(_overlap(drawn, y.cpu().numpy()))
            if truth is not None:
                true.append(_overlap(drawn, truth(asked)))
        row = {"valid_loss": float(np.mean(losses)), "valid_iou": _mean(own)}
        if truth is not None:
            row["valid_true_iou"] = _mean(true)
        return row

    return fit(
        net,
        sample,
        loss,
        recipe,
        evaluate=evaluate,
        score="valid_iou",
        folder=folder,
        label=label,
        key=key,
    )


def _overlap(
    drawn: npt.NDArray[np.bool_], target: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """IoU per (film, channel) where the target has an object; ignored pixels do not count."""
    known = target != IGNORE
    value = metrics.iou(
        *metrics.counts((drawn & known).astype(np.uint8), (target == 1).astype(np.uint8))
    )
    value[~(target == 1).any((2, 3))] = np.nan
    return value


def _mean(parts: list[npt.NDArray[np.float64]]) -> float:
    return metrics.mean_iou(np.concatenate(parts))
