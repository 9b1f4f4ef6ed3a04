"""A run whose labels are made by another explainer than Integrated Gradients has all its tables."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from dollkit.labels import summary
from dollkit.report import contrasts, results, tables
from tests import synthetic_run as synthetic


def gap(cases: pd.DataFrame) -> dict[str, object]:
    return next(r for r in contrasts.label_rows(cases) if r["contrast"] == "IG - Grad-CAM")


def test_grad_cam_in_the_place_of_integrated_gradients() -> None:
    usual = synthetic.label_cases(patients=8)
    swapped = usual[usual["variant"] != "steps=4"].reset_index(drop=True)
    swapped["explainer"] = swapped["explainer"].replace({"ig": "gradcam", "gradcam": "ig"})
    swapped["variant"] = swapped["variant"].replace({"explainer=gradcam": "explainer=ig"})
    swapped["value"] = swapped["value"].replace({"gradcam": "ig"})
    for cases, name in ((usual, "ig"), (swapped, "gradcam")):
        data = replace(synthetic.rows(), label_cases=cases, labels=summary.summarise(cases))
        shown = results.shipped_quality(data)
        assert set(shown["explainer"]) == {name}
        assert set(shown["n_classifiers"]) == {3}
    table = tables.table3(swapped, "p").frame
    assert table["explainer"].iloc[0] == "gradcam"
    assert table.loc[table["factor"] == "explainer", "value"].tolist() == ["gradient", "ig"]
    assert gap(swapped)["effect"] == pytest.approx(-gap(usual)["effect"])  # type: ignore[operator]
    assert gap(swapped[swapped["explainer"] != "ig"])["note"] == "not run: no IG labels"
