"""Bytes of every artefact, from sizes that are exact (arrays, tensors) or measured (labels)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dollkit.common.arm_names import OWN_LABELS, TUNINGS
from dollkit.common.machine import Json
from dollkit.training import networks
from dollkit.workflow.plan_films import Films
from dollkit.workflow.plan_jobs import runs_of
from dollkit.workflow.plan_work import numbers
from dollkit.workflow.stages import Instance

ROW = 150
"""Bytes of a row of ``films.csv`` or ``pairs.csv``: about, as measured on the phantom."""
LABEL, LABEL_SIDE = 1200, 224
"""Bytes of a packed label, at most, at that side (`labels.codec`); outlines grow with the side."""
STATES = 4
"""A checkpoint: weights, two moments of AdamW, and the best weights."""


def store_bytes(store: Films, size: int) -> int:
    """A packed store: films, one bit per pixel and mask (two with ignored pixels), the table."""
    planes = len(store.classes) * (2 if store.ignores else 1)
    return len(store.films) * (size**2 + planes * size**2 // 8 + len(store.classes) + ROW)


def artefact_bytes(
    instance: Instance, stores: Mapping[str, Films], size: int, labels: Mapping[str, Any]
) -> int:
    """What a stage leaves on disk; 0 for stages that leave a few small files."""
    given: Mapping[str, Any] = instance.parameters
    kind = instance.stage.family
    pairs = stores["films"].labelled(labels["n_label"], labels["n_hold"])[1]
    # Shards stay beside the store that they are joined to.
    made = 2 * pairs * (LABEL * size // LABEL_SIDE + ROW)
    if kind == "data":
        return sum(store_bytes(s, size) for s in stores.values())
    if kind == "classifiers":
        weights = 4 * numbers("classifier", given["architecture"], given["depth"])
        return weights * (1 + STATES)
    if kind == "labels":
        return made
    if kind == "pretrain":
        networks_made = int(given.get("repeats", 1)) * 4 * _numbers(given) * (1 + STATES)
        return networks_made + (made if given["arm"] in OWN_LABELS else 0)
    if kind == "finetune":
        films = stores[given["task"]]
        found = runs_of(given, films)
        each = films.tested * len(films.classes) * (size**2 // 8 + 24)
        # Of each arm and tuning one network is kept; in full only under `full`, taken as a tenth
        # under the others.
        kept = {(cell.arm, cell.tuning) for cell, _, _ in found if cell.n_train == given["n_train"]}
        share = sum(1.0 if tuning == TUNINGS[0] else 0.1 for _, tuning in kept)
        return sum(n for _, _, n in found) * each + int(4 * _numbers(given) * share)
    return 0


def _numbers(given: Mapping[str, Any]) -> int:
    depth = networks.depth_of(given["network"], given["encoder_depth"])
    return numbers(given["network"], given["encoder"], depth)


def disk_account(
    plan: Sequence[Instance], stores: Mapping[str, Films], size: int, labels: Mapping[str, Any],
    folder: Path,
) -> dict[str, Json]:  # fmt: skip
    """Bytes of each artefact, their sum, and what is free where they go.

    Args:
        folder: of the runs; it need not exist.
    """
    sizes = {i.name: artefact_bytes(i, stores, size, labels) for i in plan}
    place = next(p for p in (folder, *folder.parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    films: dict[str, Json] = {n: store_bytes(s, size) for n, s in stores.items()}
    return {
        "artefacts": {n: b for n, b in sizes.items() if b},
        "stores": films,
        "total": sum(sizes.values()),
        "free": free,
        "folder": str(place),
        "enough": sum(sizes.values()) < free,
    }
