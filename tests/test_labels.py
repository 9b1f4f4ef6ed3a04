"""The five steps from maps to labels, the label store, and the scores against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.filters import gaussian as skimage_gaussian

from dollkit import labels, quality
from dollkit.errors import InputError
from dollkit.findings import FINDINGS, UNCERTAIN
from dollkit.labels import Distil
from dollkit.labels import store as labelstore
from dollkit.losses import IGNORE


def blob(y: float, x: float, s: int = 32, sigma: float = 3.0) -> np.ndarray:
    yy, xx = np.mgrid[:s, :s]
    return np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2)).astype(np.float32)


def test_scale_clips_at_the_percentile() -> None:
    m = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10)
    out = labels.scale(m, "positive", 50.0)
    assert out.max() == 1.0
    assert (out == 1).sum() == 50
    assert out[0, 0, 0] == pytest.approx(1 / 50.5)


@pytest.mark.parametrize(("part", "expected"), [("positive", 0.0), ("magnitude", 1.0)])
def test_parts_treat_evidence_against_differently(part: str, expected: float) -> None:
    m = np.full((1, 4, 4), -2.0, np.float32)
    assert (labels.scale(m, part, 99.0) == expected).all()


def test_scale_of_nothing_is_nothing() -> None:
    m = np.zeros((2, 8, 8), np.float32)
    m[1, 0, 0] = np.nan
    assert (labels.scale(m, "magnitude", 99.5) == 0).all()


def test_a_sparse_map_is_scaled_by_its_maximum() -> None:
    m = np.zeros((1, 32, 32), np.float32)
    m[0, 3, 3] = 4.0
    assert labels.scale(m, "positive", 99.0)[0, 3, 3] == 1.0


def test_consensus_leaves_out_who_is_wrong_unless_all_are() -> None:
    maps = np.stack([np.full((2, 2, 2), v, np.float32) for v in (1.0, 3.0)])
    probability = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    agreed = labels.consensus(maps, probability, "agree")
    assert (agreed[0] == 1.0).all()  # only the first calls it
    assert (agreed[1] == 2.0).all()  # neither does: both count
    assert (labels.consensus(maps, probability, "all") == 2.0).all()


def test_boost_smooths_like_scikit_image() -> None:
    m = np.zeros((1, 32, 32), np.float32)
    m[0, 16, 16] = 1.0
    ours = labels.boost(m, 2 / 32)[0]
    theirs = skimage_gaussian(m[0], 2.0, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(ours, theirs / theirs.max(), atol=1e-5)


def test_threshold_bands_are_nested() -> None:
    m = blob(16, 16)[None]
    hi = labels.threshold(m, Distil())
    label = labels.to_label(m, hi, 0.5)[0]
    assert set(np.unique(label)) == {0, 1, IGNORE}
    assert (m[0][label == 1] >= hi[0]).all()
    assert (m[0][label == 0] < 0.5 * hi[0]).all()
    assert ((m[0][label == IGNORE] >= 0.5 * hi[0]) & (m[0][label == IGNORE] < hi[0])).all()


def test_quantile_threshold_takes_its_share() -> None:
    m = np.random.default_rng(0).random((1, 40, 40)).astype(np.float32)
    how = Distil(threshold="quantile", area=0.1, ignore=1.0)
    label = labels.to_label(m, labels.threshold(m, how), how.ignore)
    assert (label == 1).mean() == pytest.approx(0.1, abs=0.002)
    assert not (label == IGNORE).any()


def test_a_constant_map_is_all_ignored_never_guessed() -> None:
    maps = np.zeros((3, 1, 16, 16), np.float32)
    _, label, hi = labels.distil(maps, np.ones((3, 1), np.float32), Distil())
    assert (label == IGNORE).all()
    assert np.isnan(hi).all()


@pytest.mark.parametrize(
    "change",
    [{"part": "negative"}, {"trust": "some"}, {"threshold": "mean"}, {"percentile": 101.0},
     {"smooth": -0.1}, {"area": 0.0}, {"ignore": 1.5}],
)  # fmt: skip
def test_bad_label_settings_are_named(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Distil(**change)  # type: ignore[arg-type]


def pairs_of(rows: list[int], findings: list[str]) -> pd.DataFrame:
    n = len(rows)
    return pd.DataFrame(
        {"row": rows, "image_id": [f"film{r}" for r in rows], "finding": findings,
         "threshold": np.linspace(0.4, 0.6, n), "error": np.zeros(n), "probability": np.ones(n)}
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> tuple[labelstore.LabelStore, np.ndarray]:
    rng = np.random.default_rng(0)
    made = rng.choice(np.array([0, 1, IGNORE], np.uint8), (3, 16, 16))
    labelstore.write_shard(tmp_path / "a.npz", pairs_of([4, 4], ["Edema", "Fracture"]), made[:2])
    labelstore.write_shard(tmp_path / "b.npz", pairs_of([9], ["Edema"]), made[2:])
    whole = labelstore.merge(
        [tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "store", {"size": 16}
    )
    return whole, made


def test_label_store_gives_back_what_was_written(
    store: tuple[labelstore.LabelStore, np.ndarray],
) -> None:
    opened = labelstore.open(store[0].path)
    for i in range(3):
        np.testing.assert_array_equal(opened.label(i), store[1][i])
    assert opened.rows.tolist() == [4, 9]
    states = np.zeros((3, 14), np.int8)
    states[0, 2] = UNCERTAIN
    out = opened.targets(np.array([4, 9, 5]), states)
    np.testing.assert_array_equal(out[0, FINDINGS.index("Fracture")], store[1][1])
    np.testing.assert_array_equal(out[1, FINDINGS.index("Edema")], store[1][2])
    assert (out[0, 2] == IGNORE).all()
    assert out[2].sum() == 0


def test_label_store_notices_a_foreign_file(
    store: tuple[labelstore.LabelStore, np.ndarray],
) -> None:
    path = store[0].path
    np.save(path / "planes.npy", np.load(path / "planes.npy")[:2])
    with pytest.raises(InputError, match=r"planes.npy 2"):
        labelstore.open(path)
    (path / "labels.json").unlink()
    with pytest.raises(InputError, match="not a label store"):
        labelstore.open(path)


def test_a_broken_shard_is_not_taken_for_done(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert labelstore.shard_key(path) is None
    labelstore.write_shard(path, pairs_of([1], ["Edema"]), np.zeros((1, 8, 8), np.uint8), "k")
    assert labelstore.shard_key(path) == "k"
    path.write_bytes(path.read_bytes()[:100])
    assert labelstore.shard_key(path) is None
    with pytest.raises(InputError, match=r"a\.npz"):
        labelstore.merge([path], tmp_path / "store", {"size": 8})


def test_matched_area_has_the_area_of_the_truth() -> None:
    truth = (blob(10, 20) > 0.5).astype(np.uint8)[None]
    perfect = quality.matched(blob(10, 20)[None], truth)
    np.testing.assert_array_equal(perfect, truth)
    elsewhere = quality.matched(blob(28, 4)[None], truth)
    assert elsewhere.sum() == truth.sum()
    assert quality.iou(elsewhere, truth)[0] == 0


def test_a_constant_map_scores_chance() -> None:
    truth = np.zeros((1, 64, 64), np.uint8)
    truth[0, :16] = 1
    flat = np.zeros((1, 64, 64), np.float32)
    chance = quality.iou_chance(truth)[0]
    assert chance == pytest.approx(0.25 / 1.75)
    assert quality.iou_matched(flat, truth)[0] == pytest.approx(chance, abs=0.03)


def test_chance_is_what_random_masks_reach() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 40), np.uint8)
    truth[0, 5:15, 5:25] = 1
    drawn = [
        quality.iou_matched(rng.random((1, 40, 40)).astype(np.float32), truth)[0]
        for _ in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(quality.iou_chance(truth)[0], abs=0.005)


def test_hit_precision_recall() -> None:
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[0, 2:4, 2:6] = 1
    label = np.zeros((1, 8, 8), np.uint8)
    label[0, 2:4, 4:8] = 1
    label[0, 2, 2] = IGNORE
    precision, recall = quality.precision_recall(label, truth)
    assert (precision[0], recall[0]) == (0.5, 0.5)
    assert quality.hit((truth * 1.0).astype(np.float32), truth)[0]
    assert not quality.hit((label == 1)[:, ::-1].astype(np.float32), truth)[0]


def test_prior_never_sees_its_own_patient() -> None:
    truth = np.stack([np.eye(4, dtype=np.uint8)] * 2 + [np.ones((4, 4), np.uint8)])
    patients = np.array(["a", "a", "b"], object)
    prior = quality.prior_maps(truth, patients)
    np.testing.assert_array_equal(prior[0], np.ones((4, 4)))
    np.testing.assert_array_equal(prior[2], np.eye(4))
    given = quality.prior_maps(truth, patients, np.zeros((5, 4, 4), np.uint8))
    assert given.sum() == 0
