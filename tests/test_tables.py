"""Tables from rows whose means are known, whatever the order of the rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import arm_names
from dollkit.common.errors import InputError
from dollkit.report import convergence, render, rows, tables
from dollkit.report.curves import TUNING_TITLES
from dollkit.training import adapters
from tests import synthetic_run as synthetic


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_run(tmp_path_factory.mktemp("run"))


def _small() -> pd.DataFrame:
    """Two films, two classes, one empty/empty: mIoU = (mean(1, .5) + mean(.25)) / 2 = .5."""
    frame = synthetic.segmentation_cases(
        {"doll": 0.0}, tasks=["organs"], tunings={"full": 1.0}, patients=2, seeds=1
    )
    frame = frame[frame["class"] != "heart"].reset_index(drop=True)
    frame[["tp", "fp", "fn"]] = [[4, 0, 0], [1, 3, 0], [2, 1, 1], [0, 0, 0]]
    frame["iou"] = [1.0, 0.25, 0.5, np.nan]
    frame["dice"] = [1.0, 0.4, 2 / 3, np.nan]
    return frame


def test_miou_by_hand_with_an_empty_case() -> None:
    frame = rows.check_cases(_small())
    assert rows.miou(frame) == pytest.approx(0.5, abs=1e-12)
    assert rows.miou(frame, "dice") == pytest.approx((5 / 6 + 0.4) / 2, abs=1e-12)
    assert np.isnan(rows.miou(frame.iloc[:0]))


def test_one_film_with_only_one_side_empty_counts_zero() -> None:
    frame = _small()
    frame.loc[3, ["fp", "iou", "dice"]] = [5, 0.0, 0.0]
    assert rows.miou(rows.check_cases(frame)) == pytest.approx((0.75 + 0.125) / 2, abs=1e-12)


def test_case_means_average_the_defined_classes() -> None:
    means = rows.case_means(_small()).set_index("patient_id")["iou"]
    assert means.loc["00000"] == pytest.approx(0.625)
    assert means.loc["00001"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(iou=f["iou"] * 0.9), "does not follow from its tp, fp, fn"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "two rows for task=organs"),
    ],
)
def test_wrong_rows_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        rows.check_cases(change(_small()))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("arm", "dol", "column 'arm' holds 'dol'"),
        ("iou", 1.5, "row 2, column 'iou' is 1.5"),
        ("tp", "many", "column 'tp' holds text"),
    ],
)
def test_wrong_values_name_file_and_column(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    frame = _small().astype({column: object})
    frame.loc[0, column] = value
    path = tmp_path / "finetune" / "organs" / "cases.csv.gz"
    rows.write_csv(frame, path)
    with pytest.raises(InputError, match=message) as caught:
        rows.load_cases(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_column_file_and_broken_gzip_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "finetune" / "organs" / "cases.csv.gz"
    with pytest.raises(InputError, match=r"no \*/cases.csv.gz"):
        rows.load_cases(tmp_path)
    rows.write_csv(_small().drop(columns="fold"), path)
    with pytest.raises(InputError, match="column 'fold' is missing"):
        rows.load_cases(tmp_path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read"):
        rows.load_cases(tmp_path)


def test_rows_survive_writing_with_fixed_bytes(tmp_path: Path) -> None:
    frame = _small()
    for name in ("a.csv.gz", "b.csv.gz"):
        rows.write_csv(frame, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"task,network,arm,")
    back = rows.read_table(tmp_path / "a.csv.gz", rows.CASE_COLUMNS)
    assert back["patient_id"].tolist() == ["00000", "00000", "00001", "00001"]
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, rtol=1e-5)


def test_table1_means_intervals_and_missing_arms(run: Path) -> None:
    cases = rows.load_cases(run)
    table = tables.table1(cases, rows.load_runs(run), rows.load_not_run(run))
    always = [a for a in arm_names.ARMS if a not in arm_names.OPTIONAL]
    assert len(table) == len(rows.TASKS) * len(always)
    assert table["task"].drop_duplicates().tolist() == list(rows.TASKS)
    assert table["arm"].tolist()[: len(always)] == always
    cell = table.set_index(["task", "arm"])
    part = cases.query("task == 'organs' and arm == 'doll' and tuning == 'full'")
    mean = part.groupby(["seed", "class"])["iou"].mean().groupby("seed").mean()
    assert cell.loc[("organs", "doll"), "miou"] == pytest.approx(mean.mean(), abs=1e-12)
    assert cell.loc[("organs", "doll"), "miou_sd_seeds"] == pytest.approx(mean.std(), abs=1e-12)
    assert (table["miou_lo"] < table["miou"])[table["status"] == "run"].all()
    assert cell.loc[("lungs", "imagenet"), "status"] == "not run: no weights"
    assert pd.isna(cell.loc[("lungs", "imagenet"), "miou"])
    assert "phantom only" in str(cell.loc[("lungs", "truth"), "status"])
    assert cell.loc[("lungs", "doll"), "n_cases"] == 40
    assert cell.loc[("lungs", "doll"), "n_seeds"] == 3
    assert cell.loc[("lungs", "doll"), "lr"] == "0.01"


def test_interval_of_table1_is_the_bootstrap_of_patients(run: Path) -> None:
    # 1.96 standard errors over patients, to bootstrap accuracy; films alone would be narrower.
    cases = synthetic.segmentation_cases(
        {"doll": 0.0}, tasks=["lungs"], tunings={"full": 1.0}, patients=200, films=3, seeds=2
    )
    line = tables.summarise(cases).iloc[0]
    per_patient = cases.groupby("patient_id")["iou"].mean()
    half = 1.96 * per_patient.std() / np.sqrt(200)
    assert line["miou_hi"] - line["miou"] == pytest.approx(half, rel=0.08)
    assert line["n_cases"] == 600
    assert line["n_patients"] == 200


def test_permuted_rows_give_identical_tables(run: Path, tmp_path: Path) -> None:
    cases, runs = rows.load_cases(run), rows.load_runs(run)
    curves, labels = rows.load_curves(run), rows.load_label_cases(run)
    for name, shuffle in (("a", False), ("b", True)):
        args = [
            f.sample(frac=1, random_state=1) if shuffle else f
            for f in (cases, runs, curves, labels)
        ]
        for number, frame in enumerate(
            (tables.table1(*args[:2]), tables.table2(*args[:3]), tables.table3(args[3])), 1
        ):
            tables.write_table(frame, tmp_path / name / f"table{number}", "x")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_changed_row_changes_the_table(run: Path) -> None:
    cases = rows.load_cases(run)
    before = tables.summarise(cases)
    cases.loc[0, "iou"] += 0.1
    after = tables.summarise(cases)
    assert not np.allclose(before["miou"], after["miou"], rtol=0, atol=1e-6)


def test_table2_shares_and_steps(run: Path) -> None:
    table = tables.table2(rows.load_cases(run), rows.load_runs(run), rows.load_curves(run))
    cell = table.set_index(["task", "tuning", "arm"])
    assert cell.loc[("lungs", "adapter", "doll"), "trainable_share"] == pytest.approx(0.35 / 10.35)
    assert cell.loc[("lungs", "adapter", "doll"), "checkpoint_mb"] == pytest.approx(1.4)
    # Doll's time constant is half of random's.
    ratio = (
        cell.loc[("organs", "full", "random"), "steps_own"]
        / cell.loc[("organs", "full", "doll"), "steps_own"]
    )
    assert ratio == pytest.approx(2.0, rel=0.1)
    assert cell.loc[("organs", "full", "doll"), "reached"] == "3/3"


def test_table2_shows_every_tuning() -> None:
    kept = dict.fromkeys(reversed(adapters.TUNINGS), 1.0)
    cases = synthetic.segmentation_cases(
        {"random": 0.0, "doll": 0.1}, tasks=["lungs"], tunings=kept, patients=5
    )
    curves = synthetic.learning_curves(cases)
    table = tables.table2(cases, synthetic.run_rows(curves), curves)
    assert set(table["tuning"].unique()) == set(adapters.TUNINGS)
    assert table["tuning"].tolist()[0] == "full"
    assert table["trainable_share"].notna().all()
    assert set(rows.TUNINGS) == set(adapters.TUNINGS) == set(TUNING_TITLES)


def test_table3_deltas_are_paired(run: Path) -> None:
    table = tables.table3(rows.load_label_cases(run), rows.load_ablation(run))
    cell = table.set_index(["factor", "value"])
    assert table["factor"].iloc[0] == "shipped"
    assert pd.isna(table["delta"].iloc[0])
    assert cell.loc[("classifiers", "any 1 of 3"), "delta"] == pytest.approx(-0.03, abs=0.005)
    assert cell.loc[("classifiers", "any 2 of 3"), "delta"] == pytest.approx(-0.015, abs=0.005)
    assert cell.loc[("explainer", "gradcam"), "delta_hi"] < 0
    assert cell.loc[("steps", "4"), "n"] == 780
    # Without per-case rows there is a difference, but no interval of it.
    assert cell.loc[("baseline", "blur"), "delta"] < 0
    assert pd.isna(cell.loc[("baseline", "blur"), "delta_lo"])
    assert table.duplicated(["factor", "value"]).sum() == 0


def test_table3_without_shipped_labels_is_refused(run: Path) -> None:
    labels = rows.load_label_cases(run)
    with pytest.raises(InputError, match="'shipped'"):
        tables.table3(labels[labels["variant"] != "shipped"])


def test_first_reach_interpolates_and_never_takes_no_step() -> None:
    curve = np.array([[0, 0, 0.0], [10, 1, 0.5], [20, 2, 0.9]])
    assert convergence.first_reach(curve, 0.7) == pytest.approx((15.0, 1.5))
    assert convergence.first_reach(curve, 0.0) == (10.0, 1.0)
    assert np.isnan(convergence.first_reach(curve, 0.95)[0])
    assert convergence.area(curve, 0, 20) == pytest.approx((0.25 * 10 + 0.7 * 10) / 20)
    assert np.isnan(convergence.area(curve, 5, 5))


def test_paired_speed_uses_a_target_that_both_reach() -> None:
    steps = np.arange(0, 101, 10)
    base = {"tuning": "full", "seed": 0, "fold": 0, "step": steps, "seconds": steps}
    curves = pd.concat(
        [
            pd.DataFrame({"arm": "doll", "val_miou": steps / 100} | base),
            # Flat and bad, yet at 95 % of its own best from the start.
            pd.DataFrame({"arm": "random", "val_miou": np.minimum(steps / 50, 0.4)} | base),
        ]
    )
    pair = convergence.paired_speed(curves, "doll", "random").iloc[0]
    assert pair["target"] == pytest.approx(0.38)
    assert (pair["steps"], pair["steps_control"]) == pytest.approx((38.0, 19.0))
    assert pair["log_ratio"] == pytest.approx(-np.log(2))


def test_latex_is_escaped_once_and_balanced() -> None:
    nasty = "50% & $x_1$ #{a}~^\\ <b>"
    escaped = render.escape_tex(nasty)
    assert escaped == (
        r"50\% \& \$x\_1\$ \#\{a\}\textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}b\textgreater{}"
    )
    table = render.latex(pd.DataFrame({"a_b": [nasty, "y"], "c": ["1", "2"]}))
    assert r"a\_b & c \\" in table
    lines = table.splitlines()
    assert lines[1] == r"\toprule"
    assert lines[-2] == r"\bottomrule"
    # Two cells per row: exactly one alignment mark that is not escaped.
    assert all(
        line.replace(r"\&", "").count("&") == 1 for line in lines if line.endswith(r"\\")
    )  # fmt: skip


def test_markdown_cells_keep_to_themselves() -> None:
    frame = pd.DataFrame({"x": [0.5, np.nan], "x_lo": [0.4, np.nan], "x_hi": [0.61234, np.nan]})
    shown = render.display(frame.assign(n=[3, 4], t=["a|b", ""]))
    assert shown["x"].tolist() == ["0.500 [0.400, 0.612]", "–"]
    assert list(shown.columns) == ["x", "n", "t"]
    assert r"a\|b" in render.markdown(shown)


def test_reference_numbers_stay_in_their_own_block(run: Path, tmp_path: Path) -> None:
    (tmp_path / "jsrt.csv").write_text(
        "task,class,metric,value,source,arxiv,population,tag\n"
        "organs,heart,IoU,.878,second observer,,JSRT,M\nlungs,lungs,IoU,.9,other,1,X,C\n"
    )
    (tmp_path / "auc.csv").write_text("finding,value\nEdema,.9\n")
    published = tables.load_reference(["organs"], tmp_path)
    assert published["value"].tolist() == [".878"]
    table = tables.table1(rows.load_cases(run), rows.load_runs(run))
    paths = tables.write_table(table, tmp_path / "table1", "c", reference=published)
    assert "second observer" not in paths[0].read_text()
    assert "second observer" in paths[1].read_text()
    assert "second observer" in paths[2].read_text()
    tables.write_table(table, tmp_path / "table1", "c")
    assert not (tmp_path / "table1_reference.csv").exists()


def test_reference_without_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("task,class,metric,value,source,arxiv,population,tag\norgans,h,IoU,.8,,,,C\n")
    with pytest.raises(InputError, match="row 2 has no source"):
        tables.load_reference(["organs"], tmp_path)
    with pytest.raises(InputError, match=r"no \*.csv"):
        tables.load_reference(["organs"], tmp_path / "nowhere")


def test_captions_name_profile_n_and_seeds(run: Path) -> None:
    table = tables.table1(rows.load_cases(run), rows.load_runs(run))
    text = tables.caption(1, table, "laptop")
    for part in ("profile laptop", "3 seeds", "40 test films", "PSPNet", "16 training films"):
        assert part in text
    with pytest.raises(InputError, match="use 1, 2 or 3"):
        tables.caption(4, table, "laptop")


def test_rows_are_copied_for_the_report(run: Path, tmp_path: Path) -> None:
    paths = rows.write_rows(run, tmp_path)
    names = {"classifiers.csv", "labels.csv", "cases.csv.gz", "selection.csv"}
    assert {p.name for p in paths} >= names
    # What has left the profile is passed over, though its folder is there.
    kept = {"finetune/lungs", "finetune/organs"}
    assert set(rows.load_cases(run, kept)["task"]) == {"lungs", "organs"}
    assert set(rows.load_selection(run, kept)["task"]) == {"lungs", "organs"}
    again = rows.check_cases(rows.read_table(tmp_path / "cases.csv.gz", rows.CASE_COLUMNS))
    pd.testing.assert_frame_equal(again, rows.load_cases(run))


def test_p_values_are_printed_as_such_in_every_table() -> None:
    shown = render.display(pd.DataFrame({"p": [3e-7, 0.0432, np.nan], "p_holm": [1.0, 0.5, 1e-4]}))
    assert shown["p"].tolist() == ["<0.0001", "0.043", "–"]
    assert shown["p holm"].tolist() == ["1", "0.5", "0.0001"]
