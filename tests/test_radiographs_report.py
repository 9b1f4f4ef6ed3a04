"""Verdicts and advice on per-case rows with known answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.interactive.your_radiographs import read_and_check, report

MARGIN = 0.01


def cases(
    arms: Mapping[str, Mapping[int, float]], patients: int = 40, noise: float = 0.004
) -> pd.DataFrame:
    """Rows whose mean IoU per arm and number of masks is given, but for noise of runs and films."""
    rng = np.random.default_rng(1)
    base, names = rng.normal(0, 0.05, patients), [str(p) for p in range(patients)]
    parts = []
    settings = [(arm, n, mean) for arm, means in arms.items() for n, mean in means.items()]
    for (arm, n, mean), seed in product(settings, range(3)):
        drawn = mean + base + rng.normal(0, noise, patients)
        parts.append(pd.DataFrame(
            {"task": "own", "network": "pspnet", "arm": arm, "tuning": "full", "n_train": n,
             "seed": seed, "fold": np.arange(patients) % 2, "image_id": names, "class": "lungs",
             "patient_id": names, "tp": 1, "fp": 0, "fn": 0, "iou": drawn, "dice": drawn}
        ))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def flat(**means: float) -> dict[str, dict[int, float]]:
    return {arm: {8: mean} for arm, mean in means.items()}


def told(rows: pd.DataFrame) -> tuple[dict[str, str], str, pd.DataFrame]:
    """Verdict by start, what is said, and the contrasts by start."""
    table = report.contrasts(rows, MARGIN)
    by_start = table.set_index("against")
    return by_start["verdict"].to_dict(), " ".join(report.sentences(table)), by_start


def test_it_paid() -> None:
    verdicts, said, table = told(cases(flat(random=0.5, classifier=0.53, doll=0.56)))
    assert verdicts == {"random": report.PAID, "classifier": report.PAID}
    row = table.loc["random"]
    assert row["effect"] == pytest.approx(0.06, abs=0.003)
    assert row["lo"] < 0.06 < row["hi"]
    assert (row["n_cases"], row["n_patients"], row["n_seeds"]) == (40, 40, 3)
    assert "against the random start: DoLL paid (" in said


def test_cannot_be_told() -> None:
    """The same means under far more noise: the interval holds both nothing and a gain."""
    verdicts, said, table = told(cases(flat(random=0.5, doll=0.52), patients=12, noise=0.2))
    assert verdicts == {"random": report.UNKNOWN}
    row = table.loc["random"]
    assert row["lo"] < 0 < MARGIN < row["hi"]
    assert "12 films of 12 patients and 3 seeds leave room" in row["why"]
    assert f"{row['mde']:.3f}" in row["why"]
    assert said.startswith("With 8 masks, against the random start: whether DoLL paid cannot be")


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, report.PAID, "better beyond chance"),
        ({"p_holm": 0.06}, report.UNKNOWN, "not beyond chance once several starts"),
        ({"n_patients": 5}, report.UNKNOWN, "too few to tell anything"),
        ({"n_seeds": 2}, report.UNKNOWN, "too few to tell anything"),
        ({"best": 0.005}, report.UNKNOWN, "neither start reaches an mIoU of 0.01"),
        ({"lo": -0.03, "hi": -0.01}, report.NOT, "worse beyond chance"),
        ({"lo": -0.01, "hi": 0.005}, report.NOT, "a gain of 0.01 or more is excluded"),
    ],
)
def test_verdicts_on_one_contrast(change: dict[str, float], verdict: str, words: str) -> None:
    row = {"n_cases": 30, "n_patients": 30, "n_seeds": 3, "effect": 0.02, "lo": 0.002, "hi": 0.038,
           "p_holm": 0.03, "mde": 0.025, "df": 20, "best": 0.5}  # fmt: skip
    found, why = report.verdict(row | change, MARGIN)
    assert found == verdict
    assert words in why


def test_seeds_that_differ_are_named_as_what_limits() -> None:
    """One run of DoLL far above, one far below: more films would not help."""
    rows = cases(flat(random=0.5, doll=0.53), patients=60)
    shift = rows["seed"].map({0: 0.1, 1: -0.1, 2: 0.0}).where(rows["arm"] == "doll", 0.0)
    for known, spread in ((True, 1.0), (False, 0.0)):
        _, _, table = told(rows.assign(iou=rows["iou"] + spread * shift))
        assert ("more seeds tell more" in table.loc["random", "why"]) is known


def test_a_class_of_one_patient_decides_nothing(tmp_path: Path) -> None:
    """Alike in the lungs; in the one patient with a device DoLL happens to be better."""
    lungs = cases(flat(random=0.5, doll=0.5), patients=24)
    device = lungs[lungs["patient_id"] == "3"].assign(**{"class": "device"})
    device["iou"] += 0.1 * (device["arm"] == "doll")
    rows = pd.concat([lungs, device], ignore_index=True)
    verdicts, _, table = told(rows)
    assert verdicts == {"random": report.NOT}
    pd.testing.assert_frame_equal(table, told(lungs)[2])
    assert "fewer than 6 patients have them: device." in write(tmp_path, rows)


def test_backbone_and_shuffled_are_named() -> None:
    means = flat(random=0.5, classifier=0.56, shuffled=0.56, doll=0.56)
    _, said, table = told(cases(means, patients=80))
    verdicts = "paid against random; did not pay against classifier, shuffled DoLL"
    assert report.headline(table.reset_index()) == f"Did DoLL pay? With 8 masks: {verdicts}"
    assert "backbone alone gives as much" in said
    assert "need not come from the diagnosis" in said


CURVES = {
    "random": {4: 0.40, 8: 0.46, 16: 0.52, 32: 0.58},
    "doll": {4: 0.46, 8: 0.52, 16: 0.56, 32: 0.60},
}


def test_masks_saved_are_read_from_the_curve() -> None:
    """DoLL with 4 stands where random is with 8, with 8 where random is with 16."""
    rows = cases(CURVES)
    said = report.advice(rows, report.contrasts(rows, MARGIN), MARGIN)
    saved = re.findall(r"With (\d+) masks DoLL reaches .* needs (.*) masks for", "\n".join(said))
    assert [n for n, _ in saved] == ["4", "8", "16", "32"]
    assert 7 <= int(saved[0][1]) <= 9
    assert 14 <= int(saved[1][1]) <= 18
    assert saved[3][1] == "more than 32"
    assert re.match(r"From 16 to 32 masks the DoLL start gained \+0\.04", said[-1])


def write(folder: Path, rows: pd.DataFrame | None) -> str:
    """A report on some rows, where fine-tuning with 8 masks chose the second rate of three."""
    yours = read_and_check.Radiographs(None, None, {"films": 7}, ("a note",))  # type: ignore[arg-type]
    selection = pd.DataFrame(
        {"task": "own", "network": "pspnet", "arm": "doll", "tuning": "full", "n_train": 8,
         "fold": 0, "lr": [1e-3, 3e-3, 9e-3]}
    )  # fmt: skip
    selection["selected"] = selection["lr"] == 3e-3
    tried = None if rows is None else selection
    return report.write_report(folder, yours, rows, tried, pd.DataFrame(), {"size": 64}, MARGIN)


def test_the_report_tells_what_its_rows_tell(tmp_path: Path) -> None:
    assert "cannot be told" in write(tmp_path, None)
    assert [f.name for f in tmp_path.iterdir()] == ["report.md"]
    (tmp_path / "mine.csv").touch()
    rows = cases(CURVES)
    page, (_, said, table) = write(tmp_path, rows), told(rows)
    assert page == (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {report.headline(table.reset_index())}\n")
    for text in (said, "- films: 7", "- a note", "`size`: 64", "Not a medical device"):
        assert text in page
    stored = pd.read_csv(tmp_path / "contrasts.csv")
    np.testing.assert_allclose(stored["effect"], table["effect"], rtol=1e-5)
    yours = read_and_check.Radiographs(None, None, {}, ())  # type: ignore[arg-type]
    more = None, None, pd.DataFrame(), {}, MARGIN, ["Pneumonia", "Edema"]
    page = report.write_report(tmp_path, yours, *more)
    assert "**Possibly a shortcut: Pneumonia, Edema.**" in page
    assert "Possibly a shortcut" not in write(tmp_path, None)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mine.csv", "report.md"]
