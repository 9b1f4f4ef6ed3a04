"""Labels of the pre-training arms that are not those of the label set.

Each takes one thing away from DoLL and leaves the rest: films, findings, networks, steps. Arm
``gradcam`` takes Integrated Gradients: Grad-CAM's coarse maps go through the same settings
(thresholds tuned on Integrated Gradients among them: nothing is tuned for Grad-CAM). ``single``
takes the committee: the classifier with the best validation AUROC stands alone. ``plain`` takes
what distils and boosts: mean over classifiers of the maps' magnitude from a black baseline, Otsu's
threshold, no smoothing, no guided filter, no ignore band.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dollkit import weights
from dollkit.armnames import OWN_LABELS
from dollkit.classifiers import load_classifiers
from dollkit.errors import InputError
from dollkit.explaining import Explain
from dollkit.labelling import make_labels
from dollkit.labels import Distil
from dollkit.labels.store import LabelStore
from dollkit.machine import sha256
from dollkit.store import Store

PLAIN = Distil(part="magnitude", trust="all", smooth=0.0, guide=0.0, threshold="otsu", ignore=1.0)


def labels_of(
    arm: str,
    store: Store,
    labels: LabelStore,
    classifiers: Mapping[str, Path],
    folder: Path,
    where: torch.device,
) -> LabelStore:
    """The labels that an arm's targets are made from.

    Args:
        arm: one of `armnames.OWN_LABELS` explains anew, shard by shard: a killed call goes on
            where it stopped; any other arm takes `labels` as they are.
        store: the films.
        labels: the label set of the run.
        classifiers: folders of the classifiers that made `labels`, by name.
        folder: gets the arm's labels.
    """
    if arm not in OWN_LABELS:
        return labels
    made = dict(labels.meta["classifiers"])
    for name, digest in made.items():
        if name not in classifiers or sha256(classifiers[name] / weights.FILE) != digest:
            raise InputError(
                f"arm {arm!r}: {labels.path} was made by classifier {name!r}, which is missing "
                "or has changed; make the labels again"
            )
    how, settings = Explain(**labels.meta["explain"]), Distil(**labels.meta["distil"])
    if arm == "gradcam":
        how = replace(how, explainer="gradcam")
    elif arm == "single":
        best = max(made, key=lambda name: validation_auroc(classifiers[name]))
        made = {best: made[best]}
    else:
        how, settings = replace(how, kind="black"), PLAIN
    models = load_classifiers({name: classifiers[name] for name in made}, where)
    found = make_labels(models, store, labels.rows, how, settings, folder, made)
    if not np.array_equal(found.rows, labels.rows):
        raise AssertionError(f"arm {arm!r} labelled other films than the label set holds")
    return found


def validation_auroc(folder: Path) -> float:
    """Macro AUROC on validation films of a classifier's kept weights, the best of its history."""
    path = folder / "history.csv"
    try:
        return max(pd.read_csv(path)["valid_auroc"].dropna().astype(float))
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: no validation AUROC ({error}); arm 'single' picks the best classifier by "
            "it: train the classifier with notebook 02"
        ) from error
