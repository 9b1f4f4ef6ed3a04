"""Edges from the film, rules of single findings, their tuning, and baselines by finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit import labels
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.explanations import ensemble
from dollkit.labels import Distil, steps, threshold_rules, tuning
from dollkit.labels.threshold_rules import Rule
from dollkit.training import metrics

S = 40


def disc(y: float, x: float, r: float, s: int = S) -> np.ndarray:
    yy, xx = np.mgrid[:s, :s]
    return ((yy - y) ** 2 + (xx - x) ** 2 <= r * r).astype(np.uint8)


def bump(y: float, x: float, sigma: float) -> np.ndarray:
    yy, xx = np.mgrid[:S, :S]
    return np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2)).astype(np.float32)


def test_refine_on_a_flat_film_is_the_mean_of_means() -> None:
    maps = bump(20, 20, 4)[None]
    films = np.full((1, S, S), 90, np.uint8)
    out = steps.refine(maps, films, 2 / S)[0]
    # No edge: slope 0, so that each pixel is the mean of 5 x 5 means of 5 x 5.
    padded = np.pad(maps[0].astype(float), 4, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean((2, 3))
    twice = np.lib.stride_tricks.sliding_window_view(windows, (5, 5)).mean((2, 3))
    np.testing.assert_allclose(out, twice / twice.max(), atol=1e-4)


def test_refine_of_the_film_itself_keeps_its_edge() -> None:
    film = disc(20, 20, 8)
    maps = film.astype(np.float32)[None]
    out = steps.refine(maps, (film * 200)[None], 3 / S)[0]
    # Slope is var / (var + EDGE) of the film in [0, 1]: near one at the edge.
    assert out[film == 1].min() > 0.95
    assert out[film == 0].max() < 0.05


def test_refine_sharpens_a_map_that_spills_over_the_edge() -> None:
    truth = disc(20, 20, 6)[None]
    film = (60 + 120 * truth).astype(np.uint8)
    spilt = bump(20, 22, 6)[None]
    before = metrics.iou_matched(spilt, truth)[0]
    after = metrics.iou_matched(steps.refine(spilt, film, 4 / S), truth)[0]
    assert before < 0.85 < 0.97 < after


def test_refine_can_be_switched_off_and_keeps_zeros() -> None:
    maps = np.stack([bump(9, 9, 3), np.zeros((S, S), np.float32)])
    films = np.random.default_rng(0).integers(0, 256, (2, S, S), dtype=np.uint8)
    assert steps.refine(maps, films, 0.0) is maps
    assert not steps.refine(maps, films, 0.05)[1].any()
    assert steps.refine(maps[:0], films[:0], 0.05).shape == (0, S, S)


def test_guide_without_films_says_so() -> None:
    maps = np.ones((1, 1, S, S), np.float32)
    with pytest.raises(InputError, match=r"guide.*pass films"):
        labels.distil(maps, np.ones((1, 1), np.float32), Distil(guide=0.04))


def test_boost_takes_one_sigma_per_map() -> None:
    maps = np.zeros((3, S, S), np.float32)
    maps[:, 20, 20] = 1
    out = steps.boost(maps, np.array([0.0, 2 / S, 0.0]))
    np.testing.assert_array_equal(out[0], maps[0])
    np.testing.assert_array_equal(out[2], maps[0])
    np.testing.assert_allclose(out[1], steps.boost(maps[1:2], 2 / S)[0])


@pytest.mark.parametrize(
    ("text", "rule"),
    [("otsu", Rule("otsu")), ("peak 0.5", Rule("peak", 0.5)),
     (" quantile 0.02", Rule("quantile", 0.02)), (0.4, Rule("peak", 0.4)),
     ("0.4", Rule("peak", 0.4))],
)  # fmt: skip
def test_rules_are_read_and_written(text: float | str, rule: Rule) -> None:
    assert threshold_rules.parse(text) == rule
    assert threshold_rules.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["mean", "peak", "peak 1.2", "otsu 0.3", 0.0, 1.0, "nan", ""])
def test_bad_rules_are_named(text: float | str) -> None:
    with pytest.raises(InputError, match="use a share of the maximum"):
        threshold_rules.parse(text)


def test_rule_levels() -> None:
    m = np.linspace(0, 2, 101, dtype=np.float32).reshape(1, 101)
    assert Rule("peak", 0.25).level(m) == pytest.approx(0.5)
    assert (m >= Rule("quantile", 0.1).level(m)).sum() == pytest.approx(10, abs=1)
    two = np.array([[0.1] * 50 + [0.9] * 50], np.float32)
    assert 0.1 <= Rule("otsu").level(two) < 0.9


def test_tuned_thresholds_are_each_findings_own() -> None:
    how = Distil(
        threshold="tuned", thresholds={"Fracture": 0.5, "other": "quantile 0.1"},
        smooths={"Fracture": 0.0}, ignore=1.0,
    )  # fmt: skip
    assert (how.rule("Fracture"), how.rule("Edema")) == (Rule("peak", 0.5), Rule("quantile", 0.1))
    assert (how.sigma("Fracture"), how.sigma("Edema")) == (0.0, how.smooth)
    maps = np.repeat(bump(20, 20, 5)[None], 2, 0)
    hi = labels.threshold(maps, how, ["Fracture", "Edema"])
    assert hi[0] == pytest.approx(0.5)
    assert (maps[1] >= hi[1]).mean() == pytest.approx(0.1, abs=0.01)
    with pytest.raises(InputError, match="finding of each map"):
        labels.threshold(maps, how)


def test_without_rules_of_its_own_tuned_takes_the_shipped_file() -> None:
    how = Distil(threshold="tuned")
    assert set(PATHOLOGIES) | {"other"} == set(how.thresholds)
    assert how == Distil(threshold="tuned", thresholds=str(threshold_rules.PHANTOM))
    shipped = pd.read_csv(threshold_rules.PHANTOM)
    assert list(shipped) == threshold_rules.COLUMNS
    assert (shipped["iou"] >= shipped["iou_otsu"] - 1e-9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"thresholds": {"Oedema": 0.5}}, "unknown finding 'Oedema'"),
     ({"thresholds": {"Edema": "half"}}, "thresholds', Edema"),
     ({"thresholds": {"Edema": 0.5}, "smooths": {"Edema": 2.0}}, "smooths', Edema"),
     ({"thresholds": "nowhere.csv"}, "nowhere.csv: no readable thresholds file"),
     ({"threshold": "otsu", "thresholds": {"Edema": 0.5}}, "use tuned")],
)  # fmt: skip
def test_bad_tuned_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distil(**({"threshold": "tuned"} | change))  # type: ignore[arg-type]


def test_thresholds_file_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame(
        [("Edema", "peak 0.15", 0.03, 0.5, 0.4, 9), ("other", "otsu", 0.02, 0.3, 0.3, 9)],
        columns=threshold_rules.COLUMNS,
    )
    path = tmp_path / "thresholds.csv"
    threshold_rules.write(table, path)
    found = threshold_rules.read(path)
    assert found["thresholds"] == {"Edema": "peak 0.15", "other": "otsu"}
    assert found["smooths"] == {"Edema": 0.03, "other": 0.02}
    assert Distil(threshold="tuned", thresholds=str(path)).sigma("Fracture") == 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [("finding,level\nEdema,0.5\n", "column 'rule' is missing"),
     ("finding,rule\nEdema,0.5\nEdema,0.4\n", "'Edema' stands there twice"),
     ("finding,rule\nEdema,0.5\nFracture,loud\n", "row 3, column 'rule'"),
     ("finding,rule,smooth\nEdema,0.5,wide\n", "row 2, column 'smooth'"),
     ("finding,rule\nOedema,0.5\n", "unknown finding"),
     ("", "not a CSV file")],
)  # fmt: skip
def test_a_bad_thresholds_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"t.csv.*{message}"):
        threshold_rules.read(path)


def tuning_case(n: int = 6) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Lesions under a peak of a tenth of the film, fractures drawn as the top 1 %."""
    rng = np.random.default_rng(0)
    maps, names, truth = [], [], []
    for _ in range(n):
        y, x = rng.uniform(12, 28, 2)
        for name, share in (("Lung Lesion", 0.3), ("Fracture", 0.9)):
            m = bump(y, x, 6) + 0.3 * bump(x, y, 12)
            maps.append(m)
            names.append(name)
            truth.append((m >= share * m.max()).astype(np.uint8))
    films = np.full((2 * n, S, S), 90, np.uint8)
    return np.stack(maps)[None], names, films, np.stack(truth)


def test_threshold_settings_from_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threshold_rules.settings("otsu") == {"threshold": "otsu"}
    assert threshold_rules.settings("peak 0.4") == {"threshold": "peak", "level": 0.4}
    assert threshold_rules.settings("quantile 0.05") == {"threshold": "quantile", "area": 0.05}
    assert Distil(**threshold_rules.settings("tuned")) == Distil(threshold="tuned")  # type: ignore[arg-type]
    path = tmp_path / "mine.csv"
    path.write_text("finding,rule\nother,peak 0.3\n")
    own = Distil(**threshold_rules.settings(str(path)))  # type: ignore[arg-type]
    assert own.rule("Edema") == Rule("peak", 0.3)
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # wherever a kernel works
    assert Distil(**threshold_rules.settings("mine.csv")) == own  # type: ignore[arg-type]
    for bad in ("peak", "tune", "quantile 2"):
        with pytest.raises(InputError, match="parameter 'threshold' is"):
            threshold_rules.settings(bad)


def test_tune_finds_the_levels_that_made_the_masks() -> None:
    maps, names, films, truth = tuning_case()
    how = Distil(smooth=0.0, guide=0.0, percentile=100.0)
    probability = np.ones((1, len(names)), np.float32)
    table = tuning.tune(maps, probability, how, names, films, truth).set_index("finding")
    assert list(table.index) == ["Lung Lesion", "Fracture", "other"]
    assert table.loc["Lung Lesion", "rule"] == "peak 0.3"
    assert table.loc["Fracture", "rule"] == "peak 0.9" or "0.0" in table.loc["Fracture", "rule"]
    assert (table.loc[["Lung Lesion", "Fracture"], "iou"] > 0.85).all()
    assert (table["iou"] >= table["iou_otsu"]).all()
    assert table["n"].tolist() == [6, 6, 12]
    # What it says is what `distil` then gives.
    own = Distil(
        threshold="tuned", thresholds=table["rule"].to_dict(), smooths=table["smooth"].to_dict(),
        percentile=100.0, guide=0.0,
    )  # fmt: skip
    _, label, _ = labels.distil(maps, probability, own, names, films)
    overlap = metrics.iou_of_masks((label == 1).astype(np.uint8), truth)
    lesion = np.array(names) == "Lung Lesion"
    assert overlap[lesion].mean() == pytest.approx(table.loc["Lung Lesion", "iou"], abs=1e-6)


def test_a_finding_with_too_few_films_gets_the_rule_of_the_others() -> None:
    maps, names, films, truth = tuning_case()
    names[0] = "Edema"
    probability = np.ones((1, len(names)), np.float32)
    table = tuning.tune(maps, probability, Distil(), names, films, truth).set_index("finding")
    assert table.loc["Edema", "n"] == 1 < tuning.FEWEST
    assert table.loc["Edema", "rule"] == table.loc["other", "rule"]
    assert table.loc["Edema", "smooth"] == table.loc["other", "smooth"]


def test_nothing_to_tune_on_is_an_error() -> None:
    maps, names, films, truth = tuning_case(1)
    with pytest.raises(InputError, match="no tuning film has a mask"):
        tuning.tune(maps, np.ones((1, 2), np.float32), Distil(), names, films, truth * 0)


def test_baselines_apart_cover_every_pair_once() -> None:
    dark, bright = FINDINGS.index("Pneumothorax"), FINDINGS.index("Edema")
    targets = [[bright, dark], [], [dark], [2, bright]]
    found = {kind: (own, at.tolist()) for kind, own, at in ensemble.baseline_parts(targets)}
    assert found["white"] == ([[dark], [], [dark], []], [1, 2])
    assert found["black"] == ([[bright], [], [], [2, bright]], [0, 3, 4])
    assert ensemble.baseline_parts([[], []]) == []
