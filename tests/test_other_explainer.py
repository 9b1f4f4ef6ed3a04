"""A run whose labels are made by another explainer than Integrated Gradients has all its tables."""

from __future__ import annotations

import pandas as pd
import pytest

from dollkit.labels import summary
from dollkit.report import agreement, contrasts, curves, rows, tables
from tests import synthetic_run as synthetic


@pytest.fixture(scope="module")
def swapped() -> pd.DataFrame:
    """Grad-CAM in the place of Integrated Gradients, and the other way round."""
    cases = synthetic.label_cases(patients=8)
    cases = cases[cases["variant"] != "steps=4"].reset_index(drop=True)
    cases["explainer"] = cases["explainer"].replace({"ig": "gradcam", "gradcam": "ig"})
    cases["variant"] = cases["variant"].replace({"explainer=gradcam": "explainer=ig"})
    cases["value"] = cases["value"].replace({"gradcam": "ig"})
    return cases


def test_its_rows_are_the_shipped_ones(swapped: pd.DataFrame) -> None:
    for cases, name in ((synthetic.label_cases(patients=8), "ig"), (swapped, "gradcam")):
        assert rows.explainer_of(cases) == rows.explainer_of(summary.summarise(cases)) == name
    found = tables.configurations(swapped)
    assert (found[0][2]["explainer"] == "gradcam").all()
    assert [v for f, v, _ in found if f == "explainer"] == ["gradient", "ig"]
    table = tables.table3(swapped)
    assert table["value"].tolist().count("ig") == 1


def test_the_contrast_of_both_keeps_its_sign(swapped: pd.DataFrame) -> None:
    def gap(cases: pd.DataFrame) -> dict[str, object]:
        return next(r for r in contrasts.label_rows(cases) if r["contrast"] == "IG - Grad-CAM")

    as_usual, other = gap(synthetic.label_cases(patients=8)), gap(swapped)
    assert other["effect"] == pytest.approx(-as_usual["effect"])  # type: ignore[operator]
    assert other["n_cases"] == as_usual["n_cases"]
    assert gap(swapped[swapped["explainer"] != "ig"])["note"] == "not run: no IG labels"


def test_figures_show_the_shipped_labels(swapped: pd.DataFrame) -> None:
    table = summary.summarise(swapped)
    auroc = pd.DataFrame(
        {"classifier": "a", "finding": table["finding"].unique(), "auroc": 0.9}
        | {"auroc_lo": 0.8, "auroc_hi": 0.95, "n": 60}
    )
    most = table["n_classifiers"] == table["n_classifiers"].max()
    mine = table[(table["explainer"] == "gradcam") & most].set_index("finding")["iou_matched"]
    shown = agreement.points(auroc, table).set_index("finding")["iou"]
    assert shown.to_dict() == mine[shown.index].to_dict()
    drawn = curves.figure_s1(auroc, table, profile="p").data
    doll = drawn[drawn["series"] == "DoLL"].set_index("finding")["value"]
    assert doll[shown.index].to_dict() == shown.to_dict()
