"""Verdicts and advice on per-case rows with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.interactive.your_radiographs import report, verdict

MARGIN = 0.01


def cases(
    arms: Mapping[str, Mapping[int, float]], patients: int = 40, seeds: int = 3,
    noise: float = 0.004, films: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Rows whose mean IoU per arm and number of masks is given, but for noise of runs and films."""
    rng = np.random.default_rng(1)
    base = rng.normal(0, 0.05, (patients, films))
    rows = []
    for arm, means in arms.items():
        for n, mean in means.items():
            for seed in range(seeds):
                drawn = mean + base + rng.normal(0, noise, (patients, films))
                rows += [
                    {"task": "own", "network": "pspnet", "arm": arm, "tuning": "full",
                     "n_train": n, "seed": seed, "fold": p % 2, "image_id": f"{p}-{f}",
                     "patient_id": str(p), "class": "lungs", "tp": 1, "fp": 0, "fn": 0,
                     "iou": drawn[p, f], "dice": drawn[p, f]}
                    for p in range(patients) for f in range(films)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def flat(**means: float) -> dict[str, dict[int, float]]:
    return {arm: {8: mean} for arm, mean in means.items()}


def words(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["against"], table["verdict"], strict=True))


def test_paid() -> None:
    table = verdict.contrasts(cases(flat(random=0.5, classifier=0.53, doll=0.56)), MARGIN)
    assert words(table) == {"random": verdict.PAID, "classifier": verdict.PAID}
    row = table.set_index("against").loc["random"]
    assert row["effect"] == pytest.approx(0.06, abs=0.003)
    assert row["lo"] < 0.06 < row["hi"]
    assert (row["n_cases"], row["n_patients"], row["n_seeds"]) == (40, 40, 3)
    assert "DoLL paid" in verdict.sentence(table)


def test_did_not_pay() -> None:
    """No difference, and seen well enough to exclude one that would matter."""
    table = verdict.contrasts(cases(flat(random=0.55, classifier=0.56, doll=0.55)), MARGIN)
    assert words(table) == {"random": verdict.NOT, "classifier": verdict.NOT}
    assert "worse beyond chance" in table.set_index("against").loc["classifier", "why"]
    assert "Against random weights it gave nothing" not in verdict.sentence(table)
    assert "Start from the classifier's backbone" in verdict.sentence(table)
    alone = verdict.contrasts(cases(flat(random=0.55, doll=0.55)), MARGIN)
    assert "Against random weights it gave nothing" in verdict.sentence(alone)
    assert "classifier" not in verdict.sentence(alone)


def test_a_gain_too_small_to_matter_did_not_pay() -> None:
    table = verdict.contrasts(cases(flat(random=0.55, doll=0.553), patients=200), MARGIN)
    assert table["lo"].iloc[0] > 0
    assert words(table) == {"random": verdict.NOT}


def test_cannot_be_told() -> None:
    """The same means under far more noise: the interval holds both nothing and a gain."""
    table = verdict.contrasts(cases(flat(random=0.5, doll=0.52), patients=12, noise=0.2), MARGIN)
    assert words(table) == {"random": verdict.UNKNOWN}
    assert table["lo"].iloc[0] < 0 < MARGIN < table["hi"].iloc[0]
    assert "12 films of 12 patients and 3 seeds leave room" in table["why"].iloc[0]
    assert f"{table['mde'].iloc[0]:.3f}" in table["why"].iloc[0]
    said = verdict.sentence(table)
    assert said.startswith("Whether DoLL paid against the random start with 8 masks cannot be told")
    assert "decides nothing either way" in said


def test_seeds_that_differ_are_named_as_what_limits() -> None:
    """One run of DoLL far above, one far below: more films would not help."""
    rows = cases(flat(random=0.5, doll=0.53), patients=60, seeds=3)
    shift = rows["seed"].map({0: 0.1, 1: -0.1, 2: 0.0}).where(rows["arm"] == "doll", 0.0)
    for known, spread in ((True, 1.0), (False, 0.0)):
        moved = rows.assign(iou=rows["iou"] + spread * shift)
        why = verdict.contrasts(moved, MARGIN)["why"].iloc[0]
        assert ("more seeds would tell more" in why) is known


@pytest.mark.parametrize(("patients", "seeds"), [(5, 3), (40, 1), (40, 2)])
def test_too_few(patients: int, seeds: int) -> None:
    """An effect as large as may be: five patients, or one seed, tell nothing."""
    rows = cases(flat(random=0.2, doll=0.8), patients=patients, seeds=seeds)
    table = verdict.contrasts(rows, MARGIN)
    assert words(table) == {"random": verdict.UNKNOWN}
    assert "too few to tell anything" in table["why"].iloc[0]


def test_a_class_of_one_patient_decides_nothing(tmp_path: Path) -> None:
    """Alike in the lungs; in the one patient with a device DoLL happens to be better."""
    lungs = cases(flat(random=0.5, doll=0.5), patients=24)
    device = lungs[lungs["patient_id"] == "3"].assign(**{"class": "device"})
    device["iou"] += 0.1 * (device["arm"] == "doll")
    rows = pd.concat([lungs, device], ignore_index=True)
    table = verdict.contrasts(rows, MARGIN)
    assert words(table) == {"random": verdict.NOT}
    pd.testing.assert_frame_equal(table, verdict.contrasts(lungs, MARGIN))
    assert verdict.rare(rows) == ["device"]
    page = report.write(report.Inputs({}, [], rows, None, pd.DataFrame()), tmp_path)
    assert "fewer than 6 patients have them: device." in page


@pytest.mark.parametrize("level", [0.0, 0.005])
def test_starts_that_draw_nothing_are_not_alike(level: float) -> None:
    rows = cases({arm: {4: 0.0, 8: 0.0} for arm in ("random", "doll")}).assign(iou=level)
    table = verdict.contrasts(rows, MARGIN)
    assert set(table["verdict"]) == {verdict.UNKNOWN}
    assert "neither start reaches an mIoU of 0.01" in table["why"].iloc[0]
    assert "it gave nothing" not in verdict.sentence(table)
    (told,) = verdict.advice(rows, table, MARGIN)
    assert told.startswith("With no number of masks the DoLL start reaches an mIoU of 0.01")
    alike = verdict.contrasts(rows.assign(iou=0.5), MARGIN)
    assert set(alike["verdict"]) == {verdict.NOT}


def test_several_starts_are_corrected_for() -> None:
    """p of 0.03 alone is no longer beyond chance beside a second start."""
    row = pd.Series({"n_cases": 30, "n_patients": 30, "n_seeds": 3, "effect": 0.02, "lo": 0.002,
                     "hi": 0.038, "p": 0.03, "p_holm": 0.06, "mde": 0.025, "df": 20,
                     "best": 0.5})  # fmt: skip
    assert verdict.judged(row, MARGIN).verdict == verdict.UNKNOWN
    assert verdict.judged(pd.Series({**row, "p_holm": 0.03}), MARGIN).verdict == verdict.PAID


def test_backbone_and_shuffled_are_named() -> None:
    table = verdict.contrasts(
        cases(flat(random=0.5, classifier=0.56, shuffled=0.56, doll=0.56), patients=80), MARGIN
    )
    said = verdict.sentence(table)
    assert "backbone alone gives as much" in said
    assert "diagnosis in the labels is not shown" in said


def test_films_of_a_patient_are_no_evidence_of_their_own() -> None:
    """Ten copies of each patient's film: as many patients as before, no narrower interval."""
    one = cases(flat(random=0.5, doll=0.52), patients=20, noise=0.05)
    many = pd.concat([one.assign(image_id=one["image_id"] + f"-{k}") for k in range(10)])
    a, b = (verdict.contrasts(rows, MARGIN).iloc[0] for rows in (one, many))
    assert b["n_patients"] == a["n_patients"]
    assert b["hi"] - b["lo"] == pytest.approx(a["hi"] - a["lo"], rel=1e-6)


CURVES = {
    "random": {4: 0.40, 8: 0.46, 16: 0.52, 32: 0.58},
    "doll": {4: 0.46, 8: 0.52, 16: 0.56, 32: 0.60},
}


def test_masks_saved_are_read_from_the_curve() -> None:
    """DoLL with 4 stands where random is with 8, with 8 where random is with 16."""
    rows = cases(CURVES)
    table = verdict.equal_to(rows, verdict.contrasts(rows, MARGIN)).set_index("n_train")
    assert 7 <= int(table.loc[4, "masks"]) <= 9
    assert 14 <= int(table.loc[8, "masks"]) <= 18
    assert table["told"].all()
    assert table.loc[32, "masks"] == "> 32"
    said = " ".join(verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN))
    assert f"needs about {table.loc[8, 'masks']} masks for" in said
    assert "needs more than 32 masks for" in said


def test_nothing_is_saved_where_nothing_is_shown() -> None:
    rows = cases(CURVES, patients=8, noise=0.4)
    said = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN)
    assert sum("how many masks it saves cannot be told" in s for s in said) == 4
    assert not any("reaches what" in s for s in said)


def test_more_masks_help_and_what_lies_beyond_is_marked() -> None:
    rows = cases(CURVES)
    said = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN, target=0.62)
    beyond = next(s for s in said if "64 masks" in s and "More masks" in s)
    assert beyond.startswith("More masks still help. Extrapolated, not measured")
    assert "0.04" in beyond
    assert any("extrapolated by the last step" in s for s in said)
    far = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN, target=0.9)
    assert far[-1].endswith("how many it needs cannot be told.")
    within = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN, target=0.54)
    assert within[-1].endswith("(interpolated).")


def test_a_plateau_is_enough() -> None:
    rows = cases({"random": dict.fromkeys((4, 8, 16), 0.5), "doll": {4: 0.4, 8: 0.6, 16: 0.6}},
                 patients=80)  # fmt: skip
    assert verdict.enough(rows, margin=MARGIN) == 8
    said = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN)
    assert any(s.startswith("8 masks are enough") for s in said)
    assert not any("Extrapolated" in s for s in said)


def test_one_number_of_masks_gives_no_curve() -> None:
    rows = cases(flat(random=0.5, doll=0.6))
    said = verdict.advice(rows, verdict.contrasts(rows, MARGIN), MARGIN)
    assert "Only one number of masks was tried (8)" in said[-1]


def test_the_report_says_what_its_rows_say(tmp_path: Path) -> None:
    rows = cases(CURVES)
    inputs = report.Inputs({"films": 7}, ["a note"], rows, None, pd.DataFrame(), {"size": 64})
    page = report.write(inputs, tmp_path)
    table = verdict.contrasts(rows, MARGIN)
    assert page == (tmp_path / "report.md").read_text(encoding="utf-8")
    assert verdict.sentence(table) in page
    assert "- a note" in page
    assert "Not a medical device" in page
    stored = pd.read_csv(tmp_path / "contrasts.csv")
    np.testing.assert_allclose(stored["effect"], table["effect"], rtol=1e-5)
    assert len(pd.read_csv(tmp_path / "cases.csv")) == len(rows)
    assert (tmp_path / "figure_curve.png").is_file()


def test_the_report_without_a_comparison(tmp_path: Path) -> None:
    inputs = report.Inputs({}, [], None, None, pd.DataFrame())
    assert "cannot be told" in report.write(inputs, tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["report.md"]
    (tmp_path / "mine.csv").touch()
    compared = report.Inputs({}, [], cases(CURVES), None, pd.DataFrame())
    report.write(compared, tmp_path)
    assert (tmp_path / "contrasts.csv").is_file()
    report.write(inputs, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mine.csv", "report.md"]


def test_rates_at_the_end_of_their_grid_are_told(tmp_path: Path) -> None:
    chosen = pd.DataFrame({"arm": "doll", "n_train": 8, "lr": [1e-3, 3e-3, 9e-3],
                           "selected": [False, False, True]})  # fmt: skip
    inputs = report.Inputs({}, [], cases(CURVES), chosen, pd.DataFrame())
    assert "a better one may lie beyond: doll with 8 masks" in report.write(inputs, tmp_path)
    inner = chosen.assign(selected=[False, True, False])
    inputs = report.Inputs({}, [], cases(CURVES), inner, pd.DataFrame())
    assert "may lie beyond" not in report.write(inputs, tmp_path)
