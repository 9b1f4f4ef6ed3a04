"""The quickstart's own steps, on a network that has learned nothing."""

from __future__ import annotations

import pytest
import torch

from dollkit.common.errors import InputError
from dollkit.interactive import quickstart
from dollkit.training.classifiers import create


@pytest.mark.parametrize("finding", ["Pleural Effusion", "Pneumothorax"])
def test_the_median_film_is_explained(finding: str) -> None:
    few = quickstart.phantom_films(96, 64, 7)
    model = create("tu-test_resnet", 3, "silu", "avg", 0, torch.device("cpu")).eval()
    case = quickstart.explain(model, few, finding)
    assert case.image.shape == case.map.shape == case.label.shape == case.truth.shape == (64, 64)
    assert set(case.label.ravel().tolist()) <= {0, 1, 255}
    assert (case.label == 1).any()
    assert case.map.max() == 1
    assert case.truth.any()
    assert 0 <= case.iou <= 1
    assert 0 < case.chance < 1


def test_what_has_no_place_is_named() -> None:
    few = quickstart.phantom_films(32, 64, 7)
    model = create("tu-test_resnet", 3, "silu", "avg", 0, torch.device("cpu")).eval()
    with pytest.raises(InputError, match="has no place in the film"):
        quickstart.explain(model, few, "No Finding")
