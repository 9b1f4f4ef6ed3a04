"""What labels are worth downstream: the second part of Table 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.common.errors import InputError
from dollkit.common.statistics import crossed_effect
from dollkit.report import label_tables
from dollkit.report.contrasts import aligned
from dollkit.report.rows import write_csv
from tests import synthetic_run as synthetic

GAIN = {arm: synthetic.GAIN[arm] for arm in ("random", "doll", "shuffled", "truth")}


def test_each_labelled_arm_has_its_labels_its_network_and_its_distance() -> None:
    cases = synthetic.segmentation_cases(GAIN, tasks=["lungs", "organs"], patients=8)
    taught = synthetic.pretraining_rows()
    frame = label_tables.table(taught, cases)
    assert frame["arm"].tolist() == ["doll", "shuffled", "truth"] * 2
    assert frame["task"].tolist() == ["lungs"] * 3 + ["organs"] * 3
    cell = frame.set_index(["task", "arm"])
    for task in ("lungs", "organs"):
        assert cell.loc[(task, "shuffled"), "label_iou"] == 0.11
        assert cell.loc[(task, "truth"), "true_iou"] == 0.52
        full = cases[(cases["task"] == task) & (cases["tuning"] == "full")]
        _, (a, b), _ = aligned([full[full["arm"] == k] for k in ("doll", "shuffled")])
        gap = cell.loc[(task, "shuffled"), "gap"]
        assert gap == pytest.approx(crossed_effect(a - b).estimate)
        assert gap == pytest.approx(GAIN["doll"] - GAIN["shuffled"], abs=0.02)
        assert cell.loc[(task, "truth"), "gap_hi"] < 0
    assert frame.loc[frame["arm"] == "doll", "gap"].isna().all()


def test_arms_that_were_only_pre_trained_or_only_tuned_have_no_row() -> None:
    cases = synthetic.segmentation_cases({"doll": 0.1, "prior": 0.0}, tasks=["lungs"], patients=4)
    frame = label_tables.table(synthetic.pretraining_rows(), cases)
    assert frame["arm"].tolist() == ["doll"]
    assert label_tables.table(synthetic.pretraining_rows().iloc[:0], cases).empty


def test_rows_are_read_from_the_stages_and_may_be_lacking(tmp_path: Path) -> None:
    assert label_tables.load(tmp_path).empty
    rows = synthetic.pretraining_rows()
    for i, arm in enumerate(rows["arm"]):
        write_csv(rows.iloc[[i]], tmp_path / "pretrain" / f"pspnet-{arm}" / "pretraining.csv")
    found = label_tables.load(tmp_path, {"pretrain/pspnet-doll", "pretrain/pspnet-truth"})
    assert found["arm"].tolist() == ["doll", "truth"]
    path = tmp_path / "pretrain" / "pspnet-doll" / "pretraining.csv"
    path.write_text(path.read_text().replace("0.44", "1.44"))
    with pytest.raises(InputError, match=r"label_iou.* is 1\.44, outside"):
        label_tables.load(tmp_path)


def test_the_table_names_its_profile_seeds_and_films(tmp_path: Path) -> None:
    cases = synthetic.segmentation_cases(GAIN, tasks=["lungs"], patients=8)
    frame = label_tables.table(synthetic.pretraining_rows(), cases)
    label_tables.write(frame, tmp_path, profile="some")
    text = (tmp_path / "table3_arms.md").read_text()
    assert "(profile some)" in text
    assert "3 seeds, 8 test films" in text
    assert "| lungs | shuffled | 0.110 | 0.190 |" in text
