"""The linear probe and the anatomy prior on sets whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dollkit.classifiers import difficulty
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.films import COLUMNS
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter

from .test_segmentation import films_table


def test_thumbnails_are_block_means() -> None:
    image = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32)
    made = difficulty.thumbnails(image)
    assert made.shape == (1, 256)
    assert made[0, 0] == pytest.approx(image[0, :2, :2].mean())
    assert made[0, 17] == pytest.approx(image[0, 2:4, 2:4].mean())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Edema brightens one corner; Fracture is a coin; both have the same fixed mask."""
    n = 160
    rng = np.random.default_rng(0)
    table = films_table(n)[list(COLUMNS)]
    images = rng.integers(0, 60, (n, 64, 64)).astype(np.uint8)
    images[(table["Edema"] == 1).to_numpy(), :16, :16] += 60
    masks = np.zeros((n, len(PATHOLOGIES), 64, 64), np.uint8)
    for f in ("Edema", "Fracture"):
        masks[(table[f] == 1).to_numpy(), PATHOLOGIES.index(f), :16, :16] = 1
    with StoreWriter(tmp_path / "films", 64, list(PATHOLOGIES), n, {"test": 1}) as out:
        out.write(0, images, masks, np.ones((n, len(PATHOLOGIES)), bool))
        out.finish(table)
    return open_store(tmp_path / "films")


def test_probe_finds_what_is_linear_and_nothing_else(store: Store) -> None:
    made = difficulty.linear_probe(store).set_index("finding")["auroc"]
    assert made["Edema"] == 1.0
    assert 0.2 < made["Fracture"] < 0.8
    assert set(made.index) <= set(FINDINGS)


def test_prior_is_perfect_on_a_finding_that_never_moves(store: Store) -> None:
    made = difficulty.prior_overlap(store).set_index("finding")
    assert made.loc["Edema", "iou_prior"] == 1.0
    assert not made.loc["Edema", "mobile"]
    assert made.loc["Fracture", "mobile"]
    whole = difficulty.table(store)
    assert whole["finding"].iloc[-1] == "macro"
