"""The quickstart's own steps, on a network that has learned nothing."""

from __future__ import annotations

import pytest
import torch

from dollkit.classifiers.model import create
from dollkit.common.errors import InputError
from dollkit.interactive import quickstart


def test_the_median_film_is_explained() -> None:
    few = quickstart.phantom_films(96, 64, 7)
    model = create("tu-test_resnet", 3, "silu", "avg", 0, torch.device("cpu")).eval()
    for finding in ("Pleural Effusion", "Pneumothorax"):
        case = quickstart.explain(model, few, finding)
        parts = (case.image, case.map, case.label, case.truth)
        assert [part.shape for part in parts] == [(64, 64)] * 4
        assert set(case.label.ravel().tolist()) <= {0, 1, 255}
        assert (case.label == 1).any()
        assert case.map.max() == 1
        assert case.truth.any()
        assert 0 <= case.iou <= 1
        assert 0 < case.chance < 1
    with pytest.raises(InputError, match="has no place in the film"):
        quickstart.explain(model, few, "No Finding")
