"""Judging: variants, energy, occlusion, tuning on a store, CheXlocalize's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dollkit.classifiers import model as classifiers
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.film_table import blank_films
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.explanations import explain
from dollkit.explanations.ensemble import Explain
from dollkit.labels import Distil, chexlocalize, judge
from dollkit.labels import summary as labelquality
from dollkit.labels.threshold_rules import Rule
from dollkit.training import metrics

pytestmark = pytest.mark.usefixtures("one_thread")


def square(s: int, top: int, left: int, side: int) -> np.ndarray:
    m = np.zeros((s, s), np.uint8)
    m[top : top + side, left : left + side] = 1
    return m


def test_energy_is_the_share_of_the_sum() -> None:
    truth = square(8, 0, 0, 4)[None].repeat(3, 0)
    maps = np.ones((3, 8, 8), np.float32)
    maps[1] = truth[1] * 2.0 - 1.0  # negative outside
    maps[2] = 0
    share = metrics.energy(maps, truth)
    assert share[0] == pytest.approx(metrics.area(truth)[0]) == 0.25
    assert share[1] == 1.0
    assert np.isnan(share[2])


class Corner(nn.Module):
    """Output c is the sum of the film's quarter c, of four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.shape[-1] // 2
        quarters = [x[..., a : a + h, b : b + h].sum((1, 2, 3)) for a in (0, h) for b in (0, h)]
        return torch.stack(quarters, 1)


def test_occlusion_points_at_the_quarter_that_counts() -> None:
    x = torch.zeros(3, 1, 24, 24)
    x[:, :, :12, :12] = 1.0
    x[2] *= 3
    made = explain("occlusion", Corner().eval(), x, [[0, 3], [], [0]], precision="float32")
    maps, logit = made.maps, made.logit
    assert made.settled.all()
    assert made.error.isnan().all()
    assert maps.shape == (3, 24, 24)
    np.testing.assert_allclose(logit.numpy(), [144.0, 0.0, 432.0])
    # Windows of 3 hidden by the film's mean (a quarter): the sum falls by 9 * 0.75 inside.
    assert maps[0, 4, 4].item() == pytest.approx(9 * 0.75, rel=1e-4)
    assert maps[2, 4, 4].item() == pytest.approx(3 * 9 * 0.75, rel=1e-4)
    assert maps[0, 20, 20].abs().item() < 1e-4
    assert maps[1, 20, 20].item() < 0  # there the mean is brighter than the film
    assert explain("occlusion", Corner(), x[:1], [[]]).maps.shape == (0, 24, 24)


def test_variants_share_explanations_and_change_one_factor() -> None:
    how = Explain(steps=4)
    settings = Distil(threshold="tuned", guide=0.04)
    found = judge.variants(["a", "b", "c"], how, settings, occluded=8)
    assert found[0].name == "shipped"
    assert len({v.name for v in found}) == len(found)
    by = {v.name: v for v in found}
    assert by["explainer=occlusion"].films == 8
    assert by["guide=0"].distil == Distil(threshold="tuned", guide=0.0)
    assert by["threshold=otsu"].distil.rule("Fracture") == Rule("otsu")
    assert by["threshold=otsu"].distil.sigma("Fracture") == settings.sigma("Fracture")
    assert by["smooth=0.03"].distil.sigma("Fracture") == 0.03
    # The shipped one, two other numbers of steps, three other baselines, three other explainers.
    assert len({v.explain for v in found}) == 9
    assert not any(v.value == "occlusion" for v in judge.variants(["a"], how, settings))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Films with a bright square where Lung Lesion or Fracture is."""
    n, s = 18, 32
    rng = np.random.default_rng(0)
    films = blank_films(n)
    films["image_id"] = [f"f{i:02d}" for i in range(n)]
    films["patient_id"] = [f"p{i:02d}" for i in range(n)]
    films["split"] = ["train", "valid", "test"] * (n // 3)
    names = ("Lung Lesion", "Fracture")
    films[list(FINDINGS)] = 0.0
    with StoreWriter(tmp_path / "films", s, names, n, {"source": "test"}) as writer:
        for i in range(n):
            masks = np.zeros((1, 2, s, s), np.uint8)
            which = i // 3 % 2
            masks[0, which] = square(s, int(rng.integers(4, 20)), int(rng.integers(4, 20)), 6)
            films.loc[i, names[which]] = 1.0
            grey = rng.integers(60, 80, (1, s, s)) + 120 * masks[:, which]
            writer.write(i, grey.astype(np.uint8), masks)
        writer.finish(films)
    return open_store(tmp_path / "films")


def test_judge_scores_every_variant_and_few_films_where_asked(store: Store) -> None:
    model = classifiers.create("tu-resnet10t", 2, "silu", "avg", 0, torch.device("cpu")).eval()
    models = {"a": model, "b": model}
    how, settings = Explain(steps=1), Distil(threshold="tuned", guide=0.04)
    table = judge.tuned(models, store, judge.judged_rows(store, "valid", 9), how, settings)
    assert table is not None
    assert table["n"].tolist() == [3, 3, 6]
    wanted = judge.variants(list(models), how, settings, occluded=4)
    rows = judge.judged_rows(store, "test", 9)
    made = judge.judge(models, store, rows, wanted, judge.reference_rows(store))
    assert set(judge.CASE_COLUMNS) == set(made.cases)
    counts = made.cases.groupby("variant")["image_id"].nunique()
    assert counts["shipped"] == 6
    assert counts["explainer=occlusion"] == 6  # films count batch by batch, and one holds all six
    assert np.allclose(made.cases["area"], 36 / 1024)
    same = made.cases[made.cases["variant"].isin(["shipped", "classifiers=a"])]
    both = same.pivot(index=["image_id", "finding"], columns="variant", values="iou_matched")
    np.testing.assert_allclose(both["shipped"], both["classifiers=a"])  # the same classifier twice
    summary = labelquality.summarise(made.cases)
    assert list(summary) == labelquality.SUMMARY_COLUMNS
    mean = summary[(summary["finding"] == "mean") & (summary["explainer"] == "ig")].iloc[0]
    assert mean["hit_lo"] <= mean["hit_rate"] <= mean["hit_hi"]
    assert mean["iou_label_lo"] <= mean["iou_label"] <= mean["iou_label_hi"]


def heat_of(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float32) * 5 - 2  # min-max makes it {0, 1}


def test_protocol_on_a_perfect_map_of_a_wide_film() -> None:
    # 64 x 128 film on a 32 grid: scale 4, 8 rows of padding above and below.
    truth = np.zeros((64, 128), np.uint8)
    truth[16:48, 32:64] = 1
    grid = np.zeros((32, 32), np.uint8)
    grid[8 + 4 : 8 + 12, 8:16] = 1
    for rule in (Rule("otsu"), Rule("peak", 0.5)):
        got = chexlocalize.case(heat_of(grid), truth, rule)
        assert got["iou"] == got["iou_all"] > 0.97
        assert got["hit"] == 1.0


def test_protocol_of_half_a_mask_and_of_a_miss() -> None:
    truth = square(32, 8, 8, 8)
    half = truth.copy()
    half[:, 12:] = 0
    assert chexlocalize.case(heat_of(half), truth, Rule("peak", 0.5))["iou"] == 0.5
    away = chexlocalize.case(heat_of(square(32, 20, 20, 4)), truth, Rule("peak", 0.5))
    assert (away["iou"], away["iou_all"], away["hit"]) == (0.0, 0.0, 0.0)


def test_protocol_counts_empty_masks_as_it_says() -> None:
    truth, empty = square(32, 8, 8, 8), np.zeros((32, 32), np.uint8)
    missed = chexlocalize.case(None, truth, Rule("otsu"))
    assert list(missed.values()) == pytest.approx([np.nan, 0.0, np.nan], nan_ok=True)
    invented = chexlocalize.case(heat_of(truth), empty, Rule("otsu"))
    assert list(invented.values()) == pytest.approx([np.nan, 0.0, np.nan], nan_ok=True)
    nothing = chexlocalize.case(None, empty, Rule("otsu"))
    assert np.isnan(nothing["iou_all"])
    flat = chexlocalize.case(np.ones((32, 32), np.float32), truth, Rule("otsu"))
    assert list(flat.values()) == pytest.approx([np.nan, 0.0, 0.0], nan_ok=True)


def test_protocol_table_means_and_intervals() -> None:
    truth = {(f"f{i}", "Edema"): square(32, 8, 8, 8) for i in range(4)}
    truth[("f0", "Fracture")] = square(32, 2, 2, 4)
    truth[("f1", "Fracture")] = np.zeros((32, 32), np.uint8)
    maps = {key: heat_of(mask) for key, mask in truth.items() if mask.any()}
    maps[("f3", "Edema")] = heat_of(square(32, 20, 20, 8))
    patients = {f"f{i}": f"p{i}" for i in range(4)}
    scores = chexlocalize.cases(maps, truth, patients, {"Edema": 0.5})
    table = chexlocalize.localisation_table(scores, draws=200).set_index("finding")
    assert table.loc["Edema", "iou"] == pytest.approx(0.75)
    assert table.loc["Edema", "hit_rate"] == pytest.approx(0.75)
    assert table.loc["Edema", ["n", "n_all", "n_hit"]].tolist() == [4, 4, 4]
    assert table.loc["Fracture", ["n", "n_all", "n_hit"]].tolist() == [1, 1, 1]
    assert table.loc["Fracture", "iou"] == 1.0
    assert table.loc["mean", "iou"] == pytest.approx(0.875)
    assert table.loc["Edema", "iou_lo"] < 0.75 < table.loc["Edema", "iou_hi"] <= 1.0
    # Patients in two halves: 0 or 1 each; the bootstrap's spread is the binomial's.
    values = pd.DataFrame(
        {"image_id": range(400), "patient_id": range(400), "finding": "Edema",
         "iou": [0.0, 1.0] * 200, "iou_all": 1.0, "hit": 1.0}
    )  # fmt: skip
    wide = chexlocalize.localisation_table(values).iloc[0]
    assert wide["iou_hi"] - wide["iou_lo"] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert wide["iou_all_lo"] == wide["iou_all_hi"] == 1.0


def test_a_map_without_a_mask_is_named() -> None:
    maps = {("f1", "Edema"): np.ones((8, 8), np.float32)}
    with pytest.raises(InputError, match="film f1: a map of Edema but no mask"):
        chexlocalize.cases(maps, {}, {"f1": "p1"})
