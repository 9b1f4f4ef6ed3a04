"""Perturbed films: identities, known answers, and counts that leave ignored pixels out."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from dollkit.data.images import IGNORE
from dollkit.finetuning import robustness
from dollkit.finetuning.robustness import KINDS, judge, pairs_of, perturb
from dollkit.report import rows as cases
from tests.small_files import error_of

U8 = npt.NDArray[np.uint8]


def _films(n: int = 3, side: int = 32) -> tuple[U8, U8]:
    rng = np.random.default_rng(side)
    images = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
    return images, rng.choice(np.array([0, 1, IGNORE], np.uint8), (n, 2, side, side))


@pytest.mark.parametrize("name", list(KINDS))
def test_the_identity_level_gives_the_same_bytes(name: str) -> None:
    images, targets = _films(side=37)
    films, masks = perturb(images, targets, name, KINDS[name].identity, range(3))
    assert films.dtype == masks.dtype == np.uint8
    np.testing.assert_array_equal(films, images)
    np.testing.assert_array_equal(masks, targets)


@pytest.mark.parametrize(("turns", "side"), [(1, 32), (-1, 37)])
def test_right_angles_are_rot90(turns: int, side: int) -> None:
    images, targets = _films(side=side)
    films, masks = perturb(images, targets, "rotation", 90.0 * turns, range(3))
    np.testing.assert_array_equal(films, np.rot90(images, turns, (1, 2)))
    np.testing.assert_array_equal(masks, np.rot90(targets, turns, (2, 3)))


def test_what_comes_from_outside_is_black_and_ignored() -> None:
    """At 45 degrees a square keeps 2 (sqrt 2 - 1) of its area; corners are gone, the middle not."""
    side = 201
    film, mask = np.full((1, side, side), 200, np.uint8), np.ones((1, 2, side, side), np.uint8)
    films, masks = perturb(film, mask, "rotation", 45.0, [0])
    outside = masks[0, 0] == IGNORE
    # Pixels are counted by their centres: wrong by at most half of those that the edges cross.
    kept = 2 * (math.sqrt(2) - 1)
    assert 1 - outside.mean() == pytest.approx(kept, abs=4 * math.sqrt(2) * side / side**2 / 2)
    np.testing.assert_array_equal(masks[0, 1], masks[0, 0])
    assert set(np.unique(masks)) == {1, IGNORE}
    assert outside[0, 0]
    assert films[0, 0, 0] == 0
    assert (films[0][~outside] == 200).mean() > 0.98  # all but the rim


def test_contrast_and_window_by_hand() -> None:
    images = np.array([[[0, 127, 128, 255]]], np.uint8).repeat(4, 1)
    targets = np.zeros((1, 1, 4, 4), np.uint8)
    # 127.5 + 0.5 (g - 127.5) = 63.75, 127.25, 127.75, 191.25
    for level, greys in ((0.5, [64, 127, 128, 191]), (2.0, [0, 126, 128, 255])):
        films, same = perturb(images, targets, "contrast", level, [0])
        assert films[0, 0].tolist() == greys
        assert same is targets
    # 12 bits divided by the range of 16, as a reader of DICOM does without a window.
    stored = np.array([0, 257, 2056, 4095])
    grey = np.tile(np.rint(255 * stored / 4095).astype(np.uint8), (1, 4, 1))
    films, _ = perturb(grey, targets, "window", 0.0625, [0])
    assert films[0, 0].tolist() == np.rint(255 * stored / 65535).astype(int).tolist()


def test_noise_has_its_standard_deviation_and_is_keyed_by_row_and_level_alone() -> None:
    images, targets = np.full((3, 256, 256), 128, np.uint8), np.zeros((3, 1, 256, 256), np.uint8)
    both, _ = perturb(images, targets, "noise", 20.0, [7, 8, 7])
    # Rounding adds 1/12 to the variance; four standard errors of mean and spread.
    noise, spread = both[0].astype(float) - 128, math.sqrt(20.0**2 + 1 / 12)
    assert abs(noise.mean()) < 4 * spread / 256
    assert abs(noise.std() / spread - 1) < 4 / math.sqrt(2 * 256**2)
    np.testing.assert_array_equal(both[0], both[2])
    alone, _ = perturb(images[:1], targets[:1], "noise", 20, [8])
    np.testing.assert_array_equal(alone[0], both[1])
    stronger, _ = perturb(images, targets, "noise", 40.0, [7, 8, 7])
    for other in (both[1], stronger[0]):
        assert abs(np.corrcoef(both[0].ravel(), other.ravel())[0, 1]) < 5 / 256


def test_cells_keep_their_order_and_bad_ones_are_named() -> None:
    asked = [("window", 0.5), ("noise", 5.0), ("noise", 2.5)]
    assert pairs_of({"window": [0.5], "noise": [5, 2.5]}) == asked
    for given, message in (
        ({"nois": [5.0]}, "names 'nois': did you mean 'noise'"),
        ({"noise": []}, "has no level for 'noise'"),
        ({"noise": [math.nan]}, "level nan must be a number from 0 to 128"),
        ({"window": [1.0]}, "level 1.0 is the untouched film"),
        ({"rotation": [5, 10, 5.0]}, "'rotation': level 5.0 is named twice"),
    ):
        assert re.search(f"parameter 'robustness'.*{message}", error_of(pairs_of, given))


def _bright(films: U8) -> U8:
    """A network that finds class 0 where it is bright and class 1 where it is dark."""
    return np.stack([films >= 100, films < 100], 1).astype(np.uint8)


def test_judge_by_hand() -> None:
    """Left half bright; its first column ignored. A quarter of the range leaves nothing bright."""
    images = np.zeros((2, 8, 8), np.uint8)
    images[:, :, :4] = 200
    targets = _bright(images)
    targets[:, 0, :, 0] = IGNORE
    counts = judge(_bright, images, targets, {"window": [0.5, 0.25], "rotation": [90.0]}, [0, 1])
    assert counts.shape == (3, 3, 2, 2)
    # At 200 / 2 all is as before: 3 of 4 bright columns count, and no false positive is ignored.
    # At 50 all is dark: 24 bright pixels missed; dark: 32 right, 32 too many.
    same, dark = [[24, 0, 0], [32, 0, 0]], [[0, 0, 24], [32, 32, 0]]
    assert [c[:, 0].T.tolist() for c in counts] == [same, dark, same]
    np.testing.assert_array_equal(counts[:, :, 0], counts[:, :, 1])


def test_rows_name_every_count_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = _films()
    given = {"noise": [20.0], "contrast": [0.25, 0.5]}
    counts = judge(_bright, images, targets, given, [3, 14, 15])
    monkeypatch.setattr(robustness, "BATCH", 2)
    np.testing.assert_array_equal(judge(_bright, images, targets, given, [3, 14, 15]), counts)
    plain = pd.DataFrame(dict.fromkeys(cases.CASE_COLUMNS, 0), index=range(6))
    plain["image_id"], plain["class"] = np.repeat(["a", "b", "c"], 2), ["bright", "dark"] * 3
    frame = robustness.frame(plain, counts, given)
    assert list(frame) == [*cases.CASE_COLUMNS, "perturbation", "level"]
    keyed = frame.set_index(["perturbation", "level", "image_id", "class"])
    for k, (name, level) in enumerate(pairs_of(given)):
        for film, c in np.ndindex(3, 2):
            row = keyed.loc[(name, level, "abc"[film], ["bright", "dark"][c])]
            tp, fp, fn = counts[k, :, film, c]
            assert [row["tp"], row["fp"], row["fn"]] == [tp, fp, fn]
            assert row["iou"] == tp / (tp + fp + fn)
            assert row["dice"] == 2 * tp / (2 * tp + fp + fn)
