"""The six steps from maps to labels, and the threshold rules of single findings."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.filters import gaussian as skimage_gaussian

from dollkit.common import paths
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.images import IGNORE
from dollkit.labels import maps_to_labels as steps
from dollkit.labels.maps_to_labels import LabelSettings, Rule
from dollkit.training import metrics
from tests.label_films import bump
from tests.small_files import error_of

S = 40


def disc(r: float) -> np.ndarray:
    y, x = np.mgrid[:S, :S] - 20
    return (y**2 + x**2 <= r * r).astype(np.uint8)


def test_scale_of_evidence_against_of_nothing_and_of_a_single_pixel() -> None:
    against = np.full((1, 4, 4), -2.0, np.float32)
    assert (steps.scale(against, "positive", 99.0) == 0).all()
    assert (steps.scale(against, "magnitude", 99.0) == 1).all()
    m = np.zeros((2, 32, 32), np.float32)
    m[0, 0, 0], m[1, 3, 3] = np.nan, 4.0
    out = steps.scale(m, "magnitude", 99.0)
    assert (out[0] == 0).all()
    assert out[1, 3, 3] == 1  # its percentile is zero: the maximum is the scale


def test_consensus_leaves_out_who_is_wrong_unless_all_are() -> None:
    maps = np.stack([np.full((2, 2, 2), v, np.float32) for v in (1.0, 3.0)])
    probability = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    agreed = steps.consensus(maps, probability, "agree")
    assert (agreed[0] == 1.0).all()  # only the first calls it
    assert (agreed[1] == 2.0).all()  # neither does: both count
    assert (steps.consensus(maps, probability, "all") == 2.0).all()


def test_each_map_is_smoothed_like_scikit_image_by_its_own_sigma() -> None:
    maps = np.zeros((3, S, S), np.float32)
    maps[:, 20, 20] = 1
    out = steps.smooth(maps, np.array([0.0, 2 / S, 0.0]))
    theirs = skimage_gaussian(maps[1], 2.0, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(out[1], theirs / theirs.max(), atol=1e-5)
    np.testing.assert_array_equal(out[[0, 2]], maps[[0, 2]])


def test_refine_on_a_flat_film_is_the_mean_of_means() -> None:
    maps = bump(20, 20, 4)[None]
    out = steps.refine(maps, np.full((1, S, S), 90, np.uint8), 2 / S)[0]
    # No edge: slope 0, so that each pixel is the mean of 5 x 5 means of 5 x 5.
    padded = np.pad(maps[0].astype(float), 4, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean((2, 3))
    twice = np.lib.stride_tricks.sliding_window_view(windows, (5, 5)).mean((2, 3))
    np.testing.assert_allclose(out, twice / twice.max(), atol=1e-4)


def test_refine_keeps_to_the_edges_of_the_film() -> None:
    film = disc(8)
    out = steps.refine(film.astype(np.float32)[None], (film * 200)[None], 3 / S)[0]
    # Slope is var / (var + EDGE) of the film in [0, 1]: near one at the edge.
    assert out[film == 1].min() > 0.95
    assert out[film == 0].max() < 0.05
    truth = disc(6)[None]
    spilt = bump(20, 22, 6)[None]
    refined = steps.refine(spilt, (60 + 120 * truth).astype(np.uint8), 4 / S)
    assert metrics.iou_matched(spilt, truth)[0] < 0.85
    assert metrics.iou_matched(refined, truth)[0] > 0.97


def test_each_finding_is_cut_by_its_own_rule_and_a_constant_map_is_all_ignored() -> None:
    settings = LabelSettings(
        threshold="tuned", thresholds={"Fracture": 0.5, "other": "quantile 0.1"},
        smooths={"Fracture": 0.0}, guide=0.0, ignore=0.5,
    )  # fmt: skip
    assert settings.rule("Edema") == Rule("quantile", 0.1)
    assert (settings.sigma("Fracture"), settings.sigma("Edema")) == (0.0, settings.smooth)
    signed = np.stack([bump(20, 20, 5), bump(20, 20, 5), np.zeros((S, S), np.float32)])[None]
    maps, label, thresholds = steps.maps_to_labels(
        signed, np.ones((1, 3), np.float32), settings, ["Fracture", "Edema", "Edema"],
        np.zeros((3, S, S), np.uint8),
    )  # fmt: skip
    assert thresholds[0] == pytest.approx(0.5)
    assert (maps[1] >= thresholds[1]).mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(label[0] == 1, maps[0] >= 0.5)
    np.testing.assert_array_equal(label[0] == 0, maps[0] < 0.25)
    assert np.isnan(thresholds[2])
    assert (label[2] == IGNORE).all()


def test_bad_settings_are_named() -> None:
    for change, message in (
        ({"part": "negative"}, "part"),
        ({"percentile": 101.0}, "percentile"),
        ({"thresholds": "no.csv"}, "no.csv: no such file"),
        ({"threshold": "otsu", "thresholds": {"Edema": 0.5}}, "use tuned"),
    ):
        assert message in error_of(LabelSettings, **{"threshold": "tuned", **change})


def test_rules_are_read_and_written() -> None:
    half, share = Rule("peak", 0.5), Rule("quantile", 0.02)
    assert {steps.parse_rule(text) for text in (0.5, "0.5", "peak 0.5")} == {half}
    assert steps.parse_rule(" quantile 0.02") == share
    for rule in (half, share, Rule("otsu")):
        assert steps.parse_rule(str(rule)) == rule
    for bad in ("peak", "peak 1.2", "otsu 0.3", 0.0, "nan"):
        assert "use a share of the maximum" in error_of(steps.parse_rule, bad)


def test_settings_from_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.csv").write_text("finding,rule\nother,peak 0.3\n")
    tuned = LabelSettings(**steps.threshold_settings("tuned"))
    assert set(tuned.thresholds) == {*PATHOLOGIES, "other"}
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # wherever a kernel works
    texts = ("peak 0.4", "mine.csv", str(tmp_path / "mine.csv"))
    peak, *mine = (LabelSettings(**steps.threshold_settings(text)) for text in texts)
    assert peak == LabelSettings(threshold="peak", level=0.4)
    assert [settings.rule("Edema") for settings in mine] == [Rule("peak", 0.3)] * 2


def test_thresholds_file(tmp_path: Path) -> None:
    rows = ("Edema", "peak 0.15", 0.03, 0.5, 0.4, 9), ("other", "otsu", np.nan, 0.3, 0.3, 9)
    path = tmp_path / "thresholds.csv"
    steps.write_rules(pd.DataFrame(rows, columns=steps.RULE_COLUMNS), path)
    rules = {"Edema": "peak 0.15", "other": "otsu"}
    assert steps.read_rules(path) == {"thresholds": rules, "smooths": {"Edema": 0.03}}
    bad = {
        "finding,level\nEdema,0.5\n": "column 'rule' is missing",
        "finding,rule\nEdema,0.5\nEdema,0.4\n": "row 3, column 'finding': value 'Edema'",
        "finding,rule\nEdema,0.5\nFracture,loud\n": "row 3, column 'rule'",
        "finding,rule\nOedema,0.5\n": "row 2, column 'finding': value 'Oedema'",
        "finding,rule,smooth\nEdema,0.5,2\n": "row 2, column 'smooth': value '2'",
    }
    for text, message in bad.items():
        path.write_text(text)
        assert re.search(f"thresholds.csv.*{message}", error_of(steps.read_rules, path))
