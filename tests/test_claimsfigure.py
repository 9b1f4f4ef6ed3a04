"""Figure S5 and what notebooks show of a run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.display import Image, Markdown
from matplotlib.axes import Axes

from dollkit.common.errors import InputError
from dollkit.report import claims, claims_figure, in_notebook, style, tables
from dollkit.report import rows as cases
from tests import synthetic_run as synthetic


def contrast(claim: str, effect: float, lo: float, hi: float, **more: Any) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(claims.COLUMNS, "")
    row |= {"claim": claim, "contrast": "doll - random", "task": "lungs", "effect": effect}
    row |= {"lo": lo, "hi": hi, "relevance": 0.005, "decides": True, "network": "pspnet"}
    row |= {"n_patients": 40, "n_seeds": 5, "n_train": 8, "verdict": claims.UNDECIDED}
    return row | more


ROWS = pd.DataFrame(
    [
        contrast("C3", 0.4, 0.1, 0.7, contrast="steps to 95 %: random / doll", n_patients=0),
        contrast("C2", 0.03, 0.01, 0.05, verdict=claims.CONFIRMED),
        contrast("C2", -0.03, -0.05, -0.01, task="organs", verdict=claims.CONTRADICTED),
        contrast("C2", 0.5, 0.4, 0.6, decides=False),
        contrast("C2", np.nan, np.nan, np.nan, task="infection"),
        contrast("C2", 0.02, np.nan, np.nan, task="infection", n_seeds=2),
    ]
)


def trained() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    plain = synthetic.segmentation_cases()
    curves = synthetic.learning_curves(plain)
    return plain, curves, synthetic.run_rows(curves)


def names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_deciding_contrasts_in_the_order_of_the_claims() -> None:
    drawn = claims_figure.figure_s5(ROWS, profile="p")
    assert drawn.data["claim"].tolist() == ["C2", "C2", "C2", "C3"]
    assert drawn.data["effect"].tolist() == [0.03, -0.03, 0.02, 0.4]
    left, right = drawn.figure.axes
    assert names(left) == [
        "lungs: doll - random",
        "organs: doll - random",
        "infection: doll - random",
    ]
    assert names(right) == ["lungs: random / doll"]
    assert "2-5 seeds" in drawn.caption
    assert "40 patients" in drawn.caption


def test_intervals_lie_where_they_should_and_verdicts_have_their_looks() -> None:
    left = claims_figure.figure_s5(ROWS, profile="p").figure.axes[0]
    lines = [line for line in left.get_lines() if line.get_color() != style.BLACK]
    spans = [line.get_xdata() for line in lines if line.get_marker() == "None"]
    assert [np.round(s, 3).tolist() for s in spans[:2]] == [[0.01, 0.05], [-0.05, -0.01]]
    marks = {m.get_marker(): m.get_color() for m in lines if m.get_marker() != "None"}
    assert marks == {mark: colour for colour, mark, _ in claims_figure.LOOKS.values()}
    # Two contrasts with an interval, and the line of relevance.
    assert len(spans) == 3


def test_one_interval_without_end_hides_no_other() -> None:
    wide = contrast("C2", 0.0, -1e6, 1e6, task="infection")
    ax = claims_figure.figure_s5(pd.DataFrame([*ROWS.to_dict("records"), wide]), profile="p").figure
    assert np.ptp(ax.axes[0].get_xlim()) < 1
    same = pd.DataFrame([contrast("C2", 0.0, 0.0, 0.0), contrast("C2", 0.1, -9.0, 9.0)])
    low, high = claims_figure.figure_s5(same, profile="p").figure.axes[0].get_xlim()
    assert -1 < low < 0 < 0.1 < high < 1


def test_networks_are_named_where_there_are_several() -> None:
    two = pd.concat([ROWS, ROWS.assign(network="unet")], ignore_index=True)
    left = claims_figure.figure_s5(two, profile="p").figure.axes[0]
    assert names(left)[0] == "lungs: pspnet, doll - random"


def test_one_claim_alone_and_none_at_all(tmp_path: Path) -> None:
    for rows in (ROWS[:1], ROWS[:0]):
        drawn = claims_figure.figure_s5(rows, profile="p")
        assert len(drawn.figure.axes) == len(rows)
        assert all(path.is_file() for path in drawn.save(tmp_path / "figure_s5"))


def test_the_same_figure_from_the_stored_contrasts(tmp_path: Path) -> None:
    plain, curves, runs = trained()
    rows = claims.evaluate(None, plain, curves, runs, {})
    cases.write_csv(rows, tmp_path / "claims.csv")
    again = pd.read_csv(tmp_path / "claims.csv")
    for name, frame in (("a", rows), ("b", again)):
        claims_figure.figure_s5(frame, profile="p").save(tmp_path / name)
    for suffix in (".csv", ".txt"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="'relevance' is missing"):
        claims_figure.figure_s5(ROWS.drop(columns="relevance"), profile="p")


def test_a_number_and_its_interval_stay_together(tmp_path: Path) -> None:
    (tmp_path / "t.md").write_text("| 0.8 [0.7, 0.9] | [a link](b) |")
    text = in_notebook.table(tmp_path / "t.md").data
    assert text == "| 0.8\u00a0[0.7,\u00a00.9] | [a link](b) |"
    (tmp_path / "w.md").write_text(
        "**T.**\n\n| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n\n- x\n"
    )
    narrow = in_notebook.table(tmp_path / "w.md", without=("b",)).data
    assert narrow == "**T.**\n\n| a | c |\n| --- | --- |\n| 1 | 3 |\n\n- x\n"
    absent = in_notebook.table(tmp_path / "u.md", there=False, otherwise="no films")
    assert absent.data == "No table here: no films."


def test_caption_and_picture_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(in_notebook, "display", lambda *items: seen.extend(items))
    drawn = {"figure_s5": claims_figure.figure_s5(ROWS, profile="p")}
    drawn["figure_s5"].save(tmp_path / "figure_s5")
    in_notebook.figure(drawn, "figure_s5", tmp_path)
    in_notebook.figure(drawn, "figure5", tmp_path, "one size")
    caption, picture, reason = seen
    assert isinstance(caption, Markdown)
    assert caption.data.startswith("Figure S5 (profile p)")
    assert isinstance(picture, Image)
    assert isinstance(reason, Markdown)
    assert reason.data == "No figure here: one size."


def test_arms_as_a_picture() -> None:
    plain, _, runs = trained()
    table = tables.table1(plain, runs)
    assert table["miou"].isna().any()  # arms that were not run are left out
    picture = in_notebook.arms(table)
    png = picture.data if isinstance(picture.data, bytes) else base64.b64decode(picture.data)
    assert png.startswith(b"\x89PNG")
