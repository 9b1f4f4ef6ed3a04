"""Explanations, labels and drawn films on the CPU and, where there is one, on a GPU.

Training is tested on both where it is tested. The CPU keeps each test from rotting.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dollkit.common import compute, paths
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.explanations.integrated_gradients import integrated_gradients
from dollkit.labels.make import make_labels
from dollkit.labels.maps_to_labels import LabelSettings
from dollkit.training.classifiers import Classifier, create
from tests import far
from tests.small_run import CPU, ENCODER, make_store

EDEMA, FRACTURE = FINDINGS.index("Edema"), FINDINGS.index("Fracture")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("films") / "store", 40, PATHOLOGIES)


def classifier(device: torch.device) -> Classifier:
    """The same weights on every device."""
    return create(ENCODER, 3, "silu", "lse", 0, device).eval()


def test_maps_are_those_of_the_cpu(device: torch.device, store: Store) -> None:
    targets, images = [[EDEMA], [FRACTURE, EDEMA], []], store.images[[0, 1, 2]]
    x = compute.to_input(images, device)
    assert x.is_contiguous(memory_format=torch.channels_last)
    there = integrated_gradients(classifier(device), x, targets, steps=3, precision="float32")
    x = compute.to_input(images, CPU)
    here = integrated_gradients(classifier(CPU), x, targets, steps=3, precision="float64")
    assert there.maps.device.type == device.type
    assert far(there.maps.cpu(), here.maps) < 0.03
    swapped = here.maps[[1, 2, 0]]
    assert far(swapped, here.maps) > 0.06  # the tolerance tells maps apart


def test_a_film_is_labelled(device: torch.device, store: Store, tmp_path: Path) -> None:
    rows = np.flatnonzero(store.states[:, EDEMA] == 1)[:1]
    how = ExplainerSettings(kind="black", steps=3, unsettled="keep")
    made = make_labels(
        {"a": classifier(device)}, store, rows, how, LabelSettings(), tmp_path, {"a": "0"}
    )
    there = np.flatnonzero(store.states[rows[0]] == 1)
    assert sorted(made.pairs["finding"]) == sorted(FINDINGS[t] for t in there)
    assert set(np.unique(made.label(0))) <= {0, 1, IGNORE}
    assert (made.label(0) == 1).any()


def test_one_module_asks_for_cuda() -> None:
    asking = [p for p in paths.ROOT.glob("dollkit/**/*.py") if "torch.cuda" in p.read_text("utf-8")]
    assert [p.name for p in asking] == ["compute.py"]
