"""Tables from rows whose means are known, whatever the order of the rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit import common
from dollkit.report import contrasts, curve_figures, render, results, tables
from dollkit.report.rows import TASKS, Rows, in_order
from tests import synthetic_run as synthetic
from tests.small_files import error_of


@pytest.fixture(scope="module")
def whole() -> Rows:
    return synthetic.rows()


@pytest.fixture(scope="module")
def given(whole: Rows) -> Rows:
    """Forty patients, three tasks, five arms."""
    cases = synthetic.segmentation_cases()
    paces = synthetic.learning_curves(cases)
    return replace(whole, cases=cases, curves=paces, runs=synthetic.run_rows(paces))


def test_table1_means_intervals_and_missing_arms(given: Rows) -> None:
    made = tables.table1(given, "laptop")
    table = made.frame
    always = [a for a in common.ARMS if a not in common.OPTIONAL]
    every = [(task, arm) for task in TASKS for arm in always]
    assert list(zip(table["task"], table["arm"], strict=True)) == every
    cell = table.set_index(["task", "arm"])
    part = given.cases.query("task == 'organs' and arm == 'doll' and tuning == 'full'")
    mean = part.groupby(["seed", "class"])["iou"].mean().groupby("seed").mean()
    doll = cell.loc[("organs", "doll")]
    assert doll["miou"] == pytest.approx(mean.mean(), abs=1e-12)
    assert doll["miou_sd_seeds"] == pytest.approx(mean.std(), abs=1e-12)
    assert (doll["n_cases"], doll["n_seeds"], doll["lr"]) == (40, 3, "0.01")
    assert (table["miou_lo"] < table["miou"])[table["status"] == "run"].all()
    assert cell.loc[("lungs", "imagenet"), "status"] == "not run: no weights"
    assert pd.isna(cell.loc[("lungs", "imagenet"), "miou"])
    for words in ("profile laptop", "3 seeds", "40 test films", "PSPNet", "16 training films"):
        assert words in made.caption


def test_interval_of_table1_is_the_bootstrap_of_patients() -> None:
    # 1.96 standard errors over patients, to bootstrap accuracy; films alone would be narrower.
    cases = synthetic.segmentation_cases(
        {"doll": 0.0}, tasks=["lungs"], tunings={"full": 1.0}, patients=200, films=3, seeds=2
    )
    line = tables.summarise(cases).iloc[0]
    half = 1.96 * cases.groupby("patient_id")["iou"].mean().std() / np.sqrt(200)
    assert line["miou_hi"] - line["miou"] == pytest.approx(half, rel=0.08)
    assert (line["n_cases"], line["n_patients"]) == (600, 200)
    cases.loc[0, "iou"] += 0.1
    assert tables.summarise(cases)["miou"].iloc[0] > line["miou"] + 1e-6


def test_permuted_rows_give_identical_tables(whole: Rows, tmp_path: Path) -> None:
    mixed = {
        name: frame.sample(frac=1, random_state=1)
        for name, frame in vars(whole).items()
        if isinstance(frame, pd.DataFrame) and name != "ablation"
    }
    other = Rows(**mixed, ablation=whole.ablation, not_run=whole.not_run)
    for name, found in (("a", whole), ("b", other)):
        for stem, table in results.tables_of(found, "p").items():
            table.save(tmp_path / name / stem)
    files = sorted((tmp_path / "a").iterdir())
    assert len(files) == 15
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_table2_shares_and_steps(given: Rows) -> None:
    cell = tables.table2(given, "p").frame.set_index(["task", "tuning", "arm"])
    sizes = cell.loc[("lungs", "adapter", "doll"), ["trainable_share", "checkpoint_mb"]].tolist()
    assert sizes == pytest.approx([0.35 / 10.35, 1.4])
    # Doll's time constant is half of random's.
    random, doll = (cell.loc[("organs", "full", a), "steps_own"] for a in ("random", "doll"))
    assert random / doll == pytest.approx(2.0, rel=0.1)
    assert cell.loc[("organs", "full", "doll"), "reached"] == "3/3"


def test_every_tuning_has_its_place() -> None:
    order = ["full", "head", "adapter", "adapter8", "adapter16", "lora", "lora16", "bn", "bias"]
    shuffled = pd.DataFrame({"tuning": order[::-1]})
    assert in_order(shuffled, "tuning")["tuning"].tolist() == order
    assert set(common.TUNINGS) == set(curve_figures.TUNING_TITLES)


def test_table3_deltas_are_paired() -> None:
    labels = synthetic.label_cases()
    table = tables.table3(labels, "p").frame
    cell = table.set_index(["factor", "value"])
    assert table["factor"].iloc[0] == "shipped"
    assert pd.isna(table["delta"].iloc[0])
    assert cell.loc[("classifiers", "any 1 of 3"), "delta"] == pytest.approx(-0.03, abs=0.005)
    assert cell.loc[("classifiers", "any 2 of 3"), "delta"] == pytest.approx(-0.015, abs=0.005)
    assert cell.loc[("explainer", "gradcam"), "delta_hi"] < 0
    assert cell.loc[("steps", "4"), "n"] == 780
    assert not table.duplicated(["factor", "value"]).any()
    assert "'shipped'" in error_of(tables.table3, labels[labels["variant"] != "shipped"], "p")


def test_first_reach_interpolates_and_never_takes_no_step() -> None:
    curve = np.array([[0, 0, 0.0], [10, 1, 0.5], [20, 2, 0.9]])
    assert contrasts.first_reach(curve, 0.7) == pytest.approx((15.0, 1.5))
    assert contrasts.first_reach(curve, 0.0) == (10.0, 1.0)
    assert np.isnan(contrasts.first_reach(curve, 0.95)[0])
    assert contrasts.area(curve, 0, 20) == pytest.approx((0.25 * 10 + 0.7 * 10) / 20)
    assert np.isnan(contrasts.area(curve, 5, 5))


def test_paired_speed_uses_a_target_that_both_reach() -> None:
    steps = np.arange(0, 101, 10)
    base = {"tuning": "full", "seed": 0, "fold": 0, "step": steps, "seconds": steps}
    # Random is flat and bad, yet at 95 % of its own best from the start.
    heights = {"doll": steps / 100, "random": np.minimum(steps / 50, 0.4)}
    both = [pd.DataFrame({"arm": arm, "val_miou": y} | base) for arm, y in heights.items()]
    pair = contrasts.paired_speed(pd.concat(both), "doll", "random").iloc[0]
    assert pair["target"] == pytest.approx(0.38)
    assert (pair["steps"], pair["steps_control"]) == pytest.approx((38.0, 19.0))
    assert pair["log_ratio"] == pytest.approx(-np.log(2))


def level_rows(miou: dict[tuple[str, int], float]) -> pd.DataFrame:
    """Per-case rows whose mIoU is as given, in every seed and film alike but for a shared wave."""
    where = {"task": "lungs", "network": "pspnet", "tuning": "full", "fold": 0, "class": "lung"}
    return pd.DataFrame(
        where
        | {"arm": arm, "n_train": n, "seed": seed, "image_id": f"f{film}", "patient_id": f"p{film}"}
        | {"iou": level + 0.01 * (film - 2.5) + 0.001 * (seed - 1), "dice": level}
        for ((arm, n), level), seed, film in product(miou.items(), range(3), range(6))
    )


CURVE = {("random", 4): 0.5, ("random", 16): 0.7, ("doll", 4): 0.6, ("doll", 16): 0.75}


def test_label_efficiency_differences_and_masks_needed() -> None:
    made = tables.table_sizes(level_rows(CURVE | {("truth", 4): 0.9}), "toy")
    table = made.frame
    assert table["n_train"].tolist() == [4, 16]
    np.testing.assert_allclose(table["miou"], [0.6, 0.75])
    np.testing.assert_allclose(table["random"], [0.1, 0.05])
    assert table["imagenet"].isna().all()
    # Half of the way from 4 to 16 is 8, on a logarithmic axis.
    assert table["masks"].tolist() == ["8", "> 16"]
    assert "3 seeds, 6 test films" in made.caption
    one = level_rows({("random", 4): 0.5, ("doll", 4): 0.6})
    assert tables.table_sizes(one, "toy").frame.empty
    assert "one training size only" in error_of(curve_figures.figure5, one, profile="toy")


def test_what_each_ingredient_gives() -> None:
    level = {"random": 0.4, "imagenet": 0.5, "classifier": 0.6, "doll_random": 0.5, "doll": 0.65}
    rows = level_rows({(arm, 8): miou for arm, miou in (level | {"shuffled": 0.62}).items()})
    record = pd.DataFrame({"arm": ["doll"], "start": ["classifier"]})
    table = tables.table_starts(rows, record, "toy").frame.set_index("start")
    assert list(table.index) == ["random", "classifier"]  # ImageNet has no DoLL of its own here
    np.testing.assert_allclose(table["gain"], [0.1, 0.05])
    np.testing.assert_allclose(table[["alone", "with_doll"]], [[0.4, 0.5], [0.6, 0.65]])
    assert table["diagnosis"].isna().tolist() == [True, False]
    assert table.loc["classifier", "diagnosis"] == pytest.approx(0.03)
    for fewer, begun in ((rows[rows["arm"] != "doll_random"], "classifier"), (rows, "random")):
        assert tables.table_starts(fewer, record.assign(start=begun), "toy").frame.empty


def test_masks_needed_beyond_the_curve() -> None:
    sizes, curve = np.array([4.0, 8.0, 16.0]), np.array([0.5, np.nan, 0.7])
    wanted = {0.6: "8", 0.4: "< 4", 0.7: "16", 0.71: "> 16"}
    assert {t: tables.masks_needed(sizes, curve, t) for t in wanted} == wanted
    assert tables.masks_needed(sizes, np.full(3, np.nan), 0.5) == ""


def test_rates_at_the_edge_of_their_grid_are_told() -> None:
    def tried(arm: str, chosen: float, grid: tuple[float, ...] = (0.1, 0.2, 0.4)) -> pd.DataFrame:
        where = {"task": "lungs", "network": "pspnet", "n_train": 4, "tuning": "full", "arm": arm}
        return pd.DataFrame({**where, "fold": 0, "lr": r, "selected": r == chosen} for r in grid)

    inside = [tried("doll", 0.2), tried("truth", 0.1, (0.1,))]
    assert tables.at_the_edge(pd.concat(inside)) == []
    beyond = [tried("random", 0.4), tried("classifier", 0.1)]
    low, high = tables.at_the_edge(pd.concat([*inside, *beyond]))
    assert low.startswith("Chosen rate is the lowest")
    assert low.endswith(": lungs full/classifier.")
    assert high.endswith(": lungs full/random.")


def test_latex_is_escaped_once_and_balanced() -> None:
    nasty = "50% & $x_1$ #{a}~^\\ <b>"
    assert render.escape_tex(nasty) == (
        r"50\% \& \$x\_1\$ \#\{a\}\textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}b\textgreater{}"
    )
    lines = render.latex(pd.DataFrame({"a_b": [nasty, "y"], "c": ["1", "2"]})).splitlines()
    assert r"a\_b & c \\" in lines
    assert (lines[1], lines[-2]) == (r"\toprule", r"\bottomrule")
    # Two cells per row: exactly one alignment mark that is not escaped.
    rows = [line for line in lines if line.endswith(r"\\")]
    assert all(row.replace(r"\&", "").count("&") == 1 for row in rows)


def test_cells_as_they_are_printed() -> None:
    frame = pd.DataFrame({"x": [0.5, np.nan], "x_lo": [0.4, np.nan], "x_hi": [0.61234, np.nan]})
    shown = render.display(frame.assign(n=[3, 4], t=["a|b", ""], p=[3e-7, 0.0432]))
    assert shown["x"].tolist() == ["0.500 [0.400, 0.612]", "–"]
    assert shown["p"].tolist() == ["<0.0001", "0.043"]
    assert list(shown.columns) == ["x", "n", "t", "p"]
    assert r"a\|b" in render.markdown(shown)


def test_reference_numbers_stay_in_their_own_block(tmp_path: Path) -> None:
    head = "task,class,metric,value,source,arxiv,population,tag\n"
    path, lungs = tmp_path / "jsrt.csv", "lungs,lungs,IoU,.9,x,1,X,C\n"
    path.write_text(f"{head}organs,heart,IoU,.878,second observer,,JSRT,M\n{lungs}")
    (tmp_path / "auc.csv").write_text("finding,value\nEdema,.9\n")
    published = tables.load_reference(["organs"], tmp_path)
    assert published["value"].tolist() == [".878"]
    frame = pd.DataFrame({"a": [1]})
    made = render.Table(frame, "c", reference=published).save(tmp_path / "t")
    assert ["second observer" in p.read_text() for p in made] == [False, True, True, True]
    render.Table(frame, "c").save(tmp_path / "t")
    assert not (tmp_path / "t_reference.csv").exists()
    path.write_text(head + "organs,h,IoU,.8,,,,C\n")
    assert "row 2 has no source" in error_of(tables.load_reference, ["organs"], tmp_path)
    assert "no *.csv" in error_of(tables.load_reference, ["organs"], tmp_path / "nowhere")
