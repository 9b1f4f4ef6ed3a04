"""Labels of a pre-training arm that are not those of the label set: Grad-CAM's.

Arm ``gradcam`` asks whether DoLL owes its gain to Integrated Gradients, or whether the coarse map
of an older explainer would do. All but the explainer is the label set's own: films, findings,
classifiers, and the settings that make a label of a map (thresholds tuned on Integrated Gradients
among them: nothing is tuned for Grad-CAM).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dollkit import weights
from dollkit.errors import InputError
from dollkit.labelling import Explain, make_labels
from dollkit.labels import Distil
from dollkit.labels.store import LabelStore
from dollkit.sources import sha256
from dollkit.store import Store


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
        arm: ``gradcam`` explains anew, shard by shard: a killed call goes on where it stopped;
            any other arm takes `labels` as they are.
        store: the films.
        labels: the label set of the run.
        classifiers: folders of the classifiers that made `labels`, by name.
        folder: gets Grad-CAM's labels.

    Raises:
        InputError: a classifier of the label set is missing or has changed.
    """
    if arm != "gradcam":
        return labels
    made = dict(labels.meta["classifiers"])
    for name, digest in made.items():
        if name not in classifiers or sha256(classifiers[name] / "weights.safetensors") != digest:
            raise InputError(
                f"arm 'gradcam': {labels.path} was made by classifier {name!r}, which is missing "
                "or has changed; make the labels again"
            )
    models = weights.load_classifiers({name: classifiers[name] for name in made}, where)
    how = Explain(**{**labels.meta["explain"], "explainer": "gradcam"})
    settings = Distil(**labels.meta["distil"])
    found = make_labels(models, store, labels.rows, how, settings, folder, made)
    if not np.array_equal(found.rows, labels.rows):
        raise AssertionError("Grad-CAM labelled other films than the label set holds")
    return found
