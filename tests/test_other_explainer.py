"""A run whose labels are made by another explainer than Integrated Gradients has all its tables."""

from __future__ import annotations

import pandas as pd
import pytest

from dollkit.explanations.ensemble import Explain
from dollkit.labels import Distil
from dollkit.labels import summary as labelquality
from dollkit.labels.judge import variants
from dollkit.report import agreement, contrasts, curves, tables
from dollkit.report import rows as cases
from tests import stored_profile as stored

OTHER = {"ig": "gradcam", "gradcam": "ig"}


@pytest.fixture(scope="module")
def swapped() -> pd.DataFrame:
    """Grad-CAM in the place of Integrated Gradients, and the other way round."""
    return swap(stored.labels())


def swap(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["variant"] != "steps=4"].reset_index(drop=True)
    rows["explainer"] = rows["explainer"].replace(OTHER)
    rows["variant"] = rows["variant"].replace({"explainer=gradcam": "explainer=ig"})
    rows["value"] = rows["value"].replace({"gradcam": "ig"})
    return rows


def test_its_rows_are_the_shipped_ones(swapped: pd.DataFrame) -> None:
    for rows, name in ((stored.labels(), "ig"), (swapped, "gradcam")):
        assert cases.explainer_of(rows) == name
        assert cases.explainer_of(labelquality.summarise(rows)) == name
    assert cases.explainer_of(swapped[:0]) == "ig"
    found = tables.configurations(swapped)
    assert (found[0][2]["explainer"] == "gradcam").all()
    assert [v for f, v, _ in found if f == "explainer"] == ["gradient", "ig"]
    table = tables.table3(swapped, labelquality.ablation(swapped))
    assert table["value"].tolist().count("ig") == 1


def test_the_contrast_of_both_keeps_its_sign(swapped: pd.DataFrame) -> None:
    def gap(rows: pd.DataFrame) -> dict[str, object]:
        found = contrasts.label_rows(rows)
        return next(r for r in found if r["contrast"] == "IG - Grad-CAM")

    as_usual, other = gap(stored.labels()), gap(swapped)
    assert other["effect"] == pytest.approx(-as_usual["effect"])  # type: ignore[operator]
    assert other["n_cases"] == as_usual["n_cases"]
    none = swapped[swapped["explainer"] != "ig"]
    assert gap(none)["note"] == "not run: no IG labels"


def test_figures_show_the_shipped_labels(swapped: pd.DataFrame) -> None:
    summary = labelquality.summarise(swapped)
    auroc = pd.DataFrame(
        {"classifier": "a", "finding": summary["finding"].unique(), "auroc": 0.9}
        | {"auroc_lo": 0.8, "auroc_hi": 0.95, "n": 60}
    )
    most = summary["n_classifiers"] == summary["n_classifiers"].max()
    mine = summary[(summary["explainer"] == "gradcam") & most]
    shown = agreement.points(auroc, summary).set_index("finding")["iou"]
    want = mine.set_index("finding")["iou_matched"].reindex(shown.index)
    pd.testing.assert_series_equal(shown, want, check_names=False)
    drawn = curves.figure_s1(auroc, summary, profile="p").data
    doll = drawn[drawn["series"] == "DoLL"].set_index("finding")["value"]
    pd.testing.assert_series_equal(
        doll.reindex(shown.index), want, check_names=False, check_dtype=False
    )


def test_what_has_no_path_is_judged_without_steps_and_baselines() -> None:
    made = variants(["a", "b"], Explain(explainer="gradcam"), Distil())
    assert {v.value for v in made if v.factor == "explainer"} == {"ig", "gradient"}
    assert not [v for v in made if v.factor in ("steps", "baseline")]
    usual = variants(["a", "b"], Explain(), Distil())
    assert {v.value for v in usual if v.factor == "explainer"} == {"gradient", "gradcam"}
    assert {v.factor for v in usual} >= {"steps", "baseline"}
